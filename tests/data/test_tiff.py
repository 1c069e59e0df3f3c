"""Every layout of TIFF: files by tifffile, Pillow or by hand, against the arrays written."""

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from cae_jax.data import images
from cae_jax.data.frame import Frame
from cae_jax.types import DataError

RNG = np.random.default_rng(31)
COLOR16 = RNG.integers(0, 65536, (37, 29, 3), dtype=np.uint16)
GRAY16 = COLOR16[..., 0].copy()
COLOR8 = (COLOR16 >> 8).astype(np.uint8)


def written(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, metadata=None, **options)
    return buffer.getvalue()


def by_pillow(array, compression, mode=None, **options):
    buffer = io.BytesIO()
    Image.fromarray(array, mode).save(buffer, "TIFF", compression=compression, **options)
    return buffer.getvalue()


def decoded(content, channels=3, **more):
    return images.decode(content, Frame(None, channels, **more))


def hand_made(tags, strip, order="<"):
    """A TIFF of one strip: `tags` by code, each (type, numbers), but for the strip's own."""
    form = {3: "H", 4: "I"}
    tags = {**tags, 273: (4, [0]), 279: (4, [len(strip)])}
    at = 8 + 2 + 12 * len(tags) + 4
    tail, entries = b"", b""
    sizes = {code: struct.calcsize(f"{order}{len(v)}{form[k]}") for code, (k, v) in tags.items()}
    tags[273] = (4, [at + sum(size for size in sizes.values() if size > 4)])
    for code in sorted(tags):
        kind, numbers = tags[code]
        content = struct.pack(f"{order}{len(numbers)}{form[kind]}", *numbers)
        if len(content) > 4:
            tail, content = tail + content, struct.pack(order + "I", at + len(tail))
        entries += struct.pack(order + "HHI", code, kind, len(numbers)) + content.ljust(4, b"\0")
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(tags))
    return head + entries + bytes(4) + tail + strip


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"planarconfig": "separate"},
        {"tile": (16, 32)},
        {"tile": (16, 16), "planarconfig": "separate"},
        {"rowsperstrip": 5},
        {"compression": "zlib", "predictor": True},
        {"compression": "zlib", "planarconfig": "separate", "rowsperstrip": 8},
        {"compression": "lzma"},
        {"bigtiff": True},
    ],
)
def test_16_bit_color_in_every_layout(options, order):
    array = COLOR16
    if options.get("planarconfig"):
        array = np.moveaxis(COLOR16, -1, 0)
    content = written(array, photometric="rgb", byteorder=order, **options)
    np.testing.assert_allclose(decoded(content), COLOR16 / 65535, atol=1e-7)
    luma = COLOR16 @ [0.299, 0.587, 0.114] / 65535
    np.testing.assert_allclose(decoded(content, 1)[..., 0], luma, atol=1e-6)


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "u1", "u2"])
@pytest.mark.parametrize("order", "<>")
def test_numbers_of_every_size(kind, order):
    array = RNG.random((11, 13))
    array = array.astype(kind) if kind[0] == "f" else (array * np.iinfo(kind).max).astype(kind)
    white = 1 if kind[0] == "f" else np.iinfo(kind).max
    for tile in (None, (16, 16)):
        content = written(array, byteorder=order, tile=tile)
        expected = array.astype(np.float64) / white
        np.testing.assert_allclose(decoded(content, 1)[..., 0], expected, atol=1e-7)


def float_differences(array):
    """Predictor 3 by a loop over rows: bytes by significance, then differences."""
    rows = []
    for row in array.astype(array.dtype.newbyteorder(">")):
        planes = np.frombuffer(row.tobytes(), np.uint8).reshape(len(row), -1).T.ravel()
        rows.append(np.diff(planes, prepend=planes[:1] * 0).astype(np.uint8).tobytes())
    return b"".join(rows)


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_differences_of_floats(kind):
    array = RNG.random((6, 9)).astype(kind)
    strip = float_differences(array)
    tags = {256: 9, 257: 6, 258: array.itemsize * 8, 259: 1, 262: 1, 277: 1, 278: 6, 317: 3, 339: 3}
    content = hand_made({code: (3, [value]) for code, value in tags.items()}, strip)
    np.testing.assert_allclose(decoded(content, 1)[..., 0], array, atol=1e-7)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 10, 12, 14])
@pytest.mark.parametrize("samples", [1, 3])
def test_packed_words(bits, samples, order):
    levels = RNG.integers(0, 2**bits, (5, 7, samples))
    levels[0, 0] = 2**bits - 1
    rows = [
        "".join(f"{level:0{bits}b}" for level in row.ravel()) for row in levels
    ]  # each row from a new byte on
    strip = b"".join(
        int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8)) for row in rows
    )
    tags = {256: 7, 257: 5, 259: 1, 262: 2 if samples == 3 else 1, 277: samples, 278: 5}
    tags = {code: (3, [value]) for code, value in tags.items()} | {258: (3, [bits] * samples)}
    found = decoded(hand_made(tags, strip, order), samples)
    np.testing.assert_allclose(found, levels / (2**bits - 1), atol=1e-7)


@pytest.mark.parametrize("bits", [1, 8, 12, 16])
def test_white_is_zero_and_bits_from_the_lowest(bits):
    levels = RNG.integers(0, 2**bits, (4, 8))
    if bits == 12:
        text = "".join(f"{level:012b}" for level in levels.ravel())
        strip = int(text, 2).to_bytes(4 * 12)
    elif bits == 1:
        strip = np.packbits(levels.astype(np.uint8), axis=1, bitorder="little").tobytes()
    else:
        strip = levels.astype(f"<u{bits // 8}").tobytes()
    tags = {256: 8, 257: 4, 258: bits, 259: 1, 262: 0, 266: 2 if bits == 1 else 1, 277: 1, 278: 4}
    content = hand_made({code: (3, [value]) for code, value in tags.items()}, strip)
    expected = 1 - levels / (2**bits - 1)
    np.testing.assert_allclose(decoded(content, 1)[..., 0], expected, atol=1e-7)


@pytest.mark.parametrize(
    "compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "zstd", "lzma"]
)
def test_what_libtiff_packs(compression):
    np.testing.assert_allclose(decoded(by_pillow(COLOR8, compression)), COLOR8 / 255, atol=1e-7)
    content = by_pillow(GRAY16, compression)
    np.testing.assert_allclose(decoded(content, 1)[..., 0], GRAY16 / 65535, atol=1e-7)


@pytest.mark.parametrize("predictor", [1, 2])
def test_lzw_of_16_bit_planes(predictor):
    """Strips compressed by libtiff as bytes, put into a file of 16-bit planes."""
    planes = np.moveaxis(COLOR16, -1, 0)
    coded = np.diff(planes, axis=2, prepend=0).astype(np.uint16) if predictor == 2 else planes
    parts = []
    for plane in coded:
        wrapped = by_pillow(plane.astype("<u2").view(np.uint8), "tiff_lzw")
        with tifffile.TiffFile(io.BytesIO(wrapped)) as file:
            page = file.pages[0]
            assert page.predictor == 1
            start, count = page.dataoffsets, page.databytecounts
            parts.append([wrapped[a : a + n] for a, n in zip(start, count, strict=True)])
    assert all(len(part) == 1 for part in parts)
    body = b"".join(part[0] for part in parts)
    at = 8 + 2 + 12 * 12 + 4
    numbers = {258: [16] * 3, 273: [0] * 3, 279: [len(part[0]) for part in parts]}
    starts = np.cumsum([0, *numbers[279][:2]]) + at + 6 + 12 + 12
    numbers[273] = starts.tolist()
    single = {256: 29, 257: 37, 259: 5, 262: 2, 277: 3, 278: 37, 284: 2, 317: predictor, 254: 0}
    entries, tail = b"", b""
    for code in sorted({**numbers, **single}):
        values = numbers.get(code, [single.get(code, 0)])
        kind = "H" if code == 258 else "I"
        content = struct.pack(f"<{len(values)}{kind}", *values)
        if len(content) > 4:
            tail, content = tail + content, struct.pack("<I", at + len(tail))
        entries += struct.pack("<HHI", code, 3 if kind == "H" else 4, len(values)) + content
    head = b"II*\0" + struct.pack("<IH", 8, 12)
    np.testing.assert_allclose(
        decoded(head + entries + bytes(4) + tail + body), COLOR16 / 65535, atol=1e-7
    )


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax(compression):
    dots = GRAY16 > 40000
    np.testing.assert_array_equal(decoded(by_pillow(dots, compression), 1)[..., 0], dots)


@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr"])
def test_jpeg_inside(mode):
    smooth = Image.fromarray(COLOR8).resize((48, 40), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    smooth.convert(mode).save(buffer, "TIFF", compression="jpeg", quality=95)
    expected = np.asarray(Image.open(buffer).convert("RGB")) / 255
    np.testing.assert_allclose(decoded(buffer.getvalue()), expected, atol=1e-7)


def test_webp_inside():
    buffer = io.BytesIO()
    Image.fromarray(COLOR8).save(buffer, "WEBP", lossless=True)
    tags = {256: 29, 257: 37, 259: 50001, 262: 2, 277: 3, 278: 37}
    tags = {code: (3, [value]) for code, value in tags.items()} | {258: (3, [8] * 3)}
    content = hand_made(tags, buffer.getvalue())
    np.testing.assert_allclose(decoded(content), COLOR8 / 255, atol=1e-7)


def test_other_colors():
    cmyk = RNG.integers(0, 256, (9, 8, 4), dtype=np.uint8)
    ink = cmyk / 255
    expected = (1 - ink[..., :3]) * (1 - ink[..., 3:])
    np.testing.assert_allclose(
        decoded(written(cmyk, photometric="separated")), expected, atol=1.01 / 255
    )
    wide = written((ink * 65535).astype(np.uint16), photometric="separated")
    np.testing.assert_allclose(decoded(wide), expected, atol=3 / 65535)
    table = RNG.integers(0, 256, (3, 256), dtype=np.uint8)
    content = written(COLOR8[..., 0], photometric="palette", colormap=table.astype(np.uint16) * 257)
    np.testing.assert_allclose(decoded(content), table.T[COLOR8[..., 0]] / 255, atol=1e-7)


def test_alpha_straight_and_multiplied():
    alpha = RNG.integers(1, 65536, (37, 29, 1), dtype=np.uint16)
    for kind in ("unassalpha", "assocalpha", "unspecified"):
        colors = COLOR16
        if kind == "assocalpha":
            colors = (COLOR16.astype(np.int64) * alpha // 65535).astype(np.uint16)
        array = np.concatenate([colors, alpha], axis=-1)
        content = written(array, photometric="rgb", extrasamples=[kind])
        few = alpha[..., 0] > 2000  # of less alpha the color is lost in rounding
        found, wanted = decoded(content)[few], (COLOR16 / 65535)[few]
        np.testing.assert_allclose(found, wanted, atol=1e-7 if kind[0] == "u" else 1 / 2000)
        laid = decoded(content, background=(255, 0, 255))
        part = alpha / 65535
        over = part * (COLOR16 / 65535) + (1 - part) * [1, 0, 1]
        over = over if kind != "unspecified" else COLOR16 / 65535
        np.testing.assert_allclose(laid, over, atol=2e-5 if kind != "assocalpha" else 1e-3)
    gray = np.concatenate([GRAY16[..., None], alpha], axis=-1)
    content = written(gray, photometric="minisblack", extrasamples=["unassalpha"])
    np.testing.assert_allclose(decoded(content, 1)[..., 0], GRAY16 / 65535, atol=1e-7)


def test_bits_that_a_tag_or_a_flag_names():
    levels = RNG.integers(0, 4096, (8, 9), dtype=np.uint16)
    levels[0, 0] = 4095
    plain = written(levels)
    np.testing.assert_allclose(decoded(plain, 1)[..., 0], levels / 65535, atol=1e-7)
    np.testing.assert_allclose(decoded(plain, 1, bit_depth=12)[..., 0], levels / 4095, atol=1e-7)
    tagged = written(levels, extratags=[(281, "H", 1, 4095, True)])
    np.testing.assert_allclose(decoded(tagged, 1)[..., 0], levels / 4095, atol=1e-7)
    # an image's own largest value is no white
    own = written(levels, extratags=[(281, "H", 1, 4090, True)])
    np.testing.assert_allclose(decoded(own, 1)[..., 0], levels / 65535, atol=1e-7)
    with pytest.raises(DataError, match=r"^'a\.tif': has a value of 4095, and --bit_depth=10 goes"):
        images.decode(plain, Frame(None, 1, bit_depth=10), "a.tif")
    signed = written(levels.astype(np.int16))
    np.testing.assert_allclose(decoded(signed, 1, bit_depth=12)[..., 0], levels / 4095, atol=1e-7)


def pages(*shapes, subfile=()):
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for i, shape in enumerate(shapes):
            kind = subfile[i] if subfile else 0
            array = np.full(shape, 50 * (i + 1) % 256, np.uint8)
            writer.write(array, subfiletype=kind, metadata=None, contiguous=False)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "height", "level"),
    [
        (pages((40, 30), (20, 15), (10, 8)), 40, 50),  # smaller ones behind it
        (pages((40, 30), (40, 30), subfile=(0, 1)), 40, 50),  # a preview by its mark
        (pages((20, 15), (40, 30), subfile=(1, 0)), 40, 100),  # the preview first
    ],
)
def test_pages_that_are_previews(content, height, level):
    found = decoded(content, 1)
    assert found.shape[0] == height == images.size(content)[0]
    np.testing.assert_allclose(found, level / 255, atol=1e-7)


def raw():
    """A preview, and the picture in a directory of its own."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(np.zeros((4, 4), np.uint8), subfiletype=1, subifds=1, metadata=None)
        writer.write(np.zeros((8, 9), np.uint16), metadata=None)
    return buffer.getvalue()


def stack():
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((5, 8, 9), np.uint8), imagej=True)
    return buffer.getvalue()


SMALL = {256: (3, [9]), 257: (3, [8]), 258: (3, [8]), 262: (3, [1]), 277: (3, [1])}
BAD = {
    "equal pages": (pages((8, 9), (8, 9)), r"has 2 pages \(9 x 8, 9 x 8\), none .* preview"),
    "a larger page behind": (pages((8, 9), (16, 9)), r"2 pages \(9 x 8, 9 x 16\)"),
    "a stack of ImageJ": (stack(), "has 5 pages"),
    "a camera's raw file": (raw(), "a camera's raw file .* only previews"),
    "many pages": (pages(*[(2, 2)] * 70), "more than 64 pages"),
    "5 channels": (
        written(np.zeros((8, 9, 5), np.uint8), photometric="rgb", extrasamples=[0, 0]),
        r"has 5 channels, and 1 \(gray\) or 3 \(color\) with an alpha",
    ),
    "5 channels of no color": (
        written(np.zeros((8, 9, 5), np.uint16), photometric="minisblack", planarconfig="contig"),
        "has 5 channels, calls them gray, and 1",
    ),
    "2 channels, perhaps alpha": (
        written(
            np.zeros((8, 9, 2), np.uint8),
            photometric="minisblack",
            planarconfig="contig",
            extrasamples=[0],
        ),
        "has 2 channels, calls them gray and does not say that one is alpha",
    ),
    **{
        f"compressed by {name}": (
            hand_made({**SMALL, 259: (3, [number])}, b"\0" * 72),
            f"compressed by {name}, which is not read; save it by LZW or deflate",
        )
        for number, name in (
            (6, "JPEG of the old kind"),
            (34712, "JPEG 2000"),
            (33005, "JPEG 2000"),
            (50002, "JPEG XL"),
            (34887, "LERC"),
            (50013, "number 50013"),
        )
    },
    "int32": (written(np.zeros((8, 9), np.int32)), r"integer pixels \(int32\) whose white is not"),
    "uint32": (written(np.zeros((8, 9), np.uint32)), r"\(uint32\) whose white is not known"),
    "float over 1": (written(np.full((8, 9), 200, np.float64)), "from 200 to 200.*divide by 255"),
    "float16 over 1": (written(np.full((8, 9), 6e4, np.float16)), "from 6.*; divide by 65535"),
    "complex": (written(np.zeros((8, 9), np.complex64)), "numbers"),
    "raw": (written(np.zeros((8, 9), np.uint16), photometric="cfa"), "a camera's raw ones"),
    "cut off": (written(COLOR16, photometric="rgb")[:-100], "is cut off"),
    "no directory": (b"II*\0\x08\0\0\0", "cut off before its directory"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(case):
    content, cause = BAD[case]
    with pytest.raises(DataError, match=f"^'bad.tif': .*{cause}") as caught:
        images.decode(content, Frame(8, 3), "bad.tif")
    assert "\n" not in str(caught.value)


def test_colors_that_are_not_said():
    for array, samples in ((COLOR8, 3), (COLOR8[..., :1], 1)):
        tags = {256: 29, 257: 37, 259: 1, 277: samples, 278: 37}
        tags = {code: (3, [value]) for code, value in tags.items()} | {258: (3, [8] * samples)}
        found = decoded(hand_made(tags, array.tobytes()), samples)
        np.testing.assert_allclose(found, array / 255, atol=1e-7)


def test_a_directory_that_points_back_ends():
    content = bytearray(pages((8, 9)))
    (count,) = struct.unpack_from("<H", content, 8)
    struct.pack_into("<I", content, 10 + 12 * count, 8)
    np.testing.assert_allclose(decoded(bytes(content), 1), 50 / 255, atol=1e-7)
