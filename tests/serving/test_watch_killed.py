"""A watcher that is killed: each image is judged, written down and moved exactly once."""

import os
import subprocess
import sys

import pytest
import watch_killed
import watched
from command_lines import ROOT
from watched import judged_once, rows

KILLED = [sys.executable, str(ROOT / "tests/watch_killed.py")]


def killed(*words):
    """Runs watch_killed; returns its numbers."""
    done = subprocess.run(
        [*KILLED, *map(str, words)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


@pytest.mark.parametrize("stride", [60, pytest.param(5, marks=pytest.mark.slow)])
def test_killed_at_any_step_each_image_is_judged_once(tmp_path, stride):
    lasts = killed("steps", tmp_path, stride)
    assert min(lasts) > 100
    for mode in watch_killed.MODES:
        folders = list((tmp_path / mode).iterdir())
        assert len(folders) > 1
        for folder in folders:
            judged_once_in(mode, folder)


def judged_once_in(mode, folder):
    wanted = dict(watch_killed.WANTED)
    if mode == "keep":
        found = [*rows(folder), *rows(folder, "refused.csv")]
        assert sorted(row["path"] for row in found) == sorted(wanted)
        assert watched.files(folder / "in") == wanted
    elif mode == "overwritten":  # the first one is gone before it can be moved, its row stays
        first, later = watched.sha256(wanted.pop("a.png")), watched.sha256(watch_killed.LATER)
        judged = sorted(row["sha256"] for row in rows(folder) if row["path"] == "a.png")
        assert judged in (sorted([first, later]), [later])  # or killed before it was judged
        left = watched.files(folder / "out").values()
        assert sorted(left) == sorted([*wanted.values(), watch_killed.LATER])
        assert watched.files(folder / "in") == {}
    else:
        judged_once(folder, wanted)


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_each_image_is_judged_once(tmp_path, kills):
    written, times = killed("moments", tmp_path / "x", kills)
    assert times == kills
    assert written >= kills
    photographs = (tmp_path / "x/sha256").read_text().split()
    assert len(photographs) == written
    found = rows(tmp_path / "x")
    assert sorted(row["sha256"] for row in found) == sorted(photographs)
    assert rows(tmp_path / "x", "refused.csv") == []
    assert watched.files(tmp_path / "x/in") == {}
    left = {
        file: watched.sha256(content) for file, content in watched.files(tmp_path / "x/out").items()
    }
    assert left == {row["file"]: row["sha256"] for row in found}
