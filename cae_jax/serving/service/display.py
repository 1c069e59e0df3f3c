"""What the page with a service and the page without one have in common: files, words, numbers."""

from __future__ import annotations

import functools
import importlib.resources
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cae_jax.evaluation import thresholds
from cae_jax.evaluation.thresholds import Threshold
from cae_jax.reports.html import markup
from cae_jax.serving.service import drift

_SHARED = ("display.js", "intake.js", "camera.js", "strip.js", "words.js", "page.css")


def document(template: str) -> str:
    """Returns a page of `templates` as HTML."""
    return markup.environment(__package__).get_template(template).render()


def static_files(*names: str) -> dict[str, str]:
    """Returns files by name: `names` of `templates`, what every page has of them, and the report's
    own style and script."""
    return {
        **{name: markup.static_file(name) for name in ("report.css", "report.js")},
        **{name: text(name) for name in (*_SHARED, *names)},
    }


def about(model: Mapping[str, Any], threshold: Threshold, unseen: np.ndarray) -> dict[str, Any]:
    """Returns what a page shows of a model, as JSON knows it: NaN is None, infinity "inf".

    Args:
      model: title, method, version, distance, image_size and scale, as `detector.Model` has them.
      threshold: the one that counts.
      unseen: distances of good images that were not learned from, float64 [n]; n may be 0.
    """
    names = ("title", "method", "version", "distance", "image_size")
    return {
        **{name: model[name] for name in names},
        "scale": number(model["scale"]),
        "threshold": number(threshold.value),
        "chosen_on": chosen_on(threshold.source, threshold.n),
        "n": len(unseen),
        "band": drift.band(unseen),
    }


def chosen_on(source: str, n: int) -> str:
    """Returns in words what images a threshold was chosen on."""
    parts = "good part" if n == 1 else "good parts"
    if source in thresholds.UNSEEN:
        return f"chosen on {n} {parts} that the model did not learn from"
    return f"chosen on {n} test images"


def number(value: float) -> float | str | None:
    """Returns a number as JSON knows it: NaN is None, infinity "inf" or "-inf"."""
    if math.isnan(value):
        return None
    return str(value) if math.isinf(value) else value


@functools.cache
def text(name: str) -> str:
    """Returns a file of `templates`."""
    folder = importlib.resources.files(__package__) / "templates"
    return (folder / name).read_text(encoding="utf-8")
