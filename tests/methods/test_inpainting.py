"""Inpainting: what is cut out is not seen, what is put together, and what it is compared with."""

import re
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cae_jax import methods
from cae_jax.methods import inpainting
from cae_jax.methods.inpainting import CELLS, Options, fill
from cae_jax.scoring import msgms
from cae_jax.types import State, UsageError

SMALL = Options(width=4, batch_size=3, num_patches=6, learning_rate=1e-2)
SIDE = 24


class Subject(NamedTuple):
    """A tiny method with its compiled functions, made once for all tests of it."""

    method: object
    network: nn.Module
    state: State
    images: np.ndarray


@pytest.fixture(scope="module")
def subject():
    network = inpainting.Unet((4, 8), 1)
    o = SMALL.resolved(SIDE)
    method = methods.build("inpainting", SMALL, SIDE, 1)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 1)))
    rng = np.random.default_rng(0)

    def drawn(leaf):  # kernels of both signs, variances of one
        draw = rng.normal if leaf.ndim > 1 else rng.uniform
        return draw(*((0, 0.3) if leaf.ndim > 1 else (0.5, 1.5)), leaf.shape).astype("f")

    variables = jax.tree.map(drawn, shapes)
    assert o.patch_size == SIDE == method.learn.patch_size
    return Subject(method, network, variables, rng.random((3, SIDE, SIDE, 1), np.float32))


class Told(nn.Module):
    """A network that gives the same number everywhere, and so does not depend on what it sees."""

    @nn.compact
    def __call__(self, x, train=False):
        return jnp.full_like(x, self.param("number", nn.initializers.constant(0.4), ()))


class Same(nn.Module):
    """A network that gives what it sees."""

    @nn.compact
    def __call__(self, x, train=False):
        return x


@pytest.mark.parametrize(("k", "shape"), [(2, (13, 10)), (4, (13, 10)), (8, (32, 40))])
def test_parts_are_of_whole_cells_cover_all_and_are_alike(rng, k, shape):
    n = inpainting.cells(k, *shape)
    assert n == -(-shape[0] // k) * -(-shape[1] // k)
    of = np.asarray(inpainting.parts(rng.permutation(n), k, *shape))
    assert of.shape == shape
    of_cells = {}
    for i in range(shape[0]):
        for j in range(shape[1]):
            of_cells.setdefault((i // k, j // k), set()).add(int(of[i, j]))
    assert all(len(found) == 1 for found in of_cells.values())
    counts = [sum(found == {part} for found in of_cells.values()) for part in range(3)]
    assert sum(counts) == n
    assert max(counts) - min(counts) <= 1


def test_cells_are_left_out_where_there_would_be_few():
    assert inpainting.cell_sizes(256) == inpainting.cell_sizes(64) == CELLS == (2, 4, 8, 16)
    assert inpainting.cell_sizes(63) == (2, 4, 8)
    assert inpainting.cell_sizes(8) == (2,)


def test_no_pixel_is_made_of_its_own_part(subject, rng):
    """The slope of a pixel of the reconstruction by the pixels of its part is 0, and not by
    others."""
    of = inpainting.parts(rng.permutation(36), 4, SIDE, SIDE)
    x = subject.images[:1]
    slope = jax.jit(
        jax.grad(
            lambda x, i, j: fill(subject.network, SMALL, subject.state, x, of[None])[0][
                0, 0, i, j, 0
            ]
        )
    )
    for i, j in ((0, 0), (11, 7), (23, 23)):
        found = np.asarray(slope(x, i, j))[0, :, :, 0]
        np.testing.assert_array_equal(found[of == of[i, j]], 0)
        assert np.abs(found[of != of[i, j]]).max() > 0


def test_what_is_cut_out_is_gray_and_what_is_not_is_left_out(rng):
    """A network that repeats what it sees gives the gray of 0 in [-1, 1], whatever is there."""
    x, of = rng.random((2, 8, 8, 3), np.float32), np.stack([np.arange(64).reshape(8, 8) % 3] * 2)
    found, rest = fill(Same(), SMALL, {"params": {}}, x, of)
    assert found.shape == (2, 2, 8, 8, 3)
    np.testing.assert_array_equal(found, 0.5)
    assert rest == {}


def test_each_part_is_of_its_own_pass(rng):
    """Of a network that sees how much is cut out, by loops."""

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            return jnp.zeros_like(x) + jnp.mean(x, axis=(1, 2, 3), keepdims=True)

    x, of = rng.random((2, 9, 6, 1), np.float32), rng.integers(0, 3, (1, 9, 6))
    found, _ = fill(Counted(), SMALL, {"params": {}}, x, of)
    for n in range(2):
        for i in range(9):
            for j in range(6):
                seen = np.where(of[0] == of[0, i, j], 0, 2 * x[n, :, :, 0] - 1)
                expected = (np.tanh(seen.mean()) + 1) / 2
                np.testing.assert_allclose(found[0, n, i, j, 0], expected, rtol=1e-5)


def test_what_it_says_of_images(subject):
    """The mean over k of the maps of MSGMS, with a mean filter of 21 pixels, by SciPy."""
    found = jax.jit(subject.method.inspect)(subject.state, subject.images)
    assert subject.method.distances == ("msgms", "l2", "l1", "ssim")
    o = SMALL.resolved(SIDE)
    made = jax.jit(lambda v, x: inpainting.fill_all(subject.network, o, v, x))(
        subject.state, subject.images
    )
    assert made.shape == (2, 3, SIDE, SIDE, 1)  # k of 2 and 4
    of_k = [jax.jit(msgms.dissimilarity)(subject.images, each) for each in made]
    for n in range(3):
        mean = np.mean([each[n] for each in of_k], axis=0).astype(float)
        expected = ndimage.uniform_filter(mean, 21, mode="reflect")
        np.testing.assert_allclose(found.maps["msgms"][n], expected, rtol=1e-4)
    np.testing.assert_allclose(found.reconstruction, np.mean(made, axis=0), atol=1e-6)
    error = np.square(255 * (subject.images - found.reconstruction))[..., 0]
    np.testing.assert_allclose(found.maps["l2"], error, rtol=1e-3, atol=1e-2)


def test_the_loss_is_the_sum_of_its_terms():
    """Of a network that gives one number everywhere, whose gradients of an image are 0."""
    learn = inpainting.steps(Told(), SMALL.resolved(16), 1)
    x = np.random.default_rng(1).random((2, 16, 16, 1), np.float32)
    found = jax.jit(learn.validate)({"params": {"number": jnp.float32(0.4)}}, x)
    made = (np.tanh(0.4) + 1) / 2
    np.testing.assert_allclose(found["l2_loss"], np.mean((x - made) ** 2), rtol=1e-5)
    of_gradients = jax.jit(msgms.loss)(x, np.full_like(x, made))
    np.testing.assert_allclose(found["msgms_loss"], np.mean(of_gradients), rtol=1e-4)
    terms = [found[f"{name}_loss"] for name in ("l2", "ssim", "msgms")]
    np.testing.assert_allclose(found["loss"], sum(terms), rtol=1e-6)
    assert 0.9 < float(found["ssim_loss"]) < 1.1  # nothing of the structure is there


def test_a_step_draws_one_k_for_its_batch(monkeypatch):
    """By what `fill` is given: the largest cells that the parts are made of."""
    seen = []

    def recorded(network, o, variables, x, of, train=False):
        seen.append(np.asarray(of))
        return jnp.broadcast_to(variables["params"]["number"], (1, *x.shape)), {}

    monkeypatch.setattr(inpainting, "fill", recorded)
    monkeypatch.setattr(inpainting, "_terms", lambda x, made: {"loss": jnp.sum(made)})
    learn = inpainting.steps(Told(), SMALL.resolved(32), 1)
    x = np.zeros((2, 32, 32, 1), np.float32)
    key, params = jax.random.key(0), {"number": jnp.float32(0.4)}

    def part_of(step):
        state = State(jnp.int32(step), key, {"params": params}, None)
        with pytest.raises((ValueError, TypeError)):  # it has no optimiser's state
            learn.step(state, x)
        return seen[-1]

    drawn = [part_of(step) for step in range(12)]
    sizes = []
    for of in drawn:
        assert of.shape == (1, 32, 32)
        sizes.append(max(k for k in (2, 4, 8) if (of[0] == whole(of[0], k)).all()))
    assert set(sizes) == {2, 4, 8}
    np.testing.assert_array_equal(part_of(3), drawn[3])


def whole(of, k):
    """Parts as they are where every cell has that of its first pixel."""
    return np.kron(of[::k, ::k], np.ones((k, k), int))


def test_it_learns_to_fill_in(subject):
    """Slopes at random, which their surroundings tell."""
    rng, ramp = np.random.default_rng(2), np.linspace(0, 1, SIDE, dtype=np.float32)
    tilt = rng.random((100, 3, 1, 1, 1)).astype("f")
    crops = tilt * ramp[:, None, None] + (1 - tilt) * ramp[None, :, None]
    learn = subject.method.learn
    state = jax.jit(learn.init)(jax.random.key(3, impl="rbg"))
    step, metrics = jax.jit(learn.step), []
    for batch in crops:
        state, found = step(state, batch)
        metrics.append(jax.device_get(found))
    assert metrics[-1]["loss"] < 0.8 * metrics[0]["loss"]
    assert metrics[-1]["l2_loss"] < 0.3 * metrics[0]["l2_loss"]
    terms = [metrics[5][f"{name}_loss"] for name in ("l2", "ssim", "msgms")]
    np.testing.assert_allclose(metrics[5]["loss"], sum(terms), rtol=1e-5)
    np.testing.assert_allclose(metrics[5]["crop_variance"], np.var(crops[5], axis=0).mean(), 1e-4)
    assert int(state.step) == 100


@pytest.mark.parametrize("size", [7, 25])
def test_a_crop_that_cannot_be(size):
    said = re.escape(f"--patch_size={size}: must be from 8 to 24 (--image_size=24)")
    with pytest.raises(UsageError, match=said):
        methods.build("inpainting", Options(patch_size=size), SIDE, 1)
