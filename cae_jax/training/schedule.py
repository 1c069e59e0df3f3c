"""How long and on what a method learns by steps: an exact course of crops from a seed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cae_jax.options import FREE, flag
from cae_jax.training import crops
from cae_jax.training.members import STRATEGIES
from cae_jax.types import Images, UsageError, unknown_name

JSONL, TENSORBOARD, WANDB = LOGS = ("jsonl", "tensorboard", "wandb")

# Each draws from a stream of its own: more validation crops do not move the training crops.
_TRAIN_STREAM, _VALIDATION_STREAM, _ORDER_STREAM, _REDRAW_STREAM = range(4)


@dataclasses.dataclass(frozen=True)
class Training:
    """The flags of a method that learns by steps; its Options are of this record."""

    epochs: int = flag(200, "passes over the training patches", 1)
    batch_size: int = flag(128, "patches per training step", 1)
    num_patches: int = flag(10_000, "training crops per epoch", 1)
    redraw_patches: bool = flag(False, "draw new crops every epoch, not the same as the thesis")
    augment: str = flag("none", "of crops; auto: by MVTec category", among=(*crops.KINDS, "auto"))
    members: str = flag(
        "auto",
        "categories x seeds together; auto: by device",
        among=(*STRATEGIES, "auto"),
        part=FREE,
    )
    checkpoint_every: int = flag(1, "epochs between checkpoints", 1, part=FREE)
    keep: int = flag(2, "last checkpoints kept, besides the one of the lowest loss", 1, part=FREE)

    early_stopping: int = flag(
        0, "stop after so many epochs whose loss, of images held out, is no lower; 0: never", 0
    )
    log_to: str = flag(
        "",
        "what else is told of each epoch, several with commas: jsonl, a line on standard output; "
        "tensorboard; wandb, offline",
        part=FREE,
    )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.num_patches // self.batch_size

    @property
    def steps(self) -> int:
        """Training steps in all."""
        return self.epochs * self.steps_per_epoch

    def course(self, patch_size: int, seed: int) -> Schedule:
        """Returns how long and on what a run trains."""
        return Schedule(
            *(self.epochs, self.batch_size, self.num_patches, patch_size, seed),
            *(self.redraw_patches, self.augment, self.early_stopping),
        )


class Schedule(NamedTuple):
    """How long and on what a model trains."""

    epochs: int
    batch_size: int
    num_patches: int  # per epoch; the same crops every epoch, as in the thesis
    patch_size: int
    seed: int
    redraw: bool = False  # new crops every epoch instead
    augment: str = "none"  # of crops.KINDS; validation crops are always plain
    patience: int = 0  # epochs without a lower loss, after which it ends early; 0: never

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; what is left over differs from epoch to epoch."""
        return self.num_patches // self.batch_size


def check(t: Training) -> None:
    """Raises UsageError where a batch is larger than an epoch, or a log is unknown."""
    log_names(t.log_to)
    if t.batch_size > t.num_patches:
        raise UsageError(
            f"--batch_size={t.batch_size} is larger than --num_patches={t.num_patches}: "
            "an epoch would have no step"
        )


def log_names(log_to: str) -> tuple[str, ...]:
    """Returns the names in --log_to, of LOGS, each once; raises UsageError for any other."""
    names = tuple(dict.fromkeys(name.strip() for name in log_to.split(",") if name.strip()))
    for name in names:
        if name not in LOGS:
            raise unknown_name("--log_to", name, LOGS)
    return names


def epoch_crops(images: Images, schedule: Schedule, epoch: int) -> Iterator[np.ndarray]:
    """Yields an epoch's batches of crops of images [m, H, W, C], of which the shape alone counts,
    as `crops.draw` gives them, in the epoch's order."""
    s = schedule
    key = (s.seed, _REDRAW_STREAM, epoch) if s.redraw else (s.seed, _TRAIN_STREAM)
    drawn = crops.draw(images.shape, s.patch_size, s.num_patches, key, s.augment)
    order = np.random.default_rng((s.seed, _ORDER_STREAM, epoch)).permutation(s.num_patches)
    for i in range(s.steps_per_epoch):
        yield drawn[order[i * s.batch_size : (i + 1) * s.batch_size]]


def validation_crops(train: Images, validation: Images, schedule: Schedule) -> list[np.ndarray]:
    """Returns fixed crops of the images held out, in whole batches, as many as is their share of
    the images; none without images."""
    if not len(validation):
        return []
    share = schedule.num_patches * len(validation) / (len(validation) + len(train))
    n = math.ceil(share / schedule.batch_size) * schedule.batch_size
    key = (schedule.seed, _VALIDATION_STREAM)
    drawn = crops.draw(validation.shape, schedule.patch_size, n, key, "none")
    return np.split(drawn, n // schedule.batch_size)
