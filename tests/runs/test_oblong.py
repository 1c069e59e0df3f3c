"""A run on images that are not square, from the folder to the exported model."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import cae_jax
from cae_jax.runs import evaluate, job
from cae_jax.runs.config import Config, configure
from cae_jax.serving import export, trained

HEIGHT, WIDTH, SIDE = 40, 104, 6  # of the files and of the defects, in pixels
AT = ((3, 90), (30, 10))  # of the defects


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("oblong"), np.random.default_rng(0)

    def save(path, *spots):
        pixels = 0.4 + 0.02 * rng.standard_normal((HEIGHT, WIDTH))
        for row, column in spots:
            pixels[row : row + SIDE, column : column + SIDE] += 0.4
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(255 * np.clip(pixels, 0, 1))).save(path)

    for i in range(8):
        save(root / "in/strip/train/good" / f"{i}.png")
    for i in range(2):
        save(root / "in/strip/test/good" / f"{i}.png")
        save(root / "in/strip/test/spot" / f"{i}.png", AT[i])
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[AT[i][0] : AT[i][0] + SIDE, AT[i][1] : AT[i][1] + SIDE] = 255
        path = root / "in/strip/ground_truth/spot" / f"{i}_mask.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.setattr(evaluate, "_plot", lambda *_: None)
        flags = {"method": "variation_model", "dataset": "folder", "data_dir": str(root / "in")}
        flags |= {"image_size": (20, 52), "workdir": str(root / "run"), "save_maps": True}
        job.run(configure(**flags, category="strip"))
        yield root


def test_the_size_stands_in_its_flags_and_they_give_it_again(world):
    (file,) = (world / "run").rglob("flags.txt")
    text = file.read_text()
    assert "--image_size=20x52\n" in text
    config = Config.from_flagfile(text, "flags.txt")
    assert config.image_size == (20, 52)
    assert config.to_flagfile() == text


def test_maps_are_written_where_the_defects_are(world):
    for i, (row, column) in enumerate(AT):
        (file,) = (world / "run").rglob(f"anomaly_maps/strip/test/spot/{i}.tiff")
        found = np.asarray(Image.open(file))
        assert found.shape == (HEIGHT, WIDTH)
        at = np.unravel_index(found.argmax(), found.shape)
        assert row <= at[0] < row + SIDE
        assert column <= at[1] < column + SIDE
    (file,) = (world / "run").rglob("metrics.json")
    assert json.loads(file.read_text())["pixel_auroc"] > 0.9


@pytest.mark.parametrize("runtime", ["jax", "onnxruntime"])
def test_what_is_exported_sees_the_same(world, runtime):
    run = trained.open_run(world / "run")
    folder = world / "exported"
    if not folder.exists():
        export.export(run, folder, ("stablehlo", "onnx"))
    assert "20 x 52 pixels" in (folder / "README.md").read_text()
    file = world / "in/strip/test/spot/1.png"
    wanted = run.detector.score(file)
    found = cae_jax.load(folder, runtime=runtime).score(file)
    assert found.residual.shape == (20, 52)
    assert found.distance == pytest.approx(wanted.distance, rel=1e-5)
    np.testing.assert_allclose(found.residual, wanted.residual, rtol=1e-4, atol=1e-3)


def test_an_evaluation_anew_is_the_same(world):
    copy = world / "again"
    shutil.copytree(world / "run", copy)
    (file,) = copy.rglob("scores.csv")
    before = file.read_text()
    job.evaluate_again(copy)
    assert file.read_text() == before
