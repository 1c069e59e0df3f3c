"""A service of detectors that need no training and compile nothing."""

import contextlib
import io
import pathlib

import httpx
import numpy as np
from PIL import Image

from cae_jax.evaluation.thresholds import VALIDATION_GOOD, Threshold
from cae_jax.evaluation.verdict import Judge
from cae_jax.serving.detector import Detector, Model
from cae_jax.serving.service.app import make
from cae_jax.serving.service.models import Models
from cae_jax.serving.service.options import Options
from cae_jax.types import Scores

SIDE = 16
HELD_OUT = np.array([10.0, 20.0, 30.0, 40.0])


def mean_level(pixels):
    """The fake's scores: 100 times an image's mean level; NaN of a black one."""
    levels = 100 * pixels.mean(axis=(1, 2, 3))
    levels = np.where(levels == 0, np.nan, levels).astype(np.float32)
    return Scores({"level": levels}, {"level": pixels.mean(axis=-1)}, None)


def detector(call=mean_level, version="", channels=1):
    """A fake detector: a distance above 50 is defective; maps have the scale 1."""
    model = Model(
        title="fake, seed 0",
        category="fake",
        method="fake",
        version=version,
        image_size=SIDE,
        channels=channels,
        distance="level",
        opening=0,
        scale=1.0,
        runtime="jax",
        card={},
    )
    threshold = Threshold(50.0, "ceil", VALIDATION_GOOD, 90, 4)
    return Detector(model, Judge(threshold, HELD_OUT, 0.5), call, (detector, {}))


def load(folder):
    """A fake detector whose version is what the folder's model.json says."""
    return detector(version=pathlib.Path(folder, "model.json").read_text())


@contextlib.contextmanager
def service(call=mean_level, names=("fake",), history=None, channels=1, **options):
    """Yields an application whose models are loaded."""
    given = Options(**options)
    models = Models(
        {name: pathlib.Path("/nowhere") for name in names},
        lambda _: detector(call, channels=channels),
        given,
    )
    models.load()
    try:
        yield make(models, given, history)
    finally:
        models.close()


def client(app, **given):
    """A client of an application in this process."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://localhost", **given
    )


def png(level, size=(SIDE, SIDE)):
    """A gray image of one level, as a file."""
    buffer = io.BytesIO()
    Image.fromarray(np.full(size, level, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def parts(*contents):
    """A form of images."""
    return [("image", (f"{i}.png", content, "image/png")) for i, content in enumerate(contents)]
