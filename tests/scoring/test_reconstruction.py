"""Reconstruction by patches: maps and numbers of a paper's own, against loops over patches."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from cae_jax.scoring import reconstruction, residuals, scorer
from cae_jax.scoring.options import AVERAGES, DISTANCES
from cae_jax.scoring.reconstruction import Windows
from cae_jax.scoring.residuals import Reduction
from cae_jax.types import Reconstruction

CASES = [  # height, width, channels, patch size, stride, chunk size
    (17, 23, 3, 8, 5, 2),  # 60 patches of three images: turns of a loop, the last one filled up
    (20, 13, 1, 9, 4, None),
    (8, 11, 1, 8, 8, 1),
]


def reconstruct(variables: dict, patches: jax.Array) -> Reconstruction:
    """A model in one line, with a number of each patch that no pixel of its error knows."""
    mean = patches.mean(axis=(1, 2, 3), keepdims=True)
    score = variables["c"] * patches.max(axis=(1, 2, 3)) + patches[:, 0, -1, 0]
    return Reconstruction(jnp.tanh(variables["a"] * patches) - 0.2 * mean, {"score": score})


def steep(x: jax.Array, y: jax.Array) -> jax.Array:
    """A distance of a fork's own."""
    return jnp.max(jnp.abs(x - y), axis=-1) * jnp.sqrt(x[..., 0])


def numpy_map(name: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A residual map [H, W] of images [H, W, C] in float64."""
    if name == "steep":
        return np.abs(x - y).max(axis=-1) * np.sqrt(x[..., 0])
    if name == "l2":
        return np.square(255 * (x - y)).sum(axis=-1)
    if name == "l1":
        return np.abs(255 * (x - y)).sum(axis=-1)
    how = {"data_range": 1.0, "use_sample_covariance": False, "full": True, "win_size": 3}
    channels = [structural_similarity(x[..., c], y[..., c], **how)[1] for c in range(x.shape[-1])]
    return 1 - np.mean(channels, axis=0)


def numpy_inspect(variables: dict, image: np.ndarray, p: int, stride: int, average: str):
    """Maps, number and reconstruction of one image, patch by patch in float64."""
    image, a = image.astype(float), float(variables["a"])
    height, width, _ = image.shape
    output, hits = np.zeros(image.shape), np.zeros((height, width))
    sums = {name: np.zeros((height, width)) for name in ("steep", *DISTANCES)}
    scores = []
    for row, column in itertools.product(range(0, height, stride), range(0, width, stride)):
        ys = np.minimum(np.arange(row, row + p), height - 1)
        xs = np.minimum(np.arange(column, column + p), width - 1)
        patch = image[ys][:, xs]
        made = np.tanh(a * patch) - 0.2 * patch.mean()
        scores.append(float(variables["c"]) * patch.max() + patch[0, -1, 0])
        y, x = min(p, height - row), min(p, width - column)
        output[row : row + y, column : column + x] += made[:y, :x]
        hits[row : row + y, column : column + x] += 1
        for name, total in sums.items():
            total[row : row + y, column : column + x] += numpy_map(name, patch, made)[:y, :x]
    output /= hits[..., None]
    if average == "maps":
        maps = {name: total / hits for name, total in sums.items()}
    else:
        maps = {name: numpy_map(name, image, output) for name in sums}
    return maps, max(scores), output


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize(("height", "width", "channels", "p", "stride", "chunk_size"), CASES)
def test_by_patches(rng, height, width, channels, p, stride, chunk_size, average):
    """An own distance's number is the largest of its patches'; the others have none."""
    images = rng.random((3, height, width, channels), np.float32)
    variables = {"a": np.float32(1.3), "c": np.float32(-0.7)}
    w = Windows(p, stride, average, "reflect", ssim_window=3, ssim_weights="flat")
    inspect = jax.jit(reconstruction.by_patches(reconstruct, w, chunk_size, {"steep": steep}))
    found = inspect(variables, images)
    assert {*found.maps} == {"steep", *DISTANCES}
    assert {*found.numbers} == {"steep"}
    assert found.numbers["steep"].shape == (3,)
    for i, image in enumerate(images):
        maps, number, output = numpy_inspect(variables, image, p, stride, average)
        np.testing.assert_allclose(found.numbers["steep"][i], number, rtol=1e-6)
        np.testing.assert_allclose(found.reconstruction[i], output, rtol=1e-5, atol=1e-6)
        for name, expected in maps.items():
            assert found.maps[name][i].shape == (height, width)
            atol = 1e-4 * np.abs(expected).max()
            np.testing.assert_allclose(found.maps[name][i], expected, rtol=1e-4, atol=atol)


def test_without_distances_of_its_own_there_are_no_numbers(rng):
    inspect = reconstruction.by_patches(reconstruct, Windows(8, 8))
    found = inspect({"a": 1.0, "c": 1.0}, rng.random((1, 8, 8, 1), np.float32))
    assert {*found.maps} == {*DISTANCES}
    assert not found.numbers


def test_an_images_evidence_knows_no_batch(rng):
    """Chunks run across images; what stands beside an image is nothing to it."""
    w = Windows(8, 3, ssim_window=3)
    inspect = jax.jit(reconstruction.by_patches(reconstruct, w, 7, {"steep": steep}))
    variables = {"a": np.float32(0.9), "c": np.float32(0.4)}
    images, others = rng.random((2, 3, 11, 14, 1), np.float32)
    others[1] = images[1]
    one, two = (inspect(variables, batch) for batch in (images, others))
    for first, second in zip(*map(jax.tree.leaves, (one, two)), strict=True):
        np.testing.assert_array_equal(first[1], second[1])
        assert np.any(first[0] != second[0])


def noted(name: str, calls: list[str], make):
    """The function, noting on the host that it is computed: XLA leaves out what nobody needs."""

    def call(x: jax.Array, y: jax.Array, *args) -> jax.Array:
        def note(maps: np.ndarray) -> np.ndarray:
            calls.append(name)
            return maps

        maps = make(x, y, *args)
        return jax.pure_callback(note, jax.ShapeDtypeStruct(maps.shape, maps.dtype), maps)

    return call


@pytest.mark.parametrize("wanted", [("l2",), ("ssim",), ("steep",), ("l1", "steep"), DISTANCES])
def test_what_is_not_asked_for_is_not_computed(rng, monkeypatch, wanted):
    """All distances are written down in `inspect`; the compiled call holds those of the run."""
    calls, plain = [], residuals.residual_map
    monkeypatch.setattr(
        residuals,
        "residual_map",
        lambda name, *args: noted(name, calls, lambda *rest: plain(name, *rest))(*args),
    )
    own = {"steep": noted("steep", calls, steep)}
    inspect = reconstruction.by_patches(reconstruct, Windows(8, 8, ssim_window=3), None, own)
    call = scorer.scorer(inspect, Reduction(wanted))
    variables = {"a": np.float32(1.3), "c": np.float32(-0.7)}
    found = jax.block_until_ready(call(variables, rng.random((1, 16, 8, 1), np.float32)))
    assert sorted(calls) == sorted(wanted)
    assert {*found.distances} == {*found.residuals} == {*wanted}
