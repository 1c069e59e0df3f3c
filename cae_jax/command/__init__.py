"""The command `cae-jax`: one file for each of its commands, an absl binary in itself.

`cae-jax run ...` of an installed package and `python -m experiments.run ...` of the repository run
the same file with the same flags.
"""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

from cae_jax import __version__
from cae_jax.runs.machine import streams
from cae_jax.types import UsageError, unknown_name

COMMANDS = {  # of `cae-jax`, and the file in this folder
    "run": "run",
    "score": "score",
    "evaluate": "evaluate",
    "report": "report",
    "export": "export",
    "serve": "serve",
    "describe": "describe",
    "bench": "benchmark_methods",
    "reproduce": "reproduce_thesis",
    "synthetic": "make_synthetic",
}


def main() -> None:
    """Runs the command that the command line names, with the flags behind its name."""
    streams.mend()
    name, rest = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if name in ("--version", "-V", "version"):
        print(f"cae-jax {__version__}")
    elif name in ("--help", "-h", "-help", "help", "--helpfull") and not rest:
        print(text())
    else:
        if name == "help":
            name, rest = rest[0], ["--help"]
        if name not in COMMANDS:
            error = unknown_name("command", name, COMMANDS)
            print(f"error: {error}; cae-jax COMMAND --name=value ...", file=sys.stderr)
            sys.exit(UsageError.exit_code)
        sys.argv = [f"cae-jax {name}", *rest]
        runpy.run_module(f"{__name__}.{COMMANDS[name]}", run_name="__main__", alter_sys=True)


def text() -> str:
    """Returns what `cae-jax --help` prints: the commands, each with its first sentence."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {_sentence(file)}" for name, file in COMMANDS.items()]
    return "\n".join(
        [
            "usage: cae-jax COMMAND [--name=value ...]",
            "",
            *lines,
            "",
            "cae-jax COMMAND --help lists a command's flags, cae-jax --version says the version.",
        ]
    )


def _sentence(file: str) -> str:
    """The first sentence of a file's docstring; read, for an import of some takes a second."""
    path = Path(__file__).with_name(f"{file}.py")
    found = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return found.partition("\n\n")[0].replace("\n", " ")
