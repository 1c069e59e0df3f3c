"""The convolution and the pooling against XLA's own, in value and gradients."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cae_jax.models.layers import convolution
from cae_jax.models.layers.conv_transpose import conv
from cae_jax.models.layers.convolution import convolve, same_pads
from cae_jax.models.layers.pooling import max_pool
from cae_jax.models.layers.table import Conv, Row, Table


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


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_of_a_few_pixels_by_tap(rng, dtype):
    """In the precision of what comes in: a kernel as large as the map, and pads of one side."""
    x = jnp.asarray(rng.normal(size=(3, 5, 4, 6)), dtype)
    whole = jnp.asarray(rng.normal(size=(5, 4, 6, 7)), dtype)
    pads, padded = ((-2, 1), (2, 0)), np.zeros((3, 4, 6, 6))
    padded[:, :3, 2:] = np.asarray(x, np.float64)[:, 2:]
    exact = np.stack(
        [
            np.einsum("nijc,ijco->no", padded[:, :, b : b + 3], np.float64(whole[:4, :3]))
            for b in (0, 3)
        ],
        axis=1,
    )[:, None]
    found = convolve(x, whole[:4, :3], (1, 3), pads)
    rough = {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 2e-2, "atol": 0.2}
    assert found.dtype == dtype
    np.testing.assert_allclose(np.float64(found), exact, **rough)
    found = convolve(x, whole, (1, 1), ((0, 0), (0, 0)))
    assert found.dtype == dtype
    exact = np.einsum("nijc,ijco->no", np.float64(x), np.float64(whole))[:, None, None]
    np.testing.assert_allclose(np.float64(found), exact, **rough)


def by_loops(x, w, g, stride, pads):
    """The gradients of sum(g * convolution), tap by tap in float64."""
    (sh, sw), (top, _), (left, _) = stride, *pads
    by_input, by_kernel = np.zeros(x.shape, np.float64), np.zeros(w.shape, np.float64)
    for i, j, a, b in np.ndindex(*w.shape[:2], *g.shape[1:3]):
        r, c = a * sh + i - top, b * sw + j - left
        if 0 <= r < x.shape[1] and 0 <= c < x.shape[2]:
            by_kernel[i, j] += x[:, r, c].T.astype(np.float64) @ g[:, a, b]
            by_input[:, r, c] += g[:, a, b] @ w[i, j].T.astype(np.float64)
    return by_input, by_kernel


@pytest.mark.parametrize("in_a_loop", [False, True], ids=["outside", "in_a_loop"])
@pytest.mark.parametrize("cache", ["of all", "of four", "of one", "of a band"])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads", "channels"),
    [
        ((7, 5), (3, 4), (1, 1), ((1, 1), (2, 1)), (2, 3)),
        ((9, 6), (4, 3), (2, 1), ((1, 1), (0, 2)), (3, 2)),
        ((8, 7), (3, 3), (3, 2), ((0, 0), (-1, 1)), (2, 4)),  # rows and columns no tap meets
        ((6, 9), (3, 2), (1, 1), ((1, 1), (1, 0)), (1, 3)),
    ],
)
def test_gradients_in_parts_are_those_of_loops(
    monkeypatch, size, kernel, stride, pads, channels, cache, in_a_loop
):
    """However the images are divided to fit a cache: 6 images in parts of 4 and 2, 1, and bands."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(6, *size, channels[0])).astype(np.float32)
    w = rng.normal(size=(*kernel, *channels)).astype(np.float32)
    y, pull = jax.vjp(lambda x, w: convolve(x, w, stride, pads), x, w)
    g = rng.normal(size=y.shape).astype(np.float32)
    each = x[0].nbytes + g[0].nbytes
    fits = {"of all": 6 * each, "of four": 4 * each, "of one": each, "of a band": each - 1}
    monkeypatch.setattr(convolution, "_CACHE", fits[cache])
    monkeypatch.setattr(convolution, "_SPLIT_CHANNELS", 1)
    monkeypatch.setattr(convolution, "_MANY_CHANNELS", 3 if cache == "of all" else 99)
    found = pull(g)
    if in_a_loop:
        _, (found,) = lax.scan(lambda none, g: (none, (pull(g),)), None, g[None])
        found = [np.asarray(each)[0] for each in found]
    for one, other in zip(found, by_loops(x, w, g, stride, pads), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("channels", [1, 3, 8])
def test_few_output_channels_equal_xla(channels):
    rng = np.random.default_rng(6)
    x = rng.normal(size=(2, 7, 5, 6)).astype(np.float32)
    w = rng.normal(size=(3, 4, 6, channels)).astype(np.float32)
    pads = ((2, 0), (-1, 3))
    layout = ("NHWC", "HWIO", "NHWC")
    expected = lax.conv_general_dilated(x, w, (1, 1), pads, dimension_numbers=layout)
    found = jax.jit(convolve, static_argnums=(2, 3))(x, w, (1, 1), pads)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


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
