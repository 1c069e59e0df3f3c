"""Nearest neighbours against scikit-learn, and the coreset against loops."""

import re

import jax
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from cae_jax.methods.neighbors import coreset, nearest, project

KEY = jax.random.key(0)


@pytest.mark.parametrize(("q", "m", "d"), [(1, 1, 3), (7, 5, 1), (40, 33, 17), (16, 90, 200)])
@pytest.mark.parametrize("at_once", [1, 8, 1000])
@pytest.mark.parametrize("k", [1, 4])
def test_nearest(rng, q, m, d, at_once, k):
    k = min(k, m)
    # a common part that is large beside the differences
    queries, memory = (3 + rng.normal(size=(n, d)).astype("f") for n in (q, m))
    found = jax.jit(nearest, static_argnums=(2, 3))(queries, memory, k, at_once)
    expected = NearestNeighbors(n_neighbors=k).fit(memory).kneighbors(queries)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-4)
    np.testing.assert_array_equal(found[1], expected[1])


def test_a_member_is_its_own_neighbour_at_0(rng):
    memory = (100 + rng.normal(size=(50, 8))).astype("f")
    distances, indices = nearest(memory, memory, 1, 7)
    np.testing.assert_array_equal(distances, 0)
    np.testing.assert_array_equal(indices[:, 0], np.arange(50))


def greedy(vectors, first, count):
    """The farthest from those chosen, again and again."""
    chosen = [first]
    while len(chosen) < count:
        away = [
            -1 if i in chosen else min(np.linalg.norm(v - vectors[j]) for j in chosen)
            for i, v in enumerate(vectors)
        ]
        chosen.append(int(np.argmax(away)))
    return chosen


@pytest.mark.parametrize(("n", "d", "count"), [(1, 3, 1), (9, 1, 9), (40, 5, 13), (25, 30, 25)])
def test_coreset_is_greedy(rng, n, d, count):
    vectors = rng.normal(size=(n, d)).astype("f")
    found = jax.jit(coreset, static_argnums=2)(vectors, n // 2, count)
    np.testing.assert_array_equal(found, greedy(vectors.astype(float), n // 2, count))
    assert found[0] == n // 2  # the one that it starts with is in it


def test_a_coreset_of_equal_vectors_has_each_once():
    vectors = np.ones((6, 2), np.float32)
    assert sorted(coreset(vectors, 3, 6).tolist()) == list(range(6))


def test_a_coreset_covers_better_than_chance(rng):
    vectors = rng.normal(size=(300, 4)).astype("f")
    chosen, drawn = coreset(vectors, 0, 20), rng.permutation(300)[:20]
    reach = [nearest(vectors, vectors[np.asarray(i)])[0].max() for i in (chosen, drawn)]
    assert reach[0] < reach[1]


def test_projection_nearly_keeps_distances(rng):
    vectors = rng.normal(size=(30, 500)).astype("f")
    found = project(KEY, vectors, 128)
    assert found.shape == (30, 128)
    ratios = np.linalg.norm(found[1:] - found[0], axis=1)
    ratios /= np.linalg.norm(vectors[1:] - vectors[0], axis=1)
    assert np.abs(ratios - 1).max() < 0.3
    np.testing.assert_array_equal(found, project(KEY, vectors, 128))
    assert np.any(found != project(jax.random.key(1), vectors, 128))
    few = vectors[:, :128]
    assert project(KEY, few, 128) is few


def test_bad_numbers(rng):
    vectors = rng.normal(size=(5, 2)).astype("f")
    for count in (0, 6):
        with pytest.raises(ValueError, match=re.escape(f"{count} of 5 vectors: must be from 1")):
            coreset(vectors, 0, count)
        with pytest.raises(ValueError, match=re.escape(f"{count} neighbours of 5 vectors: must")):
            nearest(vectors, vectors, count)
