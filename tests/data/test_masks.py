"""The rule for masks: each kind that a tool draws, against the shape that it was drawn from."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from cae_jax.data import images, masks, remarks
from cae_jax.data.frame import Frame
from cae_jax.types import DataError

RNG = np.random.default_rng(23)
Y, X = np.mgrid[:60, :80]
DISC = (Y - 25) ** 2 + (X - 40) ** 2 < 14**2  # 613 of 4800 pixels, none at the border
PHOTO = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (8, 10, 3), dtype=np.uint8)).resize((80, 60))
)
CORNER = (Y < 20) & (X < 30)  # touches the border


def encode(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def png(pixels):
    return encode(Image.fromarray(pixels))


def test_mask_resize_is_at_least_half_of_the_area():
    mask = RNG.random((24, 36)) < 0.5
    share = mask.reshape(6, 4, 9, 4).mean(axis=(1, 3))
    decoded = images.decode_mask(png(mask), Frame((6, 9)), (24, 36))
    assert decoded.dtype == bool
    assert (share == 0.5).any()  # the tie is met
    np.testing.assert_array_equal(decoded, share >= 0.5)
    np.testing.assert_array_equal(images.decode_mask(png(mask), Frame(None), None), mask)


def test_mask_ties_survive_rounding_and_small_defects_are_not_lost():
    halves = RNG.permuted(np.tile(np.arange(72) < 36, (400, 1)), axis=1)  # tiles of 12 x 6
    mask = halves.reshape(20, 20, 12, 6).swapaxes(1, 2).reshape(240, 120)
    assert images.decode_mask(png(mask), Frame(20), None).all()
    small = np.zeros((64, 64), bool)
    small[21, 5:7] = True
    found = images.decode_mask(png(small), Frame(8), None)
    np.testing.assert_array_equal(np.argwhere(found), [[2, 0]])
    assert not images.decode_mask(png(small & False), Frame(8), None).any()


def rgba(shows, color, rest=(255, 255, 255), opacity=255):
    """Strokes of a color; what is transparent has the color `rest`."""
    layer = np.zeros((*shows.shape, 4), np.uint8)
    layer[...] = (*rest, 0)
    layer[shows] = (*color, opacity)
    return png(layer)


def palette(entries, colors):
    image = Image.fromarray(entries.astype(np.uint8))
    image.putpalette(np.array(colors, np.uint8).tobytes())
    return encode(image)


def tiff(pixels):
    return encode(Image.fromarray(pixels), "TIFF")


def gray_bmp(entries, n):
    """A BMP of 8 bits whose palette is black and white, or of 4 whose palette is 0, 1, 2 ..."""
    rows = entries[::-1] if n == 2 else entries[::-1, ::2] << 4 | entries[::-1, 1::2]
    grays = (0, 255) if n == 2 else range(n)
    palette = b"".join(bytes([gray, gray, gray, 0]) for gray in grays)
    height, width = entries.shape
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8 if n == 2 else 4, *[0] * 4, n, 0)
    start = 14 + len(head) + len(palette)
    content = head + palette + rows.astype(np.uint8).tobytes()
    return b"BM" + struct.pack("<IHHI", 14 + len(content), 0, 0, start) + content


def color(shape, inside, outside):
    return np.where(shape[..., None], np.uint8(inside), np.uint8(outside)).astype(np.uint8)


def drawn(shape):
    """One defect as tools write it."""
    level = shape.astype(np.uint8)
    yield "0 and 255", png(level * 255)
    yield "1 bit", png(shape)
    yield "nearly black", png(level)
    yield "labels", png(level * np.where(X < 45, 1, 3).astype(np.uint8))
    yield "labels and an index of 255", png(level * np.where(X < 45, 1, 255).astype(np.uint8))
    yield "three levels", png(level * np.where(X < 45, 128, 255).astype(np.uint8))
    yield "numbers of 40 defects", png(level * (1 + (X % 40)).astype(np.uint8))
    yield "16 bit", png(level.astype(np.uint16) * 65535)
    yield "16 bit, nearly black", png(level.astype(np.uint16))
    yield "float", tiff(level.astype(np.float32))
    yield "float of 255", tiff(level.astype(np.float32) * 255)
    yield "int32", tiff(level.astype(np.int32))
    yield "-1 of int32", tiff(-level.astype(np.int32))
    yield "-1 of float", tiff(-level.astype(np.float32))
    yield "a photograph whose alpha it is", png(np.dstack([PHOTO, level * 255]))
    yield "cut out of a photograph", png(np.dstack([PHOTO * level[..., None], level * 255]))
    gray = np.dstack([PHOTO[..., 0], level * 255])
    yield "a gray photograph whose alpha it is", png(gray)
    for entries in (2, 16):  # levels of BMP by a palette, of 8 bits and of 4
        yield f"BMP of {entries} grays", gray_bmp(level * (entries - 1), entries)
    yield "red on black", png(color(shape, (255, 0, 0), 0))
    yield "faint blue on black", png(color(shape, (0, 0, 1), 0))
    yield "red, opaque", png(np.dstack([color(shape, (255, 0, 0), 0), 0 * level + 255]))
    yield "red on transparent white", rgba(shape, (255, 0, 0))
    yield "white on transparent white", rgba(shape, (255, 255, 255))
    yield "black on transparent black", rgba(shape, (0, 0, 0), (0, 0, 0))
    yield "black on transparent white", rgba(shape, (0, 0, 0))
    yield "half transparent red", rgba(shape, (255, 0, 0), opacity=90)
    window = np.dstack([color(shape, (255, 255, 255), 0), np.where(shape | (X > 9), 255, 0)])
    yield "white on black, a part transparent", png(window.astype(np.uint8))
    yield "gray and alpha", encode(Image.merge("LA", [Image.new("L", (80, 60), 255)] * 1 + [
        Image.fromarray(level * 255)]))  # fmt: skip
    unset = np.dstack([color(shape, (255, 255, 255), 0), 0 * level])
    yield "alpha never set", png(unset)
    yield "palette, black first", palette(level, [0, 0, 0, 128, 0, 0])
    yield "palette, black last", palette(1 - level, [9, 9, 9, 0, 0, 0])
    yield "palette without colors", palette(level, [0, 0, 0, 0, 0, 0])
    see_through = Image.fromarray(level)
    see_through.putpalette([255, 255, 255, 0, 0, 255])
    yield "palette, the first transparent", encode(see_through, transparency=0)
    edges = Image.fromarray(level * 255).resize((240, 180), Image.Resampling.BICUBIC)
    yield "soft edges", encode(edges.resize((80, 60), Image.Resampling.BOX))
    yield "traces of a JPEG", png(level * 253 + RNG.integers(0, 3, shape.shape, dtype=np.uint8))


def inverted(shape):
    """The same on a ground that is not black."""
    level = shape.astype(np.uint8)
    yield "black on white", png(255 - level * 255)
    yield "black on white, 1 bit", png(~shape)
    yield "black on white, 16 bit", png((1 - level).astype(np.uint16) * 65535)
    yield "red on white", png(color(shape, (255, 0, 0), 255))
    halves = np.where((X < 40)[..., None], np.uint8([255, 0, 0]), np.uint8([0, 0, 255]))
    yield "two colors on white", png(np.where(shape[..., None], halves, np.uint8(255)))
    yield "white on gray", png(128 + level * 127)
    yield "a hole in what shows", png(np.dstack([level * 0 + 255] * 3 + [255 - level * 255]))
    yield "a hole in a photograph", png(np.dstack([PHOTO, 255 - level * 255]))
    yield "palette, white first", palette(level, [255, 255, 255, 200, 0, 0])


CASES = [
    (f"{name}{where}", content, shape, turned)
    for shape, where in ((DISC, ""), (CORNER, ", at the border"))
    for turned, kinds in ((False, drawn), (True, inverted))
    for name, content in kinds(shape)
    # what takes 45 of 276 pixels of the border leaves the ground less than 90 % of it
    if not (turned and shape is CORNER)
]


@pytest.mark.parametrize(("name", "content", "shape", "turned"), CASES, ids=[c[0] for c in CASES])
def test_what_is_defective(name, content, shape, turned):
    found = masks.read(content, Frame(None), (60, 80))
    np.testing.assert_array_equal(found.defective, shape)
    assert found.share == shape.mean()
    assert bool(found.ground) == turned
    assert not found.scaled


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("quality", [50, 75, 95])
def test_ringing_is_not_defective(form, quality):
    """Within a pixel of the edge and 3 % of the area; of JPEG it was up to 2.7 times the area."""
    inside, outside = (np.hypot(Y - 25, X - 40) < r for r in (12.5, 15.5))
    for pixels in (DISC, ~DISC):
        content = encode(Image.fromarray(pixels.astype(np.uint8) * 255), form, quality=quality)
        found = masks.read(content, Frame(None), (60, 80))
        assert (found.defective >= inside).all()
        assert (found.defective <= outside).all()
        assert abs(found.share / DISC.mean() - 1) < 0.03
        assert found.levels >= 2
        assert bool(found.ground) == (pixels is not DISC)


@pytest.mark.parametrize("ground", [0, 255])
@pytest.mark.parametrize("kind", ["gray", "gray and 255", "16 bit", "color", "palette"])
def test_numbered_defects_of_any_level_all_count(kind, ground):
    inside = (Y % 12 > 1) & (Y % 12 < 10) & (X % 16 > 4) & (X % 16 < 14)
    number = np.where(inside, 1 + Y // 12 + 5 * (X // 16), 0)  # 25 of 8 x 9 pixels
    levels = number * 10
    if kind == "gray and 255":
        levels = np.where(number == 7, 255, number)
    levels = np.abs(ground - levels).astype(np.uint8)
    colors = np.r_[[[ground] * 3], RNG.integers(1, 255, (25, 3))].astype(np.uint8)
    content = {
        "16 bit": lambda: png(levels.astype(np.uint16) * 257),
        "color": lambda: png(colors[number]),
        "palette": lambda: palette(number, colors),
    }.get(kind, lambda: png(levels))()
    found = masks.read(content, Frame(None), None)
    np.testing.assert_array_equal(found.defective, number > 0)
    assert (found.levels, found.ground != "") == (0, ground > 0)


def test_a_soft_edge_is_none_of_many_areas():
    """Blurred by n pixels, also enlarged by whole pixels, cut at half."""
    for width in (3, 9, 25):
        soft = np.clip((14 - np.hypot(Y - 29.5, X - 39.5)) / width + 0.5, 0, 1)
        levels = np.rint(soft * 255).astype(np.uint8)
        for content in (levels, 255 - levels, np.dstack([levels, levels * 0, levels * 0])):
            for times in (1, 4):
                large = content.repeat(times, axis=0).repeat(times, axis=1)
                found = masks.read(png(large), Frame(None), None)
                wanted = (levels >= 127.5).repeat(times, axis=0).repeat(times, axis=1)
                assert (found.defective == wanted).all()
                assert found.levels > 16


def test_nothing_and_everything():
    black, white = np.zeros((60, 80), np.uint8), np.full((60, 80), 255, np.uint8)
    for content in (
        png(black),
        rgba(DISC & False, (0, 0, 0)),
        encode(Image.fromarray(black), "JPEG"),
    ):
        assert masks.read(content, Frame(None), None).share == 0
    for content in (png(white), encode(Image.fromarray(white), "JPEG"), png(black + 1)):
        found = masks.read(content, Frame(None), None)
        assert (found.share, found.ground) == (1, "")


def test_a_large_defect_on_black_is_not_turned_round():
    large = ~DISC & (X > 8)  # 76 % of the mask, 76 % of its border
    found = masks.read(png(large), Frame(None), None)
    np.testing.assert_array_equal(found.defective, large)
    assert (found.ground, found.share) == ("", large.mean())


def test_several_files_of_one_image():
    parts = [png(DISC), rgba(CORNER, (255, 0, 0))]
    found = masks.read(parts, Frame(None), (60, 80))
    np.testing.assert_array_equal(found.defective, DISC | CORNER)
    np.testing.assert_array_equal(images.decode_mask(parts, Frame(None), None), DISC | CORNER)


def test_another_size():
    """Nearest pixels where the proportions are the same; else refused."""
    found = masks.read(png(DISC), Frame(None), (180, 240), name="m.png")
    np.testing.assert_array_equal(found.defective, DISC.repeat(3, axis=0).repeat(3, axis=1))
    assert found.scaled == "80 x 60 for 240 x 180"
    assert masks.read(png(DISC), Frame(None), (59, 79)).scaled  # a side rounded
    for size, cause in (((60, 100), "80 x 60 .* 100 x 60$"), ((80, 60), "turned by a quarter")):
        with pytest.raises(DataError, match=rf"^'m\.png': this mask is .*{cause}"):
            masks.read(png(DISC), Frame(8), size, name="m.png")


def test_values_that_are_no_levels():
    with pytest.raises(DataError, match="not finite"):
        masks.read(tiff(np.where(DISC, np.nan, 0).astype(np.float32)), Frame(None), None)


def test_a_ground_that_is_said():
    """What auto takes for a ground, or would not, is read as the user says."""
    frame = Frame(None, mask_ground="black")
    for content in (png(~DISC), encode(Image.fromarray((~DISC * 255).astype(np.uint8)), "JPEG")):
        assert masks.read(content, Frame(None), None).ground == "white"
        found = masks.read(content, frame, None)
        np.testing.assert_array_equal(found.defective, ~DISC)
        assert found.ground == ""
    large = Y > 20  # has over half of the border too
    found = masks.read(png(~large), Frame(None, mask_ground="white"), None)
    np.testing.assert_array_equal(found.defective, large)
    assert not masks.read(png(DISC | True), Frame(None, mask_ground="white"), None).defective.any()


def test_a_mask_that_a_lossy_format_keeps_too_little_of():
    content = encode(Image.fromarray(DISC.astype(np.uint8)), "JPEG")
    top = int(np.asarray(Image.open(io.BytesIO(content))).max())
    found = masks.read(content, Frame(None), None)
    assert found.faint == top
    assert 0 < top < 16
    (said,) = remarks.of_masks({"m.jpg": found})
    assert said.startswith("1 of 1 masks are nearly black and of a lossy format (m.jpg: at most")
    for pixels, form in ((DISC * 255, "JPEG"), (DISC, "PNG")):
        content = encode(Image.fromarray(pixels.astype(np.uint8)), form)
        assert masks.read(content, Frame(None), None).faint == 0
