"""The flags of --method=autoencoder, see `methods.autoencoder`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from cae_jax.methods.options import PRECISIONS
from cae_jax.methods.options.descent import Descent
from cae_jax.options import flag, pairs
from cae_jax.scoring.options import Windows
from cae_jax.training.schedule import Training
from cae_jax.types import Size, UsageError, height_width, size_text

LOSSES = ("l2", "l1", "ssim", "ms_ssim", "ms_ssim_l1", "l2_ssim")
NO_CORRUPTION = "none"
# No paper's: how strong by default, where the largest difference between pixels is 1.
STRENGTHS: Mapping[str, float] = MappingProxyType(
    {"gaussian": 0.1, "salt_pepper": 0.25, "masking": 0.25, "patches": 0.25}
)
CORRUPTIONS = (NO_CORRUPTION, *STRENGTHS)


@dataclasses.dataclass(frozen=True)
class Options(Training, Descent, Windows):
    """The flags of --method=autoencoder."""

    model: str = flag("bergmann", "a built-in model or package.module[:Name] of your own")
    model_options: str = flag("", "the model's own options: name=value, several with commas")
    code: int = flag(0, "numbers that a patch is reconstructed from; 0: as the model's table", 0)
    loss: str = flag("l2", "what training minimises", among=LOSSES)
    corruption: str = flag(
        NO_CORRUPTION, "of what training reconstructs from, not of its target", among=CORRUPTIONS
    )
    corruption_strength: float = flag(
        0.0, "sigma of gaussian, share of the pixels of others; 0: 0.1, and 0.25", 0, 1
    )
    learning_rate: float = flag(2e-4, "of Adam", 0)
    weight_decay: float = flag(1e-5, "L2 added to the gradient", 0)
    decoupled_weight_decay: bool = flag(False, "AdamW's weight decay instead of L2")
    whole_image: bool = flag(False, "one patch, the whole image (CVPR 2019's objects)")
    precision: str = flag("float32", "of products and sums", among=PRECISIONS)

    @property
    def label(self) -> str:
        """What its runs are called: the model, and what is not the thesis's: loss, corruption and
        code."""
        more = [self.loss] if self.loss != "l2" else []
        more += [self.corruption] if self.corruption != NO_CORRUPTION else []
        more += [f"code{self.code}"] if self.code else []
        return "-".join([self.model.replace(":", "."), *more])

    @property
    def of_model(self) -> dict[str, str]:
        """The model's options by name; raises UsageError for one without a value, for a code of a
        model that has none, and for two."""
        found = pairs("model_options", self.model_options)
        if self.whole_image and self.model == "bergmann":  # CVPR 2019: one more convolution
            found.setdefault("whole_image", "true")
        if self.code:
            from cae_jax import models

            if "code" not in models.options_of(self.model):
                having = [name for name in models.names() if "code" in models.options_of(name)]
                raise UsageError(
                    f"--code={self.code}: {self.model} has no option of that name; it is for "
                    f"{', '.join(having)}, and models of your own with a field `code`"
                )
            if "code" in found:
                raise UsageError(
                    f"--code={self.code}: --model_options has a code too; leave out one"
                )
            found["code"] = str(self.code)
        return found

    def resolved(self, size: Size) -> Options:
        """Returns the record for images of that size, --whole_image worked out.

        Raises UsageError where sizes are given that --whole_image does not take.
        """
        if not self.whole_image:
            return self
        height, side = height_width(size)
        if height != side:
            raise UsageError(
                f"--whole_image: takes one square patch, images are --image_size={size_text(size)}"
            )
        for name in ("patch_size", "stride"):
            value, default = getattr(self, name), getattr(Options, name)
            if value not in (default, side):
                raise UsageError(
                    f"--{name}={value}: --whole_image takes one patch of "
                    f"--image_size={side}; leave out one of the two"
                )
        return dataclasses.replace(self, patch_size=side, stride=side)
