"""Whatever comes, it is answered: a verdict, or a refusal in one line, and never a 500."""

import asyncio
import json
import struct

import fake_service
import pytest
from fake_service import client, png

from benchmarks import hostile


@pytest.fixture(scope="module")
def app():
    limits = {"max_bytes": 200_000, "max_pixels": 1_000_000, "timeout": 0.2}
    with fake_service.service(channels=3, **limits) as made:
        yield made


def post(app, body, headers, path="/predict"):
    async def asked():
        async with client(app) as asking:
            return await asking.post(path, content=body, headers=headers)

    return asyncio.run(asked())


def told(answer):
    """The error of a refusal; its form is checked."""
    found = answer.json()
    assert list(found) == ["error"]
    assert "\n" not in found["error"]
    assert len(found["error"]) < 1000
    return found["error"]


def test_three_hundred_hostile_bodies(app, capsys):
    async def all_of_them():
        statuses = []
        async with client(app) as asking:
            for path, headers, body in hostile.requests(300):
                safe = {name: value.encode("latin-1") for name, value in headers.items()}
                answer = await asking.post(path, content=body, headers=safe)
                statuses.append(answer.status_code)
                if answer.status_code == 200:
                    for result in answer.json().get("results", []):
                        assert result["status"] in (200, 400, 422)
                else:
                    assert 400 <= answer.status_code < 500, (path, headers, body[:200])
                    told(answer)
            health = await asking.get("/metrics")
        return statuses, health.text

    statuses, metrics = asyncio.run(all_of_them())
    assert {200, 400, 413, 415} <= set(statuses)
    assert 'model_images_in_flight{model="fake"} 0.0' in metrics  # every seat was given back
    assert "Error" not in capsys.readouterr().err


def test_a_bomb_is_refused_by_its_header(app):
    small, large = (hostile.bomb(side, 1000) for side in (1000, 1001))
    assert post(app, small, {"Content-Type": "image/png"}).status_code == 422  # black: no distance
    answer = post(app, large, {"Content-Type": "image/png"})
    assert answer.status_code == 400
    assert told(answer) == (
        "is 1001 x 1000 pixels; the limits are 131071 a side and 1000000 in all"
    )


def test_pages_of_a_tiff_are_not_counted(app):
    tags = [(256, 3, 1), (257, 3, 1), (258, 3, 8), (259, 3, 1), (262, 3, 1)]
    tags += [(273, 4, 8), (277, 3, 1), (278, 3, 1), (279, 4, 1)]
    size, n = 2 + 12 * len(tags) + 4, 1500
    page = struct.pack("<H", len(tags))
    page += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    pages = [page + struct.pack("<I", 8 + size * (i + 1)) for i in range(n - 1)]
    body = b"II*\0" + struct.pack("<I", 8) + b"".join([*pages, page + b"\0" * 4])
    answer = post(app, body, {"Content-Type": "image/tiff"})
    assert told(answer) == "has more than 64 pages; one picture is expected"


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_above_the_limit(app, declared):
    async def chunks():
        for _ in range(1000):
            sent.append(1000)
            yield b"x" * 1000

    sent = []
    body = b"x" * 200_001 if declared else chunks()
    answer = post(app, body, {"Content-Type": "image/png"})
    assert (answer.status_code, told(answer)) == (413, "the body has more than 200000 bytes")
    if not declared:
        assert sum(sent) <= 202_000  # and no more was read


def test_json_has_a_lower_limit(app):
    body = b'{"inputs": [' + b" " * 50_000 + b"]}"
    answer = post(app, body, {}, "/v2/models/fake/infer")
    assert (answer.status_code, told(answer)) == (413, "the body has more than 50000 bytes")


def test_a_compressed_body(app):
    answer = post(app, png(9), {"Content-Type": "image/png", "Content-Encoding": "gzip"})
    assert (answer.status_code, told(answer)) == (
        415,
        "the body's coding is 'gzip'; none is expected",
    )


def test_bodies_that_do_not_come(app):
    """One that stops half way, and one whose client hangs up."""

    async def asked(hangs_up):
        answers, sent = [], []

        async def receive():
            if sent and hangs_up:
                return {"type": "http.disconnect"}
            if sent:
                await asyncio.Event().wait()
            sent.append(1)
            return {"type": "http.request", "body": b"some", "more_body": True}

        async def send(message):
            answers.append(message)

        headers = [(b"host", b"localhost"), (b"content-type", b"image/png")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/predict",
            "raw_path": b"/predict",
            "query_string": b"",
            "headers": headers,
        }
        await app(scope, receive, send)
        return answers[0]["status"], json.loads(answers[1]["body"])

    wanted = (408, {"error": "the body did not come within 0.2 seconds"})
    assert asyncio.run(asked(hangs_up=False)) == wanted
    assert asyncio.run(asked(hangs_up=True)) == (400, {"error": "the body ended early"})


def test_no_body_is_held_afterwards(app):
    """Together they have more bytes than are held at once, 16 times the largest body."""
    form = {"Content-Type": hostile.FORM}
    for _ in range(10):
        assert post(app, hostile.form(b"x" * 190_000), form).status_code == 200
        assert post(app, b"x" * 190_000, form).status_code == 400
    assert post(app, hostile.form(png(9)), form).json()["results"][0]["status"] == 200
