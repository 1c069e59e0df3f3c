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
from cae_jax.evaluation.thresholds import VALIDATION_GOOD, Threshold
from cae_jax.evaluation.verdict import Judge
from cae_jax.serving.detector import Detector, Model
from cae_jax.serving.service import page, words
from cae_jax.types import DataError, Scores

SIZE = 32
UNSEEN = np.linspace(1.0, 3.0, 39)  # so the band is 1.0526 to 2.9474


def detector(title="tablet, gray, seed 0", version="0123456789abcdef", threshold=3.0):
    def call(images):
        maps = 100 * np.abs(images[..., 0] - 0.5)
        return Scores({"gray": maps.mean((1, 2))}, {"gray": maps.astype(np.float32)}, None)

    model = Model(title, "tablet", "gray", version, SIZE, 1, "gray", 0, 50.0, "jax", {})
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
