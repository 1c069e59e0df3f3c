"""What a run's images are brought to, from its flags; masks that these name are kept in its folder.

A run that starts looks at the files that its flags name, for they may be others than before. One
that is there already is judged by its copies, wherever the files have gone.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path

from cae_jax import files
from cae_jax.data import images
from cae_jax.data.frame import Area, Frame, Hole, read_part
from cae_jax.data.pictures import png_bytes
from cae_jax.runs.machine.progress import say
from cae_jax.types import DataError, UsageError

COPIES = {"roi": "roi.png", "ignore": "ignore.png"}  # flag -> its mask in a run's folder


def frame(bare: Frame, texts: Mapping[str, str], kept: Path | None, first: bool = False) -> Frame:
    """Returns what a run's images are brought to.

    Args:
      bare: it without the part and the masks.
      texts: of --roi and --ignore, by name: a part, or a mask's file; "" for none.
      kept: the run's folder, which may have copies of masks; None: the files alone.
      first: take a copy where there is one, not the file that the flag names.

    Raises:
      UsageError: a mask is not there, or a part of an image is none.
      DataError: a mask cannot be read, or shows nothing.
    """
    parts = {flag: read_part(flag, text) for flag, text in texts.items()}
    areas: list[Area | Hole] = [Hole(parts["ignore"])] if parts["ignore"] else []
    for flag, name in COPIES.items():
        text = texts[flag]
        if not text or parts[flag]:
            continue
        path, copy = Path(os.path.expanduser(text)), kept / name if kept else None
        if copy and copy.is_file() and (first or not path.is_file()):
            path = copy
        areas.append(_area(flag, text, path, *_times(f"--{flag}={text}", path)))
    return dataclasses.replace(bare, roi=parts["roi"], areas=tuple(areas))


def keep(found: Frame, folder: Path) -> dict[str, str]:
    """Writes a frame's masks into a folder, and returns the SHA-256 of what counts by flag."""
    masks = [area for area in found.areas if isinstance(area, Area)]
    for area in masks:
        white = area.counts if area.name == "roi" else ~area.counts
        files.write_whole(folder / COPIES[area.name], png_bytes(white))
    return {area.name: area.sha256 for area in masks}


def same_masks(before: Frame, now: Frame) -> set[str]:
    """Returns the flags whose masks show the same in two frames, wherever their files lie."""
    first, second = ({(area.name, area.sha256) for area in f.areas} for f in (before, now))
    return {flag for flag, _ in first & second}


@functools.lru_cache(maxsize=16)
def _area(flag: str, text: str, path: Path, modified: int, n_bytes: int) -> Area:
    shown = f"--{flag}={text}"
    try:
        gray = images.decode(path, Frame(None, 1), shown)[..., 0]
    except DataError as error:
        raise DataError(f"{shown}: {str(error).removeprefix(f'{shown!r}: ')}") from error
    white = gray >= 0.5
    brightest = f"its brightest pixel is {gray.max():.1%} of white, which begins at half"
    counts = white if flag == "roi" else ~white
    if not counts.any():
        what = f"black ({brightest})" if flag == "roi" else "white"
        raise DataError(f"{shown}: is {what}: nothing would count")
    if flag == "ignore" and counts.all():
        say(f"warning: {shown}: is black ({brightest}): nothing is left out")
    counts.setflags(write=False)
    return Area(flag, counts)


def _times(shown: str, path: Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise UsageError(f"{shown}: cannot be read: {error.strerror}") from error
    return found.st_mtime_ns, found.st_size
