"""Scores that are no numbers stop whoever would judge by them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cae_jax.types import CaeError, Scores


def check_finite(scores: Scores[np.ndarray], names: Sequence[str]) -> None:
    """Raises CaeError for the first of the images so named with a distance or a residual map that
    is not finite."""
    for what, fields in (("distance", scores.distances), ("residual map", scores.residuals)):
        for kind, values in fields.items():
            finite = np.isfinite(values).all(axis=tuple(range(1, np.ndim(values))))
            if not finite.all():
                name = names[int(np.argmin(finite))]
                raise CaeError(f"{name}: the {what} {kind} is not finite; was it trained well?")
