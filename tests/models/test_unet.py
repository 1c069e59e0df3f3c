"""The U-Nets: the papers' channels, any size, and who sees whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from cae_jax.models.unet import Unet, double, levels


@pytest.mark.parametrize(
    ("side", "most", "found"),
    [(256, 6, 6), (256, 5, 5), (255, 6, 5), (128, 6, 5), (40, 5, 3), (16, 5, 2), (8, 5, 1)],
)
def test_levels_leave_eight_pixels(side, most, found):
    assert levels(side, most) == found


def kernels(network, channels):
    """The shapes of all kernels by name; nothing is computed."""
    sample = jax.ShapeDtypeStruct((1, 64, 64, channels), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), sample)["params"]
    return {name: layer["kernel"].shape for name, layer in shapes.items()}


def test_inpainting_has_its_papers_channels():
    """conv3 and conv4 of stride 2 down, transposed conv4 up (taikiinoue45/RIAD, unet.py)."""
    found = kernels(Unet((64, 128, 256, 512, 512), 3), 3)
    down = [found[f"down{i}_{j}"] for i in range(5) for j in (1, 2)]
    assert down == [
        *((3, 3, 3, 64), (3, 3, 64, 64), (4, 4, 64, 128), (3, 3, 128, 128)),
        *((4, 4, 128, 256), (3, 3, 256, 256), (4, 4, 256, 512), (3, 3, 512, 512)),
        *((4, 4, 512, 512), (3, 3, 512, 512)),
    ]
    up = [found[f"up{i}_{j}"] for i in (3, 2, 1, 0) for j in (0, 1, 2)]
    assert up == [
        *((4, 4, 512, 512), (3, 3, 1024, 512), (3, 3, 512, 512)),
        *((4, 4, 512, 256), (3, 3, 512, 256), (3, 3, 256, 256)),
        *((4, 4, 256, 128), (3, 3, 256, 128), (3, 3, 128, 128)),
        *((4, 4, 128, 64), (3, 3, 128, 64), (3, 3, 64, 64)),
    ]
    assert found["output"] == (3, 3, 64, 3)


def test_draem_has_its_papers_channels():
    """Per level: the one after the interpolation, then two (VitjanZ/DRAEM, model_unet.py)."""
    w = 128
    found = kernels(Unet((w, 2 * w, 4 * w, 8 * w, 8 * w), 3, True, skips=False), 3)
    up = [found[f"up{i}_{j}"][2:] for i in (3, 2, 1, 0) for j in (0, 1, 2)]
    assert [(a // w, b // w) for a, b in up] == [
        *((8, 8), (8, 8), (8, 4), (4, 4), (4, 4), (4, 2)),
        *((2, 2), (2, 2), (2, 1), (1, 1), (1, 1), (1, 1)),
    ]
    w = 64
    found = kernels(Unet((w, 2 * w, 4 * w, 8 * w, 8 * w, 8 * w), 2, True), 6)
    up = [found[f"up{i}_{j}"][2:] for i in (4, 3, 2, 1, 0) for j in (0, 1, 2)]
    assert [(a // w, b // w) for a, b in up] == [
        *((8, 8), (16, 8), (8, 8), (8, 4), (12, 4), (4, 4), (4, 2), (6, 2), (2, 2)),
        *((2, 1), (3, 1), (1, 1), (1, 1), (2, 1), (1, 1)),
    ]
    assert {shape[:2] for shape in found.values()} == {(3, 3)}
    assert found["down0_1"] == (3, 3, 6, 64)


@pytest.mark.parametrize("pooling", [False, True])
def test_any_size_goes_in_and_comes_out(rng, pooling):
    network = Unet((2, 3), 2, pooling)
    x = rng.random((2, 13, 10, 1), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype("f"), shapes)
    apply = jax.jit(network.apply)
    found = apply(variables, x)
    assert found.shape == (2, 13, 10, 2)
    beyond = np.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0)), "edge")
    np.testing.assert_allclose(found, apply(variables, beyond)[:, :13], rtol=1e-4)


def test_double_is_bilinear(rng):
    x = rng.random((2, 5, 7, 3), np.float32)
    at = np.mgrid[:10, :14] / 2 - 0.25
    expected = [
        [ndimage.map_coordinates(each[..., c], at, order=1, mode="nearest") for c in range(3)]
        for each in x
    ]
    np.testing.assert_allclose(double(x), np.moveaxis(np.array(expected), 1, -1), atol=1e-6)
