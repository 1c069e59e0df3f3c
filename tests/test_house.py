"""The architecture, read from the source: who may import whom, and how long things may be."""

import ast
import graphlib
import pathlib
from typing import NamedTuple

import pytest

ROOT = pathlib.Path(__file__).parents[1]
SOURCES = sorted(
    p for d in ("cae_jax", "experiments", "benchmarks") for p in ROOT.glob(f"{d}/**/*.py")
)
TESTS = sorted(ROOT.glob("tests/**/*.py"))

# A room may import from those of the lines above it, and from its own files; never sideways.
ORDER = """
types
files  options  jit
data  evaluation
models  scoring  training
methods  reports
runs
serving
cae_jax
command
experiments  benchmarks
"""
LINE = {room: i for i, line in enumerate(ORDER.split("\n")) for room in line.split()}
# The only rooms or files that may import a package, at the top of a file or inside a function.
OWNERS = {
    "PIL": {
        *("data.formats", "data.frame", "data.images", "data.masks", "data.pictures", "data.tiff"),
        "serving.export.check",
    },
    "array_record": {"data.mvtec_ad", "data.records"},
    "cv2": {"data.formats"},
    "imageio": {"data.formats"},
    "skimage": {"data.formats"},
    "matplotlib": {"reports.plots"},
    "orbax": {"training.checkpoints"},
    "flax": {"models", "methods"},
    "tensorflow_datasets": {"data"},
    "tensorflow": set(),
    "threadpoolctl": {"data"},
    "torch": {"benchmarks"},
    "onnx": {"serving", "benchmarks"},
    "onnxruntime": {"serving", "benchmarks"},
    "fastapi": {"serving"},
    "starlette": {"serving"},
    "uvicorn": {"serving"},
    "prometheus_client": {"serving"},
    "pydantic": {"serving"},
    "sqlite3": {"serving"},
    "ray": {"serving.cluster"},
    "pyarrow": {"serving.cluster"},
    "fsspec": {"serving.cluster"},
    "tensorboardX": {"runs.epoch_log"},
    "wandb": {"runs.epoch_log"},
}
# Rooms or files that never see a package.
STRANGERS = {
    "evaluation": {"jax"},
    "evaluation.metrics": {"jax", "cae_jax.types"},
    "data": {"jax"},
}
# Files that are imported inside functions, for not everybody has tensorflow_datasets.
OF_TFDS = {f"cae_jax.data.{name}" for name in ("features", "mvtec_ad", "records")}
OPEN_NO_TEXT = {"os", "Image", "tarfile", "opener"}  # whose open() takes no encoding
VAGUE = {"utils", "util", "common", "core", "helpers", "misc", "base", "trainer"}
FILE_LINES, FUNCTION_LINES, BINARY_LINES = 400, 60, 80


class Import(NamedTuple):
    module: str  # absolute; of `from cae_jax import data`, "cae_jax.data"
    lazy: bool  # inside a function


def module_name(path: pathlib.Path) -> str:
    """cae_jax/data/__init__.py -> cae_jax.data"""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def imports(text: str) -> list[Import]:
    """Every import of a source, also those for type checkers and inside functions."""
    tree = ast.parse(text)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        lazy = id(node) in inside
        if isinstance(node, ast.Import):
            found += [Import(alias.name, lazy) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                module = whole if whole in MODULES else node.module
                found.append(Import(module, lazy))
    return found


def room(module: str) -> str:
    """cae_jax.data.folder -> data; experiments.run -> experiments"""
    parts = module.split(".")
    return parts[1] if parts[0] == "cae_jax" and len(parts) > 1 else parts[0]


def places(module: str) -> set[str]:
    """cae_jax.data.images -> {data, data.images}: the room, and every folder and file in it."""
    parts = module.split(".")
    parts = parts[1:] if parts[0] == "cae_jax" and len(parts) > 1 else parts
    return {".".join(parts[: i + 1]) for i in range(len(parts))}


def import_breaches(module: str, text: str) -> list[str]:
    """What a module imports against the rules, one line each."""
    here, breaches = room(module), []
    if here not in LINE:
        return [f"{module}: a room without a place in the order"]
    for name, lazy in imports(text):
        package = name.split(".")[0]
        ours = package in ("cae_jax", "experiments", "benchmarks")
        if ours and room(name) != here and LINE.get(room(name), 99) >= LINE[here]:
            breaches.append(f"{module} imports {name}, which is not above it")
        if not places(module) & OWNERS.get(package, places(module)):
            breaches.append(f"{module} imports {name}, which belongs to {OWNERS[package]}")
        unseen = set().union(*(STRANGERS.get(place, set()) for place in places(module)))
        if {package, name} & unseen:
            breaches.append(f"{module} imports {name}, which it must not see")
        if name in OF_TFDS and module not in OF_TFDS and not lazy:
            breaches.append(f"{module} imports {name} at once: it needs tensorflow_datasets")
        if package == "tensorflow_datasets" and module not in OF_TFDS and not lazy:
            breaches.append(f"{module} imports {name} at once")
    return breaches


def long_parts(name: str, text: str) -> list[str]:
    """A file or a function over its limit."""
    lines = text.count("\n") + 1 - text.endswith("\n")
    binary = name.startswith(("experiments.", "benchmarks.")) and "__main__" in text
    limit = BINARY_LINES - 1 if binary else FILE_LINES
    breaches = [f"{name}: {lines} lines, limit {limit}"] if lines > limit else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            if length > FUNCTION_LINES:
                breaches.append(f"{name}.{node.name}: {length} lines, limit {FUNCTION_LINES}")
    return breaches


def bare_functions(name: str, text: str) -> list[str]:
    """Public functions and methods of public classes without a type at every door."""
    breaches = []

    def look(body: list[ast.stmt], where: str) -> None:
        for node in body:
            private = getattr(node, "name", "_").startswith("_")
            special = getattr(node, "name", "").startswith("__")
            if isinstance(node, ast.ClassDef) and not private:
                look(node.body, f"{where}.{node.name}")
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (
                special or not private
            ):
                a = node.args
                given = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
                bare = [x.arg for x in given if x and not x.annotation]
                bare = [x for x in bare if x not in ("self", "cls")]
                bare += [] if node.returns else ["return"]
                breaches.extend(f"{where}.{node.name}: {x} has no type" for x in bare)

    look(ast.parse(text).body, name)
    return breaches


def bare_texts(name: str, text: str) -> list[str]:
    """Text read or written in whatever encoding the machine has, which is another on Windows."""
    found = []
    for node in ast.walk(ast.parse(text)):
        call = ast.unparse(node.func).split(".") if isinstance(node, ast.Call) else [""]
        if call[-1] not in ("open", "read_text", "write_text") or call[0] in OPEN_NO_TEXT:
            continue
        modes = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        binary = call[-1] == "open" and any("b" in str(mode) for mode in modes)
        if not binary and "encoding" not in {keyword.arg for keyword in node.keywords}:
            found.append(f"{name}: line {node.lineno}: {call[-1]} without an encoding")
    return found


def cycle(texts: dict[str, str]) -> list[str]:
    """A circle of modules that import each other, lazily or not; empty when there is none."""
    graph = {
        name: {i.module for i in imports(text) if i.module in texts and i.module != name}
        for name, text in texts.items()
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def vague_names(paths: list[pathlib.Path]) -> list[str]:
    return [
        str(p)
        for p in paths
        if VAGUE & {part.lower() for part in p.with_suffix("").parts}
        or p.suffix in (".yaml", ".yml")
    ]


def test_there_are_sources():
    assert {"cae_jax", "cae_jax.types", "cae_jax.models.bergmann", "experiments.run"} <= set(
        MODULES
    )
    assert pathlib.Path(__file__) in TESTS


@pytest.mark.parametrize("module", MODULES)
def test_source(module):
    text = MODULES[module].read_text()
    assert import_breaches(module, text) == []
    assert long_parts(module, text) == []
    assert bare_functions(module, text) == []
    assert bare_texts(module, text) == []


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_tests_are_short(path):
    assert long_parts(path.stem, path.read_text()) == []


def test_no_circle_of_imports():
    assert cycle({name: path.read_text() for name, path in MODULES.items()}) == []


def test_no_vague_names():
    folders = [p.relative_to(ROOT) for d in ("cae_jax", "experiments", "benchmarks")
               for p in ROOT.glob(f"{d}/**/*")]  # fmt: skip
    assert vague_names(folders) == []


@pytest.mark.parametrize(
    ("module", "text", "breach"),
    [
        ("cae_jax.types", "from cae_jax import files", "not above it"),
        ("cae_jax.data.images", "from cae_jax.scoring.patches import counts", "not above it"),
        ("cae_jax.data", "import cae_jax.models.bergmann", "not above it"),
        ("cae_jax.data.folder", "def f():\n    from cae_jax import models", "not above it"),
        ("cae_jax.data.folder", "from cae_jax.evaluation import metrics", "not above it"),
        ("cae_jax.models.gong", "from cae_jax.training import crops", "not above it"),
        ("cae_jax.scoring.scorer", "from cae_jax.training.loop import fit", "not above it"),
        ("cae_jax.training.loop", "from cae_jax.methods import autoencoder", "not above it"),
        (
            "cae_jax.reports.results",
            "if TYPE_CHECKING:\n    from cae_jax.runs.cell import Cell",
            "not above it",
        ),
        ("cae_jax.runs.job", "from experiments import run", "not above it"),
        ("cae_jax.runs.job", "import cae_jax", "not above it"),
        ("experiments.run", "import benchmarks", "not above it"),
        ("cae_jax.runs.job", "from cae_jax import nowhere", "not above it"),
        ("cae_jax.nowhere", "", "without a place"),
        ("cae_jax.evaluation.metrics", "import jax.numpy as jnp", "must not see"),
        ("cae_jax.evaluation.verdict", "from jax import lax", "must not see"),
        ("cae_jax.evaluation.metrics", "from cae_jax.types import UsageError", "must not see"),
        ("cae_jax.data.folder", "import jax", "must not see"),
        ("cae_jax.reports.results", "from PIL import Image", "which belongs to"),
        ("cae_jax.data.folder", "def f():\n    import PIL.Image", "which belongs to"),
        ("cae_jax.reports.results", "import matplotlib.pyplot", "belongs to {'reports.plots'}"),
        ("cae_jax.runs.job", "import orbax.checkpoint", "belongs to {'training.checkpoints'}"),
        ("cae_jax.training.loop", "import flax.linen as nn", "belongs to"),
        ("experiments.run", "from flax import linen", "belongs to"),
        ("cae_jax.runs.job", "import tensorflow_datasets", "belongs to {'data'}"),
        ("cae_jax.data.mvtec_ad", "import tensorflow as tf", "belongs to set()"),
        ("cae_jax.data.folder", "import tensorflow_datasets as tfds", "at once"),
        ("cae_jax.data", "from cae_jax.data import mvtec_ad", "at once"),
        ("cae_jax.runs.config", "import cae_jax.data.mvtec_ad", "at once"),
    ],
)
def test_a_bad_import_is_found(module, text, breach):
    found = import_breaches(module, text)
    assert found
    assert breach in found[0]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("cae_jax.data", "def f():\n    from cae_jax.data import mvtec_ad"),
        ("cae_jax.data.mvtec_ad", "import tensorflow_datasets as tfds"),
        ("cae_jax.models.gong", "import flax.linen\nfrom cae_jax.models.layers import table"),
        ("cae_jax.data.images", "from PIL import Image\nfrom cae_jax.types import DataError"),
        ("experiments.run", "import cae_jax\nfrom cae_jax.runs import job"),
    ],
)
def test_a_good_import_passes(module, text):
    assert import_breaches(module, text) == []


def test_a_long_part_is_found():
    function = "def f():\n" + 59 * "    x = 1\n"
    assert long_parts("a", function) == []
    assert long_parts("a", function + "    x = 1\n") == ["a.f: 61 lines, limit 60"]
    assert long_parts("a", 400 * "x = 1\n") == []
    assert long_parts("a", 401 * "x = 1\n") == ["a: 401 lines, limit 400"]
    binary = 'if __name__ == "__main__":\n    run()\n'
    assert long_parts("experiments.a", 77 * "x = 1\n" + binary) == []
    long = ["experiments.a: 80 lines, limit 79"]
    assert long_parts("experiments.a", 78 * "x = 1\n" + binary) == long
    assert long_parts("benchmarks.a", 400 * "x = 1\n") == []  # a part of several binaries


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("def f(x: int) -> int: ...", []),
        ("def f(x) -> int: ...", ["x"]),
        ("def f(x: int): ...", ["return"]),
        ("def f(*a, k, **b) -> int: ...", ["k", "a", "b"]),
        ("def _f(x): ...", []),
        ("def f() -> int:\n    def g(x): ...", []),
        ("class C:\n    def f(self, x: int) -> int: ...", []),
        ("class C:\n    def f(self, x): ...", ["x", "return"]),
        ("class C:\n    def __init__(self, x) -> None: ...", ["x"]),
        ("class C:\n    def _f(self, x): ...", []),
        ("class _C:\n    def f(self, x): ...", []),
    ],
)
def test_a_bare_function_is_found(text, bare):
    assert [line.split(": ")[1].split()[0] for line in bare_functions("a", text)] == bare


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("open(p, 'w')", ["open"]),
        ("p.open()", ["open"]),
        ("p.read_text()", ["read_text"]),
        ("(a / 'b').write_text(t)", ["write_text"]),
        ("p.read_text(encoding='ascii')", []),
        ("open(p, 'rb')", []),
        ("p.open('xb')", []),
        ("open(p, newline='', encoding='utf-8')", []),
        ("os.open(p, os.O_RDONLY)", []),
    ],
)
def test_a_text_without_encoding_is_found(text, bare):
    assert [line.split()[3] for line in bare_texts("a", text)] == bare


def test_a_circle_is_found():
    texts = {
        "cae_jax.data": "def f():\n    from cae_jax.scoring import check",
        "cae_jax.scoring": "import cae_jax.models",
        "cae_jax.models": "from cae_jax import data, types",
        "cae_jax.types": "",
    }
    assert set(cycle(texts)) == {"cae_jax.data", "cae_jax.scoring", "cae_jax.models"}
    assert cycle({**texts, "cae_jax.models": "from cae_jax import types"}) == []


def test_a_vague_name_is_found():
    bad = ["cae_jax/utils.py", "cae_jax/common/x.py", "cae_jax/core", "experiments/a.yaml"]
    good = ["cae_jax/types.py", "cae_jax/score.py"]
    assert vague_names([pathlib.Path(p) for p in bad + good]) == bad
