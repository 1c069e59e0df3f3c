"""Scores of what counts: against loops over those pixels, and SciPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cae_jax.evaluation import pixel_metrics
from cae_jax.scoring import residuals, scorer
from cae_jax.scoring.residuals import Reduction
from cae_jax.types import Evidence, with_counts

RNG = np.random.default_rng(3)
MAPS = RNG.random((3, 9, 12)).astype(np.float32)
COUNTS = RNG.random((3, 9, 12)) < 0.6


@pytest.mark.parametrize(("reduce", "top"), [("sum", 0.1), ("max", 0.1), ("top", 0.07)])
def test_a_number_is_of_the_pixels_that_count(reduce, top):
    found = residuals.score_within(jnp.array(MAPS), COUNTS, Reduction((), 0, "", reduce, top))
    for value, each, counts in zip(found, MAPS, COUNTS, strict=True):
        inside = np.sort(each[counts])[::-1]
        k = int(np.ceil(round(top * len(inside), 6)))
        want = {"sum": inside.sum(), "max": inside[0], "top": inside[:k].mean()}[reduce]
        assert float(value) == pytest.approx(want, rel=1e-5)


def test_a_map_is_smoothed_over_what_counts():
    found = residuals.smooth_within(jnp.array(MAPS), COUNTS, Reduction((), 1.5))
    for got, each, counts in zip(found, MAPS, COUNTS, strict=True):
        some = ndimage.gaussian_filter(np.where(counts, each, 0).astype(np.float64), 1.5)
        share = ndimage.gaussian_filter(counts.astype(np.float64), 1.5)
        want = some / share
        np.testing.assert_allclose(got[counts], want[counts], rtol=1e-4)
        np.testing.assert_allclose(got[~counts], want[counts].min(), rtol=1e-4)


def test_the_scoring_call_knows_a_last_channel():
    """What does not count can be anything; the method's own number is not of a part."""

    def inspect(variables, images):
        assert images.shape[-1] == 1
        return Evidence({"d": images[..., 0]}, {"d": jnp.full(len(images), 7.0)})

    call = scorer.scorer(inspect, Reduction(("d",), 0, "reflect", "max"), channels=1)
    images = MAPS[..., None]
    assert call({}, images).distances["d"].tolist() == [7, 7, 7]
    found = call({}, with_counts(np.where(COUNTS[..., None], images, 9.0), COUNTS))
    want = [each[counts].max() for each, counts in zip(MAPS, COUNTS, strict=True)]
    np.testing.assert_allclose(found.distances["d"], want)
    assert float(found.residuals["d"].max()) < 1


def test_pixels_that_do_not_count_are_in_no_metric():
    masks = (RNG.random(MAPS.shape) < 0.2) & COUNTS
    found = pixel_metrics.summary(masks, MAPS, COUNTS)
    pairs = [(a > b) + 0.5 * (a == b) for a in MAPS[masks] for b in MAPS[~masks & COUNTS]]
    assert found["pixel_auroc"] == pytest.approx(np.mean(pairs))
    fpr, _ = pixel_metrics.pro_curve(masks, MAPS, COUNTS)
    assert np.isin(np.round(fpr * (~masks & COUNTS).sum(), 6) % 1, (0, 1)).all()
