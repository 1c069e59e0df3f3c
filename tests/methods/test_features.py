"""Feature maps of several stages as one, and what is streamed over them."""

import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import cae_jax.models
from cae_jax.methods import features
from cae_jax.methods.features import Features, aligned, deviations, extractor, neighbourhood
from cae_jax.methods.options import features as flags
from cae_jax.types import UsageError

STAGES = {"2@2": (2, 2), "3@4": (4, 3), "5@8": (8, 5)}  # by name: stride, channels


def load(name, stages=(), weights_file="", precision="float32"):
    """A pyramid of averages under random 1x1 convolutions."""
    rng = np.random.default_rng(len(weights_file))
    frozen = {s: rng.normal(size=(3, STAGES[s][1])).astype("f") for s in stages}

    def extract(variables, images):
        b, h, w, _ = images.shape
        images, found = jnp.broadcast_to(images, (b, h, w, 3)), {}
        for stage in stages:
            k = STAGES[stage][0]
            means = images.reshape(b, h // k, k, w // k, k, 3).mean(axis=(2, 4))
            found[stage] = jnp.abs(means @ variables["frozen"][stage])
        return found

    load.called = (name, stages, weights_file, precision)
    return types.SimpleNamespace(extract=extract, frozen=frozen)


@pytest.fixture
def backbones(monkeypatch):
    made = types.ModuleType("cae_jax.models.backbones")
    made.NAMES, made.load = ("small", "resnet"), load
    made.STAGES = dict.fromkeys(made.NAMES, tuple(STAGES))
    monkeypatch.setitem(sys.modules, made.__name__, made)
    monkeypatch.setattr(cae_jax.models, "backbones", made, raising=False)
    return made


def bilinear(maps, h, w):
    """Between the centers of points, the outermost ones repeated: [h0, w0, c] -> [h, w, c]."""
    sides = zip(maps.shape[:2], (h, w), strict=True)
    at = np.meshgrid(*((np.arange(n) + 0.5) * n0 / n - 0.5 for n0, n in sides), indexing="ij")
    each = np.moveaxis(maps.astype(float), -1, 0)
    found = [ndimage.map_coordinates(one, at, order=1, mode="nearest") for one in each]
    return np.stack(found, axis=-1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("around", [1, 3])
def test_stages_are_one_map_on_the_finest_grid(rng, backbones, channels, around):
    images = rng.random((2, 16, 16, channels), np.float32)
    found = extractor(Features(features="small"), 16, channels, around=around)
    assert (found.grid, found.channels, found.uneven) == ((8, 8), 10, False)
    maps = jax.jit(found.maps)({"frozen": dict(found.frozen)}, images)
    network = load("small", tuple(STAGES))
    stages = network.extract({"frozen": network.frozen}, images)
    for image in range(2):
        each = [np.asarray(stage[image]) for stage in stages.values()]
        expected = [bilinear(means(stage, around), 8, 8) for stage in each]
        np.testing.assert_allclose(maps[image], np.concatenate(expected, -1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.of(images), found.maps({"frozen": found.frozen}, images))


def means(maps, around):
    """Over the points of a window that are inside."""
    found = np.zeros(maps.shape)
    for i, j in np.ndindex(maps.shape[:2]):
        r = around // 2
        found[i, j] = maps[max(i - r, 0) : i + r + 1, max(j - r, 0) : j + r + 1].mean(axis=(0, 1))
    return found


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (7, 4)])
def test_neighbourhood(rng, shape):
    maps = rng.random((2, *shape, 3), np.float32)
    found = jax.jit(neighbourhood, static_argnums=1)(maps, 3)
    np.testing.assert_allclose(found, [means(one, 3) for one in maps], rtol=1e-5)
    zeros = jax.jit(neighbourhood, static_argnums=(1, 2))(maps, 3, True)
    padded = ndimage.uniform_filter(maps, (1, 3, 3, 1), mode="constant")
    np.testing.assert_allclose(zeros, padded, rtol=1e-5)
    inside = ndimage.uniform_filter(maps[0], (3, 3, 1))[1:-1, 1:-1]
    np.testing.assert_allclose(found[0, 1:-1, 1:-1], inside, rtol=1e-5)


def test_which_stages(backbones):
    wanted = {
        "": ("2@2", "3@4"),  # the method's own choice
        "5@8": ("5@8",),
        " 5@8, 2@2,": ("5@8", "2@2"),
    }
    for text, stages in wanted.items():
        o = Features(features="resnet", stages=text, weights="x.pt", feature_precision="bfloat16")
        extractor(o, 16, 1, slice(0, 2))
        assert load.called == ("resnet", stages, "x.pt", "bfloat16")


def test_how_far_features_look_around(rng, backbones):
    images = rng.random((2, 16, 16, 3), np.float32)
    asked = extractor(Features(features="small", neighborhood=5), 16, 3, around=3).of(images)
    own = extractor(Features(features="small"), 16, 3, around=5).of(images)
    np.testing.assert_array_equal(asked, own)
    with pytest.raises(UsageError, match=r"^--neighborhood=4: must be odd, or 0$"):
        extractor(Features(features="small", neighborhood=4), 16, 3)


@pytest.mark.parametrize(
    ("installed", "weights", "chosen"),
    [(True, "", "lite0"), (False, "", "filter_bank"), (False, "a.pth", "lite0")],
)
def test_auto_is_what_is_installed(backbones, monkeypatch, capfd, installed, weights, chosen):
    backbones.installed = lambda name: installed
    monkeypatch.setattr(flags, "_say", flags._say.__wrapped__)
    found = Features(features="auto", weights=weights).resolved(16)
    assert (found.features, found.resolved(16)) == (chosen, found)
    said = capfd.readouterr().err
    assert ("requirements-features.txt" in said) == (chosen == "filter_bank")


@pytest.mark.parametrize(("n", "size"), [(1, 4), (7, 3), (6, 3), (5, 100), (9, 4), (3, 1)])
def test_every_image_is_met_once(rng, n, size):
    images = rng.random((n, 2), np.float32)

    def turn(found, chunk, new, before):
        total, seen = found
        return total + jnp.sum(chunk * new[:, None], axis=0), seen + jnp.sum(new)

    total, seen = features.in_chunks(turn, (jnp.zeros(2), jnp.asarray(0.0)), images, size)
    np.testing.assert_allclose(total, images.sum(axis=0), rtol=1e-5)
    assert seen == n


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_deviations_in_one_pass(rng, size):
    """Of a small spread about a large mean too; a channel that never changes is not divided."""
    images = rng.random((5, 4, 6, 3), np.float32)

    def extract(variables, images):
        return {"x": images * jnp.array([1, 1e-3, 0]) + jnp.array([0, 5, 2])}

    found = aligned(extract, {}, 6, 3)._replace(grid=(4, 6))
    np.testing.assert_array_equal(deviations(found, images, size), 1)
    uneven = deviations(found._replace(uneven=True), images, size)
    spread = images.astype(float).std(axis=(0, 1, 2)) * [1, 1e-3, 0] + [0, 0, 1]
    np.testing.assert_allclose(uneven, spread, rtol=1e-3)


def test_filters_are_uneven(rng):
    found = extractor(Features(features="filter_bank"), 24, 3, around=3)
    assert (found.grid, found.channels, found.uneven) == ((3, 3), 72, True)
    assert not found.frozen


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"features": "smal"}, "unknown --features 'smal': did you mean small?"),
        ({"features": "small", "stages": "2@3"}, "unknown --stages of small '2@3': did you mean"),
        ({"features": "filter_bank", "stages": "a"}, "--stages=a: --features=filter_bank has none"),
        ({"features": "filter_bank", "weights": "a"}, "--weights=a: --features=filter_bank has no"),
    ],
)
def test_bad_options(backbones, flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        extractor(Features(**flags), 16, 1)


def test_bad_images():
    with pytest.raises(ValueError, match="no good image"):
        features.in_chunks(None, 0, np.ones((0, 2), np.float32))
