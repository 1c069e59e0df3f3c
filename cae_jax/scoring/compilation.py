"""What JAX has on this machine: devices to compute on, a folder in which compiled programs are
kept, so that a second start compiles nothing, and the width of its numbers."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax

from cae_jax.types import UsageError

_OURS = ("cae_jax", "xla")
_MOST = 2**31  # bytes of our own folder: of more, the programs used the longest ago go
_ROOM = 2**25  # bytes: a folder with less room is as good as full
_LEAST = "jax_persistent_cache_min_compile_time_secs"
_NOWHERE = ""  # JAX keeps nothing there
# JAX's own words for an entry, several lines for each program.
_WORDS = "Error (reading|writing) persistent compilation cache entry"


def check_devices() -> None:
    """Raises UsageError where JAX finds no device to compute on, or not the one that is asked for
    by JAX_PLATFORMS or JAX_DEFAULT_DEVICE."""
    name = "JAX_PLATFORMS"
    try:
        jax.devices()
        name, one = "JAX_DEFAULT_DEVICE", jax.config.values["jax_default_device"]
        if isinstance(one, str):
            jax.devices(one)
    except (RuntimeError, AssertionError) as error:  # an empty one, of cuda without its plugin
        cause = (str(error).strip() or "there is none").splitlines()[0]
        raise UsageError(
            f"{name}={os.environ.get(name, '')}: JAX cannot compute on that here ({cause}); unset "
            f"it, or name what is there, {name}=cpu"
        ) from error


@contextlib.contextmanager
def in_32_bits() -> Iterator[None]:
    """JAX's numbers have 32 bits in the body, whatever JAX_ENABLE_X64 says: all here is written for
    that. Outside it, and in other threads, nothing changes."""
    with jax.enable_x64(False):
        yield


def use_cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless another one is set already, by
    JAX_COMPILATION_CACHE_DIR or in Python.

    A folder that cannot be had or is full is no reason to fail: it is said, once. Our own is cut
    to 2 GiB here.
    """
    now = jax.config.values["jax_compilation_cache_dir"]
    if now == _NOWHERE or not jax.config.values["jax_enable_compilation_cache"]:
        return
    if "://" in (now or ""):  # a bucket, which JAX reaches by itself
        return
    ours = now is None or Path(now).parts[-2:] == _OURS
    folder = _folder() if ours else Path(now)
    # JAX knows a program by its folder's name, too: one name from wherever it is started
    folder = folder and Path(os.path.abspath(os.path.expanduser(folder)))
    if folder is None:
        _say("no home folder; JAX_COMPILATION_CACHE_DIR=FOLDER names another")
    elif fault := _fault(folder):
        _say(f"{folder}: {fault}; JAX_COMPILATION_CACHE_DIR=FOLDER names another")
    if folder is None or not folder.is_dir():
        jax.config.update("jax_compilation_cache_dir", _NOWHERE)
        return
    warnings.filterwarnings("ignore", _WORDS)
    if now != str(folder):
        jax.config.update("jax_compilation_cache_dir", str(folder))
    if ours:
        _prune(folder)
    if ours or ("JAX_COMPILATION_CACHE_DIR" in os.environ and _LEAST.upper() not in os.environ):
        jax.config.update(_LEAST, 0.0)  # small ones are many; JAX keeps those of a second and more


def _folder() -> Path | None:
    """Our own folder; None where there is no home to have it in."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without an entry, as in many a container
        return None
    return Path(base, *_OURS)


def _fault(folder: Path) -> str:
    """Why nothing can be written to a folder, which is made; "" where it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")
            file.flush()
        room = shutil.disk_usage(folder).free
    except OSError as error:
        return error.strerror or str(error)
    return "" if room >= _ROOM else f"only {room / 1e6:.0f} MB of room"


@functools.cache
def _say(why: str) -> None:
    """Once, however often a process asks for the cache."""
    print(
        f"warning: new compiled programs are not kept, a later start compiles them again: {why}",
        file=sys.stderr,
        flush=True,
    )


def _prune(folder: Path) -> None:
    """Takes away the programs used the longest ago until the rest is no more than _MOST bytes."""
    found = []
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):  # another process took it away
                about = entry.stat()
                found.append((max(about.st_atime, about.st_mtime), about.st_size, entry.path))
    size = sum(each for _, each, _ in found)
    for _, each, path in sorted(found):
        if size <= _MOST:
            return
        with contextlib.suppress(OSError):
            os.unlink(path)
            size -= each
