"""Runs in processes of their own, for tests that kill them: started by forking, imports done once.

    python tests/forked_runs.py FLAGFILE_TEXT SEED KILLS LEFT_OUT

Runs once undisturbed in WORKDIR/straight and measures it, then kills runs in WORKDIR/killed_N at
KILLS random moments, and starts each again until it ends. Prints one line of JSON at the end.
"""

import json
import os
import pathlib
import random
import signal
import sys
import time

from cae_jax.runs import evaluate, job
from cae_jax.runs.config import Config


def start(config: Config) -> int:
    """Runs the config in a child process and returns its id; what it prints goes to a file."""
    pid = os.fork()
    if pid:
        return pid
    log = os.open(f"{config.workdir}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 1
    try:
        job.run(config)
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ends_within(pid: int, seconds: float) -> int | None:
    """Returns a process's exit status, or None when it still runs."""
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            return None
        time.sleep(0.002)


def main(text: str, seed: str, kills: str, left_out: str) -> None:
    if left_out:
        setattr(evaluate, left_out, lambda *_: None)
    base = Config.from_flagfile(text, "flags")
    root = pathlib.Path(base.workdir)
    root.mkdir(parents=True, exist_ok=True)
    straight = base.changed(workdir=str(root / "straight"))
    warm = base.changed(workdir=str(root / "warm"))
    assert ends_within(start(warm), 300) == 0  # fills the compilation cache
    began = time.monotonic()
    assert ends_within(start(straight), 300) == 0
    whole = time.monotonic() - began
    rng, killed, ended, at = random.Random(int(seed)), 0, [], []
    while killed < int(kills):
        config = base.changed(workdir=str(root / f"killed_{len(ended)}"))
        while True:
            pid = start(config)
            moment = rng.uniform(0, whole)
            code = ends_within(pid, moment if killed < int(kills) else 300)
            if code is not None:
                assert code == 0, f"{config.workdir}: exit code {code}"
                break
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            killed += 1
            at.append(round(moment / whole, 2))
        ended.append(config.workdir)
    print(json.dumps({"seconds": whole, "ended": ended, "at": at}))


if __name__ == "__main__":
    main(*sys.argv[1:])
