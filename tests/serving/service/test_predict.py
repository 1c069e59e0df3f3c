"""/predict: what comes back of one image, of many, of bad ones, and when there is no room."""

import asyncio
import base64
import io
import threading

import fake_service
import numpy as np
import pytest
from fake_service import client, parts, png
from PIL import Image

from cae_jax.data import images
from cae_jax.data.frame import Frame
from cae_jax.runs import frames
from cae_jax.serving.service.answers import FAILED
from cae_jax.serving.service.history import History
from cae_jax.types import DataError


def ask(app, *requests, path="/predict"):
    """The answers to requests (keywords of httpx's post), sent one after the other."""

    async def all_of_them():
        async with client(app) as asked:
            return [await asked.post(path, **request) for request in requests]

    return asyncio.run(all_of_them())


IMAGE = {"Content-Type": "image/png"}


def test_one_image_as_the_body():
    with fake_service.service() as app:
        (answer,) = ask(app, {"content": png(204), "headers": IMAGE})
    assert answer.status_code == 200
    found = answer.json()
    assert found["model"] == {
        "name": "fake",
        "title": "fake, seed 0",
        "version": "",
        "distance": "level",
        "image_size": 16,
    }
    (result,) = found["results"]
    assert result["score"] == pytest.approx(80)
    assert (result["status"], result["defective"], result["threshold"]) == (200, True, 50)
    assert result["p_value"] == pytest.approx(1 / 5)
    assert result["name"] == "image"
    assert result["milliseconds"] > 0
    assert not {"map", "mask", "size", "error"} & result.keys()


def test_maps_on_request():
    with fake_service.service() as app:
        (answer,) = ask(
            app,
            {"files": parts(png(51, (20, 30)), png(255)), "params": {"map": 1}},
        )
    first, second = answer.json()["results"]
    assert (first["size"], second["size"]) == ([20, 30], [16, 16])
    for result, level, mask in ((first, 51, 0), (second, 255, 255)):
        for key, wanted in (("map", level), ("mask", mask)):
            head, _, data = result[key].partition(",")
            assert head == "data:image/png;base64"
            image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
            assert image.shape == (16, 16)
            assert (image == wanted).all()


def test_bad_images_among_good_ones_have_their_own_status():
    bad = {"empty": b"", "text": b"no image", "cut": png(9)[:40], "black": png(0)}
    with fake_service.service(max_pixels=300) as app:
        (answer,) = ask(app, {"files": parts(png(51), *bad.values(), png(102), png(9, (17, 18)))})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [each["status"] for each in results] == [200, 400, 400, 400, 422, 200, 400]
    assert [each["name"] for each in results] == [f"{i}.png" for i in range(7)]
    assert [results[i]["score"] for i in (0, 5)] == pytest.approx([20, 40])
    assert results[1]["error"] == "is empty (0 bytes)"
    assert "not finite" in results[4]["error"]
    assert "18 x 17 pixels; the limits are 131071 a side and 300 in all" in results[6]["error"]


def test_an_image_that_is_squeezed_is_judged_with_a_warning(capsys):
    with fake_service.service() as app:
        sizes = [(16, 16), (24, 16), (48, 16), (16, 60)]  # (height, width)
        (answer,) = ask(app, {"files": parts(*(png(51, size) for size in sizes))})
    results = answer.json()["results"]
    assert [each["status"] for each in results] == [200] * 4
    assert ["warning" in each for each in results] == [False, False, True, True]
    said = "the image is squeezed, of 48 x 16 pixels (height x width) into 16 x 16, 3 : 1"
    assert results[2]["warning"].startswith(said)
    assert capsys.readouterr().err.count("warning: model fake: the image is squeezed") == 1


def test_no_answer_names_a_file_of_the_server(tmp_path, capsys):
    """A history that is gone, and a mask that an image does not fit: only the log says where."""
    history = History(tmp_path / "h.db")
    with fake_service.service(history=history) as app:
        (answer,) = ask(app, {"content": png(51), "headers": IMAGE})
        (tmp_path / "h.db").unlink()
        review = {"id": answer.json()["results"][0]["id"], "review": "agree"}
        (gone,) = ask(app, {"json": review}, path="/page/review")
    history.close()
    assert (gone.status_code, gone.json()) == (500, {"error": FAILED})
    assert f"{tmp_path / 'h.db'}: was removed" in capsys.readouterr().err
    mask = tmp_path / "mask.png"
    mask.write_bytes(png(255))
    frame = frames.frame(Frame(16), {"roi": str(mask), "ignore": ""}, None)
    with pytest.raises(DataError, match="the mask of --roi is 16 x 16 pixels") as caught:
        images.seen(png(51, (17, 18)), frame)
    assert str(tmp_path) not in str(caught.value)


def test_one_bad_image_as_the_body_is_a_bad_request():
    with fake_service.service() as app:
        bad, black = ask(
            app,
            {"content": b"no image", "headers": IMAGE},
            {"content": png(0), "headers": IMAGE},
        )
    assert (bad.status_code, black.status_code) == (400, 422)
    assert bad.json()["error"].startswith("is a text file")


def test_sixteen_are_judged_and_seventeen_are_not():
    levels = [10 * (i + 1) for i in range(17)]
    with fake_service.service() as app:
        some, many = ask(
            app,
            {"files": parts(*map(png, levels[:16]))},
            {"files": parts(*map(png, levels))},
        )
    scores = [each["score"] for each in some.json()["results"]]
    assert scores == pytest.approx([100 * level / 255 for level in levels[:16]])
    assert many.status_code == 413
    assert many.json() == {"error": "more than 16 images in one request"}


def test_a_model_is_named_where_there_are_several():
    with fake_service.service(names=("one", "two")) as app:
        none, two, other = ask(
            app,
            {"content": png(51), "headers": IMAGE},
            {"content": png(51), "headers": IMAGE, "params": {"model": "two"}},
            {"content": png(51), "headers": IMAGE, "params": {"model": "tow\n"}},
        )
    assert two.json()["model"]["name"] == "two"
    assert (none.status_code, other.status_code) == (404, 404)
    assert none.json()["error"] == "say which model: model=NAME, of one, two"
    assert other.json()["error"].startswith(r"unknown model 'tow\n': did you mean two?")


def test_a_file_name_is_a_label_and_no_more():
    names = ["../../etc/passwd", "a" * 500, "nul\x01bell\u202e.png", "größe.png", ""]
    with fake_service.service() as app:
        (answer,) = ask(
            app, {"files": [("image", (name, png(51), "image/png")) for name in names[:4]]}
        )
    found = [each["name"] for each in answer.json()["results"]]
    assert found[0] == "../../etc/passwd"
    assert found[1] == "a" * 200
    assert found[2].endswith("bell?.png")
    assert found[2].isprintable()
    assert found[3] == "größe.png"


def test_no_room_is_503_and_room_again_is_200():
    begun, opened = threading.Event(), threading.Event()
    opened.set()  # for the warm-up

    def call(pixels):
        begun.set()
        assert opened.wait(30)
        return fake_service.mean_level(pixels)

    async def crowd(app):
        opened.clear()
        begun.clear()
        async with client(app) as asked:
            held = asyncio.create_task(asked.post("/predict", files=parts(*[png(51)] * 16)))
            await asyncio.to_thread(begun.wait, 30)
            refused = await asked.post("/predict", files=parts(png(51)))
            metrics = (await asked.get("/metrics")).text
            opened.set()
            done = await held
            again = await asked.post("/predict", files=parts(png(51)))
        return refused, metrics, done, again

    with fake_service.service(call, queue=16) as app:
        refused, metrics, done, again = asyncio.run(crowd(app))
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.json() == {"error": "16 images are under way; come again in a second"}
    assert 'model_images_in_flight{model="fake"} 16.0' in metrics
    assert [each["status"] for each in done.json()["results"]] == [200] * 16
    assert again.status_code == 200


def test_a_failure_of_the_server_is_said_in_one_line(capsys):
    def call(pixels):
        if (pixels != 0.5).any():  # not the warm-up
            raise RuntimeError("out of\nmemory")
        return fake_service.mean_level(pixels)

    with fake_service.service(call) as app:
        (answer,) = ask(app, {"files": parts(png(51))})
    (result,) = answer.json()["results"]
    assert (result["status"], result["error"]) == (500, "the server failed; its log says how")
    assert "model fake: 0.png: RuntimeError: out of memory\n" in capsys.readouterr().err


def test_the_history_hears_of_each_image():
    class History:
        rows = ()

        def record(self, *row):
            self.rows += (row,)

    history = History()
    with fake_service.service(history=history) as app:
        (answer,) = ask(app, {"files": parts(png(204, (30, 60)), b"bad")})
    ((model, version, name, verdict, picture, residual, mask, id),) = history.rows
    assert answer.json()["results"][0]["id"] == id
    assert (model, version, name) == ("fake", "", "0.png")
    assert verdict.distance == pytest.approx(80)
    images = [np.asarray(Image.open(io.BytesIO(each))) for each in (picture, residual, mask)]
    assert [image.shape for image in images] == [(8, 16), (16, 16), (16, 16)]
    assert [int(image[0, 0]) for image in images] == [204, 204, 255]


def test_a_history_that_fails_takes_no_verdict_away(capsys):
    class Full:
        def record(self, *_):
            raise DataError("history.sqlite: cannot be written: no space left")

    with fake_service.service(history=Full()) as app:
        (answer,) = ask(app, {"files": parts(png(204))})
    (result,) = answer.json()["results"]
    assert (result["status"], result["defective"]) == (200, True)
    assert "0.png: not in the history: history.sqlite: cannot be" in capsys.readouterr().err
