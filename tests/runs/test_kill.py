"""SIGKILL at random moments of a run, started again until it ends: nothing of it shows."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pandas as pd
import pytest

from cae_jax.data import synthetic
from cae_jax.runs.config import configure
from cae_jax.training import loop
from cae_jax.training.checkpoints import Checkpoints

ROOT = pathlib.Path(__file__).parents[2]
TIMES = ["ms_per_image", "ms_per_patch", "train_seconds"]
# report.html shows the times of metrics.json, and flags.txt names the workdir.
EQUAL = {
    *("scores.csv", "good.csv", "defective.csv", "history.csv", "left_out.csv", "curves.json"),
    *("examples.npz", "versions.json", "whiskers.png", "histogram.png", "training_curve.png"),
    *("gallery.png", "duplicates.csv", "fingerprints.csv"),
}
OTHERS = {"flags.txt", "metrics.json", "report.html", "checkpoints"}


def killed_at_random(root, kills, left_out):
    """Runs two categories for four epochs of four steps, a checkpoint each; what forked_runs says,
    and the config."""
    counts = {"n_train": 6, "n_good": 3, "n_defective_per_kind": 1}
    synthetic.write(root / "in", ["tablet", "weave"], 64, 1, 0, **counts)
    sizes = {"image_size": 64, "patch_size": 32, "stride": 16, "num_patches": 64, "batch_size": 16}
    flags = {"dataset": "folder", "data_dir": str(root / "in"), "epochs": 4}
    config = configure(model="small_net:Tiny", workdir=str(root / "out"), **flags, **sizes)
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    environment = {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": path,
        "XDG_CACHE_HOME": str(root / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "tests/forked_runs.py", config.to_flagfile(), "3", str(kills), left_out],
        cwd=ROOT,
        env=os.environ | environment | {"XDG_CACHE_HOME": str(root / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return config, json.loads(done.stdout.splitlines()[-1])


def content_of(cell):
    """What is the same in every run of a finished cell: files, and its metrics but for times."""
    names = {path.name for path in cell.iterdir()} - {".lock"}
    found = {name: (cell / name).read_bytes() for name in names - OTHERS}
    metrics = json.loads((cell / "metrics.json").read_text())
    assert all(metrics.pop(name) > 0 for name in TIMES)
    assert b"</html>" in (cell / "report.html").read_bytes()[-200:]
    return found | {"metrics.json": metrics}


def parameters_of(config, cell):
    template = loop.fresh_state(config.build().learn, 0)
    with Checkpoints(cell / "checkpoints") as checkpoints:
        epoch, state, _ = checkpoints.restore(template)
    assert (epoch, int(state.step)) == (4, 16)
    digest = hashlib.sha256(np.asarray(jax.random.key_data(state.key)).tobytes())
    for leaf in jax.tree.leaves(state._replace(key=())):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def check(root, kills, left_out=""):
    config, found = killed_at_random(root, kills, left_out)
    assert len(found["at"]) == kills
    straight = pathlib.Path(config.workdir, "straight")
    for ended in map(pathlib.Path, found["ended"]):
        for category in ("tablet", "weave"):
            cells = [
                workdir / category / "small_net.Tiny" / "seed_0" for workdir in (straight, ended)
            ]
            wanted, content = (content_of(cell) for cell in cells)
            assert content == wanted, ended
            assert len({parameters_of(config, cell) for cell in cells}) == 1
        tables = [pd.read_csv(workdir / "results.csv") for workdir in (straight, ended)]
        pd.testing.assert_frame_equal(
            *(table.drop(columns=TIMES, errors="ignore") for table in tables)
        )
    return found, content


def test_killed_at_twenty_random_moments(tmp_path):
    """Without the plots, which take most of a small run's time."""
    found, _ = check(tmp_path, 20, "_plot")
    assert len(found["ended"]) > 1  # some of the moments were in the second half of a run
    logs = [pathlib.Path(f"{workdir}.log").read_text() for workdir in found["ended"]]
    assert any("goes on after epoch" in log for log in logs)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_killed_at_a_hundred_random_moments(tmp_path):
    _, content = check(tmp_path, 100)
    assert set(content) == EQUAL | {"metrics.json"}
