"""What tells the test images apart without a model, as a run says it, and brightness taken out."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from PIL import Image
from small_runs import config_of, folder_of, images_in

from cae_jax.data import arrays, synthetic
from cae_jax.reports import html
from cae_jax.runs import build, evaluate, job, train
from cae_jax.runs import cell as cells
from cae_jax.runs.config import configure
from cae_jax.serving import trained
from cae_jax.types import Duplicate

OWN = {"method": "variation_model", "image_size": 32}


def test_images_that_recur_are_counted_once():
    split = synthetic.read("weave", 32, 1, 0)
    train, test = split.train_paths, split.test_paths
    pairs = [(test[0], train[3]), (test[0], test[4]), (test[2], test[0]), (train[1], train[0])]
    found = tuple(Duplicate(*pair, "near", 0.9) for pair in [*pairs, (test[5], train[3])])
    assert evaluate._n_recurring(dataclasses.replace(split, duplicates=found)) == 2


def test_trivial_scores_see_images_made_even_by_what_counts():
    """As the method does: how much of an image is filled up is no brightness of it."""
    levels, lights = np.array([1, 2, 3, 4, 5, 6, 8, 11]) / 16, (0.25, 0.5, 1, 1, 0.5, 0.25)
    images = np.empty((6, 8, 8), np.float32)
    images[:] = np.reshape(lights, (6, 1, 1)) * levels[:, None]
    counts = np.ones((6, 8, 8), bool)
    counts[4:, :, 3:] = False
    images[4:, :, 3:] = np.reshape(lights[4:], (2, 1, 1)) * levels.mean()  # as `frame.placed` does
    split = arrays.split(images[:2], images[2:], [0, 0, 1, 1])
    paths = split.train_paths + split.test_paths
    split = dataclasses.replace(split, counts=dict(zip(paths, counts, strict=True)))
    for of_them, auroc in ((split, 0.5), (dataclasses.replace(split, counts={}), 1.0)):
        found = evaluate._shortcuts(configure(intensity="median"), of_them)
        assert found["trivial_auroc"]["brightness"] == auroc


def of_method(world, workdir, **changes):
    """A run of a method that needs no patches."""
    shared = ("dataset", "data_dir", "category", "workdir")
    flags = {name: getattr(config_of(world, workdir), name) for name in shared}
    return configure(**flags, **OWN, **changes)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A category whose good test images are darker than all others, at 0.6 of their brightness."""
    root = tmp_path_factory.mktemp("shortcuts")
    with images_in(root, "tablet", n_good=5, n_defective_per_kind=2):
        for path in (root / "in/tablet/test/good").iterdir():
            with Image.open(path) as image:
                dark = np.round(np.asarray(image) * 0.6).astype(np.uint8)
            Image.fromarray(dark).save(path)
        yield root


def metrics_of(config):
    return json.loads((folder_of(config) / "metrics.json").read_text())


def test_a_run_warns_of_brightness_and_says_which_run_to_trust(world, capsys):
    raw, even = (of_method(world, name, intensity=name) for name in ("none", "median"))
    job.run(raw)
    said = capsys.readouterr().err
    job.run(even)
    quiet = capsys.readouterr().err
    found = [metrics_of(config) for config in (raw, even)]
    assert [each["intensity"] for each in found] == ["none", "median"]
    assert found[0]["light_auroc"] == found[1]["light_auroc"]
    assert found[0]["light_auroc"]["none"]["brightness"] < 0.1
    assert found[0]["light_auroc"]["median"]["brightness"] > 0.25
    assert found[0]["trivial_auroc"]["brightness"] == found[0]["light_auroc"]["none"]["brightness"]
    assert found[1]["trivial_auroc"]["contrast"] == found[0]["light_auroc"]["median"]["contrast"]
    assert f"warning: tablet, variation_model (unaligned), seed 0: {found[0]['light']}" in said
    assert found[0]["light"].endswith("trust the run with --intensity=median")
    assert found[1]["light"].endswith("trust this run")
    assert "brightness alone" not in quiet
    for config, other in ((raw, "divided by their median"), (even, "images as they are")):
        page = html.run_page(html.read_run(folder_of(config)))
        assert metrics_of(config)["light"] in page
        assert f"contrast, {other}" in page


def test_the_light_of_an_image_is_no_matter_to_a_run_on_even_ones(world):
    job.run(of_method(world, "even", intensity="median"))
    opened = trained.open_run(world / "even")
    detector, config = opened.detector, opened.cell.config
    image = build.read_split(config).test[0]
    ideal = opened.variables["params"]["ideal"]
    dark = 0.5 * image
    one, other = (detector.score(each) for each in (image, dark))
    assert one.distance == pytest.approx(other.distance, rel=1e-4)
    np.testing.assert_allclose(one.residual, other.residual, rtol=1e-3, atol=1e-3)
    for each, verdict in ((image, one), (dark, other)):
        scale = np.median(each)
        np.testing.assert_allclose(verdict.reconstruction, ideal * scale, rtol=1e-4)
    good = build.read_split(config).train
    good = good / np.median(good, axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(ideal, good.mean(axis=0), rtol=1e-5)


def test_training_by_steps_sees_even_images(world):
    """As if they had been made even before, and held-out ones too."""
    ends = []
    for name in ("mean_std", "none"):
        config = config_of(world, f"steps_{name}", intensity=name)
        cell = cells.make(config.resolved(), "tablet")
        split = build.read_split(cell.config)
        if name == "none":
            parts = {}
            for part in ("train", "validation"):
                x = getattr(split, part)
                mean, spread = (f(x, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.std))
                parts[part] = 0.45 + (x - mean) * (0.225 / spread)
            split = dataclasses.replace(split, **parts)
        cells.prepare(cell, split)
        ends += train.train_cells([(cell, split)])
    for one, other in zip(*(jax.tree.leaves(end.variables) for end in ends), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        *([row["validation_loss"] for row in end.history] for end in ends), rtol=1e-3
    )
