"""The page with a service behind it that judges by brightness: a map is how far a pixel is from
middle gray, times 100, and a score its mean."""

import base64
import contextlib
import socket
import threading

import fastapi
import numpy as np
import uvicorn
from fastapi.responses import JSONResponse

from cae_jax.data import pictures
from cae_jax.evaluation.thresholds import VALIDATION_GOOD, Threshold, p_values
from cae_jax.evaluation.verdict import Judge
from cae_jax.reports import charts
from cae_jax.serving.detector import Detector, Model
from cae_jax.serving.service import page, words
from cae_jax.types import DataError, Scores

SIDE = 32
UNSEEN = np.linspace(1.0, 3.0, 39)  # so the band is 1.0526 to 2.9474


def detector(title="tablet, gray, seed 0", version="0123456789abcdef", threshold=3.0):
    def call(images):
        maps = 100 * np.abs(images[..., 0] - 0.5)
        return Scores({"gray": maps.mean((1, 2))}, {"gray": maps.astype(np.float32)}, None)

    model = Model(title, "tablet", "gray", version, SIDE, 1, "gray", 0, 50.0, "jax", {})
    of_good = Threshold(threshold, "ceil", VALIDATION_GOOD, 100, len(UNSEEN))
    return Detector(model, Judge(of_good, UNSEEN, map_threshold=25.0), call, (detector, {}))


def image(level, spot=False, size=(48, 64)):
    """A gray PNG of one level in [0, 1]; with a white square from (1/4, 1/4) to (1/2, 1/2)."""
    array = np.full(size, level)
    if spot:
        array[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = 1.0
    return pictures.png_bytes(array)


def app(history, detectors, token=""):
    made = fastapi.FastAPI()
    made.include_router(page.router(history, lambda: detectors))

    @made.middleware("http")
    async def needs_token(request, following):
        free = request.url.path == "/" or request.url.path.startswith("/page/static/")
        if token and not free and request.headers.get("authorization") != f"Bearer {token}":
            return JSONResponse({"error": "a token is needed"}, 401)
        return await following(request)

    @made.post("/predict")
    def predict(image: list[fastapi.UploadFile], model: str):
        results = [_judged(history, model, detectors[model], each) for each in image]
        m = detectors[model].model
        about = {"name": model, "title": m.title, "version": m.version, "distance": m.distance}
        return {"model": about | {"image_size": m.image_size}, "results": results}

    return made


def _judged(history, name, of, upload):
    content = upload.file.read()
    try:
        verdict = of.score(content)
    except DataError as error:
        return {"name": upload.filename, "status": 415, "error": str(error)}
    levels = np.clip(np.rint(255 * verdict.residual / of.model.scale), 0, 255).astype(np.uint8)
    maps = [pictures.png_bytes(levels), pictures.png_bytes(verdict.mask)]
    version = of.model.version
    made = history.record(name, version, upload.filename, verdict, content, *maps)
    return {
        **{"name": upload.filename, "status": 200, "id": made, "defective": verdict.defective},
        **{"score": verdict.distance, "threshold": verdict.threshold.value},
        **{"p_value": verdict.p_value, "sentence": words.sentence(verdict, len(UNSEEN))},
        **dict(zip(("map", "mask"), map(_uri, maps), strict=True)),
        **{"milliseconds": 1.5, "size": [48, 64]},
    }


def _uri(png):
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


@contextlib.contextmanager
def served(application):
    """Serves an app on a free port of this machine; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        server = uvicorn.Server(uvicorn.Config(application, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def colors(residual):
    """A map on the scale 0..50 in the report's colors, uint8 [H, W, 3]."""
    levels = np.clip(np.rint(255 * residual / 50), 0, 255).astype(np.uint8)
    return charts.RAMP[levels]


# (defective, how many of the n good images are at least as unusual, n, what is said)
SENTENCES = [
    (True, 0, 23, "Defective: more unusual than all 23 good parts it was compared with."),
    (True, 0, 1, "Defective: more unusual than the one good part it was compared with."),
    (False, 0, 3, "Good: more unusual than all 3 good parts it was compared with."),
    (True, 1, 59, "Defective: about 1 good part in 30 looks at least this unusual (compared with"
     " 59 good parts)."),
    (True, 1, 6, "Defective: about 3 good parts in 10 look at least this unusual (compared with 6"
     " good parts)."),
    (False, 4, 18, "Good: about 1 good part in 4 looks at least this unusual (compared with 18 good"
     " parts)."),
    (False, 1, 4, "Good: about 4 good parts in 10 look at least this unusual (compared with 4 good"
     " parts)."),
    (False, 12, 19, "Good: about 7 good parts in 10 look at least this unusual (compared with 19"
     " good parts)."),
    (False, 19, 19, "Good: nearly all good parts look at least this unusual (compared with 19 good"
     " parts)."),
    (True, None, 0, "Defective: how unusual this is cannot be said, as no good parts were kept"
     " aside to compare."),
]  # fmt: skip


def p_value(at_least, n):
    unseen = np.arange(n, dtype=float)
    return float(p_values(unseen, [n - 0.5 - (at_least or 0)])[0])
