"""Presets and methods by name: what a run's flags are before any is given."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cae_jax import methods
from cae_jax.runs import flagfiles
from cae_jax.runs.config import Config, configure
from cae_jax.training.schedule import Training
from cae_jax.types import UsageError, unknown_name

_PLACES = ("cae_jax/presets", "experiments/presets")  # in an installed package, in the repository
_ROOT = Path(__file__).resolve().parents[2]
FOLDER = next((_ROOT / each for each in _PLACES if (_ROOT / each).is_dir()), _ROOT / _PLACES[0])
SUFFIX = ".flags"
_FITS_A_CPU = "# Hardware: two CPU cores"  # in a preset's header


def names() -> tuple[str, ...]:
    """Returns the names of the presets, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}")))


def path(name: str) -> Path:
    """Returns a preset's flagfile; raises UsageError where there is none of that name."""
    if name not in names():
        near = str(unknown_name("preset", name, names())).partition(" known: ")[0]
        raise UsageError(f"--preset={name}: {near} known: {', '.join(names())}")
    return FOLDER / f"{name}{SUFFIX}"


def title(entry: str) -> str:
    """Returns what an entry of `read` is called, as part of a path."""
    return Path(entry).stem if entry.endswith(SUFFIX) else entry


def read(entry: str) -> Config:
    """Returns the flags of a preset, of a file in its manner, or of a method.

    Args:
      entry: a preset's name; a path that ends in .flags; a method's name, for its defaults, where
        no preset has it.

    Raises:
      UsageError: none of these, or a flag that this version does not know.
    """
    path = (
        Path(os.path.expanduser(entry)) if entry.endswith(SUFFIX) else FOLDER / f"{entry}{SUFFIX}"
    )
    if path.is_file():
        return Config.from_flagfile(_given(path), str(path))
    if entry.endswith(SUFFIX):
        raise UsageError(f"{entry}: no such flagfile")
    if "." not in entry and entry not in methods.names():
        raise unknown_name("preset or method", entry, {*names(), *methods.names()})
    return configure(method=entry)


def methods_of(entries: Sequence[str]) -> list[str]:
    """Returns the methods of entries, each once; raises as `read`."""
    return list(dict.fromkeys(read(entry).method for entry in entries))


def methods_listed(entries: Sequence[str]) -> list[str]:
    """Returns the methods of entries, of `for_a_cpu`'s where there are none; raises as `read`."""
    return methods_of(entries or for_a_cpu())


def for_a_cpu() -> tuple[str, ...]:
    """Returns the presets of runs that a CPU can do, as they say themselves, and the methods that
    learn in one pass and have none."""
    texts = {name: (FOLDER / f"{name}{SUFFIX}").read_text(encoding="utf-8") for name in names()}
    fitting = [name for name, text in texts.items() if _FITS_A_CPU in text]
    presets = {read(name).method for name in fitting}
    return (*fitting, *(name for name in _closed_forms() if name not in presets))


def _closed_forms() -> Sequence[str]:
    found = {name: methods.options_of(name) for name in methods.names()}
    return [name for name, own in found.items() if not issubclass(own, Training)]


def _given(path: Path) -> str:
    """A flagfile as a run writes its own: a flag a line, each with its value."""
    flags = [line for line in flagfiles.lines(path) if line.startswith("--")]
    return "\n".join(flag if "=" in flag else f"{flag}=true" for flag in flags) + "\n"
