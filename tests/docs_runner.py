"""Does what the documentation says, many things in one process: importing jax takes seconds.

Reads a list of [kind, ...] from standard input and answers with as many [cause or "", output]:

    parse MODULE WORDS    reads a command line as the module would, and checks the record
    run MODULE WORDS      runs it
    python SOURCE         runs a block of Python
    flag NAME VALUE       looks NAME up among all flags seen so far; VALUE may be null
"""

import contextlib
import io
import json
import os
import pathlib
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from unittest import mock

import httpx
from absl import app, flags

from cae_jax import files, methods, options
from cae_jax.runs import command_line, config, evaluate
from cae_jax.serving.service import server
from cae_jax.training import crops
from cae_jax.training.schedule import Training
from cae_jax.types import UsageError

app.define_help_flags()
THEIRS = set(flags.FLAGS)
SEEN = {}
PAGE = pathlib.Path(__file__).parents[1] / "docs/deploy.md"
server_run = server.run


def check(_, argv, flags_parser):
    """Stands in for app.run: goes as far as the module would before it computes anything."""
    flags_parser(argv)
    SEEN.update({name: flags.FLAGS[name] for name in set(flags.FLAGS) - THEIRS})
    found = command_line.given()
    if isinstance(found.options, Training):
        for category in found.categories:
            crops.kind_for(found.options.augment, category)


def module(name, words, *patches):
    """Runs python -m `name` `words`; an exit with another code than 0 is an error."""
    sys.argv = [name, *words]
    try:
        with contextlib.ExitStack() as stack:
            for patch in patches:
                stack.enter_context(patch)
            runpy.run_module(name, run_name="__main__")
    except SystemExit as error:
        if error.code not in (None, 0):
            raise
    finally:
        for flag in set(flags.FLAGS) - THEIRS:
            delattr(flags.FLAGS, flag)
        flags.FLAGS.unparse_flags()


def flag(name, value):
    """Raises for a flag that no module seen so far has, or a value that no method's can take."""
    if name in THEIRS:
        return
    parser = SEEN[name].parser
    if not value:
        return
    parsed, causes = parser.parse(value), []
    fields = [known[name] for known in map(config.flags_of, methods.names()) if name in known]
    for field in fields:
        if not isinstance(parsed, type(field.default)):  # a benchmark's --batch_size is a list
            continue
        try:
            options.check_value(field, parsed)
            return
        except UsageError as error:
            causes.append(error)
    for error in causes:
        raise error


def write(path, content):
    """Stands in for files.write_whole where a file of the repository would be written."""
    pathlib.Path("written").mkdir(exist_ok=True)
    pathlib.Path("written", pathlib.Path(path).name).write_text(content)


def here(command, **_):
    """Stands in for subprocess.run where a benchmark starts a process of its own for a module."""
    before = {name: flags.FLAGS[name] for name in set(flags.FLAGS) - THEIRS}
    defined = dict(command_line._defined)
    for name in before:
        delattr(flags.FLAGS, name)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        module(command[2], command[3:])
    for name, one in before.items():
        flags.FLAGS[name] = one
    flags.FLAGS.mark_as_parsed()
    command_line._defined.update(defined)
    return subprocess.CompletedProcess(command, 0, said.getvalue())


def served(app, models, options, at):
    """Stands in for the service's run: asks what the lines of docs/deploy.md ask, and ends it."""

    def ask():
        here = f"http://localhost:{at.getsockname()[1]}"
        while httpx.get(f"{here}/ready").status_code == 503:
            time.sleep(0.1)
        for line in re.findall(r"^curl (.*) ?http://localhost:8000(\S*)$", PAGE.read_text(), re.M):
            parts = [part.partition("=@")[::2] for part in line[0].split() if "=@" in part]
            sent = [(name, pathlib.Path(file).read_bytes()) for name, file in parts]
            answer = httpx.request("POST" if sent else "GET", here + line[1], files=sent or None)
            print(line, answer.text)
            answers.append(answer.status_code)
        os.kill(os.getpid(), signal.SIGTERM)

    answers, run = [], server_run
    thread = threading.Thread(target=ask)
    thread.start()
    run(app, models, options, at)
    thread.join()
    assert answers == [200, 200], answers


def do(kind, *what):
    if what[0] == "benchmarks.tables":  # no flags; it writes as soon as it is started
        module(*what, mock.patch.object(files, "write_whole", write))
    elif kind == "parse":
        module(*what, mock.patch.object(app, "run", check))
    elif kind == "run" and what[0] == "benchmarks.start":  # fresh processes, of nothing new
        module(*what, mock.patch.object(subprocess, "run"))
    elif kind == "run" and what[0] in ("benchmarks.scaling", "benchmarks.scoring"):
        module(*what, mock.patch.object(subprocess, "run", here))
    elif kind == "run":
        # plots take most of a small run's time, and have tests of their own
        module(
            *what, mock.patch.object(evaluate, "_plot"), mock.patch.object(server, "run", served)
        )
    elif kind == "python":
        exec(compile(what[0], "a block of Python", "exec"), {"__name__": "block"})
    else:
        flag(*what)


def main():
    answers = []
    sys.path.insert(0, ".")
    for job in json.load(sys.stdin):
        said, cause = io.StringIO(), ""
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                do(*job)
            except (Exception, SystemExit) as error:
                cause = repr(error) + traceback.format_exc()
        answers.append([cause, said.getvalue()])
    json.dump(answers, sys.__stdout__)


if __name__ == "__main__":
    main()
