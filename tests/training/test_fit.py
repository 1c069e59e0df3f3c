"""Learning in one pass: compiled, the same bits from a seed, nothing that is not finite."""

from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cae_jax.training import fit
from cae_jax.types import CaeError, Fit, Method, Seen


def method_of(learn: Fit, frozen=MappingProxyType({})) -> Method:
    return Method(learn, lambda variables, images: None, ("none",), frozen)


def moments(traced: list) -> Fit:
    """The mean and covariance of the pixels, and some of the images by chance."""

    def learn(key, images):
        traced.append(type(images))
        pixels = images.reshape(-1, images.shape[-1])
        mean = pixels.mean(axis=0)
        off = pixels - mean
        chosen = images[jax.random.choice(key, len(images), (2,), replace=False)]
        stats = {"mean": mean, "covariance": off.T @ off / len(pixels)}
        return {"stats": stats, "taken": {"images": chosen, "n": jnp.int32(len(images))}}

    return Fit(learn)


@pytest.fixture
def images(rng) -> np.ndarray:
    return rng.random((7, 5, 9, 3), np.float32)


def test_a_fit_is_its_formula(images):
    found = fit.fit(method_of(moments([])), images, 3)
    pixels = images.reshape(-1, 3).astype(float)
    np.testing.assert_allclose(found["stats"]["mean"], pixels.mean(axis=0), rtol=1e-5)
    covariance = np.cov(pixels, rowvar=False, bias=True)
    np.testing.assert_allclose(found["stats"]["covariance"], covariance, rtol=1e-4, atol=1e-6)
    assert found["taken"]["n"] == 7
    rows = [np.flatnonzero((images == one).all(axis=(1, 2, 3))) for one in found["taken"]["images"]]
    assert len({int(at) for (at,) in rows}) == 2


def test_it_is_compiled_once_per_shape(images):
    traced = []
    learn = moments(traced)
    for seed, n in ((0, 7), (1, 7), (0, 7), (0, 6), (2, 6)):
        fit.fit(method_of(learn), images[:n], seed)
    assert len(traced) == 2
    assert all(issubclass(kind, jax.core.Tracer) for kind in traced)


def test_the_same_seed_gives_the_same_bits(images):
    one, again, other = (fit.fit(method_of(moments([])), images, seed) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    np.testing.assert_array_equal(one["stats"]["mean"], other["stats"]["mean"])
    assert np.any(one["taken"]["images"] != other["taken"]["images"])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_named(images, value):
    """The first of several, in the order of their names."""
    images[6, 4, 8, 1] = value
    with pytest.raises(CaeError, match=r"^the fit gave a stats/covariance that is not finite$"):
        fit.fit(method_of(moments([])), images, 0)


def test_one_entry_of_half_precision_is_enough(images):
    def learn(key, images):
        half = jnp.zeros((3, 4), jnp.bfloat16).at[2, 1].set(jnp.inf)
        return {"codes": jnp.zeros(4, jnp.int8), "tree": {"used": images[0] > 0, "half": half}}

    with pytest.raises(CaeError, match=r"^the fit gave a tree/half that is not finite$"):
        fit.fit(method_of(Fit(learn)), images, 0)


def squares(traced: list) -> Fit:
    """The mean of the squared images, those being its features."""

    def look(variables, images):
        traced.append(len(images))
        return jnp.square(images[:, ::2]) * variables["frozen"]["scale"]

    def learn(key, features):
        return {"mean": features.mean(axis=0)}

    def whole(key, images):
        return learn(key, look({"frozen": {"scale": 3.0}}, images))

    return Fit(whole, Seen(look, learn, lambda variables, features: None))


def test_features_are_computed_once_and_learned_from(rng):
    images, traced = rng.random((19, 5, 9, 3), np.float32), []
    learn = squares(traced)
    features = fit.look(learn.seen, images, {"scale": np.float32(3)})
    np.testing.assert_allclose(features, 3 * images[:, ::2] ** 2, rtol=1e-6)
    assert set(traced) == {1, 8}  # for their shape, and chunks of one size
    found = fit.fit(method_of(learn, {"scale": np.float32(3)}), images, 0)
    np.testing.assert_allclose(found["mean"], features.mean(axis=0), rtol=1e-5)
    assert set(traced) == {1, 8}


def test_features_of_too_many_images_are_not_kept(rng, monkeypatch):
    images, traced = rng.random((9, 5, 9, 3), np.float32), []
    learn, size = squares(traced), 4 * 9 * 3 * 9 * 3
    scale = {"scale": np.float32(3)}
    assert fit.look(learn.seen, images, scale, size) is not None
    assert fit.look(learn.seen, images, scale, size - 1) is None
    assert fit.look(learn.seen, images[:0], scale) is None
    monkeypatch.setattr(fit, "HELD", size - 1)
    kept = fit.look(learn.seen, images, scale, size).mean(axis=0)
    traced.clear()
    np.testing.assert_allclose(fit.fit(method_of(learn, scale), images, 0)["mean"], kept, rtol=1e-5)
    assert traced[-1] == 9  # all at once, by the method itself
    assert 8 not in traced
