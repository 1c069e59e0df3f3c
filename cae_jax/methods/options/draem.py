"""The flags of --method=draem, see `methods.draem`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from cae_jax.methods.options import PRECISIONS
from cae_jax.methods.options.descent import Descent
from cae_jax.methods.options.whole_crops import WholeCrops
from cae_jax.options import flag
from cae_jax.scoring.options import score_flag

# the share of noise among the textures of --texture
TEXTURES: Mapping[str, float] = MappingProxyType({"both": 0.5, "images": 0.0, "noise": 1.0})


@dataclasses.dataclass(frozen=True)
class Options(WholeCrops, Descent):
    """The flags of --method=draem; the defaults are the paper's."""

    epochs: int = flag(700, "passes over the training images", 1)
    batch_size: int = flag(8, "images per training step", 1)
    width: int = flag(
        128, "channels of the reconstruction next to the image; the segmentation has half", 2
    )
    learning_rate: float = flag(1e-4, "of Adam", 0)
    texture: str = flag(
        "both",
        "of anomalies: images, of the batch; noise; both, by chance",
        among=TEXTURES,
    )
    turned_share: float = flag(0.3, "share of the training images turned by up to 90 degrees", 0, 1)
    precision: str = flag("float32", "of products and sums", among=PRECISIONS)
    image_score: str = score_flag("max")
