"""Two real processes share the thesis's experiment: every cell once, the same numbers as of one."""

import os
import pathlib
import socket
import subprocess
import sys

import pandas as pd
import pytest

ROOT = pathlib.Path(__file__).parents[1]
FLAGS = (
    *("--category=weave,grain", "--models=my_tiny:Tiny", "--seeds=0,1", "--image_size=32"),
    *("--patch_size=16", "--stride=16", "--epochs=1", "--batch_size=8", "--num_patches=16"),
)
TINY = """
import flax.linen as nn
from cae_jax.types import Reconstruction


class Tiny(nn.Module):
    channels: int = 1
    patch_size: int = 16

    @nn.compact
    def __call__(self, x, train=False):
        hidden = nn.relu(nn.Conv(4, (3, 3), strides=(2, 2))(x))
        return Reconstruction(nn.ConvTranspose(self.channels, (4, 4), (2, 2))(hidden), {})
"""


def start(folder, workdir, *flags):
    command = [sys.executable, "-m", "experiments.reproduce_thesis", *FLAGS, *flags]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(folder),
        "XDG_CACHE_HOME": str(workdir / "cache"),
    }
    return subprocess.Popen(
        [*command, f"--workdir={workdir}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The workdirs of one process, and of two that are members of one job."""
    root = tmp_path_factory.mktemp("distributed")
    (root / "my_tiny.py").write_text(TINY)
    address = f"--coordinator_address=127.0.0.1:{free_port()}"
    running = [start(root, root / "one")] + [
        start(root, root / "two", address, "--num_processes=2", f"--process_id={i}")
        for i in range(2)
    ]
    said = [process.communicate(timeout=120) for process in running]
    for process, (_, errors) in zip(running, said, strict=True):
        assert process.returncode == 0, errors
    return root / "one", root / "two", said


def test_the_numbers_are_those_of_one_process(both):
    one, two, _ = both
    files = sorted(p.relative_to(one) for p in one.glob("*/*/*/scores.csv"))
    assert len(files) == 4
    for file in files:
        assert (two / file).read_bytes() == (one / file).read_bytes(), file
        for name in ("history.csv", "flags.txt"):
            mine, theirs = ((root / file.parent / name).read_text() for root in (two, one))
            assert mine.replace(str(two), str(one)) == theirs
    tables = [pd.read_csv(root / "results.csv") for root in (one, two)]
    same = [c for c in tables[0].columns if not c.startswith("ms_") and c != "train_seconds"]
    pd.testing.assert_frame_equal(*(table[same] for table in tables))


def test_every_cell_is_done_by_one_of_them_and_the_tables_by_the_first(both):
    _, _, (_, (first, errors), (second, more)) = both
    assert "Tables:" in first
    assert "Tables:" not in second
    for seed, said in enumerate((errors, more)):  # the cells are dealt out one by one
        assert f"cell 2 of 2: grain/my_tiny.Tiny/seed_{seed}" in said
        assert f"seed_{1 - seed}" not in said
