"""The flags of methods that learn of whole images, or of large crops of them."""

from __future__ import annotations

import dataclasses
from typing import Self

from cae_jax.options import flag
from cae_jax.training.schedule import Training
from cae_jax.types import Size, height_width


@dataclasses.dataclass(frozen=True)
class WholeCrops(Training):
    """What of `Training` has another default there."""

    num_patches: int = flag(
        240, "training images, or crops of them, per epoch; a category of MVTec AD has about 240", 1
    )
    redraw_patches: bool = flag(True, "draw other images, or crops, every epoch")
    patch_size: int = flag(0, "side of a training crop, in pixels; 0: the shorter side", 0)

    def resolved(self, size: Size) -> Self:
        """Returns the record for images of that size, --patch_size worked out."""
        return dataclasses.replace(self, patch_size=self.patch_size or min(height_width(size)))
