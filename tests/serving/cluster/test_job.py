"""A folder scored by a Ray cluster: the numbers of one machine, though a worker is killed."""

import csv
import functools
import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pyarrow
import pytest
import small_runs
from command_lines import ENVIRONMENT, ROOT
from PIL import Image
from pyarrow import parquet

import cae_jax
from cae_jax.runs import job as runs
from cae_jax.serving import folder, trained
from cae_jax.serving.cluster import table
from cae_jax.serving.cluster.worker import Task, Worker, judge_of
from cae_jax.serving.export import export
from cae_jax.types import DataError

MARK = "CAE_JAX_TEST_OF_RAY"  # in the environment of all that a test starts
# Scores a folder on two workers, of which the first to get to a second block kills itself there.
KILLED = """
import os, pathlib, signal, sys
import cae_jax
from cae_jax.serving import exported
from cae_jax.serving.cluster import job

model, images, output, marks = map(pathlib.Path, sys.argv[1:])

class Mortal(job.Worker):
    def __init__(self, task):
        (marks / f"started-{os.getpid()}").touch()
        self.blocks = 0
        super().__init__(task)

    def __call__(self, block):
        self.blocks += 1
        if self.blocks == 2:
            try:
                (marks / "killed").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(block)

def opening():
    detector = cae_jax.load(model, percent=50)
    return detector, exported.identity_of(detector)

job.Worker = Mortal
print(job.score(opening, f"file://{images}", str(output), job.Options(actors=2)))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run, root/run, exported to root/model, and root/images, of which two cannot be read."""
    root = tmp_path_factory.mktemp("cluster")
    with small_runs.images_in(root, "tablet", n_good=12, n_defective_per_kind=4, size=32):
        sizes = {"image_size": 32, "patch_size": 16, "stride": 8, "num_patches": 32}
        runs.run(small_runs.config_of(root, **sizes, epochs=1, validation_fraction=0.4))
    export(trained.open_run(root / "run"), root / "model", ["stablehlo"])
    shutil.copytree(root / "in/tablet/test", root / "images")
    (root / "images/torn, one.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    (root / "images/empty.jpg").touch()
    return root


@functools.cache
def plain(root):
    """The rows that `experiments.score` writes, by path: distance, p-value, verdict, file."""
    run = trained.open_run(root / "run", percent=50)
    found = folder.score_folder(run, root / "images", root / "plain", on_bad_image="skip")
    assert found.n_left_out == 2
    with open(root / "plain/scores.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))[1:]
    return {row[0]: [float(row[1]), float(row[2]), row[3] == "1", *map(int, row[4:6]), row[6]]
            for row in rows}  # fmt: skip


def survivors():
    """The processes that a test started and that still live."""
    found = []
    for about in pathlib.Path("/proc").glob("[0-9]*/environ"):
        try:
            found += [about.parent.name] * (f"{MARK}=".encode() in about.read_bytes())
        except OSError:  # it has gone
            continue
    return found


def test_a_killed_worker_costs_no_row_and_no_bit(world, tmp_path):
    folders = (world / "model", world / "images", tmp_path / "out", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, folders)],
        cwd=ROOT,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT / "tests"), MARK: "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "killed").exists()
    assert len(list(tmp_path.glob("started-*"))) == 3
    rows = parquet.read_table(tmp_path / "out/scores.parquet")
    assert rows.schema == table.SCHEMA
    rows = rows.to_pylist()
    wanted, detector = plain(world), cae_jax.load(world / "model", percent=50)
    paths = [row["path"] for row in rows]
    assert paths == sorted([*wanted, "torn, one.png", "empty.jpg"])
    for row in rows:
        if row["error"] is None:
            verdict = detector.score(world / "images" / row["path"])
            assert [row["distance"], row["p_value"], row["defective"]] == [
                verdict.distance,
                verdict.p_value,
                verdict.defective,
            ]
            distance, *others = wanted[row["path"]]
            assert row["distance"] == pytest.approx(distance, rel=1e-5)
            names = ("p_value", "defective", "bytes", "modified", "sha256")
            assert [row[name] for name in names] == others
    assert [row["error"] for row in rows if row["path"] == "empty.jpg"] == ["is empty (0 bytes)"]
    n_defective = sum(others[2] for others in wanted.values())
    said = f"Summary(n_images={len(wanted)}, n_defective={n_defective}, n_left_out=2)\n"
    assert done.stdout == said
    deadline = time.monotonic() + 30
    while survivors() and time.monotonic() < deadline:
        pass
    assert survivors() == []


def task_of(world, **changes):
    detector = cae_jax.load(world / "run", percent=50)
    of = Task(*detector.again, judge_of(detector), str(world / "images"), 2, None)
    return of._replace(**changes)


def block_of(paths):
    return pyarrow.table(
        {"path": [os.fsencode(path) for path in paths], "modified": [7] * len(paths)}
    )


@pytest.fixture
def environ(monkeypatch):
    """What a worker sets for its process is undone."""
    for name in ("NPROC", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "0")


def test_a_worker_says_what_the_folder_says_to_the_last_bit(world, environ):
    wanted = plain(world)
    rows = Worker(task_of(world))(block_of([*wanted, "gone.png"])).to_pylist()
    assert os.environ["NPROC"] == os.environ["OMP_NUM_THREADS"] == "2"
    *good, gone = rows
    assert {row["path"]: [row["distance"], row["p_value"], row["defective"]] for row in good} == {
        path: found[:3] for path, found in wanted.items()
    }
    assert {row["modified"] for row in rows} == {7}
    assert gone["error"] == "cannot be read: No such file or directory"
    assert gone["distance"] is gone["p_value"] is gone["defective"] is None


def test_an_image_without_a_finite_score_is_a_row_of_its_own(world, environ, monkeypatch):
    worker = Worker(task_of(world, batch_size=3))
    call = worker._detector.call

    def hollow(images):
        found = call(images)
        name = worker._detector.model.distance
        bright = images.mean((1, 2, 3)) > 0.99
        return found._replace(distances={name: np.where(bright, np.nan, found.distances[name])})

    object.__setattr__(worker._detector, "call", hollow)
    Image.new("L", (32, 32), 255).save(world / "white.png")
    paths = [*list(plain(world))[:2], "../white.png", *list(plain(world))[2:4]]
    rows = worker(block_of(paths)).to_pylist()
    assert [row["error"] is None for row in rows] == [True, True, False, True, True]
    assert "finite" in rows[2]["error"]
    for row in rows[:2] + rows[3:]:
        assert row["distance"] == pytest.approx(plain(world)[row["path"]][0], rel=1e-5)


def test_a_worker_refuses_another_model_under_the_same_name(world, environ):
    other = judge_of(cae_jax.load(world / "run", percent=20))
    with pytest.raises(DataError, match="is another model than the job was started with"):
        Worker(task_of(world, judge=other))
