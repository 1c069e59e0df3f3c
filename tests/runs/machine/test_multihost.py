"""Several processes: which flags go together, and two real ones on loopback that share a folder."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest
from processes import free_port
from serving.test_stream import make_world

from cae_jax.runs.machine import multihost
from cae_jax.serving import folder, trained
from cae_jax.types import DataError, UsageError

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("multihost")
    make_world(root)
    return root


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("localhost:1", None, None), "--num_processes is missing"),
        (("localhost:1", 2, None), "--process_id is missing"),
        ((None, 2, 0), "--coordinator_address is missing"),
        (("localhost", 2, 0), "--coordinator_address=localhost: expected HOST:PORT"),
        (("localhost:x", 2, 0), "expected HOST:PORT"),
        (("localhost:65536", 2, 0), "expected HOST:PORT"),
        (("localhost:1", 0, 0), "--num_processes=0: must be at least 1"),
        (("localhost:1", 2, 2), "--process_id=2: must be from 0 to 1"),
        (("localhost:1", 2, -1), "--process_id=-1: must be from 0 to 1"),
    ],
)
def test_flags_that_cannot_work(flags, words):
    with pytest.raises(UsageError, match=words):
        multihost.start(*flags)


def test_an_address_that_cannot_be_used():
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(DataError, match=f"localhost:{port}: the port is in use"):
            multihost.start(f"localhost:{port}", 2, 0)
    with pytest.raises(DataError, match=r"nobody listened there for 0\.3 s"):
        multihost.start(f"localhost:{free_port()}", 2, 1, timeout=0.3)
    with pytest.raises(DataError, match=r"no-host\.invalid:9: "):
        multihost.start("no-host.invalid:9", 2, 1)


def test_one_process_has_it_all():
    multihost.start(None, None, None)
    assert multihost.is_first()
    assert multihost.share([3, 1, 2]) == [3, 1, 2]
    with multihost.together("here"):
        multihost.barrier("there")
    with pytest.raises(KeyError, match="key"), multihost.together("again"):
        raise KeyError("key")


def score_by_two(world, output, *flags):
    """Starts `experiments.score` twice; returns what the two came to."""
    address = f"localhost:{free_port()}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "XDG_CACHE_HOME": str(world / "cache"),
    }
    command = [sys.executable, "-m", "experiments.score", "--num_processes=2", "--batch_size=3"]
    command += [f"--workdir={world / 'run'}", f"--images={world / 'in'}", f"--output={output}"]
    both = [
        subprocess.Popen(
            [*command, f"--coordinator_address={address}", f"--process_id={i}", *flags],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in (0, 1)
    ]
    try:
        texts = [process.communicate(timeout=200) for process in both]
    finally:
        for process in both:
            process.kill()
    return [(p.returncode, *t) for p, t in zip(both, texts, strict=True)]


def test_two_processes_score_each_image_once(world):
    """First with a bad image in the second one's share; then they go on, and with three parts."""
    opened = trained.open_run(world / "run")
    root, bad = world / "in", world / "in/good/000.png"
    folder.score_folder(opened, root, world / "one", batch_size=3)
    whole = (world / "one/scores.csv").read_text()
    bad.rename(world / "kept")
    bad.write_text("no image")
    (code, _, error), (code_1, _, error_1) = score_by_two(world, world / "two")
    assert (code, code_1) == (1, 1), error + error_1
    assert "error: " + str(bad) in error_1
    assert "two: not all images are scored yet; the same command goes on" in error
    # part of the work of three earlier ones, the last row torn
    rows = whole.splitlines(keepends=True)
    at = next(i for i, row in enumerate(rows) if row.startswith("good/001"))
    (world / "two/scores.csv").unlink()
    part = rows[0] + rows[at] + rows[at + 1][:-4]
    (world / "two/scores.part-2-of-3.csv").write_text(part)
    (code, out, error), (code_1, out_1, error_1) = score_by_two(
        world, world / "two", "--on_bad_image=skip"
    )
    assert (code, code_1) == (0, 0), error + error_1
    assert "11 images scored" in out
    assert "images scored" not in out_1
    assert "6/6 images" in error
    left = [row for row in rows if not row.startswith("good/000")]
    assert (world / "two/scores.csv").read_text() == "".join(left)
    assert (
        (world / "two/left_out.csv")
        .read_text()
        .startswith('path,cause\ngood/000.png,"is a text file, no image"')
    )
    written = {"scores.csv", "left_out.csv", "run.json", "report.html"}
    assert {path.name for path in (world / "two").iterdir()} == written
