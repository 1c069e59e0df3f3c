import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cae_jax.reports import charts, plots
from cae_jax.reports.rules import Mark

RNG = np.random.default_rng(0)
GOOD, DEFECTIVE, VALIDATION = RNG.gamma(12, 1e5, 41), RNG.gamma(12, 3e5, 60), RNG.gamma(12, 1e5, 20)
LINES = [Mark("a", 1.4e6, "leaks"), Mark("b", 1.5e6, "honest")]
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
    rows = [{"epoch": i + 1, "loss": 0.1 / (i + 1), "validation_loss": 0.2} for i in range(n)]
    return charts.training(pd.DataFrame(rows), "l2")


def groups(good, defective, validation=()):
    """Groups as `charts.of_run` makes them, the defective ones with a hostile name."""
    arrays = [np.asarray(values, float) for values in (validation, good, defective)]
    styles = ("validation", "good", "defective")
    names = ("validation good", "test good", STRANGE)
    return [charts.Group(*each) for each in zip(names, arrays, styles, strict=True)]


def test_training_curve(tmp_path):
    path = tmp_path / "curve.png"
    plots.plot_training_curve(path, history(9), "weave")
    assert count(pixels(path), plots.VALIDATION) > 100
    records = pd.DataFrame([{"epoch": 1, "loss": 0.0, "validation_loss": None}])
    plots.plot_training_curve(path, charts.training(records, STRANGE), STRANGE)
    assert count(pixels(path), plots.VALIDATION) == 0


def test_adversarial_training_has_a_color_for_each_loss(tmp_path):
    path, epoch = tmp_path / "curve.png", np.arange(1, 9)
    names = ("critic_loss", "generator_loss", "encoder_loss", STRANGE)
    columns = {name: np.cos(i + epoch) for i, name in enumerate(names)}
    drawn = charts.training(pd.DataFrame({"epoch": epoch, **columns}))
    plots.plot_training_curve(path, drawn)
    image = pixels(path)
    assert all(count(image, color) > 100 for color in plots.HUES[:4])
    assert not any(count(image, color) for color in plots.HUES[4:])
    assert len(set(plots.HUES)) == charts.CURVES


def test_whiskers_and_histogram_show_what_is_there(tmp_path):
    path = tmp_path / "a.png"
    for good, defective, validation in (
        (GOOD, DEFECTIVE, VALIDATION),
        (GOOD, DEFECTIVE * 1e3, VALIDATION),
        ([], DEFECTIVE, VALIDATION[:1]),
        (GOOD[:1], [], []),
        (np.full(5, 7.0), [7.0], []),
        ([0.0], [], [0.0]),
    ):
        three = groups(good, defective, validation)
        for draw, drawn in (
            (plots.plot_whiskers, charts.whiskers(three, LINES, STRANGE)),
            (plots.plot_histogram, charts.histogram(three, LINES, STRANGE)),
        ):
            draw(path, drawn, STRANGE)
            image = pixels(path)
            assert (count(image, plots.VALIDATION) > 0) == (len(validation) > 0)
            if draw is plots.plot_whiskers:
                assert (count(image, plots.GOOD) > 0) == (len(good) > 0)
                assert (count(image, plots.DEFECTIVE) > 0) == (len(defective) > 0)


def test_pictures_show_the_numbers_of_the_description(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure.axes[0]))
    three = groups(GOOD, DEFECTIVE * 1e3, VALIDATION)
    histogram, whiskers = (f(three, LINES, "x") for f in (charts.histogram, charts.whiskers))
    plots.plot_histogram("", histogram)
    plots.plot_whiskers("", whiskers)
    plots.plot_training_curve("", history(9))
    bars, boxes, training = drawn
    assert (bars.get_xscale(), boxes.get_yscale(), training.get_yscale()) == ("log",) * 3
    for patch, shares in zip(bars.patches, histogram.shares, strict=True):
        values, edges, _ = patch.get_data()
        np.testing.assert_array_equal(np.nan_to_num(values), shares)
        np.testing.assert_array_equal(edges, histogram.edges)
    lines = {line.get_label(): line for line in bars.lines}
    assert list(lines) == ["a (leaks): 1.4e6", "b (leak-free): 1.5e6"]
    assert [line.get_xdata()[0] for line in lines.values()] == [1.4e6, 1.5e6]
    medians = [line.get_ydata()[0] for line in boxes.lines if line.get_linewidth() == 2.2]
    assert medians == [np.median(VALIDATION), np.median(GOOD), np.median(DEFECTIVE * 1e3)]
    assert [line.get_label() for line in training.lines] == ["loss", "validation_loss"]
    assert [line.get_linestyle() for line in training.lines] == ["-", "--"]
    assert training.get_ylabel() == "loss (l2)"
    plots.plot_training_curve("", charts.training(pd.DataFrame({"epoch": [1, 2], "a": [-1, 1]})))
    assert drawn[-1].get_yscale() == "linear"


def gallery(path, n=3, shape=(40, 50, 1), residual_max=500.0, edge=False):
    rng = np.random.default_rng(5)
    images = rng.random((n, *shape), dtype=np.float32)
    residuals = rng.random((n, *shape[:2])) * 500
    masks = np.zeros((n, *shape[:2]), bool)
    masks[-1] = edge
    masks[-1, 3, 4] = n > 1
    titles = [plots.gallery_title(STRANGE, 1.234e6, LINES[0].value)] * n
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


def test_gallery_without_reconstructions_has_a_row_less(tmp_path, monkeypatch):
    flat, path = np.full((2, 30, 30, 1), 0.4), tmp_path / "g.png"
    plots.plot_gallery(path, flat, flat, flat[..., 0], None, ["a", "b"], 1.0)
    three = pixels(path)
    plots.plot_gallery(path, flat, None, flat[..., 0], None, ["a", "b"], 1.0)
    two = pixels(path)
    row = (1.35 + 0.04) * plots.DPI
    assert three.shape[0] - two.shape[0] == pytest.approx(row, abs=1)
    assert three.shape[1] == two.shape[1]
    panel = (1.35 * plots.DPI) ** 2
    assert count(three, "#666666") == pytest.approx(4 * panel, rel=0.05)
    assert count(two, "#666666") == pytest.approx(2 * panel, rel=0.05)
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
    plots.plot_gallery("", flat, None, flat[..., 0], None, ["a", "b"], 1.0)
    named = [axes.get_ylabel() for axes in drawn[0].axes if axes.get_ylabel()]
    assert named[:2] == ["image", "residual"]


@pytest.mark.parametrize(
    ("distance", "label"),
    [
        ("nearest", "nearest"),  # of another method
        ("l2", "squared difference,\n0..255 scale"),
        ("l1", "absolute difference,\n0..255 scale"),
        ("ssim", "1 - SSIM"),
    ],
)
def test_gallery_names_what_it_shows(monkeypatch, distance, label):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
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
        three = groups(GOOD, DEFECTIVE, VALIDATION)
        plots.plot_whiskers(path, charts.whiskers(three, LINES, "x"), "weave")
        first = path.read_bytes()
        plots.plot_histogram(path, charts.histogram(three, LINES, "x"))
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
    assert plots.gallery_title("good", 5.0, 5.0) == "good\n5.0e0\ncalled good"
    assert plots.gallery_title("cut", 5.1, 5.0) == "cut\n5.1e0\ncalled defective"
    assert plots.gallery_title("cut", 5.1, None) == "cut\n5.1e0"
