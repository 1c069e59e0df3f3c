"""Puts trained models to work: over HTTP, or on what a camera writes into a folder.

A model is the folder that experiments.export wrote, or the workdir of experiments.run. Served are a
page for the shop floor, /predict, /v2 (Open Inference Protocol), /metrics and /docs; a folder that
is replaced is loaded anew. With --watch images are judged as they come, each once, and no port is
opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags

import cae_jax
from cae_jax.runs import command_line
from cae_jax.serving.detector import Detector
from cae_jax.serving.service import flags as serving
from cae_jax.serving.service import server
from cae_jax.serving.watch import flags as watching
from cae_jax.types import UsageError

_MODEL = flags.DEFINE_multi_string("model", [], "DIR or NAME=DIR of a model; several are possible")
_RUNTIME = flags.DEFINE_enum(
    "runtime", None, ["jax", "onnxruntime"], "what runs an exported model; its own if not given"
)


def run() -> None:
    """Serves the models of the flags, or watches a folder, until it is told to stop."""
    from cae_jax.scoring import compilation  # a --help need not wait for it

    folders = server.folders(_MODEL.value)
    asked: dict[str, Any] = {"runtime": _RUNTIME.value} if _RUNTIME.value else {}

    def load(folder: Path) -> Detector:
        return cae_jax.load(folder, **asked)

    compilation.use_cache()
    if not command_line.value("watch"):
        serving.run(folders, load)
    elif len(folders) > 1:
        raise UsageError(f"--watch: takes one --model, got {len(folders)}")
    else:
        watching.run(lambda: load(next(iter(folders.values()))))


if __name__ == "__main__":
    serving.define()
    watching.define()
    command_line.main(run, [])
