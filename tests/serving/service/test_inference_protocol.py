"""The Open Inference Protocol: metadata, inference as JSON and as bytes, and what it refuses."""

import asyncio
import contextlib
import json

import fake_service
import numpy as np
import pytest
from fake_service import client

LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def app():
    with fake_service.service(channels=3, max_pixels=1000) as made:
        yield made


def ask(app, *requests):
    async def all_of_them():
        async with client(app) as asked:
            return [
                await asked.request("POST" if more else "GET", f"/v2{path}", **more)
                for path, more in requests
            ]

    return asyncio.run(all_of_them())


def tensor(values, datatype="UINT8", **more):
    return {"name": "image", "shape": list(values.shape), "datatype": datatype, **more}


def infer(app, body):
    (answer,) = ask(app, ("/models/fake/infer", {"content": json.dumps(body)}))
    return answer


def test_health_and_metadata(app):
    server, live, ready, model, its_ready, other, version = ask(
        app,
        ("", {}),
        ("/health/live", {}),
        ("/health/ready", {}),
        ("/models/fake", {}),
        ("/models/fake/ready", {}),
        ("/models/none", {}),
        ("/models/fake/versions/1", {}),
    )
    assert server.json()["name"] == "cae_jax"
    assert server.json()["extensions"] == ["binary_tensor_data"]
    assert (live.status_code, live.json()) == (200, {"live": True})
    assert (ready.status_code, its_ready.json()) == (200, {"name": "fake", "ready": True})
    found = model.json()
    assert found["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    outputs = {each["name"]: (each["datatype"], each["shape"]) for each in found["outputs"]}
    assert outputs == {
        "score": ("FP32", [-1]),
        "defective": ("BOOL", [-1]),
        "p_value": ("FP64", [-1]),
        "map": ("FP32", [-1, 16, 16]),
    }
    assert (other.status_code, version.status_code) == (404, 404)
    assert other.json() == {"error": "unknown model 'none': known: fake"}


def test_inference_of_json(app):
    levels = np.array([51, 204], np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (2, 8, 9, 3))
    for data in (images.ravel().tolist(), images.tolist()):
        answer = infer(app, {"id": "\ud800 42", "inputs": [tensor(images, data=data)]})
        assert answer.status_code == 200
        found = answer.json()
        assert (found["model_name"], found["id"]) == ("fake", "\ud800 42")
        outputs = {each["name"]: each for each in found["outputs"]}
        assert list(outputs) == ["score", "defective", "p_value"]
        assert outputs["score"]["data"] == pytest.approx([20, 80])
        assert outputs["score"]["shape"] == [2]
        assert outputs["defective"]["data"] == [False, True]
        assert outputs["p_value"]["data"][1] == pytest.approx(0.2)
    one = {"inputs": [tensor(images[1], data=images[1].tolist())], "outputs": [{"name": "map"}]}
    (output,) = infer(app, one).json()["outputs"]
    assert output["shape"] == [1, 16, 16]
    np.testing.assert_allclose(output["data"], 0.8, rtol=1e-6)


def test_inference_of_bytes(app):
    images = np.stack([np.full((5, 7, 3), level, "<f4") for level in (0.25, 0.75)])
    for asked in ({}, {"outputs": [{"name": "score"}, {"name": "defective"}]}):
        size = {"binary_data_size": images.nbytes}
        head = {
            "inputs": [tensor(images, "FP32", parameters=size)],
            "parameters": {"binary_data_output": True},
            **asked,
        }
        text = json.dumps(head).encode()
        headers = {LENGTH: str(len(text))}
        body = {"content": text + images.tobytes(), "headers": headers}
        (answer,) = ask(app, ("/models/fake/infer", body))
        assert answer.status_code == 200, answer.text
        n = int(answer.headers[LENGTH])
        tail = answer.content[n:]
        score, defective = json.loads(answer.content[:n])["outputs"][:2]
        assert score["parameters"] == {"binary_data_size": 8}
        assert np.frombuffer(tail[:8], "<f4") == pytest.approx([25, 75])
        assert defective["parameters"] == {"binary_data_size": 2}
        assert tail[8:10] == b"\x00\x01"
        assert len(tail) == (10 if asked else 26)


GRAY = np.full((2, 2, 1), 9, np.uint8)
GOOD = tensor(GRAY, data=[9, 9, 9, 9])
BAD = {
    "no object": [1],
    "no inputs": {},
    "two inputs": {"inputs": [GOOD, GOOD]},
    "a number as input": {"inputs": [5]},
    "another name": {"inputs": [GOOD | {"name": "x"}]},
    "another type": {"inputs": [GOOD | {"datatype": "INT64"}]},
    "a type that is a list": {"inputs": [GOOD | {"datatype": ["UINT8"]}]},
    "no shape": {"inputs": [GOOD | {"shape": None}]},
    "a shape of two": {"inputs": [GOOD | {"shape": [2, 2]}]},
    "two channels": {"inputs": [GOOD | {"shape": [2, 1, 2]}]},
    "a side of none": {"inputs": [GOOD | {"shape": [0, 2, 1]}]},
    "a side that is true": {"inputs": [GOOD | {"shape": [True, 4, 1]}]},
    "a side with a fraction": {"inputs": [GOOD | {"shape": [2.0, 2, 1]}]},
    "a side below none": {"inputs": [GOOD | {"shape": [-2, -2, 1]}]},
    "too many pixels": {"inputs": [GOOD | {"shape": [100, 100, 1]}]},
    "too many images": {"inputs": [GOOD | {"shape": [17, 1, 1, 1], "data": [1] * 17}]},
    "too few numbers": {"inputs": [GOOD | {"data": [9, 9, 9]}]},
    "no data": {"inputs": [GOOD | {"data": "AAAA"}]},
    "channels first": {"inputs": [GOOD | {"data": [[[9, 9], [9, 9]]]}]},
    "ragged data": {"inputs": [GOOD | {"data": [[9, 9], [9], 9]}]},
    "text in the data": {"inputs": [GOOD | {"data": ["9", "9", "9", "9"]}]},
    "objects in the data": {"inputs": [GOOD | {"data": [{}, {}, {}, {}]}]},
    "above a byte": {"inputs": [GOOD | {"data": [9, 9, 9, 256]}]},
    "a fraction in a byte": {"inputs": [GOOD | {"data": [9, 9, 9, 1.5]}]},
    "a huge number": {"inputs": [GOOD | {"data": [9, 9, 9, 10**30]}]},
    "above 1": {"inputs": [GOOD | {"datatype": "FP32"}]},
    "NaN": {"inputs": [GOOD | {"datatype": "FP32", "data": [0.5, 0.5, 0.5, float("nan")]}]},
    "too large for FP32": {"inputs": [GOOD | {"datatype": "FP32", "data": [0, 0, 0, 1e300]}]},
    "black": {"inputs": [GOOD | {"data": [0, 0, 0, 0]}]},
    "bytes that are not there": {"inputs": [tensor(GRAY, parameters={"binary_data_size": 4})]},
    "an unknown output": {"inputs": [GOOD], "outputs": [{"name": "mask"}]},
    "an output twice": {"inputs": [GOOD], "outputs": [{"name": "map"}, {"name": "map"}]},
    "an output without a name": {"inputs": [GOOD], "outputs": [{}]},
    "outputs that are no list": {"inputs": [GOOD], "outputs": "score"},
    "a long id": {"inputs": [GOOD], "id": "x" * 2000},
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_one_line(app, case):
    answer = refused(app, {"content": json.dumps(BAD[case])})
    assert answer.status_code in (400, 413, 422)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[" * 100_000, b'{"inputs":' * 50_000, b"\xff\xfe", b"1" * 5000, b"NaN"],
    ids=lambda body: body[:9].hex(),
)
def test_what_is_no_json_is_one_line(app, body):
    assert refused(app, {"content": body}).status_code == 400


@pytest.mark.parametrize("length", ["-1", "x", "9" * 30, "99", "²"])
def test_a_bad_length_is_one_line(app, length):
    headers = {LENGTH: length.encode()}
    assert refused(app, {"content": b"{}", "headers": headers}).status_code == 400


def refused(app, request):
    (answer,) = ask(app, ("/models/fake/infer", request))
    with contextlib.suppress(KeyError):
        assert "\n" not in answer.json()["error"]
        return answer
    raise AssertionError(answer.text)
