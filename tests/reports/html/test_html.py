"""The HTML pages: read back by a parser, by Pillow, and in Chromium."""

import base64
import io
import re
import shutil
import urllib.parse

import numpy as np
import pytest
from browser import visit
from html_pages import Document, make_run
from PIL import Image
from playwright.sync_api import expect

from cae_jax import files
from cae_jax.evaluation import verdict
from cae_jax.evaluation.scores import scores_frame
from cae_jax.reports import html, rules
from cae_jax.reports.html import gallery, markup
from cae_jax.types import DataError, UsageError


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
        path = markup.visible(frame["path"][row])
        np.testing.assert_array_equal(pixels(images[f"image {path}"]), arrays["image"][i, ..., 0])
        shown = pixels(images[f"predicted mask of {path}"]).astype(bool)
        np.testing.assert_array_equal(shown, arrays["predicted"][i])
        truth = images.get(f"ground truth mask of {path}")
        assert (truth is not None) == bool(arrays["has_mask"][i] and frame["label"][row])


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
    assert [verdict.value(point) for point in points[2:4]] == [np.inf, -np.inf]
    assert np.isnan(verdict.value({"threshold": None}))
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


def test_a_run_that_knows_nothing_has_a_page(tmp_path):
    frame = scores_frame([], [], [], [], [])
    files.write_csv(tmp_path / "scores.csv", frame)
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


def test_a_run_of_another_method(tmp_path):
    """Nothing reconstructed, other losses, and neither loss nor model in metrics.json."""
    folder = tmp_path / "screw" / "f_anogan" / "seed_0"
    absent = dict.fromkeys(("loss", "model", "ms_per_patch"))
    gan = {"method": "f_anogan", "category": "screw", "collapse": "its crops are alike"}
    _, _, arrays = make_run(folder, **absent, **gan)
    del arrays["reconstruction"]
    np.savez_compressed(folder / "examples.npz", **arrays)
    history = "epoch,phase,critic_loss,generator_loss\n1,gan,-0.5,2\n2,gan,0.25,1.5\n"
    (folder / "history.csv").write_text(history)
    run = html.read_run(folder)
    assert list(run.history) == ["epoch", "critic_loss", "generator_loss"]
    document = Document(html.run_page(run))
    assert document.all("svg", **{"aria-label": "Training curve"})
    assert [a["class"] for a in document.all("polyline")][-2:] == ["curve", "curve hue1"]
    assert "critic_loss" in document.text
    assert "Warning. its crops are alike." in document.text
    assert "screw · f_anogan" in document.text
    assert not [a for a in document.all("img") if a["alt"].startswith("reconstruction")]
    assert "f_anogan" in Document(html.overview_page([run])).text
    (folder / "history.csv").unlink()
    document = Document(html.run_page(html.read_run(folder)))
    assert not document.all("svg", **{"aria-label": "Training curve"})
    assert "Not in this run: history.csv" in document.text


@pytest.mark.parametrize(
    ("metrics", "title"),
    [
        ({"run": "wide", "model": "m", "method": "a"}, "c · wide"),
        ({"model": "m", "method": "a"}, "c · m"),
        ({"run": "", "method": "a"}, "c · a"),
        ({}, "c · \N{EN DASH}"),
    ],
)
def test_a_run_is_called_by_its_own_name(cell, metrics, title):
    run = html.read_run(cell[0])._replace(metrics={"category": "c", **metrics}, examples=None)
    assert f"<title>{title}</title>" in html.run_page(run)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", None),
        ("scores.csv", None),
        ("metrics.json", b"[1]"),
        ("versions.json", b"\xff{"),
        ("history.csv", b"epoch\nfirst\n"),
        ("history.csv", b""),
        ("examples.npz", b"PK\x03\x04 no archive"),
        ("examples.npz", b""),
        ("examples.npz", {"image": np.zeros((2, 4, 4, 2), np.uint8)}),
        ("examples.npz", {"row": np.arange(24, 48)}),
        ("examples.npz", {"reconstruction": np.zeros((2, 4, 4, 1), np.uint8)}),
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
    one = tmp_path / "w/screw/bergmann-ssim/seed_1"
    assert html.write(one) == [one / "report.html", tmp_path / "w/report.html"]
    assert "1 of 2 runs" in Document(written[-1].read_text(encoding="utf-8")).text
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no finished run"):
        html.write(tmp_path / "empty")
    with pytest.raises(UsageError, match="none: no such folder"):
        html.write(tmp_path / "none")
    (tmp_path / "empty/model.json").touch()
    with pytest.raises(UsageError, match="is an exported folder, which"):
        html.write(tmp_path / "empty")


@pytest.mark.parametrize(
    ("show", "value", "shown"),
    [
        (markup.amount, 51224188.4, "51,224,188"),
        (markup.amount, 0.0123456, "0.01235"),
        (markup.amount, None, "\N{EN DASH}"),
        (markup.rate, 0.99979, "> 0.999"),
        (markup.rate, 1.0, "1.000"),
        (markup.rate, float("nan"), "\N{EN DASH}"),
        (markup.percent, 0.70731, "70.7 %"),
    ],
)
def test_numbers_have_sensible_precision(show, value, shown):
    assert show(value) == shown


def column(page, i):
    """What the rows that are shown of the images' table sort by."""
    return page.locator("#images tbody tr").evaluate_all(
        "(rows, i) => rows.filter((row) => !row.hidden).map((row) => row.cells[i].dataset.key)", i
    )


def test_in_a_browser_the_page_is_quiet(browser, page, tmp_path):
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    with visit(browser, (tmp_path / "page.html").as_uri()) as shown:
        # the security policy lets the page's own script run
        assert shown.locator("html.js").count() == 1


def test_in_a_browser_it_sorts_and_filters(browser, page, cell, tmp_path):
    _, _, frame, _ = cell
    # without the policy, so that a hostile name could do its worst
    bare = re.sub(r"<meta http-equiv[^>]*>", "", page)
    (tmp_path / "page.html").write_text(bare, encoding="utf-8")
    narrow = {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"}
    with visit(browser, (tmp_path / "page.html").as_uri(), **narrow) as shown:
        widths = shown.locator("img").evaluate_all("all => all.map((each) => each.naturalWidth)")
        assert len(widths) > 50
        assert min(widths) > 0
        down = sorted(frame["distance"], reverse=True)
        heads = shown.locator("#images th")
        assert [float(d) for d in column(shown, 5)] == down
        heads.nth(5).locator("button").click()
        assert [float(d) for d in column(shown, 5)] == down[::-1]
        sorts = [heads.nth(i).get_attribute("aria-sort") for i in range(7)]
        assert sorts == [None, *4 * ["none"], "ascending", "none"]
        heads.nth(6).locator("button").click()
        known = sorted(frame["p_value"].dropna(), reverse=True)
        p = column(shown, 6)
        assert [float(each) for each in p if each] == known
        assert p[len(known) :] == [""] * (len(frame) - len(known))  # unknown ones last
        heads.nth(1).locator("button").click()
        assert [path[:7] for path in column(shown, 1)] == [
            f"test/{i:02}" for i in range(len(frame))
        ]
        form = shown.locator("form[data-table]")
        form.locator("select").first.select_option('scr"atch')
        n = int((frame["defect_kind"] == 'scr"atch').sum())
        assert column(shown, 2) == n * ['scr"atch']
        assert form.locator("output").inner_text() == f"{n} of {len(frame)}"
        form.locator("select").first.select_option("")
        form.locator("input").fill(" SCRIPT>")
        assert len(column(shown, 1)) == frame["path"].str.contains("script>").sum() > 0
        shown.locator("[data-gallery] select").select_option("good")
        cards = shown.locator("article").evaluate_all(
            "all => all.filter((one) => one.checkVisibility()).map((one) => one.dataset.kind)"
        )
        good = frame[(frame["split"] == "test") & (frame["label"] == 0)]
        assert cards == ["good"] * len(good)
        for color in ("rgb(255, 255, 255)", "rgb(20, 23, 28)"):  # light, then dark
            shown.get_by_role("button", name="Theme").click()
            expect(shown.locator("body")).to_have_css("background-color", color)
        # tables scroll, the page does not
        assert shown.evaluate("document.documentElement.scrollWidth") == 390
        assert shown.evaluate("window.hacked === undefined")


def test_in_a_browser_a_long_table_comes_in_pages(browser, cell, tmp_path, monkeypatch):
    folder, _, frame, _ = cell
    monkeypatch.setattr(markup, "ROWS", 10)
    page = html.run_page(html.read_run(folder))
    assert len(Document(page).all("article")) == (frame["split"] == "test").sum()
    # without the policy, so that a hostile name could do its worst
    bare = re.sub(r"<meta http-equiv[^>]*>", "", page)
    (tmp_path / "page.html").write_text(bare, encoding="utf-8")
    down = sorted(frame["distance"], reverse=True)
    with visit(browser, (tmp_path / "page.html").as_uri()) as shown:
        pager = shown.get_by_role("group", name="Pages of Every image")
        before, after = (pager.get_by_role("button", name=name) for name in ("Previous", "Next"))

        def expect_page(distances, said):
            assert [float(d) for d in column(shown, 5)] == pytest.approx(distances, rel=1e-8)
            expect(pager.locator("output")).to_have_text(said)

        expect_page(down[:10], "1 to 10 of 24")
        expect(before).to_be_disabled()
        after.click()
        after.press("Enter")
        expect_page(down[20:], "21 to 24 of 24")
        expect(after).to_be_disabled()
        shown.locator("#images th").nth(5).locator("button").click()
        expect_page(down[:-11:-1], "1 to 10 of 24")
        names = frame.sort_values("distance")["path"].map(markup.visible).tolist()
        cells = shown.locator("#images tbody td:nth-child(2)")
        assert cells.all_text_contents() == names[:10]
        tested = (frame.sort_values("distance")["split"] == "test").tolist()
        pictures = shown.locator("#images tbody tr").evaluate_all(
            "rows => rows.map((row) => row.cells[0].querySelectorAll('a img').length)"
        )
        assert pictures == [int(each) for each in tested[:10]]
        form = shown.locator("form[data-table='images']")
        form.locator("input").fill(" SCRIPT>")
        hostile = frame["path"].str.contains("script>").sum()
        expect(pager.locator("output")).to_have_text(f"1 to {hostile} of {hostile}")
        assert form.locator("output").inner_text() == f"{hostile} of 24"
        form.locator("input").fill("no such name")
        expect_page([], "none")
        assert shown.evaluate("window.hacked === undefined")


def test_a_page_of_thousands_of_images_stays_small(cell):
    n = 4000
    run = html.read_run(cell[0], pictures=False)
    paths = [f"train/good/line_3/part_{i:06}.png" for i in range(n)]
    distances = np.random.default_rng(0).gamma(2, 1e6, n)
    extra = {"l2": distances, "ssim": distances}
    frame = scores_frame(paths, [0] * n, ["good"] * n, ["out-of-fold"] * n, distances, extra)
    page = html.run_page(run._replace(frame=frame))
    assert page.count("<tr>") < markup.ROWS + 100
    assert len(page) < 1e6  # 250 bytes an image
    # what is not drawn stands in the page, to be filtered and sorted
    assert all(path in page for path in (paths[0], paths[-1]))


def test_contents_lead_everywhere_without_a_script(browser, page, tmp_path):
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    narrow = {"viewport": {"width": 390, "height": 844}, "java_script_enabled": False}
    with visit(browser, (tmp_path / "page.html").as_uri(), **narrow) as shown:
        shown.keyboard.press("Tab")
        expect(shown.get_by_role("link", name="Skip to the results")).to_be_focused()
        contents = shown.get_by_role("navigation", name="Sections")
        titles = contents.get_by_role("link").all_text_contents()
        assert titles == shown.locator("main h2").all_text_contents()
        for title in (titles[0], titles[-1]):
            contents.get_by_role("link", name=title).press("Enter")
            expect(shown.get_by_role("heading", name=title, level=2)).to_be_in_viewport()
            expect(contents).to_be_in_viewport()  # it stays at hand


@pytest.mark.parametrize(
    ("n_recurring", "said"),
    [(30, "tiles recur: the nearest"), (3, "0.955: large defects"), (None, "0.955: large defects")],
)
def test_the_audit_says_what_a_near_thumbnail_means(cell, n_recurring, said):
    trivial = {"nearest_thumbnail": 0.955}
    more = {"trivial_auroc": trivial, "n_good": 40, "n_defective": 60, "n_recurring": n_recurring}
    run = html.read_run(cell[0])
    document = Document(html.run_page(run._replace(metrics=run.metrics | more)))
    assert said in document.text
