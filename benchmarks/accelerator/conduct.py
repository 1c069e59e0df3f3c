"""Runs parts in processes of their own, within the time, and keeps what each case gave.

A part's file holds the records of its cases, one each: what was measured, or "failed" with a cause.
A case that is in it is not run again.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.accelerator.plan import Case
from cae_jax import files
from cae_jax.types import DataError

START_LIMIT = 120.0  # seconds until a process has its device
GRACE = 30.0  # that a case may run into the next part's time
LOG = "log.txt"
_TAIL = 300  # characters of what a process said last
_ENVIRONMENT = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92"}  # one process at a time has the device
_ENDED: dict[str, Any] = {"ended": True}


class _Job(NamedTuple):
    part: str
    cases: Sequence[Case]
    folder: Path
    package: str
    until: float  # when the part begins no further case, by time.monotonic
    ends: float  # when everything stops


def run(
    cases: Mapping[str, Sequence[Case]],
    folder: Path,
    ends: float,
    share: Callable[[str, Sequence[str]], float],
    package: str = "benchmarks.accelerator",
) -> None:
    """Runs all parts in turn, each for its share of the time, then again with what is left of it.

    Args:
      cases: by part, each part's most important first.
      folder: of the files PART.json and of log.txt, what the processes said; it exists.
      ends: when nothing may run any more, by `time.monotonic`.
      share: (part, those after it) -> its share of the time left, in (0, 1].
      package: of the parts' modules, see `process`.
    """
    for again in (False, True):
        names = list(cases)
        for i, name in enumerate(names):
            now = time.monotonic()
            until = ends if again else now + (ends - now) * share(name, names[i + 1 :])
            _run_part(_Job(name, cases[name], folder, package, until, ends))


def read(path: Path) -> dict[str, Any]:
    """Returns what a part's file holds, or what it holds at first; raises DataError."""
    if not path.exists():
        return {"part": path.stem, "complete": False, "environment": {}, "records": []}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {**found, "records": list(found["records"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{str(path)!r}: no file of this benchmark: {error}") from error


def _run_part(job: _Job) -> None:
    """Runs what is left of a part, in as many processes as it takes; writes its file each time."""
    path = job.folder / f"{job.part}.json"
    found, together, starts = read(path), True, 0

    def left() -> list[Case]:
        done = {record["case"] for record in found["records"]}
        return [case for case in job.cases if case.name not in done]

    def keep(record: dict[str, Any]) -> None:
        found["records"].append(record)
        found["complete"] = not left()
        files.write_json(path, found)
        what = record.get("failed", f"{record.get('seconds', 0):.1f} s")
        print(f"{job.part}: {record['case']}: {what}", file=sys.stderr, flush=True)

    def environment(seen: dict[str, Any]) -> None:
        found["environment"] = seen | {"command": _command()}

    while left() and time.monotonic() < job.until:
        before = len(found["records"])
        failed = _run_process(job, left(), together, keep, environment)
        together = False  # one that took others with it takes none the next time
        starts = starts + 1 if failed and len(found["records"]) == before else 0
        if starts > 1:  # its processes do not even begin
            return


def _run_process(
    job: _Job,
    cases: Sequence[Case],
    together: bool,
    keep: Callable[[dict[str, Any]], None],
    environment: Callable[[dict[str, Any]], None],
) -> bool:
    """Runs cases in one process until it ends or has to be ended; returns whether it failed.

    The case that it was at then is kept as failed, but where the time of all cases was over.
    """
    request = {
        **{"part": f"{job.package}.{job.part}", "together": together},
        "scratch": str(job.folder / "scratch"),
        **{"seconds": job.until - time.monotonic(), "cases": [c._asdict() for c in cases]},
    }
    with open(job.folder / LOG, "a+b") as log:
        process, events = _start(request, log)
        at, limit, began = "", START_LIMIT, time.monotonic()
        over, event = min(job.ends, job.until + GRACE), None
        try:
            while True:
                event = _next(events, min(began + limit, over))
                if event is None or event == _ENDED:
                    break
                if "environment" in event:
                    environment(event["environment"])
                elif "begin" in event:
                    at, limit, began = event["begin"], event["limit"], time.monotonic()
                else:
                    keep(event["record"])
                    at, limit, began = "", START_LIMIT, time.monotonic()
        finally:
            code = _end(process, 10.0 if event == _ENDED else 0.0)
        if event is None and time.monotonic() >= over:
            return False
        if event is None:
            cause = f"over its limit of {limit:.0f} s"
        elif code:
            cause = f"exit code {code}: {_last(log)}"
        else:
            return False
        if at:
            keep({"case": at, "failed": cause})
        else:
            print(f"{job.part}: {cause}", file=sys.stderr, flush=True)
        return True


def _start(request: Mapping[str, Any], log: Any) -> tuple[subprocess.Popen, queue.Queue]:
    """Starts a process for a request; the queue gets what it says, then _ENDED."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.accelerator.process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={**_ENVIRONMENT, **os.environ},
        start_new_session=True,  # so that it can be ended with all that it started
    )
    events: queue.Queue = queue.Queue()

    def listen() -> None:
        with process.stdout as said:
            for line in said:
                events.put(json.loads(line))
        events.put(_ENDED)

    threading.Thread(target=listen, daemon=True).start()
    # where it has ended already, the queue says so
    with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
        pipe.write(json.dumps(request).encode())
    return process, events


def _next(events: queue.Queue, deadline: float) -> dict[str, Any] | None:
    """The next event, None where there was none before the deadline."""
    try:
        return events.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        return None


def _end(process: subprocess.Popen, patience: float) -> int:
    """Ends a process, and what it started, after so many seconds; returns its exit code."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(patience)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # its own session, see _start
    return process.wait()


def _last(log: Any) -> str:
    """The end of what was said, on one line."""
    log.seek(0, os.SEEK_END)
    log.seek(max(0, log.tell() - _TAIL))
    return " ".join(log.read().decode(errors="replace").split())


def _command() -> str:
    return " ".join(["python", "-m", "benchmarks.accelerator", *sys.argv[1:]])
