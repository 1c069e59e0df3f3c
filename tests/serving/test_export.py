"""A run as a folder: it says what the run says, and nothing of the folder can be changed unseen."""

import dataclasses
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from command_lines import ROOT
from PIL import Image

import cae_jax
from cae_jax.data import images
from cae_jax.data.frame import Frame
from cae_jax.runs import job
from cae_jax.serving import detector, exported, trained
from cae_jax.serving.export import check, export
from cae_jax.types import CaeError, DataError, UsageError

RUNTIMES = ("jax", "onnxruntime")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run, its exported folder in all formats but the page, and how that was checked."""
    root = tmp_path_factory.mktemp("export")
    sizes = {"n_good": 4, "n_defective_per_kind": 2}
    with small_runs.images_in(root, "tablet", **sizes):
        job.run(small_runs.config_of(root, validation_fraction=0.3, opening=3))
        rows = export(
            trained.open_run(root / "run", percent=1), root / "out", ["stablehlo", "onnx"]
        )
        yield root, rows


@pytest.fixture(scope="module")
def run(world):
    return cae_jax.load(world[0] / "run", percent=1)


@pytest.fixture(scope="module", params=RUNTIMES)
def loaded(world, request):
    return cae_jax.load(world[0] / "out", runtime=request.param)


def test_it_says_what_the_run_says(world, run, loaded):
    files = sorted((world[0] / "in" / "tablet" / "test").rglob("*.png"))
    wanted = [run.score(file) for file in files]
    for found in ([loaded.score(file) for file in files], loaded.score_batch(iter(files))):
        for one, other in zip(found, wanted, strict=True):
            assert one.distance == pytest.approx(other.distance, rel=1e-5)
            assert one.p_value == other.p_value
            assert one.defective == other.defective
            assert one.threshold == other.threshold
            np.testing.assert_allclose(one.residual, other.residual, rtol=1e-4, atol=1e-4)
            np.testing.assert_array_equal(one.mask, other.mask)
    assert {each.defective for each in wanted} == {True, False}
    assert any(each.mask.any() for each in wanted)
    assert loaded.model.scale == run.model.scale
    assert (loaded.model.version, run.model.version) != ("", "")


def test_every_form_was_checked_on_odd_sizes_and_modes(world):
    _, rows = world
    forms = {row.form for row in rows}
    assert {
        f"{form}, {how}"
        for form in ("stablehlo in jax", "onnx in onnxruntime")
        for how in ("one", "batch")
    } < forms
    assert "stablehlo, resized inside" in forms
    assert max(row.relative for row in rows) < check.RELATIVE
    assert {row.defective for row in rows} == {True, False}
    likes = " ".join(row.sample for row in rows)
    for mode in ("RGB,", "RGBA", "I;16", "P,", "L,"):
        assert f"({mode}" in likes
    assert re.search(r"\d*[13579] x \d*[13579]\)", likes)


def test_another_score_is_no_export(world, tmp_path, monkeypatch):
    root, rows = world
    worse = [row._replace(score=row.score * (1 + 3e-5)) for row in rows[:1]]
    with pytest.raises(CaeError, match=r"not exported: stablehlo in jax, one gives .* apart"):
        check.check(worse)
    with pytest.raises(CaeError, match="verdict another"):
        check.check([rows[0]._replace(same=False)])
    monkeypatch.setattr(check, "check", lambda rows: check.__dict__["no such thing"])
    with pytest.raises(KeyError):
        export(trained.open_run(root / "run"), tmp_path / "out", ["onnx"])
    assert list(tmp_path.iterdir()) == []


def test_a_card_may_be_written_into_which_is_said(world, tmp_path, capsys):
    copy = shutil.copytree(world[0] / "out", tmp_path / "copy")
    wanted = cae_jax.load(copy)
    assert "README" not in capsys.readouterr().err
    (copy / "README.md").write_text("Camera 3, since May.")
    again = cae_jax.load(copy)
    assert (again.threshold, again.model.version) == (wanted.threshold, wanted.model.version)
    assert "README.md: was altered since it was exported" in capsys.readouterr().err
    (copy / "README.md").unlink()
    cae_jax.load(copy)
    assert "README.md: cannot be read" in capsys.readouterr().err


def test_what_was_altered_is_refused_by_name(world, tmp_path):
    whole = world[0] / "out"
    files = [path for path in sorted(whole.rglob("*")) if path.is_file()]
    files.remove(whole / "README.md")
    assert len(files) > 5
    for path in files:
        name = path.relative_to(whole)
        copy = shutil.copytree(whole, tmp_path / "copy")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(DataError, match=re.escape(str(copy))) as caught:
            cae_jax.load(copy)
        if path.name != exported.SUMS:
            assert f"{copy / name}: was altered" in str(caught.value)
            (copy / name).unlink()
            with pytest.raises(DataError, match=re.escape(f"{copy / name}: cannot be read")):
                cae_jax.load(copy)
        shutil.rmtree(copy)


@pytest.mark.parametrize("form", ["stablehlo/batch.bin", "onnx/model.onnx", "onnx/new.onnx"])
def test_what_is_not_listed_is_refused_by_name(world, tmp_path, form):
    copy = shutil.copytree(world[0] / "out", tmp_path / "copy")
    lines = (copy / exported.SUMS).read_text().splitlines(keepends=True)
    (copy / exported.SUMS).write_text("".join(line for line in lines if form not in line))
    (copy / form).write_bytes(b"another model")
    with pytest.raises(DataError, match=f"SHA256SUMS: does not list {form}"):
        cae_jax.load(copy)


def test_sums_are_those_of_sha256sum(world):
    done = subprocess.run(
        ["sha256sum", "-c", "--quiet", exported.SUMS], cwd=world[0] / "out", check=False
    )
    assert done.returncode == 0


def test_asked_for_otherwise(world):
    out = world[0] / "out"
    assert cae_jax.load(out).threshold == cae_jax.load(world[0] / "run", percent=1).threshold
    for asked in ({"percent": 100}, {"false_alarms": 0.3}):
        wanted = cae_jax.load(world[0] / "run", **asked).threshold
        assert cae_jax.load(out, **asked).threshold == wanted
        assert wanted != cae_jax.load(out).threshold
    with pytest.raises(UsageError, match=r"take one of them"):
        cae_jax.load(out, percent=1, false_alarms=0.4)
    with pytest.raises(UsageError, match=r"out: an exported folder is one model; category= is of"):
        cae_jax.load(out, category="tablet")
    with pytest.raises(UsageError, match=r"unknown runtime 'torch': known: jax, onnxruntime"):
        cae_jax.load(out, runtime="torch")


def test_a_rate_that_cannot_be_promised_is_said(world, capsys):
    loaded = [cae_jax.load(world[0] / name, false_alarms=0.01) for name in ("run", "out")]
    assert loaded[0].threshold == loaded[1].threshold
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0] == said[1]
    assert "no finite threshold can promise 1 %, which needs 99" in said[0]


def test_only_what_is_there_is_run(world, tmp_path):
    root, _ = world
    export(trained.open_run(root / "run", false_alarms=0.3), tmp_path / "out", ["stablehlo"])
    found = cae_jax.load(tmp_path / "out")
    assert found.model.runtime == "jax"
    assert found.threshold.rate == 0.3
    with pytest.raises(UsageError, match=r"runtime='onnxruntime': .* has no onnx, only stablehlo"):
        cae_jax.load(tmp_path / "out", runtime="onnxruntime")
    opened = trained.open_run(root / "run")
    with pytest.raises(UsageError, match=r"out: is there already; --overwrite"):
        export(opened, tmp_path / "out", ["stablehlo"])
    (tmp_path / "mine").mkdir()
    with pytest.raises(UsageError, match=r"mine: is there already; another folder"):
        export(opened, tmp_path / "mine", ["stablehlo"], overwrite=True)
    with pytest.raises(UsageError, match=r"unknown --format 'tflite'"):
        export(opened, tmp_path / "new", ["tflite"])
    before = found.model.version
    export(opened, tmp_path / "out", ["stablehlo"], overwrite=True)
    assert (version := cae_jax.load(tmp_path / "out").model.version) != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]
    (tmp_path / "link").symlink_to("out")  # what it leads to is replaced
    export(trained.open_run(root / "run", percent=1), tmp_path / "link", ["stablehlo"], True)
    assert cae_jax.load(tmp_path / "out").model.version != version
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "mine", "out"]
    assert (tmp_path / "link").is_symlink()


ALONE = """
import sys
import cae_jax
found = cae_jax.load(sys.argv[1], runtime=sys.argv[2]).score(sys.argv[3])
named = ("flax", "optax", "orbax", "cae_jax.models", "cae_jax.methods", "cae_jax.runs", "jax")
print(found.distance, *(name for name in named if name in sys.modules))
"""


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_it_needs_no_training_code(world, run, runtime):
    file = next((world[0] / "in" / "tablet" / "test").rglob("*.png"))
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(world[0] / "out"), runtime, str(file)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    distance, *loaded = done.stdout.split()
    assert float(distance) == pytest.approx(run.score(file).distance, rel=1e-5)
    assert loaded == (["jax"] if runtime == "jax" else [])


class Boxed:
    """An array that gives itself away by DLPack alone."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_whatever_holds_an_image(world, loaded, rng):
    file = next((world[0] / "in" / "tablet" / "test").rglob("*.png"))
    wanted = loaded.score(file).distance
    image = Image.open(file)
    array = np.asarray(image)
    for same in (
        *(str(file), file.read_bytes(), io.BytesIO(file.read_bytes()), image, array),
        *(bytearray(file.read_bytes()), memoryview(file.read_bytes())),
        *(image.convert("RGBA"), jnp.asarray(array), Boxed(array.copy())),
    ):
        assert loaded.score(same).distance == wanted
    color = rng.integers(0, 256, (33, 47, 3), np.uint8)
    turned = np.ascontiguousarray(color[..., ::-1])
    assert loaded.score(turned, bgr=True).distance == loaded.score(color).distance
    assert loaded.score(turned).distance != loaded.score(color).distance
    for bad, words in (
        ("no such file.png", "no such file.png"),
        (b"no image", "<bytes>"),
        (object(), "not object"),
        (np.zeros((4, 4, 5), np.uint8), r"\[4, 4, 5\]"),
    ):
        with pytest.raises(DataError, match=words):
            loaded.score(bad)
    assert loaded.score_batch([]) == []


def test_pixels_of_a_pillow_image_are_those_of_its_file(rng):
    for mode, shape in (("L", (9, 14)), ("RGB", (9, 14, 3)), ("RGBA", (9, 14, 4))):
        image = Image.fromarray(rng.integers(0, 256, shape, np.uint8), mode=None)
        assert image.mode == mode
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        for channels in (1, 3):
            found = images.from_any(image, Frame((7, 5), channels))
            np.testing.assert_array_equal(found, images.decode(buffer, Frame((7, 5), channels)))


def test_it_is_pickled_and_belongs_to_its_process(world, loaded):
    file = next((world[0] / "in" / "tablet" / "test").rglob("*.png"))
    again = pickle.loads(pickle.dumps(loaded))
    assert {loaded: 1, again: 2}[loaded] == 1  # a key, by identity
    assert repr(again) == repr(loaded)
    assert len(repr(loaded).splitlines()) == 1
    assert loaded.model.title in repr(loaded)
    assert again.model == loaded.model
    assert again.score(file).distance == loaded.score(file).distance
    elsewhere = dataclasses.replace(loaded, process=os.getpid() + 1)
    with pytest.raises(CaeError, match=r"forked from it.*call cae_jax.load after the fork"):
        elsewhere.score(file)


def test_what_a_fork_is_sent_and_cannot_load_says_so_when_it_is_used(loaded, monkeypatch):
    """A pool would wait for ever for a worker that dies while it unpickles."""
    sent = pickle.dumps(loaded)
    monkeypatch.setattr(detector, "_jax_of", [os.getpid() + 1])
    got = pickle.loads(sent)
    if loaded.model.runtime == "jax":
        with pytest.raises(UsageError, match="does not run in its fork"):
            got.score(np.zeros((8, 8)))
    else:
        assert got.model == loaded.model


def test_it_is_pickled_by_its_whole_path(world, monkeypatch):
    monkeypatch.chdir(world[0])
    pickled = [pickle.dumps(cae_jax.load(name)) for name in ("run", "out")]
    monkeypatch.chdir("/")
    assert len({pickle.loads(each).model.title for each in pickled}) == 1


FORKED = """
import os, pickle, sys
import cae_jax
pickled = pickle.dumps(cae_jax.load(sys.argv[1], runtime=sys.argv[2]))
if os.fork() == 0:
    try:
        cae_jax.load(sys.argv[1], runtime="onnxruntime").warm_up()
        cae_jax.load(sys.argv[1], runtime="jax").warm_up()
        print("runs", end="", flush=True)
        pickle.loads(pickled).warm_up()
    except cae_jax.types.UsageError as error:
        print(error, end="", flush=True)
    finally:
        os._exit(0)
os.wait()
"""


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_jax_does_not_wait_for_ever_in_a_fork(world, runtime):
    done = subprocess.run(
        [sys.executable, "-c", FORKED, str(world[0] / "out"), runtime],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert (done.stdout == "runs") == (runtime == "onnxruntime")
    assert ("does not run in its fork" in done.stdout) == (runtime == "jax")


def test_batches_have_two_shapes(loaded, rng):
    shapes = []

    def call(pixels):
        shapes.append(len(pixels))
        return loaded.call(pixels)

    assert loaded.many == 1  # its patches go in chunks, from image to image
    counted = dataclasses.replace(loaded, call=call, many=detector.MANY)
    pixels = rng.random((23, *loaded.pixels(np.zeros((8, 8))).shape), np.float32)
    found = [each.distance for each in counted.verdicts(pixels, ["?"] * 23)]
    assert shapes == [8, 8, 8]
    alone = [counted.verdicts(each[None], ["?"])[0].distance for each in pixels]
    np.testing.assert_allclose(found, alone, rtol=1e-5)
    shapes.clear()
    counted.verdicts(pixels[:12], ["?"] * 12)
    assert shapes == [8, 1, 1, 1, 1]
    shapes.clear()
    dataclasses.replace(counted, many=1).verdicts(pixels[:3], ["?"] * 3)
    assert shapes == [1, 1, 1]


def test_the_card_says_what_it_is_of(world):
    out = world[0] / "out"
    card, facts = (out / "README.md").read_text(), json.loads((out / "model.json").read_text())
    assert facts["metrics"]["dataset"] == "folder"
    for words in (
        "small_net.Tiny",
        f"unseen good images that thresholds and p-values go by: {facts['threshold_of']['n']}",
        "six months",
        f"{facts['metrics']['image_auroc']:.3f}",
        "never below 1/4 = 0.25",
    ):
        assert words in card
    everything = " ".join(path.read_text() for path in (out / "model.json", out / "README.md"))
    assert str(world[0]) not in everything
    code = card.split("```python\n")[1].split("```")[0]
    found = {}
    here = os.getcwd()
    os.chdir(out)
    try:
        exec(code, found)
    finally:
        os.chdir(here)
    assert found["score"][0] == pytest.approx(facts["sample"]["score"], rel=1e-5)
    assert bool(found["defective"][0]) == facts["sample"]["defective"]
