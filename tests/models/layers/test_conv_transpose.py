"""The transposed convolution by phases against XLA's own, in value and in both gradients."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cae_jax.models.layers.conv_transpose import conv_transpose
from cae_jax.models.layers.table import ConvTranspose

# Every kernel with every stride of Tables 4, 7, 9 and 10 and of their other patch sizes. Two
# pairs are tried at a time, one per axis: that halves the compilations and mixes the axes.
_PAIRS = list(itertools.product((1, 2, 3, 4, 5, 8), (1, 2, 4, 8)))
MIXED = list(zip(_PAIRS[::2], _PAIRS[1::2][::-1], strict=True))
# What the tables use, on both axes, as there.
SQUARE = [((k, s), (k, s)) for k, s in [(3, 1), (3, 2), (3, 4), (4, 2), (5, 2)]]
# Deconv1 of Table 4 and of its mirror grow a map from one pixel.
FROM_ONE_PIXEL = [((k, 8), (k, 8), (1, 1)) for k in (3, 8)]


def plain(x, w, stride):
    return lax.conv_transpose(x, w, stride, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def close(found, expected):
    """Equal up to float32 rounding, measured by the size of the whole array."""
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize(
    ("rows", "columns", "size"), [(*pair, (3, 5)) for pair in MIXED + SQUARE] + FROM_ONE_PIXEL
)
def test_equals_lax_in_value_and_gradients(rng, rows, columns, size):
    (kh, sh), (kw, sw), (height, width) = rows, columns, size
    x = rng.standard_normal((2, height, width, 4), np.float32)
    w = rng.standard_normal((kh, kw, 4, 3), np.float32)
    dy = rng.standard_normal((2, height * sh, width * sw, 3), np.float32)

    @jax.jit
    def both(x, w, dy):
        found = []
        for layer in (conv_transpose, plain):
            y, pull = jax.vjp(lambda x, w, layer=layer: layer(x, w, (sh, sw)), x, w)
            found.append((y, *pull(dy)))
        return found

    for ours, theirs in zip(*both(x, w, dy), strict=True):
        assert ours.shape == theirs.shape
        close(ours, theirs)


def test_vmap_over_kernels(rng):
    """Members of an ensemble: stacked kernels give the numbers of one kernel at a time."""
    x = rng.standard_normal((2, 3, 5, 4), np.float32)
    w = rng.standard_normal((3, 4, 3, 4, 2), np.float32)

    def loss(x, w):
        return jnp.sum(jnp.sin(conv_transpose(x, w, (2, 1))))

    one = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    stacked = jax.jit(jax.vmap(jax.value_and_grad(loss, argnums=(0, 1)), in_axes=(None, 0)))(x, w)
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *[one(x, kernel) for kernel in w])
    jax.tree.map(close, stacked, expected)


@pytest.mark.parametrize(("kernel", "strides"), [((4, 4), (2, 2)), ((3, 5), (1, 2))])
def test_the_module_takes_the_parameters_of_flax(rng, kernel, strides):
    x = rng.standard_normal((2, 3, 5, 4), np.float32)
    ours = ConvTranspose(3, kernel, strides)
    theirs = nn.ConvTranspose(3, kernel, strides, padding="SAME")
    shapes = [jax.eval_shape(module.init, jax.random.key(0), x) for module in (ours, theirs)]
    assert shapes[0] == shapes[1]
    variables = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes[0])
    close(jax.jit(ours.apply)(variables, x), jax.jit(theirs.apply)(variables, x))
