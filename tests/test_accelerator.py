"""The accelerator's benchmark: what fails, hangs or crashes loses only itself, and the toy runs."""

import json
import math
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks.accelerator import conduct, modes, numbers, page, peaks, plan, stored
from cae_jax import methods
from cae_jax.runs import config
from cae_jax.types import DataError

ROOT = pathlib.Path(__file__).parents[1]
TESTS = str(pathlib.Path(__file__).parent)
# what the machine that a benchmark is carried to need not have
ABSENT = ("tensorflow_datasets", "array_record", "importlib_resources", "filelock", "torch")
UNRULY = """
import os
import time

TOGETHER = 2

def prepare(given, scratch):
    if given == "no":
        raise ValueError("cannot be")
    def measure():
        if given == "crash":
            print("out of luck", flush=True)
            os._exit(3)
        if given == "hang":
            time.sleep(600)
        return {"found": given}
    return measure
"""


def case(given, limit=60):
    return plan.Case(f"the {given}", given, 1, limit)


@pytest.fixture
def fork(tmp_path, monkeypatch):
    """A package of parts for the processes, and a folder for what they find."""
    (tmp_path / "some_parts").mkdir()
    for name in ("first", "second"):
        (tmp_path / "some_parts" / f"{name}.py").write_text(UNRULY)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path)]))
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_a_case_that_crashes_hangs_or_fails_loses_itself_alone(fork, monkeypatch):
    first = [case("good"), case("crash"), case("no"), case("hang", 0.5), case("last")]
    parts = {"first": first, "second": [case("other")]}

    def run(seconds):
        ends = time.monotonic() + seconds
        conduct.run(parts, fork, ends, lambda part, rest: 1 / (1 + len(rest)), "some_parts")
        return {name: json.loads((fork / f"{name}.json").read_text()) for name in parts}

    found = run(400)
    records = {record["case"]: record for record in found["first"]["records"]}
    assert list(records) == [each.name for each in first]
    assert records["the good"]["found"] == "good"
    assert records["the last"]["found"] == "last"
    assert records["the crash"]["failed"].startswith("exit code 3: ")
    assert records["the crash"]["failed"].endswith("out of luck")
    assert records["the no"]["failed"] == "ValueError: cannot be"
    assert records["the hang"]["failed"].startswith("over its limit of ")
    assert found["second"]["records"][0]["found"] == "other"
    assert found["first"]["complete"]
    assert found["second"]["environment"]["platform"] == "cpu"

    def started(*_, **__):
        raise AssertionError("what is there is not measured again")

    with monkeypatch.context() as patched:
        patched.setattr(conduct.subprocess, "Popen", started)
        assert run(400) == found
        # a case that is new is all that is left; without time for it, nothing is started
        parts["second"].append(case("new"))
        assert run(0) == found
    (fork / "first.json").write_text("{")
    with pytest.raises(DataError, match=r"first.json.*no file of this benchmark"):
        run(400)


def test_the_toy_runs_where_other_packages_are_missing(tmp_path):
    (tmp_path / "absent").mkdir()
    for name in ABSENT:
        (tmp_path / "absent" / f"{name}.py").write_text(f"raise ImportError({name!r})")
    command = [sys.executable, "-m", "benchmarks.accelerator", "--toy", "--minutes=6"]
    command += ["--models=small_net:Tiny", f"--output={tmp_path / 'out'}"]
    command += ["--parts=numbers,training,members", "--cases=variation,a step,1 by vmap"]
    path = os.pathsep.join([str(ROOT), TESTS, str(tmp_path / "absent")])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = {p.stem: json.loads(p.read_text()) for p in (tmp_path / "out").glob("*.json")}
    assert all(part["complete"] for part in found.values())
    (apart,) = found["numbers"]["records"]
    assert [row["mode"] for row in apart["modes"]] == [
        *("float32", "float32, all highest", "float32, fitted there")
    ]
    for row in apart["modes"]:  # the device is the CPU here
        assert row["largest_difference"] == row["map_difference"] == row["verdicts_changed"] == 0
    (step,) = found["training"]["records"]
    assert step["ms_per_step"] == pytest.approx(1e3 * step["p50_seconds"] / 2)
    seconds = 3e-3 * step["ms_per_step"] + step["crops_seconds"]
    assert step["seconds_per_200_epochs"] == pytest.approx(200 * seconds)
    (members,) = found["members"]["records"]
    assert members["ms_per_step_of_all"] == pytest.approx(1e3 * members["p50_seconds"] / 2)
    text = (tmp_path / "out" / "tables.md").read_text()
    assert text == page.tables(tmp_path / "out")
    assert text.count("\n### ") == 2
    assert "| variation_model | variation | float32 | 0 | 0 | 0 |" in text


def test_the_plan_has_every_method_once_and_the_important_first():
    found = plan.cases(plan.FULL, ["bergmann", "chow"])
    assert tuple(found) == plan.PARTS
    names = {c.given["flags"]["method"] for c in found["numbers"]}
    assert names == set(methods.names())
    for part in found.values():
        assert len({c.name for c in part}) == len(part)
        assert json.loads(json.dumps([c._asdict() for c in part]))
    others = [c.given["flags"]["method"] for c in (*found["features"], *found["phases"])]
    assert set(others) == names - {"autoencoder"}
    first = [c.name for c in found["inference"]][:10]
    assert (first[0], first[-1]) == ("bergmann, 1 images, float32", "matrix product")
    for part in ("inference", "training", "members", "trained"):
        own = {"stride": 1} if part in ("training", "members") else {}
        for flags in [c.given["flags"] for c in found[part] if "flags" in c.given]:
            config.configure(**flags, **own).resolved()
    shares = [plan.share(name, plan.PARTS[i + 1 :]) for i, name in enumerate(plan.PARTS)]
    left = math.prod(1 - share for share in shares[:-1])
    assert left == pytest.approx(plan.SECONDS[plan.PARTS[-1]] / sum(plan.SECONDS.values()))
    assert shares[-1] == 1


def test_modes_are_the_flags_that_a_method_has():
    found = modes.modes({"method": "autoencoder"})
    assert found == {
        "float32": ({}, None),
        "tf32": ({"precision": "tf32"}, None),
        "bfloat16": ({"precision": "bfloat16"}, None),
        "float32, all highest": ({}, "highest"),
    }
    assert "bfloat16" in modes.modes({"method": "gaussian"})
    bank = {"method": "gaussian", "features": "filter_bank"}
    assert list(modes.modes(bank)) == ["float32", "float32, all highest"]


def test_the_longest_name_that_fits_tells_the_peak():
    assert peaks.data_sheet("NVIDIA H100 80GB HBM3")["tf32"] == 494.7
    assert peaks.data_sheet("NVIDIA H100 PCIe")["tf32"] == 378
    assert peaks.data_sheet("NVIDIA H200")["bfloat16"] == 989.4
    assert peaks.data_sheet("a CPU") == {}


def test_variables_come_back_from_a_file(tmp_path, rng):
    variables = {"params": {"a": {"kernel": rng.random((2, 3))}, "b": np.arange(3)}, "more": {}}
    stored.save(tmp_path / "x.npz", variables, {"fitted there l2": np.float32([1, 2])})
    back, arrays = stored.load(tmp_path / "x.npz")
    np.testing.assert_array_equal(back["params"]["a"]["kernel"], variables["params"]["a"]["kernel"])
    np.testing.assert_array_equal(back["params"]["b"], [0, 1, 2])
    assert {"params"} == set(back)
    assert list(arrays) == ["fitted there l2"]


def test_a_difference_is_relative_and_not_finite_where_a_score_is():
    wanted = np.float32([2, 0, -4])
    assert numbers.largest_difference(np.float32([2, 0, -3]), wanted) == 0.25
    assert numbers.largest_difference(wanted, wanted) == 0
    assert math.isnan(numbers.largest_difference(np.float32([np.nan, 0, -4]), wanted))
