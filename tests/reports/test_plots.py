import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from cae_jax.evaluation import thresholds
from cae_jax.reports import plots

RNG = np.random.default_rng(0)
GOOD, DEFECTIVE, VALIDATION = RNG.gamma(12, 1e5, 41), RNG.gamma(12, 3e5, 60), RNG.gamma(12, 1e5, 20)
LINES = [
    thresholds.from_good(GOOD, 70),
    thresholds.from_good(VALIDATION, 90, source=thresholds.VALIDATION_GOOD),
]
STRANGE = "螺丝 \t $a_{ é \x00 " + "long " * 40  # no glyph, broken math, control characters


def pixels(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert not {"Software", "Creation Time", "date"} & set(image.info)
        return np.asarray(image.convert("RGB")).astype(int)


def count(image, color):
    """Pixels of a color written as #RRGGBB."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(image - wanted).max(axis=-1) <= 3).sum())


def history(n):
    return [{"epoch": i + 1, "loss": 0.1 / (i + 1), "validation_loss": 0.2} for i in range(n)]


def test_training_curve(tmp_path):
    path = tmp_path / "curve.png"
    plots.plot_training_curve(path, history(9), "weave")
    assert count(pixels(path), plots.VALIDATION) > 100
    records = [{"epoch": 1, "loss": 0.0, "validation_loss": None}]
    plots.plot_training_curve(path, records, STRANGE)
    assert count(pixels(path), plots.VALIDATION) == 0
    with pytest.raises(ValueError, match="at least one epoch"):
        plots.plot_training_curve(path, [])


def test_whiskers_and_histogram_show_what_is_there(tmp_path):
    path = tmp_path / "a.png"
    for good, defective, lines in (
        (GOOD, DEFECTIVE, LINES),
        (GOOD, DEFECTIVE * 1e3, LINES),
        ([], DEFECTIVE, LINES[1:]),
        (GOOD[:1], [], []),
        (np.full(5, 7.0), [7.0], LINES[:0]),
        ([0.0], [], LINES[:1]),
        ([], [], []),
    ):
        plots.plot_whiskers(path, good, defective, lines, STRANGE)
        image = pixels(path)
        assert (count(image, plots.GOOD) > 0) == (len(good) > 0)
        assert (count(image, plots.DEFECTIVE) > 0) == (len(defective) > 0)
        plots.plot_histogram(path, good, defective, VALIDATION[: len(lines)], lines, STRANGE)
        assert (count(pixels(path), plots.VALIDATION) > 0) == (len(lines) > 0)


def gallery(path, n=3, shape=(40, 50, 1), residual_max=500.0, edge=False):
    rng = np.random.default_rng(5)
    images = rng.random((n, *shape), dtype=np.float32)
    residuals = rng.random((n, *shape[:2])) * 500
    masks = np.zeros((n, *shape[:2]), bool)
    masks[-1] = edge
    masks[-1, 3, 4] = n > 1
    titles = [plots.gallery_title(STRANGE, 1.234e6, LINES[0])] * n
    plots.plot_gallery(path, images, 1.2 - images, residuals, masks, titles, residual_max)
    return pixels(path)


def test_gallery(tmp_path):
    path = tmp_path / "g.png"
    one, three = gallery(path, 1), gallery(path, 3)
    assert one.shape[0] == three.shape[0]
    # a further image widens the picture by its own width; beyond eight no more are shown
    step = (three.shape[1] - one.shape[1]) / 2
    eight, twelve = gallery(path, 8, (20, 20, 3)), gallery(path, 12, (20, 20, 3))
    assert eight.shape == twelve.shape
    assert abs(eight.shape[1] - one.shape[1] - 7 * step) < 2
    assert count(one, plots.OUTLINE) == 0
    assert count(gallery(path, edge=True), plots.OUTLINE) > 200  # a mask of the whole image
    gallery(path, residual_max=0.0)
    with pytest.raises(ValueError, match="equally many"):
        plots.plot_gallery(path, np.zeros((0, 4, 4, 1)), [], [], None, [], 1.0)


@pytest.mark.parametrize(
    ("distance", "label"),
    [
        ("l2", "squared difference,\n0..255 scale"),
        ("l1", "absolute difference,\n0..255 scale"),
        ("ssim", "1 - SSIM"),
    ],
)
def test_gallery_names_what_it_shows(monkeypatch, distance, label):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure))
    flat = np.full((1, 30, 30, 1), 0.4)
    plots.plot_gallery("", flat, flat, flat[..., 0], None, ["a"], 1.0, distance)
    assert label in [axes.get_ylabel() for axes in drawn[0].axes]


def test_gallery_has_one_color_scale(tmp_path):
    path = tmp_path / "g.png"
    flat = np.full((2, 30, 30, 1), 0.4)
    residuals = np.stack([np.full((30, 30), 100.0), np.full((30, 30), 400.0)])
    plots.plot_gallery(path, flat, flat, residuals, None, ["a", "b"], 400.0)
    image = pixels(path)
    # gray 0.4 in four panels; the second residual has the last color of the map, the first not
    panel = (1.35 * plots.DPI) ** 2
    assert count(image, "#666666") > 3.8 * panel
    assert 0.9 * panel < count(image, "#FCFFA4") < 1.2 * panel


def test_rerun_and_threads_give_the_same_bytes(tmp_path):
    def draw(i):
        path = tmp_path / f"{i}.png"
        plots.plot_whiskers(path, GOOD, DEFECTIVE, LINES, "weave")
        first = path.read_bytes()
        plots.plot_histogram(path, GOOD, DEFECTIVE, VALIDATION, LINES)
        return first + path.read_bytes()

    with ThreadPoolExecutor(2) as pool:
        assert len({draw(0), *pool.map(draw, (1, 2))}) == 1


def test_pyplot_stays_out():
    code = "import sys, cae_jax.reports.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_short_distances_and_titles():
    assert [plots.short(d) for d in (1234567.0, 0.0, 99.9, 0.012)] == [
        *("1.2e6", "0.0e0", "1.0e2", "1.2e-2")
    ]
    at = thresholds.from_good([5.0], 100)
    assert plots.gallery_title("good", 5.0, at) == "good\n5.0e0\ncalled good"
    assert plots.gallery_title("cut", 5.1, at) == "cut\n5.1e0\ncalled defective"
