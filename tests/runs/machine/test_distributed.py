"""Two real processes share the thesis's experiment: every cell once, the same numbers as of one."""

import os
import pathlib
import subprocess
import sys

import pandas as pd
import pytest
from processes import free_port

ROOT = pathlib.Path(__file__).parents[3]
FLAGS = (
    *("--category=weave,grain", "--models=small_net:Tiny", "--seeds=0,1", "--image_size=32"),
    *("--patch_size=16", "--stride=16", "--epochs=1", "--batch_size=8", "--num_patches=16"),
)


def start(workdir, *flags):
    command = [sys.executable, "-m", "experiments.reproduce_thesis", *FLAGS, *flags]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT / "tests"),
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


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The workdirs of one process, and of two that are members of one job."""
    root = tmp_path_factory.mktemp("distributed")
    address = f"--coordinator_address=localhost:{free_port()}"
    running = [start(root / "one")] + [
        start(root / "two", address, "--num_processes=2", f"--process_id={i}") for i in range(2)
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
        assert f"cell 2 of 2: grain/small_net.Tiny/seed_{seed}" in said
        assert f"seed_{1 - seed}" not in said
