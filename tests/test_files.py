"""A file is whole or absent, also when the disk is full."""

import os

import pytest

from cae_jax.files import write_whole
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
