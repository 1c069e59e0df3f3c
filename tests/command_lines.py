"""Many command lines in one process: what each came to. Importing jax takes seconds."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu"}
# Each gets its own flags.
RUNNER = """
import contextlib, errno, io, json, os, runpy, shutil, sys, traceback, unittest.mock
from absl import flags
from cae_jax.runs import job

def fail(error):
    def call(*_, **__):
        raise error
    return call

full = OSError(errno.ENOSPC, "No space left on device")
usage = shutil.disk_usage("/")
FAULTS = {
    "": ("os.sep", os.sep),
    "fsync": ("os.fsync", fail(full)),
    "write": ("cae_jax.runs.job.data.read", fail(OSError(full.errno, full.strerror, "some/file"))),
    "disk": ("shutil.disk_usage", lambda _: usage._replace(free=1000)),
    "interrupt": ("cae_jax.runs.job.run_grid", fail(KeyboardInterrupt())),
    "export": ("cae_jax.serving.trained.open_run", fail(KeyboardInterrupt())),
    "evaluation": ("cae_jax.runs.job.evaluate_again", fail(KeyboardInterrupt())),
    "drawing": ("cae_jax.data.synthetic.write", fail(KeyboardInterrupt())),
    "description": ("cae_jax.runs.describe.of_methods", fail(KeyboardInterrupt())),
    "bug": ("cae_jax.runs.job.run_grid", fail(ValueError("a bug"))),
}
theirs = set(flags.FLAGS)
answers = {}
for name, (module, arguments, fault) in json.load(sys.stdin).items():
    out, err = io.StringIO(), io.StringIO()
    code = "none"
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        sys.argv = [module, *arguments]
        with unittest.mock.patch(*FAULTS[fault]):
            try:
                full = module if "." in module else "experiments." + module
                runpy.run_module(full, run_name="__main__")
            except SystemExit as error:
                code = 0 if error.code is None else error.code
            except Exception:
                traceback.print_exc()
    theirs |= {f for f in flags.FLAGS if "absl" in flags.FLAGS.find_module_defining_flag(f)}
    for flag in set(flags.FLAGS) - theirs:
        delattr(flags.FLAGS, flag)
    flags.FLAGS.unparse_flags()
    answers[name] = [code, out.getvalue(), err.getvalue()]
json.dump(answers, sys.__stdout__)
"""


def process(*command, timeout=100, **environment):
    """Runs a command to its end, with what it prints as text."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_all(lines, cwd, **environment):
    """Runs {name: (module, arguments, fault)}; returns {name: [exit code, out, err]}.

    A module without a dot is of experiments; the exit code is "none" where none was given. A fault
    is one of the runner's, "" for none.
    """
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        cwd=cwd,
        env=ENVIRONMENT | environment,
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
