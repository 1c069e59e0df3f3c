"""Whether a compiled program fits into memory, asked before it is run: a system that has none left
ends a process without a word."""

from __future__ import annotations

from typing import Any

import jax

from cae_jax import files
from cae_jax.types import DataError


def check(program: Any, what: str, beside: int = 0) -> None:
    """Raises DataError where a compiled program needs more memory than is free on its device.

    Args:
      program: of `jax.jit(...).lower(...).compile()`.
      what: it does, as the message calls it.
      beside: bytes that are to be there when it is run, and are not yet.
    """
    about = program.memory_analysis()
    if about is None:  # of a device that does not tell
        return
    made = about.output_size_in_bytes - about.alias_size_in_bytes
    needed, room = about.temp_size_in_bytes + made + beside, free()
    if needed > room:
        raise DataError(
            f"{what} needs {needed / 1e9:.3g} GB of memory, {room / 1e9:.3g} GB are free: "
            "a smaller --image_size needs less, or --tile"
        )


def free() -> int:
    """Returns the bytes that are free on the first device."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return files.free_memory()
