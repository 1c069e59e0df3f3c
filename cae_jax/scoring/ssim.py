"""Structural similarity (Wang et al., IEEE TIP 2004), as a map of dissimilarity and multi-scale."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from cae_jax.scoring.options import BORDERS, CONSTANTS, WEIGHTS, Ssim
from cae_jax.types import UsageError, unknown_name

SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents, finest scale first


def check(settings: Ssim) -> None:
    """Raises UsageError, naming the flag, for an even or tiny window and for unknown names."""
    if settings.window < 3 or settings.window % 2 == 0:
        raise UsageError(f"--ssim_window={settings.window}: must be odd and at least 3")
    if settings.weights not in WEIGHTS:
        raise unknown_name("--ssim_weights", settings.weights, WEIGHTS)
    if settings.constants not in CONSTANTS:
        raise unknown_name("--ssim_constants", settings.constants, CONSTANTS)


def dissimilarity(
    x: jax.Array,
    y: jax.Array,
    settings: Ssim = Ssim(),  # noqa: B008 - immutable
    border: str = "reflect",
) -> jax.Array:
    """1 - SSIM of the windows around every pixel, averaged over the channels.

    Covariances are those of a population, so that with border "reflect" it equals 1 minus
    scikit-image's `structural_similarity(full=True, use_sample_covariance=False)`.

    Args:
      x: images or patches [N, H, W, C] in [0, 1].
      y: the same shape; it may leave [0, 1].
      settings: which SSIM.
      border: "reflect" repeats the image mirrored, "edge" its outermost pixels; "crop" gives 0
        wherever the window leaves the image.

    Returns:
      float32 [N, H, W], to about 1e-6; in [0, 2] where both images are in [0, 1], and exactly 0
      for equal images.

    Raises:
      UsageError: an unknown name or an even window.
      ValueError: x and y are not of one shape [N, H, W, C].
    """
    luminance, structure = _terms(x, y, settings, border)
    found = jnp.mean(luminance + structure - luminance * structure, axis=0)
    if border != "crop":
        return found
    rows, columns = (_whole_windows(n, settings.window) for n in found.shape[1:])
    return jnp.where(rows[:, None] & columns, found, 0.0)


def multi_scale(
    x: jax.Array,
    y: jax.Array,
    settings: Ssim = Ssim(),  # noqa: B008 - immutable
) -> jax.Array:
    """1 - MS-SSIM (Wang, Simoncelli, Bovik, Asilomar 2003), averaged over the channels.

    Five scales, each half the one before by 2x2 means (an odd last row or column is dropped),
    as long as a scale's shorter side is at least half a window: five from 88 px on at window 11.
    Exponents of fewer scales grow to the same sum. Borders are reflected. Where a scale's mean
    contrast-structure term is not positive, the result is 1 and its gradient 0.

    Args:
      x: images or patches [N, H, W, C] in [0, 1].
      y: the same shape.
      settings: which SSIM.

    Returns:
      float32 [N] in [0, 1]; exactly 0 for equal images.

    Raises:
      UsageError: an unknown name or an even window.
      ValueError: x and y are not of one shape [N, H, W, C].
    """
    n = _number_of_scales(min(x.shape[1:3]), settings.window)
    scales = []
    for scale in range(n):
        if scale:
            x, y = _halve(x), _halve(y)
        luminance, structure = _terms(x, y, settings, "reflect")
        if scale == n - 1:
            structure = luminance + structure - luminance * structure
        scales.append(jnp.mean(structure, axis=(-2, -1)))
    exponents = np.array(SCALES[:n]) * (sum(SCALES) / sum(SCALES[:n]))
    lost = jnp.stack(scales, axis=-1)  # [C, N, n]: 1 - the mean term of each scale
    positive = jnp.all(lost < 1, axis=-1)
    # a logarithm that is thrown away below would still make the gradient NaN
    logs = jnp.log1p(-jnp.where(positive[..., None], lost, 0.0))
    powers = -jnp.expm1(jnp.sum(logs * exponents.astype(np.float32), axis=-1))
    return jnp.mean(jnp.where(positive, powers, 1.0), axis=0)


def gaussian(sigma: float, radius: int) -> tuple[float, ...]:
    """Returns the 2 * radius + 1 weights of a Gaussian of `sigma` pixels; they sum to 1."""
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return tuple((weights / weights.sum()).tolist())


def blur(fields: jax.Array, weights: tuple[float, ...], border: str) -> jax.Array:
    """Weighted mean around every pixel of [..., H, W], by the same weights down and across.

    Each axis is a product with a banded matrix that has the border folded in: XLA's matrix
    products are fast on every device, its depthwise convolutions are not on a CPU.

    Raises UsageError for a border not among BORDERS ("crop" means the same as "reflect" here).
    """
    return _down(_across(fields, weights, border), weights, border)


# TF32, a GPU's default, would keep three digits of a mean
_product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def _across(fields: jax.Array, weights: tuple[float, ...], border: str) -> jax.Array:
    return _product("jw,...hw->...hj", _matrix(fields.shape[-1], weights, border), fields)


def _down(fields: jax.Array, weights: tuple[float, ...], border: str) -> jax.Array:
    return _product("ih,...hw->...iw", _matrix(fields.shape[-2], weights, border), fields)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _moments(
    fields: jax.Array, weights: tuple[float, ...], border: str
) -> tuple[jax.Array, jax.Array]:
    """Weighted mean and variance around every pixel of [..., H, W].

    mean(z^2) - mean(z)^2 loses four digits to cancellation where an image is bright and flat, so
    squares are of deviations from the mean: across the rows, then down. The variance is the mean of
    the rows' variances plus the variance of the rows' means.
    """
    rows = _across(fields, weights, border)
    mean = _down(rows, weights, border)
    within = _down(_spread(fields, rows, weights, border, -1), weights, border)
    return mean, within + _spread(rows, mean, weights, border, -2)


@_moments.defjvp
def _moments_jvp(
    weights: tuple[float, ...],
    border: str,
    primals: tuple[jax.Array],
    tangents: tuple[jax.Array],
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """The variance's derivative is twice a covariance; that of `_spread` is slow on XLA:CPU."""
    (fields,), (change,) = primals, tangents
    mean, variance = _moments(fields, weights, border)
    dmean, dsquare = blur(jnp.stack([change, fields * change]), weights, border)
    return (mean, variance), (dmean, 2 * (dsquare - mean * dmean))


def _spread(
    fields: jax.Array, mean: jax.Array, weights: tuple[float, ...], border: str, axis: int
) -> jax.Array:
    """Weighted mean of (field - mean)^2 along one axis, `mean` being that of each pixel."""
    radius, axis = len(weights) // 2, axis % fields.ndim
    widths = [(radius, radius) if i == axis else (0, 0) for i in range(fields.ndim)]
    padded, size = jnp.pad(fields, widths, BORDERS[border]), fields.shape[axis]
    parts = (
        weight * jnp.square(jax.lax.slice_in_dim(padded, i, i + size, axis=axis) - mean)
        for i, weight in enumerate(weights)
    )
    return functools.reduce(jnp.add, parts)


@functools.lru_cache
def _matrix(size: int, weights: tuple[float, ...], border: str) -> np.ndarray:
    """float32 [size, size]: times a signal, its weighted mean around every sample."""
    if border not in BORDERS:
        raise unknown_name("border", border, BORDERS)
    radius = len(weights) // 2
    padded = np.pad(np.eye(size), ((radius, radius), (0, 0)), BORDERS[border])
    rows = (w * padded[i : i + size] for i, w in enumerate(weights))
    return functools.reduce(np.add, rows).astype(np.float32)


def _window(settings: Ssim) -> tuple[float, ...]:
    check(settings)
    if settings.weights == "flat":
        return (1 / settings.window,) * settings.window
    return gaussian(1.5 * settings.window / 11, settings.window // 2)


def _terms(x: jax.Array, y: jax.Array, settings: Ssim, border: str) -> tuple[jax.Array, jax.Array]:
    """1 - luminance and 1 - contrast-structure, each [C, N, H, W].

    SSIM is the product of (2 mx my + c1) / (mx^2 + my^2 + c1) and (2 cov + c2) / (vx + vy + c2).
    With d = x - y, 1 minus these is mean(d)^2 over the first and var(d) over the second
    denominator: nothing cancels where x and y are close.
    """
    if x.shape != y.shape or x.ndim != 4:
        raise ValueError(f"SSIM compares equal shapes [N, H, W, C], got {x.shape} and {y.shape}")
    weights, (c1, c2) = _window(settings), CONSTANTS[settings.constants]
    x, y = jnp.moveaxis(x, -1, 0), jnp.moveaxis(y, -1, 0)
    (mx, my, md), (vx, vy, vd) = _moments(jnp.stack([x, y, x - y]), weights, border)
    return jnp.square(md) / (jnp.square(mx) + jnp.square(my) + c1), vd / (vx + vy + c2)


def _whole_windows(size: int, window: int) -> np.ndarray:
    """bool [size]: where a window around the pixel stays inside."""
    at, radius = np.arange(size), window // 2
    return (at >= radius) & (at < size - radius)


def _number_of_scales(side: int, window: int) -> int:
    fitting = math.floor(math.log2(max(1.0, 2 * side / window))) + 1
    return min(len(SCALES), fitting)


def _halve(x: jax.Array) -> jax.Array:
    """2x2 means of [N, H, W, C]."""
    n, height, width, channels = x.shape
    even = x[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
