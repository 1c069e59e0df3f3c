"""The memory of features against loops and scikit-learn in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from cae_jax import methods, options
from cae_jax.methods import feature_memory
from cae_jax.methods.feature_memory import Head, Options, drawn, reweighted
from cae_jax.methods.features import aligned
from cae_jax.methods.options.feature_memory import SCORINGS
from cae_jax.scoring import scorer
from cae_jax.scoring.residuals import Reduction
from cae_jax.types import UsageError

KEY = jax.random.key(0)
KERNEL = np.random.default_rng(1).normal(size=(3, 6)).astype("f")


def extract(variables, images):
    return {"fine": jnp.abs(images @ KERNEL), "deep": images[:, ::2, ::2] @ KERNEL[:, :2]}


def tiny(side=4, uneven=False, around=3):
    return aligned(extract, {}, side, 3, around)._replace(uneven=uneven)


def fitted(o, images, key=KEY, **kinds):
    found = tiny(images.shape[1], **kinds)
    method = feature_memory.of_features(o, found)
    return method, jax.jit(method.learn.fit)(key, images), np.asarray(found.of(images), float)


@pytest.mark.parametrize("scoring", SCORINGS)
@pytest.mark.parametrize(("n", "share"), [(1, 1.0), (5, 0.25), (9, 0.01), (9, 1.0)])
def test_maps_and_numbers(rng, scoring, n, share):
    good, images = rng.random((n, 4, 4, 3), np.float32), rng.random((3, 4, 4, 3), np.float32)
    method, variables, x = fitted(Head(coreset=share, memory_scoring=scoring), good)
    memory = np.asarray(variables["params"]["memory"], float)
    assert len(memory) == max(1, round(share * n * 16))
    rows = {tuple(row) for row in x.reshape(-1, 8).round(4)}
    assert all(tuple(row) in rows for row in memory.round(4))  # members are features
    found = jax.jit(method.inspect)(variables, images)
    tested = np.asarray(tiny().of(images), float)
    distances, members = (
        each.reshape(3, 16)
        for each in NearestNeighbors(n_neighbors=1).fit(memory).kneighbors(tested.reshape(-1, 8))
    )
    power = 2 if scoring == "official" else 1
    np.testing.assert_allclose(found.maps["nearest"].reshape(3, 16), distances**power, rtol=1e-4)
    if scoring == "official":
        assert found.numbers == {}
        return
    expected = []
    for i in range(3):
        at = distances[i].argmax()
        expected.append(by_equation_7(tested[i].reshape(16, 8)[at], memory, members[i, at]))
    np.testing.assert_allclose(found.numbers["nearest"], expected, rtol=1e-4)


def by_equation_7(worst, memory, member):
    """As the paper prints it, with nine neighbours, the nearest member first among them."""
    s = np.linalg.norm(worst - memory[member])
    if len(memory) == 1:
        return s
    beside = memory[np.argsort(np.linalg.norm(memory - memory[member], axis=1))[:9]]
    return (1 - np.exp(s) / np.exp(np.linalg.norm(worst - beside, axis=1)).sum()) * s


def test_a_far_point_has_a_finite_number(rng):
    """exp of a distance of hundreds is beyond float32, the quotient of two is not."""
    memory = rng.normal(size=(30, 4)).astype("f")
    worst = np.full((1, 4), 300, np.float32)
    member = np.linalg.norm(memory - worst, axis=1).argmin()[None]
    distance = np.linalg.norm(memory[member] - worst, axis=1)
    found = reweighted(worst, memory, member, distance)
    expected = by_equation_7(worst[0].astype(float), memory.astype(float), member[0])
    np.testing.assert_allclose(found, [expected], rtol=1e-4)


def test_the_house_takes_the_number_where_there_is_one(rng):
    good, images = rng.random((4, 4, 4, 3), np.float32), rng.random((2, 4, 4, 3), np.float32)
    for scoring in SCORINGS:
        method, variables, _ = fitted(Head(coreset=0.5, memory_scoring=scoring), good)
        call = scorer.scorer(method.inspect, Reduction(("nearest",), reduce="max"))
        scores, found = call(variables, images), method.inspect(variables, images)
        expected = found.numbers.get("nearest", found.maps["nearest"].max(axis=(1, 2)))
        np.testing.assert_allclose(scores.distances["nearest"], expected, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 3, 8, 11])
@pytest.mark.parametrize("at_most", [1, 20, 10_000])
def test_drawn_features(rng, n, at_most):
    """As many of every image, each point at most once; in order where all are there."""
    images = rng.random((n, 4, 4, 3), np.float32)
    found = np.asarray(
        jax.jit(lambda key, images: drawn(tiny(), key, images, at_most))(KEY, images)
    )
    x = np.asarray(tiny().of(images)).reshape(n, 16, 8)
    each = min(16, max(1, at_most // n))
    assert found.shape == (n * each, 8)
    for i, own in enumerate(found.reshape(n, each, 8)):
        apart = np.abs(own[:, None] - x[i]).max(axis=-1)
        np.testing.assert_array_less(apart.min(axis=1), 1e-5)
        assert len(set(apart.argmin(axis=1).tolist())) == each
        if each == 16:
            np.testing.assert_array_equal(apart.argmin(axis=1), np.arange(16))


def test_seeds(rng):
    good = rng.random((5, 4, 4, 3), np.float32)
    o = Head(coreset=0.2, candidates=40)
    memories = [
        np.asarray(fitted(o, good, jax.random.key(seed))[1]["params"]["memory"])
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(memories[0], memories[1])
    assert np.any(memories[0] != memories[2])


def test_uneven_channels_are_divided_by_their_deviation(rng):
    good, images = rng.random((5, 4, 4, 3), np.float32), rng.random((2, 4, 4, 3), np.float32)
    method, variables, x = fitted(Head(coreset=1.0), good, uneven=True)
    by = x.std(axis=(0, 1, 2))
    np.testing.assert_allclose(variables["params"]["divide"], by, rtol=1e-4)
    tested = np.asarray(tiny().of(images), float).reshape(-1, 8) / by
    expected = NearestNeighbors(n_neighbors=1).fit(x.reshape(-1, 8) / by).kneighbors(tested)[0]
    found = method.inspect(variables, images).maps["nearest"]
    np.testing.assert_allclose(found.reshape(-1, 1), expected, rtol=1e-3)


def test_a_good_image_seen_before_is_at_0(rng):
    good = rng.random((3, 4, 4, 3), np.float32)
    method, variables, _ = fitted(Head(coreset=1.0), good)
    np.testing.assert_allclose(method.inspect(variables, good).maps["nearest"], 0, atol=1e-5)


def test_jit_equals_eager_and_no_score_knows_its_batch(rng):
    good, images = rng.random((5, 4, 4, 3), np.float32), rng.random((3, 4, 4, 3), np.float32)
    method, variables, _ = fitted(Head(coreset=0.3), good)
    eager = method.learn.fit(KEY, good)
    memory = variables["params"]["memory"]
    np.testing.assert_allclose(memory, eager["params"]["memory"], rtol=1e-4, atol=1e-5)
    whole = method.inspect(variables, images)
    for i, image in enumerate(images):
        one = jax.jit(method.inspect)(variables, image[None])
        np.testing.assert_allclose(whole.maps["nearest"][i], one.maps["nearest"][0], rtol=1e-4)
        np.testing.assert_allclose(
            whole.numbers["nearest"][i], one.numbers["nearest"][0], rtol=1e-4
        )


def test_which_flags_are_judged_anew():
    assert "memory_scoring" in options.in_part(options.fields(Options), options.SCORING)
    assert {"coreset", "candidates", "stages"} <= set(
        options.in_part(options.fields(Options), options.IDENTITY)
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"memory_scoring": "papr"}, "unknown --memory_scoring 'papr': did you mean paper?"),
        ({"coreset": 1.1}, "--coreset=1.1: must be from 0 to 1"),
        ({"coreset": 0.0}, "--coreset=0.0: must be above 0"),
        ({"candidates": 0}, "--candidates=0: must be at least 1"),
    ],
)
def test_bad_options(flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        methods.build("feature_memory", Options(features="filter_bank", **flags), 16, 1)


def test_no_image():
    with pytest.raises(ValueError, match="no good image"):
        fitted(Head(), np.ones((0, 4, 4, 3), np.float32))
