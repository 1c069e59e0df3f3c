"""Two processes, one folder: the second is refused while the first lives, and only then."""

import contextlib
import errno
import fcntl
import io
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
import small_runs
from small_runs import config_of

from cae_jax.runs import job
from cae_jax.runs.machine import lock
from cae_jax.serving import folder, trained
from cae_jax.types import DataError, UsageError

ROOT = pathlib.Path(__file__).parents[3]
ENVIRONMENT = os.environ | {
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
}
HOLDS = """
import pathlib, sys, time
from cae_jax.runs.machine import lock

with lock.hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""
# Four processes add one to the number in a file, 200 times each, whenever they get the folder.
COUNT = """
import os, pathlib, sys
from cae_jax.runs.machine import lock
from cae_jax.types import UsageError

folder = pathlib.Path(sys.argv[1])

def add():
    with lock.hold(folder / "held"):
        n = int((folder / "n").read_text() or 0)
        (folder / "n").write_text(str(n + 1))

children = []
for _ in range(4):
    child = os.fork()
    if not child:
        done = 0
        while done < 200:
            try:
                add()
            except UsageError:
                continue
            done += 1
        os._exit(0)
    children.append(child)
sys.exit(max(os.waitpid(child, 0)[1] for child in children))
"""
WITHOUT_FCNTL = """
import pathlib, sys
sys.modules["fcntl"] = None
from cae_jax.runs.machine import lock

folder = pathlib.Path(sys.argv[1])
with lock.hold(folder), lock.hold(folder):
    lock.check(folder)
"""
# Runs the flags given and stops for good in the second epoch, the first one's checkpoint written.
RUNS = """
import pathlib, sys, time
from cae_jax.runs import job
from cae_jax.runs.config import Config
from cae_jax.runs.machine.progress import Bar

config = Config.from_flagfile(sys.argv[1], "flags")

def update(self, n, note=""):
    self.steps = getattr(self, "steps", 0) + 1
    if note and self.steps == 3:
        while not list(pathlib.Path(config.workdir).glob("*/*/*/checkpoints/1")):
            time.sleep(0.01)
        print("held", flush=True)
        time.sleep(600)

Bar.update = update
job.run(config)
"""


@contextlib.contextmanager
def process(source, argument):
    """A process that has said that it holds the folder; killed at the end."""
    child = subprocess.Popen(
        [sys.executable, "-c", source, str(argument)],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while (line := child.stdout.readline()) != "held\n":
            assert line, child.stderr.read()
        yield child
    finally:
        child.kill()
        child.communicate()


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    folder = tmp_path / "a" / "b"
    with process(HOLDS, folder) as child:
        with pytest.raises(UsageError) as caught, lock.hold(folder):
            pass
        with pytest.raises(UsageError, match=f"process {child.pid} on"):
            lock.check(folder)
        message = str(caught.value)
        assert message.startswith(
            f"{folder}: in use by process {child.pid} on {socket.gethostname()}, since 2"
        )
        assert re.search(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d; wait", message)
        with lock.hold(tmp_path / "a"):  # another folder, if only its parent
            pass
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    assert (folder / ".lock").read_text().startswith(f"process {child.pid} on")
    lock.check(folder)
    with lock.hold(folder):
        assert (folder / ".lock").read_text().startswith(f"process {os.getpid()} on")
    assert list(folder.iterdir()) == []


def test_what_a_lock_file_says_and_its_date_count_for_nothing(tmp_path):
    stale = tmp_path / ".lock"
    stale.write_text(f"process {os.getppid()} on {socket.gethostname()}, since 2999-01-01")
    for seconds in (0, 4e9):  # 1970 and 2096: the clock went forward or back meanwhile
        os.utime(stale, (seconds, seconds))
        lock.check(tmp_path)
    with lock.hold(tmp_path):
        pass


def test_one_process_after_the_other_has_it_never_two(tmp_path):
    (tmp_path / "n").write_text("")
    done = subprocess.run(
        [sys.executable, "-c", COUNT, tmp_path], env=ENVIRONMENT, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "n").read_text() == "800"
    assert list(tmp_path.rglob(".lock*")) == []


def test_again_in_the_same_process_and_in_another_thread(tmp_path):
    refused = []

    def try_it():
        try:
            with lock.hold(tmp_path):
                pass
        except UsageError as error:
            refused.append(str(error))

    for _ in range(2):
        with lock.hold(tmp_path):
            other = threading.Thread(target=try_it)
            other.start()
            other.join()
    assert len(refused) == 2
    assert f"process {os.getpid()} on" in refused[0]


def test_processes_that_share_a_folder(tmp_path):
    with lock.hold(tmp_path, (0, 2)), lock.hold(tmp_path, (1, 2)):
        for other in ((0, 1), (0, 2), (1, 2), (2, 3), (0, 22)):
            with pytest.raises(UsageError, match="in use"), lock.hold(tmp_path, other):
                pass
    with lock.hold(tmp_path), pytest.raises(UsageError), lock.hold(tmp_path, (1, 2)):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_goes_again_another_one_stays(tmp_path):
    with lock.hold(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []
    with lock.hold(tmp_path / "a" / "b"):
        (tmp_path / "a" / "x").write_text("")
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a" / "x"]
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyError), lock.hold(tmp_path / "there"):
        raise KeyError
    assert (tmp_path / "there").is_dir()


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("file", "File exists"),
        ("file/deeper", "Not a directory"),
        ("a" * 300, "File name too long"),
        ("closed/deeper", "Permission denied"),
    ],
)
def test_a_folder_that_cannot_be(tmp_path, monkeypatch, name, cause):
    (tmp_path / "file").write_text("a file")
    if name.startswith("closed"):  # root may write anywhere
        monkeypatch.setattr(pathlib.Path, "mkdir", _fail(errno.EACCES))
    with pytest.raises(DataError) as caught, lock.hold(tmp_path / name):
        pass
    assert str(caught.value) == f"'{tmp_path / name}': cannot be written: {cause}"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def _fail(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize(
    ("call", "number"), [("open", errno.EROFS), ("write", errno.ENOSPC), ("write", errno.EDQUOT)]
)
def test_a_folder_that_takes_no_file(tmp_path, monkeypatch, call, number):
    with monkeypatch.context() as patch:
        patch.setattr(os, call, _fail(number))
        with pytest.raises(DataError, match="cannot be written: ") as caught, lock.hold(tmp_path):
            pass
    assert os.strerror(number) in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    with lock.hold(tmp_path):
        pass


def test_without_locks_everything_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fcntl, "flock", _fail(errno.ENOLCK))
    with lock.hold(tmp_path), lock.hold(tmp_path):
        lock.check(tmp_path)
    warning = f"warning: {tmp_path}: no locks on this file system\n"
    assert capsys.readouterr().err == 2 * warning
    assert list(tmp_path.iterdir()) == []


def test_an_operating_system_without_fcntl(tmp_path):
    """The module loads, two hold the folder with a warning each, and nothing is left."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FCNTL, tmp_path / "a"], env=ENVIRONMENT,
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    warning = f"warning: {tmp_path / 'a'}: no locks on this file system\n"
    assert done.stderr.endswith(2 * warning)  # after filelock's own
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def windows(monkeypatch):
    """The rules of Windows: no open file is removed; the lock keeps its byte 0 from readers."""
    opened, locked = {}, {}  # descriptor to inode, inode to descriptor
    real_open, real_close, real_unlink = os.open, os.close, pathlib.Path.unlink

    def open_(path, flags, mode=0o777):
        file = real_open(path, flags, mode)
        opened[file] = os.fstat(file).st_ino
        return file

    def close(file):
        real_close(file)
        inode = opened.pop(file)
        if locked.get(inode) == file:
            del locked[inode]

    def unlink(path):
        if path.stat().st_ino in opened.values():
            raise PermissionError(errno.EACCES, "in use")
        real_unlink(path)

    class Reader(io.FileIO):
        def read(self, size=-1):
            if self.tell() == 0 and os.fstat(self.fileno()).st_ino in locked:
                raise PermissionError(errno.EACCES, "locked")
            return super().read(size)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "close", close)
    monkeypatch.setattr(pathlib.Path, "unlink", unlink)
    monkeypatch.setattr(pathlib.Path, "open", lambda path, *_, **__: Reader(path))
    monkeypatch.setattr(lock, "_WINDOWS", True)
    monkeypatch.setattr(
        lock, "lock_descriptor", lambda file, **_: locked.setdefault(opened[file], file) == file
    )
    yield
    assert (opened, locked) == ({}, {})


@pytest.mark.usefixtures("windows")
def test_the_rules_of_windows(tmp_path):
    folder = tmp_path / "a"
    with lock.hold(folder):
        for _ in range(2):
            with pytest.raises(UsageError) as caught, lock.hold(folder):
                pass
            assert f"in use by process {os.getpid()} on {socket.gethostname()}" in str(caught.value)
            with pytest.raises(UsageError, match=f"in use by process {os.getpid()} on"):
                lock.check(folder)
    assert list(tmp_path.iterdir()) == []
    with lock.hold(folder, (0, 2)), lock.hold(folder, (1, 2)), pytest.raises(UsageError):
        lock.check(folder)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [None, (0, 1), (0, 2)])
def test_one_that_only_looks_keeps_nobody_out(tmp_path, monkeypatch, share):
    """Looking locks a dead process's file for a moment, while another one looks or starts."""
    stale = tmp_path / ".lock"
    stale.write_text("process 1 on somewhere")
    looks = os.open(stale, os.O_RDONLY)
    fcntl.flock(looks, fcntl.LOCK_EX)
    monkeypatch.setattr(lock.time, "sleep", lambda _: os.close(looks))  # it looks away
    if share is None:
        lock.check(tmp_path)
    else:
        with lock.hold(tmp_path, share):
            pass


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two categories of 64 pixels."""
    root = tmp_path_factory.mktemp("lock")
    with small_runs.images_in(root, "tablet", "weave"):
        yield root


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_runs_in_one_workdir(world, capsys):
    """A real run in another process, refused in every way, then killed and gone on with."""
    cell = world / "run" / "tablet" / "small_net.Tiny" / "seed_0"
    config = config_of(world)
    with process(RUNS, config.to_flagfile()) as child:
        before = files_of(cell)
        words = f"{cell}: in use by process {child.pid} on"
        for changes in ({}, {"overwrite": True}, {"category": "all"}):
            with pytest.raises(UsageError, match=words):
                job.run(config_of(world, **changes))
        with pytest.raises(UsageError, match=words):
            job.evaluate_again(world / "run")
        with pytest.raises(UsageError, match=words):
            job.run_grid([config, config.changed(seed=1)])
        assert files_of(cell) == before
        assert list(world.glob("run/weave")) == []  # refused before anything began
        job.run(config_of(world, category="weave"))  # another cell is free
    table = job.run(config)
    assert f"{cell}: goes on after epoch 1 of 2" in capsys.readouterr().err
    assert list(table["category"]) == ["tablet", "weave"]
    job.run(config_of(world, workdir=str(world / "straight")))
    scores = cell.relative_to(world / "run") / "scores.csv"
    assert (cell / "scores.csv").read_bytes() == (world / "straight" / scores).read_bytes()
    assert list(world.rglob(".lock*")) == []


def test_reading_asks_for_no_lock(world):
    config = config_of(world)
    job.run(config)
    (cell,) = job.plan([config])
    with lock.hold(cell.folder):
        assert trained.open_run(world / "run", category="tablet").judge.held_out.shape == (1,)
        job.run(config)  # finished: nothing is written into the cell


def test_scoring_one_folder_twice(world):
    job.run(config_of(world))
    opened, output = trained.open_run(world / "run", category="tablet"), world / "scored"
    images = world / "in" / "tablet" / "test"
    for share in ((0, 1), (1, 2)):
        with lock.hold(output, share):
            with pytest.raises(UsageError, match=f"{output}: in use by process {os.getpid()}"):
                folder.score_folder(opened, images, output)
            assert len(list(output.iterdir())) == 1  # the lock
    assert folder.score_folder(opened, images, output).n_images == 6
    assert {path.name for path in output.iterdir()} == {"scores.csv", "left_out.csv", "run.json"}
