"""MVTec AD as a tensorflow_datasets builder, prepared and read without TensorFlow.

Importing this module registers "mvtec_ad/CATEGORY". The images are downloaded by hand (their
licence asks for it); the files' bytes go into the records unchanged:

    config = tfds.download.DownloadConfig(manual_dir=MANUAL_DIR)
    builder = tfds.builder("mvtec_ad/screw", data_dir=DIR, file_format="array_record")
    builder.download_and_prepare(download_config=config)
    source = tfds.data_source("mvtec_ad/screw", data_dir=DIR, split="test")

Only the format array_record needs no TensorFlow. Records come in a hashed order: `path` tells
which is which. tensorflow_datasets' own decoding wraps 16-bit images; `read` does not use it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import array_record  # noqa: F401 - none for Windows: here its absence is told, and not at a read
import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from cae_jax.data import folder, images, pictures
from cae_jax.data.frame import Frame
from cae_jax.data.layouts import mvtec
from cae_jax.data.layouts.found import Found, Item
from cae_jax.files import AUTO
from cae_jax.types import GOOD, DataError, LeftOut, Split

CATEGORIES = tuple(sorted(folder.table1()))
FILE_FORMAT = "array_record"

_HOMEPAGE = "https://www.mvtec.com/company/research/datasets/mvtec-ad"
_MANUAL = Path("downloads", "manual")  # below tensorflow_datasets' data_dir: its convention
_UNPACKED = "mvtec_anomaly_detection"  # the folder that some packings of the archive hold
_CITATION = """\
@inproceedings{bergmann2019mvtec,
  title={{MVTec AD} -- A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection},
  author={Bergmann, Paul and Fauser, Michael and Sattlegger, David and Steger, Carsten},
  booktitle={IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  pages={9584--9592},
  year={2019}
}"""


class MvtecAd(tfds.core.GeneratorBasedBuilder):
    """MVTec AD: 15 categories of textures and objects; to learn from good images alone."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Images, masks and defect kinds as distributed."}  # noqa: RUF012
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name=name, description=f"The category {name}.")
        for name in CATEGORIES
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"Download mvtec_anomaly_detection.tar.xz, or one category's archive, from {_HOMEPAGE} "
        "and unpack it in manual_dir: it then holds screw/train/good and so on, or "
        f"{_UNPACKED}/screw/train/good."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(doc="the file's bytes, unchanged"),
            "mask": tfds.features.Image(
                shape=(None, None, 1), doc="not 0 where defective; all 0 where there is no mask"
            ),
            "label": tfds.features.ClassLabel(names=[GOOD, "defective"]),
            "defect_kind": tfds.features.Text(doc="good, or the defect's folder"),
            "path": tfds.features.Text(doc="relative to the category"),
            "mask_path": tfds.features.Text(doc="the same; empty where there is no file"),
            "has_mask": tfds.features.Scalar(np.bool_, doc="False: a defect nobody has outlined"),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
            homepage=_HOMEPAGE,
            citation=_CITATION,
            license="CC BY-NC-SA 4.0",
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        root = _category_folder(Path(dl_manager.manual_dir), self.builder_config.name)
        found = mvtec.mvtec_ad(root)
        self.info.metadata["left_out"] = [list(entry) for entry in found.left_out]
        return {
            "train": self._generate_examples(found.train),
            "test": self._generate_examples(found.test),
        }

    def _generate_examples(self, items: Iterable[Item]) -> Iterator[tuple[str, dict]]:
        for item in items:
            yield (
                item.path,
                {
                    # Paths and bytes, never arrays: those would be encoded by TensorFlow.
                    "image": item.source,
                    "mask": item.masks[0] if item.masks else _blank_mask(item.source),
                    "label": int(item.kind != GOOD),
                    "defect_kind": item.kind,
                    "path": item.path,
                    "mask_path": item.mask_path,
                    "has_mask": bool(item.masks) or item.kind == GOOD,
                },
            )


def categories(data_dir: Path) -> tuple[str, ...]:
    """The categories prepared in tensorflow_datasets' `data_dir` or ready to be, sorted.

    Raises:
        DataError: there is none; the message says which archive belongs where.
    """
    found = tuple(
        name
        for name in CATEGORIES
        if _is_prepared(data_dir, name) or _in_manual_dir(data_dir / _MANUAL, name)
    )
    if not found:
        raise _missing(data_dir / _MANUAL, "no category")
    return found


def read(
    data_dir: Path,
    category: str,
    frame: Frame,
    on_bad_image: str = "error",
    progress: Callable[[int], None] | None = None,
    held: str = AUTO,
) -> Split:
    """Reads one category from its records, which are prepared first where that was not done.

    Args:
        data_dir: tensorflow_datasets' data_dir; the images to prepare lie in downloads/manual.
        category: one of `CATEGORIES`.
        frame: see `folder.assemble`, as the other arguments and errors.
        on_bad_image: "error" or "skip".
        progress, held: see `images.decode_all`.

    Raises:
        DataError: the category is not there, or as `folder.assemble`.
    """
    if not _is_prepared(data_dir, category):
        _prepare(data_dir, category)
    builder = MvtecAd(config=category, data_dir=data_dir)  # in the format that it was written in
    found = Found(
        root=f"mvtec_ad/{category}",
        train=_items(builder, "train"),
        test=_items(builder, "test"),
        left_out=tuple(LeftOut(*entry) for entry in builder.info.metadata["left_out"]),
    )
    return folder.assemble("mvtec_ad", category, found, frame, on_bad_image, progress, held)


def count(data_dir: Path, category: str) -> tuple[int, int, int]:
    """Returns how many images there are in train and test, and entries left out; prepares nothing.

    Raises DataError as `mvtec.mvtec_ad`.
    """
    if not _is_prepared(data_dir, category):
        found = mvtec.mvtec_ad(_category_folder(data_dir / _MANUAL, category))
        return len(found.train), len(found.test), len(found.left_out)
    info = MvtecAd(config=category, data_dir=data_dir).info
    n_train, n_test = (info.splits[part].num_examples for part in ("train", "test"))
    return n_train, n_test, len(info.metadata["left_out"])


def _is_prepared(data_dir: Path, category: str) -> bool:
    version = str(MvtecAd.VERSION)
    return (data_dir / "mvtec_ad" / category / version / "dataset_info.json").is_file()


def _prepare(data_dir: Path, category: str) -> None:
    """Writes the records of one category; whole or not at all."""
    manual_dir = data_dir / _MANUAL
    _category_folder(manual_dir, category)
    logging.info("preparing mvtec_ad/%s from %s", category, manual_dir)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(
        manual_dir=manual_dir,
        try_download_gcs=False,
        download_mode=tfds.GenerateMode.REUSE_CACHE_IF_EXISTS,  # replaces a half-made folder
    )
    builder = MvtecAd(config=category, data_dir=data_dir, file_format=FILE_FORMAT)
    # It prints that it downloads, which it does not.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=config)


def _items(builder: MvtecAd, split: str) -> tuple[Item, ...]:
    """The records of a split, images and masks still encoded, in the order of their paths."""
    skip = tfds.decode.SkipDecoding()
    try:
        source = builder.as_data_source(split, decoders={"image": skip, "mask": skip})
    except NotImplementedError as error:
        raise DataError(
            f"{builder.data_path}: written as {builder.info.file_format.value}, which cannot be "
            f"read without TensorFlow; delete that folder to have it written as {FILE_FORMAT}"
        ) from error
    items = [_item(source[i]) for i in range(len(source))]
    return tuple(sorted(items, key=lambda item: item.path))


def _item(record: dict[str, Any]) -> Item:
    text = {key: record[key].decode() for key in ("path", "defect_kind", "mask_path")}
    return Item(
        path=text["path"],
        kind=text["defect_kind"],
        source=record["image"],
        mask_path=text["mask_path"],
        masks=(record["mask"],) if text["mask_path"] else (),
    )


def _blank_mask(image: Path | bytes) -> bytes:
    """A mask without a defective pixel, of the image's size; an unreadable image gets 1 x 1."""
    try:
        return _blank_png(*images.size(image))
    except DataError:
        return _blank_png(1, 1)  # the image is stored all the same: its reader names it


@functools.cache
def _blank_png(height: int, width: int) -> bytes:
    return pictures.png_bytes(np.zeros((height, width), bool))


def _in_manual_dir(manual_dir: Path, category: str) -> Path | None:
    for root in (manual_dir / category, manual_dir / _UNPACKED / category):
        if (root / "train" / "good").is_dir():
            return root
    return None


def _category_folder(manual_dir: Path, category: str) -> Path:
    root = _in_manual_dir(manual_dir, category)
    if root is None:
        raise _missing(manual_dir, f"no {category}/train/good")
    if not (root / "test").is_dir():
        raise DataError(f"{root / 'test'}: no such folder, and a category of MVTec AD has one")
    return root


def _missing(manual_dir: Path, what: str) -> DataError:
    text = MvtecAd.MANUAL_DOWNLOAD_INSTRUCTIONS.replace("manual_dir", str(manual_dir))
    return DataError(f"{manual_dir}: {what}. {text} --dataset=folder reads it where it lies.")
