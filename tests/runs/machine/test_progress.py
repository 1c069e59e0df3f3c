"""Progress on a terminal and off it, with a clock of the test's own."""

import contextlib
import io
import threading
from types import SimpleNamespace

import pytest

from cae_jax.runs.machine import foretold, progress
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
    """The first update compiles: a minute for 100 patches would be 16 hours for the rest."""
    with Bar("train nut", 100_000, "patches") as bar:
        clock.now += 60
        bar.update(100)
        assert capsys.readouterr().err == "train nut: 100/100000 patches\n"
        clock.now += 9.5
        bar.update(900)
        assert capsys.readouterr().err == ""  # ten seconds have not passed
        clock.now += 2.5
        bar.update(300, "loss 0.5")
        # 1200 in 12 s are 100 a second; 98700 more take 987 s
        line = "train nut: 1300/100000 patches, 100 patches/s, 0:16:27 left, loss 0.5\n"
        assert capsys.readouterr().err == line
        clock.now += 9.5
        bar.update(80)
        assert capsys.readouterr().err == ""
        clock.now += 98.5
        bar.update(98_620)
        line = "train nut: 100000/100000 patches, 832 patches/s, done, loss 0.5\n"
        assert capsys.readouterr().err == line  # 99900 in 120 s
    assert capsys.readouterr() == ("", "")  # it is told


def test_what_was_done_before_does_not_count_in_the_rate(clock, capsys):
    with Bar("train", 500, "patches", done=400) as bar:
        clock.now += 7
        bar.update(10)
        clock.now += 20
        bar.update(40)
    # 40 in 20 s, not 450, nor 50 in 27
    assert "450/500 patches, 2 patches/s, 0:00:25 left" in capsys.readouterr().err


def test_unknown_total(clock, capsys):
    with Bar("read nut", 0, "images") as bar:
        clock.now += 10
        bar.update(7000)
        assert capsys.readouterr().err == "read nut: 7000 images\n"
        clock.now += 10
        bar.update(23_000)
        assert capsys.readouterr().err == "read nut: 30000 images, 2300 images/s\n"
        clock.now += 2
        bar.update(1000)
    assert capsys.readouterr().err == "read nut: 31000 images, 2000 images/s\n"


@pytest.fixture
def ticks(clock, monkeypatch):
    """`ticks(n)`: who waits from now on speaks n times, without waiting, as the clock goes on;
    returns what waits for that."""

    def speaks(n):
        spoken = threading.Semaphore(0)

        class Event(threading.Event):
            left = n

            def wait(self, timeout):
                if not self.left:
                    spoken.release()
                    return super().wait()
                self.left -= 1
                clock.now += timeout
                return False

        own = SimpleNamespace(Event=Event, Thread=threading.Thread)
        monkeypatch.setattr(progress, "threading", own)
        return spoken.acquire

    return speaks


def test_what_is_waited_for_is_told_where_it_takes_long(ticks, clock, capsys):
    spoken = ticks(3)
    with Bar("train nut", 100, "patches", first="compiling the fit") as bar:
        spoken()
        clock.now += 4
        bar.update(50)
        lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "train nut: compiling the fit, which takes longest at the first start and is then kept",
        "train nut: compiling the fit, 13 s so far",
        "train nut: compiling the fit, 23 s so far",
        "train nut: compiling the fit took 27 s",
        "train nut: 50/100 patches",
    ]


def test_how_long_it_will_take_is_told_once_it_is_known(ticks, clock, monkeypatch, capsys):
    known = iter([0, 0, 40])  # at the third time of asking
    heard = contextlib.nullcontext(lambda: next(known, 40))
    monkeypatch.setattr(foretold, "heard", lambda _: heard)
    spoken = ticks(4)
    with Bar("train nut", 100, "patches", first=foretold.STEP) as bar:
        spoken()
        bar.update(50)
    assert capsys.readouterr().err.splitlines()[:2] == [
        "train nut: compiling the training step, about 40 s the first time, then kept",
        "train nut: compiling the training step, 15 s so far",  # 3 + 1 + 1 + 10
    ]
    known, (screen, spoken) = iter([0, 40]), (terminal(monkeypatch), ticks(2))
    with Bar("score nut", 40, "images", first=foretold.CALL) as bar:
        spoken()
        assert "compiling the scoring call, 4 s so far of about 40" in screen.getvalue()


def test_it_is_not_waited_for_long(ticks, monkeypatch, capsys):
    monkeypatch.setattr(foretold, "heard", lambda _: contextlib.nullcontext(lambda: 0))
    spoken = ticks(10)  # from second 3 on, one each
    with progress.waiting("train nut: compiling", ", at length", foretold.STEP):
        spoken()
        assert capsys.readouterr().err == "train nut: compiling, at length\n"


def test_what_is_waited_for_ticks_on_a_terminal(ticks, monkeypatch):
    screen, spoken = terminal(monkeypatch), ticks(2)
    with Bar("score nut", 40, "images", first="compiling the scoring call") as bar:
        spoken()
        assert "compiling the scoring call, 4 s so far" in screen.getvalue()
        bar.update(40)
    assert "so far" not in screen.getvalue().split("\r")[-1]


def test_what_did_not_end_took_no_time(ticks, capsys):
    def stopped(spoken):
        spoken()
        raise KeyboardInterrupt

    spoken = ticks(1)
    with pytest.raises(KeyboardInterrupt), progress.waiting("fit nut: compiling"):
        stopped(spoken)
    assert capsys.readouterr().err == "fit nut: compiling\n"
    spoken = ticks(1)
    with pytest.raises(KeyboardInterrupt), Bar("train nut", 100, "patches", first="compiling"):
        stopped(spoken)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train nut: compiling, which takes longest")


def test_what_comes_soon_is_not_told(capsys):
    def waits():
        return any(each.name == "waiting" for each in threading.enumerate())

    with Bar("train nut", 100, "patches", first="compiling the training step") as bar:
        assert waits()
        bar.update(50)
        assert not waits()
    with Bar("train nut", 64, "patches", done=64, first="compiling the training step"):
        assert not waits()
    assert capsys.readouterr().err == "train nut: 50/100 patches\n"


def test_nothing_done_says_nothing(clock, capsys):
    with Bar("score", 0, "images"), Bar("train", 64, "patches", done=64):
        clock.now += 100
    assert capsys.readouterr() == ("", "")


def test_a_fault_leaves_the_last_count(clock, capsys):
    bar = Bar("train", 100, "patches")
    clock.now += 2
    bar.update(20)
    clock.now += 2
    bar.update(20)
    bar.__exit__(RuntimeError, RuntimeError("fault"), None)
    assert capsys.readouterr().err == "train: 40/100 patches, 10 patches/s, 0:00:06 left\n"


def test_a_bar_on_a_terminal(monkeypatch):
    screen = terminal(monkeypatch)
    with Bar("score nut", 40, "images", 10, "compiling the scoring call") as bar:
        assert "compiling the scoring call" in screen.getvalue()
        bar.update(10)
        bar.update(20, "loss 0.25")
    last = screen.getvalue().split("\r")[-1]
    assert last.startswith("score nut: 100%")
    assert "40/40" in last
    assert "images/s" in last
    assert "loss 0.25" in last


def test_a_bar_without_total(monkeypatch):
    screen = terminal(monkeypatch)
    with Bar("read nut", 0, "images") as bar:
        bar.update(10)
        bar.update(20)
    last = screen.getvalue().split("\r")[-1]
    assert last.startswith("read nut: 30 images")
    assert "%" not in last


def test_a_bar_of_nothing_is_wiped_away(monkeypatch):
    screen = terminal(monkeypatch)
    with Bar("score nut", 0, "images"):
        pass
    assert "score nut" in screen.getvalue()
    assert screen.getvalue().split("\r")[-1].strip() == ""


def test_the_last_line_is_told_once(clock, capsys):
    """One image that was long in coming was told of when it came."""
    with Bar("score", 1, "images") as bar:
        clock.now += 60
        bar.update(1)
    assert capsys.readouterr().err == "score: 1/1 images, done\n"
