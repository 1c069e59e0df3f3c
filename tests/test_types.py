"""The types: every annotation of the package holds where mypy can see."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def test_mypy_is_content(tmp_path):
    """A process of its own, as mypy keeps global state; an empty cache, as one that another
    version or a fork of the tests left behind could hide an error. The settings are those of
    pyproject.toml, so this is what `mypy` says at the prompt."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", f"--cache-dir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
