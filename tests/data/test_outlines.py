"""Shapes of annotation tools in pixels, against scikit-image, loops over pixels and pycocotools."""

import base64
import io

import numpy as np
import pytest
import skimage.measure
from PIL import Image

from cae_jax.data import masks
from cae_jax.data.frame import Frame
from cae_jax.data.outlines import Drawn, Shape, raster
from cae_jax.types import DataError


def draw(kind, points, height=24, width=20):
    return raster(Drawn(height, width, (Shape(kind, points),)))


def centres_within(ring, height, width):
    """Each centre asked about by scikit-image, which no edge of a random ring runs through."""
    y, x = np.mgrid[:height, :width]
    centres = np.stack([y.ravel() + 0.5, x.ravel() + 0.5], axis=1)
    found = skimage.measure.points_in_poly(centres, np.asarray(ring)[:, ::-1])
    return found.reshape(height, width)


@pytest.mark.parametrize("seed", range(12))
def test_a_polygon_covers_the_pixels_whose_centres_lie_in_it(seed):
    rng = np.random.default_rng(seed)  # convex or not, with crossings, over the borders
    ring = rng.uniform((-6, -6), (26, 30), (rng.integers(3, 9), 2))
    np.testing.assert_array_equal(draw("polygon", ring.tolist()), centres_within(ring, 24, 20))


def test_a_box_of_whole_numbers_and_edges_through_centres():
    expected = np.zeros((24, 20), bool)
    expected[3:7, 2:5] = True
    for shift in (0, 0.5):  # edges through centres: left and upper ones are in
        left, top, right, bottom = np.array([2, 3, 5, 7]) + shift
        box = [(left, top), (right, top), (right, bottom), (left, bottom)]
        np.testing.assert_array_equal(draw("polygon", box), expected)


def test_what_is_thinner_than_a_pixel_is_not_lost():
    line = np.eye(24, 20, dtype=bool) & (np.arange(24) < 9)[:, None]
    for kind in ("polygon", "line"):
        np.testing.assert_array_equal(draw(kind, [(0.1, 0.1), (8.9, 8.9)]), line)
    point = draw("points", [(20, 24), (3.2, 4.9), (50, 2)])  # at the far corner, in, outside
    assert np.argwhere(point).tolist() == [[4, 3], [23, 19]]


def test_a_circle():
    expected = [
        [(x + 0.5 - 8) ** 2 + (y + 0.5 - 5) ** 2 < 13 for x in range(20)] for y in range(24)
    ]
    np.testing.assert_array_equal(draw("circle", [(8, 5), (10, 8)]), expected)


def test_runs_of_pixels_as_numbers_and_as_pycocotools_compresses_them():
    expected = np.zeros((16, 16), bool)
    expected[3:9, 2:5] = expected[10, 12] = expected[0, 15] = expected[7:9, 5:14] = True
    flat, counts, value = expected.T.ravel(), [0], False
    for pixel in flat:
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    for written in (counts, "S16:0004L00000000000000CO;1;OH"):
        found = draw("rle", {"size": [16, 16], "counts": written}, 16, 16)
        np.testing.assert_array_equal(found, expected)


def test_a_bitmap_over_the_border():
    written = io.BytesIO()
    Image.fromarray(np.array([[255, 0, 255], [255, 255, 255]], np.uint8)).save(written, "PNG")
    text = base64.b64encode(written.getvalue()).decode()
    assert np.argwhere(draw("bitmap", ((18, 2), text))).tolist() == [[2, 18], [3, 18], [3, 19]]
    assert np.argwhere(draw("bitmap", ((-2, -1), text))).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("shape", "match"),
    [
        (Shape("polygon", []), "a polygon that cannot be drawn: not a list of points"),
        (Shape("polygon", [(1, 2), (float("nan"), 3)]), "a point far from any image"),
        (Shape("circle", [(1, 2)]), "1 points, not its centre"),
        (Shape("rle", {"size": [4, 4], "counts": [16]}), r"its size is \[4, 4\], the image's"),
        (Shape("rle", {"size": [24, 20], "counts": [3, 4]}), "do not make 24 x 20 pixels"),
        (Shape("rle", {"size": [24, 20], "counts": "\n"}), "no letter of compressed runs"),
        (Shape("rle", {}), "a rle that cannot be drawn"),
    ],
)
def test_what_makes_no_sense_is_said(shape, match):
    with pytest.raises(DataError, match=match):
        raster(Drawn(24, 20, (shape,)))


def test_a_defect_over_nearly_all_of_an_image_is_not_taken_for_its_ground():
    ring = [(0, 0), (20, 0), (20, 20), (0, 20)]
    hole = [(5, 5), (6, 5), (6, 6), (5, 6)]
    drawn = Drawn(20, 20, (Shape("polygon", [*ring, ring[0], *hole, hole[0]]),))
    found = masks.read(drawn, Frame(20), (20, 20), "a.json of a.png")
    assert (~found.defective).sum() == 1
    with pytest.raises(DataError, match=r"'a.json of a.png': .*20 x 20 .* turned|20 x 20 pixels"):
        masks.read(drawn, Frame(20), (20, 30), "a.json of a.png")
