"""Images that are not square: every method that takes them keeps rows and columns apart."""

import jax
import numpy as np
import pytest

from cae_jax import methods
from cae_jax.methods.feature_dictionary import cover, over_pixels
from cae_jax.runs.config import configure, flags_of
from cae_jax.types import Fit, UsageError

SIZE = (40, 72)
SMALL = {
    **{"patch_size": 16, "stride": 12, "model": "small_net:Tiny", "width": 4, "latent": 5},
    **{"components": 2, "dimensions": 3, "samples": 1000, "stages": "24@4", "features": "lite0"},
}
SQUARE = ("distilled",)  # its networks see whole images


def made(name):
    known = flags_of(name)
    own = {flag: value for flag, value in SMALL.items() if flag in known}
    if name != "feature_dictionary":  # a network of a few layers is for that one alone
        own = {k: v for k, v in own.items() if k not in ("stages", "features")}
        own |= {"features": "filter_bank"} if "features" in known else {}
    return configure(method=name, image_size=SIZE, **own)


@pytest.mark.parametrize("name", [name for name in methods.names() if name not in SQUARE])
def test_maps_lie_as_the_images_do(name):
    """Nothing is computed: shapes alone."""
    method = made(name).build()
    if isinstance(method.learn, Fit):
        good = jax.ShapeDtypeStruct((5, *SIZE, 1), np.float32)
        variables = jax.eval_shape(method.learn.fit, jax.random.key(0), good)
    else:
        variables = jax.eval_shape(method.learn.init, jax.random.key(0)).variables
    variables = {**variables, **({"frozen": dict(method.frozen)} if method.frozen else {})}
    images = jax.ShapeDtypeStruct((2, *SIZE, 1), np.float32)
    found = jax.eval_shape(method.inspect, variables, images)
    for each in found.maps.values():
        _, height, width = each.shape
        assert width / height == pytest.approx(SIZE[1] / SIZE[0], rel=0.1)


@pytest.mark.parametrize("name", SQUARE)
def test_a_method_for_squares_says_so(name):
    with pytest.raises(UsageError) as caught:
        made(name).build()
    message = str(caught.value)
    assert "\n" not in message
    assert f"--image_size=40x72: --method={name} is for square images" in message


def test_a_whole_image_is_one_square_patch():
    with pytest.raises(UsageError, match=r"--whole_image: .*--image_size=40x72"):
        configure(image_size=SIZE, whole_image=True).build()


def test_patches_over_pixels_by_rows_and_columns():
    maps = np.random.default_rng(0).random((2, 3, 5)).astype(np.float32)
    down, along = cover(10, 4, 3), cover(16, 4, 3)
    found = over_pixels(maps, down, along)
    wanted = np.zeros((2, 10, 16))
    covered = np.zeros((10, 16))
    for i, row in enumerate((0, 3, 6)):
        for j, column in enumerate((0, 3, 6, 9, 12)):
            wanted[:, row : row + 4, column : column + 4] += maps[:, i, j, None, None]
            covered[row : row + 4, column : column + 4] += 1
    np.testing.assert_allclose(found, wanted / covered, rtol=1e-5)
