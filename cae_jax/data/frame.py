"""What every image is brought to before a method sees it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import ImageColor

from cae_jax.types import Size, UsageError, height_width

LARGEST_RATIO = 1.5  # of sides, that an image is stretched by without a word
MAX_SIDE = 16384  # pixels, of a file and of what it is resized to
BIT_DEPTHS = ("auto", *map(str, range(8, 17)))


@dataclasses.dataclass(frozen=True)
class Frame:
    """What a file's pixels become: `data.images` decodes to it, and a model remembers its own.

    Raises UsageError for what makes no sense.
    """

    image_size: Size | None  # pixels; None keeps a file's own size
    channels: int = 1  # 1: luma, 3: RGB; a gray file gives three equal channels
    bit_depth: int = 0  # of data of over 8 bits: 2^bit_depth - 1 is white; 0: what the file says
    background: tuple[int, int, int] | None = None  # RGB 0..255 behind alpha; None: alpha dropped

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.channels not in (1, 3):
            raise UsageError(f"channels must be 1 or 3, not {self.channels!r}")
        if self.image_size is None:
            return
        sides = self._sides()
        whole = all(isinstance(side, int | np.integer) and 1 <= side <= MAX_SIDE for side in sides)
        if len(sides) != 2 or not whole:
            raise UsageError(
                f"image_size must be one or two whole numbers from 1 to {MAX_SIDE}, "
                f"not {self.image_size!r}"
            )

    @classmethod
    def of(cls, image_size: Size | None, channels: int, bit_depth: str, background: str) -> Frame:
        """Returns the frame of flags: a bit depth of 8 to 16 or auto, a color or none.

        A color is #rrggbb or a name that CSS has. Raises UsageError for another word.
        """
        bits = 0 if bit_depth == "auto" else int(bit_depth)
        if background == "none":
            return cls(image_size, channels, bits)
        try:
            red, green, blue = tuple[int, ...](ImageColor.getrgb(background))
        except ValueError:  # no color, or one with an alpha
            raise UsageError(
                f"--background={background}: must be none, or a color as white, black or #00b140"
            ) from None
        return cls(image_size, channels, bits, (red, green, blue))

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels, or None for a file's own."""
        return None if self.image_size is None else height_width(self.image_size)

    def _sides(self) -> tuple[int, ...]:
        sides = self.image_size
        return tuple(sides) if isinstance(sides, Sequence) else (sides, sides)  # type: ignore[return-value]


def stretched(what: str, frame: Frame, sizes: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """Returns a warning where images lose their shape, by more than LARGEST_RATIO : 1, or none.

    Args:
      what: they are of.
      frame: that they are brought to.
      sizes: (height, width) of their files, in pixels.
    """
    if frame.size is None:
        return ()
    high, wide = frame.size
    ratios = [max(r, 1 / r) for r in (width * high / (height * wide) for height, width in sizes)]
    squeezed = sum(ratio > LARGEST_RATIO for ratio in ratios)
    if not squeezed:
        return ()
    ratio, (height, width) = max(zip(ratios, sizes, strict=True))
    same = math.sqrt(high * wide / (height * width))  # as many pixels as before
    kept = f"{_even(height * same)}x{_even(width * same)}"
    return (
        f"{what}: {squeezed} of {len(sizes)} images are squeezed, of {height} x {width} pixels "
        f"(height x width) into {high} x {wide}, {ratio:.3g} : 1: a defect may be thinned away; "
        f"--image_size={kept} keeps their shape",
    )


def _even(pixels: float) -> int:
    """The nearest multiple of 8, as networks halve images three times and more; of a small side
    the nearest pixel, or its shape would be lost."""
    return 8 * round(pixels / 8) if pixels >= 64 else max(1, round(pixels))
