"""Residual maps and image scores against NumPy loops, scikit-image and SciPy."""

import jax
import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import structural_similarity

from cae_jax import options
from cae_jax.scoring import reconstruction, residuals
from cae_jax.scoring.options import Ssim
from cae_jax.scoring.reconstruction import Windows
from cae_jax.scoring.residuals import Reduction
from cae_jax.types import UsageError

SUM = Reduction(("l2",))
residual_map = jax.jit(residuals.residual_map, static_argnames=("name", "settings", "border"))


@pytest.mark.parametrize("channels", [1, 3])
def test_residual_map(rng, channels):
    x, y = rng.random((2, 2, 13, 9, channels), np.float32)
    found = {name: residual_map(name, x, y) for name in residuals.DISTANCES}
    assert {each.shape for each in found.values()} == {(2, 13, 9)}
    for n, row, column in [(0, 0, 0), (1, 12, 8), (1, 4, 3)]:
        at = (n, row, column)
        errors = [255 * float(x[(*at, c)]) - 255 * float(y[(*at, c)]) for c in range(channels)]
        np.testing.assert_allclose(found["l2"][at], sum(e * e for e in errors), rtol=1e-4)
        np.testing.assert_allclose(found["l1"][at], sum(abs(e) for e in errors), rtol=1e-4)


def test_residual_map_of_ssim_heeds_its_settings(rng):
    x, y = rng.random((2, 1, 13, 9, 1), np.float32)
    options = {"data_range": 1.0, "use_sample_covariance": False, "full": True, "win_size": 7}
    a, b = (z[0, ..., 0].astype(float) for z in (x, y))
    expected = 1 - structural_similarity(a, b, **options)[1]
    flat = Ssim(7, "flat")
    np.testing.assert_allclose(residual_map("ssim", x, y, flat)[0], expected, atol=1e-5)
    cropped = residual_map("ssim", x, y, flat, "crop")[0]
    inside = np.pad(expected[3:-3, 3:-3], 3)
    np.testing.assert_allclose(cropped, inside, atol=1e-5)


@pytest.mark.parametrize(("border", "mode"), [("reflect", "reflect"), ("edge", "nearest")])
@pytest.mark.parametrize(("shape", "sigma"), [((2, 13, 29), 1.3), ((1, 5, 40), 4.0)])
def test_smooth_is_that_of_scipy(rng, shape, sigma, border, mode):
    maps = (65025 * rng.random(shape) ** 8).astype("f")
    found = residuals.smooth(maps, sigma, border)
    expected = [ndimage.gaussian_filter(each.astype(float), sigma, mode=mode) for each in maps]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_smooth_by_nothing_returns_the_maps_themselves(rng):
    maps = rng.random((1, 3, 4), np.float32)
    assert residuals.smooth(maps, 0.0, "reflect") is maps


@pytest.mark.parametrize(
    ("share", "shape", "k"),
    [(0.01, (9, 13), 2), (0.07, (10, 10), 7), (1e-9, (5, 7), 1), (1.0, (3, 5), 15)],
)
def test_image_score(rng, share, shape, k):
    maps = rng.random((3, *shape), np.float32)
    r = SUM._replace(top=share)
    for reduce, expected in (
        ("sum", maps.astype(float).sum(axis=(1, 2))),
        ("max", [max(each.flat) for each in maps]),
        ("top", [np.mean(sorted(each.flat)[-k:]) for each in maps]),
    ):
        found = residuals.image_score(maps, r._replace(reduce=reduce))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"border": "reflects"}, "--residual_border 'reflects': did you mean reflect"),
        ({"reduce": "mean"}, "--image_score 'mean': did you mean max"),
        ({"smooth": -1.0}, "--residual_smooth=-1.0: must be"),
        ({"smooth": float("nan")}, "--residual_smooth=nan: must be"),
        ({"top": 0.0}, "--top_share=0.0: must be above 0"),
        ({"top": 1.5}, "--top_share=1.5: must be above 0 and at most 1"),
    ],
)
def test_check(changes, message):
    residuals.check(Reduction(residuals.DISTANCES, 2.5, "edge", "top", 1.0))
    with pytest.raises(UsageError, match=message):
        residuals.check(SUM._replace(**changes))


@pytest.mark.parametrize(
    ("side", "flags", "message"),
    [
        (
            64,
            {"residual_average": "maps", "residual_border": "crop"},
            "--residual_border=crop: not with",
        ),
        (64, {"ssim_window": 8}, "--ssim_window=8: must be odd"),
        (16, {"ssim_window": 17, "residual_border": "crop"}, "--ssim_window=17: .* leave nothing"),
        (31, {"patch_size": 32}, r"--patch_size=32 is outside 1\.\.31 \(--image_size=31\)"),
        (64, {"stride": 33}, r"--stride=33 is outside 1\.\.32 \(--patch_size=32\)"),
    ],
)
def test_windows_that_cannot_work(side, flags, message):
    sizes = {"patch_size": min(side, 32), "stride": 8}
    good = {"residual_average": "maps", "residual_border": "edge", "ssim_window": 3}
    reconstruction.check(Windows(**sizes, **good, ssim_weights="flat"), 64)
    with pytest.raises(UsageError, match=message):
        reconstruction.check(Windows(**(sizes | flags)), side)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"residual_average": "pixel"}, "--residual_average 'pixel': did you mean pixels"),
        ({"residual_border": "reflects"}, "--residual_border 'reflects': did you mean reflect"),
        ({"ssim_window": 1}, "--ssim_window=1: must be from 3 to 255"),
        ({"ssim_weights": "flatt"}, "--ssim_weights 'flatt': did you mean flat"),
        ({"ssim_constants": "wong"}, "--ssim_constants 'wong': did you mean wang"),
    ],
)
def test_the_flags_of_windows(flags, message):
    options.check(Windows())
    with pytest.raises(UsageError, match=message):
        options.check(Windows(**flags))


def test_bad_arguments(rng):
    x = rng.random((2, 4, 4, 1), np.float32)
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 1\) and \(1, 4, 4, 1\)"):
        residuals.residual_map("l2", x, x[:1])
    with pytest.raises(UsageError, match="--distance 'sim': did you mean ssim"):
        residuals.residual_map("sim", x, x)
    with pytest.raises(UsageError, match="--distance 'l3': did you mean l"):
        residuals.residual_map("l3", x, x)
    with pytest.raises(UsageError, match="--image_score 'mean'"):
        residuals.image_score(x[..., 0], SUM._replace(reduce="mean"))
    with pytest.raises(UsageError, match="unknown border 'mirror'"):
        residuals.smooth(x[..., 0], 1.0, "mirror")
