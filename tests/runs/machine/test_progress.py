"""Progress on a terminal and off it, with a clock of the test's own."""

import io

import pytest

from cae_jax.runs.machine import progress
from cae_jax.runs.machine.progress import Bar


class Screen(io.StringIO):
    """Standard error as a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Stands still unless `clock.now` is set, in seconds."""

    class Clock:
        now = 1000.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def terminal(monkeypatch):
    """Called in the test itself: pytest puts its own stream back after the fixtures."""
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    return screen


def test_lines_with_rate_and_time_left(clock, capsys):
    with Bar("train nut", 1000, "patches") as bar:
        clock.now += 9.5
        bar.update(90)
        assert capsys.readouterr().err == ""  # ten seconds have not passed
        clock.now += 2.5
        bar.update(30, "loss 0.5")
        # 120 in 12 s are 10 a second; 880 more take 88 s
        line = "train nut: 120/1000 patches, 10 patches/s, 0:01:28 left, loss 0.5\n"
        assert capsys.readouterr().err == line
        clock.now += 9.5
        bar.update(80)
        assert capsys.readouterr().err == ""
        clock.now += 18.5
        bar.update(800)
        line = "train nut: 1000/1000 patches, 25 patches/s, done, loss 0.5\n"
        assert capsys.readouterr().err == line
    assert capsys.readouterr() == ("", line)


def test_what_was_done_before_does_not_count_in_the_rate(clock, capsys):
    with Bar("train", 500, "patches", done=400) as bar:
        clock.now += 20
        bar.update(50)
    # 50 in 20 s, not 450
    assert "450/500 patches, 2.5 patches/s, 0:00:20 left" in capsys.readouterr().err


def test_unknown_total(clock, capsys):
    with Bar("read nut", 0, "images") as bar:
        clock.now += 10
        bar.update(7000)
        assert capsys.readouterr().err == "read nut: 7000 images, 700 images/s\n"
        clock.now += 10
        bar.update(23_000)
        capsys.readouterr()
    assert capsys.readouterr().err == "read nut: 30000 images, 1500 images/s\n"


def test_nothing_done_says_nothing(clock, capsys):
    with Bar("score", 0, "images"), Bar("train", 64, "patches", done=64):
        clock.now += 100
    assert capsys.readouterr() == ("", "")


def test_a_fault_leaves_the_last_count(clock, capsys):
    bar = Bar("train", 100, "patches")
    clock.now += 2
    bar.update(20)
    bar.__exit__(RuntimeError, RuntimeError("fault"), None)
    assert capsys.readouterr().err == "train: 20/100 patches, 10 patches/s, 0:00:08 left\n"


def test_a_bar_on_a_terminal(monkeypatch):
    screen = terminal(monkeypatch)
    with Bar("score nut", 40, "images", done=10) as bar:
        bar.update(30, "loss 0.25")
    last = screen.getvalue().split("\r")[-1]
    assert last.startswith("score nut: 100%")
    assert "40/40" in last
    assert "images/s" in last
    assert "loss 0.25" in last


def test_a_bar_without_total(monkeypatch):
    screen = terminal(monkeypatch)
    with Bar("read nut", 0, "images") as bar:
        bar.update(30)
    last = screen.getvalue().split("\r")[-1]
    assert last.startswith("read nut: 30 images")
    assert "%" not in last


def test_a_bar_of_nothing_is_wiped_away(monkeypatch):
    screen = terminal(monkeypatch)
    with Bar("score nut", 0, "images"):
        pass
    assert "score nut" in screen.getvalue()
    assert screen.getvalue().split("\r")[-1].strip() == ""
