"""What images are brought to: sizes, and what is said of a shape that is lost."""

import numpy as np
import pytest
from PIL import Image

from cae_jax.data import folder
from cae_jax.data.frame import Frame, stretched
from cae_jax.options import read_size, to_text
from cae_jax.types import UsageError


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


def test_a_frame_of_flags():
    assert Frame.of(9, 1, "auto", "none") == Frame(9, 1)
    assert Frame.of(9, 3, "12", "#00b140") == Frame(9, 3, 12, (0, 177, 64))
    assert Frame.of(9, 3, "8", "White") == Frame(9, 3, 8, (255, 255, 255))
    for word in ("", "blak", "#12345", "#ffffff80", "transparent"):
        with pytest.raises(UsageError, match=f"^--background={word}: must be none, or a color"):
            Frame.of(9, 1, "auto", word)
