"""What a user should know of images and masks that were read: one line a kind, with numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cae_jax.data.frame import Frame, lost_of
from cae_jax.data.images import Seen
from cae_jax.data.masks import Mask

_CAMERAS = (8, 10, 12, 14)  # bits that are kept in words of 16
_LEVELS = 16  # of a mask; more are soft edges


def of_all(
    what: str, frame: Frame, seen: Mapping[str, Seen], masks: Mapping[str, Mask]
) -> tuple[str, ...]:
    """Returns the warnings of images and masks brought to a frame; each begins with `what`."""
    said = tuple(f"{what}: {text}" for text in [*of_images(seen), *of_masks(masks)])
    return lost_of(what, frame, [one.size for one in seen.values()]) + said


def of_bits(n: int, largest: int, where: str) -> list[str]:
    """Returns what is worth a word of n images of 16 bits whose largest value is `largest`."""
    bits = next((bits for bits in _CAMERAS if 0 < largest < 2**bits), 0)
    if not bits:
        return []
    return [
        f"{n} images of 16 bits have no value above {largest} ({where}), and 65535 counts as "
        f"white: if their camera gives {bits} bits, --bit_depth={bits} makes {2**bits - 1} white"
    ]


def of_images(seen: Mapping[str, Seen]) -> list[str]:
    """Returns what is worth a word of images by path."""
    wide = [(one.largest, path) for path, one in seen.items() if one.largest]
    said = of_bits(len(wide), *max(wide, default=(0, "")))
    clear = [path for path, one in seen.items() if one.transparent]
    if clear:
        said.append(
            f"{len(clear)} of {len(seen)} images have transparent pixels ({clear[0]}), which count "
            "with the colors that lie hidden in them; --background=white, or another color, shows "
            "them as that"
        )
    for without in sorted({one.without for one in seen.values() if one.without}):
        paths = [path for path, one in seen.items() if one.without == without]
        said.append(f"{len(paths)} of {len(seen)} images are read without {without} ({paths[0]})")
    return said


def of_masks(masks: Mapping[str, Mask]) -> list[str]:
    """Returns what is worth a word of masks by path."""
    said = []

    def line(which: Callable[[Mask], float], text: Callable[[Mask, str], str]) -> None:
        found = {path: mask for path, mask in masks.items() if which(mask)}
        if found:
            path = max(found, key=lambda path: which(found[path]))  # the first of the worst
            said.append(f"{len(found)} of {len(masks)} masks {text(found[path], path)}")

    line(
        lambda mask: mask.share if mask.share == 1 else 0,
        lambda _, path: f"make all of their image defective, as {path}: they have no black",
    )
    line(
        lambda mask: mask.share if 0.5 < mask.share < 1 else 0,
        lambda mask, path: f"cover over half of their image, {path} {mask.share:.0%}",
    )
    line(
        lambda mask: mask.share if mask.ground else 0,
        lambda mask, path: (
            f"have a ground that is not black ({mask.ground} in {path}): what differs from it "
            f"counts as defective, there {mask.share:.1%}; --mask_ground says it otherwise"
        ),
    )
    line(
        lambda mask: mask.levels if mask.levels > _LEVELS else 0,
        lambda mask, path: (
            f"hold many levels, {path} {mask.levels}: what is at least half as far from the "
            "ground as the farthest counts as defective"
        ),
    )
    line(
        lambda mask: 1 / mask.faint if mask.faint else 0,
        lambda mask, path: (
            f"are nearly black and of a lossy format ({path}: at most {mask.faint} of 255), so "
            "that their edges are not exact: save them as PNG"
        ),
    )
    line(
        lambda mask: 1 if mask.scaled else 0,
        lambda mask, path: (
            f"are of another size than their image and were resized, {path} {mask.scaled}"
        ),
    )
    line(
        lambda mask: len(mask.unknown),
        lambda mask, path: (
            f"have a level that defects_config.json does not know, {path} {mask.unknown[0]}: for "
            "sPRO such a defect is found once all of it is"
        ),
    )
    return said
