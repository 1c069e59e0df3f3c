"""Bodies of requests, read within limits, and their parts."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from cae_jax.serving.service.answers import RefusedError, printable
from cae_jax.serving.service.options import MAX_IMAGES, Options

_MULTIPART = "multipart/form-data"
_FIELD = b"image"


class Part(NamedTuple):
    """An image's file as it came."""

    label: str  # printable; the file's name, and never a path to anything
    content: bytes


class Bodies:
    """Reads bodies; together they never hold more than `Options.max_held` bytes.

    How long one may take is the guard's matter, see `guard`.
    """

    def __init__(self, options: Options) -> None:
        """Takes the limits."""
        self._options = options
        self._held = 0

    @contextlib.asynccontextmanager
    async def body(self, request: Request, most: int) -> AsyncIterator[bytes]:
        """Yields a request's body, which is let go at the end of the block.

        Raises RefusedError: 413 for more than `most` bytes, declared or come; 400 for one that
        ends early; 415 for one that is compressed; 503 where too much is held already.
        """
        chunks: list[bytes] = []
        try:
            await self._read(request, most, chunks)
            whole = b"".join(chunks)
        except BaseException:
            self._held -= sum(map(len, chunks))
            raise
        chunks.clear()
        try:
            yield whole
        finally:
            self._held -= len(whole)

    async def _read(self, request: Request, most: int, chunks: list[bytes]) -> None:
        coding = request.headers.get("content-encoding", "identity")
        if coding != "identity":
            raise RefusedError(415, f"the body's coding is {printable(coding)!r}; none is expected")
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or len(declared) > 20 or int(declared) > most:
            raise RefusedError(413, f"the body has more than {most} bytes")
        size = 0
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise RefusedError(413, f"the body has more than {most} bytes")
                if self._held + len(chunk) > self._options.max_held:
                    raise RefusedError(503, "too much is under way; come again in a second")
                self._held += len(chunk)
                chunks.append(chunk)
        except ClientDisconnect:
            raise RefusedError(400, "the body ended early") from None


def images(body: bytes, content_type: str) -> list[Part]:
    """Returns the images of a /predict body, 1 to MAX_IMAGES.

    Raises RefusedError: 415 for another type than multipart/form-data or image/*, 413 for too many
    parts, 400 for a body that holds no image or is not what its type says.
    """
    kind, options = parse_options_header(content_type)
    if kind.startswith(b"image/"):
        return [Part("image", body)]
    if kind.decode("latin-1") != _MULTIPART:
        raise RefusedError(
            415,
            f"the body's type is {printable(content_type)!r}; "
            f"{_MULTIPART} or one of image/* is expected",
        )
    if not options.get(b"boundary"):
        raise RefusedError(400, f"{_MULTIPART} without a boundary")
    try:
        found = _parts(body, options[b"boundary"])
    except FormParserError as error:
        raise RefusedError(400, f"the body is no {_MULTIPART}: {printable(str(error))}") from None
    if not found:
        raise RefusedError(400, "no part named 'image' in the body")
    return found


def _parts(body: bytes, boundary: bytes) -> list[Part]:
    """The parts of a whole body. What a parser's callback raises goes through the parser."""
    found: list[Part] = []
    names: list[bytes] = []  # of the header that is being read, in pieces
    values: list[bytes] = []
    disposition: list[bytes] = []
    content = bytearray()
    ended: list[bool] = []

    def begin() -> None:
        if len(found) == MAX_IMAGES:
            raise RefusedError(413, f"more than {MAX_IMAGES} images in one request")
        disposition.clear()

    def end_of_header() -> None:
        if b"".join(names).lower() == b"content-disposition":
            disposition.append(b"".join(values))
        names.clear()
        values.clear()

    def end_of_headers() -> None:
        _, options = parse_options_header(b"".join(disposition[:1]))
        name = options.get(b"name", b"")
        if name != _FIELD:
            shown = printable(name.decode("utf-8", "replace"))
            raise RefusedError(400, f"a part named {shown!r}; images' parts are named 'image'")
        label = options.get(b"filename", b"").decode("utf-8", "replace")
        found.append(Part(printable(label) or f"image {len(found) + 1}", b""))

    def end() -> None:
        found[-1] = found[-1]._replace(content=bytes(content))
        content.clear()

    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": begin,
            "on_header_field": lambda data, start, stop: names.append(data[start:stop]),
            "on_header_value": lambda data, start, stop: values.append(data[start:stop]),
            "on_header_end": end_of_header,
            "on_headers_finished": end_of_headers,
            "on_part_data": lambda data, start, stop: content.extend(data[start:stop]),
            "on_part_end": end,
            "on_end": lambda: ended.append(True),
        },
    )
    parser.write(body)
    if not ended:
        raise RefusedError(400, f"the {_MULTIPART} body ends early")
    return found
