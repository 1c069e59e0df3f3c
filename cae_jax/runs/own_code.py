"""Which files of a user's own a run's model and method are made of: `--model=my_nets:Shallow`."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from cae_jax import methods, models, options
from cae_jax.runs.config import Config

_OURS = {"cae_jax", "experiments", "benchmarks"}  # whose version a run tells
_INSTALLED = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]


def hashes(config: Config) -> dict[str, str]:
    """Returns the SHA-256 (hex) of each file of the run's own code by the module's name; {} for
    what is built in.

    They are the files that --method and --model name, and what these import of the same package,
    or from their own folder where it is none of installed packages. How lines end does not count.
    """
    named = [config.method] if config.method not in methods.names() else []
    model = options.values(config.options).get("model", "")
    if model and model not in models.names():
        named.append(model.partition(":")[0])
    found: dict[str, str] = {}
    for name in named:
        if (file := _file(name)) is not None:
            _walk(name, file, _folder(name, file), found)
    return dict(sorted(found.items()))


def _walk(name: str, file: Path, root: Path, found: dict[str, str]) -> None:
    """Notes a module, and what it imports below the folder `root`."""
    content = file.read_bytes()
    found[name] = hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()
    for other in _imported(name, file, content):
        if other in found or other.partition(".")[0] in _OURS:
            continue
        where = _file(other)
        if where is None or not where.is_relative_to(root):
            continue
        same = other.partition(".")[0] == name.partition(".")[0]
        if same or not any(where.is_relative_to(each) for each in _INSTALLED):
            _walk(other, where, root, found)


def _imported(name: str, file: Path, content: bytes) -> Iterator[str]:
    """The modules that a module's text names, also in functions, and the packages that it is in."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    parts = package.split(".") if package else []
    yield from (".".join(parts[: i + 1]) for i in range(len(parts)))
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(parts[: len(parts) + 1 - node.level]) if node.level else ""
            of = ".".join(part for part in (above, node.module) if part)
            yield of
            yield from (f"{of}.{alias.name}" for alias in node.names)


def _file(name: str) -> Path | None:
    """The source of a module; None of what is none, or has none."""
    try:
        module = sys.modules.get(name)
        path = getattr(module, "__file__", None)
        if module is None and (spec := importlib.util.find_spec(name)):
            path = spec.origin
    except (ImportError, ValueError, AttributeError):  # a class of a module, a notebook's __main__
        return None
    there = path is not None and path.endswith(".py") and Path(path).is_file()
    return Path(path).resolve() if there and path else None


def _folder(name: str, file: Path) -> Path:
    """The folder on Python's path that a module was found in."""
    depth = name.count(".") + (file.name == "__init__.py")
    return file.parents[depth]
