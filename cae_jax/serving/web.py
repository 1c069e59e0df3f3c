"""The page without a server: a static folder that runs a model in the browser.

    index.html, *.js, *.css           the page, with the same display code as the service's
    about.json, model.onnx            what the page knows of the model, and the model
    sample.png                        an image that the page tests itself with when it starts
    ort*.mjs, ort*.wasm, ...LICENSE   ONNX Runtime for browsers, see `onnxruntime_web`

Any server of static files will do, as `python -m http.server`; opened as a file it does not run,
since browsers load modules and WebAssembly over http alone.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cae_jax.data.frame import Area, Frame
from cae_jax.evaluation.verdict import Judge
from cae_jax.files import write_json, write_whole
from cae_jax.reports import charts
from cae_jax.serving import onnxruntime_web
from cae_jax.serving.detector import Model
from cae_jax.serving.service import display
from cae_jax.types import DataError, UsageError

LARGEST = 400 * 10**6  # bytes of a model: a browser holds it several times over


def write(
    folder: Path,
    onnx_file: Path,
    model: Model,
    judge: Judge,
    sample_png: bytes,
    expected: Mapping[str, Any],
    runtime: Path | None = None,
) -> None:
    """Writes the page's files into a folder, which is made when it is not there.

    Args:
      folder: where; files of the same names are replaced.
      onnx_file: input "image" float32 [1, H, W, C] in [0, 1], outputs "score" [1], "defective"
        [1], "map" and "mask" [1, S, T]; it resizes itself, or takes images in the model's frame,
        see `export.onnx_files`, where that is not plain.
      model: what the page says of it, and C. Its scale is what the map is shown on.
      judge: its threshold is shown, its unseen distances give the p-values.
      sample_png: an 8-bit PNG without transparency.
      expected: "score" and "defective" of that sample, as Python judges it.
      runtime: see `onnxruntime_web.files`.

    Raises:
      UsageError: the model is larger than LARGEST, or `runtime` cannot be used.
      DataError: ONNX Runtime cannot be had, or a file cannot be read or written.
    """
    try:
        if (size := onnx_file.stat().st_size) > LARGEST:
            raise UsageError(
                f"--format=web: {onnx_file} has {size / 1e6:.0f} MB, more than the "
                f"{LARGEST / 1e6:.0f} MB that a browser can be asked to load"
            )
        content = onnx_file.read_bytes()
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from error
    about = {
        **display.about(model._asdict(), judge.threshold, judge.held_out),
        "channels": model.channels,
        "frame": None if model.frame.plain else framed(model.frame),
        "unseen": sorted(judge.held_out.tolist()),
        "ramp": charts.RAMP,
        "expected": {name: expected[name] for name in ("score", "defective")},
    }
    files: dict[str, str | bytes] = {
        **onnxruntime_web.files(runtime),
        "onnxruntime-web.LICENSE": display.text("onnxruntime-web.LICENSE"),
        **display.static_files("web.js", "model.js", "frame.js"),
        "model.onnx": content,
        "sample.png": sample_png,
    }
    for name, each in files.items():
        write_whole(folder / name, each)
    write_json(folder / "about.json", about)
    write_whole(folder / "index.html", display.document("web.html"))


def framed(frame: Frame) -> dict[str, Any]:
    """What the page has to know to bring an image to a frame: with masks, which are of one size of
    file, what counts of it, a bit for each pixel of the frame."""
    masks = [area for area in frame.areas if isinstance(area, Area)]
    size = masks[0].counts.shape if masks else None
    counts = None if size is None else frame.counts(size)
    return {
        "resize": frame.resize,
        "roi": frame.roi,
        "partial": frame.partial,
        "masks": [area.name for area in masks],
        "size": size,
        "counts": None
        if counts is None
        else base64.b64encode(np.packbits(counts).tobytes()).decode(),
    }
