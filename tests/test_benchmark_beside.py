"""Beside anomalib: what the command makes of two sides, and that the real twin is one."""

import sys

import numpy as np
import pytest

from benchmarks import sides, table_rows, timing
from cae_jax.runs.config import configure
from cae_jax.types import Split, UsageError

SIDE = 12
FLAGS = {"method": "apart_method", "dataset": "folder", "image_size": SIDE, "intensity": "median"}
METHOD = """
import dataclasses
import jax.numpy as jnp
from cae_jax.types import Evidence, Fit, Method

@dataclasses.dataclass(frozen=True)
class Options:
    pass

def make(options, side, channels):
    def inspect(variables, images):
        apart = jnp.abs(images - variables["mean"]).sum(-1)
        return Evidence({"apart": apart}, {"apart": apart.max((1, 2))})

    return Method(Fit(lambda key, images: {"mean": images.mean(0)}), inspect, ("apart",))
"""


class Opposite:
    """The same method in NumPy, which calls the best image the worst; what it was asked to do."""

    def __init__(self):
        self.did = []

    def detector(self, settings):
        assert settings.intensity == "none"  # its images are even before
        return self

    def fit(self, images):
        self.did.append(("fit", len(images)))
        self.mean = images.mean(0)

    def score(self, images):
        self.did.append(("score", len(images)))
        maps = np.abs(images - self.mean).sum(-1)
        return -maps.max((1, 2)), maps

    def same(self, settings, variables, train, test):
        np.testing.assert_allclose(variables["mean"], train.mean(0), rtol=1e-5)
        maps = np.abs(test - train.mean(0)).sum(-1)
        return {"map": 1.25 * maps, "score": 0.5 * maps.max((1, 2))}


@pytest.fixture
def split(rng):
    """Three good images, and two good and three defective ones, gray as four times as bright."""
    train, test = (rng.uniform(0.1, 0.2, (n, SIDE, SIDE, 1)).astype(np.float32) for n in (3, 5))
    masks = np.zeros((5, SIDE, SIDE), bool)
    masks[2:, 3:6, 4:8] = True
    test[masks] += rng.uniform(0.05, 0.6, (36, 1)).astype(np.float32)
    return Split(
        **{"dataset": "folder", "category": "box", "train": train, "train_paths": ("a", "b", "c")},
        **{"validation": train[:0], "validation_paths": (), "test": test, "masks": masks},
        **{"test_paths": tuple("abcde"), "kinds": ("good", "good", "hole", "hole", "hole")},
        **{"has_mask": np.array([1, 1, 1, 1, 0], bool), "test_sizes": ((SIDE, SIDE),) * 5},
    )


def test_two_sides_are_measured_by_turns(split, tmp_path, monkeypatch):
    (tmp_path / "apart_method.py").write_text(METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    settings = configure(**FLAGS).resolved()
    twin = Opposite()
    record = sides.measure(settings, split, twin, [2, 7], repeats=2, fits=3)
    del sys.modules["apart_method"]

    even = [images / np.median(images, (1, 2, 3), keepdims=True)
            for images in (split.train, split.test)]  # fmt: skip
    maps = np.abs(even[1] - even[0].mean(0)).sum(-1)
    worst = maps.max((1, 2))
    auroc = np.mean(worst[2:, None] > worst[:2])
    pixels = maps[:4][split.masks[:4]], maps[:4][~split.masks[:4]]
    of_pixels = np.mean(pixels[0][:, None] > pixels[1])
    expected = {timing.OURS: auroc, "anomalib": 1 - auroc, "difference": 2 * auroc - 1}
    assert record["image_auroc"] == pytest.approx(expected)
    expected = {timing.OURS: of_pixels, "anomalib": of_pixels, "difference": 0}
    assert record["pixel_auroc"] == pytest.approx(expected)
    assert record["rank_correlation"] == pytest.approx(-1)
    assert record["same"] == pytest.approx({"map": 0.25, "score": 0.5}, rel=1e-4)
    one_by_one, twos, sevens = 5 * [("score", 1)], 3 * [("score", 2)], 3 * [("score", 7)]
    assert twin.did == [*(4 * [("fit", 3)]), *one_by_one, *twos, *sevens]
    assert (record["n_train"], record["n_test"], record["intensity"]) == (3, 5, "median")
    for timed in (record["fit"], *record["scoring"]):
        seconds = timed["seconds"]
        assert list(seconds) == list(timed["cpu_seconds"]) == [timing.OURS, "anomalib"]
        assert timed["ratio"] == pytest.approx(seconds["anomalib"] / seconds[timing.OURS])
    (row,) = table_rows.beside(record)
    assert row["image AUROC"] == f"{auroc:.3f} / {1 - auroc:.3f}"
    assert row["largest difference, same settings"] == pytest.approx(0.5, rel=1e-4)
    ours = record["scoring"][1]["seconds"][timing.OURS]
    assert row["ms an image of 7"].startswith(f"{1e3 * ours / 7:.3g} / ")


def test_the_settings_are_those_of_both():
    with pytest.raises(UsageError, match="--method beside anomalib 'autoencoder'"):
        sides.equal_settings(configure(method="autoencoder"))
    found = sides.equal_settings(configure(method="gaussian", image_size=32)).options
    assert (found.neighborhood, found.shrinkage) == (1, 0.01001)


# Four images of noise give a covariance of condition 2e5: float64 is as far from either side.
@pytest.mark.parametrize(("method", "off"), [("gaussian", 2e-3), ("feature_memory", 1e-4)])
def test_anomalib_says_the_same_with_the_same_settings(method, off, rng):
    module = "benchmarks.engines.anomalib_twin"
    twin = pytest.importorskip(module, reason="anomalib is not installed", exc_type=ImportError)
    flags = {"image_size": 40, "channels": 3, "stages": "24@4,112@16"}
    own = {"coreset": 0.1} if method == "feature_memory" else {}
    settings = sides.equal_settings(configure(method=method, **flags, **own))
    train, test = (rng.random((n, 40, 40, 3), np.float32) for n in (4, 3))
    ours = sides.Ours(settings)
    ours.fit(train)
    wanted = ours.same(test)
    found = twin.same(settings, ours.variables, train, test)
    assert list(found) == list(wanted)
    for what, values in wanted.items():
        np.testing.assert_allclose(found[what], values, rtol=0, atol=off * values.max())
    theirs = twin.detector(settings)
    theirs.fit(train)
    numbers, maps = theirs.score(test)
    assert (numbers.shape, maps.shape) == ((3,), (3, 40, 40))
    settings = settings.changed(stages="192@32")
    with pytest.raises(UsageError, match="not 192@32 of lite0"):
        twin.detector(settings)
