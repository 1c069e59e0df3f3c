"""The flags of --method=distilled, see `methods.distilled`."""

from __future__ import annotations

import dataclasses

from cae_jax.methods.options.descent import Descent
from cae_jax.methods.options.features import Features, Judged
from cae_jax.options import flag
from cae_jax.training.schedule import Training

_LAST = 0.05  # share of the steps with a tenth of the learning rate


@dataclasses.dataclass(frozen=True)
class Options(Training, Descent, Features, Judged):
    """The flags of --method=distilled."""

    epochs: int = flag(70, "passes over as many images as --num_patches", 1)
    num_patches: int = flag(1000, "images per epoch", 1)
    batch_size: int = flag(1, "images per training step", 1)
    width: int = flag(128, "channels of the student's first layer; its next have twice as many", 1)
    learning_rate: float = flag(1e-4, "of Adam", 0)
    weight_decay: float = flag(1e-5, "L2 added to the gradient", 0)
    hardest: float = flag(0.999, "quantile above which the student's errors count", 0, 1)

    @property
    def slow_from(self) -> int:
        """The step from which on the learning rate is a tenth."""
        return int((1 - _LAST) * self.steps)
