"""A file is whole or absent, also when the disk is full."""

import csv
import errno
import hashlib
import json
import math
import os

import numpy as np
import pandas as pd
import pytest

from cae_jax import files
from cae_jax.files import write_csv, write_json, write_whole
from cae_jax.types import DataError


def test_write_whole_replaces_or_leaves(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_whole(path, "old é\n")
    assert path.read_bytes() == "old é\n".encode()
    write_whole(path, b"\x00new\r\n")
    assert path.read_bytes() == b"\x00new\r\n"

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"a\.txt': cannot be written: No space left"):
        write_whole(path, "half")
    assert path.read_bytes() == b"\x00new\r\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_write_whole_names_the_missing_folder(tmp_path):
    with pytest.raises(DataError, match=r"absent/a\.txt': cannot be written: No such file"):
        write_whole(tmp_path / "absent" / "a.txt", "x")


def test_what_json_lacks(tmp_path):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    value = {"a": np.float32(0.5), "b": [np.int64(3), np.nan], "c": np.array([1.5, np.inf]), 4: "é"}
    value["d"] = -math.inf
    write_json(tmp_path / "m.json", value)
    assert json.loads((tmp_path / "m.json").read_text(), parse_constant=refuse) == {
        **{"a": 0.5, "b": [3, None], "c": [1.5, "inf"], "4": "é", "d": "-inf"}
    }


def test_csv_keeps_every_bit_and_every_line(tmp_path):
    frame = pd.DataFrame({"a": [0.1, 1 / 3, np.nan], "name": ["x\ny", "a,b", "bare\rreturn"]})
    write_csv(tmp_path / "f.csv", frame)
    with open(tmp_path / "f.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["a", "name"]
    assert [float(a or "nan") for a, _ in rows] == pytest.approx(
        [0.1, 1 / 3, np.nan], 0, nan_ok=True
    )
    assert [name for _, name in rows] == frame["name"].tolist()
    write_csv(tmp_path / "f.csv", frame[:0])
    assert (tmp_path / "f.csv").read_text() == "a,name\n"


@pytest.mark.parametrize("write", [write_json, write_csv])
def test_no_folder_is_an_error(tmp_path, write):
    with pytest.raises(DataError, match="No such file"):
        write(tmp_path / "absent" / "a", pd.DataFrame({"a": [1]}) if write is write_csv else {})


@pytest.fixture(params=["memory", "file"])
def held(request, monkeypatch, tmp_path):
    """Where large arrays lie."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(files, "free_memory", lambda: 0 if request.param == "file" else 2**30)
    return request.param


def test_a_large_array_is_one_wherever_it_lies(held, rng, tmp_path):
    drawn = rng.random((5, 7, 3), np.float32)
    found = files.large_array(drawn.shape)
    found[:] = drawn
    assert (found.shape, found.dtype, found.flags.writeable) == ((5, 7, 3), np.float32, True)
    assert found.ctypes.data % 64 == 0
    np.testing.assert_array_equal(found, drawn)
    for which in (np.array([3, 0]), drawn[:, 0, 0] > 0.5, np.zeros(5, bool)):
        np.testing.assert_array_equal(files.rows(found, which), drawn[which])
    np.testing.assert_array_equal(
        files.joined([found, found[:2]]), np.concatenate([drawn, drawn[:2]])
    )
    half = files.large_array((3, 0, 2), np.float16)
    assert (half.shape, half.dtype) == ((3, 0, 2), np.float16)
    assert list(tmp_path.iterdir()) == []  # the file has no name


def test_no_room_for_a_large_array(held, monkeypatch, tmp_path):
    if held == "memory":
        pytest.skip("it needs no room")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    message = rf"{tmp_path}: no room for 4e-07 GB of images .*No space left.*TMPDIR=FOLDER"
    with pytest.raises(DataError, match=message):
        files.large_array((100,))


def test_what_a_container_grants_counts(monkeypatch, tmp_path):
    most = files.free_memory()
    assert 0 < most < 2**60
    monkeypatch.setattr(files, "_limits", lambda: [2**63, 2**20])
    assert files.free_memory() == 2**20


def test_names_as_long_as_names_can_be(tmp_path):
    longest = "検" * 84 + "png"  # 255 bytes
    files.write_whole(tmp_path / longest, "a")
    assert [path.name for path in tmp_path.iterdir()] == [longest]
    assert files.fitting("a.png", ".tiff") == "a.png.tiff"
    found = files.fitting(longest, ".tiff")
    assert len(found.encode()) in range(253, 256)
    assert found.startswith("検" * 77)
    assert found.endswith("~" + hashlib.sha256(longest.encode()).hexdigest()[:16] + ".tiff")
    assert files.fitting("b" + longest[1:], ".tiff") != found
    (tmp_path / found).touch()


FORMULAS = ["=1+1", "+1.png", "-1.png", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''@"]
HARMLESS = ["Größe, 1.png", "'quoted'", "", "a=1", 'say "no"', "1-2"]


def test_no_text_of_a_table_for_excel_is_a_formula_and_all_of_it_reads_back(tmp_path):
    names = FORMULAS + HARMLESS
    frame = pd.DataFrame({"path": pd.Series(names, dtype=object), "x": np.arange(14) - 7.5})
    path = tmp_path / "a.csv"
    write_csv(path, frame, excel=True)
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    with path.open(encoding="utf-8-sig", newline="") as file:
        _, *cells = csv.reader(file)
    for (name, x), wanted, number in zip(cells, names, frame["x"], strict=True):
        assert name == ("'" + wanted if wanted in FORMULAS else wanted)
        assert float(x) == number  # a number may well be below 0
    assert files.read_csv(path)["path"].tolist() == names
    write_csv(path, frame)
    assert not path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert files.read_csv(path)["path"].tolist() == names
