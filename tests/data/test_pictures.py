"""Pictures: what is written is read back by Pillow and by scikit-image, bit for bit."""

import io
import os

import numpy as np
import pytest
from PIL import Image
from skimage import io as skimage_io

from cae_jax.data import images, pictures
from cae_jax.data.frame import Frame
from cae_jax.types import DataError

RNG = np.random.default_rng(21)


def test_png_bytes():
    for shape in ((5, 6), (5, 6, 1), (5, 6, 3)):
        levels = RNG.integers(0, 256, shape, dtype=np.uint8)
        for array in (levels, levels / 255, (levels / 255).astype(np.float32)):
            stored = np.asarray(Image.open(io.BytesIO(pictures.png_bytes(array))))
            np.testing.assert_array_equal(stored.reshape(shape), levels)
        turned = levels.swapaxes(0, 1)  # not contiguous
        stored = np.asarray(Image.open(io.BytesIO(pictures.png_bytes(turned))))
        np.testing.assert_array_equal(stored.reshape(turned.shape), turned)


def test_save_png(tmp_path):
    path = tmp_path / "a.png"
    for shape in ((5, 6), (5, 6, 1), (5, 6, 3)):
        pixels = RNG.random(shape)
        pictures.save_png(path, pixels)
        stored = np.asarray(Image.open(path))  # uint8
        np.testing.assert_allclose(stored.reshape(shape), pixels * 255, atol=0.5)
    pictures.save_png(path, pixels[..., 0] > 0.5)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), (pixels[..., 0] > 0.5) * 255)
    levels = np.arange(256, dtype=np.float32).reshape(16, 16) / 255
    pictures.save_png(path, levels)
    np.testing.assert_array_equal(images.decode(path, Frame(None, 1))[..., 0], levels)
    before = path.read_bytes()
    bad = (pixels[..., :2], pixels + 1, pixels * np.nan, np.ones((4, 4), int), pixels[0, 0])
    for array in (*bad, pixels[:0]):
        with pytest.raises(ValueError, match="array must"):
            pictures.save_png(path, array)
    assert os.listdir(tmp_path) == ["a.png"]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("save", "name"), [(pictures.save_png, "b.png"), (pictures.save_tiff, "b.tiff")]
)
def test_a_file_is_whole_or_absent(tmp_path, monkeypatch, save, name):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    pixels = RNG.random((3, 4)).astype(np.float32)
    (tmp_path / "file").touch()
    for folder, cause in (("none", "No such file"), ("file", "Not a directory")):
        with pytest.raises(DataError, match=rf"{name}': cannot be written: {cause}"):
            save(tmp_path / folder / name, pixels)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=rf"{name}': cannot be written: No space left"):
        save(tmp_path / name, pixels)
    assert os.listdir(tmp_path) == ["file"]


def test_tiff_keeps_every_bit(tmp_path):
    path = tmp_path / "a map, größer.tiff"
    bits = RNG.integers(0, 2**32, (37, 53), dtype=np.uint32)
    residual = bits.view(np.float32)  # any float there is, NaN and infinity too
    for array in (residual, residual.T):
        pictures.save_tiff(path, array)
        with Image.open(path) as image:
            assert image.mode == "F"
            by_pillow = np.asarray(image)
        for stored in (by_pillow, skimage_io.imread(path)):  # scikit-image reads with tifffile
            assert stored.dtype == np.float32
            np.testing.assert_array_equal(stored.view(np.uint32), array.copy().view(np.uint32))
    for bad in (residual.astype(np.float64), residual[None], bits):
        with pytest.raises(ValueError, match=r"a map must be float32 \[H, W\]"):
            pictures.save_tiff(path, bad)


def interpolated(line, n):
    """Linear interpolation of a line to n points; pixels are areas, beyond the ends it is flat."""
    at = (np.arange(n) + 0.5) * len(line) / n - 0.5
    return np.interp(at, np.arange(len(line)), line)


def test_resize_map_is_bilinear():
    residual = (RNG.random((7, 11)) * 1e5).astype(np.float32)
    wide = np.apply_along_axis(interpolated, 1, residual, 29)
    want = np.apply_along_axis(interpolated, 0, wide, 23)
    found = pictures.resize_map(residual, (23, 29))
    assert (found.shape, found.dtype) == ((23, 29), np.float32)
    np.testing.assert_allclose(found, want, rtol=1e-5)
    np.testing.assert_array_equal(pictures.resize_map(residual, (7, 11)), residual)


def test_resize_mask_takes_the_nearest():
    mask = RNG.random((7, 11)) < 0.4
    for height, width in ((23, 30), (5, 8), (7, 11), (14, 1)):
        rows, columns = (
            ((np.arange(n) + 0.5) * old / n).astype(int) for n, old in ((height, 7), (width, 11))
        )
        found = pictures.resize_mask(mask, (height, width))
        assert found.dtype == bool
        np.testing.assert_array_equal(found, mask[rows][:, columns])
    for bad in (mask[None], mask.astype(np.uint8)):
        with pytest.raises(ValueError, match=r"mask must be bool \[H, W\]"):
            pictures.resize_mask(bad, (4, 4))


def test_predictions_lie_where_the_evaluation_script_looks(tmp_path):
    paths = ("test/good/000.png", "test/bad weld/Ä ß.tar.jpg", "test/x/7.bmp", "test/x/7.png")
    stems = ("test/good/000", "test/bad weld/Ä ß.tar", "test/x/7.bmp", "test/x/7.png")
    sizes = ((30, 20), (16, 24), (9, 9), (8, 40))
    maps = RNG.random((4, 16, 24)).astype(np.float32)
    masks = maps > 0.5
    pictures.write_predictions(tmp_path / "run", "metal nut", paths, sizes, maps, masks)
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(written) == 8
    for stem, size, residual, mask in zip(stems, sizes, maps, masks, strict=True):
        path = tmp_path / "run" / "anomaly_maps" / "metal nut" / f"{stem}.tiff"
        want = pictures.resize_map(residual, size)
        np.testing.assert_array_equal(skimage_io.imread(path), want)
        path = tmp_path / "run" / "predicted_masks" / "metal nut" / f"{stem}.png"
        want = pictures.resize_mask(mask, size)
        np.testing.assert_array_equal(images.decode_mask(path, Frame(None), size), want)
    path = tmp_path / "run" / "anomaly_maps" / "metal nut" / "test" / "bad weld" / "Ä ß.tar.tiff"
    np.testing.assert_array_equal(np.asarray(Image.open(path)), maps[1])


def test_predictions_without_masks_and_where_nothing_can_be_written(tmp_path):
    maps = RNG.random((1, 4, 5)).astype(np.float32)
    arguments = ("nut", ["test/good/0.png"], [(4, 5)], maps)
    pictures.write_predictions(tmp_path, *arguments, None)
    assert os.listdir(tmp_path) == ["anomaly_maps"]
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"anomaly_maps/nut/test/good': cannot be made: Not a dir"):
        pictures.write_predictions(tmp_path / "file", *arguments, None)
    with pytest.raises(ValueError, match="shorter"):
        pictures.write_predictions(tmp_path, "nut", ["test/good/0.png"], [], maps, None)


def test_quick_pngs_and_jpegs_show_the_same(rng):
    levels = rng.integers(0, 256, (9, 14, 3), np.uint8)
    for array in (levels, levels[..., 0], levels[..., :1] > 100):
        quick = Image.open(io.BytesIO(pictures.png_bytes(array, quick=True)))
        assert quick.format == "PNG"
        np.testing.assert_array_equal(quick, Image.open(io.BytesIO(pictures.png_bytes(array))))
    smooth = np.repeat(np.linspace(0, 1, 64)[:, None], 48, axis=1)
    jpeg = Image.open(io.BytesIO(pictures.jpeg_bytes(smooth)))
    assert jpeg.format == "JPEG"
    assert np.abs(np.asarray(jpeg, np.float64) - 255 * smooth).max() < 4


def test_the_map_of_a_long_line_scan(tmp_path):
    residual = np.zeros((2, 65536), np.float32)
    residual[1, 60000] = 1
    pictures.write_prediction(tmp_path, "long.png", residual.shape, residual, residual > 0)
    for path in (p for p in tmp_path.rglob("long.*") if p.is_file()):
        found = np.asarray(Image.open(path))
        assert found.shape == residual.shape
        assert np.flatnonzero(found).tolist() == [65536 + 60000]
