"""Losses, per example and unreduced: (x, y) [N, H, W, C] in [0, 1] -> [N]."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cae_jax.methods.options.autoencoder import LOSSES
from cae_jax.scoring.options import Ssim
from cae_jax.scoring.ssim import check, dissimilarity, multi_scale
from cae_jax.types import unknown_name

_MS_SSIM_SHARE = 0.84  # alpha of Zhao et al. 2017


def loss(
    name: str,
    settings: Ssim = Ssim(),  # noqa: B008 - immutable
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns the loss of that name as a function of x and y alone.

    Raises UsageError for a name not among LOSSES and for settings that cannot work.
    """
    if name not in LOSSES:
        raise unknown_name("--loss", name, LOSSES)
    check(settings)
    plain = {"l2": l2, "l1": l1}
    if name in plain:
        return plain[name]
    structural = {
        "ssim": ssim,
        "ms_ssim": multi_scale,
        "ms_ssim_l1": ms_ssim_l1,
        "l2_ssim": l2_ssim,
    }
    return functools.partial(structural[name], settings=settings)


def l2(x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean squared error per pixel (thesis Sec. 4.1.3).

    Args:
      x: images or patches [N, H, W, C].
      y: the same shape.

    Returns:
      [N], in the square of the inputs' unit.

    Raises:
      ValueError: the shapes differ.
    """
    return jnp.mean(jnp.square(_difference("l2", x, y)), axis=(1, 2, 3))


def l1(x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean absolute error per pixel, [N], in the inputs' unit; raises what `l2` raises."""
    return jnp.mean(jnp.abs(_difference("l1", x, y)), axis=(1, 2, 3))


def ssim(x: jax.Array, y: jax.Array, settings: Ssim) -> jax.Array:
    """Mean of 1 - SSIM over all pixels, [N] in [0, 2] (Bergmann et al., VISAPP 2019).

    Borders are reflected, so that every pixel counts. Raises what `ssim.dissimilarity` raises.
    """
    return jnp.mean(dissimilarity(x, y, settings), axis=(1, 2))


def ms_ssim_l1(x: jax.Array, y: jax.Array, settings: Ssim) -> jax.Array:
    """0.84 (1 - MS-SSIM) + 0.16 l1, [N] (Zhao et al., IEEE TCI 2017).

    They weight the absolute error by a Gaussian around every pixel; averaged over all pixels, with
    reflected borders, every error's weights sum to 1, so the plain mean is the same number. The
    scales are those of `ssim.multi_scale`, theirs are Gaussians of growing sigma instead.
    """
    structure = multi_scale(x, y, settings)
    return _MS_SSIM_SHARE * structure + (1 - _MS_SSIM_SHARE) * l1(x, y)


def l2_ssim(x: jax.Array, y: jax.Array, settings: Ssim) -> jax.Array:
    """The sum of `l2` and `ssim`, [N] (Zavrtanik et al., DRAEM, ICCV 2021, lambda = 1)."""
    return l2(x, y) + ssim(x, y, settings)


def focal(logits: jax.Array, mask: jax.Array, gamma: float = 2.0) -> jax.Array:
    """Mean of -(1 - p)^gamma log p, p being the probability of each pixel's true class.

    Lin et al., ICCV 2017, eq. 4: pixels that are told well already count little, so that the few
    defective ones are not drowned. Not a loss of images, so not among LOSSES.

    Args:
      logits: [N, H, W, 2], of good and of defective.
      mask: bool [N, H, W], where it is defective.
      gamma: 0 is the cross entropy.

    Returns:
      [N], in nats.

    Raises:
      ValueError: the shapes do not fit.
    """
    if logits.shape != (*mask.shape, 2):
        raise ValueError(f"focal takes logits {(*mask.shape, 2)}, got {logits.shape}")
    log_p = jax.nn.log_softmax(logits)
    log_p = jnp.where(mask, log_p[..., 1], log_p[..., 0])
    return jnp.mean(-((-jnp.expm1(log_p)) ** gamma) * log_p, axis=(1, 2))


def _difference(name: str, x: jax.Array, y: jax.Array) -> jax.Array:
    if x.shape != y.shape:
        raise ValueError(f"{name} compares equal shapes, got {x.shape} and {y.shape}")
    return x - y
