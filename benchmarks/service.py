"""Loads experiments.serve: overhead, many clients, memory, hostile bodies, an end under load.

The clients run in this process and share the machine with the server.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import numpy as np
from absl import flags

import cae_jax
from benchmarks import options, service_load, timing
from benchmarks.service_load import Load
from cae_jax.runs import command_line
from cae_jax.scoring import compilation
from cae_jax.serving import folder
from cae_jax.serving.detector import MANY

_CLIENTS = flags.DEFINE_integer("clients", 200, "at once", 1)
_SECONDS = flags.DEFINE_float("seconds", 60, "of the load", 0)
_REQUESTS = flags.DEFINE_integer("requests", 20_000, "between the first and last look at memory", 0)
_HOSTILE = flags.DEFINE_integer("hostile", 2000, "bodies", 0)
_LOOKS, _FEW = 10, 8


def run() -> None:
    """Measures what the flags ask for, one part after the other, on one server."""
    model = command_line.needed("model", "an exported folder, or a run's workdir")
    root = command_line.needed("images", "a folder of images to send")
    paths = folder.find(root)[:64]
    images = [Path(root, path).read_bytes() for path in paths]
    kind = "image/png" if paths[0].endswith(".png") else "image/jpeg"
    compilation.use_cache()
    detector = cae_jax.load(model)
    detector.warm_up()
    records: list[dict[str, object]] = []
    with service_load.server(model) as (process, port), asyncio.Runner() as runner:
        alone = service_load.Connection(port)
        post = (f"/predict?model={service_load.MODEL}", {"Content-Type": kind}, images[0])
        calls = {
            timing.OURS: lambda: detector.score(images[0]),
            "batch": lambda: detector.score_batch((images * MANY)[:MANY]),
            "service": lambda: runner.run(alone.post(*post)),
        }
        seconds = timing.interleaved(calls, flags.FLAGS.repeats)
        over = [1e3 * (f(seconds["service"]) - f(seconds[timing.OURS])) for f in (np.median, min)]
        found = timing.milliseconds(seconds)
        records.append({"overhead_ms": over[0], "of_least_ms": over[1], "milliseconds": found})

        load = Load(port, images, kind)
        wall = runner.run(load.run(_CLIENTS.value, _SECONDS.value))
        batch = MANY * 1e3 / found["batch"]["median"]
        records.append({"clients": _CLIENTS.value, "bare_images_per_second": batch}
                       | load.record(wall))  # fmt: skip

        load, memory = Load(port, images, kind), [service_load.resident_mb(process)]
        for i in range(_LOOKS if _REQUESTS.value else 0):
            runner.run(load.run(_FEW, np.inf, _REQUESTS.value * (i + 1) // _LOOKS))
            memory.append(service_load.resident_mb(process))
        records.append({"requests": load.sent, "lost": load.lost, "memory_mb": memory})

        records.append(service_load.attack(port, _HOSTILE.value))
        records[-1]["memory_mb"] = service_load.resident_mb(process)
        load = Load(port, images, kind)
        runner.get_loop().call_later(3, process.send_signal, signal.SIGTERM)
        wall = runner.run(load.run(_CLIENTS.value, 600))
        records.append({"sigterm": load.record(wall), "exit_code": process.wait()})
    options.finish([*records, timing.environment(["uvicorn", "fastapi"])])


if __name__ == "__main__":
    flags.DEFINE_string("model", "", "an exported folder, or the workdir of a run")
    flags.DEFINE_string("images", "", "a folder of images to send")
    options.define(repeats=100)
    command_line.main(run, [])
