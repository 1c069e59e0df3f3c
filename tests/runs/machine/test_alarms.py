"""What XLA writes of slow compilation is not shown; all else that others than Python write is."""

import os
import subprocess
import sys

import pytest
from command_lines import ROOT

from cae_jax.runs.machine import alarms

HEAD = "E1126 21:14:44.456588   11248 slow_operation_alarm.cc"
FOLDING = """Constant folding an instruction is taking > 1s:

  %reduce_window_max.7 = f32[3000,3000]{1,0} reduce-window(%iota, %constant.1), metadata={}

This isn't necessarily a bug; constant-folding is inherently a trade-off.

If you'd like to file a bug, run with envvar XLA_FLAGS=--xla_dump_to=/tmp/foo and attach the results.
"""  # noqa: E501 - as XLA writes it
STARS = "********************************\n"
SLOW = f"""
{STARS}[Compiling module jit_train_step for CPU] Very slow compile? If you want to file a bug, run with \
envvar XLA_FLAGS=--xla_dump_to=/tmp/foo and attach the results.
{STARS}"""  # noqa: E501
ERROR = "E1126 21:14:45.456588   11248 cuda_driver.cc:12] failed call to cuInit: unknown error\n"


@pytest.mark.parametrize(
    "alarm",
    [
        f"{HEAD}:73] {FOLDING}",
        f"{HEAD}:73] {SLOW}",
        f"{HEAD}:140] The operation took 2.5s\n",
        f"{HEAD}:140] The operation took 2.5s\n{FOLDING}",
        f"{HEAD}:140] The operation took 2m0.5s\n{SLOW}",
        f"{HEAD}:73] {FOLDING}{HEAD}:73] {SLOW}{HEAD}:140] The operation took 2.5s\n",
    ],
)
@pytest.mark.parametrize(
    "other", [ERROR, "plain words\n\n  indented\n", "Traceback (most recent call last):\n", ""]
)
def test_alarms_alone_are_taken_out(alarm, other):
    lines = f"{other}{alarm}{other}{alarm}{other}".encode().splitlines(keepends=True)
    assert b"".join(alarms.others(lines)).decode() == 3 * other


def test_an_alarm_cut_short_takes_no_error_with_it():
    cut = f"{HEAD}:73] Constant folding an instruction is taking > 1s:\n\n{ERROR}"
    assert b"".join(alarms.others(cut.encode().splitlines(keepends=True))) == ERROR.encode()
    endless = [f"{HEAD}:73] {STARS}".encode(), *[b"more\n"] * 20]
    assert [*alarms.others(endless)] == [b"more\n"] * 8


PROCESS = """
import os, sys
from cae_jax.runs.machine import alarms
with alarms.hidden():
    os.write(2, sys.argv[1].encode())
    print("Python's own", file=sys.stderr)
    if sys.argv[2] == "abort":
        os.abort()
print("after", file=sys.stderr)
os.write(2, b"the end")
"""


def process(how, **environment):
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, f"{HEAD}:73] {SLOW}{ERROR}last words", how],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stderr


def test_a_process_shows_all_but_alarms():
    said = process("end")
    assert "Very slow" not in said
    assert sorted(said.splitlines()) == sorted(
        ["Python's own", ERROR.strip(), "last wordsafter", "the end"]
    )


def test_the_last_words_of_one_that_dies_are_shown():
    said = process("abort")
    assert "Very slow" not in said
    assert ERROR in said
    assert "last words" in said


def test_who_asks_for_the_log_has_it():
    assert "Very slow" in process("end", TF_CPP_MIN_LOG_LEVEL="0")
