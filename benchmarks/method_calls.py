"""One method in this process: what learning and scoring take, and the memory of both.

A method has the flags of the preset of its name, where there is one, else its defaults, unless a
CPU takes half a minute for a step of these.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import production, timing
from cae_jax.runs import presets
from cae_jax.runs.config import Config
from cae_jax.types import Steps, Variables

_BATCHES = (1, 8)
_FITS = 1  # after the first: some take minutes
_PRESETS = {"f_anogan": "f_anogan_small"}  # its defaults' step is 3 TFLOP
_LONGEST = 60.0  # seconds of all turns of a batch: fewer than asked for where calls are long
_ALONE = 10.0  # seconds of our call, above which no other engine takes turns with it


def settings_of(entry: str, image_size: int) -> Config:
    """Returns a method's resolved settings; features are lite0 where its weights are there."""
    given = presets.read(_PRESETS.get(entry, entry))
    auto = {"features": "auto"} if "features" in given.fields() else {}
    return given.changed(image_size=image_size, **auto).resolved()


def measure(
    settings: Config, n_images: int, repeats: int, against: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the record of a resolved config: it learns first and scores with that.

    Args:
      settings: resolved.
      n_images: to learn from.
      repeats: timed calls of each.
      against: engines of `engines.GRAPH` that score the same images by turns.
    """
    learned, record = _learning(settings, n_images, repeats)
    ready = [production.scoring(settings, batch, learned) for batch in _BATCHES]
    peak = timing.peak_memory_mb()  # before other engines come
    record["scoring"] = [_scoring(one, repeats, against) for one in ready]
    model = getattr(settings.options, "features", settings.label)
    return {
        **{"method": settings.method, "model": model, "channels": settings.channels},
        **{"image_size": settings.image_size, "images": n_images, "repeats": repeats},
        **record,
        "learned_mb": production.size_of(learned) / 1e6,
        "peak_memory_mb": peak,
        "against": list(against),
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


def _scoring(ready: production.Scoring, repeats: int, against: Sequence[str]) -> dict[str, Any]:
    """What a call costs; of the engines against it their milliseconds an image, their time over
    ours, and how far off they are."""
    batch, theirs, errors = len(ready.images), {}, {}
    calls = {timing.OURS: ready.calls[timing.OURS]}
    (took,) = timing.interleaved(calls, 1, warm=True)[timing.OURS]
    if against and took < _ALONE:
        from benchmarks.engines import exported

        theirs, errors = exported.scoring(against, ready)
        calls |= theirs
        took += sum(each[0] for each in timing.interleaved(theirs, 1, warm=True).values())
    turns = max(1, min(repeats, int(_LONGEST / took)))
    seconds, processor = _by_turns(calls, turns)
    median = {name: float(np.median(each)) for name, each in seconds.items()}
    return {
        **{"batch_size": batch, "turns": turns},
        "ms_per_image": median[timing.OURS] * 1e3 / batch,
        "processor_ms_per_image": processor * 1e3 / batch,
        "first_call_seconds": ready.first_call_seconds,
        "compile_processor_seconds": ready.first_call_processor_seconds - processor,
        "their_ms_per_image": {name: median[name] * 1e3 / batch for name in theirs},
        "ratio": timing.ratios(seconds),
        "errors": errors,
    }


def _spent(call: Callable[[], object], repeats: int) -> tuple[float, float]:
    """The medians of a call's seconds and of its processor seconds; it was called before."""
    seconds, processor = _by_turns({timing.OURS: call}, repeats)
    return float(np.median(seconds[timing.OURS])), processor


def _by_turns(
    calls: dict[str, Callable[[], object]], repeats: int
) -> tuple[dict[str, list[float]], float]:
    """The seconds of calls that were called before, and the median of our processor seconds."""
    spent: list[float] = []

    def counted() -> None:
        began = time.process_time()
        calls[timing.OURS]()
        spent.append(time.process_time() - began)

    seconds = timing.interleaved({**calls, timing.OURS: counted}, repeats, warm=True)
    return seconds, float(np.median(spent))
