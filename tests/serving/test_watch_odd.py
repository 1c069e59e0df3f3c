"""A watched folder where names, times and folders are as odd as they can be."""

import itertools
import os
import shutil
import subprocess

import watched
from watched import judged_once, png, rows, watch, write

from cae_jax.serving.watch.inbox import scan


def test_a_file_where_a_folder_goes(tmp_path):
    write(tmp_path / "in/a.png", png(50))
    watch(tmp_path)
    write(tmp_path / "in/a.png/b.png", png(60))
    write(tmp_path / "in/c.png", png(70))
    watch(tmp_path)
    wanted = {"a.png": png(50), "a.png/b.png": png(60), "c.png": png(70)}
    for folder in (tmp_path / "in").iterdir():
        folder.rmdir()
    judged_once(tmp_path, wanted)
    assert {row["path"]: row["file"] for row in rows(tmp_path)}["a.png/b.png"] in (
        "good/a.png-2/b.png",
        "good/a-2.png/b.png",
    )


def test_the_longest_names_get_a_number_too(tmp_path):
    name = "\N{CJK UNIFIED IDEOGRAPH-6F22}" * 83 + "a.png"  # 254 of 255 bytes
    for shade in (50, 60):
        write(tmp_path / "in" / name, png(shade))
        watch(tmp_path)
    assert [len(row["file"].encode()) for row in rows(tmp_path)] == [259, 5 + 180 + 2 + 4]


def test_a_clock_far_in_the_future(tmp_path):
    for _ in range(2):
        write(tmp_path / "in/a.png", png(50))
        os.utime(tmp_path / "in/a.png", (1.5e10, 1.5e10))  # 2445: more nanoseconds than 2 ** 63
        watch(tmp_path)
    assert [row["path"] for row in rows(tmp_path)] == ["a.png"]
    assert sorted(watched.files(tmp_path / "out")) == ["good/a.png", "repeated/a.png"]
    write(tmp_path / "in/b.png", png(60))
    os.utime(tmp_path / "in/b.png", (1.5e10, 1.5e10))
    assert [watch(tmp_path, keep=True).judged for _ in range(2)] == [1, 0]


def test_folders_nested_deeper_than_calls(tmp_path):
    write(tmp_path / "in/a.png", png(50))
    deep = os.open(tmp_path / "in", os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("d", dir_fd=deep)
        above, deep = deep, os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(above)
    os.close(deep)
    found = [entry.name for entry in scan(tmp_path / "in", tmp_path / "out")]
    subprocess.run(["rm", "-r", tmp_path / "in/d"], check=True)  # too deep for Python, pytest's too
    assert found == ["a.png"]


def test_an_output_that_is_deleted_is_no_longer_written_to(tmp_path, capsys):
    write(tmp_path / "in/a.png", png(50))
    looks = itertools.count()

    def stop():
        if (i := next(looks)) == 30:
            shutil.rmtree(tmp_path / "out")
            write(tmp_path / "in/b.png", png(60))
        return i > 90

    watch(tmp_path, stop, once=False)
    assert watched.files(tmp_path) == {"in/b.png": png(60)}
    (said,) = capsys.readouterr().err.splitlines()
    assert "watch.sqlite was taken away; put it back, or start anew" in said
    assert watch(tmp_path) == (1, 0, 0)


def test_a_new_journal_beside_old_tables_goes_on_counting(tmp_path):
    for shade in (50, 60):
        write(tmp_path / "in/a.png", png(shade))
        watch(tmp_path)
        (tmp_path / "out/watch.sqlite").unlink()
    assert [(row["number"], row["score"]) for row in rows(tmp_path)] == [
        ("1", "50.0"),
        ("2", "60.0"),
    ]
