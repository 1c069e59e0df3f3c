"""Alarms of a watched folder: by a command and by a webhook, once it is judged, at least once."""

import http.server
import json
import sqlite3
import threading

import pytest
import watched
from watched import png, rows, watch, write

from cae_jax.serving.watch import alarms


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(alarms, "FIRST_WAIT", 0.01)


@pytest.fixture
def hook():
    """A server's address, the status that it answers next (200 when there is none), and what
    it got."""
    answers, got = [], []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.headers["Content-Type"], json.loads(body)))
            self.send_response(answers.pop(0) if answers else 200)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self):
            raise AssertionError("a redirect was followed")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/alarm", answers, got
        server.shutdown()
        thread.join()


def shades(root, *which):
    for i, shade in enumerate(which):
        write(root / f"in/{shade}.png", png(shade), mtime_ns=10**18 + i)


def waiting(root):
    with sqlite3.connect(root / "out/watch.sqlite") as base:
        found = base.execute("SELECT number, kind FROM alarms").fetchall()
    base.close()
    return found


def test_a_command_gets_the_facts(tmp_path):
    told = tmp_path / "told"
    script = f'cat >> {told}; echo " $CAE_JAX_PATH $CAE_JAX_DEFECTIVE $CAE_JAX_SCORE" >> {told}'
    shades(tmp_path, 50, 180, 190)
    watch(tmp_path, alarm_command=f"sh -c '{script}'")
    first, second = told.read_text().splitlines()
    facts, _, rest = first.partition("} ")
    assert rest == "180.png 1 180.0"
    assert second.endswith(" 190.png 1 190.0")
    facts = json.loads(facts + "}")
    row = rows(tmp_path)[1]
    assert facts["id"].endswith("-2")
    assert len(facts.pop("id")) > 30
    assert facts == {
        "number": 2,
        "time": row["time"],
        "path": "180.png",
        "sha256": row["sha256"],
        "score": 180.0,
        "threshold": 100.0,
        "p_value": 0.2,
        "defective": True,
        "cause": "",
        "model": "0123",
        "title": "weave, mean",
        "file": str(tmp_path / "out/defective/180.png"),
    }


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        ("sh -c 'exit 3'", "sh: exit code 3"),
        ("sh -c 'sleep 60 & sleep 60'", "sh: not ended after 0.2 s, killed"),
    ],
)
def test_a_command_that_fails_stops_nothing(tmp_path, capsys, command, cause):
    shades(tmp_path, 180, 50)
    assert watch(tmp_path, alarm_command=command, alarm_seconds=0.2) == (2, 1, 0)
    assert f"warning: command, image 1: {cause}\n" in capsys.readouterr().err
    assert waiting(tmp_path) == []


def test_a_webhook_gets_every_alarm_that_is_asked_for(tmp_path, hook):
    url, _, got = hook
    shades(tmp_path, 50, 180, watched.BAD_SHADE)
    watch(tmp_path, webhook=url, alarm_on="all")
    assert {kind for kind, _ in got} == {"application/json"}
    facts = [each for _, each in got]
    assert [(each["number"], each["defective"]) for each in facts] == [
        (1, False),
        (2, True),
        (3, False),
    ]
    assert (facts[2]["score"], facts[2]["threshold"]) == (None, None)
    assert facts[2]["cause"].startswith("the distance l2 is not finite")
    assert len({each["id"] for each in facts}) == 3


def test_an_alarm_waits_for_the_next_start(tmp_path, hook, capsys, monkeypatch):
    monkeypatch.setattr(alarms, "FIRST_WAIT", 600.0)
    url, answers, got = hook
    shades(tmp_path, 180)
    answers += [500]
    watch(tmp_path, webhook=url)
    said = capsys.readouterr().err
    assert f"webhook, image 1: {url} answers 500; tried again later" in said
    assert waiting(tmp_path) == [(1, "webhook")]
    watch(tmp_path, webhook="http://127.0.0.1:9/closed")
    assert "127.0.0.1:9/closed: [Errno 111]" in capsys.readouterr().err
    assert waiting(tmp_path) == [(1, "webhook")]
    watch(tmp_path, webhook=url)
    assert waiting(tmp_path) == []
    assert [each["id"] for _, each in got] == [got[0][1]["id"]] * 2
    assert len(rows(tmp_path)) == 1


def test_a_webhook_is_tried_again_until_it_answers(tmp_path, hook):
    url, answers, got = hook
    shades(tmp_path, 180, 190)
    answers += [503, 302, 404]
    watch(tmp_path, lambda: len(got) == 5, once=False, webhook=url)
    assert [each["number"] for _, each in got] == [1, 1, 1, 1, 2]
    assert waiting(tmp_path) == []


def test_an_alarm_that_is_not_understood_is_not_sent_for_ever(tmp_path, hook, capsys):
    url, answers, got = hook
    shades(tmp_path, 180, 190)
    answers += [422]
    watch(tmp_path, webhook=url)
    assert [each["number"] for _, each in got] == [1, 2]
    assert waiting(tmp_path) == []
    assert "answers 422; not tried again" in capsys.readouterr().err
