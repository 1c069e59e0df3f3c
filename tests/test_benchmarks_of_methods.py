"""Benchmarks of methods that are no autoencoder: a fork's, by dotted names; and of precisions."""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import (
    fit,
    inference,
    learning,
    method_calls,
    methods,
    precision,
    production,
    table_rows,
    training,
)
from cae_jax.runs.config import configure
from cae_jax.types import CaeError, Split, UsageError

ROOT = pathlib.Path(__file__).parents[1]
SMALL = configure(model="small_net:Tiny", image_size=40, patch_size=16, stride=13)
ONE_PASS = """
import dataclasses
import jax.numpy as jnp
from cae_jax.options import flag
from cae_jax.types import Evidence, Fit, Method

@dataclasses.dataclass(frozen=True)
class Options:
    power: float = flag(2.0, "of the difference", 1)

def make(options, side, channels):
    def inspect(variables, images):
        apart = jnp.abs(images - variables["mean"]) ** options.power
        return Evidence({"apart": apart.sum(-1)}, {"apart": apart.max((1, 2, 3))})

    return Method(Fit(lambda key, images: {"mean": images.mean(0)}), inspect, ("apart",))
"""
BY_STEPS = """
import dataclasses
import jax.numpy as jnp
from cae_jax.scoring import reconstruction
from cae_jax.scoring.reconstruction import Windows
from cae_jax.training.schedule import Training
from cae_jax.types import Method, Reconstruction, State, Steps

@dataclasses.dataclass(frozen=True)
class Options(Training, Windows):
    pass

def make(options, side, channels):
    def init(key):
        return State(jnp.zeros((), jnp.int32), key, {"gray": jnp.float32(0.5)}, ())

    def reconstruct(variables, patches):
        made = jnp.full_like(patches, variables["gray"])
        return Reconstruction(made, {"score": patches.max((1, 2, 3))})

    learn = Steps(init, lambda state, crops: (state, {}), lambda v, crops: {}, options.patch_size)
    own = {"brightest": lambda x, y: x.sum(-1)}
    inspect = reconstruction.by_patches(reconstruct, options, own=own)
    return Method(learn, inspect, ("brightest", "l2"))
"""
OF_PATCHES = {"patches_per_image", "p50_ms_per_patch", "p95_ms_per_patch", "p99_ms_per_patch"}
OF_NETWORK = {"gflops", "peak_gflops", "share_of_peak"}


@pytest.fixture
def fork(tmp_path, monkeypatch):
    """Two methods of a fork's, by their dotted names."""
    (tmp_path / "a_fork").mkdir()
    for name, text in {"one_pass": ONE_PASS, "by_steps": BY_STEPS}.items():
        (tmp_path / "a_fork" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "a_fork"]:
        del sys.modules[name]


def test_inference_of_any_method(fork):
    def found(method, **flags):
        ready = production.scoring(configure(method=f"a_fork.{method}", image_size=40, **flags), 2)
        return ready, inference.measure(ready, 2, [])

    ready, one_pass = found("one_pass", power=1.0)
    assert not (OF_PATCHES | OF_NETWORK | {"around_the_network_share"}) & set(one_pass)
    assert (one_pass["method"], one_pass["model"]) == ("a_fork.one_pass", "a_fork.one_pass")
    assert one_pass["images_per_second"] == pytest.approx(1e3 / one_pass["p50_ms_per_image"])
    (row,) = table_rows.inference(one_pass)
    times = ["p50, ms an image", "p95, ms an image", "images/s"]
    assert list(row) == ["model", "instructions", "images", *times]
    assert row["instructions"] == "all"
    told = {**one_pass, "environment": {"XLA_FLAGS": "--xla_cpu_max_isa=AVX2"}}
    assert table_rows.inference(told)[0]["instructions"] == "AVX2"
    apart = np.abs(ready.images - np.asarray(ready.variables["mean"])).max((1, 2, 3))
    np.testing.assert_allclose(ready.scores.distances["apart"], apart, rtol=1e-5)

    sizes = {"patch_size": 16, "stride": 13}
    _, by_steps = found("by_steps", **sizes)
    assert set(by_steps) & (OF_PATCHES | OF_NETWORK) == OF_PATCHES
    assert by_steps["patches_per_image"] == 16
    assert "around_the_network_share" not in by_steps  # by a distance of the method's own
    _, by_steps = found("by_steps", distance="l2", **sizes)
    assert 0 < by_steps["around_the_network_share"] < math.inf


def test_fit_of_a_method_that_learns_in_one_pass(fork):
    ready = production.fitting(configure(method="a_fork.one_pass", image_size=40), 3)
    found = fit.measure(ready, 2)
    images = np.random.default_rng(0).random((3, 40, 40, 1), np.float32)
    np.testing.assert_allclose(ready.variables["mean"], images.mean(0), rtol=1e-6)
    assert found["learned_mb"] == 40 * 40 * 4 / 1e6
    assert found["images_per_second"] == pytest.approx(3 / found["p50_seconds"])
    together = found["compile_seconds"] + found["p50_seconds"]
    assert found["first_call_seconds"] == pytest.approx(together)
    (row,) = table_rows.fit(found)
    assert (row["method"], row["images"], row["side"]) == ("a_fork.one_pass", 3, 40)
    with pytest.raises(UsageError, match="by_steps: learns by steps"):
        production.fitting(configure(method="a_fork.by_steps", image_size=40, patch_size=16), 3)


def test_a_training_step_that_is_timed_was_compiled_before(caplog):
    ready = production.training(SMALL.changed(batch_size=6, num_patches=18), 3)
    with jax.log_compiles():
        ready.call()
    assert not [said for said in caplog.messages if "XLA compilation" in said]


def test_training_of_a_method_that_learns_by_steps(fork):
    sizes = {"patch_size": 16, "batch_size": 6, "num_patches": 18}
    ready = production.training(configure(method="a_fork.by_steps", image_size=40, **sizes), 3)
    assert math.isnan(ready.loss)  # it tells none
    found = training.measure(ready, 2, [])
    assert (found["method"], found["model"]) == ("a_fork.by_steps", "a_fork.by_steps")
    assert not OF_NETWORK & set(found)
    steps = 3 * found["p50_ms_per_step"] / 1e3
    assert found["seconds_per_epoch"] == pytest.approx(steps + found["crops_ms_per_epoch"] / 1e3)
    (row,) = table_rows.training(found)
    assert "share of peak" not in row
    with pytest.raises(UsageError, match="one_pass: learns in one pass"):
        production.training(configure(method="a_fork.one_pass", image_size=40), 3)


def test_other_engines_run_networks_by_l2_alone(fork):
    pytest.importorskip("torch")
    from benchmarks.engines import compare

    ready = production.scoring(SMALL.changed(distance="ssim"), 1)
    with pytest.raises(UsageError, match="l2 alone, not --distance=ssim"):
        compare.scoring(["torch"], ready)
    flags = {"image_size": 40, "patch_size": 16, "stride": 13, "distance": "l2"}
    ready = production.scoring(configure(method="a_fork.by_steps", **flags), 1)
    with pytest.raises(UsageError, match=r"--method=a_fork.by_steps"):
        compare.scoring(["torch"], ready)


def test_a_record_of_a_method_of_each_kind():
    settings = method_calls.settings_of("variation_model", 32)
    found = method_calls.measure(settings, 3, 1)
    assert found["learned_mb"] == 2 * 32 * 32 * 4 / 1e6  # its two references
    assert [one["batch_size"] for one in found["scoring"]] == [1, 8]
    (row,) = table_rows.methods(found | {"load": [1.0, 2.25]})
    assert (row["images or crops"], row["ms a step"], row["load"]) == (3, "", "1.0 to 2.2")
    found = method_calls.measure(SMALL.changed(batch_size=6, num_patches=12).resolved(), 3, 1)
    (row,) = table_rows.methods(found | {"load": [1.0, 2.0]})
    shown = (row["features or model"], row["images or crops"], row["s a fit"])
    assert shown == (SMALL.label, 6, "")
    clock, processor = (float(each) for each in row["ms a step"].split(" / "))
    assert clock == pytest.approx(found["step_ms"], rel=0.01)
    assert processor == pytest.approx(found["step_processor_ms"], rel=0.01)


def test_other_engines_score_by_the_graph_of_any_method(fork, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    from benchmarks.engines import exported

    settings = configure(method="a_fork.one_pass", image_size=40).resolved()
    ready = production.scoring(settings, 2)

    def broken(model):
        raise RuntimeError("no such operator")

    def wrong(model):
        right = known["onnxruntime"](model)
        return lambda images: [2 * found for found in right(images)]

    known = dict(exported._RUNS)
    monkeypatch.setattr(exported, "_RUNS", known | {"openvino": broken, "torch": wrong})
    calls, errors = exported.scoring(["openvino", "onnxruntime", "torch"], ready)
    assert list(calls) == list(errors) == ["onnxruntime"]
    squares = np.square(ready.images - np.asarray(ready.variables["mean"]))
    score, found = calls["onnxruntime"]()
    np.testing.assert_allclose(score, squares.max((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found, np.asarray(ready.scores.residuals["apart"]), rtol=1e-5)
    assert set(errors["onnxruntime"]) == {"score", "map"}
    assert max(errors["onnxruntime"].values()) < 1e-5
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "skipped openvino: no such operator"
    assert said[1].startswith("skipped torch: off by {'score': 1.0, 'map': 1.0")


def test_a_row_beside_other_engines():
    pytest.importorskip("onnxruntime")
    settings = method_calls.settings_of("variation_model", 32)
    found = method_calls.measure(settings, 3, 2, ["onnxruntime"])
    (row,) = table_rows.methods_beside(found)
    for one in found["scoring"]:
        n, theirs = one["batch_size"], one["their_ms_per_image"]["onnxruntime"]
        assert float(row[f"ours, ms an image of {n}"]) == pytest.approx(
            one["ms_per_image"], rel=0.01
        )
        assert row[f"onnxruntime / ours, {n}"] == pytest.approx(theirs / one["ms_per_image"])
    assert float(row["largest difference"]) < 1e-5
    given = {"image_size": 32, "images": 3, "repeats": 2}
    assert methods.has_all(found, given, ["onnxruntime"])
    assert methods.has_all(found, given, [])
    assert not methods.has_all(found, given, ["onnxruntime", "openvino"])
    assert not methods.has_all(found, given | {"images": 4}, [])
    assert not table_rows.methods_beside(method_calls.measure(settings, 3, 1))


@pytest.mark.parametrize("method", ["variation_model", "gmm_texture", "feature_autoencoder"])
def test_other_libraries_learn_the_same(method):
    from benchmarks.engines import learners

    for package in learners.NEEDED[method]:
        pytest.importorskip(package)
    found = learning.measure(method, 32, 4, 1)
    assert found["apart"] < 1e-4
    (row,) = table_rows.learning(found)
    assert (row["method"], row["beside"]) == (method, found["engine"])
    assert float(row["theirs, ms"]) / float(row["ours, ms"]) == pytest.approx(
        row["theirs / ours"], rel=0.02
    )


def test_what_another_library_learns_otherwise_is_not_timed(monkeypatch):
    from benchmarks.engines import graphs, learners

    def never():
        raise AssertionError("it is timed")

    other = learners.Pair("a fit", "numpy", never, never, 0.5, "means")
    monkeypatch.setitem(learners.PAIRS, "variation_model", lambda settings, n: other)
    with pytest.raises(CaeError, match=r"variation_model: numpy's means are off by 5.0e-01"):
        learning.measure("variation_model", 32, 4, 1)
    wanted = np.float32([1, -4])
    assert graphs.apart(wanted, np.float32([2, -4])) == 0.25
    with pytest.raises(ValueError, match=r"ours is \(2,\), theirs \(1,\)"):
        graphs.apart(wanted, wanted[:1])


def test_of_a_method_the_presets_flags_at_the_size_asked_for():
    s = method_calls.settings_of("anogan", 64)
    assert (s.image_size, s.options.width, s.options.latent) == (64, 16, 32)
    s = method_calls.settings_of("f_anogan", 64)
    assert (s.image_size, s.options.width, s.options.patch_size) == (64, 8, 16)
    assert method_calls.settings_of("feature_pca", 64).options.features in ("lite0", "filter_bank")


def test_a_method_with_a_record_is_not_measured_again(tmp_path):
    file = tmp_path / "found.json"
    kept = {"method": "gaussian", "image_size": 32, "images": 4, "repeats": 1, "mark": "kept"}
    file.write_text(json.dumps([kept]))
    flags = ["--image_size=32", "--images=4", "--repeats=1", f"--json={file}"]
    command = [sys.executable, "-m", "benchmarks.methods", "--methods=gaussian", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(file.read_text()) == [kept]


def test_precision_counts_drift_and_verdicts(rng):
    def images(n):
        return rng.random((n, 40, 40, 1), np.float32)

    c = SMALL.resolved()
    names = [f.name for f in dataclasses.fields(Split)]
    given = dict.fromkeys(names, ()) | {"validation": images(3), "test": images(4)}
    split = Split(**given | {"kinds": ("good", "good", "hole", "hole")})
    found = precision.measure(c, split, production.untrained(c))
    rows = {row["precision"]: row for row in found["modes"]}
    assert list(rows) == ["float64", "float32", "tf32", "bfloat16"]
    assert rows["float64"]["largest_drift"] == rows["float64"]["verdicts_changed"] == 0
    assert 0 < rows["float32"]["largest_drift"] < 1e-5 < rows["bfloat16"]["largest_drift"] < 0.1
    none = dataclasses.replace(split, validation=images(0))
    found = precision.measure(c, none, production.untrained(c))  # judged by the good test images
    assert [row["images"] for row in found["modes"]] == 4 * [4]


def test_the_binary_has_the_flags_of_the_method(fork, tmp_path):
    def run(*flags, name="inference"):
        program = [sys.executable, "-m", f"benchmarks.{name}"]
        command = [*program, "--method=a_fork.one_pass", *flags]
        environment = {**os.environ, "PYTHONPATH": str(fork)}
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)

    file = tmp_path / "found.json"
    flags = ["--image_size=32", "--power=1.5", "--repeats=1", "--batch_size=1,2"]
    done = run(*flags, f"--json={file}")
    assert done.returncode == 0, done.stderr
    assert [found["batch_size"] for found in json.loads(file.read_text())] == [1, 2]
    done = run("--images=2", "--image_size=32", "--repeats=1", f"--json={file}", name="fit")
    assert done.returncode == 0, done.stderr
    assert [found["images"] for found in json.loads(file.read_text())] == [2]
    done = run("--patch_size=16")
    assert done.returncode == 2
    assert "--patch_size: a flag of --method=anogan or autoencoder" in done.stderr
