"""The flags of scoring, and the names that they choose among; without JAX, which a --help need not
wait for."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

from cae_jax.options import SCORING, flag

DISTANCES = ("l2", "l1", "ssim")
REDUCTIONS = ("sum", "max", "top")
INTENSITIES = ("none", "median", "mean_std")
AVERAGES = ("pixels", "maps")
WEIGHTS = ("gaussian", "flat")
# (c1, c2) for intensities in [0, 1]: Wang's, and as the SSIM-AE paper (VISAPP 2019) prints them
CONSTANTS = {"wang": (0.01**2, 0.03**2), "printed": (0.01, 0.03)}
# name -> NumPy's padding
BORDERS: dict[str, Literal["symmetric", "edge"]] = {
    "reflect": "symmetric",
    "edge": "edge",
    "crop": "symmetric",
}


class Ssim(NamedTuple):
    """Which structural similarity is meant."""

    window: int = 11  # side of the window, in pixels; odd
    weights: str = "gaussian"  # sigma 1.5 at window 11 and in proportion; or "flat"
    constants: str = "wang"  # one of CONSTANTS


def score_flag(default: str) -> Any:
    """Returns the flag --image_score, of REDUCTIONS, for a record that has it by this default."""
    about = "a map as one number; top: mean of the top share"
    return flag(default, about, among=REDUCTIONS, part=SCORING)


@dataclasses.dataclass(frozen=True)
class Windows:
    """How an image is cut into patches, and how their errors become maps."""

    patch_size: int = flag(128, "side of a patch, in pixels", 8)
    stride: int = flag(30, "pixels between the patches of a test image", 1)
    residual_average: str = flag(
        "pixels",
        "pixels: average patches (thesis); maps: their errors",
        among=AVERAGES,
        part=SCORING,
    )
    residual_border: str = flag(
        "reflect", "at the image's border: reflect, edge or crop", among=BORDERS, part=SCORING
    )
    ssim_window: int = flag(11, "side of SSIM's window, in pixels", 3, 255)
    ssim_weights: str = flag("gaussian", "SSIM's window", among=WEIGHTS)
    ssim_constants: str = flag(
        "wang", "wang: (0.01)^2, (0.03)^2; printed: 0.01, 0.03", among=CONSTANTS
    )

    @property
    def ssim(self) -> Ssim:
        """Which structural similarity is meant."""
        return Ssim(self.ssim_window, self.ssim_weights, self.ssim_constants)
