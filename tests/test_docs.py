"""The documentation does what it says: its commands and blocks of Python are run, small.

A command is an experiment or a benchmark, and is first read with its own flags as it stands there,
names in capitals filled in; then it is run with the flags of docs_small.py behind its own. Whatever
else stands in a block of commands must be in OTHERS, and a program that SMALL does not know fails.
"""

import ast
import itertools
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import test_deploy
from docs_small import METHODS, NET, SMALL, WITHIN
from test_house import ORDER

from benchmarks import engines
from cae_jax.command import COMMANDS as COMMAND
from cae_jax.data import synthetic
from cae_jax.training import crops

ROOT = pathlib.Path(__file__).parents[1]
README, PROJECT = ROOT / "README.md", ROOT / "pyproject.toml"
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "benchmarks/README.md", *sorted(ROOT.glob("docs/*.md"))]
PRESETS = sorted(ROOT.glob("experiments/presets/*.flags"))
# What stands for something of the user's, and what a test puts there.
CAPITALS = {
    "DIR": "{x}/in",
    "MVTEC_DIR": "{x}/in",
    "NAME": "weave",
    "IN": "{x}/camera",
    "OUT": "out",
    "GOOD": "{x}/good/weave",
    "NEW": "{x}/in/weave/test/good",
    "RUN": "runs/synthetic",
    "MODEL": "runs/synthetic",
    "HOST:PORT": "localhost:1",
    "FILE": "{x}/weights.pth",
}


def _exist(*names):
    return all((ROOT / name).exists() for name in names)


# Lines that install or test, and what of them can be seen from here.
_FILES = [f"requirements{part}.txt" for part in ("", "-export", "-features", "-ray", "-serve")]
OTHERS = {
    **{f"python -m pip install -r {name}": lambda name=name: _exist(name) for name in _FILES},
    f"python -m pip install -r {_FILES[0]} -r requirements-dev.txt": lambda: _exist(
        "requirements-dev.txt"
    ),
    'python -m pip install ".[export,features,serve]"': lambda: _exist("setup.py", *_FILES),
    "cae-jax --help": lambda: "cae-jax = " in PROJECT.read_text(),
    "pip install -r benchmarks/requirements.txt": lambda: _exist("benchmarks/requirements.txt"),
    "python -m pytest": lambda: _exist("tests", "pyproject.toml"),
    "python -m pip install -r requirements-docs.txt": lambda: _exist("requirements-docs.txt"),
    "python -m sphinx -W -b html -c docs . site": lambda: _exist("docs/conf.py"),
    **{
        f"python -m pytest -m {mark}": lambda mark=mark: f'"{mark}: ' in PROJECT.read_text()
        for mark in ("quick", "slow")
    },
    **dict.fromkeys(("python3 -m venv .venv", ". .venv/bin/activate"), lambda: True),
    **dict.fromkeys(test_deploy.LINES, lambda: True),
    # flags for several processes, of which test_multihost.py starts two
    "--coordinator_address=HOST:PORT --num_processes=2 --process_id=0": lambda: True,
}


def blocks(text):
    """Every fenced block of a page as (language, source)."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def cells(path):
    """The code of a notebook, as one source."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in found if c["cell_type"] == "code")


def outside(text):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def joined(path):
    """A text whose lines that end in a backslash are one with the next."""
    return re.sub(r"\s*\\\n#?\s*", " ", path.read_text())


def marked(name, page=README):
    """The block of a page behind <!-- name -->."""
    found = re.search(rf"^<!-- {name} -->\n```\w*\n(.*?)^```$", page.read_text(), re.M | re.S)
    assert found, f"no block behind <!-- {name} -->"
    return found[1]


def commands_of(path):
    """Every command of a page or of a preset's header, each once, in order."""
    text = joined(path)
    if path.suffix == ".flags":  # of the comment, what is set in
        return [line[1:].strip() for line in text.splitlines() if line.startswith("#   ")]
    lines = [
        part
        for language, source in blocks(text)
        if language == "bash"
        for line in source.splitlines()
        for part in line.partition("  #")[0].split("&&")
    ]
    rest = outside(text)
    lines += re.findall(r"^    (\S.*)$", rest, re.MULTILINE)
    lines += re.findall(r"`((?:[A-Z]+=\S+ )?(?:python3?|pip) [^`]+)`", rest)
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


COMMANDS = {path: commands_of(path) for path in (*PAGES, *PRESETS)}
EVERY = list(dict.fromkeys(itertools.chain(*COMMANDS.values())))
OURS = re.compile(r"(?:PYTHONPATH=\. )?(?:python -m (\S+)|cae-jax (\S+))")
KNOWN = {key.split()[0] for key in SMALL}


def module_of(command):
    """The module that a command line runs, "" for none of ours."""
    found = OURS.match(command)
    name = found and (found[1] or f"experiments.{COMMAND.get(found[2], found[2])}")
    return name if name in KNOWN else ""


PROGRAMS = [c for c in EVERY if c not in OTHERS and module_of(c)]
NOTEBOOKS = sorted(ROOT.glob("docs/*.ipynb"))
PYTHON = [
    (path.name, source)
    for path in PAGES
    for language, source in blocks(path.read_text())
    if language == "python"
] + [(path.name, cells(path)) for path in NOTEBOOKS]
FLAGS = sorted(
    {
        flag
        for path in PAGES
        for span in re.findall(r"`(--[^`\n]+)`", outside(path.read_text()))
        for flag in re.findall(r"(?<!\S)--([a-z_]+)(?:=(\S+))?(?!\S)", span)
    }
)


def words_of(command):
    """The module and the flags of a command line, capitals filled in but for {x}."""
    words = shlex.split(command[OURS.match(command).end() :])
    flags = [word.partition("=") for word in words]

    def fill(found):
        return CAPITALS.get(found[0], found[0])

    filled = [name + eq + re.sub("[A-Z][A-Z_:]+", fill, value) for name, eq, value in flags]
    return module_of(command), filled


def given_by(words):
    """The flags of a command line by name, those of its preset under its own."""
    given = dict(word.partition("=")[::2] for word in words)
    if "--data_dir" in given and not {"--dataset", "--method", "--flagfile"} & set(given):
        given = {"--preset": "inspect"} | given  # as the command line has it
    preset = f"experiments/presets/{given.get('--preset')}.flags"
    if {"--flagfile", "--preset"} & set(given):
        lines = (ROOT / given.get("--flagfile", preset)).read_text().splitlines()
        given = dict(line.partition("=")[::2] for line in lines if line[:2] == "--") | given
    return given


def small(command):
    """The words of a command, those of SMALL in the place of its own."""
    module, words = words_of(command)
    given = given_by(words)
    first = given.get("--category", "").split(",")[0].replace("all", "")
    first = given["--category"] if "--joint" in words else first
    modes = [f"{module} {name}" for name in ("--methods", "--watch") if name in given]
    smaller = SMALL[next((mode for mode in modes if mode in SMALL), module)]
    smaller = smaller.replace("METHOD", METHODS[given.get("--method", "autoencoder")])
    smaller = smaller.replace("FIRST", first or "weave").split()
    if ":" in given.get("--model", ""):  # a fork's net is small already
        smaller = [word for word in smaller if word != NET]
    smaller += [f"{name}={value}" for name, value in WITHIN.items() if name in given]
    names = {word.partition("=")[0] for word in smaller}
    return module, [*(w for w in words if w.partition("=")[0] not in names), *smaller]


def images(folder):
    """A folder in MVTec AD's layout, with every category that a command names."""
    counts = {"n_train": 4, "n_good": 2, "n_defective_per_kind": 1}
    synthetic.write(folder, ["weave"], 32, 1, 0, **counts)
    for name in (*crops.CATEGORIES, "cookie"):
        shutil.copytree(folder / "weave", folder / name)


@pytest.fixture(scope="module")
def x(tmp_path_factory):
    """The folder in which everything is run."""
    folder = tmp_path_factory.mktemp("docs")
    images(folder / "in")
    shutil.copytree(ROOT / "experiments/presets", folder / "experiments/presets")
    shutil.copy(folder / "in/weave/test/good/000.png", folder / "product.png")
    shutil.copytree(folder / "in/weave/test/good", folder / "camera")
    shutil.copytree(folder / "in/weave/train/good", folder / "good/weave")
    for name, mark in (("my_nets", "fork"), ("my_method", "method")):
        (folder / f"{name}.py").write_text(marked(mark))
    return folder


@pytest.fixture(scope="module")
def answers(x):
    """What went wrong and what was said, by kind and command, block or flag."""
    asked = {("parse", command): words_of(command) for command in PROGRAMS}
    # the blocks show what can be done after these
    first = ("python -m experiments.run", *COMMANDS[ROOT / "docs/deploy.md"])
    asked |= {("run", command): small(command) for command in first if command in RUNS}
    asked |= {("python", source): (source,) for _, source in PYTHON}
    asked |= {("run", command): small(command) for command in RUNS}
    asked |= {("flag", name, value): (name, _plain(value)) for name, value in FLAGS}
    jobs = {}  # several commands are the same when they are small
    for (kind, *_), words in asked.items():
        jobs.setdefault(json.dumps([kind, *words]).replace("{x}", str(x)))
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "docs_runner.py")],
        cwd=x,
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles sooner; no number is looked at
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "XDG_CACHE_HOME": str(x / "cache"),
        },
        input=f"[{','.join(jobs)}]",
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert not done.returncode, done.stderr
    found = dict(zip(jobs, json.loads(done.stdout), strict=True))
    return {
        key: found[json.dumps([key[0], *words]).replace("{x}", str(x))]
        for key, words in asked.items()
    }


def _runs():
    """The programs that are run: of presets of one method, which differ in what is made small, the
    first; flags of all are read and checked."""
    presets = {command: path for path in PRESETS for command in COMMANDS[path]}
    seen, chosen = set(), []
    for command in PROGRAMS:
        module, words = words_of(command)
        # serving/cluster/test_job.py starts Ray
        if "--engine=ray" in words or module == "benchmarks.ray_scoring":
            continue
        if "--write" in words:  # the record that test_benchmark_compilation.py holds calls against
            continue
        what = (module, given_by(words).get("--method", "autoencoder"))
        if command not in presets or what not in seen:
            chosen.append(command)
        if command in presets:
            seen.add(what)
    return chosen


RUNS = _runs()


def _plain(value):
    """A value that stands for any, as FILE or `torch,...`, is none."""
    placeholder = value.isupper() or re.search("[A-Z]{2}|[.]{3}", value)
    return None if not value or placeholder else value


@pytest.mark.parametrize("command", PROGRAMS)
def test_a_command_has_flags_that_are_there_and_fit(answers, command):
    cause, said = answers["parse", command]
    assert not cause, said + cause
    _, words = words_of(command)
    for word in words:
        if word.startswith("--against=") and "..." not in word:
            assert set(word.partition("=")[2].split(",")) <= set(engines.NAMES)
    assert not any(re.search(r"[A-Z]{2}", word.replace("{x}", "")) for word in words), words


@pytest.mark.parametrize("command", RUNS)
def test_a_command_runs(answers, command):
    cause, said = answers["run", command]
    assert not cause, said + cause
    assert said or command == "python -m benchmarks.tables"


@pytest.mark.parametrize("command", OTHERS)
def test_other_lines_hold(command):
    assert command in EVERY
    assert OTHERS[command]()


@pytest.mark.parametrize("page", COMMANDS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_command_is_overlooked(page):
    assert [c for c in COMMANDS[page] if c not in PROGRAMS and c not in OTHERS] == []
    text = joined(page)
    assert {language for language, _ in blocks(text)} <= {"bash", "python", ""}
    for command in sorted(COMMANDS[page], key=len, reverse=True):
        text = text.replace(command, "")
    rest = re.sub(r"<!--.*?-->|```python.*?```", "", text, flags=re.DOTALL)
    assert re.findall(r".*(?:python3? -|pip |git clone|conda |docker ).*", rest) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_what_it_said(path):
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["nbformat"] == 4
    for cell in found["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize(("page", "source"), PYTHON)
def test_a_block_of_python_runs(answers, page, source):
    cause, said = answers["python", source]
    assert not cause, said + cause


@pytest.mark.parametrize(("name", "value"), FLAGS)
def test_a_flag_that_is_named_is_there_and_takes_the_value(answers, name, value):
    cause, _ = answers["flag", name, value]
    assert not cause


def test_the_tables_of_the_benchmarks_are_those_of_their_records(answers, x):
    assert not answers["run", "python -m benchmarks.tables"][0]
    made = (x / "written" / "README.md").read_text()
    assert made == (ROOT / "benchmarks" / "README.md").read_text()


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_opens_with_the_command_that_uses_it(path):
    (command,) = COMMANDS[path]
    if path.stem == "quickstart":  # the one that experiments.run takes by itself
        assert command == "python -m experiments.run"
    else:
        assert f"--flagfile=experiments/presets/{path.name}" in command.split()


def test_every_program_is_named_on_a_page():
    binaries = [
        f"{path.parent.name}.{path.stem}"
        for folder in ("experiments", "benchmarks")
        for path in ROOT.glob(f"{folder}/*.py")
        if "__main__" in path.read_text()
    ]
    named = {words_of(command)[0] for command in PROGRAMS}
    parts = {f"benchmarks.{name}_process" for name in ("methods", "scaling", "scoring")}
    assert set(binaries) - parts <= named


@pytest.mark.parametrize("name", ["fork", "method"])
def test_a_file_of_ones_own_is_short(name):
    assert len(marked(name).splitlines()) <= 30


def test_the_import_order_is_the_one_that_is_held():
    assert f"```\n{ORDER.strip()}\n```\n" in README.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_links_within_the_project_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def cited(text):
    """Every FILE::NAME of a page as (file, name)."""
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_test_that_is_cited_is_there(page):
    text = page.read_text()
    assert text.count("::") == len(cited(text)), "a test cited in another way"
    for file, name in cited(text):
        tree = ast.parse((ROOT / file).read_text())
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name.startswith("test_"), name
        assert name in functions, f"{file}::{name}"
