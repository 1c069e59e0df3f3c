"""The flags that all methods share, as three records: images, scoring, output."""

from __future__ import annotations

import dataclasses

from cae_jax import data, files
from cae_jax.data import layouts
from cae_jax.data.frame import BIT_DEPTHS, GROUNDS, RESIZES
from cae_jax.evaluation import threshold_rule
from cae_jax.options import FREE, SCORING, Pixels, flag
from cae_jax.scoring.options import BORDERS, INTENSITIES, score_flag

AUTO, FOLDS = -1, 5
_OF = ("last", "best")  # checkpoints


@dataclasses.dataclass(frozen=True)
class Images:
    """Which images, and how they are read."""

    dataset: str = flag("synthetic", "where images come from", among=data.DATASETS)
    # free: a run is of the images and not of their place, which may be another one tomorrow
    data_dir: str = flag(
        "",
        "folder: a category or the parent of several; mvtec_ad, tfds: the TFDS folder",
        part=FREE,
    )
    layout: str = flag("auto", "how the folder is laid out", among=layouts.NAMES, part=FREE)
    good_name: str = flag("", "the folder of good images; usual names if empty", part=FREE)
    mask_pattern: str = flag(
        "", "a mask's name by its image's, as {stem}_seg; usual names if empty", part=FREE
    )
    test_fraction: float = flag(
        0.0, "of good images, to judge; of data that does not say which are for the test", 0, 0.9
    )
    category: str = flag("all", "a category, several with commas, or all")
    joint: bool = flag(False, "one model for all these categories, not one each")
    image_size: int | tuple[int, int] = flag(
        Pixels(256), "what images are resized to, in pixels: a side, or HEIGHTxWIDTH", 8, 8192
    )
    resize: str = flag(
        "stretch",
        "how they get there: stretch; pad, or crop, keeps their shape; none: they are that size",
        among=RESIZES,
    )
    roi: str = flag("", "the part to look at: x,y,width,height, or a mask that is white there")
    ignore: str = flag("", "what does not count: x,y,width,height, or a mask that is white there")
    tile: int = flag(0, "side of the tiles that an image is inspected by; 0: whole", 0, 8192)
    tile_overlap: int = flag(32, "pixels that two tiles have in common", 0)
    channels: int = flag(1, "1: gray, 3: RGB", among=(1, 3))
    bit_depth: str = flag(
        "auto",
        "of 16-bit files that hold fewer bits: white is 2^bit_depth - 1; auto: as the file says",
        among=BIT_DEPTHS,
    )
    background: str = flag(
        "none", "color behind transparent pixels, as white or #00b140; none: what lies hidden there"
    )
    mask_ground: str = flag(
        "auto",
        "of ground-truth masks, what is not defective: black, white, or auto, as their border is",
        among=GROUNDS,
    )
    folds: int = flag(
        AUTO,
        "of cross-fitting, where nothing is held out; 0: hold out; -1: as the method learns, "
        f"{FOLDS} in one pass, 0 by steps",
        AUTO,
        1000,
    )
    train_images: int = flag(0, "learn from so many, drawn by the seed; 0: from all", 0)
    intensity: str = flag(
        "none",
        "divide each image by its own: median, of its pixels; mean_std: less the mean, by the "
        "deviation; none",
        among=INTENSITIES,
    )
    validation_fraction: float = flag(0.1, "share of the training images held out", 0, 0.9)
    images_in: str = flag(
        "auto",
        "where decoded images lie: memory; disk, in a file; auto: in one of them if they take more "
        "than an eighth of the memory that is free",
        among=files.HELD,
        part=FREE,
    )
    on_bad_image: str = flag("error", "stop, or skip it and list it", among=("error", "skip"))


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How a trained method's maps become scores, and scores verdicts."""

    distance: str = flag("", "what the verdict rests on; the method's first if empty", part=SCORING)
    residual_smooth: float = flag(
        0.0, "sigma of a Gaussian over residual maps, in pixels", 0, 64, part=SCORING
    )
    residual_border: str = flag(
        "reflect", "at the image's border: reflect, edge or crop", among=BORDERS, part=SCORING
    )
    image_score: str = score_flag("sum")
    top_share: float = flag(
        0.01, "share of the pixels that image_score=top averages", 0, 1, part=SCORING
    )
    minimum_area: int = flag(
        0, "smallest defect, in pixels; 0: a share of the image or tile", 0, part=SCORING
    )
    false_alarms: float = flag(
        0.0, "rate of them that the threshold is for; 0: it calls 90 % good", 0, 0.5, part=SCORING
    )
    threshold: str = flag(
        "", f"rule by which images are called defective: {threshold_rule.GRAMMAR}", part=SCORING
    )
    checkpoint: str = flag(
        "last", "whose weights judge: last, or best, of the lowest loss", among=_OF, part=SCORING
    )
    opening: int = flag(
        4, "diameter of the disc that opens a segmentation; 0: none", 0, 64, part=SCORING
    )


@dataclasses.dataclass(frozen=True)
class Output:
    """Where everything is written."""

    workdir: str = flag("", "where everything is written; runs/DATASET when empty", part=FREE)
    csv: str = flag(
        "plain",
        "tables: plain, or excel, with a byte order mark and no text that is a formula",
        among=("plain", "excel"),
        part=FREE,
    )
    save_maps: bool = flag(False, "also write every test image's residual map and mask", part=FREE)
    overwrite: bool = flag(False, "replace what another run left in the workdir", part=FREE)
