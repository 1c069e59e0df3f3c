"""Line scans of any length, by a run on tiles: the same numbers as in one compiled call."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cae_jax.runs import evaluate, job
from cae_jax.runs.config import configure
from cae_jax.scoring import strips, tiles
from cae_jax.scoring.residuals import Reduction, image_score
from cae_jax.scoring.residuals import smooth as smooth_compiled
from cae_jax.serving import folder, trained
from cae_jax.types import DataError, Evidence, Fit, Method

TILE, OVERLAP = 16, 4


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.uint8(255 * np.clip(pixels, 0, 1))).save(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("strips"), np.random.default_rng(0)

    def scan(length, *spots):
        pixels = 0.5 + 0.03 * rng.standard_normal((length, 20))
        for row in spots:
            pixels[row : row + 3, 8:11] = 0.95
        return pixels

    for i in range(8):
        save(root / f"in/web/train/good/{i}.png", scan(32))
    save(root / "in/web/test/good/0.png", scan(32))
    save(root / "in/web/test/spot/0.png", scan(32, 9))
    for name, pixels in (("long", scan(203, 150)), ("good", scan(90)), ("same", scan(32))):
        save(root / f"new/{name}.png", pixels)
    save(root / "new/short.png", scan(12))
    flags = {"method": "gmm_texture", "components": 2, "dimensions": 4, "samples": 1000}
    flags |= {"em_rounds": 2, "levels": 1, "image_score": "max", "residual_smooth": 1.0}
    flags |= {"dataset": "folder", "data_dir": str(root / "in"), "category": "web"}
    flags |= {"image_size": (32, 20), "resize": "none", "tile": TILE, "tile_overlap": OVERLAP}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.setattr(evaluate, "_plot", lambda *_: None)
        job.run(configure(**flags, workdir=str(root / "run")))
        yield root, trained.open_run(root / "run")


def test_a_folder_of_any_lengths(world):
    root, run = world
    folder.score_folder(run, root / "new", root / "out", on_bad_image="skip", save_maps=True)
    table = pd.read_csv(root / "out/scores.csv").set_index("path")
    assert sorted(table.index) == ["good.png", "long.png", "same.png"]
    assert table.loc["long.png", "defective"] == 1
    (left,) = pd.read_csv(root / "out/left_out.csv").to_dict("records")
    assert left["path"] == "short.png"
    assert left["cause"].startswith("is 12 x 20 pixels (height x width), smaller than a tile of 16")
    found = np.asarray(Image.open(root / "out/anomaly_maps/long.png.tiff"))
    assert found.shape == (203, 20)
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert 148 <= row <= 155
    assert 6 <= column <= 13
    for name in table.index:  # and one by one
        verdict = run.detector.score(root / "new" / name)
        assert verdict.distance == pytest.approx(table.loc[name, "distance"], rel=1e-5)
    with pytest.raises(DataError, match=r"short\.png': is 12 x 20"):
        run.detector.score(root / "new/short.png")


@pytest.mark.parametrize(("reduce", "border"), [("max", "reflect"), ("top", "edge")])
def test_it_is_what_one_compiled_call_says(reduce, border):
    size, rng = (37, 23), np.random.default_rng(1)
    image = rng.random((1, *size, 1)).astype(np.float32)

    def inspect(variables, images):
        coarse = images[..., 0].reshape(len(images), 8, 2, 8, 2).mean(axis=(2, 4))
        return Evidence({"d": coarse * images.mean(axis=(1, 2, 3))[:, None, None]})

    method = Method(Fit(lambda key, images: {}), inspect, ("d",))
    reduction = Reduction(("d",), 1.5, border, reduce, 0.05)
    found = strips.scorer(method, TILE, OVERLAP, reduction, "none")({}, image[0])
    whole = tiles.tiled(method, TILE, OVERLAP, size).inspect({}, image).maps["d"]
    whole = smooth_compiled(whole, 1.5, border)
    np.testing.assert_allclose(found.residuals["d"], whole, rtol=1e-4)
    np.testing.assert_allclose(found.distances["d"], image_score(whole, reduction), rtol=1e-5)
