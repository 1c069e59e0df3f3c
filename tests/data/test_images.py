"""Decoding: against Pillow, NumPy loops and jax.image.resize; bad files end in one clear line."""

import io
import os
import struct
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from cae_jax.data import images
from cae_jax.data.frame import MAX_SIDE, Frame
from cae_jax.types import DataError, UsageError

RNG = np.random.default_rng(20)
RGB = RNG.integers(0, 256, (23, 17, 3), dtype=np.uint8)
GRAY = RNG.integers(0, 256, (23, 17), dtype=np.uint8)
GRAY16 = RNG.permutation(65536).astype(np.uint16).reshape(256, 256)
ALPHA = RNG.integers(0, 256, (23, 17), dtype=np.uint8)


def png(pixels):
    return encode(Image.fromarray(pixels))


def encode(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def tiff(strip, width, height, bits, photometric, samples=1, extra=()):
    """A little-endian TIFF of one strip, written by hand: every field is one 32-bit number."""
    fields = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 0)]
    fields += [(277, samples), (278, height), (279, len(strip))]
    offset = 8 + 2 + 12 * (len(fields) + len(extra)) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields]
    entries[5] = struct.pack("<HHII", 273, 4, 1, offset)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries) + len(extra))
    return head + b"".join([*entries, *extra]) + bytes(4) + strip


def color_cases():
    rgb = Image.fromarray(RGB)
    rgba = Image.fromarray(np.dstack([RGB, ALPHA]))
    for form in ("PNG", "BMP", "TIFF"):
        yield f"RGB {form}", encode(rgb, form), RGB
    yield "RGB TIFF LZW", encode(rgb, "TIFF", compression="tiff_lzw"), RGB
    yield "RGBA PNG", encode(rgba), RGB
    yield "RGBA TIFF", encode(rgba, "TIFF"), RGB
    yield "RGB with a transparent color", encode(rgb, transparency=tuple(RGB[3, 4].tolist())), RGB
    colors = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    image, expected = Image.fromarray(GRAY), colors[GRAY]
    image.putpalette(colors.tobytes())
    yield "palette PNG", encode(image), expected
    yield "palette BMP", encode(image, "BMP"), expected
    yield "palette, one transparent entry", encode(image, transparency=7), expected
    yield "palette, alpha per entry", encode(image, transparency=bytes(range(256))), expected


def gray_cases():
    gray = Image.fromarray(GRAY)
    for form in ("PNG", "BMP", "TIFF"):
        yield f"L {form}", encode(gray, form), GRAY
        yield f"1-bit {form}", encode(Image.fromarray(GRAY > 99), form), (GRAY > 99) * 255
    yield "LA PNG", encode(Image.merge("LA", (gray, Image.fromarray(ALPHA)))), GRAY
    yield "L with a transparent level", encode(gray, transparency=int(GRAY[0, 0])), GRAY
    white_is_zero = tiff((255 - GRAY).tobytes(), 17, 23, 8, photometric=0)
    yield "8-bit TIFF, white is zero", white_is_zero, GRAY


@pytest.mark.parametrize(("name", "content", "rgb"), list(color_cases()))
def test_color_formats(name, content, rgb):
    np.testing.assert_allclose(images.decode(content, Frame(None, 3)), rgb / 255.0, atol=1e-7)
    gray = images.decode(content, Frame(None, 1))[..., 0]
    luma = (rgb.astype(int) @ [19595, 38470, 7471] + 2**15) >> 16  # ITU-R 601, rounded
    np.testing.assert_allclose(gray * 255, luma, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("name", "content", "gray"), list(gray_cases()))
def test_gray_formats(name, content, gray):
    one = images.decode(content, Frame(None, 1))
    assert one.dtype == np.float32
    np.testing.assert_allclose(one, gray[..., None] / 255.0, atol=1e-7, err_msg=name)
    np.testing.assert_array_equal(
        images.decode(content, Frame(None, 3)), np.repeat(one, 3, axis=-1)
    )


def test_jpeg_and_cmyk():
    smooth = Image.fromarray(RGB).resize((40, 30), Image.Resampling.BICUBIC)
    content = encode(smooth, "JPEG", quality=90, progressive=True)
    expected = np.asarray(Image.open(io.BytesIO(content)))
    np.testing.assert_allclose(images.decode(content, Frame(None, 3)), expected / 255.0, atol=1e-7)
    cmyk = RNG.integers(0, 256, (9, 8, 4), dtype=np.uint8)
    ink = cmyk.astype(np.float64) / 255
    decoded = images.decode(encode(Image.fromarray(cmyk, "CMYK"), "TIFF"), Frame(None, 3))
    np.testing.assert_allclose(decoded, (1 - ink[..., :3]) * (1 - ink[..., 3:]), atol=1.01 / 255)


def test_16_bit_is_exact():
    """All 65536 levels, in random order, come back."""
    image, big_endian = Image.fromarray(GRAY16), Image.fromarray(GRAY16.astype(">u2"))
    white_is_zero = tiff((65535 - GRAY16).astype("<u2").tobytes(), 256, 256, 16, photometric=0)
    for content in (
        encode(image),
        encode(image, "TIFF"),
        encode(big_endian, "TIFF"),
        white_is_zero,
    ):
        decoded = images.decode(content, Frame(None, 1))[..., 0]
        np.testing.assert_array_equal(np.rint(decoded.astype(np.float64) * 65535), GRAY16)
        assert (decoded.min(), decoded.max()) == (0, 1)


def test_12_bit_tiff_is_scaled_by_its_own_range():
    levels = RNG.permutation(4096).reshape(64, 64)
    first, second = levels.reshape(-1, 2).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1)
    decoded = images.decode(tiff(packed.astype(np.uint8).tobytes(), 64, 64, 12, 1), Frame(None, 1))
    np.testing.assert_allclose(decoded[..., 0] * 4095, levels, atol=1e-3)


def test_float_is_exact():
    pixels = RNG.random((6, 11), dtype=np.float32)
    decoded = images.decode(encode(Image.fromarray(pixels), "TIFF"), Frame(None, 1))
    np.testing.assert_array_equal(decoded[..., 0], pixels)


@pytest.mark.parametrize("image_size", [8, 32, (31, 5), (64, 13)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_equals_pillow_on_float_pixels(image_size, channels):
    height, width = image_size if isinstance(image_size, tuple) else (image_size, image_size)
    source = Image.fromarray(RGB) if channels == 3 else Image.fromarray(GRAY)
    decoded = images.decode(encode(source), Frame(image_size, channels))
    assert decoded.shape == (height, width, channels)
    assert 0 <= decoded.min() < decoded.max() <= 1
    for channel, band in enumerate(source.split()):
        as_float = band.convert("F").resize((width, height), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(decoded[..., channel], np.asarray(as_float) / 255, atol=1e-6)
        as_bytes = band.resize((width, height), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(decoded[..., channel] * 255, np.asarray(as_bytes), atol=1.01)
    pixels = np.asarray(source, np.float32).reshape(23, 17, channels) / 255
    linear = jax.image.resize(pixels, decoded.shape, "linear", antialias=True)
    np.testing.assert_allclose(decoded, linear, atol=1e-5)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(form, orientation):
    """Each orientation as the EXIF standard words it: where row 0 and column 0 are seen."""
    stored = np.kron(GRAY[:3, :2], np.ones((8, 8), np.uint8))
    flipped = (stored, stored[:, ::-1], stored[::-1, ::-1], stored[::-1])
    turned = (stored.T, stored[::-1].T, stored[::-1, ::-1].T, stored.T[::-1])
    seen = (flipped + turned)[orientation - 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if form == "JPEG" else {}
    content = encode(Image.fromarray(stored), form, exif=exif, **options)
    decoded = images.decode(content, Frame(None, 1))[..., 0] * 255
    np.testing.assert_allclose(decoded, seen, atol=3 if form == "JPEG" else 1e-4)
    assert images.size(content) == seen.shape
    assert images.decode_mask(content, Frame(None), seen.shape).shape == seen.shape


def test_exif_behind_the_pixels_or_damaged():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encode(Image.fromarray(GRAY), exif=exif)
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4], "big")
    late = content[:start] + content[end:-12] + content[start:end] + content[-12:]
    assert images.size(late) == images.decode(late, Frame(None, 1)).shape[:2] == (17, 23)
    content = encode(Image.fromarray(GRAY), exif=b"Exif\0\0MM\0*\0\0\0\1broken")
    np.testing.assert_allclose(
        images.decode(content, Frame(None, 1))[..., 0], GRAY / 255.0, atol=1e-7
    )
    assert images.size(content) == (23, 17)


def test_decode_takes_paths_and_files_and_nothing_odd(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(GRAY))
    expected = images.decode(path.read_bytes(), Frame(9, 1))
    with open(path, "rb") as file:
        file.read()
        for source in (path, str(path), file, io.BytesIO(path.read_bytes())):
            np.testing.assert_array_equal(images.decode(source, Frame((9, 9), 1)), expected)
    for size in (0, -3, 2.5, (4,), (4, 0), "44", MAX_SIDE + 1):
        with pytest.raises(UsageError, match="image_size"):
            images.decode(path, Frame(size, 1))
    with pytest.raises(UsageError, match="channels must be 1 or 3, not 2"):
        images.decode(path, Frame(8, 2))


def animated(form):
    frames = [Image.fromarray(pixels) for pixels in (GRAY, ALPHA, GRAY ^ ALPHA)]
    return encode(frames[0], form, save_all=True, append_images=frames[1:])


def float_tiff(value):
    return encode(Image.fromarray(np.array([[0.5, value]], np.float32)), "TIFF")


BAD = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "text": (b"not an image\n" * 9, "is a text file, no image"),
    "GIF": (animated("GIF"), "is a GIF; save it as PNG or TIFF"),
    "APNG": (animated("PNG"), "has several frames"),
    "multi-page TIFF": (animated("TIFF"), "has 3 pages"),
    "NaN": (float_tiff(np.nan), "float pixels from nan to nan"),
    "infinite": (float_tiff(-np.inf), "float pixels from -inf to 0.5"),
    "above 1": (float_tiff(1.5), "float pixels from 0.5 to 1.5"),
    "int32": (
        encode(Image.fromarray(GRAY.astype(np.int32)), "TIFF"),
        "integer pixels .int32. whose white",
    ),
    "wide": (encode(Image.new("1", (200000, 10))), "200000 x 10 pixels; the limits are 131071"),
    "huge": (encode(Image.new("1", (16384, 8193))), f"and {2**27} in all"),
    "header only": (png(GRAY)[:33], "."),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_bytes(case):
    content, cause = BAD[case]
    with pytest.raises(DataError, match=f"^'bad\\\\nname.png': .*{cause}") as caught:
        images.decode(content, Frame(8, 1), name="bad\nname.png")
    assert "\n" not in str(caught.value)
    if case not in ("above 1", "int32"):  # a mask has no white
        with pytest.raises(DataError, match=r"^'<bytes>'"):
            images.decode_mask(content, Frame(8), None)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "TIFF"])
def test_truncated(form):
    content = encode(Image.fromarray(RNG.integers(0, 256, (60, 50, 3), dtype=np.uint8)), form)
    for tenth in range(1, 10):
        with pytest.raises(DataError, match=r"^'a\.png': \w+"):
            images.decode(content[: len(content) * tenth // 10], Frame(8, 3), name="a.png")


def test_paths_that_cannot_be_read(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to("nowhere.png")
    (tmp_path / "twice.png").symlink_to("dangling.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "secret.png").touch(mode=0)
    causes = {
        "folder.png": "is a folder",
        "dangling.png": "is a broken link to 'nowhere.png'",
        "twice.png": "is a broken link to 'dangling.png'",
        "loop.png": "Too many levels of symbolic links",
        "pipe.png": "is a pipe",
        "secret.png": "is empty" if os.geteuid() == 0 else "Permission denied",  # root reads all
        "missing.png": "No such file or directory",
        "nul\0.png": "null byte",
        "long" * 100: "File name too long",
    }
    for name, cause in causes.items():
        for read in (images.size, lambda path: images.decode(path, Frame(8, 1))):
            with pytest.raises(DataError, match=cause) as caught:
                read(tmp_path / name)
            assert str(caught.value).startswith(repr(str(tmp_path / name)) + ": ")


def test_random_damage_raises_only_data_errors():
    rng = np.random.default_rng(7)
    whole = [encode(Image.fromarray(RGB), form) for form in ("PNG", "JPEG", "BMP", "TIFF")]
    whole += [encode(Image.fromarray(RGB), "TIFF", compression="tiff_lzw"), BAD["APNG"][0]]
    refused = 0
    for _ in range(240):
        content = bytearray(whole[rng.integers(len(whole))])
        for at in rng.integers(0, len(content) if rng.random() < 0.5 else 60, rng.integers(1, 5)):
            content[at] = rng.integers(256)
        pixels, _, left_out, _ = images.decode_all(
            [bytes(content)], Frame(16, 1), "skip", workers=1
        )
        refused += len(left_out)
        assert all(cause.isprintable() for _, cause in left_out)
        assert ((pixels >= 0) & (pixels <= 1)).all()
    assert 20 < refused < 220
    assert images.decode_all([rng.bytes(n) for n in range(40)], Frame(16, 1), "skip")[1] == []


def test_odd_metadata_warns_nobody(tmp_path, caplog):
    """A tag that points behind the end: Pillow warns, and the pixels are whole."""
    lost = struct.pack("<HHII", 282, 5, 1, 10**6)  # XResolution
    path = tmp_path / "odd.tif"
    path.write_bytes(tiff(GRAY.tobytes(), 17, 23, 8, 1, extra=(lost,)))
    with pytest.warns(UserWarning, match="Truncated"):
        Image.open(path).close()
    program = (
        "from cae_jax.data import frame, images; "
        f"print(images.decode({str(path)!r}, frame.Frame(8, 1)).sum())"
    )
    command = [sys.executable, "-W", "error::UserWarning", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    plain = images.decode(png(GRAY), Frame(8, 1)).sum()
    np.testing.assert_allclose(float(done.stdout), plain, rtol=1e-6)
    with pytest.raises(DataError):  # Pillow logs an error of its own
        images.decode(tiff(GRAY.tobytes(), 17, 23, 8, 1, samples=999), Frame(8, 1))
    assert not caplog.records


@pytest.fixture
def folder(tmp_path):
    """12 files of different sizes, of which the 4th and the 9th are bad."""
    paths = [tmp_path / f"{index:03}.png" for index in range(12)]
    for index, path in enumerate(paths):
        pixels = RNG.integers(0, 256, (20 + index, 30 - index, 3), dtype=np.uint8)
        path.write_bytes(encode(Image.fromarray(pixels)) if index not in (3, 8) else b"")
    return paths


@pytest.mark.parametrize("workers", [1, 2, None])
def test_decode_all_keeps_order_and_tells_what_it_left_out(folder, workers):
    seen = []
    pixels, kept, left_out, found = images.decode_all(
        folder, Frame((7, 9), 3), "skip", seen.append, workers
    )
    assert kept == [0, 1, 2, 4, 5, 6, 7, 9, 10, 11]
    assert [one.size for one in found] == [(20 + index, 30 - index) for index in kept]
    assert (pixels.shape, pixels.dtype) == ((10, 7, 9, 3), np.float32)
    for row, index in zip(pixels, kept, strict=True):
        np.testing.assert_array_equal(row, images.decode(folder[index], Frame((7, 9), 3)))
    cause = "is empty (0 bytes)"
    assert left_out == [(str(folder[3]), cause), (str(folder[8]), cause)]
    assert seen == [1] * 12
    with pytest.raises(DataError, match=r"003\.png': is empty"):
        images.decode_all(folder, Frame(8, 1), "error", workers=workers)


def test_decode_all_arguments(folder):
    assert images.decode_all(folder[:3], Frame(8, 1), "error")[0].shape == (3, 8, 8, 1)
    assert images.decode_all([], Frame(8, 1), "skip")[0].shape == (0, 8, 8, 1)
    for message, arguments in {
        "did you mean skip": (Frame(8, 1), "skipp"),
        "image_size is needed": (Frame(None, 1), "skip"),
    }.items():
        with pytest.raises(UsageError, match=message):
            images.decode_all([], *arguments)
