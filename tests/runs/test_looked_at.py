"""A run on a part of its images: what is outside of it is in no score, mask or metric."""

import json
import re

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import cae_jax
from cae_jax.runs import evaluate, job
from cae_jax.runs.config import configure
from cae_jax.serving import export, folder, trained
from cae_jax.serving.export.card import text as card_of
from cae_jax.types import DataError, UsageError

HEIGHT, WIDTH = 32, 48
AT = (12, 30)  # of the defect, 5 pixels a side


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(255 * np.clip(pixels, 0, 1))).save(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("looked"), np.random.default_rng(0)

    def product():
        pixels = 0.5 + 0.02 * rng.standard_normal((HEIGHT, WIDTH))
        pixels[:, :10] = rng.random((HEIGHT, 10))  # a clock, other in every image
        return pixels

    for i in range(9):
        save(root / f"in/part/train/good/{i}.png", product())
    for i in range(3):
        save(root / f"in/part/test/good/{i}.png", product())
        bad, mask = product(), np.zeros((HEIGHT, WIDTH))
        for each, value in ((bad, 0.9), (mask, 1)):
            each[AT[0] : AT[0] + 5, AT[1] : AT[1] + 5] = value
        save(root / f"in/part/test/spot/{i}.png", bad)
        save(root / f"in/part/ground_truth/spot/{i}_mask.png", mask)
    clock = np.zeros((HEIGHT, WIDTH))
    clock[:, :10] = 1
    save(root / "clock.png", clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.setattr(evaluate, "_plot", lambda *_: None)
        job.run(config(root))
        yield root


def config(root, **flags):
    shared = {"method": "variation_model", "dataset": "folder", "data_dir": str(root / "in")}
    shared |= {"image_size": 48, "resize": "pad", "ignore": str(root / "clock.png")}
    shared |= {"category": "part", "image_score": "max", "workdir": str(root / "run")}
    return configure(**(shared | {"save_maps": True} | flags))


def session_of(output):
    file = str(output / "onnx" / "model.onnx")
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


@pytest.fixture
def elsewhere(world):
    """The run, where the mask that its flag names is no more."""
    (world / "clock.png").rename(world / "kept.png")
    yield trained.open_run(world / "run")
    (world / "kept.png").rename(world / "clock.png")


def test_the_clock_changes_no_score(world, elsewhere):
    pixels = np.array(Image.open(world / "in/part/test/good/0.png"))
    other = pixels.copy()
    other[:, :9] = 255 - other[:, :9]
    before, after = elsewhere.detector.score(pixels), elsewhere.detector.score(other)
    assert before.distance == after.distance
    assert not before.defective
    found = elsewhere.detector.score(world / "in/part/test/spot/0.png")
    assert found.defective
    assert found.distance > 3 * before.distance
    assert found.residual.shape == (48, 48)
    assert not found.mask[:, :10].any()


def test_maps_lie_where_the_defects_are(world, elsewhere):
    output = world / "scored"
    folder.score_folder(elsewhere, world / "in/part/test", output, save_maps=True)
    (file,) = (world / "run").rglob("anomaly_maps/part/test/spot/0.tiff")
    for path in (file, output / "anomaly_maps/spot/0.png.tiff"):
        found = np.asarray(Image.open(path))
        assert found.shape == (HEIGHT, WIDTH)
        at = np.unravel_index(found.argmax(), found.shape)
        assert AT[0] <= at[0] < AT[0] + 5
        assert AT[1] <= at[1] < AT[1] + 5
        assert (found[:, :10] == found.min()).all()


def test_an_exported_folder_has_the_mask_with_it(world, elsewhere):
    output = world / "exported"
    export.export(elsewhere, output, ("stablehlo", "onnx"))
    files = sorted((world / "in/part/test").rglob("*.png"))
    for runtime in ("jax", "onnxruntime"):
        detector = cae_jax.load(output, runtime=runtime)
        for file, many in zip(files, detector.score_batch(files), strict=True):
            wanted = elsewhere.detector.score(file)
            for found in (detector.score(file), many):
                assert found.distance == pytest.approx(wanted.distance, rel=1e-5)
                assert found.defective == wanted.defective
                np.testing.assert_array_equal(found.mask, wanted.mask)
    assert str(world) not in (output / "model.json").read_text()  # which may be published
    card = (output / "README.md").read_text()
    assert "by pad to 48 x 48 pixels" in card
    facts = json.loads((output / "model.json").read_text())
    facts["frame"]["resize"] = "none"
    assert ["An image is resized" in text for text in (card, card_of(facts))] == [True, False]
    assert "float32 [n, 48, 48, 2]: from 0 to 1, gray" in card
    assert "and a last channel that is 1 where a pixel counts" in card
    session = session_of(output)
    with pytest.raises(Exception, match="invalid dimensions"):  # the file's own size is no frame
        session.run(["score"], {"image": np.zeros((1, HEIGHT, WIDTH, 2), np.float32)})


def test_a_part_to_ignore_is_the_mask_that_is_white_there(world, elsewhere, tmp_path):
    job.run(config(world, ignore=f"0,0,10,{HEIGHT}", workdir=str(tmp_path / "run")))
    run = trained.open_run(tmp_path / "run")
    export.export(run, tmp_path / "out", ("onnx",))
    facts = json.loads((tmp_path / "out/model.json").read_text())
    assert facts["frame"]["ignore"] == [0, 0, 10, HEIGHT]
    assert "without the part (0, 0, 10, 32)" in (tmp_path / "out/README.md").read_text()
    detectors = (elsewhere.detector, run.detector, cae_jax.load(tmp_path / "out"))
    for file in sorted((world / "in/part/test").rglob("*.png")):
        of_mask, of_part, exported = (detector.score(file) for detector in detectors)
        assert of_part.distance == of_mask.distance
        assert exported.distance == pytest.approx(of_mask.distance, rel=1e-5)
        np.testing.assert_array_equal(of_part.mask, of_mask.mask)
    with pytest.raises(UsageError, match="--format=web: the page knows no --ignore=0,0,10,32"):
        export.export(run, tmp_path / "web", ("web",))


def test_onnx_of_a_part_that_all_counts(world, tmp_path):
    """Cropped, not square, of a part: the graph takes that size, and no channel more."""
    flags = {"resize": "crop", "image_size": (24, 40), "roi": "10,1,37,30", "ignore": ""}
    job.run(config(world, **flags, workdir=str(tmp_path / "run"), save_maps=False))
    run = trained.open_run(tmp_path / "run")
    export.export(run, tmp_path / "out", ("onnx",))
    detector = cae_jax.load(tmp_path / "out")
    for file in sorted((world / "in/part/test").rglob("*.png")):
        wanted, found = run.detector.score(file), detector.score(file)
        assert found.distance == pytest.approx(wanted.distance, rel=1e-5)
        assert found.residual.shape == (24, 40)
    with pytest.raises(DataError, match=r"^the image: --roi=10,1,37,30 .* reaches out of"):
        detector.score(np.zeros((20, 20), np.uint8))
    (shape,) = (each.shape for each in session_of(tmp_path / "out").get_inputs())
    assert shape == [1, 24, 40, 1]


def test_the_same_mask_in_another_file_is_the_same_run(world):
    there, moved = world / "clock.png", world / "moved.bmp"
    flags_txt = world / "run/part/variation_model/seed_0/flags.txt"
    weights = next((world / "run").rglob("checkpoints")).stat().st_mtime_ns
    Image.open(there).save(moved)
    job.run(config(world, ignore=str(moved)))
    assert f"--ignore={moved}" in flags_txt.read_text()
    moved.unlink()  # its copy stays
    job.run(config(world))
    assert f"--ignore={there}" in flags_txt.read_text()
    assert next((world / "run").rglob("checkpoints")).stat().st_mtime_ns == weights
    save(moved, np.eye(HEIGHT, WIDTH))
    with pytest.raises(UsageError, match=r"holds a run with --ignore=.*clock.png, now .*moved"):
        job.run(config(world, ignore=str(moved)))
    with pytest.raises(UsageError, match=r"none\.png: cannot be read"):  # nor is its copy taken
        job.run(config(world, ignore=str(world / "none.png")))


def test_another_mask_is_another_run(world):
    file = world / "clock.png"
    before = file.read_bytes()
    save(file, np.eye(HEIGHT, WIDTH))
    try:
        with pytest.raises(DataError, match="other images"):
            job.run(config(world))
    finally:
        file.write_bytes(before)
    with pytest.raises(UsageError, match="holds a run with --resize=pad, now stretch"):
        job.run(config(world, resize="stretch"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"ignore": "no.png"}, r"--ignore=.*no\.png: cannot be read: No such file"),
        ({"ignore": "", "roi": "1,2,3"}, "--roi=1,2,3: must be x,y,width,height"),
        ({"ignore": "1,2,3,0"}, "--ignore=1,2,3,0: must be x,y,width,height"),
    ],
)
def test_what_is_no_mask_is_said_in_one_line(world, tmp_path, flags, words):
    with pytest.raises(UsageError, match=words):
        job.run(config(world, workdir=str(tmp_path), **flags))


def test_a_mask_of_labels_leaves_nothing_out_which_is_said(world, tmp_path, capsys):
    """Its ones are nearly black."""
    labels = np.zeros((HEIGHT, WIDTH))
    labels[:, :10] = 1 / 255
    save(tmp_path / "labels.png", labels)
    (area,) = config(world, ignore=str(tmp_path / "labels.png")).framed(None).areas
    assert area.counts.all()
    said = "is black (its brightest pixel is 0.4% of white, which begins at half): nothing"
    assert f"{said} is left out" in capsys.readouterr().err
    with pytest.raises(DataError, match=re.escape(f"{said} would count")):
        config(world, ignore="", roi=str(tmp_path / "labels.png")).framed(None)
