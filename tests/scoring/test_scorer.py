"""The compiled call from images to distances against loops over patches."""

import itertools
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from cae_jax.scoring import reconstruction, scorer
from cae_jax.scoring.reconstruction import Windows
from cae_jax.scoring.residuals import Reduction
from cae_jax.types import Evidence, Reconstruction


def reconstruct(variables: dict, patches: jax.Array) -> Reconstruction:
    """A model in one line: it depends on the place in the patch and on the whole patch."""
    mean = patches.mean(axis=(1, 2, 3), keepdims=True)
    return Reconstruction(jnp.tanh(variables["a"] * patches) + variables["b"] * mean, {})


def scorer_of(reconstruct, patch_size: int, stride: int, chunk_size: int | None = None):
    w = Windows(patch_size=patch_size, stride=stride)
    inspect = reconstruction.by_patches(reconstruct, w, chunk_size)
    return scorer.scorer(inspect, Reduction(("l2",)))


def variables_of(rng, patch_size: int, channels: int) -> dict:
    shape = (patch_size, patch_size, channels)
    return {"a": rng.normal(1, 0.3, shape).astype("f"), "b": rng.normal(0, 0.3, shape).astype("f")}


def loop_score(variables: dict, image: np.ndarray, patch_size: int, stride: int):
    """Reconstruction, residual and distance of one image, patch by patch in float64."""
    height, width, channels = image.shape
    sums, hits = np.zeros((height, width, channels)), np.zeros((height, width, 1))
    a, b = variables["a"].astype(float), variables["b"].astype(float)
    for row, column in itertools.product(range(0, height, stride), range(0, width, stride)):
        ys = np.minimum(np.arange(row, row + patch_size), height - 1)
        xs = np.minimum(np.arange(column, column + patch_size), width - 1)
        patch = image[ys][:, xs].astype(float)
        made = np.tanh(a * patch) + b * patch.mean()
        y, x = min(patch_size, height - row), min(patch_size, width - column)
        sums[row : row + y, column : column + x] += made[:y, :x]
        hits[row : row + y, column : column + x] += 1
    output = sums / hits
    residual = np.square(255 * output - 255 * image).sum(axis=-1)
    return residual.sum(), residual, output


@pytest.mark.parametrize(
    ("size", "channels", "patch_size", "stride", "chunk_size"),
    [
        ((20, 14), 1, 8, 3, 27),
        ((17, 23), 3, 8, 5, None),
        ((16, 24), 1, 8, 8, 1),
        ((12, 9), 3, 9, 4, 100),
    ],
)
def test_scorer(rng, size, channels, patch_size, stride, chunk_size):
    images = rng.random((3, *size, channels), np.float32)
    variables = variables_of(rng, patch_size, channels)
    found = scorer_of(reconstruct, patch_size, stride, chunk_size)(variables, images)
    assert (found.distances["l2"].shape, found.residuals["l2"].shape) == ((3,), (3, *size))
    for i, image in enumerate(images):
        distance, residual, output = loop_score(variables, image, patch_size, stride)
        np.testing.assert_allclose(found.distances["l2"][i], distance, rtol=1e-5)
        np.testing.assert_allclose(found.residuals["l2"][i], residual, rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(found.reconstruction[i], output, rtol=1e-4, atol=1e-5)
    total = np.sum(found.residuals["l2"], axis=(1, 2))
    np.testing.assert_allclose(total, found.distances["l2"], rtol=1e-5)


def counted(patch_size: int, stride: int, chunk_size: int | None = 100):
    """A scorer, and the shapes of the patches it was traced with."""
    traced = []

    def counting(variables, patches):
        traced.append(patches.shape)
        return reconstruct(variables, patches)

    return scorer_of(counting, patch_size, stride, chunk_size), traced


def test_distance_is_of_the_image_alone(rng):
    variables = variables_of(rng, 8, 1)
    images = rng.random((4, 12, 12, 1), np.float32)
    call = scorer_of(reconstruct, 8, 7, 7)
    together = call(variables, images)
    others = rng.random(images.shape, np.float32)
    others[1] = images[1]
    replaced = call(variables, others)
    assert replaced.distances["l2"][1] == together.distances["l2"][1]
    assert replaced.distances["l2"][0] != together.distances["l2"][0]
    alone = np.concatenate([call(variables, image[None]).distances["l2"] for image in images])
    np.testing.assert_allclose(alone, together.distances["l2"], rtol=1e-5)


def test_compiled_once_per_shape(rng):
    variables = variables_of(rng, 8, 1)
    call, traced = counted(8, 8)
    for n, size in [(2, 12), (2, 12), (2, 12), (3, 12), (3, 12), (2, 13), (2, 12)]:
        call(variables, rng.random((n, size, size, 1), np.float32))
    # 12 and 13 pixels have 2 starts at stride 8: 4 patches an image, of a network traced before
    assert traced == [(8, 8, 8, 1), (12, 8, 8, 1)]


def chunks_of(call, *args):
    """Patches in each pass of `counted`'s network, in the program."""
    passes = re.findall(
        r"call @counting.*tensor<(\d+)x8x8x1xf32>\) ->", call.lower(*args).as_text()
    )
    return [int(n) for n in passes]


def test_chunks_are_unrolled_inside_the_call(rng):
    call, traced = counted(8, 5, chunk_size=7)
    images = rng.random((1, 16, 16, 1), np.float32)
    assert chunks_of(call, variables_of(rng, 8, 1), images) == [7, 7, 2]
    assert [shape[0] for shape in traced] == [7, 2]


def test_a_cpu_takes_nine_patches_at_a_time(rng):
    call, _ = counted(8, 5, chunk_size=None)
    images = rng.random((2, 16, 16, 1), np.float32)
    assert chunks_of(call, variables_of(rng, 8, 1), images) == [9, 9, 9, 5]  # 4 x 4 of each image


def method_of(maps, numbers=None):
    """An `inspect` that says the same of any images."""
    return lambda variables, images: Evidence(maps, numbers or {})


@pytest.mark.parametrize(
    ("size", "whole"), [((5, 7), (13, 24)), ((6, 3), (12, 9)), ((1, 4), (9, 6)), ((14, 5), (7, 31))]
)
def test_maps_of_another_size_are_resized_bilinearly(rng, size, whole):
    """As Pillow does it, with anti-aliasing where an axis shrinks; larger ones as SciPy too."""
    maps = (1000 * rng.random((2, *size))).astype("f")
    call = scorer.scorer(method_of({"far": maps}), Reduction(("far",)))
    found = call({}, np.zeros((2, *whole, 3), np.float32))
    resized = [
        Image.fromarray(each).resize(whole[::-1], Image.Resampling.BILINEAR) for each in maps
    ]
    np.testing.assert_allclose(found.residuals["far"], resized, rtol=1e-4, atol=1e-2)
    if size[0] < whole[0] and size[1] < whole[1]:
        at = [(np.arange(n) + 0.5) * m / n - 0.5 for n, m in zip(whole, size, strict=True)]
        grid = np.meshgrid(*at, indexing="ij")
        expected = [
            ndimage.map_coordinates(each.astype(float), grid, order=1, mode="nearest")
            for each in maps
        ]
        np.testing.assert_allclose(found.residuals["far"], expected, rtol=1e-5)
    totals = np.sum(np.array(resized, float), axis=(1, 2))
    np.testing.assert_allclose(found.distances["far"], totals, rtol=1e-4)
    assert found.reconstruction is None


@pytest.mark.parametrize("reduce", ["sum", "max", "top"])
def test_resized_then_smoothed_then_reduced(rng, reduce):
    """And a map of the images' own size is not resized: the bits are its own."""
    maps = {"small": rng.random((2, 4, 5), np.float32), "whole": rng.random((2, 9, 14), np.float32)}
    images = np.zeros((2, 9, 14, 1), np.float32)
    r = Reduction(("small", "whole"), 1.5, "edge", reduce, 0.1)
    found = scorer.scorer(method_of(maps), r)({}, images)
    plain = scorer.scorer(method_of(maps), r._replace(smooth=0.0))({}, images)
    np.testing.assert_array_equal(plain.residuals["whole"], maps["whole"])
    for name in maps:
        for i, each in enumerate(np.asarray(plain.residuals[name], float)):
            smooth = ndimage.gaussian_filter(each, 1.5, mode="nearest")
            np.testing.assert_allclose(found.residuals[name][i], smooth, rtol=1e-4)
            k = {"sum": 126, "max": 1, "top": 13}[reduce]  # of 126 pixels
            largest = np.sort(smooth.ravel())[-k:]
            number = largest.sum() if reduce == "sum" else largest.mean()
            np.testing.assert_allclose(found.distances[name][i], number, rtol=1e-4)


def test_a_number_of_the_methods_own_stands_for_the_reduction(rng):
    """Of the distance that has one; its map is the method's, resized and smoothed all the same."""
    maps = {name: rng.random((3, 6, 7), np.float32) for name in ("one", "two", "three")}
    numbers = {"two": rng.random(3, np.float32), "three": rng.random(3, np.float32)}
    call = scorer.scorer(method_of(maps, numbers), Reduction(("one", "two"), reduce="max"))
    found = call({}, np.zeros((3, 6, 7, 1), np.float32))
    assert {*found.distances} == {*found.residuals} == {"one", "two"}
    np.testing.assert_array_equal(found.distances["one"], maps["one"].max(axis=(1, 2)))
    np.testing.assert_array_equal(found.distances["two"], numbers["two"])
    for name in found.residuals:
        np.testing.assert_array_equal(found.residuals[name], maps[name])


def test_the_same_arguments_give_the_same_call():
    """So that runs of one method share what they compile; another reduction is another call."""
    inspect, r = method_of({"far": np.zeros((1, 2, 2), "f")}), Reduction(("far",))
    assert scorer.scorer(inspect, r) is scorer.scorer(inspect, Reduction(("far",)))
    assert scorer.scorer(inspect, r) is not scorer.scorer(inspect, r._replace(reduce="max"))


def test_score_all_of_a_method_without_reconstructions(rng):
    """Its batches are put together all the same."""
    images = rng.random((5, 4, 6, 1), np.float32)

    def inspect(variables, images):
        return Evidence({"dark": variables["a"] - images[..., 0]})

    call = scorer.scorer(inspect, Reduction(("dark",), reduce="max"))
    found = scorer.score_all(call, {"a": np.float32(2)}, images, 2)
    assert found.reconstruction is None
    np.testing.assert_array_equal(found.residuals["dark"], np.float32(2) - images[..., 0])
    np.testing.assert_array_equal(found.distances["dark"], 2 - images.min(axis=(1, 2, 3)))


@pytest.mark.parametrize(
    ("n", "batch_size", "told"), [(7, 3, [3, 3, 1]), (4, 2, [2, 2]), (2, 5, [2])]
)
def test_score_all(rng, n, batch_size, told):
    variables = variables_of(rng, 8, 3)
    images = rng.random((n, 12, 14, 3), np.float32)
    call, traced = counted(8, 6)
    heard = []
    found = scorer.score_all(call, variables, images, batch_size, heard.append)
    assert heard == told
    assert len(traced) == 1
    fields = jax.tree.leaves(found)
    assert all(isinstance(field, np.ndarray) for field in fields)
    assert [field.shape for field in fields] == [(n,), (n, 12, 14), (n, 12, 14, 3)]
    expected = [loop_score(variables, image, 8, 6)[0] for image in images]
    np.testing.assert_allclose(found.distances["l2"], expected, rtol=1e-5)


def test_score_all_of_no_images(rng):
    call, traced = counted(8, 6)
    with pytest.raises(ValueError, match="no image"):
        scorer.score_all(call, {}, np.zeros((0, 12, 14, 3), np.float32), 4)
    assert traced == []


def test_time_is_the_median_call_over_its_images(rng, monkeypatch):
    """Five calls of 1, 5, 2, 9 and 3 seconds on two images, after one that is not timed."""
    calls = []
    ticks = iter([0, 1, 10, 15, 20, 22, 30, 39, 40, 43])
    monkeypatch.setattr(scorer, "time", types.SimpleNamespace(perf_counter=lambda: next(ticks)))

    def call(variables, images):
        calls.append(images.shape)
        return images

    images = rng.random((2, 4, 4, 1), np.float32)
    assert scorer.milliseconds_per_image(call, {}, images) == 1500
    assert calls == [(2, 4, 4, 1)] * 6
