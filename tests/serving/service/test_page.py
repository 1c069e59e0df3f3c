"""The operator's page: its routes, and what it does in Chromium."""

import dataclasses
import functools
import json
import math
import re

import numpy as np
import page_app
import pytest
from browser import visit
from page_app import image
from playwright.sync_api import expect

from cae_jax.evaluation import thresholds
from cae_jax.reports import charts
from cae_jax.serving.service.history import History

HOSTILE = (
    "<img src=x onerror=window.hacked=1>.png",
    "\u202egnp.sdrawkcab.png",
    "x" * 250 + ".png",
    "'\"&amp;\u2028.png",
)
STRANGE = {"0\n1": r"0\n1", "\udcff": r"\udcff", "a\u00a0b": r"a\xa0b", "日本 ü": "日本 ü"}


def png(name, *args, **kwargs):
    return {"name": name, "mimeType": "image/png", "buffer": image(*args, **kwargs)}


GOOD, SPOT = png("good.png", 0.51), png("spot.png", 0.51, spot=True)


@pytest.fixture
def history():
    return History()


@pytest.fixture
def url(history):
    detectors = {
        "tablet": page_app.detector(),
        "strict": page_app.detector("strict, gray, seed 0", "fedcba9876543210", 0.5),
    }
    with page_app.served(page_app.app(history, detectors)) as address:
        yield address


@pytest.fixture
def service(browser, url):
    with browser.new_context(base_url=url) as context:
        yield context.request


def give(page, *files):
    page.locator("html.ready").wait_for()
    page.locator("#files").set_input_files(list(files))


def fulfill(answer, route):
    route.fulfill(**answer)


def expect_word(page, word):
    expect(page.locator("#word")).to_have_text(word)


def rgba(page, canvas):
    """The colors of a canvas, [H, W, 4]."""
    width, height, data = page.locator(canvas).evaluate(
        "c => [c.width, c.height,"
        " [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]"
    )
    return np.reshape(data, (height, width, 4))


def test_an_image_is_judged_and_shown(browser, url, history):
    with visit(browser, url) as page:
        give(page, SPOT)
        expect_word(page, "defective")
        verdict = page_app.detector().score(SPOT["buffer"])
        told = page.locator(".told").inner_text()
        assert "More unusual than all 39 good parts it was compared with." in told
        shown = dict(zip(page.locator("#facts dt").all_inner_texts(),
                         page.locator("#facts dd").all_inner_texts(), strict=True))  # fmt: skip
        assert shown["score"] == f"{verdict.distance:.4g}"
        assert shown["threshold: defective above it"] == "3"
        assert shown["p-value: share of good parts at least this unusual"] == "0.025"
        # the map on the scale 0..50, in the report's colors, there when the picture is
        expect(page.locator("#picture")).to_have_js_property("naturalWidth", 64)
        levels = np.clip(np.rint(verdict.residual / 50 * 255), 0, 255).astype(int)
        np.testing.assert_array_equal(rgba(page, "#heat")[..., :3], charts.RAMP[levels])
        expect(page.locator("#ticks")).to_have_text("012.52537.5≥ 50")
        page.locator("#opacity").fill("20")
        expect(page.locator("#heat")).to_have_css("opacity", "0.2")
        # the outline's lines, along the pixels' edges, are where the mask begins and ends
        path = page.locator("#outline .over").get_attribute("d")
        lines = re.findall(r"M(\d+) (\d+)([HV])(\d+)", path)
        length = sum(int(end) - int(x if way == "H" else y) for x, y, way, end in lines)
        padded = np.pad(verdict.mask, 1).astype(int)
        assert length == sum(np.abs(np.diff(padded, axis=axis)).sum() for axis in (0, 1)) > 0
        page.get_by_label("Outline of the defect").uncheck()
        expect(page.locator("#outline")).to_be_hidden()
        assert page.locator("#picture").evaluate("i => [i.naturalWidth, i.naturalHeight]") == [
            64, 48]  # fmt: skip
        expect(page.locator("#word")).to_be_visible()
        assert page.locator("[aria-live] #word").count() == 1
    assert [row.name for row in history.rows(5)] == ["spot.png"]


def test_several_are_dropped_or_pasted(browser, url, history):
    make = """async ([kind, names]) => {
      const given = new DataTransfer();
      const canvas = new OffscreenCanvas(8, 8), at = canvas.getContext("2d");
      at.fillStyle = "rgb(128 128 128)";
      at.fillRect(0, 0, 8, 8);
      const content = await canvas.convertToBlob();
      for (const name of names) given.items.add(new File([content], name, { type: "image/png" }));
      const how = { bubbles: true, cancelable: true };
      document.body.dispatchEvent(kind === "drop"
        ? new DragEvent("drop", { ...how, dataTransfer: given })
        : new ClipboardEvent("paste", { ...how, clipboardData: given }));
    }"""
    with visit(browser, url) as page:
        page.locator("html.ready").wait_for()
        page.evaluate(make, ["drop", [f"{i}.png" for i in range(18)]])
        expect(page.locator(".item .badge.good")).to_have_count(16)
        expect(page.locator("#refused")).to_contain_text("18 images came, and 16 are taken at once")
        page.evaluate(make, ["paste", ["pasted.png"]])
        expect(page.locator(".item .badge.good")).to_have_count(17)
        expect(page.locator("#name")).to_have_text("pasted.png")
        expect(page.locator("#refused")).to_be_hidden()
    assert len(history.rows(50)) == 17


def test_of_many_none_is_forgotten(browser, url, history):
    drop = """(content) => {
      for (let i = 0; i < 64; i += 16) {
        const given = new DataTransfer();
        for (let k = i; k < i + 16; k++) given.items.add(new File([new Uint8Array(content)], k));
        document.body.dispatchEvent(new DragEvent("drop", { bubbles: true, dataTransfer: given }));
      }
    }"""
    with visit(browser, url) as page:
        page.locator("html.ready").wait_for()
        page.evaluate(drop, list(GOOD["buffer"]))
        expect(page.locator("#count")).to_have_text("64 of 64 images")
        expect(page.locator(".item .badge.good")).to_have_count(48)
    assert {row.name for row in history.rows(99)} == {str(i) for i in range(64)}


def test_the_camera(browser, url, history):
    with visit(browser, url) as page:
        page.locator("html.ready").wait_for()
        page.evaluate("""() => {
          const { mediaDevices } = navigator, given = mediaDevices.getUserMedia;
          mediaDevices.getUserMedia = () => {
            mediaDevices.getUserMedia = given;
            return Promise.reject(new DOMException("", "NotFoundError"));
          };
        }""")
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("#refused")).to_have_text("The camera cannot be used: there is none.")
        page.get_by_role("button", name="Use the camera").click()
        expect(page.locator("#refused")).to_be_hidden()
        page.get_by_role("button", name="Judge this frame").click()
        expect(page.locator("#word")).to_have_text(re.compile("^(good|defective)$"))
        expect(page.locator("#name")).to_have_text(re.compile(r"camera [\d.]+\.png"))
        page.get_by_role("button", name="Stop the camera").click()
        expect(page.locator("#video")).to_be_hidden()
        assert page.locator("#video").evaluate("v => v.srcObject") is None
    assert history.picture(history.rows(1)[0].id, "picture").startswith(b"\x89PNG")


def test_history_and_review(browser, url, history, tmp_path):
    with visit(browser, url) as page:
        give(page, GOOD, SPOT)
        expect(page.locator("#rows button")).to_have_count(2)
        spot = page.locator("#rows button", has_text="spot.png")
        spot.scroll_into_view_if_needed()  # its picture is fetched when it is seen
        expect(spot.locator("img")).to_be_visible()
        page.locator("#items button", has_text="good.png").press("Enter")
        expect(page.locator("#items button", has_text="good.png")).to_be_focused()
        buttons = page.get_by_role("group", name="Your verdict").get_by_role("button")
        expect(buttons).to_have_text(["Agree", "Missed: it is defective"])
        page.reload()  # what was given is forgotten, the history is not
        spot.click()
        expect_word(page, "defective")
        verdict = page_app.detector().score(SPOT["buffer"])
        levels = np.clip(np.rint(verdict.residual / 50 * 255), 0, 255).astype(int)
        expect(page.locator("#picture")).to_have_js_property("naturalWidth", 64)
        np.testing.assert_array_equal(rgba(page, "#heat")[..., :3], charts.RAMP[levels])
        expect(buttons).to_have_text(["Agree", "False alarm: it is good"])
        buttons.nth(1).press("Enter")
        expect(buttons.nth(1)).to_have_attribute("aria-pressed", "true")
        expect(buttons.nth(1)).to_be_focused()
        expect(spot).to_contain_text("false alarm")
        buttons.nth(0).dblclick()
        expect(spot).to_contain_text("agree")
        expect(buttons.nth(0)).to_have_attribute("aria-pressed", "true")
        buttons.nth(1).click()
        expect(spot).to_contain_text("false alarm")
        assert {row.name: row.review for row in history.rows(5)} == {
            "good.png": "", "spot.png": "false alarm"}  # fmt: skip
        order = [row.name for row in history.rows(5)]
        for label, choice, left in (
            ("Verdict", "good", ["good.png"]),
            ("Verdict", "", ["spot.png", "good.png"]),
            ("Operator", "false alarm", ["spot.png"]),
            ("Operator", "none", ["good.png"]),
            ("Operator", "", ["spot.png", "good.png"]),
        ):
            page.get_by_role("combobox", name=label).select_option(choice)
            expect(page.locator("#rows bdi")).to_have_text(sorted(left, key=order.index))
        page.get_by_label("Filter").fill(" SPOT ")
        expect(page.locator("#rows bdi")).to_have_text(["spot.png"])
        expect(page.locator("#count")).to_have_text("1 of 2 images")
        with page.expect_download() as download:
            page.get_by_role("button", name="Download all as CSV").click()
        download.value.save_as(tmp_path / "history.csv")
    assert (tmp_path / "history.csv").read_text() == "\ufeff" + "".join(history.csv())
    assert ",false alarm\n" in (tmp_path / "history.csv").read_text()


def test_the_chart_shows_drift(browser, url, history):
    verdict = page_app.detector().score(image(0.52))._replace(distance=2.99, defective=False)
    files = [image(0.5)] * 3
    for i in range(20):
        history.record("tablet", "0123456789abcdef", f"{i}", verdict, *files)
    with visit(browser, url) as page:
        expect(page.locator("#drift")).to_contain_text("20 of the last 20 scores lie above")
        expect(page.locator("#chart circle.good")).to_have_count(20)
        band, line = page.locator("#chart rect"), page.locator("#chart line.honest")
        dot = float(page.locator("#chart circle").first.get_attribute("cy"))
        top, height = (float(band.get_attribute(name)) for name in ("y", "height"))
        threshold = float(line.get_attribute("y1"))
        # an even scale: 3 the threshold, 2.9474 the band's top, 1.0526 its bottom
        assert (dot - threshold) / height == pytest.approx(0.01 / (36 / 19), rel=1e-6)
        assert (top - threshold) / height == pytest.approx((1 / 19) / (36 / 19), rel=1e-6)
        page.locator("#chart circle").nth(3).click(force=True)
        expect(page.locator("#name")).to_have_text("3")  # oldest first
        page.get_by_label("Model").select_option("strict")
        expect(page.locator("#title")).to_have_text("strict, gray, seed 0")
        expect(page.locator("#rows button")).to_have_count(0)
        expect(page.locator("#drift")).to_be_hidden()
        history.record("strict", "older", "old", verdict, *files)
        give(page, GOOD)
        expect_word(page, "defective")  # above this model's 0.5
        expect(page.locator("#rows button")).to_have_count(2)
        expect(page.locator("#ticks")).to_contain_text("≥ 50")
        # of an older version neither is the scale known, nor is its score one of this chart
        page.locator("#rows button", has_text="old").click()
        expect(page.locator("#ticks")).to_have_text("lowhigh")
        expect(page.locator("#chart circle")).to_have_count(1)
    assert [row.model for row in history.rows(2)] == ["strict", "strict"]


def test_a_new_version_begins_a_new_chart(browser, history):
    detectors = {"tablet": page_app.detector()}
    with page_app.served(page_app.app(history, detectors)) as url, visit(browser, url) as page:
        give(page, GOOD)
        expect(page.locator("#chart circle")).to_have_count(1)
        detectors["tablet"] = page_app.detector(version="fedcba9876543210", threshold=7.0)
        expect(page.locator("#about")).to_contain_text("threshold 7")
        expect(page.locator("#chart circle")).to_have_count(0)


def test_dark_and_on_a_phone(browser, url):
    with visit(browser, url, viewport={"width": 390, "height": 844}, color_scheme="dark") as page:
        give(page, png("x" * 200, 0.51, spot=True), GOOD)
        expect(page.locator("#rows button")).to_have_count(2)
        expect_word(page, "defective")
        expect(page.locator("body")).to_have_css("background-color", "rgb(20, 23, 28)")
        page.get_by_role("button", name="Theme").click()
        expect(page.locator("body")).to_have_css("background-color", "rgb(255, 255, 255)")
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_hostile_names_do_nothing(browser, url, history):
    with visit(browser, url) as page:
        give(page, *(png(name, 0.51) for name in HOSTILE))
        expect(page.locator(".item .badge.good")).to_have_count(len(HOSTILE))
        expect(page.locator("#rows button")).to_have_count(len(HOSTILE))
        for where in ("#items bdi", "#rows bdi"):
            shown = "".join(page.locator(where).all_text_contents())
            assert "<img src=x onerror=window.hacked=1>.png" in shown
            assert r"\u202egnp.sdrawkcab.png" in shown
            assert not set(shown) & {"\u202e", "\u2028"}
        assert page.evaluate("window.hacked === undefined")
        assert page.locator("img[onerror]").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        code = "async (texts) => { const { visible } = await import('/page/static/display.js');"
        said = page.evaluate(code + "return texts.map(visible); }", list(STRANGE)[:1])
        assert said == list(STRANGE.values())[:1]
        inert = page.evaluate(code + r"return ['\udcff', 'a\u00a0b', '日本 ü'].map(visible); }")
        assert inert == list(STRANGE.values())[1:]


def test_what_goes_wrong_is_said_at_the_image(browser, url, history):
    busy = {"status": 503, "json": {"error": "too much to do"}, "headers": {"Retry-After": "2"}}
    answers = (
        (busy, "503: too much to do: the service is busy, try again in 2 s"),
        ({"status": 413, "json": {"error": "9 MB, allowed are 8"}}, "413: 9 MB, allowed are 8"),
        ({"status": 500, "body": "<h1>no JSON</h1>"}, "500: "),
    )
    quiet = ("Failed to load resource",)  # what Chromium itself logs of such an answer
    with visit(browser, url, quiet) as page:
        for answer, said in answers:
            page.route("**/predict?*", functools.partial(fulfill, answer))
            give(page, GOOD)
            expect(page.locator("#meaning")).to_contain_text(said)
            expect(page.locator("#items .trouble").first).to_contain_text(said)
            expect(page.locator("#items .trouble").first).to_be_in_viewport(ratio=1)
        page.route("**/predict?*", lambda route: route.abort())
        give(page, GOOD)
        expect(page.locator("#meaning")).to_contain_text("The service cannot be reached")
        page.unroute("**/predict?*")
        give(page, {"name": "text.png", "mimeType": "image/png", "buffer": b"no image"})
        expect(page.locator("#meaning")).to_contain_text("415: ")
        page.locator("#items button").nth(1).click()  # the one that found no network, once more
        page.get_by_role("button", name="Try again").click()
        expect_word(page, "good")
        expect(page.locator("#items .badge.failed")).to_have_count(4)
        page.route("**/page/review", lambda route: route.abort())
        page.get_by_role("button", name="Agree").click()
        expect(page.locator("#review-trouble")).to_contain_text("The service cannot be reached")
        expect(page.get_by_role("button", name="Agree")).to_have_attribute("aria-pressed", "false")
    assert [row.review for row in history.rows(9)] == [""]


def test_a_token_is_asked_for(browser, history):
    application = page_app.app(history, {"tablet": page_app.detector()}, token="secret")
    with page_app.served(application) as url, visit(browser, url, ("401",)) as page:
        for token, said in (("wrong", ""), ("secret", "That token was refused.")):
            expect(page.locator("#token-said")).to_have_text(said)
            page.get_by_role("textbox", name="Token").fill(token)
            page.get_by_role("button", name="Use it").click()
        give(page, SPOT)
        expect_word(page, "defective")
        page.locator("#rows button").click()
        expect(page.locator("#picture")).to_have_js_property("naturalWidth", 64)
        page.evaluate("sessionStorage.clear()")
        page.reload()
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#trouble")).to_contain_text("asks for a token, and none was given.")


def test_the_page_says_what_python_says(browser, url):
    """words.js has the sentences and p-values of words.py."""
    asked = [[bad, page_app.p_value(k, n) if n else None, n] for bad, k, n, _ in page_app.SENTENCES]
    unseen = [1.0, 2.0, 2.0, 3.0]
    scores = [0.5, 1.0, 2.0, 2.5, 3.0, 3.5]
    code = """async ([asked, unseen, scores]) => {
      const { sentence, pValue } = await import("/page/static/words.js");
      return [asked.map((each) => sentence(...each)), scores.map((each) => pValue(unseen, each))];
    }"""
    with visit(browser, url) as page:
        sentences, found = page.evaluate(code, [asked, unseen, scores])
    assert sentences == [each[-1] for each in page_app.SENTENCES]
    assert found == thresholds.p_values(unseen, scores).tolist()


def test_routes(service, history):
    answer = service.get("/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert not re.search(r"\son\w+=|style=|<script>|https?://", answer.text())
    served = service.get("/page/models").json()["models"]
    assert [each["name"] for each in served] == ["tablet", "strict"]
    assert served[0]["band"] == pytest.approx([1 + 1 / 19, 3 - 1 / 19])
    assert (served[0]["n"], served[0]["threshold"], served[0]["scale"]) == (39, 3.0, 50.0)
    verdict = page_app.detector().score(image(1.0))
    never = dataclasses.replace(verdict.threshold, value=math.inf)
    strange = verdict._replace(p_value=math.nan, threshold=never)
    id = history.record("tablet", "v", "a", strange, b"GIF89a", b"\x89PNG", b"\xff\xd8\xff")
    row = service.get("/page/history?model=tablet").json()["rows"][0]
    assert (row["id"], row["p_value"]) == (id, None)
    assert row["threshold"] == "inf"
    kinds = [service.get(f"/page/pictures/{id}/{part}") for part in ("picture", "map", "mask")]
    assert [answer.status for answer in kinds] == [404, 200, 200]
    assert [a.headers["content-type"] for a in kinds[1:]] == ["image/png", "image/jpeg"]
    refused = {
        "/page/static/page.html": 404,
        "/page/static/..%2fpage.py": 404,
        "/page/pictures/nobody/map": 404,
        f"/page/pictures/{id}/id": 422,
        "/page/history?verdict=bad": 400,
    }
    assert {path: service.get(path).status for path in refused} == refused
    # no page of another address can send JSON without being asked for leave
    body = json.dumps({"id": id, "review": "agree"})
    plain = service.post("/page/review", data=body, headers={"Content-Type": "text/plain"})
    assert plain.status == 422
    for said in ({"id": id, "review": "missed"}, {"id": "nobody", "review": "agree"}):
        answer = service.post("/page/review", data=said)
        assert answer.status == 400
        assert set(answer.json()) == {"error"}
