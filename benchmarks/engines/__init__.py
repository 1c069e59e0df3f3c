"""Other engines that run a model's twin on the same input, to hold our times against."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping, Sequence

import jax

from cae_jax.types import unknown_name

PACKAGES = {  # what each engine needs installed: see benchmarks/requirements.txt
    "torch": ("torch",),
    "torch_compile": ("torch",),
    "onnxruntime": ("torch", "onnx", "onnxruntime"),
    "openvino": ("torch", "openvino"),
    "anomalib": ("torch", "timm", "anomalib"),
}
GRAPH = {  # of those that run any method's scoring as a graph of operators, see `exported`
    "onnxruntime": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino"),
    "torch": ("torch", "onnx", "onnx2fx"),
}
# that run a network of tables; anomalib has methods of its own, see benchmarks.beside
NAMES = ("torch", "torch_compile", "onnxruntime", "openvino")
_CPU_ONLY = ("onnxruntime", "openvino")

# GNU OpenMP's threads wait by spinning, into the time of the engine that comes next, and where
# another process has a core five times longer than they compute. Read once, when torch starts.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def available(
    names: Iterable[str],
    known: Iterable[str] = NAMES,
    needed: Mapping[str, Sequence[str]] = PACKAGES,
) -> list[str]:
    """Returns the engines that can run here; the others are named on stderr.

    Args:
      names: of engines.
      known: those among which they are.
      needed: what each needs installed.

    Raises UsageError for a name not among the `known`.
    """
    found = []
    for name in dict.fromkeys(names):
        if name not in known:
            raise unknown_name("engine of --against", name, known)
        missing = [p for p in needed[name] if importlib.util.find_spec(p) is None]
        if name in _CPU_ONLY and jax.default_backend() != "cpu":
            print(f"skipped {name}: compared on a CPU only", file=sys.stderr)
        elif missing:
            print(f"skipped {name}: {', '.join(missing)} not installed", file=sys.stderr)
        else:
            found.append(name)
    return found


def packages(names: Iterable[str], needed: Mapping[str, Sequence[str]] = PACKAGES) -> list[str]:
    """Returns the packages behind the engines, each once."""
    return list(dict.fromkeys(package for name in names for package in needed[name]))
