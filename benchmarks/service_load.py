"""Clients of the service: cheap ones, since they share the machine with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks import hostile
from cae_jax.types import CaeError

MODEL = "m"  # its name


class Connection:
    """A connection that is kept alive, opened at the first request."""

    def __init__(self, port: int) -> None:
        """Takes the port on loopback."""
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Returns the answer's status and body; raises OSError, EOFError where none comes."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        given = {"Host": "localhost", "Content-Length": str(len(body)), **headers}
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        content = await reader.readexactly(length)
        if b"connection: close" in head:
            self.close()
        return int(head.split(b" ", 2)[1]), content

    def close(self) -> None:
        """Closes it; the next request opens another."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


@contextlib.contextmanager
def server(model: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Starts experiments.serve and yields it, ready, and its port."""
    command = [sys.executable, "-m", "experiments.serve", f"--model={MODEL}={model}", "--port=0"]
    process = subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        port = 0
        for line in process.stderr:
            if line.startswith("serving "):
                port = int(line.split(" at http://127.0.0.1:")[1].split(" ")[0])
            if line.endswith(" is ready\n"):
                break
        else:
            raise CaeError(f"experiments.serve did not start, exit code {process.wait()}")
        yield process, port
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate()


def resident_mb(process: subprocess.Popen[str]) -> float:
    """Returns what a process holds in memory, in 10^6 bytes."""
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
    (found,) = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(found) * 1024 / 1e6


class Load:
    """Clients that each ask for one verdict after the other."""

    def __init__(self, port: int, images: Sequence[bytes], kind: str) -> None:
        """Takes image files of the type `kind`, as in "image/jpeg"."""
        self._port, self._images, self._headers = port, images, {"Content-Type": kind}
        self.statuses: Counter[int] = Counter()
        self.seconds: list[float] = []  # of the answers with status 200
        self.lost = 0  # requests on an open connection without an answer
        self.sent = 0
        self.stop = False

    async def run(self, clients: int, seconds: float, requests: int | None = None) -> float:
        """Runs so many clients for a time, or until so many requests are sent; returns seconds."""
        began = time.perf_counter()
        await asyncio.gather(*(self._client(began + seconds, requests) for _ in range(clients)))
        return time.perf_counter() - began

    async def _client(self, until: float, requests: int | None) -> None:
        connection = Connection(self._port)
        while not self.stop and time.perf_counter() < until and self.sent != requests:
            image = self._images[self.sent % len(self._images)]
            self.sent += 1
            began = time.perf_counter()
            try:
                status, _ = await connection.post("/predict", self._headers, image)
            except ConnectionRefusedError:  # it was stopped
                self.sent -= 1
                break
            except (OSError, EOFError):
                self.lost += 1
                break
            self.statuses[status] += 1
            if status == 200:
                self.seconds.append(time.perf_counter() - began)
            elif status == 503:
                await asyncio.sleep(1)
        connection.close()

    def record(self, wall: float) -> dict[str, object]:
        """Returns the counts, latencies and images/s of `wall` seconds."""
        p50, p99 = np.percentile(self.seconds, (50, 99)) if self.seconds else (np.nan, np.nan)
        return {
            "lost": self.lost,
            "statuses": {str(status): n for status, n in sorted(self.statuses.items())},
            "p50_ms": 1e3 * float(p50),
            "p99_ms": 1e3 * float(p99),
            "images_per_second": self.statuses[200] / wall,
        }


def attack(port: int, n: int) -> dict[str, object]:
    """Sends hostile bodies one after the other; returns how they were answered."""

    async def send() -> Counter[str]:
        found: Counter[str] = Counter()
        connection = Connection(port)
        for path, headers, body in hostile.requests(n, model=MODEL):
            if set("".join(headers.values())) & set("\r\n\0"):
                continue
            try:
                status, content = await connection.post(path, headers, body)
                json.loads(content)
                found[str(status)] += 1
            except (OSError, EOFError, ValueError) as error:
                found[type(error).__name__] += 1
                connection.close()
        connection.close()
        return found

    return {"hostile": n, "statuses": dict(sorted(asyncio.run(send()).items()))}
