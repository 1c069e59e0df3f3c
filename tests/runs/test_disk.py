"""Disks that are full, read-only or not what they seem, and clocks: a clear line, nothing torn."""

import errno
import functools
import itertools
import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import small_runs
from command_lines import ENVIRONMENT, ROOT

from cae_jax import data
from cae_jax.runs import cell as cells
from cae_jax.runs import job, train
from cae_jax.scoring import scorer
from cae_jax.types import DataError, UsageError

CHANGING = {"metrics.json", "versions.json", "flags.txt", "report.html"}  # they hold times, paths
# A file system of its own, first of one page, then ever larger ones, then read-only.
SMALL = """
import contextlib, io, json, os, pathlib, subprocess, sys
from absl import flags
from cae_jax.runs import command_line, evaluate, job
from cae_jax.runs.config import Config

evaluate._plot = lambda *_: None
text, disk, elsewhere = sys.argv[1:]
os.makedirs(disk)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", disk], check=True)
record = Config.from_flagfile(text, "flags")

def attempt(call):
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        try:
            command_line.main(call, names=[])
        except SystemExit as error:
            lines = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
            flags.FLAGS.unparse_flags()
            return error.code or 0, lines, "Traceback" in err.getvalue()

sys.argv = ["run"]
answers, size = [], 4096
while not answers or answers[-1][0]:
    answers.append(attempt(lambda: job.run(record)))
    size = size * 3 // 2
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
torn = [str(p) for p in pathlib.Path(disk).rglob("*") if p.suffix == ".tmp" or p.name == ".lock"]
subprocess.run(["cp", "-r", disk + "/run", elsewhere], check=True)
subprocess.run(["mount", "-o", "remount,ro", disk], check=True)

def read():
    from cae_jax.serving import folder, trained
    found = trained.open_run(disk + "/run")
    at = pathlib.Path(record.data_dir, "tablet", "test")
    print(folder.score_folder(found, at, pathlib.Path(elsewhere + "-scored")).n_images)

def other():
    import dataclasses
    job.run(record.changed(seed=1))

with contextlib.redirect_stdout(io.StringIO()) as out:
    code = attempt(read)
answers = {"full": answers, "torn": torn, "read": [code, out.getvalue()], "other": attempt(other)}
answers["evaluate"] = attempt(lambda: job.evaluate_again(pathlib.Path(disk, "run")))
print(json.dumps(answers))
"""


config_of = functools.partial(small_runs.config_of, num_patches=32)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A category, and what a run on it that nothing disturbs leaves."""
    root = tmp_path_factory.mktemp("disk")
    with small_runs.images_in(root, "tablet") as patch:
        patch.setattr(scorer, "milliseconds_per_image", lambda *_: 1.0)
        job.run(config_of(root, "straight"))
        yield root


def contents(folder):
    """The bytes of every file but the arrays' own, whose names orbax draws at random."""
    files = (
        path
        for path in folder.rglob("*")
        if path.is_file() and not {"variables", "rest"} & set(path.parts)
    )
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def parameters(world, workdir):
    config = config_of(world, workdir)
    (cell,) = job.plan([config])
    return train.load_trained(cell).variables["params"]["Conv_0"]["kernel"]


def check_like_straight(world, workdir):
    """All files of the undisturbed run are there, with its bytes; no other ones."""
    found, wanted = contents(world / workdir), contents(world / "straight")
    assert set(found) == set(wanted)
    for name in wanted:
        if "checkpoints" not in name and pathlib.Path(name).name not in CHANGING | {"results.csv"}:
            assert found[name] == wanted[name], name
    np.testing.assert_array_equal(parameters(world, workdir), parameters(world, "straight"))


def check_not_torn(world, workdir):
    """What is there is a whole file of the undisturbed run, or is passed over."""
    wanted = contents(world / "straight")
    for name, content in contents(world / workdir).items():
        if "checkpoints" not in name:
            assert name.replace("/.metrics", "/metrics") in wanted, name
            if pathlib.Path(name).suffix == ".json":
                json.loads(content)
            elif name.endswith("history.csv"):  # a row for each epoch that ended
                assert wanted[name].startswith(content), name
            elif pathlib.Path(name).name not in {*CHANGING, "results.csv"}:
                assert content == wanted[name], name


class Full:
    """Lets `n` calls that write to the disk pass, then no more."""

    NAMES = ("mkdir", "fsync", "replace", "rename", "write")

    def __init__(self, patch, world, n):
        self.calls, self._n = 0, n
        for name in self.NAMES:
            patch.setattr(os, name, self._guard(getattr(os, name)))

    def _guard(self, call):
        def guarded(*args, **kwargs):
            self.calls += 1
            if self.calls > self._n:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return call(*args, **kwargs)

        return guarded


def sweep(world, monkeypatch, where):
    """Runs into a disk that is full after n writes, then on a free one; n of `where`(all)."""
    with monkeypatch.context() as patch:
        full = Full(patch, world, 10**9)
        job.run(config_of(world, "counted"))
    shutil.rmtree(world / "counted")
    assert full.calls > 40
    for n in where(full.calls):
        workdir = f"full_{n}"
        with monkeypatch.context() as patch:
            Full(patch, world, n)
            with pytest.raises((DataError, OSError)) as caught:
                job.run(config_of(world, workdir))
        error = caught.value
        assert (
            error.errno == errno.ENOSPC if isinstance(error, OSError) else "No space" in str(error)
        )
        assert "\n" not in str(error)
        check_not_torn(world, workdir)
        job.run(config_of(world, workdir))
        check_like_straight(world, workdir)
        shutil.rmtree(world / workdir)


def test_a_disk_that_fills_up(world, monkeypatch):
    sweep(world, monkeypatch, lambda n: range(0, n, n // 12))


@pytest.mark.slow
def test_a_disk_that_fills_up_at_any_write(world, monkeypatch):
    sweep(world, monkeypatch, range)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_files_that_may_not_grow(world):
    """A limit on the size of a file, as a quota is: also orbax's own threads meet it."""
    sizes = sorted(
        {path.stat().st_size for path in (world / "straight").rglob("*") if path.is_file()}
    )
    limits, (soft, hard) = sizes[-2::-6], resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in limits:
        workdir = f"limit_{limit}"
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            with pytest.raises((DataError, OSError)) as caught:
                job.run(config_of(world, workdir))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "\n" not in str(caught.value)
        check_not_torn(world, workdir)
        job.run(config_of(world, workdir))
        check_like_straight(world, workdir)


def test_a_small_disk_and_a_read_only_one(world, tmp_path):
    """A real file system, full at a dozen sizes; at last read-only."""
    mount = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    disk, flags = tmp_path / "disk", config_of(world, tmp_path / "disk/run").to_flagfile()
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", SMALL, flags, str(disk), str(world / "small")],
        env=ENVIRONMENT | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1])
    assert len(answers["full"]) > 7
    for code, lines, traceback in answers["full"][:-1]:
        assert (code, len(lines), traceback) == (1, 1, False)
        assert "no space left" in lines[0].lower()
    assert answers["full"][-1] == [0, [], False]
    assert answers["torn"] == []
    check_like_straight(world, "small")
    assert answers["read"] == [[0, [], False], "6\n"]  # scoring writes elsewhere
    for name in ("other", "evaluate"):
        code, lines, traceback = answers[name]
        assert (code, len(lines), traceback) == (1, 1, False)
        assert "cannot be written: Read-only file system" in lines[0]


@pytest.mark.parametrize(
    ("workdir", "cause"),
    [
        ("file", "Not a directory"),
        ("file/deeper", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("x" * 200 + "/" + 20 * ("y" * 200 + "/"), "File name too long"),
    ],
)
def test_a_workdir_that_cannot_be_is_found_before_anything_is_read(
    world, monkeypatch, workdir, cause
):
    (world / "file").write_text("a file")
    monkeypatch.setattr(data, "read", None)
    with pytest.raises((DataError, OSError), match=cause):
        job.run(config_of(world, workdir))
    assert (world / "file").read_text() == "a file"


def test_a_folder_without_the_right_to_write(world, monkeypatch):
    closed = world / "closed"
    closed.mkdir(exist_ok=True)
    closed.chmod(0o555)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write anywhere")
    monkeypatch.setattr(data, "read", None)
    with pytest.raises(DataError, match="cannot be written: Permission denied"):
        job.run(config_of(world, "closed"))


def test_nothing_depends_on_the_clock(world, monkeypatch):
    """Half a run now, the other half in 1980, by a clock that goes back with every look at it."""
    config = config_of(world, "clock")
    with monkeypatch.context() as patch:
        patch.setattr(scorer, "score_all", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            job.run(config)
    for path, date in zip((world / "clock").rglob("*"), itertools.cycle((0, 4e9, 1e9))):
        os.utime(path, (date, date))
    now = itertools.count(3.2e8, -3600.0)
    monkeypatch.setattr(time, "time", lambda: next(now))
    monkeypatch.setattr(time, "time_ns", lambda: int(1e9 * next(now)))
    job.run(config)
    check_like_straight(world, "clock")


def test_overwrite_needs_images_that_can_be_used(world, tmp_path):
    """What an earlier run left stays until everything new was found good."""
    shutil.copytree(world / "in", tmp_path / "in")
    job.run(config_of(world, "kept", epochs=1))
    before = contents(world / "kept")
    (tmp_path / "in/tablet/test/good/000.png").write_text("no image")
    bad = config_of(world, "kept", data_dir=str(tmp_path / "in"), overwrite=True)
    with pytest.raises(DataError, match=r"000\.png"):
        job.run(bad)
    with pytest.raises(UsageError, match="category"):
        job.run(config_of(world, "kept", category="none", overwrite=True))
    assert contents(world / "kept") == before
    job.run(config_of(world, "kept", overwrite=True))
    check_like_straight(world, "kept")


def test_overwrite_stopped_while_it_clears(world, monkeypatch):
    """At any moment the old run is there as it was, or not finished, its flags beside it."""
    job.run(config_of(world, "source", epochs=1))
    files = contents(world / "source")
    old = str(pathlib.Path("tablet", "small_net.Tiny", "seed_0"))

    def marks_last(folder):  # a file system lists in whatever order
        paths = [folder / name for name in os.listdir(folder)]
        return iter(sorted(paths, key=lambda path: path.name == "metrics.json"))

    for n in itertools.count():
        workdir, left = f"cleared_{n}", itertools.count(n, -1)
        shutil.copytree(world / "source", world / workdir)

        def stop(call, left=left):
            def stopping(*args, **kwargs):
                if next(left) <= 0:
                    raise KeyboardInterrupt
                return call(*args, **kwargs)

            return stopping

        (cell,) = job.plan([config_of(world, workdir, overwrite=True)])
        with monkeypatch.context() as patch:
            patch.setattr(pathlib.Path, "iterdir", marks_last)
            patch.setattr(os, "unlink", stop(os.unlink))
            patch.setattr(shutil, "rmtree", stop(shutil.rmtree))
            try:
                cells._clear(cell.folder)
                break
            except KeyboardInterrupt:
                pass
        now = contents(world / workdir)
        assert f"{old}/flags.txt" in now
        assert (len(now) == len(files)) == (f"{old}/metrics.json" in now)
        with pytest.raises(UsageError, match=r"--learning_rate=.*, now 0\.5"):
            job.run(config_of(world, workdir, learning_rate=0.5))
    assert n > 5
    assert list(cell.folder.iterdir()) == []
