"""The examples of deploy/: what linters say of them, and that they fit the program."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import yaml
from test_flags import OF_CONFIG, OWN

ROOT = pathlib.Path(__file__).parents[1]
CONTAINER = ROOT / "deploy/Containerfile"
JOBS = sorted((*ROOT.glob("deploy/*.sbatch"), *ROOT.glob("deploy/*.yaml")))
UNITS = sorted((ROOT / "deploy").glob("*.service"))
BESIDE = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])

# The lines of docs/deploy.md that a program of ours is no part of.
_CONTAINED = (
    "--read-only --tmpfs=/tmp --cap-drop=all --security-opt=no-new-privileges --memory=4g "
    "--stop-timeout=30"
)
LINES = (
    "podman build --format=docker -t cae_jax -f deploy/Containerfile .",
    "podman secret create cae_jax_token token.txt",
    f"podman run -d --name=cae_jax {_CONTAINED} --secret=cae_jax_token,uid=10001 "
    "-v ./model:/model:ro -v cae_jax_cache:/cache -p 127.0.0.1:8000:8000 cae_jax",
    f"podman run -d --name=cae_jax_watch {_CONTAINED} --no-healthcheck -v ./model:/model:ro "
    "-v cae_jax_cache:/cache -v ./line:/line cae_jax --model=/model --watch=/line/camera "
    "--output=/line/judged",
    "sudo useradd --system --no-create-home cae_jax",
    "sudo install -m 644 deploy/cae_jax-watch.service /etc/systemd/system/",
    "sudo systemctl enable --now cae_jax-watch",
    "journalctl -f -u cae_jax-watch",
    # asked by docs_runner.py of the service that the page starts
    "curl http://localhost:8000/ready",
    "curl -F image=@product.png http://localhost:8000/predict",
)


def lint(*words):
    """What a linter says."""
    program = shutil.which(words[0], path=BESIDE)
    assert program, f"{words[0]} is not installed: requirements-dev.txt brings it"
    done = subprocess.run(
        [program, *map(str, words[1:])], capture_output=True, text=True, timeout=60, check=False
    )
    return (done.stdout + done.stderr).strip().splitlines()


def units_lint(path):
    """What systemdlint says, but for what it thinks of security: it takes a UMask the wrong way
    round, and asks for a Delegate."""
    said = lint("systemdlint", "--norootfs", "--nodropins", path)
    return [line for line in said if "[Security." not in line]


def settings(path):
    """A unit's settings; one that comes twice has its last value."""
    lines = path.read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))


def test_the_container_file_is_clean(tmp_path):
    assert lint("hadolint", CONTAINER) == []
    bad = tmp_path / "Containerfile"
    bad.write_text(CONTAINER.read_text().replace("python:3.12-slim-trixie", "python"))
    assert "DL3006" in lint("hadolint", bad)[0]


def test_the_container_runs_nothing_as_root_and_says_how_it_is():
    text = CONTAINER.read_text()
    assert re.findall(r"^USER (\S+)$", text, re.M) == ["10001:10001"]
    assert re.findall(r"^STOPSIGNAL (\S+)$", text, re.M) == ["SIGTERM"]
    assert 'ENTRYPOINT ["python", "-m", "experiments.serve"]' in text
    (check,) = re.findall(r"HEALTHCHECK .*?CMD (\[.*?\])$", text, re.M | re.S)
    assert "http://127.0.0.1:8000/health" in check


def test_there_is_a_unit_of_each():
    assert [path.name for path in UNITS] == ["cae_jax-watch.service", "cae_jax.service"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_is_clean(path, tmp_path):
    assert units_lint(path) == []
    bad = tmp_path / "bad.service"
    bad.write_text(path.read_text().replace("NoNewPrivileges", "NoNewPrivilege"))
    assert "NoNewPrivilege is not supported" in units_lint(bad)[0]
    if shutil.which("systemd-analyze"):  # systemd's own word, which asks for the program
        there = tmp_path / path.name
        program = shlex.split(settings(path)["ExecStart"])[0]
        there.write_text(path.read_text().replace(program, sys.executable))
        assert lint("systemd-analyze", "verify", there) == []


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_may_little(path):
    wanted = {
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "CapabilityBoundingSet": "",
        "KillSignal": "SIGTERM",
        "TimeoutStopSec": "30",
        "MemoryMax": "4G",
        "User": "cae_jax",
    }
    assert settings(path).items() >= wanted.items()


def test_the_watcher_may_write_where_it_has_to():
    found = settings(ROOT / "deploy/cae_jax-watch.service")
    words = shlex.split(found["ExecStart"])
    given = dict(word.split("=") for word in words if word.startswith("--"))
    assert found["ReadWritePaths"].split() == [given["--watch"], given["--output"]]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_job_of_a_cluster_says_flags_that_there_are(path):
    text = path.read_text()
    command, flags = re.search(r"python -m experiments\.(\w+)(.*)", text, re.DOTALL).groups()
    names = re.findall(r"(?<![\w-])--(\w+)=", flags.split("shutdownAfterJobFinishes")[0])
    assert {"workdir"} < set(names) or path.name == "train.sbatch"
    assert set(names) <= {*OF_CONFIG, *OWN[command]}
    if path.suffix == ".sbatch":
        assert lint("bash", "-n", path) == []
        assert "#SBATCH --nodes=" in text
    else:
        kinds = [each["kind"] for each in yaml.safe_load_all(text)]
        assert kinds == {"score.yaml": ["RayJob"], "train.yaml": ["Service", "Job"]}[path.name]
    assert path.name in (ROOT / "docs/scaling.md").read_text()
