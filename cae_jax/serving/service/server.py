"""The process: what its flags mean, the socket, uvicorn, signals."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from cae_jax.runs.machine.progress import say
from cae_jax.serving.service.models import Models
from cae_jax.serving.service.options import LOOPBACK, Options
from cae_jax.types import CaeError, DataError, UsageError

if TYPE_CHECKING:  # whose packages who only watches a folder need not have
    from fastapi import FastAPI

_SHORTEST = 16  # characters of a token


def token(path: str) -> str:
    """Returns the token in a file; raises UsageError for a short one, or one with spaces."""
    try:
        found = Path(os.path.expanduser(path)).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--token_file={path}: cannot be read: {error}") from error
    if len(found) < _SHORTEST or not found.isprintable() or set(found) & set(' ",;\\'):
        raise UsageError(
            f"--token_file={path}: must hold at least {_SHORTEST} letters or digits, as of "
            "`openssl rand -hex 16`"
        )
    return found


def hosts(host: str, secret: str) -> frozenset[str]:
    """Returns the names that requests may call the server by, any if empty.

    With a token any will do: a proxy in front passes on the name that browsers know it by, and a
    page that took on a name of this machine would have no token. Raises UsageError for a `host`
    that others can reach without one.
    """
    if secret:
        return frozenset()
    if not is_loopback(host):
        raise UsageError(
            f"--host={host}: others can reach this address, so --token_file=FILE is needed"
        )
    return LOOPBACK | {host.lower()}


def is_loopback(host: str) -> bool:
    """Returns whether only this machine can reach an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket at the address; raises UsageError where it cannot be had."""
    try:
        kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(kind, socket.SOCK_STREAM)
        try:
            if not hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows: it would share the port
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(2048)  # at once, so that an address that is taken is told here
        except OSError:
            found.close()
            raise
    except OSError as error:
        raise UsageError(f"--host={host} --port={port}: {error.strerror}") from error
    return found


def run(app: FastAPI, models: Models, options: Options, at: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT, then finishes every request that was begun.

    Raises CaeError for a model that cannot be loaded at the start.
    """
    import uvicorn

    from cae_jax.serving.service.connection import protocol

    config = uvicorn.Config(
        app,
        http=protocol(options.timeout),
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=100,  # above all: what there is to say is said below
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(2 * options.timeout)),
    )
    server = uvicorn.Server(config)
    failures: list[CaeError] = []

    def failed(error: CaeError) -> None:
        failures.append(error)
        server.should_exit = True

    def stopping(number: int, _: object) -> None:
        """Before uvicorn has its own handlers; it calls this one after its end, to no effect."""
        server.should_exit = True

    before = {each: signal.signal(each, stopping) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        host, port = at.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        names = ", ".join(models.names)
        say(f"serving {names} at http://{shown}:{port} (routes: http://{shown}:{port}/docs)")
        models.start(failed)
        server.run(sockets=[at])
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    if failures:
        raise failures[0]
    models.close()
    say("stopped")


def folders(given: list[str]) -> dict[str, Path]:
    """Returns the folders of --model=DIR or NAME=DIR by name; a name is the folder's if not given.

    Raises UsageError for no model, a name that is given twice or cannot stand in a path, and
    DataError for a folder that there is not.
    """
    found: dict[str, Path] = {}
    for each in given:
        name, equals, path = each.partition("=")
        folder = Path(os.path.expanduser(path if equals else each))
        name = name if equals else folder.resolve().name
        if not name or not name.isprintable() or set(name) & set("/\\?#% "):
            raise UsageError(f"--model={each}: {name!r} is no name for a model: NAME=DIR gives one")
        if name in found:
            raise UsageError(f"--model={each}: there is a model {name!r} already: NAME=DIR")
        if not os.path.isdir(folder):
            raise DataError(f"--model={each}: no such folder: {folder}")
        found[name] = folder
    if not found:
        raise UsageError("--model is needed: the folder of a run, or an exported one")
    return found
