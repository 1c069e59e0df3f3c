"""The HTML pages: read back by a parser, by Pillow, by scikit-learn's curve, and in Chromium."""

import base64
import html
import html.parser
import io
import json
import pathlib
import re
import shutil
import subprocess
import urllib.parse

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_curve

from cae_jax.reports import html, results
from cae_jax.reports.html import charts, gallery, markup, rules
from cae_jax.types import DataError, UsageError

HOSTILE = (
    '"><script>window.hacked=1</script>.png',
    "<img src=x onerror=window.hacked=1>.png",
    "' onmouseover='window.hacked=1.png",
    "</script><!-- .png",
    "</td></table></main>.png",
    "ünïcode-日本.png",
    "no utf8 \udcff.png",
    "\u202egnp.backwards",
    "tab\tand&amp;.png",
)
KINDS = ("good", "good", 'scr"atch', "<b>bent</b>", "bad\udcfe")
VOID = {"meta", "link", "img", "input", "br"}


class Document(html.parser.HTMLParser):
    """Checks nesting and keeps every element as (name, attributes), and the text."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len({name for name, _ in attrs}) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag, **where):
        return [a for name, a in self.elements
                if name == tag and all(a.get(k) == v for k, v in where.items())]  # fmt: skip


def make_run(folder, seed=0, **more):
    """A finished cell with random content and hostile names; returns its metrics and arrays."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    n = 24
    kinds = [KINDS[i % len(KINDS)] for i in range(n)]
    paths = [f"test/{i:02}/{HOSTILE[i % len(HOSTILE)]}" for i in range(n)]
    splits = ["validation" if k == "good" and i % 2 else "test" for i, k in enumerate(kinds)]
    labels = [int(kind != "good") for kind in kinds]
    p_values = np.where(np.array(splits) == "test", rng.random(n), np.nan)
    extra = {"p_value": p_values, "ss<im": rng.random(n)}
    frame = results.scores_frame(paths, labels, kinds, splits, rng.gamma(2, 1e6, n), extra)
    results.write_csv(folder / "scores.csv", frame)
    point = {"leaks": True, "n": 5, "good_accuracy": 0.75, "defect_accuracy": 0.5}
    test, held_out = "test good", "validation good"
    metrics = {
        "dataset": "synthetic", "category": HOSTILE[0], "model": "<i>m</i>", "loss": "l2",
        "distance": "l2", "seed": 3, "image_auroc": 0.43210987, "image_auroc_interval": [0.3, 0.61],
        "pixel_auroc": None, "flag": f"below {HOSTILE[1]}", "n_good": 7,
        "trivial_auroc": {"brightness": 0.02, "contrast": 0.6, "<u>": None},
        "operating_points": [
            point | {"rule": "ceil", "source": test, "percent": 70, "threshold": 2e6},
            point | {"rule": "ceil", "source": held_out, "percent": 90, "threshold": 1.5e6,
                     "leaks": False},
            point | {"rule": "conformal", "source": held_out, "percent": 95, "threshold": np.inf},
            point | {"rule": "f1_best", "threshold": -np.inf},
            {"rule": "<s>", "threshold": 3},
        ],
        "leak_points": {100: np.nan, 90: -1.25, 70: 12.04},
        "distances": {"l2": {"image_auroc": 0.43210987}, "<s>ssim": {"pixel_auroc": 0.9}},
        "kinds": {HOSTILE[1]: {"n": 3, "image_auroc": 0.25}},
        "sizes": [{"from": 0.0, "to": 0.01, "n": 4, "hit": 1, "overlap": None}],
    } | more  # fmt: skip
    results.write_json(folder / "metrics.json", metrics)
    results.write_json(folder / "versions.json", {"python": "<b>3", "data_fingerprint": "abc123"})
    results.write_json(folder / "curves.json", {"pro": {"fpr": [0, 0.5, 1], "pro": [0, 0.8, 1]}})
    (folder / "flags.txt").write_text(f"--data_dir={HOSTILE[3]}\n--seed=3\n")
    (folder / "history.csv").write_text("epoch,loss,validation_loss\n1,0.5,\n2,0.25,0.3\n")
    left_out = f"path,cause\n{HOSTILE[4]},<script>\n"
    (folder / "left_out.csv").write_bytes(left_out.encode("utf-8", "surrogateescape"))
    rows = rng.permutation([i for i in range(n) if splits[i] == "test"])
    k, size = len(rows), (21, 34)
    arrays = {
        "row": rows,
        "image": rng.integers(0, 256, (k, *size, 1), np.uint8),
        "reconstruction": rng.integers(0, 256, (k, *size, 1), np.uint8),
        "residual": rng.random((k, *size), np.float32),
        "mask": rng.random((k, *size)) < 0.2,
        "has_mask": rng.random(k) < 0.8,
        "predicted": rng.random((k, *size)) < 0.1,
        "scale": np.float32(0.7),
        "segmentation_threshold": np.float64(0.5),
    }
    np.savez_compressed(folder / "examples.npz", **arrays)
    return metrics, frame, arrays


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workdir") / "sc#rew%20 <b>" / 'm"?&' / "seed_0"
    return folder, *make_run(folder)


@pytest.fixture(scope="module")
def page(cell):
    return html.run_page(html.read_run(cell[0]))


@pytest.fixture(scope="module")
def document(page):
    return Document(page)


def pixels(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_nothing_from_outside_and_nothing_that_runs(document):
    links = [value for _, attributes in document.elements for name, value in attributes.items()
             if name in ("src", "href", "action", "data", "xlink:href")]  # fmt: skip
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert len(document.all("script")) == 1
    assert not [a for _, attrs in document.elements for a in attrs if a.startswith("on")]
    tags = {tag for tag, _ in document.elements}
    assert not tags & {"iframe", "object", "embed", "base", "b", "i>", "s", "u"}
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def test_a_page_can_be_written(page, tmp_path):
    (tmp_path / "x.html").write_text(page, encoding="utf-8")  # no lone surrogate is left
    assert r"no utf8 \udcff.png" in page
    assert "\u202e" not in page


def test_every_image_decodes_and_is_the_one_of_the_file(document, cell):
    _, _, frame, arrays = cell
    images = {a["alt"]: a["src"] for a in document.all("img")}
    assert all(pixels(uri).size for uri in images.values())
    for i, row in enumerate(arrays["row"]):
        path = html.unescape(markup.text(frame["path"][row]))
        np.testing.assert_array_equal(pixels(images[f"image {path}"]), arrays["image"][i, ..., 0])
        shown = pixels(images[f"predicted mask of {path}"]).astype(bool)
        np.testing.assert_array_equal(shown, arrays["predicted"][i])
        truth = images.get(f"ground truth mask of {path}")
        assert (truth is not None) == bool(arrays["has_mask"][i] and frame["label"][row])


def test_heat_maps_share_one_scale():
    residual = np.array([[0, 0.35, 0.7], [0.9, np.nan, np.inf]], np.float32)
    colors = gallery.heat(residual, 0.7)
    np.testing.assert_array_equal(colors[0], gallery.RAMP[[0, 128, 255]])
    np.testing.assert_array_equal(colors[1], gallery.RAMP[[255, 255, 255]])
    luma = gallery.RAMP @ [0.299, 0.587, 0.114]
    assert (np.diff(luma) > -0.5).all()  # dark to light: it reads in print too
    assert luma[-1] - luma[0] > 200


def test_the_worst_come_first(document, cell):
    folder, _, frame, _ = cell
    order = [int(a["id"].removeprefix("example-")) for a in document.all("article")]
    test = frame[frame["split"] == "test"]
    misses = test[test["label"] == 1].sort_values("distance").index[:6]
    alarms = test[test["label"] == 0].sort_values("distance", ascending=False).index[:6]
    assert order[: len(misses) + len(alarms)] == [*misses, *alarms]
    assert sorted(order) == sorted(test.index)  # every example once, and so every kind
    assert "Worst misses" in document.text
    examples = html.read_run(folder).examples
    all_right = gallery.gallery(frame, examples, len(frame) * ["right"])
    assert re.findall(r"<h3>(.*?), the closest", all_right) == ["No misses", "No false alarms"]


def test_numbers_are_those_of_the_files(document, cell):
    _, metrics, frame, _ = cell
    keys = [a.get("data-key") for a in document.all("td")]
    assert repr(metrics["image_auroc"]) in keys
    distances = sorted(frame["distance"], reverse=True)
    found = [key for key in keys if key in {repr(d) for d in distances}]
    assert found == [repr(d) for d in distances]
    for column in ("p_value", "ss<im"):
        assert {repr(float(v)) for v in frame[column].dropna()} <= set(keys)
    shown = "0.432|[0.300, 0.610]|Warning.|Synthetic data|abc123|--seed=3|a shortcut, upside down"
    shown += "|not beaten by the model|in points: +12.0 at 70 %, -1.2 at 90 %."  # 100 %: unknown
    assert [text for text in shown.split("|") if text not in document.text] == []


def test_infinite_thresholds_are_told_apart(cell, page):
    points = html.read_run(cell[0]).metrics["operating_points"]
    assert [rules.threshold(point) for point in points[2:4]] == [np.inf, -np.inf]
    assert np.isnan(rules.threshold({"threshold": None}))
    assert re.findall(r'data-key="(-?inf)">(-?∞)<', page) == [("inf", "∞"), ("-inf", "-∞")]
    assert [mark.value for mark in rules.marks({"operating_points": points})] == [1.5e6, 2e6]


def test_verdicts_go_by_the_leak_free_threshold(cell):
    _, metrics, frame, _ = cell
    names = {(0, 0): "right", (1, 1): "right", (1, 0): "false alarm", (0, 1): "missed"}
    expected = [
        names[distance > 1.5e6, label]
        for distance, label in zip(frame["distance"], frame["label"], strict=True)
    ]
    assert rules.verdicts(frame, metrics) == expected
    assert len(set(expected)) == 3


def test_the_roc_curve_is_scikit_learns(rng):
    labels, scores = rng.integers(0, 2, 40), rng.integers(0, 12, 40).astype(float)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    svg = charts.roc(fpr, tpr, [("<a>", 0.25, 0.5, "leaks")])
    points = re.findall(r'class="curve" points="([^"]*)"', svg)[0].split()
    drawn = np.array([point.split(",") for point in points], float)
    axes = {float(y): float(x) for x, y in re.findall(r'<text x="([\d.]+)" y="([\d.]+)">1<', svg)}
    right = next(iter(axes.values()))
    left = float(re.search(r'class="axis" d="M([\d.]+)', svg)[1])
    np.testing.assert_allclose((drawn[:, 0] - left) / (right - left), fpr, atol=2e-4)
    np.testing.assert_allclose((drawn[0, 1] - drawn[:, 1]) / np.ptp(drawn[:, 1]), tpr, atol=4e-4)
    Document(svg)


def test_the_boxes_are_numpys_quartiles(rng):
    values = 9 + rng.lognormal(0, 1, 37)
    svg = charts.whiskers([charts.Group("a", values, "good")], [], "x")
    median = float(re.search(r'median good" d="M([\d.]+)', svg)[1])
    box = re.search(r'<rect class="box good" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', svg)
    first, second, third = np.quantile(values, [0.25, 0.5, 0.75])
    share = (median - float(box[1])) / float(box[2])
    assert share == pytest.approx((second - first) / (third - first), abs=4e-3)
    reach = 1.5 * (third - first)
    beyond = (values < first - reach) | (values > third + reach)
    assert svg.count("<circle") == beyond.sum() > 0


@pytest.mark.parametrize("values", [[5.0], [3.0, 3.0], [-1.0, 2.0], [1e-3, 5.0, 1e9]])
def test_charts_of_few_or_far_values(values):
    group = charts.Group("a", np.array(values), "good")
    for svg in (charts.histogram([group], [], "x"), charts.whiskers([group], [], "x")):
        Document(svg)
        assert "nan" not in svg
    steps = re.search(r'class="bars good" points="([^"]*)"', charts.histogram([group], [], "x"))[1]
    tops = np.array([float(p.split(",")[1]) for p in steps.split()])[1:-1:2]
    heights = tops.max() - tops
    assert np.count_nonzero(heights > 1) == len(set(values))  # no value falls out of the bins


def test_a_run_that_knows_nothing_has_a_page(tmp_path):
    frame = results.scores_frame([], [], [], [], [])
    results.write_csv(tmp_path / "scores.csv", frame)
    (tmp_path / "metrics.json").write_text("{}")
    run = html.read_run(tmp_path)
    assert "examples.npz" in run.absent
    document = Document(html.run_page(run))
    assert "Not in this run: flags.txt" in document.text
    assert Document(html.overview_page([run])).all("td")
    strange = {"operating_points": 3, "trivial_auroc": "x", "kinds": [1], "sizes": {"a": 1},
               "image_auroc": "high", "image_auroc_interval": [None, 1],
               "leak_points": {"x": 1, "70": "y"}}  # fmt: skip
    Document(html.run_page(run._replace(metrics=strange, curves={"pro": []})))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", None),
        ("scores.csv", None),
        ("metrics.json", b"[1]"),
        ("versions.json", b"\xff{"),
        ("history.csv", b"epoch\nfirst\n"),
        ("examples.npz", b"PK\x03\x04 no archive"),
        ("examples.npz", b""),
        ("examples.npz", {"image": np.zeros((2, 4, 4, 2), np.uint8)}),
        ("examples.npz", {"row": np.arange(24, 48)}),
        ("examples.npz", {"residual": np.zeros((1, 2, 3), np.float32)}),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content):
    _, _, arrays = make_run(tmp_path / "cell")
    path = tmp_path / "cell" / name
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez_compressed(path, **arrays | content)
    with pytest.raises(DataError, match=re.escape(str(path))) as error:
        html.read_run(tmp_path / "cell")
    assert "\n" not in str(error.value)


def test_write(tmp_path, cell):
    shutil.copytree(cell[0].parents[2], tmp_path / "w")
    make_run(tmp_path / "w" / "screw" / "bergmann-ssim" / "seed_1", 1, flag="", category="screw")
    written = html.write(tmp_path / "w")
    assert [path.name for path in written] == 3 * ["report.html"]
    overview = Document(written[-1].read_text(encoding="utf-8"))
    links = [a["href"] for a in overview.all("a")]
    assert [tmp_path / "w" / urllib.parse.unquote(link) for link in links] == written[:-1]
    assert all(re.fullmatch(r"\./[\w.%/-]+", link) for link in links)
    assert "1 of 2 runs" in overview.text
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no finished run"):
        html.write(tmp_path / "empty")


@pytest.mark.parametrize(
    ("show", "value", "shown"),
    [
        (markup.amount, 51224188.4, "51,224,188"),
        (markup.amount, 0.0123456, "0.01235"),
        (markup.amount, None, "\N{EN DASH}"),
        (markup.rate, 0.99979, "&gt; 0.999"),
        (markup.rate, 1.0, "1.000"),
        (markup.rate, float("nan"), "\N{EN DASH}"),
        (markup.percent, 0.70731, "70.7 %"),
    ],
)
def test_numbers_have_sensible_precision(show, value, shown):
    assert show(value) == shown


def chromium(path, tmp_path):
    """Opens a page in a narrow window; returns its document as the browser has it, and its log."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium here: the page is not opened in a browser")
    off = ["gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage"]
    done = subprocess.run(
        [program, "--headless", "--no-sandbox", *(f"--disable-{name}" for name in off),
         "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=390,844",
         f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
         "--dump-dom", path.as_uri()],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout.decode(), done.stderr.decode(errors="replace")


def test_in_a_browser_the_page_is_quiet(page, tmp_path):
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    dom, log = chromium(tmp_path / "page.html", tmp_path)
    assert [line for line in log.splitlines() if "CONSOLE" in line] == []
    assert 'class="js"' in dom  # the security policy lets the page's own script run


def test_in_a_browser_it_sorts_and_filters(page, cell, tmp_path):
    _, _, frame, _ = cell
    # without the policy, so that a hostile name could do its worst
    bare = re.sub(r"<meta http-equiv[^>]*>", "", page)
    script = (pathlib.Path(__file__).parent / "harness.js").read_text()
    harness = f"<script>{script}</script></head>"
    (tmp_path / "page.html").write_text(bare.replace("</head>", harness), encoding="utf-8")
    dom, log = chromium(tmp_path / "page.html", tmp_path)
    assert [line for line in log.splitlines() if "CONSOLE" in line] == []
    packed = re.search(r'<pre id="result">([^<]*)</pre>', dom)[1]
    result = json.loads(urllib.parse.unquote(base64.b64decode(packed).decode()))
    assert result["hacked"] == "no"
    assert len(result["images"]) > 50
    assert min(result["images"]) > 0
    assert [float(d) for d in result["initial"]] == sorted(frame["distance"], reverse=True)
    assert [float(d) for d in result["up"]] == sorted(frame["distance"])
    assert result["sorts"][:7] == [None, *4 * ["none"], "ascending", "none"]
    known = sorted(frame["p_value"].dropna(), reverse=True)
    assert [float(p) for p in result["p"] if p] == known
    assert result["p"][len(known) :] == [""] * (len(frame) - len(known))  # unknown ones last
    assert [path[:7] for path in result["paths"]] == [f"test/{i:02}" for i in range(len(frame))]
    n = int((frame["defect_kind"] == 'scr"atch').sum())
    assert result["kinds"] == n * ['scr"atch']
    assert result["said"] == f"{n} of {len(frame)}"
    assert len(result["found"]) == frame["path"].str.contains("script>").sum() > 0
    good = frame[(frame["split"] == "test") & (frame["label"] == 0)]
    assert result["cards"] == ["good"] * len(good)
    assert result["dark"] == "rgb(20, 23, 28)"
    assert result["wide"] == 390  # tables scroll, the page does not
