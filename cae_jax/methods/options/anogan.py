"""The flags of --method=anogan, see `methods.anogan`."""

from __future__ import annotations

import dataclasses

from cae_jax.methods.options import PRECISIONS
from cae_jax.methods.options.descent import Descent
from cae_jax.options import SCORING, flag
from cae_jax.scoring.options import Windows, score_flag
from cae_jax.training.schedule import Training

PRIORS = ("uniform", "normal", "truncated_normal")
SCHEDULES = ("stepped", "constant")


@dataclasses.dataclass(frozen=True)
class Options(Training, Descent, Windows):
    """The flags of --method=anogan."""

    epochs: int = flag(50, "passes over the training patches", 1)
    batch_size: int = flag(64, "patches per training step", 2)
    patch_size: int = flag(64, "side of a patch, in pixels: a power of two", 8)
    # as of f_anogan: a patch that reaches beyond the image is as strange as a defect
    stride: int = flag(64, "pixels between the patches of a test image", 1)
    width: int = flag(64, "channels of the layers next to the image", 1)
    latent: int = flag(100, "numbers that a patch is made of", 1)
    z_prior: str = flag(
        "uniform", "of latent vectors: uniform in -1..1, normal, or truncated at 2", among=PRIORS
    )
    learning_rate: float = flag(2e-4, "of Adam, in training", 0)
    search_steps: int = flag(500, "of Adam on a patch's latent vector", 0, part=SCORING)
    search_rate: float = flag(0.01, "of that Adam, at first", 0, part=SCORING)
    search_schedule: str = flag(
        "stepped",
        "of that rate; stepped: a tenth after 2/5 of the steps, a twentieth after 3/5",
        among=SCHEDULES,
        part=SCORING,
    )
    restarts: int = flag(1, "searches for a patch, the best of which counts", 1, part=SCORING)
    feature_weight: float = flag(
        0.1, "lambda: of the discriminator's features in the score", 0, 1, part=SCORING
    )
    precision: str = flag("float32", "of products and sums", among=PRECISIONS)
    image_score: str = score_flag("max")
