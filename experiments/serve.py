"""Serves models over HTTP: /predict, /v2 (Open Inference Protocol), /metrics, /docs.

A model is the folder that experiments.export wrote, which is loaded anew when it is replaced, or
the workdir of experiments.run.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

import cae_jax
from cae_jax.runs import command_line
from cae_jax.scoring import compilation
from cae_jax.serving.detector import Detector
from cae_jax.serving.service import flags as serving
from cae_jax.serving.service import server

_MODEL = flags.DEFINE_multi_string("model", [], "DIR or NAME=DIR of a model; several are possible")
_RUNTIME = flags.DEFINE_enum(
    "runtime", None, ["jax", "onnxruntime"], "what runs an exported model; its own if not given"
)


def run() -> None:
    """Serves the models of the flags until it is told to stop."""
    folders = server.folders(_MODEL.value)
    asked = {"runtime": _RUNTIME.value} if _RUNTIME.value else {}

    def load(folder: Path) -> Detector:
        return cae_jax.load(folder, **asked)

    compilation.use_cache()
    serving.run(folders, load)


if __name__ == "__main__":
    serving.define()
    command_line.main(run, [])
