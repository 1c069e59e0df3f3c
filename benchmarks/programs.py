"""Which programs a run compiles where nothing is in the cache, and for how long.

Without flags it is README's first command. The run lies in a folder that is taken away again.
"""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict

import jax

from benchmarks import options, timing
from cae_jax.runs import command_line, job
from cae_jax.runs.config import Config

_EVENT = "/jax/core/compile/backend_compile_duration"


def measure(settings: Config) -> dict[str, object]:
    """Returns the record of a run: each program's name, how often one of that name was compiled,
    of another shape or by another call, and the seconds of all; and the whole run's seconds."""
    found: dict[str, list[float]] = defaultdict(list)

    def hear(event: str, seconds: float, **about: object) -> None:
        if event == _EVENT:
            found[str(about.get("fun_name", "")).removeprefix("jit(").removesuffix(")")] += [
                seconds
            ]

    jax.monitoring.register_event_duration_secs_listener(hear)
    began, before = time.perf_counter(), jax.config.values["jax_compilation_cache_dir"]
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        job.run(settings.changed(workdir=folder))
        jax.config.update("jax_compilation_cache_dir", before)
    seconds = time.perf_counter() - began
    jax.monitoring.unregister_event_duration_listener(hear)
    named = sorted(found.items(), key=lambda each: -sum(each[1]))
    return {
        "run": f"{settings.dataset}, {settings.title}",
        "image_size": settings.image_size,
        "seconds": seconds,
        "processor_seconds": time.process_time(),  # imports among it
        "programs": [{"name": k, "times": len(v), "seconds": sum(v)} for k, v in named],
    }


def run() -> None:
    """Runs the flags' job and prints what it compiled."""
    options.finish([measure(command_line.given()) | timing.environment()])


if __name__ == "__main__":
    options.define(repeats=1)
    command_line.main(run, default_preset="quickstart")
