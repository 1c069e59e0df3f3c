"""The built-in methods but the first, small, through all that a run is: kills, members, reports."""

import json
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import numpy as np
import pandas as pd
import pytest
import small_runs

from cae_jax.data import synthetic
from cae_jax.evaluation import collapse
from cae_jax.reports import html
from cae_jax.runs import cell as cells
from cae_jax.runs import dry_run, evaluate, job, train
from cae_jax.runs.config import configure
from cae_jax.serving import folder, trained

ROOT = pathlib.Path(__file__).parents[2]
TIMES = ("ms_per_image", "ms_per_patch", "train_seconds", "cross_fit_seconds")


class Small(NamedTuple):
    """A method at a size that a test can do."""

    flags: dict[str, Any]
    scoring: dict[str, Any]  # what `evaluate` may change
    distances: list[str]
    by_steps: bool


# f-AnoGAN: two epochs of the GAN, then two of the encoder, of two steps each
METHODS = {
    "variation_model": Small(
        {"mode": "robust"},
        {"polarity": "dark", "variance_threshold": 1.0},
        ["deviation", "variation"],
        False,
    ),
    "gaussian": Small(
        {"features": "filter_bank", "feature_channels": 6},
        {"image_score": "top", "residual_smooth": 1.0},
        ["mahalanobis"],
        False,
    ),
    "feature_memory": Small(
        {"features": "filter_bank", "coreset": 0.2},
        {"memory_scoring": "official", "image_score": "sum"},
        ["nearest"],
        False,
    ),
    "f_anogan": Small(
        {
            **{"epochs": 4, "encoder_epochs": 2, "num_patches": 8, "batch_size": 4},
            **{"patch_size": 8, "stride": 8, "width": 2, "latent": 3, "critic_steps": 2},
        },
        {"distance": "l1", "image_score": "sum"},
        ["izi_f", "l1", "l2", "ssim"],
        True,
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("methods")
    counts = {"n_train": 10, "n_good": 3, "n_defective_per_kind": 1}
    synthetic.write(root / "in", ["tablet"], 32, 1, 0, **counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        yield root


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves the plots out: they take most of a tiny run's time."""
    monkeypatch.setattr(evaluate, "_plot", lambda *_: None)


def config_of(world, method, workdir, **changes):
    flags = {"dataset": "folder", "data_dir": str(world / "in"), "category": "tablet"}
    flags |= {"image_size": 32, "method": method, "workdir": str(world / workdir)}
    return configure(**(flags | METHODS[method].flags | changes))


def cell_of(config):
    return pathlib.Path(config.workdir, "tablet", config.method, f"seed_{config.seed}")


def metrics_of(config):
    found = json.loads((cell_of(config) / "metrics.json").read_text())
    return {name: value for name, value in found.items() if name not in TIMES}


def variables_of(config):
    (cell,) = [c for c in cells.find(pathlib.Path(config.workdir)) if c.config.seed == config.seed]
    return train.load_trained(cell).variables


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.fixture(scope="module", params=METHODS)
def straight(request, world):
    """A finished run of each method, with its plots."""
    config = config_of(world, request.param, f"straight_{request.param}")
    job.run(config)
    return config


def test_everything_is_written(straight):
    small, cell = METHODS[straight.method], cell_of(straight)
    files = {path.name for path in cell.iterdir()}
    assert {"scores.csv", "metrics.json", "gallery.png", "report.html", "checkpoints"} <= files
    of_steps = {"history.csv", "training_curve.png"}
    assert files & of_steps == (of_steps if small.by_steps else set())
    frame = pd.read_csv(cell / "scores.csv")
    assert list(frame)[5:] == [*small.distances, "p_value"]
    np.testing.assert_array_equal(frame["distance"], frame[straight.build().distances[0]])
    found = metrics_of(straight)
    assert found["method"] == found["model"] == straight.method
    assert found["run"] == straight.title
    assert set(found["distances"]) == set(small.distances)
    history = pd.read_csv(cell / "history.csv").to_dict("records") if small.by_steps else []
    assert found["collapse"] == collapse.warning(history)


def test_thresholds_come_from_the_scores(straight):
    frame = pd.read_csv(cell_of(straight) / "scores.csv")
    test = frame[frame["split"] == "test"]
    by_steps = METHODS[straight.method].by_steps
    unseen = frame[frame["split"] == ("validation" if by_steps else "out-of-fold")]["distance"]
    good = np.sort(test[test["label"] == 0]["distance"])
    points = metrics_of(straight)["operating_points"]
    by_key = {(p["rule"], p["source"], p["percent"]): p for p in points}
    if by_steps:
        assert by_key["ceil", "validation good", 90]["threshold"] == unseen.max()  # of one
    else:
        assert by_key["ceil", "out-of-fold good", 90]["threshold"] == np.sort(unseen)[8]  # of ten
    thesis = by_key["ceil", "test good", 70]
    assert thesis["threshold"] == good[2]  # ceil(0.7 * 3)
    defective = test[test["label"] == 1]["distance"]
    assert thesis["defect_accuracy"] == (defective > good[2]).mean()


def test_judged_anew_as_if_it_had_always_been(straight, world, undrawn):
    small = METHODS[straight.method]
    again = config_of(world, straight.method, f"again_{straight.method}")
    shutil.copytree(straight.workdir, again.workdir)
    job.evaluate_again(pathlib.Path(again.workdir), changes=small.scoring)
    other = config_of(world, straight.method, f"other_{straight.method}", **small.scoring)
    job.run(other)
    one, two = ((cell_of(c) / "scores.csv").read_bytes() for c in (again, other))
    assert one == two
    assert one != (cell_of(straight) / "scores.csv").read_bytes()
    assert metrics_of(again) == metrics_of(other)


def test_served_as_it_was_judged(straight, world):
    opened = trained.open_run(straight.workdir)
    images = world / "in" / "tablet"
    output = world / f"scored_{straight.method}"
    found = folder.score_folder(opened, images / "test", output, save_maps=True)
    run = pd.read_csv(cell_of(straight) / "scores.csv")
    run = run[run["split"] == "test"].reset_index(drop=True)
    scored = pd.read_csv(output / "scores.csv")
    assert list("test/" + scored["path"]) == list(run["path"])
    np.testing.assert_allclose(scored["distance"], run["distance"], rtol=1e-5)
    assert found.n_defective == (run["distance"] > opened.judge.threshold.value).sum()
    assert len([*output.rglob("*.tiff")]) == len(run)
    one = opened.detector.score(images / run["path"][0])
    assert one.distance == pytest.approx(run["distance"][0], rel=1e-5)
    assert one.reconstruction is None or one.reconstruction.shape == (32, 32, 1)


def test_the_report_names_it(straight):
    for path in html.write(pathlib.Path(straight.workdir)):
        assert straight.method in path.read_text()


def test_a_dry_run(straight, world):
    said = dry_run.forecast(job.plan([config_of(world, straight.method, "dry")]))
    counted = sum(leaf.size for leaf in jax.tree.leaves(variables_of(straight)["params"]))
    assert f"{straight.method}: {counted:,} parameters" in said
    assert not (world / "dry").exists()
    assert "0 new, 0 go on, 1 finished" in dry_run.forecast(job.plan([straight]))


@pytest.mark.parametrize(
    ("straight", "at", "said"),
    [
        ("variation_model", 0, ""),
        ("f_anogan", 3, "goes on after epoch 1 of 4"),
        ("f_anogan", 7, "goes on after epoch 3 of 4"),
    ],
    indirect=["straight"],
    ids=["before scoring", "in the GAN's phase", "in the encoder's phase"],
)
def test_killed_and_started_again_is_the_same(
    straight, at, said, world, undrawn, monkeypatch, capfd
):
    config = config_of(world, straight.method, f"killed_{straight.method}_{at}")
    small_runs.killed(config, at)
    if not METHODS[straight.method].by_steps:
        monkeypatch.setattr(train, "fit", None)  # it was fitted before
    job.run(config)
    assert said in capfd.readouterr().err
    for name in ("scores.csv", *(["history.csv"] if METHODS[config.method].by_steps else [])):
        assert (cell_of(config) / name).read_bytes() == (cell_of(straight) / name).read_bytes()
    assert metrics_of(config) == metrics_of(straight)
    equal(variables_of(config), variables_of(straight))


def test_two_seeds_of_a_gan_as_members(world, undrawn):
    """By vmap a seed ends where it ends by itself, but for rounding: Adam makes whole steps of a
    gradient that is all but 0, so that is told by the distance from the other seed's end."""
    distances = METHODS["f_anogan"].distances
    ends = [
        [
            pd.read_csv(cell_of(config) / "scores.csv")[distances].to_numpy()
            for config in _seeds_trained(world, members)
        ]
        for members in ("vmap", "loop")
    ]

    def apart(one, other):
        return np.median(np.abs(one - other) / other)

    for i in (0, 1):
        assert apart(ends[0][i], ends[1][i]) < min(0.05, apart(ends[0][i], ends[1][1 - i]) / 3)
    alone = config_of(world, "f_anogan", "alone", seed=1)
    job.run(alone)
    equal(variables_of(config_of(world, "f_anogan", "members_loop", seed=1)), variables_of(alone))


def _seeds_trained(world, members):
    flags = {"members": members}
    configs = [
        config_of(world, "f_anogan", f"members_{members}", seed=seed, **flags) for seed in (0, 1)
    ]
    assert not job.run_grid(configs).failed
    return configs


def test_two_seeds_of_a_fit(world, undrawn):
    configs = [
        config_of(world, "variation_model", "seeds", seed=seed, validation_fraction=0.4)
        for seed in (0, 1)
    ]
    assert not job.run_grid(configs).failed
    alone = config_of(world, "variation_model", "one", seed=1, validation_fraction=0.4)
    job.run(alone)
    equal(variables_of(configs[1]), variables_of(alone))
    ideal = [variables_of(config)["params"]["ideal"] for config in configs]
    assert not np.array_equal(*ideal)  # other images are held out
