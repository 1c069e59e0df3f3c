"""The flags of --method=inpainting, see `methods.inpainting`."""

from __future__ import annotations

import dataclasses

from cae_jax.methods.options import PRECISIONS
from cae_jax.methods.options.descent import Descent
from cae_jax.methods.options.whole_crops import WholeCrops
from cae_jax.options import flag
from cae_jax.scoring.options import score_flag


@dataclasses.dataclass(frozen=True)
class Options(WholeCrops, Descent):
    """The flags of --method=inpainting; the defaults are the paper's."""

    epochs: int = flag(300, "passes over the training images", 1)
    batch_size: int = flag(4, "images per training step", 1)
    width: int = flag(64, "channels of the layers next to the image", 1)
    learning_rate: float = flag(1e-4, "of Adam", 0)
    weight_decay: float = flag(1e-5, "L2 added to the gradient", 0)
    precision: str = flag("float32", "of products and sums", among=PRECISIONS)
    image_score: str = score_flag("max")
