"""How long and on what a method learns by steps: an exact course of crops from a seed."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from cae_jax.options import FREE, flag
from cae_jax.types import UsageError, unknown_name

JSONL, TENSORBOARD, WANDB = LOGS = ("jsonl", "tensorboard", "wandb")

KINDS = ("none", "texture", "object", "object_mirror")  # of augmentation, see `crops`
STRATEGIES = ("vmap", "unroll", "loop")  # see `members`


@dataclasses.dataclass(frozen=True)
class Training:
    """The flags of a method that learns by steps; its Options are of this record."""

    epochs: int = flag(200, "passes over the training patches", 1)
    batch_size: int = flag(128, "patches per training step", 1)
    num_patches: int = flag(10_000, "training crops per epoch", 1)
    redraw_patches: bool = flag(False, "draw new crops every epoch, not the same as the thesis")
    augment: str = flag("none", "of crops; auto: by MVTec category", among=(*KINDS, "auto"))
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
    augment: str = "none"  # of KINDS; validation crops are always plain
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
