"""k-means against scikit-learn's, and where groups are plain to see."""

import jax
import numpy as np
import pytest
from sklearn.cluster import KMeans

from cae_jax.methods.clusters import kmeans

RUN = jax.jit(kmeans, static_argnums=2)


def sum_of_squares(x, groups):
    return sum(((x[groups == g] - x[groups == g].mean(axis=0)) ** 2).sum() for g in set(groups))


@pytest.mark.parametrize("k", [2, 5])
def test_as_good_as_scikit_learn(rng, k):
    x = rng.random((40, 3), np.float32)
    groups = np.asarray(RUN(jax.random.key(0), x, k))
    assert set(groups.tolist()) == set(range(k))
    best = KMeans(k, n_init=50, random_state=0).fit(x).inertia_
    assert sum_of_squares(x, groups) <= 1.05 * best


def test_groups_far_apart_from_zero_are_found_and_the_key_decides_their_order(rng):
    kinds = rng.integers(0, 3, 21)
    x = (1000 + 0.1 * rng.standard_normal((21, 4)) + 5 * np.eye(4)[kinds]).astype("f")
    for seed in range(3):
        groups, again = (np.asarray(RUN(jax.random.key(seed), x, 3)) for _ in range(2))
        np.testing.assert_array_equal(groups, again)
        assert len({*zip(kinds.tolist(), groups.tolist(), strict=True)}) == 3


def test_as_many_groups_as_images_and_images_all_alike(rng):
    x = rng.random((4, 2), np.float32)
    assert sorted(np.asarray(RUN(jax.random.key(1), x, 4)).tolist()) == [0, 1, 2, 3]
    np.testing.assert_array_equal(RUN(jax.random.key(1), np.ones((4, 2), np.float32), 4), 0)
