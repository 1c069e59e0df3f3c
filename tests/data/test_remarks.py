"""What a split says of odd images and masks: each kind once, with its numbers."""

import base64
import io
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from cae_jax.data import folder
from cae_jax.data.frame import Frame

RNG = np.random.default_rng(41)
DEEP = RNG.integers(0, 4000, (32, 32)).astype(np.uint16)
DEEP[0, 0] = 4000
SHADE = RNG.integers(0, 256, (32, 32), dtype=np.uint8)
SPOT = np.zeros((32, 32), np.uint8)
SPOT[4:9, 5:11] = 255
HOLED = np.dstack([SHADE, np.where(SPOT, 0, 255).astype(np.uint8)])


def said(tmp_path, image, masks, **frame):
    """The warnings of a category whose images and masks are these."""
    for name in ("train/good/0", "train/good/1", "test/good/0"):
        path = tmp_path / f"nut/{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    for i, mask in enumerate(masks):
        for part, name, array in (("test", f"{i}", image), ("ground_truth", f"{i}_mask", mask)):
            path = tmp_path / f"nut/{part}/hole/{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    return folder.read(tmp_path, "nut", Frame(16, 1, **frame)).warnings


@pytest.mark.parametrize(
    ("image", "frame", "words"),
    [
        (SHADE, {}, []),
        (
            DEEP,
            {},
            ["4 images of 16 bits have no value above 4000 (train/good/1.png), and 65535 counts "
             "as white: if their camera gives 12 bits, --bit_depth=12 makes 4095 white"],
        ),
        (DEEP, {"bit_depth": 12}, []),
        (DEEP * np.uint16(5), {}, []),
        (
            HOLED,
            {},
            ["4 of 4 images have transparent pixels (train/good/0.png), which count with the "
             "colors that lie hidden in them; --background=white, or another color, shows them "
             "as that"],
        ),
        (HOLED, {"background": (0, 0, 0)}, []),
        (np.dstack([SHADE, SHADE * 0 + 255]), {}, []),
    ],
)  # fmt: skip
def test_images(tmp_path, image, frame, words):
    found = said(tmp_path, image, [SPOT], **frame)
    assert list(found) == [f"nut: {text}" for text in words]


# 8 x 8 pixels of 10 bits, written by libavif 1.3; Pillow writes 8 bits alone.
AVIF10 = zlib.decompress(base64.b85decode(
    "c-muNU{FXasVqn=%S>Yc0uY^>nP!-qnV9D5Xy^zOdYzkElE?r7iWw<6MNl?FL1uCZ0~+8f$SlbPvlxL`E;A=T8N_"
    "h`@fjhajKV-#7Kk-6GxO5mYNddjR3<1dvCP2GIX@>KY*$uhK~Vva_RcIw&Ii&WnZ*UEQ2RKbSfC)YA`>LQ%*Dk8q"
    "<9j`44oSl96&<C$@w`&dC55y3`{`C)&LX|&n(D=`3dMS7DlFK79dkKHzlz|h=Gg4f@6O^6BFA6BYyc$Ni7c;#DJ0"
    "$O#5t90H-E1O#"
))  # fmt: skip


def test_what_of_a_file_is_not_read(tmp_path):
    color = RNG.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, color, photometric="rgb", extrasamples=[0], metadata=None)
    good = tmp_path / "nut/train/good"
    good.mkdir(parents=True)
    for name, content in (("0.avif", AVIF10), ("1.avif", AVIF10), ("2.tif", buffer.getvalue())):
        (good / name).write_bytes(content)
    found = folder.read(tmp_path, "nut", Frame(8, 3))
    assert list(found.warnings)[-2:] == [
        "nut: 1 of 3 images are read without channel 4 of a TIFF that does not say what it holds "
        "(train/good/2.tif)",
        "nut: 2 of 3 images are read without the lower 2 of AVIF's 10 bits, which Pillow does not "
        "give (train/good/0.avif)",
    ]
    np.testing.assert_allclose(found.train[2], color[..., :3] / 255, atol=1e-7)
    np.testing.assert_allclose(found.train[0], 704 / 1023, atol=1 / 255)


def test_masks(tmp_path):
    large = np.full((32, 32), 255, np.uint8)
    large[:10] = 0  # 68.75 %, black where the border is
    soft = (np.hypot(*np.mgrid[-16:16, -16:16]) * 11).clip(0, 255).astype(np.uint8)
    soft = 255 - soft
    cut = (soft >= soft.max() / 2).mean()
    assert 0 < cut < 0.5
    masks = [SPOT, large, SPOT | 255, 255 - SPOT, soft, np.dstack([SPOT[::2, ::2]] * 3)]
    share, levels = SPOT.mean() / 255, len(np.unique(soft))
    mask = "ground_truth/hole/{}_mask.png".format
    assert list(said(tmp_path, SHADE, masks)) == [
        f"nut: 1 of 6 masks make all of their image defective, as {mask(2)}: they have no black",
        f"nut: 1 of 6 masks cover over half of their image, {mask(1)} 69%",
        f"nut: 1 of 6 masks have a ground that is not black (white in {mask(3)}): what differs "
        f"from it counts as defective, there {share:.1%}; --mask_ground says it otherwise",
        f"nut: 1 of 6 masks hold many levels, {mask(4)} {levels}: what is at least half as far "
        "from the ground as the farthest counts as defective",
        f"nut: 1 of 6 masks are of another size than their image and were resized, {mask(5)} "
        "16 x 16 for 32 x 32",
    ]
