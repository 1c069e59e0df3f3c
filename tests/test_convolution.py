"""The convolution and the pooling against XLA's own, in value and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cae_jax.models.conv_transpose import conv
from cae_jax.models.convolution import convolve, same_pads
from cae_jax.models.layers import Conv, Row, Table
from cae_jax.models.pooling import max_pool


@pytest.mark.parametrize(
    ("size", "kernel", "stride"),
    [
        ((1, 1), (3, 3), (2, 2)),
        ((2, 2), (4, 4), (2, 2)),
        ((2, 2), (3, 3), (1, 1)),
        ((3, 1), (5, 3), (2, 1)),
        ((7, 5), (3, 4), (4, 3)),
        ((6, 9), (4, 3), (2, 1)),  # many pixels: XLA's own
        ((6, 9), (3, 3), (1, 1)),
    ],
)
@pytest.mark.parametrize("channels", [(4, 5), (1, 5), (1, 1)])
def test_same_equals_xla(size, kernel, stride, channels):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, *size, channels[0])).astype(np.float32)
    w = rng.normal(size=(*kernel, *channels)).astype(np.float32)

    def ours(x, w):
        return convolve(x, w, stride, same_pads(size, kernel, stride))

    def xla(x, w):
        return lax.conv_general_dilated(
            x, w, stride, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    found, found_vjp = jax.vjp(ours, x, w)
    expected, expected_vjp = jax.vjp(xla, x, w)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    cotangent = rng.normal(size=expected.shape).astype(np.float32)
    for one, other in zip(found_vjp(cotangent), expected_vjp(cotangent), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pads", [[(-1, 2), (0, 3)], [(2, -1), (1, 1)]])
def test_pads_crop_and_fill(pads):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2, 4, 3, 3)).astype(np.float32)
    w = rng.normal(size=(4, 4, 3, 2)).astype(np.float32)
    layout = ("NHWC", "HWIO", "NHWC")
    expected = lax.conv_general_dilated(x, w, (1, 1), pads, dimension_numbers=layout)
    np.testing.assert_allclose(convolve(x, w, (1, 1), pads), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_the_layer_is_flax_linens(padding):
    x = np.random.default_rng(2).normal(size=(2, 9, 11, 3)).astype(np.float32)
    ours = Conv(6, (4, 3), (2, 1), padding)
    theirs = nn.Conv(6, (4, 3), (2, 1), padding)
    variables = ours.init(jax.random.key(0), x)
    shapes = jax.eval_shape(theirs.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
    np.testing.assert_allclose(
        ours.apply(variables, x), theirs.apply(variables, x), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("size", "side"), [((6, 8), 2), ((7, 5), 2), ((9, 11), 3), ((4, 3), 1)])
def test_pooling_is_flax_linens_also_where_values_are_equal(size, side):
    rng = np.random.default_rng(3)
    x = rng.integers(0, 3, (3, *size, 5)).astype(
        np.float32
    )  # most windows hold their maximum twice
    cotangent = rng.normal(size=(3, size[0] // side, size[1] // side, 5)).astype(np.float32)
    found, found_vjp = jax.vjp(lambda x: max_pool(x, side), x)
    wanted, wanted_vjp = jax.vjp(lambda x: nn.max_pool(x, (side, side), (side, side)), x)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(found_vjp(cotangent)[0], wanted_vjp(cotangent)[0])


def test_pooling_of_windows_that_overlap():
    table = Table((Row("P", "max_pool", None, 3, 2),), 1)
    with pytest.raises(ValueError, match="row P: windows of a pooling must not overlap"):
        table.init(jax.random.key(0), np.ones((1, 6, 6, 1), np.float32))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(
    ("size", "kernel", "stride"),
    [
        ((8, 12), (4, 4), (2, 2)),  # by phases: a stride that fits the size
        ((8, 12), (3, 5), (2, 2)),
        ((9, 12), (4, 3), (3, 1)),
        ((8, 6), (2, 2), (2, 2)),
        ((7, 12), (4, 4), (2, 2)),  # not by phases
        ((8, 12), (1, 1), (2, 2)),
        ((8, 8), (3, 3), (4, 4)),
    ],
)
def test_strided_equals_xla(size, kernel, stride, padding):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)
    w = rng.normal(size=(*kernel, 3, 4)).astype(np.float32)
    layout = ("NHWC", "HWIO", "NHWC")
    found, found_vjp = jax.vjp(lambda x, w: conv(x, w, stride, padding), x, w)
    expected, expected_vjp = jax.vjp(
        lambda x, w: lax.conv_general_dilated(x, w, stride, padding, dimension_numbers=layout), x, w
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    cotangent = rng.normal(size=expected.shape).astype(np.float32)
    for one, other in zip(found_vjp(cotangent), expected_vjp(cotangent), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
