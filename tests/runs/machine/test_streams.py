"""Closed streams and readers that go: a command does its work and ends as it would have."""

import errno
import io
import os
import sys
from types import SimpleNamespace

import pytest
from command_lines import process

from cae_jax.runs.machine import streams

DRAWS = "-m experiments.make_synthetic --image_size=40 --category=weave --output_dir"


def draws(folder, more=""):
    """Runs a command in a shell that gives it such streams; its status, output and errors."""
    words = f'set -o pipefail; "{sys.executable}" {DRAWS}={folder} {more}'
    done = process("/bin/bash", "-c", words)
    return done.returncode, done.stdout, done.stderr


def test_without_streams_a_command_does_its_work(tmp_path):
    assert draws(tmp_path / "a", "<&- >&- 2>&-") == (0, "", "")
    assert (tmp_path / "a/weave/train/good/000.png").is_file()


def test_a_reader_that_goes_stops_nothing(tmp_path):
    code, _, err = draws(tmp_path / "a", "2>&1 | true")
    assert (code, err) == (0, "")
    assert (tmp_path / "a/weave/train/good/000.png").is_file()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_what_cannot_be_written_is_told_in_a_line(tmp_path):
    code, _, err = draws(tmp_path / "a", "> /dev/full")
    assert code == 1
    assert err.splitlines()[-1] == (
        "error: writing: no space left; what was written before is whole"
    )
    assert "Traceback" not in err
    assert "ignored" not in err
    code, _, err = draws(tmp_path / "a", "--help > /dev/full")
    assert (code, err) == (1, "error: writing: No space left on device\n")


def test_a_closed_number_is_given_to_nobody_else(monkeypatch):
    """Else XLA would write its errors into the next file that is opened."""

    def closed(_):
        raise OSError(errno.EBADF, "")

    opened = []
    monkeypatch.setattr(streams, "_to_null", opened.append)
    monkeypatch.setattr(streams, "os", SimpleNamespace(fstat=closed, devnull=os.devnull))
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    streams.mend()
    assert opened == [0, 1, 2]
    given = (sys.stdin, sys.stdout, sys.stderr)
    streams.mend()  # of `cae-jax`, and of the command that it runs
    assert (sys.stdin, sys.stdout, sys.stderr) == given
    assert sys.stdin.read() == ""
    for stream in (sys.stdout, sys.stderr):
        assert stream.write("words") == 5
    for name in ("stdin", "stdout", "stderr"):
        getattr(sys, name).close()


def test_a_stream_goes_on_without_its_reader():
    reader, writer = os.pipe()
    stream = streams.opened(writer, "ascii")
    print("a path\udcff\u00fc", file=stream)
    assert os.read(reader, 100) == b"a path\\udcff\\xfc\n"
    os.close(reader)
    for _ in range(2):
        print("more", file=stream)
    assert os.fstat(writer).st_rdev == os.stat(os.devnull).st_rdev
    stream.close()
    os.close(writer)


def test_a_terminal_and_a_program_s_own_stream_stay(monkeypatch):
    class Terminal(io.TextIOWrapper):
        def isatty(self):
            return True

    terminal = Terminal(io.BytesIO(), "utf-8")
    monkeypatch.setattr(sys, "stderr", terminal)
    for own in (io.StringIO(), io.TextIOWrapper(io.BytesIO(), "utf-8")):
        monkeypatch.setattr(sys, "stdout", own)
        streams.mend()
        assert (sys.stdout, sys.stderr) == (own, terminal)
    assert terminal.errors == "backslashreplace"
