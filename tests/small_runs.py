"""Runs that take a second: a folder of synthetic images, and the flags of a run on it."""

import contextlib
import pathlib

import pytest

from cae_jax.data import synthetic
from cae_jax.runs import evaluate
from cae_jax.runs.config import configure


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
