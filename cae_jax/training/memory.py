"""Whether a compiled program fits into memory, asked before it is run: a system that has none left
ends a process without a word."""

from __future__ import annotations

from typing import Any

import jax

from cae_jax import files
from cae_jax.types import DataError


def check(program: Any, what: str) -> None:
    """Raises DataError where a compiled program needs more memory than is free on its device.

    Args:
      program: of `jax.jit(...).lower(...).compile()`; what it is given is there already.
      what: it does, as the message calls it.
    """
    about = program.memory_analysis()
    if about is None:  # of a device that does not tell
        return
    needed, free = about.temp_size_in_bytes + about.output_size_in_bytes, _free()
    if needed > free:
        raise DataError(
            f"{what} needs {needed / 1e9:.3g} GB of memory, {free / 1e9:.3g} GB are free: "
            "a smaller --image_size needs less, or --tile"
        )


def _free() -> int:
    """Bytes that are free on the first device."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return files.free_memory()
