"""What the features of a data set of tensorflow_datasets mean: by their types, then their names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from cae_jax.data.layouts.found import BAD_NAMES, GOOD_NAMES, Names, plain
from cae_jax.data.layouts.lists import GOOD_LABELS, IDS, KINDS, LABELS, PATHS, kind_of
from cae_jax.types import GOOD, DataError, unknown_name

_SEPARATOR = "/"  # between the names of a feature in a feature
_IMAGES = ("image", "img", "picture", "photo", "input", "x")
_PATHS = (*PATHS, *IDS)
_HAS_MASK = ("has_mask", "mask_known")
_MASK = re.compile(r"(.*_)?(masks?|gt|ground_?truth|seg|segmentation|annotation)(_.*)?")
_NO_DEFECT = ("", "none", "nan")  # as a kind of defect


class Roles(NamedTuple):
    """Which feature is what, by its name; "" where there is none."""

    image: str
    encoded: tuple[str, ...]  # what is read as it is stored: files of images, and what is not used
    mask: str = ""
    has_mask: str = ""
    label: str = ""
    kind: str = ""
    path: str = ""
    classes: Mapping[str, tuple[str, ...]] = {}  # names of the values of label and kind, if any
    good: str = ""  # the class that is good, where its name alone does not tell

    @property
    def names(self) -> tuple[str, ...]:
        """All that are read."""
        return self.image, self.mask, self.has_mask, self.label, self.kind, self.path

    @property
    def says(self) -> str:
        """What tells good images, in words."""
        of = [name for name in (self.label, self.kind) if name] or [self.mask]
        return f"its feature {' and '.join(of)}" if of[0] else "no feature"

    @property
    def words(self) -> str:
        """What was taken for what."""
        shown = {"image": self.image, "label": self.label, "kind": self.kind, "mask": self.mask}
        taken = [f"{what} {name}" for what, name in shown.items() if name]
        missing = [what for what in ("label", "mask") if not shown[what]]
        missing = [what for what in missing if what != "label" or not self.kind]
        said = f"its features are {', '.join(taken)}"
        said += f"; it has no {' and no '.join(missing)}" if missing else ""
        if not (self.label or self.kind or self.mask):
            said += ": all of train counts as good"
        return said


def meaning(info: Any, names: Names) -> Roles:
    """Returns what the features of a `tfds.core.DatasetInfo` mean.

    Raises DataError where no feature, or more than one, could be the image, where it is not clear
    which class is good, and where nothing says it but others mark something in images; UsageError
    for a --good_name that is none of the classes.
    """
    known = dict(sorted(_flat(info.features)))  # as stored they have no order
    last = {name: name.rsplit(_SEPARATOR, 1)[-1].lower() for name in known}
    keys = [key for key in info.supervised_keys or () if isinstance(key, str)]

    def first(wanted: Sequence[str], fits: Sequence[str]) -> str:
        order = [name for word in wanted for name in fits if last[name] == word]
        return next(iter(order), "")

    pictures = [name for name in known if _is_picture(known[name])]
    masks = [name for name in pictures if _is_mask(known[name], last[name])]
    images = [name for name in pictures if name not in masks]
    if len(images) > 1:
        named = first(_IMAGES, images) or next((key for key in keys if key in images), "")
        images = [named] if named else images
    if len(images) != 1:
        what = f"{' or '.join(images)} could be the image" if images else "no feature is an image"
        raise DataError(f"{what}; its features are {', '.join(known)}")
    values = [name for name in known if _is_value(known[name])]
    kind = first(KINDS, values)
    label = first((*LABELS, "y", *GOOD_LABELS), [name for name in values if name != kind])
    if not label and not kind:
        classes = [n for n in values if isinstance(known[n], tfds.features.ClassLabel)]
        fit = [key for key in keys if key in values] or (classes if len(classes) == 1 else [])
        label = next(iter(fit), "")
    mask = next(iter(masks), "")
    if not (label or kind or mask):
        marks = (tfds.features.ClassLabel, tfds.features.Sequence, tfds.features.BBoxFeature)
        if any(isinstance(each, marks) for each in known.values()):
            raise DataError(f"no label and no mask among its features, {', '.join(known)}")
    of = {n: tuple(known[n].names) for n in (label, kind) if n and hasattr(known[n], "names")}
    roles = Roles(
        images[0],
        (),
        mask,
        first(_HAS_MASK, values),
        label,
        kind,
        first(_PATHS, [name for name in values if name not in (label, kind)]),
        of,
        _good_class(of.get(label, of.get(kind, ())), names),
    )
    raw = [n for n in known if n not in roles.names or _is_encoded(known[n])]
    return roles._replace(encoded=tuple(raw))


def said(record: Mapping[str, Any], roles: Roles, names: Names) -> str | None:
    """Returns GOOD or the kind of defect that a record says, by the names of its features; None
    where it does not say."""
    label = _one(record, roles.label, roles, names)
    kind = _one(record, roles.kind, roles, names)
    if kind is not None and plain(kind) in _NO_DEFECT:
        kind = GOOD
    if label is None or label == GOOD:
        return label or kind
    return kind if kind not in (None, GOOD) else label


def at(record: Any, name: str) -> Any:
    """Returns a feature of a record by its name, None without one."""
    for part in name.split(_SEPARATOR) if name else ():
        record = record[part]
    return record if name else None


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values by the names of features as the features are nested."""
    found: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split(_SEPARATOR)
        inside = found
        for parent in parents:
            inside = inside.setdefault(parent, {})
        inside[last] = value
    return found


def _flat(features: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, feature in features.items():
        if isinstance(feature, tfds.features.FeaturesDict):
            yield from _flat(feature, f"{before}{name}{_SEPARATOR}")
        else:
            yield f"{before}{name}", feature


def _is_encoded(feature: Any) -> bool:
    """Whether a record holds the bytes of an image's file: floats lie in a PNG as their bits."""
    return isinstance(feature, tfds.features.Image) and feature.np_dtype != np.float32


def _is_picture(feature: Any) -> bool:
    if isinstance(feature, tfds.features.Image):
        return True
    shape: Sequence[int | None] = feature.shape if type(feature) is tfds.features.Tensor else ()
    return len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 2, 3, 4, None))


def _is_mask(feature: Any, name: str) -> bool:
    labeled = isinstance(feature, tfds.features.LabeledImage)
    return labeled or feature.np_dtype == np.bool_ or _MASK.fullmatch(name) is not None


def _is_value(feature: Any) -> bool:
    return isinstance(feature, tfds.features.Tensor) and feature.shape == ()


def _good_class(classes: Sequence[str], names: Names) -> str:
    """The class of good images where its name is none of GOOD_NAMES; "" where no rule is needed."""
    if not classes:
        return ""
    if names.good_name:
        if names.good_name not in classes:
            raise unknown_name("--good_name", names.good_name, classes)
        return names.good_name
    good = [each for each in classes if plain(each) in GOOD_NAMES]
    if len(good) == 1:
        return good[0]
    others = [each for each in classes if plain(each) not in BAD_NAMES]
    if not good and len(classes) == 2 and len(others) == 1:
        return others[0]
    if not good and tuple(classes) == ("0", "1"):
        return "0"
    shown = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
    raise DataError(f"its classes are {shown}; which is good? --good_name={(good or classes)[0]}")


def _one(record: Mapping[str, Any], name: str, roles: Roles, names: Names) -> str | None:
    """What one feature says: GOOD, or a kind of defect."""
    value = record.get(name)
    if value is None:
        return None
    if name in roles.classes:
        if not 0 <= int(value) < len(roles.classes[name]):  # -1: of a test that is not published
            return None
        word = roles.classes[name][int(value)]
        if word == roles.good or (not names.good_name and plain(word) in GOOD_NAMES):
            return GOOD
        return kind_of(word, names) if roles.classes[name] == ("0", "1") else word
    if isinstance(value, bytes):
        return kind_of(value.decode("utf-8", "replace").strip(), names)
    good = name.rsplit(_SEPARATOR, 1)[-1].lower() in GOOD_LABELS
    if np.asarray(value).dtype == bool or good:
        return GOOD if bool(value) == good else "defect"
    return kind_of(f"{np.asarray(value).item():g}", names)
