"""What every image is brought to before a method sees it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from cae_jax.types import UsageError

MAX_SIDE = 16384  # pixels, of a file and of what it is resized to
Size = int | tuple[int, int]  # a side of a square, or (height, width)


@dataclasses.dataclass(frozen=True)
class Frame:
    """What a file's pixels become: `data.images` decodes to it, and a model remembers its own.

    Raises UsageError for what makes no sense.
    """

    image_size: Size | None  # pixels; None keeps a file's own size
    channels: int = 1  # 1: luma, 3: RGB; a gray file gives three equal channels
    bit_depth: int = 0  # of data of over 8 bits: 2^bit_depth - 1 is white; 0: what the file says
    background: tuple[int, int, int] | None = None  # RGB, what transparent pixels show; None: drop

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

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels, or None for a file's own."""
        if self.image_size is None:
            return None
        height, width = self._sides()
        return int(height), int(width)

    def _sides(self) -> tuple[int, ...]:
        sides = self.image_size
        return tuple(sides) if isinstance(sides, Sequence) else (sides, sides)  # type: ignore[return-value]
