"""One method in this process: what learning and scoring take, and the memory of both.

A method has the flags of the preset of its name, where there is one, else its defaults.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import production, timing
from cae_jax.runs import presets
from cae_jax.runs.config import Config
from cae_jax.types import Steps, Variables

_BATCHES = (1, 8)
_FITS = 1  # after the first: some take minutes


def settings_of(entry: str, image_size: int) -> Config:
    """Returns a method's resolved settings; features are lite0 where its weights are there."""
    given = presets.read(entry)
    auto = {"features": "auto"} if "features" in given.fields() else {}
    return given.changed(image_size=image_size, **auto).resolved()


def measure(settings: Config, n_images: int, repeats: int) -> dict[str, Any]:
    """Returns the record of a resolved config: it learns first and scores with that."""
    learned, record = _learning(settings, n_images, repeats)
    record["scoring"] = [_scoring(settings, batch, learned, repeats) for batch in _BATCHES]
    model = getattr(settings.options, "features", settings.label)
    return {
        **{"method": settings.method, "model": model, "channels": settings.channels},
        **{"image_size": settings.image_size, "images": n_images, "repeats": repeats},
        **record,
        "learned_mb": production.size_of(learned) / 1e6,
        "peak_memory_mb": timing.peak_memory_mb(),
    }


def _learning(s: Config, n_images: int, repeats: int) -> tuple[Variables, dict[str, Any]]:
    """What a fit leaves, or a step finds; and the seconds of that fit or step."""
    if isinstance(s.build().learn, Steps):
        stepping = production.training(s, n_images)
        step, processor = _spent(stepping.call, repeats)
        return stepping.variables, {
            "first_call_seconds": stepping.first_call_seconds,
            **{"step_ms": step * 1e3, "step_processor_ms": processor * 1e3},
            "learned_from": len(stepping.crops[0]),
        }
    fitted = production.fitting(s, n_images)
    fit, processor = _spent(fitted.call, _FITS)
    return fitted.variables, {
        "first_call_seconds": fitted.first_call_seconds,
        **{"fit_seconds": fit, "fit_processor_seconds": processor},
        "learned_from": n_images,
    }


def _scoring(s: Config, batch: int, learned: Variables, repeats: int) -> dict[str, float]:
    ready = production.scoring(s, batch, learned)
    seconds, processor = _spent(ready.calls[timing.OURS], repeats)
    return {
        "batch_size": batch,
        "ms_per_image": seconds * 1e3 / batch,
        "processor_ms_per_image": processor * 1e3 / batch,
        "first_call_seconds": ready.first_call_seconds,
        "compile_processor_seconds": ready.first_call_processor_seconds - processor,
    }


def _spent(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """The medians of a call's seconds and of its processor seconds; it was called before."""
    spent: list[float] = []

    def counted() -> None:
        began = time.process_time()
        call()
        spent.append(time.process_time() - began)

    seconds = timing.interleaved({timing.OURS: counted}, repeats, warm=True)
    return float(np.median(seconds[timing.OURS])), float(np.median(spent))
