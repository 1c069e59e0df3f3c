"""Compiled programs are kept on disk, so that a second start compiles nothing."""

from __future__ import annotations

import os
from pathlib import Path

import jax

_OURS = ("cae_jax", "xla")


def use_cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless another is set already: by
    JAX_COMPILATION_CACHE_DIR, or in Python."""
    now = jax.config.values["jax_compilation_cache_dir"]
    if now is None or Path(now).parts[-2:] == _OURS:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(base, *_OURS)))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # small ones are many
