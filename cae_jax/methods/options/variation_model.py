"""The flags of --method=variation_model, see `methods.variation_model`."""

from __future__ import annotations

import dataclasses

from cae_jax.options import SCORING, flag
from cae_jax.scoring.options import score_flag

ALIGNMENTS = ("none", "translation", "rigid")
MODES = ("standard", "robust")
POLARITIES = ("both", "light", "dark")


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of --method=variation_model."""

    mode: str = flag("standard", "standard: mean and deviation; robust: medians", among=MODES)
    align: str = flag(
        "none",
        "moves every image to where the first good one has the product: none, translation, or "
        "rigid, which turns it too",
        among=ALIGNMENTS,
    )
    absolute_threshold: float = flag(
        10.0, "gray levels, of 255, that a pixel may always be off", 0, part=SCORING
    )
    variance_threshold: float = flag(
        2.0, "standard deviations that a pixel may always be off", 0, part=SCORING
    )
    # HALCON's second values: where it is given two, the first are those of too bright pixels
    dark_absolute_threshold: float = flag(
        -1.0, "the same of pixels that are too dark; below 0: as of bright ones", -1, part=SCORING
    )
    dark_variance_threshold: float = flag(
        -1.0, "the same of pixels that are too dark; below 0: as of bright ones", -1, part=SCORING
    )
    polarity: str = flag(
        "both",
        "light: pixels that are too bright alone; dark: too dark; both",
        among=POLARITIES,
        part=SCORING,
    )
    # HALCON finds a defect where any pixel is outside: where the map's maximum is above 1
    image_score: str = score_flag("max")

    @property
    def label(self) -> str:
        """What its runs are called in paths."""
        return "variation_model" + ("" if self.align == "none" else f"-{self.align}")

    @property
    def title(self) -> str:
        """What they are called in tables, which say whether images were aligned."""
        how = "unaligned" if self.align == "none" else f"phase-aligned, {self.align}"
        return f"variation_model ({how})"
