"""The compiled call from images to distances against loops over patches."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cae_jax.scoring import scorer
from cae_jax.types import Reconstruction


def reconstruct(variables: dict, patches: jax.Array) -> Reconstruction:
    """A model in one line: it depends on the place in the patch and on the whole patch."""
    mean = patches.mean(axis=(1, 2, 3), keepdims=True)
    return Reconstruction(jnp.tanh(variables["a"] * patches) + variables["b"] * mean, {})


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
    found = scorer.scorer(reconstruct, patch_size, stride, chunk_size)(variables, images)
    assert (found.distances["l2"].shape, found.residuals["l2"].shape) == ((3,), (3, *size))
    for i, image in enumerate(images):
        distance, residual, output = loop_score(variables, image, patch_size, stride)
        np.testing.assert_allclose(found.distances["l2"][i], distance, rtol=1e-5)
        np.testing.assert_allclose(found.residuals["l2"][i], residual, rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(found.reconstruction[i], output, rtol=1e-4, atol=1e-5)
    total = np.sum(found.residuals["l2"], axis=(1, 2))
    np.testing.assert_allclose(total, found.distances["l2"], rtol=1e-5)


def counted(patch_size: int, stride: int, chunk_size: int | None = None):
    """A scorer, and the shapes of the patches it was traced with."""
    traced = []

    def counting(variables, patches):
        traced.append(patches.shape)
        return reconstruct(variables, patches)

    return scorer.scorer(counting, patch_size, stride, chunk_size), traced


def test_distance_is_of_the_image_alone(rng):
    variables = variables_of(rng, 8, 1)
    images = rng.random((4, 12, 12, 1), np.float32)
    call = scorer.scorer(reconstruct, 8, 7, 7)
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
    # 12 and 13 pixels have 2 starts at stride 8: 4 patches an image
    assert traced == [(8, 8, 8, 1), (12, 8, 8, 1), (8, 8, 8, 1)]


def test_chunks_are_unrolled_inside_the_call(rng):
    call, traced = counted(8, 5, chunk_size=7)
    call(variables_of(rng, 8, 1), rng.random((1, 16, 16, 1), np.float32))
    assert [shape[0] for shape in traced] == [7, 7, 2]


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
