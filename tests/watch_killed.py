"""Kills watchers, at every step of one start or at random moments of many, for the tests.

    python tests/watch_killed.py steps ROOT STRIDE    prints the last step of each of MODES
    python tests/watch_killed.py moments ROOT KILLS [MODEL IMAGES]    prints images and kills

Watchers are forked, so that all is imported once; JAX, with a MODEL, only in the fork.
"""

import errno
import hashlib
import os
import pathlib
import random
import shutil
import signal
import sys
import time

import watched

import cae_jax

_WATCH = ("/serving/watch/", "/pathlib", "/shutil.py", "/cae_jax/files.py")
# What a step is: a call of one of these, and the moment after it.
_STEPS = {
    *("rename", "replace", "link", "unlink", "mkdir", "truncate", "open", "fsync", "flush"),
    *("execute", "executemany"),
}
MODES = ("move", "across", "keep", "overwritten")
WANTED = {
    "a.png": watched.png(50),
    "sub/b.png": watched.png(180),
    "sub/cut.png": watched.png(70)[:-30],
}
LATER = watched.png(60)  # of the same name, written while a.png is judged


def steps(root, mode, first, stride):
    """Watches root/MODE/N once, is killed at step N, goes on and looks once more: for N from
    `first` on, to the one that there is not. Returns that one."""
    n = first
    while True:
        folder = root / mode / str(n)
        for name, content in WANTED.items():
            watched.write(folder / "in" / name, content, mtime_ns=10**18)
        status = forked(lambda at=n, folder=folder: watch_to(at, folder, mode))
        assert status == 0 or os.WIFSIGNALED(status), status
        for _ in range(2):
            assert forked(lambda folder=folder: watch_to(0, folder, mode)) == 0
        if status == 0:
            return n
        n += stride


def watch_to(step, folder, mode):
    """Watches a folder once; the process is killed at a step, 0 for none."""
    count = 0

    def tick(frame, event, called):
        nonlocal count
        is_step = event in ("c_call", "c_return") and called.__name__ in _STEPS
        if is_step and any(part in frame.f_code.co_filename for part in _WATCH):
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

    def overwrite(_):
        if not (folder / "later").exists():
            watched.write(folder / "in/a.png", LATER, mtime_ns=2 * 10**18)
            (folder / "later").touch()

    who = watched.detector(overwrite if mode == "overwritten" else None)
    if mode == "across":
        os.replace = across(os.replace)
    sys.setprofile(tick)
    watched.watch(folder, who=who, keep=mode == "keep")
    sys.setprofile(None)


def across(replace):
    """A rename that goes from no inbox to an output, as between two file systems."""

    def fail(source, target):
        if "/in/" in str(source) and "/out/" in str(target):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        replace(source, target)

    return fail


def forked(do):
    """Does something in a process of its own; returns how that ended, as os.wait does."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115
            do()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1]


def moments(root, kills, model=None, images=None):
    """A camera writes, in pieces and under names that come again, while watchers are killed."""
    rng = random.Random(0)
    contents = [watched.png(40), watched.png(190)]
    if images:
        contents = [path.read_bytes() for path in sorted(pathlib.Path(images).glob("*/*.*"))]
    (root / "in").mkdir(parents=True)
    written, killed, child, until = 0, 0, 0, 0.0
    while killed < kills or child:
        if killed < kills and not child:
            before = len(watched.rows(root))
            child = os.fork()
            if not child:
                serve(root, model)
            until = time.monotonic() + 60
            while len(watched.rows(root)) == before and time.monotonic() < until:
                written = photograph(root, written, contents, rng)  # until it is at work
            until = time.monotonic() + rng.uniform(0, 0.3)
        written = photograph(root, written, contents, rng)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            child, killed = 0, killed + 1
    assert forked(lambda: serve(root, model, once=True)) == 0
    print(written, killed)


def photograph(root, number, contents, rng):
    """Writes an image as a camera does, while few wait; no two have the same content. Returns the
    next one's number."""
    if len(os.listdir(root / "in")) > 40:
        time.sleep(0.02)
        return number
    path = root / "in" / f"{number % 5}.png"
    path = root / "in" / f"{number}.png" if path.exists() else path
    content = contents[number % len(contents)] + str(number).encode()
    (root / "sha256").open("a").write(hashlib.sha256(content).hexdigest() + "\n")
    half = rng.randrange(len(content))
    with open(path, "wb") as file:
        file.write(content[:half])
        file.flush()
        time.sleep(rng.uniform(0, 0.02))
        file.write(content[half:])
    time.sleep(rng.uniform(0, 0.02))
    return number + 1


def serve(root, model, once=False):
    """Watches in this process, and leaves it."""
    code = 1
    try:
        if model:
            from cae_jax.runs.build import use_compilation_cache

            use_compilation_cache()
        who = cae_jax.load(model) if model else watched.detector()
        times = {"settle": 0.03, "give_up": 5.0, "poll": 0.01}
        watched.watch(root, who=who, once=once, **times)
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    what, at, *rest = sys.argv[1:]
    shutil.rmtree(at, ignore_errors=True)
    if what == "steps":
        stride = int(rest[0])
        for i, each in enumerate(MODES):  # other steps of each, where not all are done
            print(steps(pathlib.Path(at), each, 1 + i * stride // len(MODES), stride))
    else:
        moments(pathlib.Path(at), int(rest[0]), *rest[1:])
