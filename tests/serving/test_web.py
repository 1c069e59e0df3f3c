"""The page without a server: in Chromium it says of an image what ONNX Runtime says in Python."""

import io

import numpy as np
import onnx
import onnxruntime
import page_app
import pytest
from browser import visit
from onnx import TensorProto, helper
from PIL import Image
from playwright.sync_api import expect
from static_files import static

from cae_jax.data import images
from cae_jax.data.frame import Area, Frame
from cae_jax.evaluation import thresholds
from cae_jax.serving import onnxruntime_web, web
from cae_jax.serving.service import words
from cae_jax.types import DataError, UsageError

SIDE = page_app.SIDE


def model(channels):
    """ONNX: image -> resized with antialiasing -> how far its channels' mean is from gray, times
    100: the map; its mean is the score, defective above 3, as `page_app.detector` judges."""
    node, shaped = helper.make_node, helper.make_tensor_value_info
    numbers = {"half": 0.5, "hundred": 100.0, "three": 3.0, "low": 25.0}
    constants = [helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in numbers.items()]
    lists = {"sizes": [1, channels, SIDE, SIDE], "channel": [1], "sides": [1, 2]}
    constants += [helper.make_tensor(n, TensorProto.INT64, [len(v)], v) for n, v in lists.items()]
    nodes = [
        node("Transpose", ["image"], ["first"], perm=[0, 3, 1, 2]),
        node("Resize", ["first", "", "", "sizes"], ["small"], mode="linear", antialias=1),
        node("ReduceMean", ["small", "channel"], ["gray"], keepdims=0),
        node("Sub", ["gray", "half"], ["apart"]),
        node("Abs", ["apart"], ["far"]),
        node("Mul", ["far", "hundred"], ["map"]),
        node("ReduceMean", ["map", "sides"], ["score"], keepdims=0),
        node("Greater", ["score", "three"], ["defective"]),
        node("Greater", ["map", "low"], ["mask"]),
    ]
    inputs = [shaped("image", TensorProto.FLOAT, [1, "H", "W", channels])]
    outputs = [
        shaped("score", TensorProto.FLOAT, [1]),
        shaped("defective", TensorProto.BOOL, [1]),
        shaped("map", TensorProto.FLOAT, [1, SIDE, SIDE]),
        shaped("mask", TensorProto.BOOL, [1, SIDE, SIDE]),
    ]
    graph = helper.make_graph(nodes, "gray", inputs, outputs, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def file_of(array, kind="PNG", **how):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=kind, **how)
    return buffer.getvalue()


def pictures():
    """Files by name: gray and color, odd sizes, turned by EXIF, with a color profile, JPEG."""
    rng = np.random.default_rng(0)
    smooth = np.clip(np.add.outer(np.arange(37), np.arange(53)) * 1.2 + 70, 0, 255)
    color = np.stack([smooth, smooth[::-1], rng.integers(0, 256, smooth.shape)], -1)
    color = color.astype(np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    blocks = np.kron(rng.integers(90, 160, (5, 7, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    return {
        "color.png": file_of(color),
        "gray.png": file_of(smooth.astype(np.uint8)),
        "good.png": file_of(np.full((9, 40, 3), 127, np.uint8)),
        "color.bmp": file_of(color, "BMP"),
        "turned.jpg": file_of(blocks, "JPEG", quality=95, subsampling=0, exif=turned),
    }


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """The files of ONNX Runtime, from the cache or the registry: without them the page is not."""
    folder = tmp_path_factory.mktemp("runtime")
    try:
        found = onnxruntime_web.files()
    except DataError as error:
        if "cannot be had" not in str(error):
            raise
        pytest.skip(f"npm's registry is out of reach: {error}")
    for name, content in found.items():
        (folder / name).write_bytes(content)
    return folder


def python_says(content, channels, frame=None):
    session = onnxruntime.InferenceSession(model(channels), providers=["CPUExecutionProvider"])
    image = images.decode(content, frame or Frame(None, channels))[None]
    names = ("score", "defective", "map", "mask")
    return dict(zip(names, session.run(names, {"image": image}), strict=True))


def written(folder, runtime, channels, score=None, frame=None):
    folder.mkdir()
    (folder / "in.onnx").write_bytes(model(channels))
    sample = pictures()["color.png"]
    said = python_says(sample, channels, frame)
    expected = {name: said[name][0] for name in ("score", "defective")}
    expected |= {} if score is None else {"score": score}
    of = page_app.detector()
    about = of.model._replace(channels=channels, looks=frame)
    web.write(folder / "web", folder / "in.onnx", about, of.judge, sample, expected, runtime)
    return folder / "web"


def judged(page, files):
    """[score, defective] of each file, or what is wrong with it, as model.js has it."""
    code = """async (files) => {
      const { Model } = await import("./model.js");
      const model = await Model.load(await (await fetch("about.json")).json(), "model.onnx");
      const said = [];
      for (const each of files)
        said.push(await model.judge(new Blob([new Uint8Array(each)])).then(
          ({ score, defective }) => [score, defective], (error) => error.message));
      return said;
    }"""
    return page.evaluate(code, [list(each) for each in files])


def check_scores(page, channels):
    """Without loss scores are equal but for float32's last digits; JPEG decoders may differ."""
    files, verdicts = pictures(), set()
    for name, (score, defective) in zip(files, judged(page, files.values()), strict=True):
        said = python_says(files[name], channels)
        close = 1e-3 if name.endswith("jpg") else 1e-6
        # abs: 100 times what a gray level in float32 may be off by
        assert score == pytest.approx(float(said["score"][0]), rel=close, abs=1e-5)
        assert defective == bool(said["defective"][0])
        verdicts.add(defective)
    assert verdicts == {False, True}


def test_the_browser_says_what_python_says(browser, runtime, tmp_path):
    """Of a model of gray images, which asks for Pillow's luma."""
    folder = written(tmp_path / "out", runtime, 1)
    with static(folder) as url, visit(browser, url) as page:
        expect(page.locator("#selftest.good")).to_contain_text("Self-test passed")
        page.locator("html.ready").wait_for()
        for name, content in pictures().items():
            page.locator("#files").set_input_files(
                [{"name": name, "mimeType": "application/octet-stream", "buffer": content}]
            )
            said = python_says(content, 1)
            defective, score = bool(said["defective"][0]), float(said["score"][0])
            expect(page.locator("#name")).to_have_text(name)
            expect(page.locator("#word")).to_have_text("defective" if defective else "good")
            shown = float(page.locator("#facts dd").first.inner_text())
            assert shown == pytest.approx(score, rel=1e-3)  # of what is shown: four digits
            p = float(thresholds.p_values(page_app.UNSEEN, [score])[0])
            verdict = page_app.detector().score(content)._replace(defective=defective, p_value=p)
            sentence = words.sentence(verdict, len(page_app.UNSEEN)).split(": ")[1]
            expect(page.locator("#meaning")).to_have_text(sentence[0].upper() + sentence[1:])
        page.locator("#items button", has_text="gray.png").click()
        expect(page.locator("#picture")).to_have_attribute("alt", "image gray.png")
        heat = page.locator("#heat").evaluate(
            "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        )
        expected = page_app.colors(python_says(pictures()["gray.png"], 1)["map"][0])
        np.testing.assert_allclose(np.reshape(heat, (SIDE, SIDE, 4))[..., :3], expected, atol=4)
        check_scores(page, 1)


def test_in_color_and_what_a_browser_would_alter(browser, runtime, tmp_path):
    deep = file_of(np.full((8, 8), 30000, np.uint16))
    clear = file_of(np.full((8, 8, 4), 100, np.uint8))
    plain, turned, frames = Image.new("RGB", (8, 9)), io.BytesIO(), io.BytesIO()
    plain.save(turned, "JPEG", xmp=b'<rdf:Description tiff:Orientation="6"/>')
    plain.save(frames, "PNG", save_all=True, append_images=[Image.new("RGB", (8, 9), "red")])
    files = {
        "16-bit": deep,
        "transparent": clear,
        "XMP": turned.getvalue(),
        "several frames": frames.getvalue(),
        "PNG, JPEG": b"GIF89a",
        "damaged": b"\x89PNG\r\n broken",
    }
    folder = written(tmp_path / "out", runtime, 3)
    with static(folder) as url, visit(browser, url) as page:
        page.locator("html.ready").wait_for()
        check_scores(page, 3)
        said = judged(page, list(files.values()))
    for line, cause in zip(said, files, strict=True):
        assert cause in line


IGNORED = np.add.outer(np.arange(37), 2 * np.arange(53)) % 60 > 9
FRAMES = {
    "pad": Frame((24, 32), 3, resize="pad"),
    "pad, gray, a part": Frame(40, 1, resize="pad", roi=(3, 2, 41, 30)),
    "crop": Frame((21, 16), 3, resize="crop"),
    "crop, a part": Frame((33, 50), 1, resize="crop", roi=(1, 0, 50, 37)),
    "none, a part": Frame((30, 20), 3, resize="none", roi=(7, 5, 20, 30)),
    "masks": Frame((19, 31), 3, areas=(Area("ignore", IGNORED),)),
    "masks, pad": Frame(
        64, 1, resize="pad", areas=(Area("roi", IGNORED), Area("ignore", IGNORED[::-1])),
    ),
    "larger": Frame((80, 100), 1, roi=(0, 4, 53, 21)),
}  # fmt: skip


def test_images_are_brought_to_their_frame_as_python_does(browser, runtime, tmp_path):
    """The pixels, what counts, and what is refused; the model that takes them judges as well."""
    content, small = pictures()["color.png"], file_of(np.zeros((9, 9, 3), np.uint8))
    code = """async ([about, file]) => {
      const [{ placed }, { pixels }] = [await import("./frame.js"), await import("./model.js")];
      const { channels, frame, image_size } = about;
      const image = await pixels(new Blob([new Uint8Array(file)]), channels);
      try { return [...placed(image, channels, frame, image_size).data]; }
      catch (error) { return error.message; }
    }"""
    folder = written(tmp_path / "out", runtime, 1)
    with static(folder) as url, visit(browser, url) as page:
        page.locator("html.ready").wait_for()
        for name, frame in FRAMES.items():
            about = {"channels": frame.channels, "frame": web.framed(frame)}
            about |= {"image_size": list(frame.size)}
            wanted = images.seen(content, frame)
            found = np.reshape(page.evaluate(code, [about, list(content)]), wanted.shape)
            np.testing.assert_allclose(found, wanted, atol=3e-7, err_msg=name)
            if frame.roi or frame.areas:
                with pytest.raises(DataError):
                    images.seen(small, frame)
                assert page.evaluate(code, [about, list(small)])[:2] == "--"


def test_a_map_lies_where_its_image_is(browser, runtime, tmp_path):
    """Of the page itself: a part of an image is judged, and map and mask are shown over it."""
    frame = Frame(SIDE, 1, roi=(20, 8, 24, 16))
    folder = written(tmp_path / "out", runtime, 1, frame=frame)
    levels = np.full((37, 53), 127, np.uint8)
    levels[8:24, 20:44] = 200
    content = file_of(levels)
    code = """async (file) => {
      const { Model } = await import("./model.js");
      const model = await Model.load(await (await fetch("about.json")).json(), "model.onnx");
      const { score, map, mask } = await model.judge(new Blob([new Uint8Array(file)]));
      return [score, [mask.height, mask.width], [...mask.data], [map.height, map.width]];
    }"""
    with static(folder) as url, visit(browser, url) as page:
        page.locator("html.ready").wait_for()
        score, shape, mask, map_shape = page.evaluate(code, list(content))
    assert score == pytest.approx(100 * (200 / 255 - 0.5), rel=1e-5)
    assert shape == map_shape == [37 * SIDE // 16, round(53 * SIDE / 24)]
    down, along = (np.arange(n) + 0.5 for n in shape)  # the middles of pixels, in those of the file
    y, x = np.meshgrid(down * 37 / shape[0], along * 53 / shape[1], indexing="ij")
    inside = (y >= 8) & (y < 24) & (x >= 20) & (x < 44)
    np.testing.assert_array_equal(np.reshape(mask, shape).astype(bool), inside)


def test_a_browser_that_computes_otherwise_judges_nothing(browser, runtime, tmp_path):
    folder = written(tmp_path / "out", runtime, 1, score=1.0)
    with static(folder) as url, visit(browser, url) as page:
        failed = page.locator("#selftest.defective")
        expect(failed).to_contain_text("Self-test failed")
        expect(failed).to_contain_text("Python said 1. Nothing is judged.")
        assert page.locator("html.ready").count() == 0


def test_a_model_too_large_for_a_browser_is_refused(runtime, tmp_path, monkeypatch):
    (tmp_path / "in.onnx").write_bytes(b"0" * 3_000_000)
    monkeypatch.setattr(web, "LARGEST", 2_000_000)
    of = page_app.detector()
    with pytest.raises(UsageError, match=r"in\.onnx has 3 MB, more than the 2 MB that a browser"):
        web.write(tmp_path / "web", tmp_path / "in.onnx", of.model, of.judge, b"", {}, runtime)
    assert not (tmp_path / "web").exists()


def test_opened_as_a_file_it_says_what_to_do(browser, runtime, tmp_path):
    folder = written(tmp_path / "out", runtime, 1)
    with visit(browser, (folder / "index.html").as_uri(), ("CORS", "ERR_FAILED")) as page:
        expect(page.locator("#as-file")).to_be_visible()
        expect(page.locator("#as-file")).to_contain_text("python -m http.server")
        expect(page.locator("#intake")).to_be_hidden()
