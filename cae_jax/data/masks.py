"""Ground-truth masks: one rule that finds what is defective, however a tool drew it.

1. What is transparent is ground. What shows is defective where it is not black; if all of it is
   black, or none, or if it is a photograph (most of it between its darkest and brightest eighth),
   then wherever it shows.
2. The ground is black, unless another color has over half of the mask and `_FRAMED` of its border:
   then what differs from that color is defective (black on white, red on white). --mask_ground
   says it where this would be wrong.
3. Of up to `_LABELS` levels each is a label, however dark: what is not exactly the ground is
   defective. So are more levels of areas apart from each other. Else more levels, or a lossy
   format, are soft edges: defective is what is at least half as far from the ground as the
   farthest level (the ringing of JPEG, blurred or resized masks).

A palette counts by its colors, and by its entries where all its colors are black. Several files of
one image are laid over each other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from cae_jax.data import formats, pictures
from cae_jax.data.formats import Source
from cae_jax.data.frame import Frame, placed_mask
from cae_jax.data.outlines import Drawn, raster
from cae_jax.data.picture import Picture
from cae_jax.data.regions import Saturation, of_file
from cae_jax.types import DataError, Region

_LABELS = 16  # levels; tools draw fewer, soft edges have more
_FRAMED = 0.9  # of the border's pixels
_TOUCHING = 0.25  # of the pixels of numbered defects, at most
_FAINT = 16  # of 255: below it a lossy format's ringing is as strong as what it is round
_ENDS = 1 / 8  # of the range, at either end: there is most of what is drawn, but not of a picture


class Mask(NamedTuple):
    """What is defective, and what a user should know of how it was read."""

    defective: np.ndarray  # bool [H, W], brought to the frame
    share: float = 0.0  # of the file's pixels that are defective
    levels: int = 0  # of the file, where they were cut at half; else 0
    ground: str = ""  # its color, where it is neither black nor transparent
    scaled: str = ""  # "128 x 128 for 256 x 256", where it is smaller or larger than its image
    faint: int = 0  # its brightest level of 255, where it is lossy and nearly black
    regions: tuple[Region, ...] = ()  # where saturations are known
    unknown: tuple[int, ...] = ()  # levels that are not among these


def read(
    sources: Source | Drawn | Sequence[Source | Drawn],
    frame: Frame,
    expected_size: tuple[int, int] | None,
    name: str | None = None,
    saturation: Mapping[int, Saturation] = MappingProxyType({}),
) -> Mask:
    """Reads the mask of one image by the rule above.

    A mask of another size and the image's proportions is resized to it, each pixel taking its
    nearest one's. When brought to a frame's size, a pixel is defective where at least half of its
    area is (Pillow's BOX filter); if that leaves nothing of a mask that had something, wherever
    any of its area is.

    Args:
      sources: a path, a file's bytes, a seekable binary file, or what is drawn; or several, each a
        part of it.
      frame: what its image is brought to.
      expected_size: (height, width) of the mask's image, from `images.size`; None for the mask's
        own.
      name: what errors call the mask; by default its path.
      saturation: by the level of a file's defect, see `regions`; {} looks for no regions.

    Raises:
      DataError: a file cannot be used, or has other proportions than the image.
    """
    alone = isinstance(sources, Drawn) or not isinstance(sources, list | tuple)
    parts: Any = [sources] if alone else sources
    whole: np.ndarray | None = None
    levels, ground, scaled, faint = 0, "", "", 0
    regions, unknown = list[Region](), list[int]()
    for source in parts:
        with contextlib.ExitStack() as stack:
            if isinstance(source, Drawn):
                stack.enter_context(formats.named(name or "a mask"))
                own = source.height, source.width
            else:
                opened = stack.enter_context(formats.opened(source, name))
                own = opened.size
            expected_size = expected_size or own
            _check_size(own, expected_size)
            if isinstance(source, Drawn):
                part, some, color = raster(source), 0, ""
            else:
                found = opened.picture()
                part, some, color = marked(found, frame.mask_ground)
                faint = max(faint, _faint(found))
                if saturation:
                    own_regions, strange = of_file(part, found, saturation, expected_size, frame)
                    regions, unknown = regions + own_regions, unknown + strange
        if own != expected_size:
            scaled = f"{own[1]} x {own[0]} for {expected_size[1]} x {expected_size[0]}"
            part = pictures.resize_mask(part, expected_size)
        whole = part if whole is None else whole | part
        levels, ground = max(levels, some), ground or color
    if whole is None:
        raise ValueError("a mask of no file")
    share = float(whole.mean())
    said = (share, levels, ground, scaled, faint)
    return Mask(placed_mask(whole, frame), *said, tuple(regions), tuple(unknown))


def decode_mask(
    sources: Source | Drawn | Sequence[Source | Drawn],
    frame: Frame,
    expected_size: tuple[int, int] | None,
    name: str | None = None,
) -> np.ndarray:
    """Returns which pixels are defective, bool [H, W]; takes and raises what `read` does."""
    return read(sources, frame, expected_size, name).defective


def marked(found: Picture, ground: str = "auto") -> tuple[np.ndarray, int, str]:
    """Returns what is defective, bool [H, W]; the number of levels if cut at half; the ground.

    `ground` is one of `frame.GROUNDS`: black or white where the user says it, in place of rule 2.
    """
    colors = found.values if found.values.ndim == 3 else found.values[..., None]
    if not np.isfinite(colors).all():
        raise DataError("is a mask with values that are not finite")
    if found.entries is not None and not colors.any():
        colors = found.entries[..., None]
    if colors.dtype.kind in "if" and colors.min() < 0:  # all bits of a signed number are -1
        colors = np.abs(colors.astype(np.float64))
    levels = _count(colors)
    soft = found.lossy or _is_soft(colors, levels, found.white)
    if found.alpha is not None:
        colors, levels, soft = _shown(colors, found.alpha, levels, soft)
    top = float(colors.max())
    inked = colors.max(axis=-1) >= top / 2 if soft else (colors != 0).any(axis=-1)
    if top > 0 and (other := _ground(colors, top, soft, ground)) is not None:
        color, differs = other
        white = found.white if found.alpha is None else 1
        return differs, levels if soft else 0, _name(color, white)
    return inked & (top > 0), levels if soft else 0, ""


def _shown(
    colors: np.ndarray, alpha: np.ndarray, levels: int, soft: bool
) -> tuple[np.ndarray, int, bool]:
    """Rule 1: colors with black for what is transparent, or 1 for what shows and 0 for the rest."""
    most = float(alpha.max())
    if most == 0:  # nothing shows: an empty layer, or a tool that leaves alpha unset
        varied = (colors != colors[:1, :1]).any()
        return (colors if varied else np.zeros_like(colors)), levels, soft
    shows = alpha >= most / 2
    if shows.all():
        return colors, levels, soft
    strength = colors.max(axis=-1)
    inked = strength >= strength.max() / 2 if soft else strength > 0
    inked &= strength > 0
    if soft and _is_picture(strength[shows]):
        return shows[..., None].astype(np.uint8), 2, False
    if (inked & shows).any() and (~inked & shows).any():
        return np.where(shows[..., None], colors, 0), levels, soft
    return shows[..., None].astype(np.uint8), 2, False


def _is_picture(strength: np.ndarray) -> bool:
    """Whether levels are those of a photograph, whose alpha is the mask."""
    share = strength / float(strength.max() or 1)
    return float(((share > _ENDS) & (share < 1 - _ENDS)).mean()) > 0.5


def _faint(found: Picture) -> int:
    top = int(found.values.max())
    return top if found.lossy and found.alpha is None and top < _FAINT else 0


def _ground(
    colors: np.ndarray, top: float, soft: bool, said: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """Rule 2: a ground that is not black, [C], and where a mask differs from it; None: black."""
    if said == "black":
        return None
    edge = np.concatenate([colors[0], colors[-1], colors[1:-1, 0], colors[1:-1, -1]])
    color = np.sort(edge, axis=0)[len(edge) // 2]
    if said == "white":
        color = np.full_like(color, top)
    if color.max() < top / 2 if soft else not color.any():
        return None
    away = np.abs(colors.astype(np.float32) - color.astype(np.float32)).max(axis=-1)
    farthest = float(away.max())
    # of one color all over, but for its noise
    if plain := farthest < top / 4 if soft else farthest == 0:
        differs = np.zeros(away.shape, bool)
    else:
        differs = away >= farthest / 2 if soft else away > 0
    if said == "white":
        return color, differs
    edge = np.concatenate([differs[0], differs[-1], differs[1:-1, 0], differs[1:-1, -1]])
    if plain or differs.mean() >= 0.5 or edge.mean() > 1 - _FRAMED:
        return None
    return color, differs


def _count(colors: np.ndarray) -> int:
    """How many levels or colors there are."""
    if colors.shape[-1] == 1:
        flat = colors[..., 0]
    elif colors.dtype == np.uint8:
        flat = colors.astype(np.int32) @ np.array([65536, 256, 1], np.int32)
    else:
        flat = colors.max(axis=-1)
    if flat.dtype in (np.uint8, np.uint16):
        return int(np.count_nonzero(np.bincount(flat.ravel())))
    return len(np.unique(flat))


def _is_soft(colors: np.ndarray, levels: int, white: int) -> bool:
    """Rule 3, of a format that keeps levels: many of them, or few at both ends of the range.

    Many in the dark half alone are numbers of labels or of single defects; so are areas.
    """
    top = float(colors.max())
    if levels > _LABELS:
        return top >= (white or top) / 2 and not _are_areas(colors)
    if colors.shape[-1] > 1 or levels < 4:
        return False
    known = np.unique(colors).astype(np.float64)
    low = known[(known > 0) & (known <= top / 8)]
    high = known[(known < top) & (known >= top * 7 / 8)]
    return top >= 128 and len(low) > 0 and len(high) > 0


def _are_areas(colors: np.ndarray) -> bool:
    """Whether levels are of areas apart from each other, as numbered defects are: then few pixels
    lie beside another level but the ground's. On soft edges nearly all do."""
    edge = np.concatenate([colors[0], colors[-1], colors[:, 0], colors[:, -1]])
    known, times = np.unique(edge, axis=0, return_counts=True)
    away = np.abs(colors.astype(np.float32) - known[times.argmax()].astype(np.float32)).max(axis=-1)
    inner, beside = (away > 0) & (away < away.max()), np.zeros(away.shape, bool)
    for one, other in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        steps = (colors[one] != colors[other]).any(axis=-1) & (away[one] > 0) & (away[other] > 0)
        beside[one] |= steps
        beside[other] |= steps
    return bool(inner.any() and (beside & inner).sum() < _TOUCHING * inner.sum())


def _check_size(own: tuple[int, int], image: tuple[int, int]) -> None:
    if own == image:
        return
    said = (
        f"this mask is {own[1]} x {own[0]} pixels (width x height), "
        f"its image {image[1]} x {image[0]}"
    )
    # equal proportions, up to the rounding of a side to whole pixels
    if abs(own[0] * image[1] - own[1] * image[0]) <= max(image):
        return
    if abs(own[1] * image[1] - own[0] * image[0]) <= max(image):
        said += ": it may be turned by a quarter"
    raise DataError(said)


def _name(color: np.ndarray, white: int) -> str:
    """A ground's color in words or numbers."""
    levels = [float(level) for level in color]
    if white and min(levels) >= 0.9 * white:
        return "white"
    return "/".join(f"{level:g}" for level in levels)
