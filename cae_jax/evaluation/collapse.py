"""Whether an adversarial training has collapsed, read from its history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

SAMPLES, CROPS = "sample_variance", "crop_variance"
# Below this share of the crops' variance, generated crops deviate from their mean by less than 22 %
# (a root) of what real ones do: one crop with noise, and every image is judged by how far it is.
# A generator that has learned makes about as much as the crops; one with a few modes of equal
# crops may lie above and pass unseen.
_SHARE = 0.05


def warning(history: Sequence[Mapping[str, float]]) -> str:
    """Returns what is wrong with a finished training's generator, or "".

    By the names of its metrics, whichever method has them: in the last epoch whose `crop_variance`
    is above 0 (a later phase may leave both at 0), `sample_variance` under 5 % of it.

    Args:
      history: a row an epoch, of metrics by name.
    """
    for row in reversed(history):
        of_samples, of_crops = (float(row.get(name, math.nan)) for name in (SAMPLES, CROPS))
        if of_crops > 0:
            if of_samples >= _SHARE * of_crops:
                return ""
            return (
                f"the generator has collapsed: in epoch {row['epoch']:g} its crops varied "
                f"{of_samples / of_crops:.1%} as much as real ones ({SAMPLES} and {CROPS} in "
                "history.csv); scores are distances from about one crop. Another --seed or a lower "
                "--learning_rate may help"
            )
    return ""
