"""PNG, JPEG, WebP, AVIF, PGM and their kin, against the arrays written; what a file is instead."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from cae_jax.data import images
from cae_jax.data.frame import Frame
from cae_jax.types import DataError

RNG = np.random.default_rng(37)
COLOR16 = RNG.integers(0, 65536, (21, 18, 3), dtype=np.uint16)
ALPHA16 = RNG.integers(0, 65536, (21, 18, 1), dtype=np.uint16)
SMOOTH = np.asarray(
    Image.fromarray((COLOR16 >> 8).astype(np.uint8)[:4, :5]).resize(
        (48, 40), Image.Resampling.BICUBIC
    )
)


def encode(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def decoded(content, channels=3, **more):
    return images.decode(content, Frame(None, channels, **more))


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(
        ">I", zlib.crc32(kind + content)
    )  # fmt: skip


def filtered(rows, step):
    """Each row by another of PNG's five filters, from their definitions."""
    found, before = b"", np.zeros(rows.shape[1], int)
    for i, row in enumerate(rows.astype(int)):
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        corner = np.concatenate([np.zeros(step, int), before[:-step]])
        guess = left + before - corner
        away = np.abs(np.stack([guess - left, guess - before, guess - corner]))
        paeth = np.choose(away.argmin(axis=0), [left, before, corner])
        against = (0 * row, left, before, (left + before) // 2, paeth)[i % 5]
        found += bytes([i % 5]) + ((row - against) % 256).astype(np.uint8).tobytes()
        before = row
    return found


def png16(array, extra=()):
    """A PNG of 16 bits a channel, written by hand: [H, W, 1 to 4]."""
    height, width, channels = array.shape
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    rows = np.frombuffer(array.astype(">u2").tobytes(), np.uint8).reshape(height, -1)
    body = zlib.compress(filtered(rows, 2 * channels))
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", body[:90]), chunk(b"IDAT", body[90:])]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits(channels):
    colors = COLOR16 if channels > 2 else COLOR16[..., :1]
    array = colors if channels in (1, 3) else np.concatenate([colors, ALPHA16], axis=-1)
    content = png16(array)
    found = decoded(content)
    np.testing.assert_allclose(found, np.broadcast_to(colors / 65535, found.shape), atol=1e-7)
    laid = decoded(content, background=(255, 255, 255))
    part = ALPHA16 / 65535 if channels in (2, 4) else 1
    over = part * (colors / 65535) + (1 - part)
    np.testing.assert_allclose(laid, np.broadcast_to(over, laid.shape), atol=1e-6)


def test_png_of_one_transparent_color():
    one = tuple(COLOR16[3, 4].tolist())
    content = png16(COLOR16, [chunk(b"tRNS", struct.pack(">3H", *one))])
    expected = COLOR16 / 65535
    np.testing.assert_allclose(decoded(content), expected, atol=1e-7)
    expected[3, 4] = 0
    np.testing.assert_allclose(decoded(content, background=(0, 0, 0)), expected, atol=1e-6)
    gray = Image.fromarray(np.array([[0, 85], [170, 255]], np.uint8))
    for bits, level in ((2, 1), (8, 85)):  # the level is one of the file's bits
        content = bytearray(encode(gray, "PNG"))
        header = struct.pack(">IIBBBBB", 2, 2, bits, 0, 0, 0, 0)
        rows = b"\0\x10\0\xb0" if bits == 2 else b"\0\x00\x55\0\xaa\xff"
        content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        content += chunk(b"tRNS", struct.pack(">H", level)) + chunk(b"IDAT", zlib.compress(rows))
        found = decoded(content + chunk(b"IEND", b""), 1, background=(255, 255, 255))
        np.testing.assert_allclose(found[..., 0] * 255, [[0, 255], [170, 255]], atol=1e-4)


def test_bits_that_png_names():
    """sBIT: values as they are count; those spread over 16 bits, as PNG has them, stay."""
    levels = RNG.integers(0, 4096, (9, 8, 1), dtype=np.uint16)
    said = [chunk(b"sBIT", b"\x0c")]
    found = decoded(png16(levels, said), 1)
    np.testing.assert_allclose(found, levels / 4095, atol=1e-7)
    for spread in (levels << 4, levels << 4 | levels >> 8, levels // 300 << 4):
        found = decoded(png16(spread, said), 1)
        np.testing.assert_allclose(found, spread / 65535, atol=1e-7)


def test_png_metadata_neither_warns_nor_refuses():
    much = zlib.compress(bytes(4_000_000))  # Pillow refuses text of so much
    extra = [chunk(b"zTXt", b"Comment\0\0" + much), chunk(b"acTL", b""), chunk(b"tEXt", b"x")]
    np.testing.assert_allclose(decoded(png16(COLOR16, extra)), COLOR16 / 65535, atol=1e-7)


@pytest.mark.parametrize("inks", ["RGB", "L", "CMYK"])
def test_jpeg_of_every_kind(inks):
    image = Image.fromarray(SMOOTH).convert(inks)
    content = encode(image, "JPEG", quality=95, progressive=True)
    expected = Image.open(io.BytesIO(content)).convert("RGB")
    np.testing.assert_allclose(decoded(content), np.asarray(expected) / 255, atol=1e-7)
    np.testing.assert_allclose(decoded(content), np.asarray(image.convert("RGB")) / 255, atol=0.15)


def test_ink_without_adobe_is_not_turned_round():
    ink = Image.fromarray(255 - np.asarray(Image.fromarray(SMOOTH).convert("CMYK")), "CMYK")
    content = encode(ink, "JPEG", quality=95)
    at = content.index(b"\xff\xee")
    (length,) = struct.unpack_from(">H", content, at + 2)
    assert content[at + 4 : at + 9] == b"Adobe"
    bare = content[:at] + content[at + 2 + length :]
    np.testing.assert_allclose(decoded(bare), SMOOTH / 255, atol=0.15)


def test_the_first_picture_of_a_phone():
    small = Image.fromarray(SMOOTH[::2, ::2].copy())
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(
        Image.fromarray(SMOOTH), "MPO", save_all=True, append_images=[small], exif=exif
    )
    alone = encode(Image.fromarray(SMOOTH), "JPEG", exif=exif)
    np.testing.assert_array_equal(decoded(content), decoded(alone))
    assert images.size(content) == (48, 40)
    opened = Image.open(io.BytesIO(content))
    assert opened.n_frames == 2
    np.testing.assert_array_equal(images.from_any(opened, Frame(None, 3)), decoded(alone))


@pytest.mark.parametrize("form", ["WEBP", "AVIF"])
def test_webp_and_avif(form):
    image = Image.fromarray(SMOOTH)
    lossy = decoded(encode(image, form, quality=95))
    np.testing.assert_allclose(lossy, SMOOTH / 255, atol=0.2)
    if form == "WEBP":
        exact = encode(image, form, lossless=True)
        np.testing.assert_allclose(decoded(exact), SMOOTH / 255, atol=1e-7)
        see_through = Image.fromarray(
            np.dstack([SMOOTH, np.where(SMOOTH[..., 0] > 99, 255, 0)]).astype(np.uint8)
        )
        exact = encode(see_through, form, lossless=True, exact=True)
        np.testing.assert_allclose(decoded(exact), SMOOTH / 255, atol=1e-7)
        laid = np.where(SMOOTH[..., :1] > 99, SMOOTH / 255, 1)
        np.testing.assert_allclose(decoded(exact, background=(255,) * 3), laid, atol=1e-6)
    else:  # whose brand may be HEIF's, AVIF one that it is compatible with
        content = encode(image, form, quality=95)
        assert content[8:12] == b"avif"
        assert b"avif" in content[16 : int.from_bytes(content[:4])]
        np.testing.assert_array_equal(decoded(content.replace(b"avif", b"mif1", 1)), lossy)
    moving = encode(image, form, save_all=True, append_images=[Image.fromarray(255 - SMOOTH)])
    with pytest.raises(DataError, match="has several frames"):
        decoded(moving)


@pytest.mark.parametrize("white", [1, 100, 255, 1023, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_netpbm(white, plain, channels):
    levels = RNG.integers(0, white + 1, (7, 9, channels))
    kind = {1: "2" if plain else "5", 3: "3" if plain else "6"}[channels]
    head = f"P{kind}\n# by a camera\n9 7 # wide\n{white}\n".encode()
    if plain:
        body = "\n".join(map(str, levels.ravel())).encode()
    else:
        body = levels.astype(np.uint8 if white < 256 else ">u2").tobytes()
    np.testing.assert_allclose(decoded(head + body, channels), levels / white, atol=1e-7)
    assert images.size(head + body) == (7, 9)
    with pytest.raises(DataError, match="cut off"):
        decoded(head + body[:-8])
    if white in (100, 4095):
        bright = levels * 0 + white + 1
        body = bright.astype(np.uint8 if white < 256 else ">u2").tobytes()
        with pytest.raises(DataError, match=f"value of {white + 1}, .* white is {white}"):
            decoded(head.replace(f"P{kind}".encode(), b"P6" if channels == 3 else b"P5") + body)


@pytest.mark.parametrize("white", [1, 31, 100, 200])
def test_luma_of_colors_whose_white_is_not_255(white):
    levels = RNG.integers(0, white + 1, (7, 9, 3))
    content = f"P6 9 7 {white}\n".encode() + levels.astype(np.uint8).tobytes()
    luma = levels @ [0.299, 0.587, 0.114] / white
    np.testing.assert_allclose(decoded(content, 1)[..., 0], luma, atol=1e-6)


def test_bitmaps():
    dots = RNG.random((5, 11)) < 0.5
    packed = np.packbits(dots, axis=1).tobytes()
    text = "".join(str(int(dot)) for dot in dots.ravel()).encode()
    for content in (b"P4\n11 5\n" + packed, b"P1\n11 5\n" + text):
        np.testing.assert_array_equal(decoded(content, 1)[..., 0], ~dots)  # 1 is black
    np.testing.assert_array_equal(
        images.decode_mask(b"P4\n11 5\n" + packed, Frame(None), None), ~dots
    )


JPEG = encode(Image.fromarray(SMOOTH), "JPEG")
INSTEAD = {
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(40), "is a HEIC photograph"),
    "JPEG XL": (b"\xff\x0a" + bytes(40), "JPEG XL"),
    "JPEG 2000": (encode(Image.fromarray(SMOOTH), "JPEG2000"), "JPEG 2000"),
    "GIF": (encode(Image.fromarray(SMOOTH), "GIF"), "is a GIF"),
    "DICOM": (bytes(128) + b"DICM" + bytes(40), "is a DICOM file"),
    "web page": (b"\n<!DOCTYPE html><title>Sign in</title>", "is a web page"),
    "drawing": (b'<?xml version="1.0"?>\n<svg xmlns="x">', "is an SVG drawing"),
    "JSON": (b'{"message": "not found"}', "is a JSON file"),
    "words": ("Größe 3 µm\n".encode() * 99, "is a text file"),
    "UTF-16": ("Größe".encode("utf-16"), "is a text file"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    "PDF": (b"%PDF-1.7\n", "is a PDF document"),
    "ZIP": (b"PK\x03\x04" + bytes(40), "is a ZIP archive"),
    "NumPy": (b"\x93NUMPY\x01\0" + bytes(40), "is an array of NumPy"),
    "Photoshop": (b"8BPS\0\x01" + bytes(40), "is a Photoshop document"),
    "macOS": (b"\0\x05\x16\x07" + bytes(40), "AppleDouble"),
    "zeros": (bytes(5000), "nothing but zero bytes"),
    "noise": (bytes(range(200, 256)), "no image of a kind that is read"),
    "video": (b"\0\0\0\x18ftypisom" + bytes(40), "is a video"),
    "12-bit JPEG": (JPEG.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "of 12 bits"),
    "lossless JPEG": (JPEG.replace(b"\xff\xc0\0\x11", b"\xff\xc3\0\x11"), "a lossless JPEG"),
    "JPEG-LS": (JPEG.replace(b"\xff\xc0\0\x11", b"\xff\xf7\0\x11"), "is a JPEG-LS image"),
    "raw": (b"FUJIFILMCCD-RAW 0201" + bytes(40), r"is a camera's raw file .RAF"),
    "NIfTI": (b"\x5c\x01" + bytes(342) + b"n+1\0" + bytes(40), "is a NIfTI file"),
    "PNG cut off": (png16(COLOR16)[:300], "cannot be decoded: .*truncated"),
    "JPEG cut off": (JPEG[:400], "cannot be decoded: .*[Tt]runcated"),
    "PNG header": (png16(COLOR16)[:20], "header is damaged or cut off"),
    "PGM header": (b"P5 8 x 255\n", "header is damaged"),
    "PGM white": (b"P5 8 8 70000\n" + bytes(64), "white is 70000"),
}  # fmt: skip


@pytest.mark.parametrize("case", INSTEAD)
def test_what_a_file_is_instead(case):
    content, cause = INSTEAD[case]
    with pytest.raises(DataError, match=rf"^'a\.png': .*{cause}") as caught:
        images.decode(content, Frame(8, 1), "a.png")
    assert "\n" not in str(caught.value)


def test_a_wrong_suffix_is_read_by_its_content(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(JPEG)
    np.testing.assert_array_equal(
        images.decode(path, Frame(9, 3)), images.decode(JPEG, Frame(9, 3))
    )


def test_the_host_program_keeps_its_pillow(tmp_path):
    """Its limit, its filters of warnings and its loggers; and its limit is not ours."""
    path = tmp_path / "large.png"
    Image.fromarray(SMOOTH).resize((300, 200)).save(path)
    program = f"""
import logging, warnings
from PIL import Image
logging.basicConfig(level=logging.WARNING)
Image.MAX_IMAGE_PIXELS = 100
before = logging.getLogger("PIL").level, Image.MAX_IMAGE_PIXELS
from cae_jax.data import frame, images
import cae_jax.serving.detector
made = list(warnings.filters)  # NumPy and SciPy add some of their own
for path in {[str(path)]!r}:
    print(images.decode(path, frame.Frame(8, 1)).shape, images.size(path))
assert (logging.getLogger("PIL").level, Image.MAX_IMAGE_PIXELS) == before
assert list(warnings.filters) == made
assert [f for f in made if "PIL" in str(f)] == []
"""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(8, 8, 1) (200, 300)\n", "")
