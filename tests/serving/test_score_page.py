"""The report over a scored folder: what it tells, its pictures, and that thousands fit on it."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from small_runs import images_in

from cae_jax import load
from cae_jax.reports.html import verdicts
from cae_jax.reports.html.verdicts import Scored, Verdicts
from cae_jax.runs import job
from cae_jax.runs.config import configure
from cae_jax.serving import folder, overlay, score_page, trained
from cae_jax.serving.growing_table import fields, rows


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    with images_in(root, "tablet", n_train=10, n_good=3):
        flags = {"method": "variation_model", "image_size": 32, "dataset": "folder"}
        flags |= {"data_dir": str(root / "in/tablet/train/good"), "workdir": str(root / "run")}
        job.run(configure(**flags))
        yield root


@pytest.fixture(scope="module")
def run(world):
    return trained.open_run(world / "run")


def test_the_most_unusual_images_have_pictures(world, run):
    images, output = world / "in/tablet/test", world / "out"
    found = folder.score_folder(run, images, output, pictures_in_report=2)
    table = [fields(row) for row in rows(output / "scores.csv", "scores").values()]
    order = [row[0] for row in sorted(table, key=lambda row: -float(row[1]))]
    page = (output / "report.html").read_text(encoding="utf-8")
    assert re.findall(r"<h3><bdi>(.*?)</bdi>", page) == order[:2]
    assert [path for path in re.findall(r"<bdi>([^<]*png)</bdi>", page)[2:]] == order
    assert f"<title>{found.n_images} images, {found.n_defective} defective" in page
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) == 4  # the image and its map, of two
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(pictures[0]))).convert("L"), float)
    with Image.open(images / order[0]) as file:
        want = np.asarray(file.convert("L").resize(shown.shape[::-1]), float)
    assert np.abs(shown - want).mean() < 12  # it is that image: 32 pixels of it, as a JPEG
    assert "90 % of out-of-fold good, 10 images" in page


def test_what_was_scored_is_not_scored_again_for_its_pictures(world, run, monkeypatch):
    images, again = world / "in/tablet/test", []
    scored = score_page.scored

    def counted(at, root, paths, maps):
        again.append(paths)
        return scored(at, root, paths, maps=maps)

    monkeypatch.setattr(score_page, "scored", counted)
    pages = []
    for most, output in ((2**27, "kept"), (3 * 32 * 32 * 4, "some"), (0, "without")):
        monkeypatch.setattr(score_page, "_MOST", most)  # bytes: of three maps, then of none
        folder.score_folder(run, images, world / output, pictures_in_report=4)
        pages.append((world / output / "report.html").read_bytes())
    assert pages[0] == pages[1] == pages[2]
    assert [len(paths) for paths in again] == [1, 4]
    # an earlier start kept nothing
    folder.score_folder(run, images, world / "kept", pictures_in_report=4)
    assert len(again[-1]) == 4


def test_of_a_large_image_its_most_unusual_place_is_shown_as_it_is(world, run, monkeypatch):
    monkeypatch.setattr(score_page, "_SIDE", 8)  # images are of 32
    monkeypatch.setattr(score_page, "_outlined", lambda run: False)
    output = world / "large"
    folder.score_folder(run, world / "in/tablet/test", output, pictures_in_report=1)
    page = (output / "report.html").read_text(encoding="utf-8")
    (path,) = re.findall(r"<h3><bdi>(.*?)</bdi>", page)
    _, _, close, _ = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(close))).convert("L"), float)
    file = world / "in/tablet/test" / path
    row, column = np.unravel_index(run.detector.score(file).residual.argmax(), (32, 32))
    assert f"x {column}, y {row}" in page
    top, left = min(max(row - 4, 0), 24), min(max(column - 4, 0), 24)
    want = run.detector.pixels(file)[top : top + 8, left : left + 8, 0] * 255
    assert np.abs(shown - want).mean() < 6  # as a JPEG


def test_images_that_lose_their_shape_are_said(world, run, capsys):
    for name, shape in (("long", (20, 100)), ("as_it_is", (40, 40)), ("less", (20, 70))):
        path = world / "shapes" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full(shape, 99, np.uint8)).save(path)
    folder.score_folder(run, world / "shapes", world / "of_shapes")
    said = "2 of 3 images are squeezed, of 20 x 100 pixels (height x width) into 32 x 32, 5 : 1"
    assert said in capsys.readouterr().err


def test_no_report_where_none_is_asked_for(world, run):
    folder.score_folder(run, world / "in/tablet/test", world / "none")
    assert not (world / "none" / "report.html").exists()


def test_a_page_of_thousands_shows_the_first(tmp_path):
    many = [Scored(f"<b>{i}.png", 90000.0 - i, 0.5, i < 10) for i in range(25000)]
    page = verdicts.verdicts_page(
        Verdicts("run", "in", many, [], [], 89990.0, "rule", "about 3", "only 3", False)
    )
    assert "&lt;b&gt;0.png" in page
    assert "5,000 images more" in page
    assert "<b>0" not in page
    assert len(page) < 4e6


def test_panels_are_the_image_and_the_map_over_it():
    rng = np.random.default_rng(0)
    pixels, residual = rng.random((8, 8, 1), np.float32), np.zeros((8, 8), np.float32)
    mask = np.zeros((8, 8), bool)
    mask[2:5, 2:5] = True
    image, over = overlay.panels(pixels, residual, mask, 1.0, (8, 8), 8)
    edge = np.array(overlay.OUTLINE) / 255
    assert np.allclose(image[2, 2], edge)
    np.testing.assert_allclose(image[3, 3], pixels[3, 3].repeat(3))  # inside of the outline
    bottom = np.array([0, 0, 4]) / 255  # of the color map
    np.testing.assert_allclose(over[0, 0], 0.4 * pixels[0, 0] + 0.6 * bottom, atol=1e-6)


def test_one_image_and_an_output_beside_the_images(world, run):
    one = world / "in/tablet/test/good/000.png"
    assert folder.score_folder(run, one, world / "one").n_images == 1
    assert list(rows(world / "one/scores.csv", "scores")) == ["000.png"]
    here = world / "here"
    here.mkdir()
    for name in ("a.png", "b.png"):
        (here / name).write_bytes(one.read_bytes())
    for _ in range(2):  # what the first start wrote is no image of the second
        found = folder.score_folder(run, here, here, save_maps=True, pictures_in_report=1)
        assert found.n_images == 2
    folder.score_folder(run, here, here / "maps", save_maps=True)
    assert folder.find(here, but=world / "out") == ["a.png", "b.png"]


def test_a_run_is_loaded_from_any_folder_that_holds_it(world):
    cell = world / "run/good/variation_model/seed_0"
    where = [cell.parents[i] for i in range(3)]
    image = world / "in/tablet/test/good/000.png"
    distances = {load(path).score(image).distance for path in [cell, *where]}
    assert len(distances) == 1
