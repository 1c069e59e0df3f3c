"""The flags of --method=feature_dictionary, see `methods.feature_dictionary`."""

from __future__ import annotations

import dataclasses

from cae_jax.methods.options.features import Features, Judged
from cae_jax.options import flag

FORMS = ("convolutional", "patches")
LAYERS = ("avgpool", "conv5")


@dataclasses.dataclass(frozen=True)
class Options(Features, Judged):
    """The flags of --method=feature_dictionary."""

    form: str = flag(
        "convolutional",
        "convolutional: features of the whole image; patches: of each patch, the paper's",
        among=FORMS,
    )
    words: int = flag(10, "of the dictionary", 1)
    kept_variance: float = flag(0.95, "share that the components explain", 0, 1)
    standardize: bool = flag(False, "divide each component by its deviation")
    nearest_words: int = flag(1, "the mean distance to so many words counts", 1)
    candidates: int = flag(10_000, "at most so many features are learned from", 1)
    patch_size: int = flag(16, "patches: the side of one, in pixels", 1)
    stride: int = flag(4, "patches: pixels between them", 1)
    enlarged: int = flag(224, "patches: the side that the network sees them at, in pixels", 8, 1024)
    layer: str = flag(
        "avgpool", "patches: avgpool: means of the last maps; conv5: these maps", among=LAYERS
    )

    @property
    def label(self) -> str:
        """What its runs are called: the two forms are not to be taken for one another."""
        return f"feature_dictionary-{self.form}"
