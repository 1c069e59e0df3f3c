"""What the benchmarks count and compare; engines that are not installed are not tested."""

import json
import math
import os
import pathlib
import subprocess
import sys

import flax.linen as nn
import jax
import numpy as np
import pytest

from benchmarks import (
    engines,
    inference,
    layer_calls,
    layers,
    production,
    programs,
    start,
    timing,
    training,
)
from cae_jax import models
from cae_jax.models.layers.table import Row, apply_tables
from cae_jax.runs.config import configure
from cae_jax.types import CaeError, Reconstruction, UsageError

ROOT = pathlib.Path(__file__).parents[1]
SMALL = configure(
    **{"model": "test_benchmarks:Model", "image_size": 40, "patch_size": 16, "stride": 13},
    **{"batch_size": 6, "num_patches": 20},
)
# name, patch size, channels, options: every op, block and way of addressing
TWINS = [
    ("bergmann", 16, 3, {}),
    ("chow", 32, 1, {}),
    ("oh_yun", 16, 3, {}),
    ("oh_yun", 8, 1, {"paper_block": "true"}),
    ("gong", 48, 1, {"items": "50"}),
    ("gong", 16, 3, {"symmetric": "true", "addressing": "cosine", "batch_norm": "true"}),
]


class Model(nn.Module):
    """A fork's model that has tables: little to compile."""

    channels: int = 1
    patch_size: int = 16

    def tables(self):
        pool = Row("Pool", "max_pool", None, 2, 2)
        return {
            "down": (Row("First", "conv", 4, 3, 2), pool, Row("Second", "conv", 5, 1)),
            "up": (Row("Last", "deconv", None, 5, 4, linear=True),),
        }

    @nn.compact
    def __call__(self, x, train=False):
        return Reconstruction(apply_tables(self, x, train), {})


MACS = 8 * 8 * 3 * 3 * 4, 4 * 4 * 4 * 5, 4 * 4 * 5 * 5 * 5  # of the layers above, a patch


def weights(shapes, rng):
    """Variables of these shapes: kernels that keep the variance, biases and variances above 0."""

    def draw(leaf):
        if len(leaf.shape) == 1:
            return rng.uniform(0.1, 1, leaf.shape).astype(np.float32)
        scale = math.prod(leaf.shape[:-1]) ** -0.5
        return rng.normal(0, scale, leaf.shape).astype(np.float32)

    return jax.tree.map(draw, shapes)


@pytest.mark.parametrize(("name", "patch_size", "channels", "options"), TWINS)
def test_twins_equal_their_models(name, patch_size, channels, options, rng):
    torch = pytest.importorskip("torch")
    from benchmarks.engines import twin

    model = models.build(name, channels, patch_size, options)
    patches = rng.random((3, patch_size, patch_size, channels), np.float32)
    variables = weights(jax.eval_shape(model.init, jax.random.key(0), patches), rng)
    wanted = np.asarray(jax.jit(model.apply)(variables, patches).output)
    net = twin.build(model, variables)
    with torch.inference_mode():
        found = net(torch.from_numpy(patches).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    leaves = jax.tree_util.tree_flatten_with_path(variables["params"])[0]
    back = twin.parameters(net)
    assert len(back) == len(leaves)
    for path, leaf in leaves:
        np.testing.assert_array_equal(back[tuple(key.key for key in path)], leaf)


def test_no_twin_and_no_layers_without_tables(tiny_model):
    with pytest.raises(UsageError, match="Tiny has no layer tables"):
        layer_calls.layers(tiny_model, 2, 0)
    pytest.importorskip("torch")
    from benchmarks.engines import twin

    with pytest.raises(UsageError, match="--against: Tiny has no layer tables"):
        twin.build(tiny_model, {})


def test_torch_cuts_merges_and_measures_like_a_loop(rng):
    torch = pytest.importorskip("torch")
    from benchmarks.engines import torch_score

    images, size, p, stride = rng.random((2, 3, 37, 37), np.float32), 37, 16, 7
    score = torch_score.scorer(torch.sin, p, stride, size, torch.device("cpu"))
    found = score(torch.from_numpy(images))
    padded = np.pad(images, ((0, 0), (0, 0), (0, p), (0, p)), "edge")
    total, count, patches = np.zeros_like(padded), np.zeros_like(padded), []
    for i in range(2):
        for r in range(0, size, stride):
            for c in range(0, size, stride):
                patches.append(np.sin(padded[i, :, r : r + p, c : c + p]))
                total[i, :, r : r + p, c : c + p] += patches[-1]
                count[i, :, r : r + p, c : c + p] += 1
    output = (total / np.maximum(count, 1))[:, :, :size, :size]
    maps = np.square(255 * (images - output)).sum(1)
    np.testing.assert_allclose(found.patches, patches, rtol=1e-6)
    np.testing.assert_allclose(found.maps, maps, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(found.distances, maps.sum((1, 2)), rtol=1e-5)


def test_calls_take_turns_and_ratios_are_theirs_over_ours(monkeypatch):
    now, order = [0.0], []
    costs = {timing.OURS: [9, 2, 4, 3], timing.PEAK: [9, 1, 1, 1], "torch": [9, 6, 6, 90]}

    def call(name):
        order.append(name)
        now[0] += costs[name][order.count(name) - 1]

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    seconds = timing.interleaved({name: lambda n=name: call(n) for name in costs}, 3)
    assert order == 4 * list(costs)
    assert seconds == {name: each[1:] for name, each in costs.items()}  # the first warms up
    assert timing.ratios(seconds) == {"torch": 6 / 3}
    assert timing.milliseconds(seconds)["torch"] == {"median": 6000, "p95": pytest.approx(81600)}
    speed = timing.speed(12, seconds)
    assert speed["gflops"] == 4
    assert speed["peak_gflops"] == pytest.approx(2 * 2.048**3)
    assert speed["share_of_peak"] == pytest.approx(4 / (2 * 2.048**3))


def test_an_engine_that_is_missing_is_skipped_by_name(monkeypatch, capsys):
    here = {"torch", "onnx"}
    monkeypatch.setattr(
        engines.importlib.util, "find_spec", lambda name: name if name in here else None
    )
    found = engines.available(["openvino", "torch", "onnxruntime", "torch"])
    assert found == ["torch"]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "skipped openvino: openvino not installed",
        "skipped onnxruntime: onnxruntime not installed",
    ]
    with pytest.raises(UsageError, match="did you mean openvino"):
        engines.available(["openvin"])
    with pytest.raises(UsageError, match="known: torch"):
        engines.available(["openvino"], ["torch"])


@pytest.mark.parametrize(("error", "said"), [(2e-4, "2.0e-04"), (float("nan"), "nan")])
def test_an_engine_that_computes_something_else_is_not_timed(error, said):
    pytest.importorskip("torch")
    from benchmarks.engines import compare

    compare.check("torch", {"map": 1e-4, "distance": 0}, compare.SCORING)
    with pytest.raises(CaeError, match=f"torch does not compute the same map.*{said}.*1e-04"):
        compare.check("torch", {"map": error}, compare.SCORING)
    ours, theirs = np.array([1.0, -4.0, 2.0]), np.array([1.5, -4.0, 1.0])
    assert compare.largest_error(ours, theirs) == 1 / 4


@pytest.fixture(scope="module")
def against():
    return [name for name in engines.NAMES if name != "torch_compile" and engines.available([name])]


def test_inference(against, tmp_path):
    found = inference.measure(production.scoring(SMALL, 2), 2, against, str(tmp_path))
    assert found["patches_per_image"] == 16
    assert found["p50_ms_per_image"] == pytest.approx(16 * found["p50_ms_per_patch"])
    assert found["images_per_second"] == pytest.approx(1e3 / found["p50_ms_per_image"])
    assert found["gflops"] == pytest.approx(2e-9 * sum(MACS) * 16 * found["images_per_second"])
    assert 0 < found["compile_seconds"] < found["first_call_seconds"]
    median = {name: each["median"] for name, each in found["milliseconds"].items()}
    assert median[timing.OURS] == pytest.approx(2 * found["p50_ms_per_image"])
    assert list(found["ratio"]) == list(found["errors"]) == against
    for name, ratio in found["ratio"].items():
        assert ratio == pytest.approx(median[name] / median[timing.OURS])
    assert list(tmp_path.glob("**/*.trace.json.gz"))


def test_training(against):
    ready = production.training(SMALL, 3)
    assert [batch.shape for batch in ready.crops] == [(6, 3)] * 3
    found = training.measure(ready, 2, [name for name in against if name == "torch"])
    assert list(found["ratio"]) == [name for name in against if name == "torch"]
    steps = 3 * found["p50_ms_per_step"] / 1e3
    assert found["seconds_per_epoch"] == pytest.approx(steps + found["crops_ms_per_epoch"] / 1e3)
    assert found["patches_per_second"] == pytest.approx(18 / found["seconds_per_epoch"])
    assert found["seconds_per_200_epochs"] == pytest.approx(200 * found["seconds_per_epoch"])
    macs = 3 * sum(MACS) - MACS[0]  # no gradient of the image
    rate = 2e-6 * macs * 6 / found["p50_ms_per_step"]
    assert found["gflops"] == pytest.approx(rate)


def test_layers_are_those_of_the_tables():
    found = layer_calls.layers(Model(), 3, 0)
    names = ["down/First", "down/Pool", "down/Second", "up/Last"]
    assert [layer.name for layer in found] == names
    assert [layer.macs for layer in found if layer.macs] == list(MACS)
    ways = [{"forward", "input_gradient"}, {"forward", "input_gradient", "kernel_gradient"}]
    assert [set(layer.calls) for layer in found] == [
        {"forward", "kernel_gradient"},
        *(ways[0], ways[1], ways[1]),
    ]
    for layer in found:
        made = {way: call() for way, call in layer.calls.items()}
        assert made["forward"].shape == (3, *layer.output)
        if "input_gradient" in made:
            assert made["input_gradient"][0].shape == (3, *layer.input)
    (gradient,) = made["kernel_gradient"]
    assert gradient["params"]["Last"]["kernel"].shape == (5, 5, 5, 1)


def test_a_slow_layer_is_marked(monkeypatch):
    def seconds(calls, repeats):
        # a chunk of 16 of 32 patches: a layer's share is twice its time over the step's
        took = {name: 1e-3 for name in calls} | {timing.OURS: 0.1, timing.PEAK: 0.1}
        took["down/First", "forward"] = took["down/First", "kernel_gradient"] = 0.002
        return {name: [each] * repeats for name, each in took.items()}

    monkeypatch.setattr(layers.timing, "interleaved", seconds)
    found = layers.measure(SMALL.changed(batch_size=32, num_patches=32), 3)
    first, pool, second, last = found["layers"]
    assert found["chunk_size"] == 16
    assert found["peak_gflops"] == pytest.approx(10 * 2 * 2.048**3)
    assert first["share_of_step"] == pytest.approx(0.08)
    assert pool["share_of_step"] == pytest.approx(0.04)
    assert second["share_of_step"] == pytest.approx(0.06)
    assert first["gflops"]["forward"] == pytest.approx(2e-9 * MACS[0] * 16 / 0.002)
    assert last["gflops_together"] == pytest.approx(2e-9 * MACS[2] * 16 / 0.001)
    assert [row["marked"] for row in found["layers"]] == [True, False, True, True]
    text = layers.table(found, 0.05).splitlines()
    assert [line.endswith("<") for line in text[2:6]] == [True, False, True, True]


def test_the_binaries_run(tmp_path):
    sizes = ["--patch_size=16", "--batch_size=6", "--repeats=1"]
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent)}

    def run(name, *flags):
        command = [sys.executable, "-m", f"benchmarks.{name}", *flags]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)

    file = tmp_path / "found.json"
    flags = [f"--model={SMALL.options.model}", *sizes, "--num_patches=12", "--image_size=32"]
    done = run("training", *flags, f"--json={file}")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(file.read_text())
    assert json.loads(done.stdout) == found
    assert found["command"] == f"python -m benchmarks.training {' '.join(flags)} --json={file}"
    assert found["ratio"] == {}
    done = run("inference", flags[0], "--patch_size=32", "--against=tensorrt")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown engine of --against 'tensorrt'")


def test_the_programs_of_a_run_are_counted(monkeypatch):
    """A run of one program of two shapes, and of another, is heard; what was before is not."""

    def run(config):
        assert config.folder.is_dir()
        for n in (3, 4):
            jax.jit(lambda x: x * 2 + 7.25).lower(np.zeros(n, np.float32)).compile()

    jax.jit(lambda x: x * 3).lower(np.zeros(2, np.float32)).compile()
    monkeypatch.setattr(programs.job, "run", run)
    before = jax.config.values["jax_compilation_cache_dir"]
    found = programs.measure(SMALL)
    assert jax.config.values["jax_compilation_cache_dir"] == before
    (row,) = found["programs"]
    assert (row["name"], row["times"]) == ("<lambda>", 2)
    assert 0 < row["seconds"] < found["seconds"] + 1e-3


def test_what_a_start_is_measured_by():
    seconds, processor = start.once(["-c", "sum(range(10**6))"])
    assert 0 < processor < seconds + 0.5
    found = start.commands(["own=runs/own,runtime=onnxruntime"], "a.png")
    assert found["load and score, own"][2:] == ["runs/own", "a.png", '{"runtime": "onnxruntime"}']
    for given, image in ((["runs/own"], "a.png"), (["own=runs/own"], "")):
        with pytest.raises(UsageError, match="must be NAME=FOLDER, with an --image"):
            start.commands(given, image)
