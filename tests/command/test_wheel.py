"""The wheel: what is in it, what it asks for, and that its command runs in an empty folder."""

import configparser
import email
import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from command_lines import ENVIRONMENT, ROOT
from packaging.requirements import Requirement

import cae_jax

BUILD = "import sys, setuptools.build_meta as backend; print(backend.build_wheel(sys.argv[1]))"
COPIED = ("cae_jax", "experiments", "benchmarks")
COMMAND = "from cae_jax.command import main; main()"


def tracked(folder, ending):
    return {p.relative_to(ROOT).as_posix(): p.read_bytes() for p in ROOT.glob(f"{folder}/{ending}")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Builds it from a copy, for building writes beside the sources; without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in COPIED:
        shutil.copytree(ROOT / name, source / name, ignore=lambda *_: {"__pycache__", "results"})
    for path in ROOT.iterdir():
        if path.suffix in (".md", ".py", ".toml", ".txt") or path.name == "LICENSE":
            shutil.copy(path, source)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as file:
        yield file


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory):
    """The wheel unpacked, as pip does, beside a project that has an `experiments` of its own."""
    folder = tmp_path_factory.mktemp("site")
    wheel.extractall(folder / "site")
    (folder / "project/experiments").mkdir(parents=True)
    (folder / "project/experiments/__init__.py").write_text("raise RuntimeError('not ours')\n")
    return folder


def cae_jax_(site, *words):
    """Exit code, standard output and standard error of a command line."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *words],
        cwd=site / "project",
        env=ENVIRONMENT | {"PYTHONPATH": str(site / "site"), "XDG_CACHE_HOME": str(site / "cache")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_wheel_holds_the_package_and_nothing_beside_it(wheel):
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    assert tops == {"cae_jax", f"cae_jax-{cae_jax.__version__}.dist-info"}
    # os.walk, not what setuptools was told
    wanted = {
        os.path.relpath(os.path.join(folder, name), ROOT)
        for folder, _, names in os.walk(ROOT / "cae_jax")
        for name in names
        if "__pycache__" not in folder
    }
    presets = tracked("experiments/presets", "*.flags")
    assert len(presets) > 20
    wanted |= {name.replace("experiments/", "cae_jax/") for name in presets}
    assert {n for n in wheel.namelist() if n.startswith("cae_jax/")} == wanted
    for name, content in presets.items():
        assert wheel.read(name.replace("experiments/", "cae_jax/")) == content


def test_the_wheel_has_the_command_the_version_and_the_extras(wheel):
    info = f"cae_jax-{cae_jax.__version__}.dist-info"
    points = configparser.ConfigParser()
    points.read_string(wheel.read(f"{info}/entry_points.txt").decode())
    assert dict(points["console_scripts"]) == {"cae-jax": "cae_jax.command:main"}
    metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert metadata["Version"] == cae_jax.__version__
    files = {path.stem.partition("-")[2] for path in ROOT.glob("requirements-*.txt")}
    extras = files - {"dev"}
    assert set(metadata.get_all("Provides-Extra")) == extras
    asked = [Requirement(line) for line in metadata.get_all("Requires-Dist")]
    for extra in ("", *sorted(extras)):
        file = ROOT / f"requirements{'-' * bool(extra)}{extra}.txt"
        lines = [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
        wanted = {Requirement(line).name for line in lines if line}
        found = {r.name for r in asked if (f'extra == "{extra}"' in str(r)) == bool(extra)}
        assert wanted == (found if extra else {r.name for r in asked if "extra" not in str(r)})


def test_the_command_runs_from_the_wheel_and_finds_its_presets(site):
    code, out, err = cae_jax_(
        site, "run", "--preset=variation_model", "--category=weave", "--dry_run"
    )
    assert code == 0, err
    assert "weave" in out
    assert list((site / "project").iterdir()) == [site / "project/experiments"]
    code, out, err = cae_jax_(site, "--version")
    assert (code, out, err) == (0, f"cae-jax {cae_jax.__version__}\n", "")
