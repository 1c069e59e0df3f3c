"""What images are brought to: sizes, and what is said of a shape that is lost."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from cae_jax.data import folder, images
from cae_jax.data.frame import Area, Frame, Hole, lost_of, placed_mask, read_part, stretched
from cae_jax.options import read_size, to_text
from cae_jax.types import DataError, UsageError


@pytest.mark.parametrize(
    ("text", "size"), [("256", 256), ("64x160", (64, 160)), ("64X160", (64, 160)), ("9x9", 9)]
)
def test_a_size_is_a_side_or_height_and_width(text, size):
    assert read_size(text) == size
    assert read_size(to_text(size)) == size


@pytest.mark.parametrize("text", ["", "x", "64x", "64x160x3", "64 by 160", "64.5"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match=r"HEIGHTxWIDTH|invalid literal"):
        read_size(text)


def images_at(root, *sizes):
    """A category of images of these sizes, (height, width)."""
    for part, i in [("train", i) for i in range(len(sizes))] + [("test", 0)]:
        path = root / part / "good" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, sizes[i], dtype=np.uint8)
        Image.fromarray(pixels).save(path)


def test_a_squeeze_is_said_with_its_numbers(tmp_path):
    images_at(tmp_path / "a", (40, 100), (60, 60), (40, 80))
    split = folder.read(tmp_path, "a", Frame(32))
    (said,) = [warning for warning in split.warnings if "squeezed" in warning]
    # 32 / 40 down, 32 / 100 along; of train and test together
    assert "a: 3 of 4 images are squeezed, of 40 x 100 pixels" in said
    assert "into 32 x 32, 2.5 : 1" in said
    # sqrt(32 * 32 / (40 * 100)) of each side is 20.2 x 50.6
    assert "--image_size=20x51 keeps" in said


def test_up_to_one_and_a_half_nothing_is_said():
    assert stretched("a", Frame((40, 60)), [(40, 60), (60, 60), (30, 67)]) == ()
    assert stretched("a", Frame((40, 60)), [(40, 40), (20, 46)])
    assert stretched("a", Frame(None), [(40, 400)]) == ()


def decoded(path, pixels, frame):
    Image.fromarray(pixels).save(path)
    return images.decode(path, frame)[..., 0]


def resized(pixels, height, width):
    """Pillow's own, of float pixels."""
    band = Image.fromarray(pixels.astype(np.float32) / np.float32(255))
    return np.asarray(band.resize((width, height), Image.Resampling.BILINEAR))


@pytest.fixture
def wide():
    return np.random.default_rng(1).integers(0, 256, (40, 100), dtype=np.uint8)


def test_pad_keeps_the_shape_and_fills_with_the_mean(tmp_path, wide):
    frame = Frame((30, 50), resize="pad")
    found = decoded(tmp_path / "a.png", wide, frame)
    inside = resized(wide, 20, 50)  # half of 40 x 100, in the middle of 30 rows
    np.testing.assert_allclose(found[5:25], inside, atol=1e-6)
    np.testing.assert_allclose(found[:5], inside.mean(), atol=1e-6)
    np.testing.assert_allclose(found[25:], inside.mean(), atol=1e-6)
    counts = frame.counts((40, 100))
    assert counts.sum() == 20 * 50
    assert counts[5:25].all()
    assert frame.counts((30, 50)).all()


def test_crop_is_the_middle(tmp_path, wide):
    found = decoded(tmp_path / "a.png", wide, Frame(20, resize="crop"))
    np.testing.assert_allclose(found, resized(wide[:, 30:70], 20, 20), atol=1e-6)
    assert Frame(20, resize="crop").counts((40, 100)) is None
    (said,) = lost_of("a", Frame(20, resize="crop"), [(40, 100), (40, 40)])
    assert "the borders of 1 of 2 images, at most 60 % of one" in said


def test_none_takes_images_of_its_size_alone(tmp_path, wide):
    found = decoded(tmp_path / "a.png", wide, Frame((40, 100), resize="none"))
    np.testing.assert_array_equal(found, wide.astype(np.float32) / np.float32(255))
    with pytest.raises(DataError, match=r"a\.png': is 40 x 100 pixels .* --image_size=40x101"):
        decoded(tmp_path / "a.png", wide, Frame((40, 101), resize="none"))


def test_a_part_is_cut_out_before_anything_is_resized(tmp_path, wide):
    frame = Frame(16, roi=(60, 5, 20, 30))
    found = decoded(tmp_path / "a.png", wide, frame)
    np.testing.assert_allclose(found, resized(wide[5:35, 60:80], 16, 16), atol=1e-6)
    mask = np.zeros((40, 100), bool)
    mask[5:20] = True  # the upper half of the part
    np.testing.assert_array_equal(placed_mask(mask, frame), np.arange(16)[:, None] < [8] * 16)
    with pytest.raises(DataError, match=r"--roi=85,5,20,30 .* 100 x 40 pixels"):
        decoded(tmp_path / "a.png", wide, Frame(16, roi=(85, 5, 20, 30)))


def test_half_of_a_pixel_has_to_count(tmp_path, wide):
    counts = np.random.default_rng(2).random((40, 100)) < 0.5
    frame = Frame((20, 50), areas=(Area("roi", counts),))
    want = counts.reshape(20, 2, 50, 2).mean(axis=(1, 3)) >= 0.5
    np.testing.assert_array_equal(frame.counts((40, 100)), want)
    found = decoded(tmp_path / "a.png", wide, frame)
    inside = resized(wide, 20, 50)
    np.testing.assert_allclose(found, np.where(want, inside, inside[want].mean()), atol=1e-6)
    with pytest.raises(DataError, match=r"mask of --roi is 100 x 40 pixels .*this image 50 x 50"):
        frame.counts((50, 50))


@pytest.mark.parametrize("how", [{"resize": "pad"}, {"resize": "crop"}, {"roi": (20, 10, 40, 20)}])
def test_what_is_found_goes_back_to_where_it_was(how):
    """A pixel of the file through the frame and back."""
    frame = Frame((40, 40), **how)
    for row, column in ((14, 33), (22, 50)):
        mask = np.zeros((40, 100), bool)
        mask[row - 2 : row + 3, column - 2 : column + 3] = True
        there = placed_mask(mask, frame)
        back = frame.back(there, (40, 100))
        assert (back & mask).sum() / (back | mask).sum() > 0.5
        heat = frame.back(there.astype(np.float32) - 1, (40, 100))
        assert heat.dtype == np.float32
        at = np.argwhere(heat == heat.max()).mean(axis=0)
        np.testing.assert_allclose(at, (row, column), atol=1.5)
        assert heat[0, 0] == -1


@pytest.mark.parametrize("text", ["1,2,3", "1,2,0,4", "-1,2,3,4", "1,2,3,4,5"])
def test_what_is_no_part_is_refused(text):
    for flag, end in (("roi", "white where to look"), ("ignore", "white where nothing counts")):
        with pytest.raises(UsageError, match=f"--{flag}={text}: must be x,y,width,height.*{end}"):
            read_part(flag, text)
    assert read_part("roi", "mask.png") is None
    assert read_part("ignore", "1, 2,3,4") == (1, 2, 3, 4)


def test_a_frame_of_flags():
    assert Frame.of(9, 1, "auto", "none") == Frame(9, 1)
    assert Frame.of(9, 3, "12", "#00b140") == Frame(9, 3, 12, (0, 177, 64))
    assert Frame.of(9, 3, "8", "White") == Frame(9, 3, 8, (255, 255, 255))
    for word in ("", "blak", "#12345", "#ffffff80", "transparent"):
        with pytest.raises(UsageError, match=f"^--background={word}: must be none, or a color"):
            Frame.of(9, 1, "auto", word)


def test_nothing_comes_back_where_a_mask_says_that_nothing_counts():
    counts = np.ones((64, 128), bool)
    counts[:, 50:63] = False  # not on the frame's pixels, each of 4 x 4
    frame = Frame((16, 32), 1, areas=(Area("ignore", counts),))
    heat = frame.back(np.random.default_rng(0).random((16, 32), np.float32) + 1, counts.shape)
    assert (heat[~counts] == heat.min()).all()
    assert (heat[counts] > heat.min()).any()
    found = frame.back(np.ones((16, 32), bool), counts.shape)
    np.testing.assert_array_equal(found, counts)


def test_a_frame_with_a_mask_is_told_in_one_line():
    """A detector's repr has its frame."""
    areas = (Area("roi", np.ones((90, 200), bool)), Hole((1, 2, 3, 4)))
    frame = Frame((16, 32), 3, resize="pad", roi=(0, 1, 50, 60), areas=areas)
    assert str(frame) == "16 x 32 RGB, pad, --roi=0,1,50,60, --roi, --ignore"
    assert str(Frame(8)) == "8 x 8 gray"
    assert "\n" not in repr(frame)


def test_a_part_to_ignore_is_one_of_files_of_any_size():
    frame = Frame(None, areas=(Hole((4, 1, 3, 2)),))
    for size in ((5, 9), (3, 7)):
        found = dataclasses.replace(frame, image_size=size).counts(size)
        want = np.array([[not (4 <= x < 7 and 1 <= y < 3) for x in range(size[1])]
                         for y in range(size[0])])  # fmt: skip
        np.testing.assert_array_equal(found, want)
    for size in ((2, 9), (9, 6)):
        with pytest.raises(DataError, match=r"--ignore=4,1,3,2 .* reaches out of this image"):
            dataclasses.replace(frame, image_size=size).counts(size)
    with pytest.raises(DataError, match="--ignore: nothing counts"):
        Frame(4, areas=(Hole((0, 0, 9, 9)),)).counts((9, 9))
