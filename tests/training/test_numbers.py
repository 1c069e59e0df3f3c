"""What is not finite stops a run, and is named; what is odd but finite does not."""

import dataclasses
import functools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import small_runs
import train_one
from PIL import Image

from cae_jax.evaluation import finite
from cae_jax.methods.autoencoder import steps
from cae_jax.methods.gradients import optimizer
from cae_jax.runs import cell as cells
from cae_jax.runs import evaluate, job
from cae_jax.runs.build import read_split
from cae_jax.runs.config import Config
from cae_jax.runs.train import load_trained
from cae_jax.serving import folder, trained
from cae_jax.training import loop
from cae_jax.training.loop import Member, Progress
from cae_jax.training.members import Plan
from cae_jax.training.schedule import Schedule
from cae_jax.types import CaeError, DataError, Scores

SCHEDULE = Schedule(epochs=3, batch_size=4, num_patches=13, patch_size=8, seed=0)  # 3 steps each


config_of = functools.partial(small_runs.config_of, epochs=3, num_patches=80, batch_size=16)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("numbers")
    with small_runs.images_in(root, "tablet", n_train=8):
        yield root


@pytest.fixture(scope="module")
def finished(world):
    config = config_of(world, "finished")
    job.run(config)
    return config


def poisoned(learn, seed, at):
    """The steps, but for a parameter that is infinite after step `at` where the key is of
    `seed`: the loss of that step is still finite."""

    def step(state, patches):
        state, metrics = learn.step(state, patches)
        of_seed = jax.random.key_data(state.key)[-1] == seed
        bad = jnp.where((state.step == at) & of_seed, jnp.inf, 0.0)
        variables = jax.tree.map(lambda leaf: leaf + bad, state.variables)
        return state._replace(variables=variables), metrics

    return learn._replace(step=step)


@pytest.mark.parametrize("plan", [Plan(), Plan("vmap")], ids=str)
def test_a_parameter_that_is_not_finite_stops_its_member(tiny_model, tiny_state, plan):
    """At the end of the second epoch, before its checkpoint; the others end as without it."""
    learn = poisoned(steps(tiny_model, optimizer(1e-2, 1e-5)), 1, 6)

    def members(*seeds):
        images = np.random.default_rng(5).random((3, 5, 12, 14, 1), np.float32)
        for seed, own in zip(seeds, images, strict=True):
            start = Progress(0, tiny_state(learn, seed), [], 0.0)
            yield Member(own[1:], own[:1], SCHEDULE._replace(seed=seed), start)

    wanted = loop.train_members(learn, list(members(0, 3, 2)), plan)
    saved = []
    ends = loop.train_members(
        learn, list(members(0, 1, 2)), plan, on_epoch=lambda i, at: saved.append((i, at.epoch))
    )
    assert isinstance(ends[1], CaeError)
    assert re.fullmatch(
        r"training stopped: variables/params/decoder/\w+ is not finite at step 3 of epoch 2; "
        "try a lower --learning_rate",
        str(ends[1]),
    )
    assert sorted(saved) == [(0, 1), (0, 2), (0, 3), (1, 1), (2, 1), (2, 2), (2, 3)]
    for i in (0, 2):
        assert ends[i].history == wanted[i].history
        both = (jax.tree.leaves(end.state.variables) for end in (ends[i], wanted[i]))
        for leaf, same in zip(*both, strict=True):
            np.testing.assert_array_equal(leaf, same)


def test_one_bad_cell_of_several(world, monkeypatch):
    """Its seed is named, its last good checkpoint stays, and the other one is judged."""
    config = config_of(world, "bad", members="vmap")
    method = config.build()
    method = method._replace(learn=poisoned(method.learn, 1, 10))
    monkeypatch.setattr(Config, "build", lambda self: method)
    outcome = job.run_grid([config.changed(seed=seed) for seed in (0, 1)])
    names = [f"tablet/small_net.Tiny/seed_{seed}" for seed in (0, 1)]
    assert set(outcome.failed) == {names[1]}
    said = str(outcome.failed[names[1]])
    assert said.startswith("tablet, small_net.Tiny, seed 1: training stopped: variables/params/")
    assert "at step 5 of epoch 2" in said
    bad = config.folder / names[1]
    assert [path.name for path in (bad / "checkpoints").iterdir()] == ["1"]
    (good,) = outcome.cells
    assert good.finished
    assert good.folder == config.folder / names[0]
    assert len(pd.read_csv(good.folder / "history.csv")) == 3


def test_a_validation_loss_that_is_not_finite_stops(tiny_model, tiny_state):
    learn = steps(tiny_model, optimizer(1e-2, 1e-5))
    images = np.random.default_rng(5).random((5, 12, 14, 1), np.float32)
    held_out = np.full((1, 12, 14, 1), 1e30, np.float32)  # finite itself, but not its square
    start = Progress(0, tiny_state(learn, 0), [], 0.0)
    with pytest.raises(CaeError, match="the validation loss is inf after epoch 1"):
        train_one.train_member(learn, Member(images, held_out, SCHEDULE, start))


def trained_of(config):
    (cell,) = cells.find(pathlib.Path(config.workdir))
    return cell.config, read_split(cell.config), load_trained(cell)


@pytest.mark.parametrize("part", ["test", "validation"])
def test_a_map_that_is_not_finite_names_the_image(finished, part):
    """One pixel of the last image of that part."""
    config, split, trained = trained_of(finished)
    images = getattr(split, part).copy()
    images[-1, 20, 30] = np.nan
    paths = getattr(split, f"{part}_paths")
    bad = dataclasses.replace(split, **{part: images})
    evaluate.judge(config, split, trained)
    with pytest.raises(CaeError, match="is not finite") as caught:
        evaluate.judge(config, bad, trained)
    assert str(caught.value).startswith(f"tablet/{paths[-1]}: the distance ")


def test_maps_are_looked_at_beside_distances():
    maps = np.zeros((3, 4, 4))
    maps[1, 2, 2] = np.inf
    scores = Scores({"l2": np.zeros(3)}, {"l2": maps}, None)
    with pytest.raises(CaeError, match=r"^b: the residual map l2 is not finite"):
        finite.check_finite(scores, ["a", "b", "c"])


def test_a_detector_does_not_judge_by_what_is_not_finite(finished, world, tmp_path):
    judge = trained.open_run(finished.workdir)
    image = next((world / "in" / "tablet" / "test" / "good").iterdir())
    assert np.isfinite(judge.detector.score(image).distance)
    nothing = jax.tree.map(lambda leaf: leaf * jnp.nan, judge.variables)
    bad = dataclasses.replace(judge, variables=nothing)
    with pytest.raises(CaeError, match=f"{image.name}': the distance l2 is not finite"):
        bad.detector.score(image)
    with pytest.raises(CaeError, match="the image: the distance l2 is not finite"):
        bad.detector.score(np.zeros((64, 64), np.uint8))
    with pytest.raises(CaeError, match=r"crack/000\.png: the distance l2 is not finite"):
        folder.score_folder(bad, world / "in" / "tablet" / "test", tmp_path / "out")


ODD = {  # what every pixel of image i is, of 0..255
    "black": lambda i: np.zeros((64, 64)),
    "white": lambda i: np.full((64, 64), 255),
    "constant": lambda i: np.full((64, 64), 100 + i),
    "saturated": lambda i: 255 * (np.random.default_rng(i).random((64, 64)) < 0.5),
}


def write_odd(root, kind):
    for part, first, n in (("train/good", 0, 6), ("test/good", 6, 3), ("test/bad", 9, 3)):
        (root / kind / part).mkdir(parents=True)
        for i in range(first, first + n):
            pixels = ODD[kind](i).astype(np.uint8)
            Image.fromarray(pixels).save(root / kind / part / f"{i:02}.png")


def test_images_without_structure(world):
    """Through the whole run, trained on SSIM and judged by every distance: all is finite."""
    root = world / "odd"
    for kind in ODD:
        write_odd(root / "in", kind)
    flags = {"data_dir": str(root / "in"), "category": "all", "validation_fraction": 0.0}
    table = job.run(config_of(root, "out", loss="ssim", distance="ssim", epochs=2, **flags))
    assert sorted(table["category"]) == sorted(ODD)
    assert table["image_auroc"].between(0, 1).all()
    for kind in ODD:
        (cell,) = (root / "out" / kind).glob("*/seed_0")
        frame = pd.read_csv(cell / "scores.csv")
        assert len(frame) == 6
        assert np.isfinite(frame[["distance", "l1", "l2", "ssim"]]).all(axis=None), kind
        assert np.isfinite(pd.read_csv(cell / "history.csv")["loss"]).all(), kind
        found = json.loads((cell / "metrics.json").read_text())
        if kind in ("black", "white"):  # all alike: nothing tells good from bad
            assert found["image_auroc"] == 0.5


def test_training_images_that_are_all_one(world):
    write_odd(world / "one", "black")
    config = config_of(world, "all_one", data_dir=str(world / "one"), category="black")
    with pytest.raises(DataError, match="black: all 6 training images are the same one"):
        job.run(config)
