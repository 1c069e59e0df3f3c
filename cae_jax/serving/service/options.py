"""What the service allows."""

from __future__ import annotations

import dataclasses

MAX_IMAGES = 16  # of one request
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclasses.dataclass(frozen=True)
class Options:
    """Limits and rights of a service."""

    max_bytes: int = 32_000_000  # of a request's body
    max_pixels: int = 50_000_000  # of an image, by its header
    timeout: float = 30.0  # seconds in which a body must arrive
    max_wait: float = 0.002  # seconds that an image waits for others to be judged with
    queue: int = 256  # images under way at once, of one model
    token: str = ""  # that every request but those for health must bring; "" for none
    hosts: frozenset[str] = frozenset()  # names that requests may call the server by; {} for any

    @property
    def max_held(self) -> int:
        """Bytes of the bodies that are held at once."""
        return 16 * self.max_bytes

    @property
    def max_json(self) -> int:
        """Bytes of JSON that are parsed: as objects they take some twenty times as many."""
        return self.max_bytes // 4
