"""What tests with several processes share."""

import socket


def free_port():
    """Returns a port of loopback that nobody listens at."""
    with socket.create_server(("localhost", 0)) as server:
        return server.getsockname()[1]
