"""Which mask is of which image, by their names: each mask is used once."""

from __future__ import annotations

import collections
import functools
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cae_jax.data import images
from cae_jax.data.layouts.found import MASK_NAMES, Tree, alike, plain
from cae_jax.types import UsageError

STEM = "{stem}"  # of an image, in --mask_pattern
_WORDS = "mask|gt|labels?|ground_?truth|seg|segmentation"


class _Rule(NamedTuple):
    of: re.Pattern[str]  # a mask's name without its suffix; group 1 is the image's
    several: bool = False  # masks of one image, each of a part


_RULES = (
    _Rule(re.compile(r"(.+)_mask")),
    _Rule(re.compile(rf"(.+)[-_. ](?:{_WORDS})")),
    _Rule(re.compile(rf"(.+)[-_. ](?:{_WORDS})(?:[-_. ]?\d+| ?\(\d+\))"), several=True),
    _Rule(re.compile(rf"(?:{_WORDS})[-_. ](.+)")),
)
_SAME = _Rule(re.compile(r"(.+)"))  # a mask that is named like its image


def pair(
    tree: Tree,
    files: Sequence[Path],
    folder: Path,
    masks: Sequence[Path],
    home: Path,
    pattern: str = "",
) -> dict[Path, tuple[Path, ...]]:
    """Returns the masks of each image that has any; the other masks are noted in the tree.

    A mask of 000.png is known by any of these names, in this order, whatever its suffix and
    capitals: any in a folder 000; 000_mask; 000 with another ending (-mask, _gt, _label ...);
    the same numbered (000_mask_1: several of one image); mask_000; 000; 000.png. Of several that
    fit, the one that lies in `home` as its image lies in `folder` is meant.

    Args:
      tree: of the category.
      files: images of defects, below `folder`.
      folder: where they are.
      masks: those to choose among, below `home`.
      home: where they are.
      pattern: --mask_pattern; where it is given, a mask is known by it alone.

    Raises:
      UsageError: a pattern without {stem}.
    """
    unused = dict.fromkeys(masks)
    pairs: dict[Path, tuple[Path, ...]] = {}
    for file in files if not pattern else ():
        inside = home / file.parent.relative_to(folder) / file.stem
        if mine := tuple(mask for mask in unused if mask.parent == inside != home):
            pairs[file] = mine
            unused = {mask: None for mask in unused if mask not in mine}
    for rule, nearby in itertools.product(_rules(pattern), (True, False)):
        claims: dict[str, list[Path]] = {}
        for mask in unused:
            claims.setdefault(_stem(rule, mask), []).append(mask)
        left = [file for file in files if rule.several or file not in pairs]
        same = collections.Counter(alike(file.stem) for file in left)
        for file in left:
            fit, place = claims.get(alike(file.stem), []), file.parent.relative_to(folder)
            if nearby:
                fit = [mask for mask in fit if mask.parent.relative_to(home) == place]
            elif same[alike(file.stem)] > 1 or (len(fit) > 1 and not rule.several):
                continue  # whose mask it is, nobody can tell
            for mask in fit if rule.several else _capitals_first(fit, file)[:1]:
                if mask in unused:
                    pairs[file] = (*pairs.get(file, ()), mask)
                    del unused[mask]
    for mask in unused:
        tree.leave(mask, "mask without an image, or a second of one")
    return pairs


def image_of(file: Path, pattern: str = "") -> str:
    """Returns the name, in lower case and without a suffix, of the image that a file is the mask
    of, if it is named as masks are: with an ending or a beginning, or by the pattern; else ""."""
    rules = _rules(pattern) if pattern else _RULES
    return next(filter(None, (_stem(rule, file) for rule in rules)), "")


def of_another(files: Sequence[Path]) -> Path | None:
    """Returns the first file that is named as the mask of another one is; None for none."""
    stems = {alike(file.stem) for file in files}
    return next((file for file in files if image_of(file) in stems), None)


def beside(files: Sequence[Path]) -> dict[Path, tuple[Path, ...]]:
    """Returns the masks among images, by these: named as masks are and in the image's folder, told
    by their format, see `twins`, or in a folder of masks in or beside the image's."""
    stems = {(file.parent, alike(file.stem)): file for file in reversed(files)}
    named = collections.defaultdict[str, list[Path]](list)  # by stem, or pairs are sought among all
    for (_, stem), file in stems.items():
        named[stem].append(file)
    pairs: dict[Path, tuple[Path, ...]] = {}
    by_format = {mask: image for image, mask in twins(files).items()}
    for mask in files:
        image = stems.get((mask.parent, image_of(mask))) or by_format.get(mask)
        if plain(mask.parent.name) in MASK_NAMES:
            above = mask.parent.parent
            fit = [
                file
                for file in named[image_of(mask) or alike(mask.stem)]
                if file.parent != mask.parent and above in (file.parent, file.parent.parent)
            ]
            image = fit[0] if len(fit) == 1 else None
        if image is not None:
            pairs[image] = (*pairs.get(image, ()), mask)
    return pairs


def folders_of(kinds: Mapping[Path, Sequence[Path]]) -> dict[Path, Path]:
    """Returns the folders of masks among folders of images, each with the one whose masks it holds:
    named as masks of that, bad_mask beside bad, and with masks of its images alone.

    A product may have a label: scratch_label beside scratch is a kind, but for files that are
    named as masks themselves.
    """
    named = {alike(folder.name): folder for folder in kinds}
    found: dict[Path, Path] = {}
    for folder, files in kinds.items():
        own = image_of(folder)
        of, strict = named.get(own), "label" in alike(folder.name).replace(own, "", 1)
        stems = {alike(file.stem) for file in kinds[of]} if of else set()
        called = [{image_of(file), "" if strict else alike(file.stem)} for file in files]
        if of and files and all(stems & names for names in called):
            found[folder] = of
    return found


def twins(files: Sequence[Path]) -> dict[Path, Path]:
    """Returns the masks, by their images, that are told from these by their format alone: 0.png of
    0.jpg beside it, for a JPEG is no mask."""
    named = {file.with_suffix("").as_posix().lower(): file for file in files if not _is_jpeg(file)}
    pairs = {file: named.get(file.with_suffix("").as_posix().lower()) for file in files}
    return {file: mask for file, mask in pairs.items() if mask and _is_jpeg(file)}


def _is_jpeg(file: Path) -> bool:
    return file.suffix.lower() in (".jpg", ".jpeg", ".jpe", ".jfif")


@functools.cache
def _rules(pattern: str) -> tuple[_Rule, ...]:
    if not pattern:
        return (*_RULES, _SAME)
    stem, suffix = os.path.splitext(pattern)
    stem = stem if suffix.lower() in images.SUFFIXES else pattern
    if stem.count(STEM) != 1 or "/" in stem:
        raise UsageError(
            f"--mask_pattern={pattern}: must be a mask's name with {STEM} for its image's, as in "
            f"{STEM}_mask"
        )
    before, after = map(re.escape, alike(stem).split(STEM))
    return (_Rule(re.compile(f"{before}(.+){after}")),)


def _stem(rule: _Rule, mask: Path) -> str:
    found = rule.of.fullmatch(alike(mask.stem))
    if not found:
        return ""
    stem, suffix = os.path.splitext(found[1])
    return stem if suffix in images.SUFFIXES else found[1]


def _capitals_first(masks: Sequence[Path], image: Path) -> list[Path]:
    """Masks whose names have the image's capitals before those that have others."""
    return sorted(masks, key=lambda mask: image.stem not in mask.stem)
