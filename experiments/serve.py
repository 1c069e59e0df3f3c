"""Serves models over HTTP: /predict, /v2 (Open Inference Protocol), /metrics, /docs.

A model is the folder that experiments.export wrote, which is loaded anew when it is replaced, or
the workdir of experiments.run.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

import cae_jax
from cae_jax.runs import command_line
from cae_jax.runs.build import use_compilation_cache
from cae_jax.serving.detector import Detector
from cae_jax.serving.service import server
from cae_jax.serving.service.app import make
from cae_jax.serving.service.models import Models
from cae_jax.serving.service.options import MAX_IMAGES, Options

_MODEL = flags.DEFINE_multi_string("model", [], "DIR or NAME=DIR of a model; several are possible")
_HOST = flags.DEFINE_string("host", "127.0.0.1", "address to listen at")
_PORT = flags.DEFINE_integer("port", 8000, "port to listen at; 0 takes any", 0, 65535)
_TOKEN_FILE = flags.DEFINE_string(
    "token_file", "", "file of a token that requests must bring; needed if others reach --host"
)
_RUNTIME = flags.DEFINE_enum(
    "runtime", None, ["jax", "onnxruntime"], "what runs an exported model; its own if not given"
)
_MEGABYTES = flags.DEFINE_float("max_megabytes", 32, "size of a request's body", 0.001, 1024)
_PIXELS = flags.DEFINE_float("max_pixels", 50e6, "pixels of an image", 1)
_TIMEOUT = flags.DEFINE_float("timeout", 30, "seconds in which a body must arrive", 0.1, 3600)
_WAIT = flags.DEFINE_float(
    "max_wait_ms", 2, "milliseconds that an image waits for others to be judged with it", 0, 1000
)
_QUEUE = flags.DEFINE_integer("queue", 256, "images under way at once, of a model", MAX_IMAGES)


def run() -> None:
    """Serves the models of the flags until it is told to stop."""
    found = server.folders(_MODEL.value)
    secret = server.token(_TOKEN_FILE.value) if _TOKEN_FILE.value else ""
    options = Options(
        max_bytes=int(1e6 * _MEGABYTES.value),
        max_pixels=int(_PIXELS.value),
        timeout=_TIMEOUT.value,
        max_wait=_WAIT.value / 1e3,
        queue=_QUEUE.value,
        token=secret,
        hosts=server.hosts(_HOST.value, secret),
    )
    use_compilation_cache()
    asked = {"runtime": _RUNTIME.value} if _RUNTIME.value else {}

    def load(folder: Path) -> Detector:
        return cae_jax.load(folder, **asked)

    models = Models(found, load, options)
    app = make(models, options, None)
    server.run(app, models, options, server.listen(_HOST.value, _PORT.value))


if __name__ == "__main__":
    command_line.main(run, [])
