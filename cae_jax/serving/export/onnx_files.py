"""A program as ONNX, which many runtimes read and will for years.

There are two files: model.onnx takes one image of any size, batch.onnx any number of one size.
Both resize inside. Of images that are not stretched whole the frame is outside: they take what
`images.seen` returns, of that size alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from cae_jax.data import images
from cae_jax.data.frame import Frame
from cae_jax.serving.detector import Verdict
from cae_jax.serving.export import check
from cae_jax.serving.export.check import Row, Sample
from cae_jax.serving.export.program import Program
from cae_jax.types import height_width

if TYPE_CHECKING:
    import onnx

OUTPUTS = ("score", "defective", "map", "mask")


def write(program: Program, folder: Path) -> dict[str, Any]:
    """Writes onnx/model.onnx and onnx/batch.onnx into a folder, and onnx/weights.bin, which both
    read, where weights are large.

    Returns what model.json says of them. Raises what `model` raises, DataError where a file cannot
    be written.
    """
    models = {name: model(program, many=name == "batch") for name in ("model", "batch")}
    from cae_jax.serving.onnx import files, graph

    (folder / "onnx").mkdir()
    files.save(models, folder / "onnx")
    return {"opset": graph.OPSET, "ir_version": graph.IR_VERSION, "batch": "one by one"}


def model(program: Program, many: bool) -> onnx.ModelProto:
    """Returns a program as a model of one image, or of many; raises CaeError for a method that ONNX
    has no operators for."""
    from cae_jax.serving.onnx import graph

    c = program.config
    frame = program.frame
    channels = c.channels + frame.partial
    image = jax.ShapeDtypeStruct((1, *height_width(c.image_size), channels), np.float32)

    def judged(images: jax.Array) -> Sequence[jax.Array]:
        found = program(program.weights, images)
        return [found[name] for name in OUTPUTS]

    about = f"{program.title}: image float32 [n, height, width, {channels}] from 0 to 1"
    about += ", the last channel 1 where it counts" * frame.partial
    return graph.convert(judged, {"image": image}, OUTPUTS, many, about, any_size=frame.plain)


def in_one(folder: Path) -> bytes:
    """Returns model.onnx of an exported folder with all of its weights in it."""
    import onnx

    return onnx.load(folder / "onnx" / "model.onnx").SerializeToString(deterministic=True)


def whole(
    folder: Path, samples: Sequence[Sample], wanted: Sequence[Verdict], frame: Frame
) -> list[Row]:
    """Returns what model.onnx makes of samples at their own size, or in their frame where that is
    outside, beside the trained model."""
    import onnxruntime

    path = str(folder / "onnx" / "model.onnx")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rows = []
    for sample, trained in zip(samples, wanted, strict=True):
        inside = check.unresized(sample, frame) if frame.plain else _placed(sample, frame)
        answer = session.run(list(OUTPUTS), {"image": inside})
        found = dict(zip(OUTPUTS, answer, strict=True))
        form = "onnx, resized inside" if frame.plain else "onnx, all outputs"
        rows.append(check.compared(form, sample, trained, found))
    return rows


def _placed(sample: Sample, frame: Frame) -> np.ndarray:
    return images.seen(sample.png, frame)[None]
