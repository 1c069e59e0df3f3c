"""The picture for a screen beside the line: the image, where it is unusual, and the verdict."""

from __future__ import annotations

import numpy as np

from cae_jax.data import pictures
from cae_jax.serving import overlay
from cae_jax.serving.detector import Model, Verdict

SIDE = 512  # pixels, the longer one of the image and of the map beside it
BAR = 64  # pixels, the height of the verdict's bar
COLORS = {False: (0, 114, 178), True: (213, 94, 0)}  # Okabe and Ito's blue and vermilion


def draw(model: Model, verdict: Verdict, pixels: np.ndarray, size: tuple[int, int]) -> bytes:
    """Returns a PNG: the image with the mask's outline, the map over it, and the verdict's bar.

    Args:
      model: whose verdict it is; the map is on its one color scale, from 0 to `scale`, or, where
        that is not known, to the map's own maximum.
      verdict: of the image.
      pixels: float32 [S, S, C] in [0, 1], as the model sees it.
      size: (height, width) of the file in pixels, whose shape the picture has; that of the frame
        where images are not stretched whole.
    """
    if not model.frame.plain:  # the image as the model sees it, on which the map lies
        pixels, size = pixels[..., : model.channels], pixels.shape[:2]
    image, over = overlay.panels(pixels, verdict.residual, verdict.mask, model.scale, size, SIDE)
    both = np.concatenate([image, over], axis=1)
    word = "DEFECTIVE" if verdict.defective else "GOOD"
    text = f"{word}   {verdict.distance:.4g} / {verdict.threshold.value:.4g}"
    bar = pictures.lettered(text, (BAR, both.shape[1]), COLORS[verdict.defective])
    return pictures.png_bytes(np.concatenate([np.rint(both * 255).astype(np.uint8), bar]))
