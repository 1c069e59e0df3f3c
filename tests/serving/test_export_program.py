"""Masks and verdicts of an exported program are those of the run."""

import jax.numpy as jnp
import numpy as np
import pytest

from cae_jax.evaluation import segmentation
from cae_jax.serving.export import program


@pytest.mark.parametrize("diameter", [0, 1, 2, 3, 4, 7])
def test_a_mask_is_opened_as_segmentation_opens_it(rng, diameter):
    maps = rng.random((2, 31, 22), np.float32)
    maps += np.kron(rng.random((2, 8, 6), np.float32) > 0.5, np.ones((1, 4, 4)))[:, :31, :22]
    wanted = segmentation.segment(maps, 0.9, diameter)
    found = program._opened(jnp.asarray(maps > 0.9), diameter)
    np.testing.assert_array_equal(found, wanted)
    assert wanted.any()


def test_a_threshold_in_float32_parts_the_same(rng):
    thresholds = rng.random(100)
    for threshold in (*thresholds, 0.5):
        near = np.float32(threshold)
        around = np.array([np.nextafter(near, np.float32(-1)), near, np.nextafter(near, 2 * near)])
        found = around > program._below(threshold)
        np.testing.assert_array_equal(found, around.astype(np.float64) > threshold)
    assert program._below(np.inf) == np.inf
