"""Large images tile by tile, against loops over the tiles."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cae_jax.runs.config import configure
from cae_jax.scoring import scorer, tiles
from cae_jax.training.fit import fit
from cae_jax.types import Evidence, Fit, Method, Seen, UsageError

SIZE, TILE, OVERLAP = (10, 17), 6, 2
RNG = np.random.default_rng(0)
IMAGES = RNG.random((3, *SIZE, 1)).astype(np.float32)


def all_tiles():
    """(row, column) of each, by hand: 4 apart, the last flush with the border."""
    return [(row, column) for row in (0, 4) for column in (0, 4, 8, 11)]


def look(variables, images):
    return images[..., 0]


def learn(key, features):
    return {"params": {"mean": jnp.mean(features, axis=0)}}


def judge(variables, features):
    away = jnp.abs(features - variables["params"]["mean"])
    coarse = away.reshape(-1, 3, 2, 3, 2).mean(axis=(2, 4))  # maps may be smaller than tiles
    return Evidence({"away": away, "coarse": coarse}, {"away": jnp.ones(len(features))})


def inspect(variables, images):
    return judge(variables, look(variables, images))._replace(reconstruction=images)


TOY = Method(
    Fit(lambda key, images: learn(key, look({}, images)), Seen(look, learn, judge)),
    inspect,
    ("away", "coarse"),
)


def by_hand(name):
    cut = np.stack(
        [IMAGES[:, r : r + TILE, c : c + TILE, 0] for r, c in all_tiles()], axis=1
    )  # [n, T, 6, 6]
    mean = cut.reshape(-1, TILE, TILE).mean(axis=0)
    ramp = np.array([1 / 3, 2 / 3, 1, 1, 2 / 3, 1 / 3])
    weight = ramp[:, None] * ramp
    sums, total = np.zeros((3, *SIZE)), np.zeros(SIZE)
    for t, (r, c) in enumerate(all_tiles()):
        away = np.abs(cut[:, t] - mean)
        if name == "coarse":
            small = away.reshape(3, 3, 2, 3, 2).mean(axis=(2, 4))
            away = np.asarray(jax.image.resize(small, (3, TILE, TILE), "linear"))
        sums[:, r : r + TILE, c : c + TILE] += away * weight
        total[r : r + TILE, c : c + TILE] += weight
    return mean, sums / total


@pytest.mark.parametrize("name", ["away", "coarse"])
def test_it_learns_from_tiles_and_averages_their_maps(name):
    method = tiles.tiled(TOY, TILE, OVERLAP, SIZE)
    mean, maps = by_hand(name)
    variables = method.learn.fit(jax.random.key(0), IMAGES)
    np.testing.assert_allclose(variables["params"]["mean"], mean, rtol=1e-5)
    found = method.inspect(variables, IMAGES)
    np.testing.assert_allclose(found.maps[name], maps, rtol=1e-4, atol=1e-6)
    assert found.numbers == {}
    np.testing.assert_allclose(found.reconstruction, IMAGES, rtol=1e-5)
    look_at, learn_of, judge_of = method.learn.seen
    features = look_at({}, IMAGES)
    again = learn_of(jax.random.key(0), features)
    np.testing.assert_allclose(again["params"]["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(judge_of(again, features).maps[name], maps, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("tile", "overlap", "words"), [(11, 2, "--tile=11"), (6, 6, "from 0 to 5")]
)
def test_tiles_that_cannot_be_are_refused(tile, overlap, words):
    with pytest.raises(UsageError, match=words):
        tiles.tiled(TOY, tile, overlap, SIZE)


def test_a_small_defect_survives_that_is_lost_when_the_image_shrinks():
    size, rng = (64, 192), np.random.default_rng(1)

    def drawn(n, spots):
        images = 0.5 + 0.05 * rng.standard_normal((n, *size, 1))
        for image in images[:spots]:
            row, column = rng.integers(0, size[0] - 3), rng.integers(0, size[1] - 3)
            image[row : row + 3, column : column + 3] += 0.2
        return np.clip(images, 0, 1).astype(np.float32)

    good, test = drawn(8, 0), drawn(16, 8)

    def separated(**flags):
        c = configure(method="filter_bank", covariance="pooled", channels=1, **flags)
        c = c.changed(dataset="folder", data_dir="x", filter_stride=4, residual_smooth=1.0)
        method, (high, wide) = c.build(), c.frame.size
        down = (size[0] // high, size[1] // wide)

        def shrunk(images):
            return images.reshape(len(images), high, down[0], wide, down[1], 1).mean(axis=(2, 4))

        variables = fit(method, shrunk(good), 0)
        call = scorer.scorer(method.inspect, c.reduction(method.distances[:1]))
        found = call(variables, shrunk(test)).distances[method.distances[0]]
        return np.mean(np.asarray(found)[:8, None] > np.asarray(found)[8:])

    whole = separated(image_size=size, tile=32, tile_overlap=8)
    small = separated(image_size=(16, 48))
    assert whole == 1
    assert small < 0.9


def test_what_a_method_says_of_its_image_is_said_of_the_tile():
    flags = {"image_size": (64, 96), "tile": 32, "tile_overlap": 8, "patch_size": 64}
    with pytest.raises(UsageError, match=r"--patch_size=64 is outside 1\.\.32 \(--tile=32\)"):
        configure(**flags).build()
