"""What a category is found to hold, before any file is opened, and how folders are walked."""

from __future__ import annotations

import dataclasses
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from cae_jax.data import images, unread
from cae_jax.data.outlines import Drawn
from cae_jax.data.regions import Saturation
from cae_jax.types import GOOD, DataError, LeftOut

# What good and defective images are called by factories and data sets, in lower case.
GOOD_NAMES = frozenset(
    {"good", "ok", "okay", "normal", "nominal", "pass", "passed", "io", "defect_free", "no_defect"}
    | {"no_defects", "non_defective", "undamaged"}
)
BAD_NAMES = frozenset(
    {"bad", "ng", "nok", "ko", "nio", "fail", "failed", "reject", "rejected", "faulty"}
    | {"defect", "defects", "defective", "abnormal", "anomaly", "anomalies", "anomalous"}
    | {"damaged", "broken", "scrap", "schlecht", "not_ok", "not_good", "outlier", "outliers"}
)
MASK_NAMES = frozenset({"ground_truth", "groundtruth", "mask", "masks", "gt"})
# Masks, too, where images lie in a folder called so; what else is there may be of other tools.
ALSO_MASKS = ("labels", "label", "segmentations", "segmentation", "ground_truths", "annotations")
# What a part of a data set is called, and which it is.
PART_OF = {"train": "train", "training": "train", "test": "test", "testing": "test"}
PART_OF |= {"val": "val", "valid": "val", "validation": "val"}
UNMASKED = "scored, but has no mask to compare with"
_CIRCLE = "a link to a folder that it lies in, so it is not followed"
_RESULTS = ("flags.txt", "run.json")  # in a folder that a run, or a scoring, wrote


class Names(NamedTuple):
    """What the user says of a layout: flags of the same names."""

    layout: str = "auto"
    good_name: str = ""  # the folder of good images; "" knows it by GOOD_NAMES
    mask_pattern: str = ""  # of a mask's name without its suffix, "{stem}_seg"; "" knows the usual
    test_fraction: float = 0.0  # of good images, to judge; of data that does not say which


USUAL = Names()  # nothing


class Item(NamedTuple):
    """One image to use: where its bytes are, what it shows, and its masks."""

    path: str  # relative to the category, forward slashes
    kind: str  # GOOD or the defect kind
    source: Path | bytes
    mask_path: str = ""  # of the first; "" for a good image and for a defect without a mask
    masks: tuple[Path | bytes | Drawn, ...] = ()  # each of a part of what is defective


class Found(NamedTuple):
    """What a category holds before anything is decoded, each part in the order of its paths."""

    root: str  # what errors put before a path
    train: tuple[Item, ...]
    test: tuple[Item, ...]
    left_out: tuple[LeftOut, ...]
    layout: str = ""  # its name, see `layouts`; "" where there is but one
    notes: tuple[str, ...] = ()  # what the user should know of how files were taken
    saturation: Mapping[int, Saturation] = MappingProxyType({})  # by the level of masks, if known
    undivided: bool = False  # nothing says which good images are for the test: it has none


@dataclasses.dataclass
class Tree:
    """A category's folder while it is read: lists files, and notes what is not used and why."""

    root: Path
    left_out: list[LeftOut] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def path(self, file: Path) -> str:
        """Returns a file's path relative to the category, with forward slashes."""
        return file.relative_to(self.root).as_posix()

    def leave(self, file: Path, cause: str) -> None:
        """Notes an entry that is not used."""
        self.left_out.append(LeftOut(self.path(file), cause))

    def images(self, folder: Path) -> list[Path]:
        """Returns the images in a folder and the folders in it, sorted; the rest is noted."""
        found = []
        for entry in entries(folder):
            if entry.name.startswith("."):
                self.leave(entry, "hidden")
            elif entry.is_dir():
                if is_result(entry):
                    self.leave(entry, "results, not images of a product")
                    continue
                if leads_back(entry):
                    self.leave(entry, _CIRCLE)
                    continue
                inside = self.images(entry)
                found += inside
                if not inside:
                    self.leave(entry, "a folder without an image in it")
            elif entry.suffix.lower() not in images.SUFFIXES:
                known = unread.counted([entry.suffix.lower()])
                self.leave(entry, known or f"not an image's suffix ({suffixes()})")
            else:
                found.append(entry)
        return found

    def folders(self, folder: Path, cause: str) -> list[Path]:
        """Returns the folders in a folder, sorted; other entries are noted with the cause."""
        found = []
        for entry in entries(folder):
            hidden = entry.name.startswith(".")
            if not hidden and leads_back(entry):
                self.leave(entry, _CIRCLE)
            elif entry.is_dir() and not hidden:
                found.append(entry)
            else:
                self.leave(entry, "hidden" if hidden else cause)
        return found

    def good(self, files: Sequence[Path]) -> list[Item]:
        """Returns good images as items."""
        return [Item(self.path(file), GOOD, file) for file in files]

    def defective(self, file: Path, kind: str, masks: Sequence[Path]) -> Item:
        """Returns a defective image as an item; without a mask that is noted."""
        if not masks:
            self.leave(file, UNMASKED)
        mask_path = self.path(masks[0]) if masks else ""
        return Item(self.path(file), kind, file, mask_path, tuple(masks))

    def found(self, layout: str, train: Sequence[Item], test: Sequence[Item]) -> Found:
        """Returns what the category holds.

        Raises DataError where it holds nothing to learn from.
        """
        if not train:
            raise DataError(
                f"{self.root}: no good image to learn from (layout {layout}){unread_in(self.root)}"
            )
        learn, judge = tuple(sorted(train, key=_path)), tuple(sorted(test, key=_path))
        if not test:
            self.notes.append(
                "nothing to judge: thresholds rest on good images that the model has not seen, and "
                "nothing tells how many defects it finds"
            )
        left_out = tuple(sorted(self.left_out))
        if lost := unread.counted(Path(entry.path).suffix.lower() for entry in left_out):
            self.notes.append(lost)
        if circles := [entry.path for entry in left_out if entry.cause == _CIRCLE]:
            self.notes.append(f"{', '.join(circles)}: {_CIRCLE}")
        return Found(str(self.root), learn, judge, left_out, layout, tuple(self.notes))


def entries(folder: Path) -> list[Path]:
    """Returns a folder's entries, sorted by name, whatever the file system's order or the locale.

    Raises DataError where it cannot be listed.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error


def subfolders(folder: Path) -> list[Path]:
    """Returns the folders in a folder that are not hidden, sorted, without links that go round in
    a circle; [] of what is no folder."""
    if not folder.is_dir():
        return []
    there = [each for each in entries(folder) if not each.name.startswith(".")]
    return [each for each in there if each.is_dir() and not leads_back(each)]


def leads_back(folder: Path) -> bool:
    """Returns whether an entry is a link to a folder that it lies in, by whichever way it was
    come to: followed, it would list that folder again, and what lies beside it."""
    if not folder.is_symlink():
        return False
    try:
        real = Path(os.path.realpath(folder, strict=True))
    except OSError:  # leads nowhere, or to itself
        return False
    above = {Path(os.path.realpath(each)) for each in Path(os.path.abspath(folder)).parents}
    return any(real == each or real in each.parents for each in above)


def is_image(file: Path) -> bool:
    """Returns whether a file has an image's suffix and is not hidden."""
    return file.suffix.lower() in images.SUFFIXES and not file.name.startswith(".")


def holds_images(folder: Path) -> bool:
    """Returns whether a folder, or a folder in it, holds an image; stops at the first one."""
    return next(walk(folder), None) is not None


def count_images(folder: Path) -> int:
    """Returns how many images a folder and the folders in it hold."""
    return sum(1 for _ in walk(folder))


def suffixes() -> str:
    """Returns the suffixes that are read, as messages list them."""
    return " ".join(sorted(images.SUFFIXES))


def no_image(folder: Path) -> str:
    """Returns what an error says of a folder in which there is no image: what else is there."""
    found = unread_in(folder)
    return f"{folder}: no image in it{found or f'; suffixes read: {suffixes()}'}"


def unread_in(folder: Path) -> str:
    """Returns what is said of pictures in a folder that are not read, after a semicolon; ""."""
    files = walk(folder, lambda file: file.suffix.lower() in unread.SUFFIXES)
    said = unread.counted(file.suffix.lower() for file in files if not file.name.startswith("."))
    return f"; {said}" if said else ""


def walk(folder: Path, wanted: Callable[[Path], bool] = is_image) -> Iterator[Path]:
    """Yields the images, or other files that are wanted, in a folder and the folders in it, in any
    order; links are followed, but not in a circle. What cannot be listed is passed over: reading it
    says why."""
    seen = set()
    for path, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(path)
        if real in seen or leads_back(Path(path)) or is_result(Path(path)):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (file for name in names if wanted(file := Path(path, name)))


def is_result(folder: Path) -> bool:
    """Returns whether a run or a scoring wrote a folder: its pictures are not images of a product,
    also where a --workdir lies among them."""
    return any((folder / name).is_file() for name in _RESULTS)


def plain(name: str) -> str:
    """Returns a folder's name as GOOD_NAMES and the like have it: "OK" and "Defect-free" are "ok"
    and "defect_free"."""
    return name.lower().replace("-", "_").replace(" ", "_")


def alike(name: str) -> str:
    """Returns a file's name as others are compared with it: in lower case, and a letter with its
    marks as one sign, which macOS writes as several."""
    return unicodedata.normalize("NFC", name).lower()


def good_folder(where: Path, names: Names) -> Path | None:
    """Returns the folder of good images among those in a folder, by --good_name or a usual name.

    Raises DataError where several could be it.
    """
    there = subfolders(where)
    if names.good_name:
        same = [each for each in there if plain(each.name) == plain(names.good_name)]
        return next((each for each in same if each.name == names.good_name), next(iter(same), None))
    fit = [each for each in there if plain(each.name) in GOOD_NAMES]
    if len(fit) > 1:
        words = " and ".join(each.name for each in fit)
        raise DataError(f"{where}: holds {words}: which of them is good? --good_name={fit[0].name}")
    return fit[0] if fit else None


def _path(item: Item) -> str:
    return item.path
