"""The process of a part: reads cases from standard input, says on standard output what they gave.

A line of JSON each: the environment once; the name and the limit of a case that begins, or of the
first of several that are compiled side by side; the record of one that is done. `conduct` reads it.
"""

from __future__ import annotations

import concurrent.futures
import functools
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import timing
from benchmarks.accelerator import peaks
from cae_jax import methods, models

_CAUSE = 400  # characters of an error


def run(request: Mapping[str, Any], say: Callable[[dict[str, Any]], None]) -> None:
    """Runs the cases of a request until its seconds are over; an error is a case's own.

    Its "part" is a module that has TOGETHER, how many cases are prepared side by side, and
    `prepare`: (a case's "given", a folder for files between processes) -> a call that measures it.
    """
    part = importlib.import_module(request["part"])
    methods.names(), models.names()  # read once, here: Python 3.11 parses sources in one thread
    began, scratch = time.monotonic(), Path(request["scratch"])
    scratch.mkdir(parents=True, exist_ok=True)
    say({"environment": {**timing.environment(), **peaks.device()}})
    cases, together = list(request["cases"]), part.TOGETHER if request["together"] else 1
    while cases and time.monotonic() - began < request["seconds"]:
        group, cases = cases[:together], cases[together:]
        limit = max(case["limit"] for case in group)
        say({"begin": group[0]["name"], "limit": (1 + len(group)) / 2 * limit})
        with concurrent.futures.ThreadPoolExecutor(together) as pool:
            ready = list(pool.map(lambda case: _prepared(part, case, scratch), group))
        for case, (measure, seconds) in zip(group, ready, strict=True):
            say({"begin": case["name"], "limit": case["limit"]})
            at = time.monotonic()
            record = _tried(measure)
            record["seconds"] = seconds + time.monotonic() - at
            say({"record": {"case": case["name"], **record, **peaks.memory()}})


def _prepared(part: Any, case: Mapping[str, Any], scratch: Path) -> tuple[Callable, float]:
    """What measures a case, compiled, and the seconds that took; or what says why there is none."""
    began = time.monotonic()
    made = _tried(lambda: part.prepare(case["given"], scratch))
    failed = isinstance(made, dict)
    return functools.partial(dict, made) if failed else made, time.monotonic() - began


def _tried(call: Callable[[], Any]) -> Any:
    """What a call returns; of an error, as running out of memory is one, the record of it."""
    try:
        return call()
    except Exception as error:
        said = " ".join(str(error).split())
        return {"failed": f"{type(error).__name__}: {said[:_CAUSE]}"}


if __name__ == "__main__":
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what anything else prints is no event
    run(
        json.load(sys.stdin),
        lambda event: print(
            json.dumps(event, default=lambda x: x.tolist()), file=events, flush=True
        ),
    )
