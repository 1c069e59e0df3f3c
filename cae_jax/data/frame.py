"""What every image is brought to before a method sees it: which part of a file, and where it lies.

A frame is stretched over, or keeps the ratio of a file's sides; parts of it may not count: what is
filled up, and what a mask leaves out. Those hold the mean of the rest of their image, so that what
changes there is not seen, and no score, mask or metric knows of them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
import re
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from PIL import Image, ImageColor

from cae_jax.types import DataError, Size, UsageError, height_width, size_text

LARGEST_RATIO = 1.5  # of sides, that an image is stretched by without a word
# Pixels of a file, and of what it is resized to; `scoring.resize` counts to twice that times 8192,
# which is the largest --image_size, in 32 bits.
MAX_SIDE = 2**17 - 1
BIT_DEPTHS = ("auto", *map(str, range(8, 17)))
GROUNDS = ("auto", "black", "white")  # of masks, see `data.masks`
RESIZES = ("stretch", "pad", "crop", "none")


Part: TypeAlias = tuple[int, int, int, int]  # x, y, width, height, in pixels of a file


class Place(NamedTuple):
    """Where a file and its frame meet; each box is (top, left, bottom, right), in pixels."""

    looked_at: tuple[float, float, float, float]  # of the file
    at: tuple[int, int, int, int]  # of the frame: where that lies


@dataclasses.dataclass(frozen=True, eq=False)
class Area:
    """A mask of --roi or --ignore, at the size of the files that it is for."""

    name: str  # of the flag; where its file lies is nothing for those who send images
    counts: np.ndarray = dataclasses.field(repr=False)  # bool [H, W]

    @property
    def sha256(self) -> str:
        """Of what counts."""
        return hashlib.sha256(repr(self.counts.shape).encode() + self.counts.tobytes()).hexdigest()

    def of(self, size: tuple[int, int]) -> np.ndarray:
        """Returns what counts of a file of that (height, width), bool [H, W]; raises DataError for
        a file of another size than the mask's."""
        if self.counts.shape != size:
            mask, file = (f"{shape[1]} x {shape[0]}" for shape in (self.counts.shape, size))
            raise DataError(
                f"the mask of --{self.name} is {mask} pixels (width x height), this image {file}: "
                "a mask has the size of the images that it is for"
            )
        return self.counts


@dataclasses.dataclass(frozen=True)
class Hole:
    """A part of every file in which nothing counts, of --ignore."""

    part: Part
    name: str = "ignore"

    @property
    def sha256(self) -> str:
        """Of the part."""
        return hashlib.sha256(repr(self.part).encode()).hexdigest()

    def of(self, size: tuple[int, int]) -> np.ndarray:
        """Returns what counts, as of `Area`; raises DataError for a file that it reaches out of."""
        _check_inside(self.name, self.part, size)
        x, y, width, height = self.part
        found = np.ones(size, bool)
        found[y : y + height, x : x + width] = False
        return found


@dataclasses.dataclass(frozen=True)
class Frame:
    """What a file's pixels become: `data.images` decodes to it, and a model remembers its own.

    Raises UsageError for what makes no sense.
    """

    image_size: Size | None  # pixels; None keeps a file's own size
    channels: int = 1  # 1: luma, 3: RGB; a gray file gives three equal channels
    bit_depth: int = 0  # of data of over 8 bits: 2^bit_depth - 1 is white; 0: what the file says
    background: tuple[int, int, int] | None = None  # RGB 0..255 behind alpha; None: alpha dropped
    resize: str = "stretch"  # one of RESIZES
    roi: Part | None = None  # None: all of it
    areas: tuple[Area | Hole, ...] = ()  # what is in all of them counts
    mask_ground: str = "auto"  # one of GROUNDS

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

    def __str__(self) -> str:
        """Returns what images are brought to, in words: "256 x 256 RGB, pad, --ignore"."""
        size = " x ".join(map(str, self.size)) if self.size else "files' own size"
        flags = [f"--roi={','.join(map(str, self.roi))}"] if self.roi else []
        flags += [f"--{area.name}" for area in self.areas]
        how = [self.resize] if self.resize != "stretch" else []
        return ", ".join([f"{size} {'RGB' if self.channels == 3 else 'gray'}", *how, *flags])

    @property
    def plain(self) -> bool:
        """Whether a file is stretched over it whole, and all of it counts."""
        return self.resize == "stretch" and self.roi is None and not self.areas

    @property
    def partial(self) -> bool:
        """Whether some of it may not count."""
        return self.resize == "pad" or bool(self.areas)

    def place(self, size: tuple[int, int]) -> Place:
        """Returns where a file of that (height, width) lies.

        "pad" puts it in the middle. Raises DataError for a file that --roi does not lie in, or
        that is of another size where nothing is resized.
        """
        height, width = size
        top, left, bottom, right = 0, 0, height, width
        if self.roi is not None:
            _check_inside("roi", self.roi, size)
            left, top, right, bottom = self.roi[0], self.roi[1], *_ends(self.roi)
        high, wide = self.size or (bottom - top, right - left)
        inside_high, inside_wide = bottom - top, right - left
        whole = (0, 0, high, wide)
        if self.resize == "none" and (inside_high, inside_wide) != (high, wide):
            raise DataError(
                f"is {inside_high} x {inside_wide} pixels (height x width), and --resize=none "
                f"takes --image_size={size_text((high, wide))} alone"
            )
        if self.resize == "crop":
            scale = max(high / inside_high, wide / inside_wide)
            down = (inside_high - high / scale) / 2
            along = (inside_wide - wide / scale) / 2
            return Place((top + down, left + along, bottom - down, right - along), whole)
        if self.resize == "pad":
            scale = min(high / inside_high, wide / inside_wide)
            new = [max(1, round(side * scale)) for side in (inside_high, inside_wide)]
            first = ((high - new[0]) // 2, (wide - new[1]) // 2)
            whole = (*first, first[0] + new[0], first[1] + new[1])
        return Place((top, left, bottom, right), whole)

    def counts(self, size: tuple[int, int]) -> np.ndarray | None:
        """Returns which pixels of the frame count of a file of that (height, width), bool [H, W];
        None where all do.

        A pixel counts where at least half of its area does. The array is not to be written to.
        Raises DataError as `place` does, for a mask of another size than the file, a part to
        ignore that it does not hold, and where nothing counts.
        """
        return _counts(self, size) if self.partial and self.size else None

    def kept(self, size: tuple[int, int]) -> tuple[slice, slice] | None:
        """Returns the rows and columns of a file of that (height, width) that are the frame, pixel
        by pixel; None where it is resized, or not all counts. Raises DataError as `place` does."""
        place = self.place(size)
        top, left, bottom, right = ends = tuple(map(int, place.looked_at))
        high, wide = self.size or (bottom - top, right - left)
        same = ends == place.looked_at and (bottom - top, right - left) == (high, wide)
        if not same or self.counts(size) is not None:
            return None
        return slice(top, bottom), slice(left, right)

    def back(self, found: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Returns a map float32 [H, W], or a mask bool [H, W], at a file's own (height, width).

        What was not looked at has a map's smallest value, and is in no mask. Maps are resized by
        Pillow's bilinear filter, of a mask a pixel takes its nearest one's.
        """
        place = self.place(size)
        top, left, bottom, right = place.at
        inside = np.ascontiguousarray(found[top:bottom, left:right])
        to = [round(end) for end in place.looked_at]
        shape = (to[2] - to[0], to[3] - to[1])
        how = Image.Resampling.NEAREST if found.dtype == bool else Image.Resampling.BILINEAR
        inside = inside.astype(np.uint8) if found.dtype == bool else inside
        resized = np.asarray(Image.fromarray(inside).resize(shape[::-1], how))
        whole = np.full(size, found.min() if found.dtype != bool else False, found.dtype)
        whole[to[0] : to[2], to[1] : to[3]] = resized
        for area in self.areas:  # exactly: the filter reaches over their edges
            whole[~area.of(size)] = found.min() if found.dtype != bool else False
        return whole

    def _sides(self) -> tuple[int, ...]:
        sides = self.image_size
        return tuple(sides) if isinstance(sides, Sequence) else (sides, sides)  # type: ignore[return-value]


def read_part(flag: str, text: str) -> Part | None:
    """Reads "x,y,width,height" in pixels, of --roi or --ignore; None for what names a file, or "".

    Raises UsageError for four numbers that are no part of an image.
    """
    if not re.fullmatch(r"\s*-?\d+\s*(,\s*-?\d+\s*)*", text):
        return None
    found = [int(part) for part in text.split(",")]
    if len(found) != 4 or min(found[:2]) < 0 or min(found[2:]) < 1:
        raise UsageError(
            f"--{flag}={text}: must be x,y,width,height in pixels, or an image that is white where "
            f"{'to look' if flag == 'roi' else 'nothing counts'}"
        )
    x, y, width, height = found
    return x, y, width, height


def _ends(part: Part) -> tuple[int, int]:
    """The right and the lower end."""
    return part[0] + part[2], part[1] + part[3]


def _check_inside(flag: str, part: Part, size: tuple[int, int]) -> None:
    """Raises DataError for a file of that (height, width) that a part does not lie in."""
    (right, bottom), (height, width) = _ends(part), size
    if bottom > height or right > width:
        raise DataError(
            f"--{flag}={','.join(map(str, part))} (x, y, width, height) reaches out of this image "
            f"of {width} x {height} pixels (width x height)"
        )


def _resized(image: Image.Image, place: Place, how: Image.Resampling) -> np.ndarray:
    """What of an image is looked at, at the size that it has in the frame; the rest is cut away
    before, or a filter would reach into it."""
    top, left, bottom, right = place.looked_at
    whole = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
    image = image if whole == (0, 0, *image.size) else image.crop(whole)
    box = (left - whole[0], top - whole[1], right - whole[0], bottom - whole[1])
    to = (place.at[3] - place.at[1], place.at[2] - place.at[0])
    return np.asarray(image.resize(to, how, box=box))


@functools.lru_cache(maxsize=64)
def _counts(frame: Frame, size: tuple[int, int]) -> np.ndarray:
    assert frame.size
    place = frame.place(size)
    top, left, bottom, right = place.at
    found = np.zeros(frame.size, bool)
    inside = np.ones((bottom - top, right - left), bool)
    for area in frame.areas:
        whole = Image.fromarray(area.of(size).astype(np.float32))
        inside &= _resized(whole, place, Image.Resampling.BOX) >= 0.5 - 1e-6
    found[top:bottom, left:right] = inside
    if not found.any():
        raise DataError(f"{' and '.join(f'--{a.name}' for a in frame.areas)}: nothing counts")
    found.setflags(write=False)
    return found


def placed(bands: Sequence[np.ndarray], frame: Frame) -> np.ndarray:
    """Returns an upright image's bands, float32 [H, W] each, in their frame: [H, W, C]; what does
    not count holds the mean of what does. Raises DataError as `Frame.counts` does."""
    if frame.size is None and frame.plain:
        return np.stack(bands, axis=-1)
    height, width = bands[0].shape
    place = frame.place((height, width))
    top, left, bottom, right = place.at
    how = Image.Resampling.BILINEAR
    inside = np.stack([_resized(Image.fromarray(b), place, how) for b in bands], axis=-1)
    counts = frame.counts((height, width))
    if counts is None:
        return inside
    mean = inside[counts[top:bottom, left:right]].mean(axis=0, dtype=np.float64)
    whole = np.empty((*counts.shape, len(bands)), np.float32)
    whole[:] = mean
    whole[top:bottom, left:right] = inside
    whole[~counts] = mean
    return whole


def placed_mask(mask: np.ndarray, frame: Frame) -> np.ndarray:
    """Returns a mask of defects bool [H, W], of a file's size, in that file's frame.

    A pixel is defective where at least half of its area is (Pillow's BOX filter); if that leaves
    nothing of a mask that had something there, wherever any of its area is. What does not count is
    not defective.
    """
    if frame.size is None:
        return mask
    place = frame.place(mask.shape)
    top, left, bottom, right = place.at
    whole = Image.fromarray(mask.astype(np.float32))
    share = _resized(whole, place, Image.Resampling.BOX)
    half = share >= 0.5 - 1e-6  # an exact half may come out a rounding error lower
    found = np.zeros(frame.size, bool)
    found[top:bottom, left:right] = half if half.any() else share > 0
    counts = frame.counts(mask.shape)
    return found if counts is None else found & counts


def lost_of(what: str, frame: Frame, sizes: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """Returns what of images is lost on the way into their frame, in words, or nothing.

    Args:
      what: they are of.
      frame: that they are brought to.
      sizes: (height, width) of their files, in pixels.
    """
    if frame.size is None or not sizes:
        return ()
    if frame.resize == "crop":
        return _cropped(what, frame, sizes)
    return stretched(what, frame, sizes) if frame.resize == "stretch" else ()


def _cropped(what: str, frame: Frame, sizes: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    lost = []
    for size in sizes:
        top, left, bottom, right = frame.place(size).looked_at
        whole = frame.roi[2] * frame.roi[3] if frame.roi else math.prod(size)
        lost.append(1 - (bottom - top) * (right - left) / whole)
    if not max(lost) > 1e-9:
        return ()
    some = sum(share > 1e-9 for share in lost)
    return (
        f"{what}: --resize=crop does not look at the borders of {some} of {len(sizes)} images, at "
        f"most {100 * max(lost):.3g} % of one; --resize=pad looks at all",
    )


def stretched(what: str, frame: Frame, sizes: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """Returns a warning where images lose their shape, by more than LARGEST_RATIO : 1, or none; see
    `lost_of`."""
    if frame.size is None:
        return ()
    high, wide = frame.size
    boxes = [frame.place(size).looked_at for size in sizes]
    shapes = [(round(bottom - top), round(right - left)) for top, left, bottom, right in boxes]
    ratios = [max(r, 1 / r) for r in (width * high / (height * wide) for height, width in shapes)]
    squeezed = sum(ratio > LARGEST_RATIO for ratio in ratios)
    if not squeezed:
        return ()
    ratio, (height, width) = max(zip(ratios, shapes, strict=True))
    same = math.sqrt(high * wide / (height * width))  # as many pixels as before
    kept = f"{_even(height * same)}x{_even(width * same)}"
    some = f"{squeezed} of {len(sizes)} images are" if len(sizes) > 1 else "the image is"
    return (
        f"{what}: {some} squeezed, of {height} x {width} pixels "
        f"(height x width) into {high} x {wide}, {ratio:.3g} : 1: a defect may be thinned away; "
        f"--image_size={kept} keeps their shape, as --resize=pad does",
    )


def _even(pixels: float) -> int:
    """The nearest multiple of 8, as networks halve images three times and more; of a small side
    the nearest pixel, or its shape would be lost."""
    return 8 * round(pixels / 8) if pixels >= 64 else max(1, round(pixels))
