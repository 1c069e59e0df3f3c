"""Images moved and turned to where a reference has the product: phase correlation.

Kuglin and Hines, "The phase correlation image alignment method" (IEEE Conference on Cybernetics
and Society, 1975) for the shift; Reddy and Chatterji, "An FFT-based technique for translation,
rotation, and scale-invariant image registration" (IEEE Transactions on Image Processing 5, 1996)
for the angle, from spectra in log-polar coordinates, of which the scale is left out: a camera does
not move. Both are of gray images, and ignore how bright these are and what the contrast is.

The normalised cross spectrum is weighted by a Gaussian of the frequency, for what is above is noise
in most photographs. So a peak is a Gaussian too, and three values of it tell where between two
pixels it lies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates

_SIGMA = 0.1  # of the Gaussian over frequencies, in cycles a sample
_TINY = 1e-12
_ANGLES = 512  # of half a turn, after which the spectrum of a real image repeats
_RADII = 64  # from _LOWEST cycles an image to half a cycle a pixel
_LOWEST = 4


class Motion(NamedTuple):
    """What is at q in the reference is at c + R (q - c) + shift in the image, c its center."""

    angle: jax.Array  # float32 [], radians, from the first axis (down) to the second (right)
    shift: jax.Array  # float32 [2], pixels down and right


def found(reference: jax.Array, image: jax.Array, mode: str) -> Motion:
    """Returns how an image is moved against a reference, both [H, W, C], by a mode of
    `options.variation_model.ALIGNMENTS`.

    Of the motions that may be, it is the one whose image, moved back, correlates best with the
    reference: none at all, which is best where products are not alike enough, a shift, and, if
    "rigid", the angle found or the opposite one, which spectra do not tell apart.
    """
    still = Motion(jnp.zeros(()), jnp.zeros(2))
    if mode == "none":
        return still
    fixed, moving = jnp.mean(reference, axis=-1), jnp.mean(image, axis=-1)

    def likeness(motion: Motion) -> jax.Array:
        back, inside = moved_back(moving[..., None], motion)
        return _correlation(fixed, back[..., 0], inside)

    def best(before: Motion, turns: list[jax.Array]) -> Motion:
        """That one, or one more turn after it and the shift that goes with it."""
        more = jax.vmap(lambda turn: _then(before, turn, fixed, moving))(jnp.stack(turns))
        every = jax.tree.map(lambda one, some: jnp.append(some, one[None], 0), before, more)
        return jax.tree.map(lambda leaf: leaf[jnp.argmax(jax.vmap(likeness)(every))], every)

    rigid, none = mode == "rigid", jnp.zeros(())
    half = angle(fixed, moving) if rigid else none
    first = best(still, [none, half, half + math.pi] if rigid else [none])
    # once more, for the window hides a part of what has moved far
    again = angle(fixed, moved_back(moving[..., None], first)[0][..., 0]) if rigid else none
    return best(first, [again])


def moved_back(image: jax.Array, motion: Motion) -> tuple[jax.Array, jax.Array]:
    """Returns an image [H, W, C] where the reference has it, and which pixels of that, bool [H, W],
    the image tells; at others stands the nearest pixel of its border. Bilinear."""
    return _read(image, lambda at: motion.shift[:, None, None] + _turned(motion.angle, at))


def moved_there(image: jax.Array, motion: Motion) -> tuple[jax.Array, jax.Array]:
    """The inverse of `moved_back`: from the reference's frame [H, W, C] to the image's own."""
    return _read(image, lambda at: _turned(-motion.angle, at - motion.shift[:, None, None]))


def shift(fixed: jax.Array, moving: jax.Array) -> jax.Array:
    """Returns by how many pixels the second of two gray images [H, W] is moved, [2]: down, right.

    From -H / 2 to H / 2, and of W.
    """
    window = np.outer(*(np.hanning(n + 2)[1:-1] for n in fixed.shape)).astype("f")
    one, other = (jnp.fft.rfft2((x - jnp.mean(x)) * window) for x in (fixed, moving))
    cross = _normalised(other * jnp.conj(one))
    weights = _gaussian(np.fft.fftfreq(fixed.shape[0]))[:, None] * _gaussian(
        np.fft.rfftfreq(fixed.shape[1])
    )
    peaks = jnp.fft.irfft2(cross * weights, fixed.shape)
    row, column = jnp.unravel_index(jnp.argmax(peaks), peaks.shape)
    down = _peak(peaks[:, column], row)
    right = _peak(peaks[row], column)
    return jnp.stack([down, right])


def angle(fixed: jax.Array, moving: jax.Array) -> jax.Array:
    """Returns by which angle the second of two gray images [H, W] is turned, in radians from -pi /
    2 to pi / 2: up to half a turn, which their spectra do not tell."""
    one, other = (jnp.fft.rfft(_polar_spectrum(x), axis=0) for x in (fixed, moving))
    # the correlation at scale 1: a sum over the radii
    cross = _normalised(jnp.sum(other * jnp.conj(one), axis=1))
    weights = _gaussian(np.fft.rfftfreq(_ANGLES))
    peaks = jnp.fft.irfft(cross * weights, _ANGLES)
    return _peak(peaks, jnp.argmax(peaks)) * (math.pi / _ANGLES)


def _polar_spectrum(x: jax.Array) -> jax.Array:
    """The logarithm of a gray image's spectrum, [angles, radii], each radius less its mean."""
    h, w = x.shape
    y, z = np.meshgrid(*(2 * (np.arange(n) + 0.5) / n - 1 for n in (h, w)), indexing="ij")
    window = np.cos(np.minimum(np.hypot(y, z), 1) * math.pi / 2) ** 2  # the same at any angle
    around = (x - jnp.mean(x)) * window.astype("f")
    spectrum = jnp.abs(jnp.fft.fftshift(jnp.fft.fft2(around, (2 * h, 2 * w))))
    theta = np.arange(_ANGLES)[:, None] * math.pi / _ANGLES
    radius = np.geomspace(min(_LOWEST / min(h, w), 0.25), 0.5, _RADII)
    at = np.stack([h + 2 * h * radius * np.cos(theta), w + 2 * w * radius * np.sin(theta)])
    found = jnp.log(map_coordinates(spectrum, list(at.astype("f")), 1, mode="nearest") + 1e-3)
    return found - jnp.mean(found, axis=0)


def _then(before: Motion, turn: jax.Array, fixed: jax.Array, moving: jax.Array) -> Motion:
    """A motion after which the image is turned by so much more and shifted, as far as it shows."""
    whole = before.angle + turn
    back = moved_back(moving[..., None], Motion(whole, before.shift))[0][..., 0]
    return Motion(whole, before.shift + _turned(whole, shift(fixed, back)))


def _normalised(cross: jax.Array) -> jax.Array:
    return cross / jnp.maximum(jnp.abs(cross), _TINY)


def _gaussian(frequency: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * (frequency / _SIGMA) ** 2).astype("f")


def _peak(values: jax.Array, at: jax.Array) -> jax.Array:
    """Where a Gaussian has its peak, given samples [n] around a circle and the largest of them: as
    a signed distance from the first, to a fraction of a sample."""
    n = len(values)
    three = jnp.take(values, jnp.stack([at - 1, at, at + 1]) % n)
    before, here, after = jnp.log(jnp.maximum(three, 1e-3 * three[1]))
    curved = before - 2 * here + after
    off = jnp.where(curved < 0, 0.5 * (before - after) / curved, 0.0)
    return jnp.where(at > n // 2, at - n, at) + jnp.clip(off, -0.5, 0.5)


def _turned(turn: jax.Array, at: jax.Array) -> jax.Array:
    """Vectors [2, ...] turned by an angle."""
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    return jnp.stack([cos * at[0] - sin * at[1], sin * at[0] + cos * at[1]])


def _read(image: jax.Array, where: Callable[[jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array]:
    """An image [H, W, C] read at `where`(positions), both [2, H, W] and from the center."""
    size = np.reshape(image.shape[:2], (2, 1, 1))
    grid = np.stack(np.meshgrid(*map(np.arange, image.shape[:2]), indexing="ij"))
    at = where(jnp.asarray(grid - (size - 1) / 2, jnp.float32)) + (size - 1) / 2
    inside = jnp.all((at > -0.5) & (at < size - 0.5), axis=0)
    read = jax.vmap(lambda one: map_coordinates(one, list(at), 1, mode="nearest"), -1, -1)
    return read(image), inside


def _correlation(fixed: jax.Array, moving: jax.Array, inside: jax.Array) -> jax.Array:
    """Of two gray images, the second of which stands at its mean where it is not told: little in
    common is not to win by being alike there."""
    one = fixed - jnp.mean(fixed)
    mean = jnp.sum(moving * inside) / jnp.maximum(jnp.sum(inside), 1)
    other = (moving - mean) * inside
    lengths = jnp.sum(jnp.square(one)) * jnp.sum(jnp.square(other))
    return jnp.sum(one * other) / jnp.sqrt(jnp.maximum(lengths, _TINY))
