"""Runs that take a second: a folder of synthetic images, and the flags of a run on it."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys

import pytest
from command_lines import ROOT

from cae_jax.data import synthetic
from cae_jax.runs import evaluate
from cae_jax.runs.config import configure

# Runs the flags given, and kills itself at a step of training, or where scoring begins (step 0):
# once the checkpoint of the epoch before is there.
KILLED = """
import os, pathlib, signal, sys, time
from cae_jax.runs import job
from cae_jax.runs.config import Config
from cae_jax.runs.machine.progress import Bar
from cae_jax.scoring import scorer

config, at = Config.from_flagfile(sys.argv[1], "flags"), int(sys.argv[2])
saved = pathlib.Path(config.workdir, config.category, config.label, "seed_0", "checkpoints")

def kill(*_):
    while not (saved / str(max(1, (at - 1) // 2))).exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)

def update(self, n, note=""):
    self.steps = getattr(self, "steps", 0) + 1
    if note and self.steps == at:
        kill()

if at:
    Bar.update = update
else:
    scorer.score_all = kill
job.run(config)
"""


@contextlib.contextmanager
def images_in(root, *categories, n_train=10, n_good=2, n_defective_per_kind=1, size=64):
    """Writes categories to root/in; until the end nothing is drawn, and the compilation cache is
    root/cache. Yields the patch."""
    counts = {"n_train": n_train, "n_good": n_good, "n_defective_per_kind": n_defective_per_kind}
    synthetic.write(root / "in", categories, size, 1, 0, **counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.setattr(evaluate, "_plot", lambda *_: None)
        yield patch


def config_of(root, workdir="run", **changes):
    """A run on root/in/tablet in root/workdir, of two epochs of two steps."""
    sizes = {"image_size": 64, "patch_size": 32, "stride": 16, "num_patches": 64, "batch_size": 32}
    flags = {"dataset": "folder", "data_dir": str(root / "in"), "category": "tablet", "epochs": 2}
    flags |= sizes | {"workdir": str(root / workdir), "model": "small_net:Tiny"}
    return configure(**(flags | changes))


def folder_of(config, category="tablet"):
    """Where a run leaves what it made of a category."""
    return pathlib.Path(config.workdir, category, config.label, f"seed_{config.seed}")


def killed(config, at):
    """Runs the config, of one category, in a process that kills itself, see KILLED."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, config.to_flagfile(), str(at)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (folder_of(config, config.category) / "metrics.json").exists()
