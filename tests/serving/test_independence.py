"""A score depends on its image and the model alone, to the last bit: neither other images change
it, nor a start that was killed."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import small_runs
from command_lines import ENVIRONMENT, ROOT
from PIL import Image

from cae_jax import data
from cae_jax.data.frame import Frame
from cae_jax.runs import cell as cells
from cae_jax.runs import evaluate, job
from cae_jax.runs.train import load_trained
from cae_jax.serving import folder, trained

SIZES = {"image_size": 32, "patch_size": 16, "stride": 8, "num_patches": 32, "batch_size": 32}

# Scores a folder slowly in processes of its own, killed at random moments, until one ends: prints
# how many rows the table had each time. Forked before JAX starts; imports are done once.
KILLED = """
import json, os, pathlib, random, signal, sys, time
import cae_jax
from cae_jax.scoring import compilation
from cae_jax.serving import folder, stream, trained
from cae_jax.runs import job

workdir, images, output = map(pathlib.Path, sys.argv[1:4])
begin = stream._begin
stream._begin = lambda *a: time.sleep(0.02) or begin(*a)
rng, rows = random.Random(0), []
while True:
    pid = os.fork()
    if not pid:
        try:
            compilation.use_cache()
            run = trained.open_run(workdir)
            folder.score_folder(run, images, output, batch_size=2, save_maps=True)
            os._exit(0)
        finally:
            os._exit(1)
    table = output / "scores.csv"
    before = rows[-1] if rows else 0
    wanted = before + rng.randrange(0, 12) if len(rows) < int(sys.argv[4]) else 10**9
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if table.exists() and table.read_bytes().count(10) > wanted:
            time.sleep(rng.uniform(0, 0.03))
            os.kill(pid, signal.SIGKILL)
            status = os.waitpid(pid, 0)[1]
            break
        time.sleep(0.002)
    if os.WIFEXITED(status):
        break
    rows.append(table.read_bytes().count(10) - 1)
assert os.waitstatus_to_exitcode(status) == 0
print(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A trained run in root/run on the folder root/in/tablet: 10 training and 18 test images."""
    root = tmp_path_factory.mktemp("independence")
    with small_runs.images_in(root, "tablet", n_good=10, n_defective_per_kind=2, size=32):
        job.run(small_runs.config_of(root, **SIZES, epochs=1, validation_fraction=0.4))
    return root


@pytest.fixture(scope="module")
def judge(world):
    """split -> every column of scores.csv and the residual map of each image, by path."""
    (cell,) = cells.find(world / "run")
    trained = load_trained(cell)

    def judge(split):
        judged = evaluate.judge(cell.config, split, trained)
        names = ["distance", "l1", "l2", "ssim", "p_value"]
        columns = judged.frame[names].to_numpy()
        maps = [judged.unseen.maps, judged.test.residuals["l2"]]
        rows = zip(columns, np.concatenate(maps), strict=True)
        return {
            path: (row.tobytes(), residual.tobytes())
            for path, (row, residual) in zip(judged.frame["path"], rows, strict=True)
        }

    return judge


@pytest.fixture(scope="module")
def split(world):
    whole = data.read("folder", str(world / "in"), "tablet", Frame(32, 1), 0)
    return data.hold_out(whole, 0.4, 0)


def chosen(split, places):
    """The split with these test images, in this order."""
    at = np.asarray(places)
    return dataclasses.replace(
        split,
        test=split.test[at],
        masks=split.masks[at],
        has_mask=split.has_mask[at],
        **{
            name: tuple(getattr(split, name)[i] for i in at)
            for name in ("test_paths", "kinds", "test_sizes")
        },
    )


def others(split):
    """The split with other pictures in place of all test images but the first three."""
    rng = np.random.default_rng(1)
    test = rng.random(split.test.shape, np.float32) ** 3
    test[:3] = split.test[:3]
    test[5], test[6], test[7, :4] = 0, 1, 0.5
    return dataclasses.replace(split, test=test)


@pytest.fixture(scope="module")
def wanted(judge, split):
    return judge(split)


CHANGES = {
    "reversed": lambda split: chosen(split, range(17, -1, -1)),
    "shuffled": lambda split: chosen(split, np.random.default_rng(0).permutation(18)),
    "one left out": lambda split: chosen(split, range(1, 18)),
    "good ones alone": lambda split: chosen(split, np.flatnonzero(split.labels == 0)),
    "one alone": lambda split: chosen(split, [4]),
    "one of many copies": lambda split: chosen(split, [2] * 30 + [9]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_score_is_the_same_in_another_test_set(judge, split, wanted, change):
    found = judge(CHANGES[change](split))
    assert len(found) > len(split.validation_paths)
    for path, bits in found.items():
        assert bits == wanted[path], path


def test_a_score_is_the_same_among_other_pictures(judge, split, wanted):
    changed = others(split)
    found = judge(changed)
    assert found.keys() == wanted.keys()
    kept = {*split.test_paths[:3], *split.validation_paths}
    for path in wanted:
        assert (found[path] == wanted[path]) == (path in kept), path


def table(folder):
    with open(folder / "scores.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert head[0] == "path"
    return {row[0]: row[1:] for row in rows}


def test_a_streamed_score_is_the_same_in_another_folder(world, tmp_path):
    """Other files, another number, another order, bad ones skipped: whatever shares its batch."""
    opened = trained.open_run(world / "run")
    root = shutil.copytree(world / "in/tablet/test", tmp_path / "all")

    def scored(name, images):
        folder.score_folder(opened, images, tmp_path / name, batch_size=4, on_bad_image="skip")
        return table(tmp_path / name)

    wanted = scored("wanted", root)
    assert len(wanted) == 18
    rng = np.random.default_rng(2)
    changed = shutil.copytree(root, tmp_path / "changed")
    for path in ("good/000.png", "good/004.png", "crack/001.png"):
        (changed / path).write_text("no image any more")
    for path in ("a first one.png", "good/0005.png", "zz/last.png"):
        (changed / path).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (50, 40), np.uint8)).save(changed / path)
    (changed / "good/007.png").unlink()
    found = scored("found", changed)
    assert len(found) == 18 - 4 + 3
    both = found.keys() & wanted.keys()
    assert len(both) == 14
    for path in both:
        assert found[path] == wanted[path], path
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy2(root / "good/003.png", alone / "renamed.png")
    assert scored("one", alone)["renamed.png"] == wanted["good/003.png"]


def test_a_folder_scored_by_killed_processes_has_the_same_table(world, tmp_path):
    images = tmp_path / "in"
    images.mkdir()
    rng = np.random.default_rng(3)
    for i in range(50):
        Image.fromarray(rng.integers(0, 256, (40, 30), np.uint8)).save(images / f"{i:02}.png")
    opened = trained.open_run(world / "run")
    straight = tmp_path / "straight"
    folder.score_folder(opened, images, straight, batch_size=2, save_maps=True)
    paths = [str(path) for path in (world / "run", images, tmp_path / "out")]
    environment = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *paths, "3"],
        env=ENVIRONMENT | environment | {"XDG_CACHE_HOME": str(world / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    assert len(rows) == 3
    assert rows == sorted(rows)
    assert 0 < rows[-1] < 50
    wanted = {path.relative_to(straight): path for path in straight.rglob("*.*")}
    found = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*.*")}
    leftovers = {path for path in found if path.name.endswith(".tmp") or path.name == ".lock"}
    assert found - leftovers == {path for path in wanted if path.name != ".lock"}
    for name in found - leftovers:
        assert (tmp_path / "out" / name).read_bytes() == wanted[name].read_bytes(), name
