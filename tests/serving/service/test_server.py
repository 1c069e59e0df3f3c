"""The process: sockets, clients that are slow, and an end that loses nothing."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
from command_lines import ENVIRONMENT, ROOT
from fake_service import png

from cae_jax.serving.service import flags, server
from cae_jax.types import UsageError

# A server whose model says on standard output that it has an image, and goes on at a line on
# standard input; not for the warm-up's images.
SERVED = """
import pathlib, sys
import fake_service
from cae_jax.serving.service import flags, server
from cae_jax.serving.service.app import make
from cae_jax.serving.service.models import Models
from cae_jax.serving.service.options import Options

def call(pixels):
    if (pixels != 0.5).any():
        print(len(pixels), flush=True)
        sys.stdin.readline()
    return fake_service.mean_level(pixels)

timeout = float(sys.argv[1])
options = Options(timeout=timeout, max_bytes=100_000, hosts=server.hosts("localhost", ""))
models = Models({"fake": pathlib.Path("/")}, lambda _: fake_service.detector(call), options)
server.run(make(models, options, None), models, options, server.listen("127.0.0.1", 0))
"""


class Process:
    """A server in a process of its own, ready."""

    def __init__(self, timeout):
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVED, str(timeout)],
            env=ENVIRONMENT | {"PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        line = self.process.stderr.readline()
        assert line.startswith("serving fake at http://127.0.0.1:"), line
        self.port = int(line.split(" ")[3].rpartition(":")[2])
        assert "is ready" in self.process.stderr.readline()

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def ask(self):
        """A request whose answer is not awaited."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "image/png", "Host": "localhost"}
        connection.request("POST", "/predict", png(204), headers)
        return connection

    def go_on(self, times=1):
        self.process.stdin.write("\n" * times)
        self.process.stdin.flush()

    def end(self, number=signal.SIGTERM):
        """Its exit code and what it said last."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@pytest.fixture
def patient():
    made = Process(60)
    yield made
    made.process.kill()
    made.process.communicate()


@pytest.fixture(scope="module")
def hasty():
    made = Process(0.3)
    yield made
    made.process.kill()
    made.process.communicate()


def test_what_was_accepted_is_finished_before_the_end(patient):
    idle = patient.connect()  # keeps nothing from ending
    connections = [patient.ask() for _ in range(3)]
    assert patient.process.stdout.readline() == "1\n"  # the first one is being judged
    get = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    while b'model_images_in_flight{model="fake"} 3.0' not in raw(patient, get):
        pass  # the others are on their way
    patient.process.send_signal(signal.SIGTERM)
    while True:  # until nothing new is accepted
        try:
            patient.connect().close()
        except ConnectionError:
            break
    patient.go_on(9)
    for connection in connections:
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Connection"]) == (200, "close")
        (result,) = json.loads(answer.read())["results"]
        assert result["score"] == pytest.approx(80)
        connection.close()
    code, err = patient.end()
    assert code == 0
    assert err == "stopped\n"
    idle.close()


def test_ctrl_c_ends_it_too(patient):
    code, err = patient.end(signal.SIGINT)
    assert (code, err) == (0, "stopped\n")


def raw(process, *pieces):
    """What comes back of bytes sent, to the end of the connection."""
    with process.connect() as connection:
        for piece in pieces:
            connection.sendall(piece)
        found = b""
        while more := connection.recv(65536):
            found += more
    return found


HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"


def test_a_head_that_does_not_come_is_not_waited_for(hasty):
    assert raw(hasty) == b""
    assert raw(hasty, b"POST /predict HT") == b""
    assert raw(hasty, HEAD) == b""


def test_a_body_that_does_not_come_is_answered_and_not_waited_for(hasty):
    answer = raw(hasty, HEAD + b"Content-Length: 5000\r\n\r\n", b"x")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b'{"error":"the body did not come within 0.3 seconds"}')


def test_a_refused_body_is_heard_to_its_end(hasty):
    """So that a client that first sends all of it reads why."""
    body = b"x" * 3_000_000
    length = f"Content-Length: {len(body)}\r\n\r\n".encode()
    get = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = raw(hasty, HEAD + length, body, get)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b'{"alive":true}')


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /" + b"a" * 100_000,
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        HEAD + b"Content-Length: -5\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ],
    ids=["TLS", "no host", "long", "two lengths", "negative", "chunks", "two hosts"],
)
def test_what_is_no_http_is_refused_in_json(hasty, head):
    answer = raw(hasty, head)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b'{"error": "Invalid HTTP request received."}')


@pytest.mark.parametrize("flag", ["max_pixels=nan", "max_pixels=inf", "timeout=nan"])
def test_a_limit_that_is_none(flag, monkeypatch):
    name, value = flag.split("=")
    given: dict[str, float] = dict.fromkeys(
        ("max_megabytes", "max_pixels", "timeout", "max_wait_ms"), 1.0
    )
    given[name] = float(value)
    monkeypatch.setattr(flags.command_line, "value", given.get)
    with pytest.raises(UsageError, match=f"--{name}={value}: "):
        flags.given()


def test_an_address_that_is_taken(hasty):
    with pytest.raises(UsageError, match=f"--port={hasty.port}: Address already in use"):
        server.listen("127.0.0.1", hasty.port)
    with pytest.raises(UsageError, match=r"--host=nowhere\.invalid"):
        server.listen("nowhere.invalid", 0)
