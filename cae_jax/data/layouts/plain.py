"""Folders that people have: good images alone, or a folder of good ones beside those of defects."""

from __future__ import annotations

import re
from pathlib import Path

from cae_jax.data.layouts import masks as masks_of
from cae_jax.data.layouts import tables
from cae_jax.data.layouts.found import (
    BAD_NAMES,
    MASK_NAMES,
    USUAL,
    Found,
    Names,
    Tree,
    count_images,
    good_folder,
    holds_images,
    no_image,
    plain,
    subfolders,
)
from cae_jax.data.layouts.reserved import PARTS
from cae_jax.types import GOOD, DataError

_PAIRS = (("0", "1"), ("positive", "negative"), ("pos", "neg"), ("true", "false"), ("yes", "no"))
_NOT = re.compile("(un|in|ab|non|not|no|n)_?(.+)")  # "undamaged", "no_crack" beside "crack"


def is_kinds(root: Path, names: Names) -> bool:
    """Returns whether a folder holds one of good images and others: kinds of defects."""
    there = subfolders(root)
    if any(plain(each.name) in PARTS for each in there):
        return False
    try:
        good = good_folder(root, names)
    except DataError:  # several could be: listing it says so
        return True
    if good is None:
        return False  # an empty one is one, too: what lies beside it is not good
    return any(each != good and holds_images(each) for each in there)


def kinds(root: Path, names: Names = USUAL) -> Found:
    """Lists folders of kinds beside each other, good/ and scratch/: good images are learned
    from, all others judged. A folder of masks holds those of any kind.

    Raises DataError where it is not clear which folder is good.
    """
    tree = Tree(root)
    good = good_folder(root, names)
    if good is None:
        raise DataError(f"{root}: no folder of good images in it; name it: --good_name=NAME")
    folders = tree.folders(root, "in no folder of a kind")
    truth = next((each for each in folders if plain(each.name) in MASK_NAMES), None)
    learn = tree.images(good)
    each_of = {each: tree.images(each) for each in folders if each not in (good, truth)}
    own = {} if truth else masks_of.folders_of({good: learn, **each_of})
    apart = {home: (of, each_of.pop(home)) for home, of in own.items() if home != good}
    files = [file for found in each_of.values() for file in found]
    pairs: dict[Path, tuple[Path, ...]] = {}
    if truth:
        there = tree.images(truth)
        pairs = masks_of.pair(tree, files, root, there, truth, names.mask_pattern)
    else:
        pairs = masks_of.beside([*learn, *files])
        masks = {mask for each in pairs.values() for mask in each}
        if masks:
            tree.notes.append(f"{len(masks)} files are taken for masks of images beside them")
        for mask in (mask for mask in learn if mask in masks):
            tree.leave(mask, "mask of a good image")
        learn, files = ([each for each in some if each not in masks] for some in (learn, files))
    for home, (of, there) in apart.items():
        tree.notes.append(f"{home.name} is taken for masks of {of.name}")
        pairs |= masks_of.pair(tree, each_of.get(of, []), of, there, home, names.mask_pattern)
    train = tree.good(learn)
    test = [tree.defective(file, _kind(root, file), pairs.get(file, ())) for file in files]
    tree.notes.append(
        f"{good.name} holds the good images; train/{GOOD} and test/{GOOD} would say which are to "
        "learn from and which to judge"
    )
    return tree.found("kinds", train, test)._replace(undivided=True)


def is_good_images(root: Path, names: Names) -> bool:
    """Returns whether a folder, or a folder in it, holds images."""
    return root.is_dir() and holds_images(root)


def good_images(root: Path, names: Names = USUAL) -> Found:
    """Lists a folder of good images, flat or nested: all are learned from, none is judged.

    Raises DataError where names of folders or files say that not all are good images, unless the
    layout was asked for by its name.
    """
    tree = Tree(root)
    found = tree.images(root)
    if not found:
        raise DataError(no_image(root))
    if names.layout != "good_images":
        _check(root, found)
    within = sorted({file.relative_to(root).parts[0] for file in found if file.parent != root})
    if within:
        shown = ", ".join(within[:5]) + (", ..." if len(within) > 5 else "")
        tree.notes.append(
            f"the images of {len(within)} folders ({shown}) are learned as one product; "
            f"--category={','.join(within[:2])} makes one of each"
            if len(within) > 1
            else f"the images in {shown} are learned from"
        )
    return tree.found("good_images", tree.good(found), [])


def _check(root: Path, files: list[Path]) -> None:
    """Raises DataError for names that no folder of good images alone would have."""
    own = "if all of them show good products: --layout=good_images"
    parts = {folder for file in files for folder in file.relative_to(root).parents}
    strange = [part for part in parts if plain(part.name) in BAD_NAMES | MASK_NAMES | PARTS]
    if strange:
        part = min(strange, key=lambda part: (plain(part.name) not in PARTS, len(part.parts), part))
        more = "" if plain(part.name) in PARTS else own  # a test has images of other kinds
        raise DataError(f"{root}: {_near_miss(root, part)}{more}".removesuffix("; "))
    if said := _two_kinds(root, files):
        raise DataError(f"{root}: {said}; {own}")
    if mask := masks_of.of_another(files):
        raise DataError(
            f"{root}: {mask.relative_to(root)} is named like the mask of another image; {own}"
        )
    for file, mask in masks_of.twins(files).items():
        raise DataError(
            f"{root}: {mask.relative_to(root)} is called like {file.name} beside it, as its mask "
            f"might be; {own}"
        )
    if text := tables.telling(root, [file.name for file in files]):
        raise DataError(
            f"{root}: {text.relative_to(root)} says something of images in it, in a form that is "
            f"not known: a table needs columns path and label, see docs/data.md; {own}"
        )


def _two_kinds(root: Path, files: list[Path]) -> str:
    """What says that images are of two kinds: words in some of their names, or folders of a pair of
    words, of which nobody knows which is good; ""."""
    marked = [file for file in files if BAD_NAMES & set(re.split(r"[-_. ]+", file.stem.lower()))]
    if 0 < len(marked) < len(files):
        name = marked[0].relative_to(root)
        return f"{name} is named as a defective image is, others are not: put these into a folder"
    folders = {
        plain(file.relative_to(root).parts[0]): file for file in files if file.parent != root
    }
    for one, other in _PAIRS:
        if one in folders and other in folders:
            return f"holds {one} and {other}: which of them is good? --good_name={one}"
    for word in folders:
        found = _NOT.fullmatch(word)
        if found and found[2] in folders:
            return f"holds {word} and {found[2]}: which of them is good? --good_name={word}"
    return ""


def _near_miss(root: Path, part: Path) -> str:
    """What would be a layout, from what is there."""
    strange = BAD_NAMES | MASK_NAMES | PARTS
    others = [each for each in subfolders(root / part.parent) if plain(each.name) not in strange]
    counts = {each: n for each in others if (n := count_images(each))}
    good = next(iter(counts), None)
    there = f"{counts[good]} images lie in {good}" if good else ""
    if plain(part.name) in PARTS:
        more = f", but {there}: if they are to learn from, call it train; " if good else "; "
        return f"{part}, and no train/{GOOD} with good images to learn from{more}"
    more = "--data_dir=FOLDER names the folder of good ones alone; "
    if good:
        more = f"{there}: are they the good ones? --good_name={good.name}; "
    n = count_images(root / part)
    return f"{n} images lie in {part}, whose name is not one of good images; {more}"


def _kind(root: Path, file: Path) -> str:
    """The kind of a defective image: its folder, or where that holds none but folders, and is
    called bad, the folder in it."""
    parts = file.relative_to(root).parts[:-1]
    return parts[1] if len(parts) > 1 and plain(parts[0]) in BAD_NAMES else parts[0]
