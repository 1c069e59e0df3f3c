"""An exported folder against its run, on images as they come: odd sizes, other modes."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from cae_jax.data import images, layouts
from cae_jax.data.frame import Frame
from cae_jax.reports.run_files import read_run
from cae_jax.runs.cell import Cell
from cae_jax.serving.detector import MANY, Detector, Verdict
from cae_jax.types import CaeError, DataError

RELATIVE = 1e-5  # how far a score may be from the trained one's
# Of a score so near to the threshold no verdict is compared: the threshold is a good image's score
# itself, and that image is above or below it by rounding alone.
_TIE = 2e-6
# Of a sample, beside its own: the first ones keep their shape, so that a good one may stay good.
_SIDES = ((1.0, 1.0), (1.0, 1.0), (1.9, 1.9), (0.63, 0.63), (0.71, 1.3), (0.33, 0.47))
_MODES = ("RGB", "RGB", "RGBA", "I;16", "P", "L")
_SAMPLES = 6


class Sample(NamedTuple):
    """An image to compare by."""

    name: str
    png: bytes
    like: str  # its mode and size, in words


class Row(NamedTuple):
    """What a form of a model says of a sample, beside what the trained one says."""

    form: str
    sample: str
    score: float
    trained: float
    defective: bool
    same: bool  # the verdict
    map_error: (
        float  # largest difference of the maps, as a share of the trained map's largest value
    )
    mask_error: float  # share of the pixels in one mask alone

    @property
    def relative(self) -> float:
        """How far the scores are apart, as a share of the trained one."""
        return abs(self.score - self.trained) / max(abs(self.trained), 1e-30)


def _folder(cell: Cell) -> Path:
    """Where the images of a run are; nowhere, where they have gone."""
    config = cell.config
    try:
        return layouts.locate(Path(config.data_dir), config.category, config.names)
    except CaeError:
        return Path(config.data_dir, config.category)


def samples(cell: Cell, n: int = _SAMPLES) -> list[Sample]:
    """Returns n images of a run's test set in odd sizes and several modes, as PNG files.

    They are its data set's files where these are still there, else the pictures that the run has
    kept. Raises DataError where it has none.
    """
    run, keep = read_run(cell.folder), not cell.frame.plain
    if run.examples is None or not len(run.examples.image):
        raise DataError(f"{cell.folder}/examples.npz: no picture to check an export by")
    found = []
    frame = dataclasses.replace(cell.config.bare_frame, image_size=None, resize="stretch")
    labels = run.frame["label"].to_numpy()[run.examples.row]
    drawn = np.random.default_rng(0).permutation(len(labels))
    kinds = [[at for at in drawn if labels[at] == label] for label in (0, 1)]
    kinds = [kind for kind in kinds if kind]  # good and defective ones take turns
    for i in range(n):
        kind = kinds[i % len(kinds)]
        at = int(kind[i // len(kinds) % len(kind)])
        path = str(run.frame["path"].iloc[run.examples.row[at]])
        file = _folder(cell) / path
        pixels = run.examples.image[at]
        if cell.config.data_dir and file.is_file():
            pixels = np.rint(images.decode(file, frame) * 255).astype(np.uint8)
        image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
        found.append(_variant(path, image, i, 2 ** (frame.bit_depth or 16) - 1, keep))
    return found


def compare(form: str, sample: Sample, trained: Verdict, found: Verdict) -> Row:
    """Returns what an exported form says of a sample beside the trained model."""
    top = max(float(np.abs(trained.residual).max()), 1e-30)
    value = trained.threshold.value
    near = abs(trained.distance - value) <= _TIE * abs(value)
    return Row(
        form,
        f"{sample.name} ({sample.like})",
        found.distance,
        trained.distance,
        found.defective,
        near or found.defective == trained.defective,
        float(np.abs(found.residual - trained.residual).max()) / top,
        float((found.mask != trained.mask).mean()),
    )


def check(rows: list[Row]) -> None:
    """Raises CaeError for the worst of the rows whose score or verdict is not the trained one's."""
    for row in sorted(rows, key=lambda row: -row.relative):
        if not row.relative <= RELATIVE or not row.same:
            raise CaeError(
                f"not exported: {row.form} gives {row.sample} {row.score:.8g}, the trained model "
                f"{row.trained:.8g} ({row.relative:.1e} apart, {RELATIVE:.0e} allowed; verdict "
                f"{'the same' if row.same else 'another'})"
            )


def detected(form: str, given: list[Sample], wanted: list[Verdict], found: Detector) -> list[Row]:
    """Returns how a loaded form judges the samples, one at a time and all at once, beside what the
    trained model says of them."""
    single = [found.score(each.png) for each in given]
    by_many = dataclasses.replace(found, many=MANY)  # also where it would not be used
    batch = by_many.score_batch([each.png for each in given])
    return [
        compare(f"{form}, {how}", *each)
        for how, verdicts in (("one", single), ("batch", batch))
        for each in zip(given, wanted, verdicts, strict=True)
    ]


def compared(form: str, sample: Sample, wanted: Verdict, found: Mapping[str, np.ndarray]) -> Row:
    """Returns what a program's own verdict on one sample is beside the trained model's; `found`
    has the arrays of `program.Program`, of one image."""
    answer = wanted._replace(
        distance=float(found["score"][0]),
        defective=bool(found["defective"][0]),
        residual=found["map"][0],
        mask=found["mask"][0],
    )
    return compare(form, sample, wanted, answer)


def unresized(sample: Sample, frame: Frame) -> np.ndarray:
    """Returns a sample's own pixels, float32 [1, H, W, C] in [0, 1]."""
    return images.decode(sample.png, dataclasses.replace(frame, image_size=None))[None]


def _variant(name: str, image: Image.Image, i: int, white: int, keep: bool) -> Sample:
    """A picture in another size and mode; `white` is that of 16 bits."""
    tall, wide = _SIDES[i % len(_SIDES)]
    size = (int(image.width * wide) | 1, int(image.height * tall) | 1)
    size = image.size if keep else size  # a part of an image is one of its size alone
    mode = _MODES[i % len(_MODES)]
    image = image.convert("L" if mode == "I;16" else mode if mode != "P" else "RGB")
    image = image.resize(size)
    if mode == "P":
        image = image.quantize(64)
    elif mode == "I;16":
        levels = np.asarray(image).astype(np.uint32) * white // 255
        image = Image.fromarray(levels.astype(np.uint16))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return Sample(name, buffer.getvalue(), f"{mode}, {size[0]} x {size[1]}")
