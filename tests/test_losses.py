"""Losses against loops."""

import numpy as np
import pytest

from cae_jax import losses


@pytest.mark.parametrize("shape", [(3, 5, 7, 1), (2, 4, 3, 3)])
def test_l2_is_the_mean_over_a_patch(rng, shape):
    x, y = rng.random((2, *shape), np.float32)
    expected = []
    for a, b in zip(x, y, strict=True):
        squares = [(float(p) - float(q)) ** 2 for p, q in zip(a.flat, b.flat, strict=True)]
        expected.append(sum(squares) / len(squares))
    found = losses.l2(x, y)
    assert found.shape == (shape[0],)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_l2_does_not_broadcast(rng):
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 1\) and \(1, 4, 4, 1\)"):
        losses.l2(rng.random((2, 4, 4, 1)), rng.random((1, 4, 4, 1)))
