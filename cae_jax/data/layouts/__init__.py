"""How people and public data sets lay out images in folders: found by what is there.

A layout is a pair of functions, in a file of its family: whether a folder is a category laid out
so, and what the category holds. `LAYOUTS` is the order in which they are tried.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cae_jax.data import prepared, unread
from cae_jax.data.layouts import coco, labelme, lists, mvtec, published, reserved
from cae_jax.data.layouts import plain as folders
from cae_jax.data.layouts.found import (
    MASK_NAMES,
    USUAL,
    Found,
    Names,
    holds_images,
    plain,
    subfolders,
    unread_in,
    walk,
)
from cae_jax.types import DataError, UsageError, unknown_name

AUTO = "auto"


class Layout(NamedTuple):
    """One way to lay out a category."""

    fits: Callable[[Path, Names], bool]  # opens no image
    find: Callable[[Path, Names], Found]


LAYOUTS = {
    "visa": Layout(published.is_visa, published.visa),
    "real_iad": Layout(published.is_real_iad, published.real_iad),
    "kolektor_sdd2": Layout(published.is_kolektor_sdd2, published.kolektor_sdd2),
    "mvtec_ad_2": Layout(mvtec.is_mvtec_ad_2, mvtec.mvtec_ad_2),
    "mvtec_loco": Layout(mvtec.is_mvtec_loco, mvtec.mvtec_loco),
    "btad": Layout(mvtec.is_btad, mvtec.btad),
    "coco": Layout(coco.is_coco, coco.coco),
    "labelme": Layout(labelme.is_labelme, labelme.labelme),
    "mvtec_ad": Layout(mvtec.is_mvtec_ad, mvtec.mvtec_ad),
    "listed": Layout(lists.is_listed, lists.listed),
    "kinds": Layout(folders.is_kinds, folders.kinds),
    "good_images": Layout(folders.is_good_images, folders.good_images),
}
NAMES = (AUTO, *LAYOUTS)
# What tells a category from the folder of several: not one of kinds, for products have names, too;
# and least of all one of good images, which any folder of images could be.
_SURE = {name: layout for name, layout in LAYOUTS.items() if name != "good_images"}
_STRONG = {name: layout for name, layout in _SURE.items() if name != "kinds"}


def layout_of(root: Path, names: Names = USUAL) -> str:
    """Returns the name of the layout of a category's folder, "" where it is none.

    Raises UsageError for a --layout that is none, DataError where it is not clear what is good.
    """
    return _fit(root, names, LAYOUTS)


def find(root: Path, names: Names = USUAL) -> Found:
    """Lists what a category holds, without opening an image.

    Where nothing says which good images are for the test, --test_fraction of them are, drawn by
    their number alone: whatever the seed, and of a larger share those of a smaller one, too.

    Raises:
        DataError: no image to learn from, or files and folders that could mean different things.
        UsageError: a --layout that is none, or that this folder does not have.
    """
    name = layout_of(root, names)
    if name:
        return held_out(LAYOUTS[name].find(root, names), names.test_fraction)
    if names.layout == AUTO:
        raise DataError(f"{root}: no image in it, nor in a folder in it{unread_in(root)}")
    raise UsageError(f"--layout={names.layout}: {root} is not laid out so, see docs/data.md")


def categories(data_dir: Path, names: Names = USUAL) -> dict[str, Path]:
    """Returns the categories in a folder, by name: the folders in it that are categories, or it
    itself, where it is one.

    Raises:
        DataError: neither, with what is there instead.
        UsageError: a --layout that is none.
    """
    own = {_name_of(data_dir): data_dir}
    if _fit(data_dir, names, _STRONG):
        return own
    # a test without a train is no product, though its kinds lie beside each other
    others = [each for each in subfolders(data_dir) if plain(each.name) not in reserved.PARTS]
    inside = {each.name: each for each in others if _fit(each, names, _SURE)}
    if any(_fit(each, names, _STRONG) for each in inside.values()):
        return inside | _unread(others, inside)
    if _fit(data_dir, names, _SURE):
        return own
    if inside:
        return inside | _unread(others, inside)
    for each in subfolders(data_dir):
        if deeper := [sub.name for sub in subfolders(each) if _fit(sub, names, _STRONG)]:
            raise DataError(
                f"{data_dir} holds no category, but {each} does: {', '.join(deeper[:5])}; "
                f"--data_dir={each}"
            )
    if _fit(data_dir, names, LAYOUTS):
        return own
    more = unread_in(data_dir) or "; see docs/data.md for layouts"
    if prepared.is_there(data_dir):
        more = "; tensorflow_datasets prepared what is in it, which --dataset=tfds reads"
    raise DataError(f"{data_dir} holds no category and no image{more}")


def passed_over(data_dir: Path, names: Names = USUAL) -> tuple[str, ...]:
    """Returns the folders beside the categories in a folder that hold images and are none, for
    nothing says which of these are good; raises as `categories`."""
    known = categories(data_dir, names)
    if data_dir in known.values():
        return ()
    others = _beside(subfolders(data_dir), known)
    return tuple(each.name for each in others if holds_images(each))


def locate(data_dir: Path, category: str, names: Names = USUAL) -> Path:
    """Returns the folder of a category: one of `categories`, or a folder of images in `data_dir`,
    which are good ones where it has no other layout.

    Raises DataError where it is neither, UsageError for a path in place of a name or a name that is
    not there, and as `categories`.
    """
    if not category or os.path.basename(category) != category or category in (".", ".."):
        raise UsageError(
            f"--category={category}: must be the name of a folder in --data_dir={data_dir}"
        )
    inside = data_dir / category
    try:
        known = categories(data_dir, names)
    except DataError:
        if holds_images(inside):
            return inside
        raise
    if category in known:
        return known[category]
    if inside.is_dir():
        if plain(category) in reserved.TESTS and _fit(data_dir, names, _STRONG):
            raise UsageError(
                f"--category={category}: {inside} is what the category {_name_of(data_dir)} is "
                f"judged by, not one of its own; --data_dir={data_dir} alone means the category"
            )
        if holds_images(inside):
            return inside
        raise DataError(f"{inside}: not a category, it holds no image{unread_in(inside)}")
    raise unknown_name("category", category, known)


def held_out(found: Found, fraction: float) -> Found:
    """Returns a category with a share of its good images in the test, where it has none of its own.

    Raises DataError where none would be left to learn from.
    """
    n, said = len(found.train), ""
    if fraction and not found.undivided:
        said = "--test_fraction is not used: what is there says what is for the test"
        if not found.test:
            said = "--test_fraction is not used: there is no defective image to tell good ones from"
    elif fraction:
        count = max(1, round(fraction * n))
        if count == n:
            raise DataError(
                f"{found.root}: {n} good image{'s' * (n > 1)}, of which --test_fraction={fraction} "
                "would hold out all; none is left to learn from"
            )
        held = set(np.random.default_rng(n).permutation(n)[:count].tolist())
        train = tuple(item for i, item in enumerate(found.train) if i not in held)
        judged = [*found.test, *(found.train[i] for i in held)]
        found = found._replace(train=train, test=tuple(sorted(judged, key=lambda one: one.path)))
        said = f"{count} of {n} good images are held out for the test (--test_fraction={fraction})"
    elif found.undivided and found.test:
        said = "no good test image: --test_fraction=0.2 holds some out"
    return found._replace(notes=(*found.notes, said)) if said else found


def _fit(root: Path, names: Names, among: Mapping[str, Layout]) -> str:
    """The first of these layouts that a folder has, or the one asked for; "" for none."""
    if names.layout not in NAMES:
        raise unknown_name("--layout", names.layout, NAMES)
    for name, layout in among.items():
        if names.layout in (AUTO, name) and layout.fits(root, names):
            return name
    return ""


def _beside(folders: Sequence[Path], known: Mapping[str, Path]) -> list[Path]:
    """Those that are no categories, and no folders of masks."""
    others = [each for each in folders if each.name not in known]
    return [each for each in others if plain(each.name) not in MASK_NAMES]


def _unread(folders: Sequence[Path], known: Mapping[str, Path]) -> dict[str, Path]:
    """Those beside categories that hold pictures, none of which is read: whoever reads them says
    so, and passing them over would not."""
    return {
        each.name: each
        for each in _beside(folders, known)
        if not holds_images(each)
        and any(walk(each, lambda file: file.suffix.lower() in unread.PICTURES))
    }


def _name_of(folder: Path) -> str:
    """What a category is called that is a folder given by its path."""
    name = os.path.basename(os.path.abspath(folder))
    return (Path(name).stem if folder.is_file() else name) or "images"
