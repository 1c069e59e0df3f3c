"""Corruption: how much is changed, to what, by which key; and what is learned of it."""

import re

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from scipy import stats

from cae_jax import methods
from cae_jax.methods import corruption
from cae_jax.methods.autoencoder import Options, steps
from cae_jax.methods.options.autoencoder import STRENGTHS
from cae_jax.types import Reconstruction, UsageError

N, HEIGHT, WIDTH, CHANNELS = 60, 16, 24, 3
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).uniform(0.1, 0.9, (N, HEIGHT, WIDTH, CHANNELS)).astype("f")


def about(count, of, share):
    """Whether a count is within five deviations of a binomial's mean."""
    return abs(count - of * share) < 5 * np.sqrt(of * share * (1 - share))


def test_gaussian_noise_is_normal_and_not_cut_off(x):
    found = np.asarray(corruption.corruption("gaussian", 0.3)(KEY, x))
    noise = (found - x).astype(float)
    assert stats.kstest(noise[:4].ravel(), "norm", (0, 0.3)).pvalue > 1e-3
    assert abs(noise.std() / 0.3 - 1) < 5 / np.sqrt(2 * noise.size)
    assert found.min() < 0
    assert found.max() > 1
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.1


def test_salt_and_pepper_are_half_of_the_share_each(x):
    found = np.asarray(corruption.corruption("salt_pepper", 0.3)(KEY, x))
    changed = found != x
    assert set(np.unique(found[changed])) == {0, 1}
    assert about((found == 0).sum(), x.size, 0.15)
    assert about((found == 1).sum(), x.size, 0.15)


def test_masked_are_single_numbers(x):
    gone = np.asarray(corruption.corruption("masking", 0.4)(KEY, x)) != x
    found = np.asarray(corruption.corruption("masking", 0.4)(KEY, x))
    assert set(np.unique(found[gone])) == {0}
    assert about(gone.sum(), x.size, 0.4)
    assert about((gone[..., 0] & gone[..., 1]).sum(), x.size // 3, 0.16)  # channels apart


def test_patches_are_whole_cells_in_all_channels(x):
    found = np.asarray(corruption.corruption("patches", 0.4)(KEY, x))
    cells = (N, 8, HEIGHT // 8, 8, WIDTH // 8, CHANNELS)
    gone = (found.reshape(cells) == 0).transpose(0, 1, 3, 2, 4, 5).reshape(N, 64, -1)
    assert (gone.all(axis=2) | ~gone.any(axis=2)).all()
    np.testing.assert_array_equal(found[found != 0], x[found != 0])
    assert about(gone[..., 0].sum(), N * 64, 0.4)
    small = np.ones((2, 5, 7, 1), np.float32)  # of fewer pixels than 8 each is a cell
    assert about((np.asarray(corruption.patches(KEY, small, 0.5)) == 0).sum(), 70, 0.5)


@pytest.mark.parametrize("kind", STRENGTHS)
def test_the_key_decides_and_0_is_the_default_strength(x, kind):
    one, same = (np.asarray(corruption.corruption(kind)(KEY, x[:5])) for _ in range(2))
    np.testing.assert_array_equal(one, same)
    named = corruption.corruption(kind, STRENGTHS[kind])(KEY, x[:5])
    np.testing.assert_array_equal(one, named)
    assert not np.array_equal(one, corruption.corruption(kind)(jax.random.key(8), x[:5]))
    assert not np.array_equal(one[0] != x[0], one[1] != x[1]) or kind == "gaussian"


def test_none_and_unknown():
    assert corruption.corruption("none") is None
    with pytest.raises(UsageError, match=re.escape("--corruption 'mask': did you mean masking?")):
        corruption.corruption("mask")


class Scaled(nn.Module):
    """A model that multiplies by a weight, 1 at first."""

    channels: int = 1
    patch_size: int = 8

    @nn.compact
    def __call__(self, x, train=False):
        return Reconstruction(self.param("weight", nn.initializers.ones, ()) * x, {})


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_corrupted_patches_are_reconstructed_to_clean_ones(rng, chunk_size):
    learn = steps(Scaled(), optax.sgd(0.1), chunk_size, corrupt=lambda key, x: x + 0.5)
    state, x = learn.init(jax.random.key(0)), rng.random((5, 8, 8, 1), np.float32)
    after, metrics = jax.jit(learn.step)(state, x)
    np.testing.assert_allclose(metrics["loss"], 0.25, rtol=1e-5)  # 1 (x + 0.5) - x is 0.5
    # d/dw of (w (x + 0.5) - x)^2 is 2 (0.5) (x + 0.5)
    moved = 1 - 0.1 * (x.mean() + 0.5)
    np.testing.assert_allclose(after.variables["params"]["weight"], moved, rtol=1e-5)
    np.testing.assert_allclose(learn.validate(state.variables, x)["loss"], 0.25, rtol=1e-5)


def test_noise_is_of_the_step_and_the_same_in_every_validation(rng):
    corrupt = corruption.corruption("gaussian", 0.3)
    learn = steps(Scaled(), optax.sgd(0.0), 20, corrupt=corrupt)
    state, x = learn.init(jax.random.key(0, impl="rbg")), rng.random((40, 8, 8, 1), np.float32)
    step = jax.jit(learn.step)
    after, one = step(state, x)
    losses = [float(each[1]["loss"]) for each in (step(state, x), step(after, x))]
    assert losses[0] == one["loss"] != losses[1]
    validated = [float(learn.validate(state.variables, x)["loss"]) for _ in range(2)]
    assert validated[0] == validated[1] != losses[0]
    for found in (*losses, validated[0]):  # the variance, a mean of 2,560 squares
        assert found == pytest.approx(0.09, rel=5 * np.sqrt(2 / x.size))


def test_scoring_sees_the_image_itself_and_a_run_is_called_by_what_it_learns(rng):
    images, found = rng.random((1, 16, 16, 1), np.float32), []
    for more in ({}, {"corruption": "masking"}):
        o = Options(model="vanilla", patch_size=8, stride=8, code=3, **more)
        method = methods.build("autoencoder", o, 16, 1)
        variables = method.learn.init(jax.random.key(1)).variables
        found.append(method.inspect(variables, images).maps["l2"])
        assert o.label == "-".join(["vanilla", *more.values(), "code3"])
    np.testing.assert_array_equal(*found)
