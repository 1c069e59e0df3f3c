"""MVTec AD's layout, and its kin: a train folder of good images, a test folder of kinds.

    ROOT/train/good/*         ROOT/test/KIND/*
    ROOT/test/good/*          ROOT/ground_truth/KIND/STEM_mask.png

(Bergmann et al., MVTec AD, CVPR 2019; MPDD is laid out so, too, and VisA after its own
preparation.) Good images are in a folder `good`, or of another name of GOOD_NAMES; names count in
any capitals, see `reserved`. Folders may lie in these folders. test may be missing: then there is
nothing to judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cae_jax.data import regions
from cae_jax.data.layouts import masks as masks_of
from cae_jax.data.layouts import reserved, tables
from cae_jax.data.layouts.found import (
    BAD_NAMES,
    USUAL,
    Found,
    Item,
    Names,
    Tree,
    alike,
    count_images,
    entries,
    good_folder,
    holds_images,
    is_image,
    no_image,
    plain,
    subfolders,
)
from cae_jax.types import GOOD, DataError

_UNPUBLISHED = ("test_private", "test_private_mixed")  # of MVTec AD 2


def is_mvtec_ad(root: Path, names: Names) -> bool:
    """Returns whether a folder is a category of images to learn from, and maybe a test; also where
    a folder of it is still empty."""
    train = reserved.called(root, "train")
    if not train:
        return False
    if reserved.holds(root, "train/good") or reserved.holds(root, "test"):
        return True
    return any(holds_images(each) for each in train)


def mvtec_ad(root: Path, names: Names = USUAL) -> Found:
    """Lists a category in MVTec AD's layout; see `_listed` for the errors."""
    return _listed(root, names, "mvtec_ad")


def is_btad(root: Path, names: Names) -> bool:
    """Returns whether a folder is a product of BTAD: ok and ko for good and defective."""
    return reserved.holds(root, "train/ok") and reserved.holds(root, "test/ko")


def btad(root: Path, names: Names = USUAL) -> Found:
    """Lists a product of BTAD (Mishra et al., VT-ADL, ISIE 2021): as MVTec AD, ok and ko for good
    and defective, masks named like their images."""
    return _listed(root, names, "btad")


def is_mvtec_ad_2(root: Path, names: Names) -> bool:
    """Returns whether a folder is a category of MVTec AD 2."""
    return reserved.holds(root, "test_public") and reserved.holds(root, "train")


def mvtec_ad_2(root: Path, names: Names = USUAL) -> Found:
    """Lists a category of MVTec AD 2 (Heckler-Kram et al., 2025): the test is test_public, with
    its ground_truth inside; of the private tests nobody knows which images are good."""
    return _listed(root, names, "mvtec_ad_2", test="test_public")


def is_mvtec_loco(root: Path, names: Names) -> bool:
    """Returns whether a folder is a category of MVTec LOCO AD."""
    kinds = ("logical_anomalies", "structural_anomalies")
    return reserved.holds(root, "train") and any(
        reserved.holds(root, f"test/{kind}") for kind in kinds
    )


def mvtec_loco(root: Path, names: Names = USUAL) -> Found:
    """Lists a category of MVTec LOCO AD (Bergmann et al., IJCV 130, 2022): a folder of masks for
    each image, one mask a defect, and the saturation thresholds of defects in a json."""
    found = _listed(root, names, "mvtec_loco")
    config = root / "defects_config.json"
    try:
        if config.is_file():
            left_out = tuple(entry for entry in found.left_out if entry.path != config.name)
            return found._replace(saturation=regions.read(config), left_out=left_out)
        cause = f"no {config.name}"
    except DataError as error:
        cause = str(error)
    said = f"{cause}: sPRO is not computed, which needs the saturation thresholds in it"
    return found._replace(notes=(*found.notes, said))


def _listed(root: Path, names: Names, layout: str, test: str = "test") -> Found:
    """Lists a category without opening an image.

    A defect image without a mask is used and listed as left out of what compares pixels.

    Raises:
        DataError: nothing to learn from, or it is not clear which images are good.
    """
    tree = Tree(root)
    learn, judge = reserved.part(root, "train"), _judged(root, test, names)
    names = _named_alike(learn, judge, names)
    held_out = [reserved.part(root, each) for each in reserved.VALIDATION]
    held_out = [each for each in held_out if each != judge]
    truth = reserved.ground_truth(root, judge)
    used = [learn, judge, *held_out, *([truth] if truth else [])]
    reserved.say(tree, used)
    for entry in entries(root):
        if plain(entry.name) in _UNPUBLISHED and layout == "mvtec_ad_2":
            tree.leave(entry, f"{count_images(entry)} images whose truth is not published")
        elif entry not in used:
            tree.leave(entry, "not part of the layout")
    train = _to_learn(tree, learn, names)
    for each in held_out:
        if each.is_dir() and (more := _to_learn(tree, each, names)):
            tree.notes.append(f"{each.name}: its {len(more)} good images are learned from, too")
            train += more
    return tree.found(layout, tree.good(train), _to_judge(tree, judge, truth, names))


def _judged(root: Path, test: str, names: Names) -> Path:
    """The folder of the test; without one that of validation, where it holds more than good images,
    which has to be judged by something."""
    judge = reserved.part(root, test)
    for name in reserved.VALIDATION if not judge.is_dir() else ():
        other = reserved.part(root, name)
        good = good_folder(other, names)
        if good and any(each != good and holds_images(each) for each in subfolders(other)):
            return other
    return judge


def _named_alike(learn: Path, judge: Path, names: Names) -> Names:
    """Takes a folder of train for good images whatever it is called, where it is the only one and
    test has one of its name.

    Raises DataError where several are in both: some of them hold defects.
    """
    if names.good_name or good_folder(learn, names):
        return names
    there = [each.name for each in subfolders(learn) if holds_images(each)]
    both = [name for name in there if holds_images(judge / name)]
    if len(there) > 1 and both and not set(map(plain, there)) & BAD_NAMES:
        raise DataError(
            f"{learn}: holds {', '.join(there)}, and so does {judge.name}: which of them is good? "
            f"--good_name={both[-1]}"
        )
    return names._replace(good_name=both[0]) if len(there) == 1 and both else names


def _to_learn(tree: Tree, folder: Path, names: Names) -> list[Path]:
    """Good images of train or validation: in the folder of good ones, or all where there is
    none and no folder of another name that says it holds defects."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder, and a category needs one")
    good = good_folder(folder, names)
    if good is not None:
        for entry in entries(folder):
            if entry != good:
                tree.leave(entry, "not part of the layout")
        _say_good(tree, good)
        found = _seen(tree, tree.images(good))
        if not found:
            raise DataError(no_image(good))
        _check_masks(good, found)
        return found
    there = [each for each in subfolders(folder) if holds_images(each)]
    bad = [each.name for each in there if plain(each.name) in BAD_NAMES]
    if names.good_name or bad:
        held = ", ".join(each.name for each in there) or "no folder of images"
        asked = f"no folder {names.good_name}" if names.good_name else "no folder of good images"
        raise DataError(
            f"{folder}: {asked}, it holds {held}; name the one of good images: --good_name=NAME"
        )
    found = _seen(tree, tree.images(folder))
    if not found:
        raise DataError(no_image(folder))
    _check_masks(folder, found)
    if text := tables.telling(folder, [file.name for file in found]):
        raise DataError(
            f"{folder}: {text.relative_to(folder)} says something of images in it, in a form that "
            f"is not known; if all of them show good products, put them into {folder.name}/{GOOD}"
        )
    if there:
        words = ", ".join(each.name for each in there)
        tree.notes.append(
            f"{folder.name}: no folder {GOOD}, so all {len(found)} images are learned from as "
            f"good ones, those in {words} too (--good_name=NAME: those of one folder alone)"
        )
    return found


def _seen(tree: Tree, files: list[Path]) -> list[Path]:
    """Images without what a depth camera writes beside them, as MVTec 3D-AD has it: rgb and xyz."""
    if not {"rgb", "xyz"} <= {file.parent.name for file in files}:
        return files
    for file in files:
        if file.parent.name == "xyz":
            tree.leave(file, "points in space, not an image")
    return [file for file in files if file.parent.name != "xyz"]


def _check_masks(folder: Path, files: Sequence[Path]) -> None:
    """Raises DataError where masks lie among the images to learn from."""
    if mask := masks_of.of_another(files):
        raise DataError(
            f"{folder}: {mask.relative_to(folder)} is named like the mask of another image: put "
            "masks elsewhere, those of defects into ground_truth"
        )


def _to_judge(tree: Tree, test: Path, truth: Path | None, names: Names) -> list[Item]:
    """The images of every kind in test, with their masks."""
    if not test.is_dir():
        return []
    good = good_folder(test, names)
    folders = tree.folders(test, "not in the folder of a defect kind")
    kinds = [each for each in folders if each != truth]
    files = {kind: _seen(tree, tree.images(kind)) for kind in kinds}
    of_masks = {} if truth else masks_of.folders_of(files)  # else a kind may be called bad_label
    own = {mask: (of, files.pop(mask)) for mask, of in of_masks.items()}
    pairs = {} if truth else _masks_among(tree, files, good)
    items = tree.good(files.get(good, [])) if good else []
    if good:
        _say_good(tree, good)
    defective = {kind: found for kind, found in files.items() if kind != good}
    if truth:
        pairs = _masks(tree, _inner(tree, truth, test), defective, good, names)
    for home, (kind, masks) in own.items():
        tree.notes.append(f"{tree.path(home)} is taken for masks of {tree.path(kind)}")
        pairs |= masks_of.pair(tree, defective.get(kind, []), kind, masks, home, names.mask_pattern)
    for kind, found in defective.items():
        items += [tree.defective(file, kind.name, pairs.get(file, ())) for file in found]
    flat = sum(1 for each in entries(test) if each.is_file() and not each.name.startswith("."))
    if flat and not kinds:
        tree.notes.append(
            f"{test.name}: {flat} files in no folder of a kind, so nobody knows which are good; "
            "experiments.score judges them"
        )
    elif not good and any(defective.values()):
        words = ", ".join(kind.name for kind in defective)
        tree.notes.append(
            f"{test.name}: no folder of good images among {words}; if one of them is, say so: "
            "--good_name=NAME"
        )
    return items


def _inner(tree: Tree, truth: Path, test: Path) -> Path:
    """The folder of masks, or the one in it that is called as the test is."""
    inner = [each for each in subfolders(truth) if plain(each.name) == plain(test.name)]
    if not inner or holds_images(test / inner[0].name):
        return truth
    for entry in entries(truth):
        if entry != inner[0]:
            tree.leave(entry, "not part of the layout")
    return inner[0]


def _masks_among(
    tree: Tree, files: dict[Path, list[Path]], good: Path | None
) -> dict[Path, tuple[Path, ...]]:
    """Takes masks that lie among the images of a kind out of these, and returns them by image."""
    pairs: dict[Path, tuple[Path, ...]] = {}
    for kind, there in files.items():
        found = masks_of.beside(there)
        masks = {mask for each in found.values() for mask in each}
        files[kind] = [file for file in there if file not in masks]
        if kind == good:
            for mask in sorted(masks):
                tree.leave(mask, "mask of a good image")
        elif masks:
            pairs |= found
            tree.notes.append(
                f"{tree.path(kind)}: {len(masks)} files are taken for masks of images beside them"
            )
    return pairs


def _masks(
    tree: Tree,
    truth: Path,
    files: dict[Path, list[Path]],
    good: Path | None,
    names: Names,
) -> dict[Path, tuple[Path, ...]]:
    """The masks of defective images: in a folder of their kind, or all in one."""
    pairs: dict[Path, tuple[Path, ...]] = {}
    by_kind = {plain(kind.name): kind for kind in files} | {kind.name: kind for kind in files}
    for folder in subfolders(truth):
        if good and plain(folder.name) == plain(good.name):
            for mask in tree.images(folder):
                tree.leave(mask, "mask of a good image")
        else:
            called = (folder.name, plain(folder.name), masks_of.image_of(folder))
            kind = next(filter(None, map(by_kind.get, called)), folder)
            images = files.get(kind, [])
            pairs |= masks_of.pair(
                *(tree, images, kind, tree.images(folder), folder, names.mask_pattern)
            )
    loose = _loose(tree, truth)
    if not loose:
        return pairs
    stems: dict[str, list[Path]] = {}
    for found in files.values():
        for file in found:
            stems.setdefault(alike(file.stem), []).append(file)
    alone = [found[0] for found in stems.values() if len(found) == 1 and found[0] not in pairs]
    flat = {truth / file.name: file for file in alone}
    of_loose = masks_of.pair(tree, list(flat), truth, loose, truth, names.mask_pattern)
    return pairs | {flat[image]: masks for image, masks in of_loose.items()}


def _loose(tree: Tree, truth: Path) -> list[Path]:
    """The masks that lie in no folder of a kind; what else lies there is noted."""
    loose = []
    for entry in entries(truth):
        if entry.is_dir() and not entry.name.startswith("."):
            continue
        if is_image(entry):
            loose.append(entry)
        else:
            hidden = entry.name.startswith(".")
            tree.leave(entry, "hidden" if hidden else "not in the folder of a defect kind")
    return loose


def _say_good(tree: Tree, good: Path) -> None:
    """Notes a folder of good images that is called otherwise: it may be a kind of defect."""
    if good.name != GOOD:
        tree.notes.append(f"{tree.path(good)} is taken for good images")
