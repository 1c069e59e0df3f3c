"""From the distances of good images to the distance above which an image is called defective.

Thesis, Sec. 4.1.6: try every good distance as the threshold, collect the accuracies on the good
images, and take the best of the lowest 100, 90, 80 or 70 % of them. That is the k-th smallest good
distance. The thesis takes the good images of the *test* set, so its thresholds have seen what they
are judged on; the same rule on held-out validation images has not.

Rule "conformal" is another rank of the validation distances, the one whose false-alarm rate is
guaranteed (Vovk, Gammerman, Shafer 2005; Bates et al., Annals of Statistics 51, 2023). Rule
"min_area" is a threshold of residual maps, see `segmentation`. Rule "f1_best" is picked on the
labelled test images: a bound for the others and no rule to work by.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

from cae_jax.evaluation import metrics
from cae_jax.types import UsageError, unknown_name

PERCENTS = (100, 90, 80, 70)
ALPHAS = (10, 5)  # false-alarm rates of the conformal thresholds, in percent
RULES = ("ceil", "exclusive")  # of `rank`
TEST_GOOD = "test good"
TEST_LABELLED = "labelled test"
VALIDATION_GOOD = "validation good"


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A threshold and where it comes from: a `distance <= value` is called good."""

    value: float  # a distance; with rule "min_area", a value of the residual map
    rule: str  # one of RULES, "conformal", "min_area" or "f1_best"
    source: str  # TEST_GOOD, TEST_LABELLED or VALIDATION_GOOD
    percent: int | None  # 1..100: the share wanted good; None where the rule asks for none
    n: int  # how many images it was picked on

    @property
    def leaks(self) -> bool:
        """Whether it was picked on images that it is judged on."""
        return self.source != VALIDATION_GOOD


def rank(percent: int, n: int, rule: str = "ceil") -> int:
    """Returns k in 1..n: the threshold is the k-th smallest of `n` good distances.

    Rule "ceil", k = ceil(percent n / 100), is the text of Sec. 4.1.6 and calls at least `percent` %
    good; "exclusive", k = floor(percent (n + 1) / 100), comes nearest to the printed tables.
    Integers throughout: 0.7 * n rounds wrongly in floats. Raises UsageError for an unknown rule or
    a percent that is no integer in 1..100.
    """
    if rule not in RULES:
        raise unknown_name("threshold rule", rule, RULES)
    if not _is_integer(percent) or not 1 <= percent <= 100:
        raise UsageError(f"percent must be an integer from 1 to 100, got {percent!r}")
    if rule == "ceil":
        return -(-percent * n // 100)
    return max(1, min(n, percent * (n + 1) // 100))


def from_good(
    distances: ArrayLike, percent: int, rule: str = "ceil", source: str = TEST_GOOD
) -> Threshold:
    """Returns the threshold that `rule` picks from the distances [n] of good images.

    Raises UsageError for an unknown rule or source and a percent outside 1..100, ValueError for
    distances that are empty or not finite.
    """
    if source not in (TEST_GOOD, VALIDATION_GOOD):
        raise unknown_name("threshold source", source, (TEST_GOOD, VALIDATION_GOOD))
    good = _not_empty(distances)
    k = rank(percent, good.size, rule)
    return Threshold(float(np.sort(good)[k - 1]), rule, source, int(percent), good.size)


def p_values(validation: ArrayLike, distances: ArrayLike) -> np.ndarray:
    """Returns how usual each of the distances [m] is among the good `validation` ones [n].

    p = (1 + #{validation >= distance}) / (n + 1), float64 [m] in [1 / (n + 1), 1]. A good image
    has p <= alpha with a chance of at most alpha, if it and the validation images are exchangeable
    (Vovk, Gammerman, Shafer 2005). NaN without validation images. Raises ValueError for distances
    that are not finite.
    """
    good = np.sort(metrics.finite("validation distances", validation))
    distances = metrics.finite("distances", distances)
    if good.size == 0:
        return np.full(distances.shape, np.nan)
    at_least = good.size - np.searchsorted(good, distances, "left")
    return (1 + at_least) / (good.size + 1)


def conformal(validation: ArrayLike, alpha: int) -> Threshold:
    """Returns the threshold above which `p_values` are at most `alpha` percent.

    The k-th smallest of the n validation distances, k = ceil((n + 1) (1 - alpha / 100)): a good
    image is called defective with a chance of at most `alpha` percent, whatever the distances'
    distribution, over the draw of validation images and image together (Bates et al. 2023).
    Infinite with n < 100 / alpha - 1, where no finite threshold can promise that. `percent` is
    100 - alpha.

    Raises UsageError for an alpha that is no integer in 1..99, ValueError for distances that are
    empty or not finite.
    """
    if not _is_integer(alpha) or not 1 <= alpha <= 99:
        raise UsageError(f"alpha must be an integer from 1 to 99 (percent), got {alpha!r}")
    good = _not_empty(validation)
    percent = 100 - int(alpha)
    k = -(-(good.size + 1) * percent // 100)
    value = float(np.sort(good)[k - 1]) if k <= good.size else math.inf
    return Threshold(value, "conformal", VALIDATION_GOOD, percent, good.size)


def oracle_f1(good: ArrayLike, defective: ArrayLike) -> Threshold:
    """Returns the threshold with the best F1 on the test distances `good` [n], `defective` [m].

    See `metrics.f1_max`. It is picked by the labels that it is judged by. Raises ValueError for
    distances that are empty or not finite.
    """
    good, defective = _not_empty(good), _not_empty(defective)
    labels = np.repeat([0, 1], [good.size, defective.size])
    _, value = metrics.f1_max(labels, np.concatenate([good, defective]))
    return Threshold(value, "f1_best", TEST_LABELLED, None, labels.size)


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _not_empty(distances: ArrayLike) -> np.ndarray:
    distances = metrics.finite("good distances", distances)
    if distances.size == 0:
        raise ValueError("a threshold needs at least one good distance, got none")
    return distances
