"""A watched folder with a detector that needs no run: what tests of it, and processes they start,
share. JAX is not imported."""

import csv
import hashlib
import io
import os
import pathlib

import numpy as np
from PIL import Image

from cae_jax.evaluation.thresholds import VALIDATION_GOOD, Threshold
from cae_jax.evaluation.verdict import Judge
from cae_jax.serving.detector import Detector, Model
from cae_jax.serving.watch import watcher
from cae_jax.serving.watch.options import Options
from cae_jax.types import Scores

SIDE = 16
QUICK = {"settle": 0.0, "give_up": 0.0, "poll": 0.01}
BAD_SHADE = 13  # an image of it has no finite score


def detector(call=None):
    """An image's distance is its mean brightness in gray levels, bad above 100; its map is the
    image."""

    def brightness(images):
        gray = 255 * images.mean(axis=-1)
        distances = np.rint(gray.mean(axis=(1, 2)))
        distances[distances == BAD_SHADE] = np.nan
        if call:
            call(distances)
        return Scores({"l2": distances.astype(np.float32)}, {"l2": gray}, None)

    model = Model("weave, mean", "weave", "mean", "0123", SIDE, 3, "l2", 0, 200.0, "jax", {})
    judge = Judge(Threshold(100.0, "ceil", VALIDATION_GOOD, 90, 4), np.arange(4.0) * 50, 150.0)
    return Detector(model, judge, brightness, (detector, {}))


def png(shade, size=(8, 12)):
    """The bytes of an image of one gray level."""
    file = io.BytesIO()
    Image.fromarray(np.full(size, shade, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(path, content, mtime_ns=None):
    """Writes a file; its time may be set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    if mtime_ns is not None:
        os.utime(path, ns=(mtime_ns, mtime_ns))
    return path


def watch(root, stop=lambda: False, who=None, **options):
    """Watches root/in until what is there is judged, or `stop`."""
    options = {"once": True, **QUICK, **options}
    return watcher.watch(who or detector(), root / "in", root / "out", Options(**options), stop)


def rows(root, name="results.csv"):
    """The lines of a table."""
    path = root / "out" / name
    if not path.exists():
        return []
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def files(folder):
    """Content by relative name of what is in a folder, hidden or not, but for the watcher's own."""
    ours = {"watch.sqlite", "watch.sqlite-wal", "results.csv", "refused.csv", "latest.png", ".lock"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in pathlib.Path(folder).rglob("*")
        if path.is_file() and path.name not in ours
    }


def sha256(content):
    """As it stands in the tables."""
    return hashlib.sha256(content).hexdigest()


def judged_once(root, wanted):
    """Asserts that of {path: content}, each was judged or refused once, and its file is there
    once."""
    found = [*rows(root), *rows(root, "refused.csv")]
    assert sorted(row["path"] for row in found) == sorted(wanted)
    assert len({row["number"] for row in found}) == len(found)
    assert files(root / "in") == {}
    assert {row["file"]: wanted[row["path"]] for row in found} == files(root / "out")
