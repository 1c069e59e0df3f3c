"""A watched folder: only whole images, each judged once, nothing overwritten, whatever happens."""

import contextlib
import csv
import errno
import io
import itertools
import os
import re
import signal
import sqlite3

import numpy as np
import pytest
import watched
from watched import judged_once, png, rows, watch, write

from cae_jax.data import images, pictures
from cae_jax.data.frame import Frame
from cae_jax.reports import charts
from cae_jax.runs.machine import lock
from cae_jax.serving import overlay
from cae_jax.serving.watch import journal, moves, screen, watcher
from cae_jax.serving.watch.inbox import Entry, Waiting, scan
from cae_jax.serving.watch.options import Options
from cae_jax.types import DataError, UsageError


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
        assert row["sha256"] == watched.sha256(wanted[row["path"]])
        assert (row["threshold"], row["model"]) == ("100.0", "0123")
        folder = "defective" if row["path"] == "sub/b.png" else "good"
        assert row["file"] == f"{folder}/{row['path']}"
    assert watch(tmp_path) == (0, 0, 0)
    assert len(rows(tmp_path)) == 4


def test_images_that_lose_their_shape_are_said_once(tmp_path, capsys):
    for i in range(10):  # of more than one batch
        write(tmp_path / f"in/{i}.png", png(50 + i, (8, 40)))
    watch(tmp_path)
    said = capsys.readouterr().err
    assert said.count("are squeezed, of 8 x 40 pixels (height x width) into 16 x 16, 5 : 1") == 1


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
    contents = [watched.sha256(png(shade)) for shade in (50, 60, 50, 60)]
    assert found == [(h, f"good/a-{i}.png") for i, h in enumerate(contents, 1)]
    assert theirs.read_bytes() == b"somebody's"
    assert [watched.sha256(watched.files(tmp_path / "out")[file]) for _, file in found] == contents


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
    # it does not decode: read again after as long as it has been waited for, eight seconds long
    assert not waiting.is_over(later, 3.0)
    assert waiting.ready([later], 3.05) == []
    assert waiting.ready([later], 3.1) == [later]
    assert not waiting.is_over(later, 5.0)
    assert waiting.ready([later], 6.9) == []
    assert waiting.ready([later], 7.0) == [later]
    assert not waiting.is_over(later, 10.9)
    assert waiting.ready([later], 11.0) == [later]
    assert waiting.is_over(later, 11.0)
    # gone and there again: it begins anew
    assert waiting.ready([], 12.0) == []
    assert waiting.ready([later], 12.5) == []
    assert Waiting(settle=0.0, give_up=8.0).ready([a], 0.0) == [a]


@pytest.mark.parametrize("whole", [True, False])
def test_a_cut_image_is_judged_when_it_is_whole_or_refused(tmp_path, whole):
    noise = np.random.default_rng(0).integers(0, 150, (16, 16), dtype=np.uint8)
    content = pictures.png_bytes(noise)
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
    assert row["sha256"] == watched.sha256(content if whole else content[:-60])
    assert row["file"] == ("good/a.png" if whole else "refused/a.png")
    assert whole or row["cause"] == "cannot be decoded: image file is truncated"


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


def test_a_table_cut_anywhere_is_made_whole(tmp_path):
    for i, name in enumerate(("a.png", 'q",\n.png', "b.png")):
        write(tmp_path / "in" / name, png(50), mtime_ns=10**18 + i)
        watch(tmp_path)
    table = tmp_path / "out/results.csv"
    whole = table.read_bytes()
    first = whole.index(b"\n2,") + 1
    facts = {"results.csv number": 1, "results.csv bytes": first}
    for known, begin in ((facts, first), ({}, 0)):
        for length in range(begin, len(whole), 37):
            table.write_bytes(whole[:length])
            with contextlib.closing(journal.Journal(tmp_path / "out")) as book:
                book._base.execute("DELETE FROM facts WHERE name LIKE 'results.csv%'")
                book._base.executemany("INSERT INTO facts VALUES (?, ?)", known.items())
                book.write_tables()
            assert table.read_bytes() == whole


def test_tables_for_a_spreadsheet(tmp_path):
    """The names are as they were in a plain table, which becomes one for Excel and plain again; the
    journal finds its lines in either, also where a kill has kept it from telling how many."""
    names = ["=1+1.png", "-a,\n.png", "Größe.png", "+c.png"]
    for i, name in enumerate(names):
        write(tmp_path / "in" / name, png(50 + i))
        watch(tmp_path, csv="excel" if i in (1, 3) else "plain")
        content = (tmp_path / "out/results.csv").read_text("utf-8")
        assert content.startswith("\ufeff") == (i in (1, 3))
        found = list(csv.DictReader(io.StringIO(content.removeprefix("\ufeff"))))
        mark = "'" if i in (1, 3) else ""
        wanted = [mark * (name[0] in "=-+") + name for name in names[: i + 1]]
        assert [row["path"] for row in found] == wanted
        assert [row["number"] for row in found] == [str(n + 1) for n in range(i + 1)]
        assert {row["file"][:5] for row in found} == {"good/"}
        assert [float(row["score"]) for row in found] == [50.0 + n for n in range(i + 1)]
    with contextlib.closing(journal.Journal(tmp_path / "out")) as book:
        book.write_tables()
        plain = (tmp_path / "out/results.csv").read_bytes()
        book._base.execute("DELETE FROM facts WHERE name = 'results.csv bytes'")
        book.write_tables()
    assert (tmp_path / "out/results.csv").read_bytes() == plain
    assert plain.count(b"\n") == 1 + 4 + 2


def test_a_table_that_was_taken_away_begins_anew(tmp_path):
    write(tmp_path / "in/a.png", png(50))
    watch(tmp_path)
    (tmp_path / "out/results.csv").rename(tmp_path / "november.csv")
    write(tmp_path / "in/b.png", png(60))
    watch(tmp_path)
    assert [(row["number"], row["path"]) for row in rows(tmp_path)] == [("2", "b.png")]


def test_what_goes_wrong_is_said_once_and_waited_for(tmp_path, capsys, monkeypatch):
    """A full disk at each of the writes, and a folder that is gone for a while."""
    wanted = {"a.png": png(50), "b.png": png(180)}
    for name, content in wanted.items():
        write(tmp_path / "in" / name, content)
    looks = itertools.count()
    full = OSError(errno.ENOSPC, "No space left on device")
    for where, name, error in (
        (journal.Journal, "record", sqlite3.OperationalError("database or disk is full")),
        (journal.Journal, "write_tables", full),
        (moves, "_reserve", full),
        (watcher, "write_whole", DataError("latest.png: cannot be written")),
    ):
        failing(monkeypatch, where, name, error, times=3)

    def stop():
        look = next(looks)
        if look == 0:
            (tmp_path / "in").rename(tmp_path / "away")
        elif look == 12:
            (tmp_path / "away").rename(tmp_path / "in")
        return look > 2000 or (len(watched.files(tmp_path / "out")) == 2 and look > 50)

    assert watch(tmp_path, stop, once=False) == (2, 1, 0)
    judged_once(tmp_path, wanted)
    said = capsys.readouterr().err.splitlines()
    warnings = [line for line in said if line.startswith("warning: ")]
    again = "tried again until it works"
    assert f"warning: {tmp_path}/in: No such file or directory; {again}" in warnings
    assert f"warning: {tmp_path}/out: database or disk is full; {again}" in warnings
    assert f"warning: {tmp_path}/out: No space left on device; {again}" in warnings
    for name in wanted:
        assert f"warning: {tmp_path}/in/{name}: No space left on device; {again}" in warnings
    assert "latest.png: cannot be written" in warnings[-1]
    assert len(set(warnings)) == len(warnings) == 6
    assert f"{tmp_path}/in: works again" in said


def failing(monkeypatch, where, name, error, times):
    """Makes a function fail a few times before it works."""
    works, left = getattr(where, name), [error] * times

    def call(*arguments):
        if left:
            raise left.pop()
        return works(*arguments)

    monkeypatch.setattr(where, name, call)


def test_it_stops_at_a_signal_after_what_is_in_hand(tmp_path):
    for i in range(20):
        write(tmp_path / f"in/{i:02}.png", png(50), mtime_ns=10**18 + i)
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]

    def interrupt(_):
        os.kill(os.getpid(), signal.SIGTERM)

    assert watch(tmp_path, who=watched.detector(interrupt), once=False) == (8, 0, 0)
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert len(rows(tmp_path)) == 8
    assert len(watched.files(tmp_path / "in")) == 12


def test_a_second_watcher_of_an_output_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    with lock.hold(tmp_path / "out"), pytest.raises(UsageError, match="out: in use by"):
        watch(tmp_path)


def test_options_that_cannot_work_are_named(tmp_path):
    (tmp_path / "in/good").mkdir(parents=True)
    for options, cause in (
        ({"settle": -1.0}, "--settle=-1.0: must be at least 0"),
        ({"poll": float("nan")}, "--poll=nan: must be at least 0.01"),
        ({"alarm_on": "defects"}, "--alarm_on 'defects': did you mean defective"),
        ({"csv": "exel"}, "--csv 'exel': did you mean excel"),
        ({"alarm_command": "no-such-program x"}, "--alarm_command=no-such-program x: no such"),
        ({"alarm_command": "'"}, "--alarm_command=': No closing quotation"),
        ({"webhook": "ftp://x"}, "--webhook=ftp://x: must be http"),
        ({"screen": f"{tmp_path}/no/x.png"}, "no/x.png: no such folder"),
        ({"screen": f"{tmp_path}/in/x.png"}, "in/x.png: what lies in --watch="),
    ):
        with pytest.raises(UsageError, match=re.escape(cause)):
            watch(tmp_path, **options)
    for inbox, output in (("no", "out"), ("in", "in"), ("in/good", "in")):
        with pytest.raises(UsageError, match=f"^--watch={tmp_path}/{inbox}"):
            Options().check(tmp_path / inbox, tmp_path / output)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/watch.sqlite").write_text("no database, but as long as one has to be" * 9)
    with pytest.raises(DataError, match=r"watch\.sqlite: not the journal"):
        watch(tmp_path)


def test_the_picture_for_a_screen(tmp_path):
    half = np.full((100, 200, 3), 40, np.uint8)
    half[:, 100:] = 240  # as a map: 40 and 240 of a scale that ends at 200
    write(tmp_path / "in/a.png", pictures.png_bytes(half))
    watch(tmp_path)
    shown = np.rint(images.decode(tmp_path / "out/latest.png", Frame(None, 3)) * 255)
    assert shown.shape == (256 + 64, 2 * 512, 3)
    assert shown[250, 60].tolist() == [40] * 3
    assert shown[128, 400].tolist() == [240] * 3
    left, right = charts.RAMP[51], charts.RAMP[255]  # a fifth of 255, and its end
    np.testing.assert_allclose(shown[128, 512 + 60], 0.4 * 40 + 0.6 * left, atol=1)
    np.testing.assert_allclose(shown[128, 512 + 400], 0.4 * 240 + 0.6 * right, atol=1)
    # the mask, where the map is above 150, has an outline to the edge
    for x in (511, 512 + 511):
        assert shown[128, x].tolist() == list(overlay.OUTLINE)
        assert shown[0, x - 100].tolist() == list(overlay.OUTLINE)
    assert shown[256 + 2, 2].tolist() == list(screen.COLORS[True])  # (40 + 240) / 2 is above 100
    assert (shown[256:].min(axis=-1) == 255).sum() > 200  # letters
    write(tmp_path / "in/b.png", png(50))
    watch(tmp_path, screen=str(tmp_path / "screen.png"))
    shown = np.rint(images.decode(tmp_path / "screen.png", Frame(None, 3)) * 255)
    assert shown[-2, 2].tolist() == list(screen.COLORS[False])


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("third", [True, False])
def test_an_image_written_in_the_last_moment_is_put_back(tmp_path, monkeypatch, links, third):
    """Between the look at the judged file and its rename the camera writes another one, and maybe
    a third one after that."""
    a = write(tmp_path / "in/a.png", png(50), mtime_ns=10**18)
    rename, link, later = os.rename, os.link, [png(60), png(70)]

    def renamed(source, target):
        if later:
            write(a, later.pop(0), mtime_ns=2 * 10**18)
        rename(source, target)
        if third and later:
            write(a, later.pop(0), mtime_ns=3 * 10**18)
        later.clear()

    def linked(source, target):
        if not links:
            raise OSError(errno.EPERM, "Operation not permitted")
        link(source, target)

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "link", linked)
    watch(tmp_path)
    names = {"a.png": 70, "a-2.png": 60} if third else {"a.png": 60}
    assert watched.files(tmp_path / "in") == {name: png(shade) for name, shade in names.items()}
    assert watched.files(tmp_path / "out") == {}
    watch(tmp_path)
    assert sorted(row["score"] for row in rows(tmp_path)) == ["50.0", "60.0", "70.0"][: 2 + third]
    assert watched.files(tmp_path / "in") == {}
    left = watched.files(tmp_path / "out")
    assert left == {f"good/{name}": png(shade) for name, shade in names.items()}
