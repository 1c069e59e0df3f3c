"""From the distances of good images to the distance above which an image is called defective.

Thesis, Sec. 4.1.6: try every good distance as the threshold, collect the accuracies on the good
images, and take the best of the lowest 100, 90, 80 or 70 % of them. That is the k-th smallest good
distance. The thesis takes the good images of the *test* set, so its thresholds have seen what they
are judged on; the same rule on good images that the model has not seen has not. There are two sorts
of those, and they promise different things:

VALIDATION_GOOD, held out of training. They and a new good image are scored by one model that has
seen neither, so they are exchangeable if the images are, and the rank of rule "conformal" has the
false-alarm rate that it names, at most and whatever the number of images (Vovk, Gammerman, Shafer
2005; Bates et al., Annals of Statistics 51, 2023).

OUT_OF_FOLD, all training images, each scored by a model that was fitted without its fold
(`training.cross_fit`), while a new image is scored by the model fitted to all of them. That is the
jackknife's way, by folds. Nothing is promised for every method and every n: where a method is not
stable, the rate can be anything (Barber, Candes, Ramdas, Tibshirani, "Predictive inference with the
jackknife+", Annals of Statistics 49, 2021). Where leaving out a fold hardly changes a score, the
rate is about the one named, and what the fold's model lacks in images makes its distances larger,
which errs to fewer false alarms. Cross-conformal prediction (Vovk, Annals of Mathematics and
Artificial Intelligence 74, 2015) does promise: of K folds, a rate of at most 2 alpha +
2 (1 - alpha) (K - 1) / (n + K). But it scores a new image by the models of all folds, as CV+
(Barber et al.) does, and has no one threshold; it is not computed here.

Rule "false_alarms" is the rank of "conformal" for a rate that the user asks for. Rule "min_area" is
a threshold of residual maps, see `segmentation`. Rule "f1_best" is picked on the labelled test
images: a bound for the others and no rule to work by.
"""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike

from cae_jax.evaluation import metrics
from cae_jax.types import UsageError, unknown_name

PERCENTS = (100, 90, 80, 70)
ALPHAS = (10, 5)  # false-alarm rates of the conformal thresholds, in percent
MAX_RATE = 0.5  # of false alarms that can be asked for
RULES = ("ceil", "exclusive")  # of `rank`
TEST_GOOD = "test good"
TEST_LABELLED = "labelled test"
VALIDATION_GOOD = "validation good"
OUT_OF_FOLD = "out-of-fold good"
UNSEEN = (VALIDATION_GOOD, OUT_OF_FOLD)  # by the model that scored them


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A threshold and where it comes from: a `distance <= value` is called good."""

    value: float  # a distance; with rule "min_area", a value of the residual map
    rule: str  # one of RULES, "conformal", "false_alarms", "min_area" or "f1_best"
    source: str  # TEST_GOOD, TEST_LABELLED, VALIDATION_GOOD or OUT_OF_FOLD
    percent: int | None  # 1..100: the share wanted good; None where the rule asks for none
    n: int  # how many images it was picked on
    # of false alarms, as wanted; of "false_alarms", and of "conformal" at no whole percent
    rate: float | None = None

    @property
    def leaks(self) -> bool:
        """Whether it was picked on images that it is judged on."""
        return self.source not in UNSEEN

    @property
    def rank(self) -> int | None:
        """k in 1..n: it is the k-th smallest of its n good distances; None for a rule that takes no
        such rank, and for an infinite threshold."""
        if self.rule in RULES and self.percent is not None:
            return rank(self.percent, self.n, self.rule)
        if self.rule == "conformal" and self.percent is not None:
            k = _rank_at_rate(self.n, Fraction(100 - self.percent, 100))
        elif self.rule in ("conformal", "false_alarms") and self.rate is not None:
            k = _rank_at_rate(self.n, _exact(self.rate))
        else:
            return None
        if self.rule == "false_alarms":
            return min(k, self.n)
        return k if k <= self.n else None


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
    _check_source(source, TEST_GOOD, *UNSEEN)
    good = _not_empty(distances)
    k = rank(percent, good.size, rule)
    return Threshold(float(np.sort(good)[k - 1]), rule, source, int(percent), good.size)


def p_values(unseen: ArrayLike, distances: ArrayLike) -> np.ndarray:
    """Returns how usual each of the distances [m] is among those of `unseen` good images [n].

    p = (1 + #{unseen >= distance}) / (n + 1), float64 [m] in [1 / (n + 1), 1]. A good image has
    p <= alpha with a chance of at most alpha, if it and the unseen images are exchangeable (Vovk,
    Gammerman, Shafer 2005): those held out are, those out of fold but nearly, see above. NaN
    without such images. Raises ValueError for distances that are not finite.
    """
    good = np.sort(metrics.finite("unseen distances", unseen))
    distances = metrics.finite("distances", distances)
    if good.size == 0:
        return np.full(distances.shape, np.nan)
    at_least = good.size - np.searchsorted(good, distances, "left")
    return (1 + at_least) / (good.size + 1)


def conformal(unseen: ArrayLike, alpha: int, source: str = VALIDATION_GOOD) -> Threshold:
    """Returns the threshold above which `p_values` are at most `alpha` percent.

    The k-th smallest of the n `unseen` distances, k = ceil((n + 1) (1 - alpha / 100)): of images
    held out, a good one is called defective with a chance of at most `alpha` percent, whatever the
    distances' distribution, over the draw of the n images and that one together (Bates et al.
    2023). Infinite with n < 100 / alpha - 1, where no finite threshold can promise that. `percent`
    is 100 - alpha.

    Raises UsageError for an alpha that is no integer in 1..99 and an unknown source, ValueError for
    distances that are empty or not finite.
    """
    if not _is_integer(alpha) or not 1 <= alpha <= 99:
        raise UsageError(f"alpha must be an integer from 1 to 99 (percent), got {alpha!r}")
    _check_source(source, *UNSEEN)
    good = _not_empty(unseen)
    value = _at_rate(good, Fraction(int(alpha), 100))
    return Threshold(value, "conformal", source, 100 - int(alpha), good.size)


def conformal_at(unseen: ArrayLike, rate: float, source: str = VALIDATION_GOOD) -> Threshold:
    """Returns `conformal` at any rate in (0, MAX_RATE]; raises as `false_alarms`."""
    exact = _exact(rate)
    _check_source(source, *UNSEEN)
    good = _not_empty(unseen)
    percent = 100 * (1 - exact)
    whole = int(percent) if percent.denominator == 1 else None
    own = None if whole is not None else float(rate)
    return Threshold(_at_rate(good, exact), "conformal", source, whole, good.size, own)


def false_alarms(unseen: ArrayLike, rate: float, source: str = VALIDATION_GOOD) -> Threshold:
    """Returns the threshold for the false-alarm rate that is wanted: `conformal` at any rate.

    With fewer than `images_needed` images no finite threshold can promise that rate, and it is the
    largest distance: the strictest rate that n images allow, 1 / (n + 1), see `promised`.

    Raises UsageError for a rate outside (0, MAX_RATE] and an unknown source, ValueError for
    distances that are empty or not finite.
    """
    exact = _exact(rate)
    _check_source(source, *UNSEEN)
    good = _not_empty(unseen)
    value = min(_at_rate(good, exact), float(good.max()))
    return Threshold(value, "false_alarms", source, None, good.size, float(rate))


def images_needed(rate: float) -> int:
    """Returns the fewest good images n with which a finite threshold can promise a false-alarm
    rate: 1 / (n + 1) is at most `rate`. Raises UsageError for a rate outside (0, MAX_RATE]."""
    return math.ceil(1 / _exact(rate)) - 1


def few(n: int) -> str | None:
    """Returns what so few unseen good images, n, cannot tell, in words; None for enough, and for
    none at all, which have no p-value to mistake."""
    needed = {alpha: images_needed(alpha / 100) for alpha in sorted(ALPHAS, reverse=True)}
    if not 0 < n < max(needed.values()):
        return None
    rates = ", ".join(f"{alpha} % needs {count}" for alpha, count in needed.items())
    same = (
        ""
        if rank(PERCENTS[1], n) > rank(PERCENTS[-1], n)
        else (f"thresholds at {PERCENTS[-1]} to {PERCENTS[0]} % of them are one number, ")
    )
    return (
        f"only {n} unseen good image{'s' * (n > 1)} to set thresholds by: {same}no p-value is "
        f"below {1 / (n + 1):.3g}, and of false-alarm rates {rates} of them"
    )


def promised(rate: float, n: int) -> float:
    """Returns the false-alarm rate of `false_alarms`: as wanted, or 1 / (n + 1) with too few of
    n images. Raises UsageError for a rate outside (0, MAX_RATE]."""
    return float(rate) if n >= images_needed(rate) else 1 / (n + 1)


def alarm_rate(k: int, n: int, level: float = 0.95) -> tuple[float, float, float]:
    """Returns the false-alarm rate to expect of the k-th smallest of n held-out good distances, and
    what that rate can come to with other n images: (mean, low, high), shares in (0, 1).

    A new good image and the n are one more draw of the same, so that it lies above with a chance of
    (n + 1 - k) / (n + 1), the mean. Of n independent images of a continuous distribution the rate
    of one such threshold is Beta(n + 1 - k, k) distributed (Vovk, "Conditional validity of
    inductive conformal predictors", Machine Learning 92, 2013), whose central `level` is low..high;
    with ties it is rather lower. Of images out of fold all of that is so but nearly, see above.

    Raises ValueError unless 1 <= k <= n and 0 < level < 1.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must be in 1..n, got k={k}, n={n}")
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    from scipy.stats import beta  # a second to import, which a --help need not wait for

    low, high = beta.ppf([(1 - level) / 2, (1 + level) / 2], n + 1 - k, k)
    return (n + 1 - k) / (n + 1), float(low), float(high)


def oracle_f1(good: ArrayLike, defective: ArrayLike) -> Threshold:
    """Returns the threshold with the best F1 on the test distances `good` [n], `defective` [m].

    See `metrics.f1_max`. It is picked by the labels that it is judged by. Raises ValueError for
    distances that are empty or not finite.
    """
    good, defective = _not_empty(good), _not_empty(defective)
    labels = np.repeat([0, 1], [good.size, defective.size])
    _, value = metrics.f1_max(labels, np.concatenate([good, defective]))
    return Threshold(value, "f1_best", TEST_LABELLED, None, labels.size)


def _at_rate(good: np.ndarray, rate: Fraction) -> float:
    """The k-th smallest, k = ceil((n + 1) (1 - rate)); infinite where k is more than n."""
    k = _rank_at_rate(good.size, rate)
    return float(np.sort(good)[k - 1]) if k <= good.size else math.inf


def _rank_at_rate(n: int, rate: Fraction) -> int:
    return math.ceil((n + 1) * (1 - rate))


def _exact(rate: float) -> Fraction:
    """The rate as it is written: 0.1 is a tenth, not the float beside it."""
    if not isinstance(rate, Real) or not 0 < rate <= MAX_RATE:
        raise UsageError(f"false_alarms must be above 0 and at most {MAX_RATE}, got {rate!r}")
    return Fraction(repr(float(rate)))


def _check_source(source: str, *known: str) -> None:
    if source not in known:
        raise unknown_name("threshold source", source, known)


def _is_integer(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _not_empty(distances: ArrayLike) -> np.ndarray:
    distances = metrics.finite("good distances", distances)
    if distances.size == 0:
        raise ValueError("a threshold needs at least one good distance, got none")
    return distances
