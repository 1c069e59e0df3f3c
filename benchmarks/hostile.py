"""Requests that no honest client sends, drawn by a seed."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from cae_jax.data import pictures

BOUNDARY = "xxBOUNDARYxx"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
_TYPES = (
    *("image/png", "image/svg+xml", "image/", "IMAGE/JPEG", "text/html", "", "multipart/mixed"),
    *("application/json", "multipart/form-data", FORM, f"{FORM}; charset=utf-7", "a" * 3000),
    *('multipart/form-data; boundary=""', f"multipart/form-data; boundary={'b' * 300}"),
    *("multipart/form-data; boundary=\x01\x7f", "multipart/form-data; boundary*=utf-8''x"),
)


def bomb(width: int, height: int) -> bytes:
    """Returns a PNG of some kilobytes whose header is true, and whose pixels are all black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    packer = zlib.compressobj(9)
    row = b"\0" * (1 + width)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    end = chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + end


def form(*contents: bytes, name: str = "image", filename: str = "a.png", more: str = "") -> bytes:
    """Returns a multipart body of the type FORM."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n'
        f"{more}\r\n".encode("utf-8", "surrogateescape")
        + content
        + b"\r\n"
        for content in contents
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def spoiled(rng: np.random.Generator, content: bytes) -> bytes:
    """Returns the content with bytes changed, cut, doubled or put in."""
    made = bytearray(content)
    for _ in range(int(rng.integers(1, 6))):
        at, n = int(rng.integers(0, len(made) + 1)), int(rng.integers(1, 40))
        kind = rng.integers(0, 5)
        if kind == 0:
            made[at : at + n] = rng.bytes(n)
        elif kind == 1:
            made = made[:at]
        elif kind == 2:
            made[at:at] = made[max(0, at - n) : at]
        elif kind == 3:
            del made[at : at + n]
        else:
            made[at:at] = rng.choice([b"\r\n", b"\0", b'"', b"--", b"\xff\xff", b"]", b"{"])
    return bytes(made)


def requests(
    n: int, seed: int = 0, model: str = "fake"
) -> Iterator[tuple[str, dict[str, str], bytes]]:
    """Yields n times (path, headers, body); some of them are harmless by chance.

    `model` is the name of one that is served.
    """
    rng = np.random.default_rng(seed)
    tensor = {"name": "image", "shape": [2, 2, 1], "datatype": "UINT8", "data": [1, 2, 3, 4]}
    infer = json.dumps({"id": "7", "inputs": [tensor], "outputs": [{"name": "map"}]}).encode()
    inference = f"/v2/models/{model}/infer"
    big = bomb(4000, 4000)
    for i in range(n):
        kind = i % 9
        noise = rng.integers(0, 256, (20, 24, 3), np.uint8)
        image = (pictures.jpeg_bytes if i % 2 else pictures.png_bytes)(noise)
        path, content_type = f"/predict?map=1&model={model}", FORM
        headers: dict[str, str] = {}
        if kind == 0:
            content_type, body = "image/png", spoiled(rng, image)
        elif kind == 1:
            body = spoiled(rng, form(image, image))
        elif kind == 2:
            body = form(*[image] * int(rng.integers(0, 40)))
        elif kind == 3:
            content_type, body = str(rng.choice(_TYPES)), rng.bytes(int(rng.integers(0, 2000)))
        elif kind == 4:
            path, content_type, body = inference, "", spoiled(rng, infer)
        elif kind == 5:
            path, content_type = inference, "application/json"
            headers = {"Inference-Header-Content-Length": str(int(rng.integers(-1, 400)))}
            body = infer + rng.bytes(int(rng.integers(0, 9)))
        elif kind == 6:
            name = rng.choice(["image", "", "x" * 5000, 'image"; name="y', "../image", "\udcff"])
            filename = rng.choice(["\0", "../" * 99, "%00", "\udcfe\udcff", "con.png", "a\r\nb: c"])
            body = form(image, b"", name=name, filename=filename, more="X: y\r\n" * (i % 20))
        elif kind == 7:
            content_type, body = "image/png", big if i % 2 else spoiled(rng, big)
        else:
            path = f"/predict?model={'%ff%00' * int(rng.integers(0, 50))}&map={i % 3}"
            body = form(image)
        yield path, {"Content-Type": content_type, **headers}, body
