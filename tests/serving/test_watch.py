"""A watched folder: only whole images, each judged once, nothing overwritten, whatever happens."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import watch_killed
import watched
from command_lines import ROOT
from watched import judged_once, png, rows, watch, write

from cae_jax.serving.watch.inbox import Entry, Waiting, scan

KILLED = [sys.executable, str(ROOT / "tests/watch_killed.py")]


def sha256(content):
    return hashlib.sha256(content).hexdigest()


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


def test_each_image_is_judged_moved_and_written_down(tmp_path):
    wanted = {
        "a.png": png(50),
        "sub/b.png": png(180),
        "sub/deep/c.PNG": png(100),
        'q",\n.png': png(7),
    }
    for name, content in wanted.items():
        write(tmp_path / "in" / name, content, mtime_ns=10**18)
    done = watch(tmp_path)
    assert done == (4, 1, 0)
    judged_once(tmp_path, wanted)
    # p-values: one and how many of 0, 50, 100, 150 are as large, of five
    told = {row["path"]: (row["score"], row["p_value"], row["defective"]) for row in rows(tmp_path)}
    assert told == {
        "a.png": ("50.0", "0.8", "0"),
        "sub/b.png": ("180.0", "0.2", "1"),
        "sub/deep/c.PNG": ("100.0", "0.6", "0"),
        'q",\n.png': ("7.0", "0.8", "0"),
    }
    for row in rows(tmp_path):
        assert row["sha256"] == sha256(wanted[row["path"]])
        assert (row["threshold"], row["model"]) == ("100.0", "0123")
        folder = "defective" if row["path"] == "sub/b.png" else "good"
        assert row["file"] == f"{folder}/{row['path']}"
    assert watch(tmp_path) == (0, 0, 0)
    assert len(rows(tmp_path)) == 4


def test_a_name_that_is_no_text(tmp_path):
    name = os.fsdecode(b"\xff.png")
    write(tmp_path / "in" / name, png(50))
    watch(tmp_path, alarm_on="all", alarm_command="true")
    judged_once(tmp_path, {name: png(50)})


def test_names_are_used_again_and_nothing_is_overwritten(tmp_path):
    theirs = write(tmp_path / "out/good/a.png", b"somebody's")
    for time_ns in (10**18, 2 * 10**18):  # of the same content, too
        for shade in (50, 60):
            write(tmp_path / "in/a.png", png(shade), mtime_ns=time_ns)
            watch(tmp_path)
    found = [(row["sha256"], row["file"]) for row in rows(tmp_path)]
    contents = [sha256(png(shade)) for shade in (50, 60, 50, 60)]
    assert found == [(h, f"good/a-{i}.png") for i, h in enumerate(contents, 1)]
    assert theirs.read_bytes() == b"somebody's"
    assert [sha256(watched.files(tmp_path / "out")[file]) for _, file in found] == contents


def test_the_same_file_again_is_put_aside_without_a_row(tmp_path):
    for _ in range(2):
        write(tmp_path / "in/sub/a.png", png(50), mtime_ns=10**18)
        watch(tmp_path)
    assert len(rows(tmp_path)) == 1
    assert watched.files(tmp_path) == {
        "out/good/sub/a.png": png(50),
        "out/repeated/sub/a.png": png(50),
    }


def test_kept_images_are_judged_once(tmp_path):
    a = write(tmp_path / "in/a.png", png(50), mtime_ns=10**18)
    write(tmp_path / "in/b.png", b"no image", mtime_ns=10**18)
    assert watch(tmp_path, keep=True) == (1, 0, 1)
    assert watch(tmp_path, keep=True) == (0, 0, 0)
    write(a, png(120), mtime_ns=2 * 10**18)
    assert watch(tmp_path, keep=True) == (1, 1, 0)
    assert [row["score"] for row in rows(tmp_path)] == ["50.0", "120.0"]
    assert {row["file"] for row in rows(tmp_path)} == {""}
    assert watched.files(tmp_path) == {"in/a.png": png(120), "in/b.png": b"no image"}
    # from now on they are moved: without another row
    assert watch(tmp_path) == (0, 0, 0)
    watch(tmp_path)
    assert set(watched.files(tmp_path)) == {"out/defective/a.png", "out/refused/b.png"}
    assert len(rows(tmp_path)) == 2


def test_what_is_being_written_is_waited_for():
    waiting = Waiting(settle=1.0, give_up=8.0)
    a = Entry("a.png", 5, 100)
    assert waiting.ready([a], 0.0) == []
    assert waiting.ready([a], 0.9) == []
    longer, later = a._replace(size=6), a._replace(size=6, mtime_ns=101)
    assert waiting.ready([longer], 1.0) == []
    assert waiting.ready([later], 1.9) == []
    assert waiting.ready([later], 2.8) == []
    assert waiting.ready([later], 2.9) == [later]
    # it does not decode: looked at again after as long as it has been waited for
    assert not waiting.is_over(later, 2.9)
    assert waiting.ready([later], 3.8) == []
    assert waiting.ready([later], 4.0) == [later]
    assert not waiting.is_over(later, 4.0)
    assert waiting.ready([later], 6.0) == []
    assert waiting.ready([later], 6.2) == [later]
    assert not waiting.is_over(later, 6.2)
    assert waiting.ready([later], 9.9) == [later]
    assert waiting.is_over(later, 9.9)
    # gone and there again: it begins anew
    assert waiting.ready([], 10.0) == []
    assert waiting.ready([later], 10.5) == []
    assert Waiting(settle=0.0, give_up=8.0).ready([a], 0.0) == [a]


@pytest.mark.parametrize("whole", [True, False])
def test_a_cut_image_is_judged_when_it_is_whole_or_refused(tmp_path, whole):
    content = images_of_noise()
    file = write(tmp_path / "in/a.png", content[:-60])
    looks = iter(range(100))

    def stop():
        if whole and next(looks) == 6:
            write(file, content)
        return False

    told = watch(tmp_path, stop, give_up=30.0 if whole else 0.05)
    assert told == ((1, 0, 0) if whole else (0, 0, 1))
    table = rows(tmp_path, "results.csv" if whole else "refused.csv")
    (row,) = table
    assert row["sha256"] == sha256(content if whole else content[:-60])
    assert row["file"] == ("good/a.png" if whole else "refused/a.png")
    assert whole or row["cause"] == "cannot be decoded: image file is truncated"


def images_of_noise():
    from cae_jax.data.pictures import png_bytes

    return png_bytes(np.random.default_rng(0).integers(0, 150, (16, 16), dtype=np.uint8))


def test_what_is_no_image_of_a_camera_is_passed_over(tmp_path):
    names = {".a.png", "a.png.tmp", "a.png.part", "a.txt", ".hidden/a.png", "out/good/a.png"}
    for name in names:
        write(tmp_path / name, png(50))
    (tmp_path / "link.png").symlink_to(tmp_path / ".a.png")
    (tmp_path / "around").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    assert scan(tmp_path, tmp_path / "out") == []
    for name, time_ns in (("b.png", 2), ("folder.png/c.jpg", 1), ("a.tiff", 2)):
        write(tmp_path / name, png(50), mtime_ns=time_ns)
    found = [entry.name for entry in scan(tmp_path, tmp_path / "out")]
    assert found == ["folder.png/c.jpg", "a.tiff", "b.png"]


def test_what_has_no_finite_score_is_refused_alone(tmp_path):
    wanted = {f"{shade}.png": png(shade) for shade in (40, watched.BAD_SHADE, 60)}
    for name, content in wanted.items():
        write(tmp_path / "in" / name, content)
    assert watch(tmp_path) == (2, 0, 1)
    judged_once(tmp_path, wanted)
    (row,) = rows(tmp_path, "refused.csv")
    assert row["path"] == f"{watched.BAD_SHADE}.png"
    assert row["cause"].startswith("the distance l2 is not finite")


@pytest.mark.parametrize("stride", [45, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_step_each_image_is_judged_once(tmp_path, stride):
    lasts = killed("steps", tmp_path, stride)
    assert min(lasts) > 100
    for mode in watch_killed.MODES:
        folders = list((tmp_path / mode).iterdir())
        assert len(folders) > 100 // stride
        for folder in folders:
            judged_once_in(mode, folder)


def judged_once_in(mode, folder):
    wanted = dict(watch_killed.WANTED)
    if mode == "keep":
        found = [*rows(folder), *rows(folder, "refused.csv")]
        assert sorted(row["path"] for row in found) == sorted(wanted)
        assert watched.files(folder / "in") == wanted
    elif mode == "overwritten":  # the first one is gone before it can be moved, its row stays
        first, later = sha256(wanted.pop("a.png")), sha256(watch_killed.LATER)
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
    left = {file: sha256(content) for file, content in watched.files(tmp_path / "x/out").items()}
    assert left == {row["file"]: row["sha256"] for row in found}
