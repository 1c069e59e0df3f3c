"""The flags of --method=f_anogan, see `methods.f_anogan`."""

from __future__ import annotations

import dataclasses

from cae_jax.methods.options import PRECISIONS
from cae_jax.methods.options.descent import Descent
from cae_jax.options import flag
from cae_jax.scoring.options import Windows, score_flag
from cae_jax.training.schedule import Training

_GAN_SHARE = 100 / 420  # of the steps, where --encoder_epochs does not say: IJCV 2021's


@dataclasses.dataclass(frozen=True)
class Options(Training, Descent, Windows):
    """The flags of --method=f_anogan."""

    epochs: int = flag(420, "passes over the training patches, of both phases", 1)
    encoder_epochs: int = flag(
        0, "of the epochs, the last ones, which train the encoder; 0: 320 in 420", 0
    )
    batch_size: int = flag(64, "patches per training step", 1)
    patch_size: int = flag(64, "side of a patch, in pixels: a power of two", 8)
    # an image is as bad as its worst patch: one that reaches beyond the image, as a smaller stride
    # makes them, is filled with the image's edge and as strange as a defect
    stride: int = flag(64, "pixels between the patches of a test image", 1)
    width: int = flag(64, "channels of the layers next to the image", 1)
    latent: int = flag(128, "numbers that a patch is made of", 1)
    z_activation: str = flag(
        "tanh",
        "of the encoder: tanh, the paper's; linear, which reaches all",
        among=("tanh", "linear"),
    )
    learning_rate: float = flag(1e-4, "of the GAN's Adam", 0)
    encoder_learning_rate: float = flag(5e-5, "of the encoder's RMSProp", 0)
    critic_steps: int = flag(5, "steps of the critic for one of the generator", 1)
    gradient_penalty: float = flag(10.0, "weight of the critic's gradient penalty", 0)
    kappa: float = flag(1.0, "weight of the critic's features in loss and score", 0)
    precision: str = flag("float32", "of products and sums", among=PRECISIONS)
    image_score: str = score_flag("max")

    @property
    def gan_steps(self) -> int:
        """Training steps before those of the encoder."""
        if self.encoder_epochs:
            return (self.epochs - self.encoder_epochs) * self.steps_per_epoch
        return max(1, round(_GAN_SHARE * self.steps))
