"""Ctrl-C and SIGTERM: a checkpoint at once, one line, and an end as if nothing had come."""

import contextlib
import functools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
import small_runs
from small_runs import folder_of

from cae_jax.methods import autoencoder, gradients
from cae_jax.runs import job
from cae_jax.runs.machine import interrupt
from cae_jax.runs.machine.progress import Bar
from cae_jax.training import loop
from cae_jax.training.checkpoints import Checkpoints
from cae_jax.training.loop import Member, Progress
from cae_jax.training.members import Plan
from cae_jax.training.schedule import Schedule

ROOT = pathlib.Path(__file__).parents[3]
SCHEDULE = Schedule(epochs=3, batch_size=4, num_patches=21, patch_size=8, seed=0)  # 5 steps each
# Runs the experiment once for each pair of a part and signals, in a child of its own, which gets
# the signals during that part's third update. Prints exit codes and what stood on standard error.
CHILDREN = """
import json, os, sys
from cae_jax.runs import command_line, evaluate
from cae_jax.runs.machine.progress import Bar
from cae_jax.command import run

workdir, plan = sys.argv[1], json.loads(sys.argv[2])
evaluate._plot = lambda *_: None
found = []
for i, (part, signals) in enumerate(plan):
    read, write = os.pipe()
    if not (pid := os.fork()):
        os.dup2(write, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

        def update(self, n, note=""):
            self.times = getattr(self, "times", 0) + 1
            if self._label.startswith(part) and self.times == 3:
                for number in signals:
                    os.kill(os.getpid(), number)

        Bar.update = update
        sys.argv = ["run", *sys.argv[3:], f"--workdir={workdir}/{i}"]
        try:
            command_line.main(run.run, again=command_line.GOES_ON)
        except SystemExit as end:
            sys.stderr.flush()
            os._exit(end.code or 0)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    found.append([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), said])
print(json.dumps(found))
"""


config_of = functools.partial(small_runs.config_of, epochs=3, num_patches=80, batch_size=16)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("interrupt")
    with small_runs.images_in(root, "tablet", "weave", n_train=8):
        yield root


@pytest.fixture(scope="module")
def straight(world):
    config = config_of(world, "straight", category="all")
    job.run(config)
    return {name: outcome(config, name) for name in ("tablet", "weave")}


def outcome(config, category="tablet"):
    """All that must be the same: scores, history, and every array of the last checkpoint."""
    cell = folder_of(config, category)
    template = loop.fresh_state(config.build().learn, 0)
    with Checkpoints(cell / "checkpoints") as checkpoints:
        epoch, state, _ = checkpoints.restore(template)
    leaves = [
        np.asarray(leaf).tobytes()
        for leaf in jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))
    ]
    tables = [(cell / name).read_bytes() for name in ("scores.csv", "history.csv", "curves.json")]
    return epoch, leaves, tables


@contextlib.contextmanager
def signal_at(part, update, number):
    """Sends this process a signal during a progress bar's update of that number."""
    seen = {"n": 0}
    before = Bar.update

    def noting(self, n, note=""):
        seen["n"] += self._label.startswith(part)
        if seen["n"] == update and self._label.startswith(part):
            signal.raise_signal(number)
        before(self, n, note)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bar, "update", noting)
        yield


@contextlib.contextmanager
def sigterm_raises():
    def handler(number, frame):
        raise InterruptedError(number)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield handler
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("number", "error", "step", "saved"),
    [
        (signal.SIGINT, KeyboardInterrupt, 8, ["1", "1+3"]),
        (signal.SIGTERM, InterruptedError, 1, ["0+1"]),
        (signal.SIGTERM, InterruptedError, 15, ["1", "2", "3"]),
    ],
)
def test_a_run_goes_on_in_the_midst_of_an_epoch(straight, world, capfd, number, error, step, saved):
    """To the bit; fifteen steps in all. The handlers of before are back."""
    config = config_of(world, f"stopped_{step}")
    with sigterm_raises() as handler:
        with signal_at("train", step, number), pytest.raises(error):
            job.run(config)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is handler
    folder = folder_of(config) / "checkpoints"
    names = {path.name for path in folder.iterdir()}
    assert names >= {saved[-1]}
    assert names <= set(saved)
    job.run(config)
    said = capfd.readouterr().err
    assert "stopping: a checkpoint comes first" in said
    epoch, _, steps = saved[-1].partition("+")
    place = f"epoch {epoch} and {steps} steps of 3" if steps else f"epoch {epoch} of 3"
    assert f"goes on after {place}" in said or (epoch, steps) == ("0", "")
    assert outcome(config) == straight["tablet"]


def test_checkpoints_that_are_far_apart(straight, world):
    """At the end of an epoch whose checkpoint is not due, one is written all the same."""
    config = config_of(world, "far_apart", checkpoint_every=3)
    with signal_at("train", 5, signal.SIGINT), pytest.raises(KeyboardInterrupt):
        job.run(config)
    assert [path.name for path in (folder_of(config) / "checkpoints").iterdir()] == ["1"]
    job.run(config)
    assert outcome(config) == straight["tablet"]


def test_several_members(world):
    config = config_of(world, "together", category="tablet,weave", members="vmap")
    wanted = config_of(world, "together_straight", category="tablet,weave", members="vmap")

    def start(config):
        assert job.run_grid([config]).failed == {}

    start(wanted)
    with signal_at("train", 7, signal.SIGINT), pytest.raises(KeyboardInterrupt):
        start(config)
    saved = {
        name: sorted(p.name for p in (folder_of(config, name) / "checkpoints").glob("*"))
        for name in ("tablet", "weave")
    }
    assert saved == {"tablet": ["1", "1+2"], "weave": ["1", "1+2"]}
    start(config)
    for name in ("tablet", "weave"):
        assert outcome(config, name) == outcome(wanted, name)


def test_scoring_is_left_at_once(straight, world, monkeypatch):
    config = config_of(world, "scoring")
    with signal_at("score", 1, signal.SIGINT), pytest.raises(KeyboardInterrupt):
        job.run(config)
    assert not {"metrics.json", "scores.csv"} & {p.name for p in folder_of(config).iterdir()}
    monkeypatch.setattr(loop, "epoch_crops", None)  # nothing is left to train
    job.run(config)
    assert outcome(config) == straight["tablet"]


def test_processes_leave_with_one_line(world, tmp_path):
    """What a shell sees; the second Ctrl-C does not wait."""
    flags = config_of(world, "unused").to_flagfile().split()
    flags = [flag for flag in flags if not flag.startswith("--workdir")]
    twice = [signal.SIGINT, signal.SIGINT]
    plan = [("train", [signal.SIGINT]), ("train", [signal.SIGTERM]), ("train", twice)]
    plan.append(("score", [signal.SIGTERM]))
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", CHILDREN, str(tmp_path), json.dumps(plan), *flags],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [code for code, _ in found] == [130, 143, -signal.SIGINT, 143], found
    rest = "; the same command goes on from the last checkpoint"
    for (_, said), word in zip(
        [*found[:2], found[3]], ("interrupt", "terminat", "terminat"), strict=True
    ):
        assert said.splitlines()[-1] == f"error: {word}ed{rest}"
        assert "Traceback" not in said
    cells = [tmp_path / str(i) / "tablet/small_net.Tiny/seed_0" for i in range(len(plan))]
    names = [{path.name for path in (cell / "checkpoints").glob("*")} for cell in cells]
    assert names == [{"0+3"}, {"0+3"}, set(), {"2", "3"}]
    assert not any((cell / "metrics.json").exists() for cell in cells)


def test_a_second_thread_and_ignored_signals_are_left_alone():
    said = []

    def other():
        with interrupt.held_back() as stop:
            said.append(stop())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert said == [False]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupt.held_back() as stop:
            signal.raise_signal(signal.SIGINT)  # as under nohup
            assert not stop()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_returns_does_not_let_it_go_on():
    """Who only takes note of a signal must not be given an untrained model as a trained one."""
    seen = []

    def train_on():
        with interrupt.held_back() as stop:
            signal.raise_signal(signal.SIGTERM)
            assert stop()
            assert seen == []

    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with pytest.raises(KeyboardInterrupt):
            train_on()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


def test_without_a_standard_error(monkeypatch):
    """As after `2>&-`: there is nobody to tell, and the signal is held back all the same."""
    monkeypatch.setattr(sys, "__stderr__", None)

    def train_on():
        with interrupt.held_back() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop()

    with pytest.raises(KeyboardInterrupt):
        train_on()


@pytest.mark.parametrize("plan", [Plan(), Plan("vmap"), Plan("vmap", scan=True)], ids=str)
def test_every_plan_goes_on_exactly(tiny_model, tiny_state, tmp_path, plan):
    """From the midst of an epoch (its end, where an epoch is one call), through a checkpoint."""
    learn = autoencoder.steps(tiny_model, gradients.optimizer(1e-2, 1e-5))
    images = np.random.default_rng(5).random((2, 5, 12, 14, 1), np.float32)

    def members(starts):
        return [
            Member(own[1:], own[:1], SCHEDULE._replace(seed=seed), start)
            for seed, (own, start) in enumerate(zip(images, starts, strict=True))
        ]

    def fresh():
        return [Progress(0, tiny_state(learn, i), [], 0.0) for i in range(2)]

    wanted = loop.train_members(learn, members(fresh()), plan)
    asked, folders = [], [tmp_path / "0", tmp_path / "1"]

    def stop():
        asked.append(None)
        return len(asked) >= (2 if plan.scan else 8)

    def save(i, at):
        with Checkpoints(folders[i]) as checkpoints:
            notes = {"history": at.history, "partial": at.partial}
            checkpoints.save(at.epoch, at.state, notes, at.steps)

    loop.train_members(learn, members(fresh()), plan, stop=stop, on_stop=save)
    starts = fresh()
    for i, folder in enumerate(folders):
        with Checkpoints(folder) as checkpoints:
            if found := checkpoints.restore(starts[i].state):
                epoch, state, notes = found
                starts[i] = Progress(epoch, state, notes["history"], 0.0, notes["partial"])
    at = [(start.epoch, start.steps) for start in starts]
    assert at == {
        Plan(): [(1, 2), (0, 0)],
        Plan("vmap", scan=True): [(2, 0), (2, 0)],
    }.get(plan, [(1, 3), (1, 3)])
    if plan == Plan():
        ends = [loop.train_members(learn, [each], plan)[0] for each in members(starts)]
    else:
        ends = loop.train_members(learn, members(starts), plan)
    for end, other in zip(ends, wanted, strict=True):
        assert end.history == other.history
        for leaf, same in zip(*map(jax.tree.leaves, (end.state, other.state)), strict=True):
            if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                np.testing.assert_array_equal(leaf, same)
