"""The flags of --method=bigan, see `methods.bigan`."""

from __future__ import annotations

import dataclasses

from cae_jax.methods.options import PRECISIONS
from cae_jax.methods.options.descent import Descent
from cae_jax.options import SCORING, flag
from cae_jax.scoring.options import Windows, score_flag
from cae_jax.training.schedule import Training
from cae_jax.types import Size

SCORES = ("fm", "cross_entropy")
WEIGHT = 0.1  # of the discriminator in BiGAN's score


@dataclasses.dataclass(frozen=True)
class Options(Training, Descent, Windows):
    """The flags of --method=bigan."""

    variant: str = flag("bigan", "bigan, Zenati's first; alad, the second", among=("bigan", "alad"))
    epochs: int = flag(100, "passes over the training patches", 1)
    batch_size: int = flag(100, "patches per training step; alad's paper takes 32", 1)
    patch_size: int = flag(32, "side of a patch, in pixels: a power of two", 16)
    stride: int = flag(32, "pixels between the patches of a test image", 1)
    width: int = flag(0, "scales all layers; 0: the paper's, 32 or, of alad, 64", 0)
    latent: int = flag(0, "numbers that a patch is made of; 0: the paper's, 200 or 100", 0)
    learning_rate: float = flag(0.0, "of Adam; 0: the paper's, 1e-5 or, of alad, 2e-4", 0)
    ema: float = flag(0.999, "decay of the weights' moving averages, which score", 0, 1)
    consistency: float = flag(0.0, "share of CBiGAN's consistency in the loss; 0: none", 0, 1)
    score: str = flag(
        "fm", "of the discriminator: fm, its features; cross_entropy", among=SCORES, part=SCORING
    )
    score_weight: float = flag(
        WEIGHT, "of the discriminator, beside the residual; of bigan alone", 0, 1, part=SCORING
    )
    precision: str = flag("float32", "of products and sums", among=PRECISIONS)
    image_score: str = score_flag("max")

    def resolved(self, size: Size) -> Options:
        """Returns the record for images of that size, the paper's values worked out."""
        from cae_jax.models.bigan import PAPERS

        paper = PAPERS[self.variant]
        return dataclasses.replace(
            self,
            width=self.width or paper.width,
            latent=self.latent or paper.latent,
            learning_rate=self.learning_rate or paper.learning_rate,
        )
