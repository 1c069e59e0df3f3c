"""A program as StableHLO, which JAX reads back without the code that made it.

Beside the weights in a file of their own, which both forms share, there are two: for images of the
model's size in any number, and for one image of its own size, which is resized inside.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from cae_jax.data.frame import Frame
from cae_jax.files import write_whole
from cae_jax.serving.detector import Verdict
from cae_jax.serving.export import check
from cae_jax.serving.export.check import Row, Sample
from cae_jax.serving.export.program import Program
from cae_jax.types import CaeError, height_width

PLATFORMS = ("cpu", "cuda", "tpu")


def write(program: Program, folder: Path) -> dict[str, Any]:
    """Writes stablehlo/batch.bin, stablehlo/image.bin and stablehlo/weights.npz into a folder.

    There is no image.bin of images that are not stretched whole: their frame is outside.

    Returns what model.json says of them. Raises CaeError where the program cannot be exported.
    """
    size, channels = height_width(program.config.image_size), program.config.channels
    weights = {n: jax.ShapeDtypeStruct(w.shape, w.dtype) for n, w in program.weights.items()}
    (n,) = export.symbolic_shape("n")
    height, width = export.symbolic_shape("height, width")
    many = jax.ShapeDtypeStruct((n, *size, channels + program.frame.partial), np.float32)
    one = jax.ShapeDtypeStruct((1, height, width, channels), np.float32)
    at = folder / "stablehlo"
    at.mkdir(parents=True)
    found, together = _batch(program, weights, many)
    write_whole(at / "batch.bin", bytes(found.serialize()))
    if program.frame.plain:
        write_whole(at / "image.bin", bytes(_exported(program.whole, weights, one).serialize()))
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **program.weights)
    write_whole(at / "weights.npz", buffer.getvalue())
    return {
        "platforms": list(PLATFORMS),
        "calling_convention_version": found.calling_convention_version,
        "jax": jax.__version__,
        "batch": "together" if together else "one by one",
    }


def whole(folder: Path, sample: Sample, wanted: Verdict, frame: Frame) -> list[Row]:
    """Returns how the program that resizes inside judges a sample beside the trained model."""
    program = export.deserialize(bytearray((folder / "stablehlo" / "image.bin").read_bytes()))
    with np.load(folder / "stablehlo" / "weights.npz", allow_pickle=False) as archive:
        weights = {name: archive[name] for name in archive.files}
    found = jax.device_get(jax.jit(program.call)(weights, check.unresized(sample, frame)))
    return [check.compared("stablehlo, resized inside", sample, wanted, found)]


def _batch(program: Program, weights: Any, many: Any) -> tuple[export.Exported, bool]:
    """The program of any number of images; one after the other inside it where the method needs
    to know how many there are."""
    try:
        return _exported(program, weights, many), True
    except CaeError:

        def each(weights: Any, images: jax.Array) -> dict[str, jax.Array]:
            found = jax.lax.map(lambda image: program(weights, image[None]), images)
            return jax.tree.map(lambda field: field[:, 0], found)

        return _exported(each, weights, many), False


def _exported(function: Any, weights: Any, images: Any) -> export.Exported:
    try:
        return export.export(jax.jit(function), platforms=PLATFORMS)(weights, images)
    except Exception as error:  # whatever a model's code raises for a dimension without a number
        cause = " ".join(str(error).split())[:300]
        raise CaeError(f"--format=stablehlo: {type(error).__name__}: {cause}") from error
