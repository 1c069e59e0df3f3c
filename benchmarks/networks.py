"""Patches and network of a run's flags, as far as its method has any, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import timing
from cae_jax import models
from cae_jax.reports import architectures
from cae_jax.runs.config import Config
from cae_jax.scoring import patches
from cae_jax.scoring.reconstruction import Windows
from cae_jax.types import UsageError


def patches_per_image(config: Config) -> int:
    """Returns how many patches an image is cut into; 0 by a method that cuts none."""
    o = config.options
    return patches.number(config.image_size, o.stride) if isinstance(o, Windows) else 0


def has_one(config: Config) -> bool:
    """Returns whether the method's patches go through one of `models`, named by its options."""
    return isinstance(config.options, Windows) and hasattr(config.options, "of_model")


def build(config: Config) -> Any:
    """Returns the network, a Flax module; raises UsageError where there is none."""
    if not has_one(config):
        raise UsageError(f"--method={config.method}: has no network of layer tables")
    o = config.options
    return models.build(o.model, config.channels, o.patch_size, o.of_model)


def cost(config: Config) -> dict[str, Any]:
    """Returns `architectures.describe` of the network; raises UsageError where there is none."""
    build(config)
    o = config.options
    return architectures.architecture(o.model, config.channels, o.patch_size, o.of_model)


def of_patches(
    config: Config, n_images: int, seconds: Mapping[str, Sequence[float]]
) -> dict[str, object]:
    """Returns what a call on images is worth in patches, where the method works by them.

    Args:
      config: of the call.
      n_images: in it.
      seconds: as `timing.interleaved` gives them, of the call, of `timing.matrix_product` and
        maybe of what is around the network.

    Returns:
      Times per patch, and of a method with a network its name and speed; {} without patches.
    """
    windows = patches_per_image(config)
    if not windows:
        return {}
    found: dict[str, object] = {"patches_per_image": windows}
    found |= timing.milliseconds_per("patch", n_images * windows, seconds)
    if timing.AROUND in seconds:
        found["around_the_network_share"] = timing.share(timing.AROUND, seconds)
    if has_one(config):
        of_one = cost(config)
        gflop = 2e-9 * of_one["macs_per_patch"] * n_images * windows
        found |= {"model": of_one["model"], **timing.speed(gflop, seconds)}
    return found


def of_step(config: Config, seconds: Mapping[str, Sequence[float]]) -> dict[str, object]:
    """Returns what a training step is worth in operations, and the name of the network that they
    are of; {} by a method without one.

    Args:
      config: of the step.
      seconds: as `timing.interleaved` gives them, of the step and of `timing.matrix_product`.
    """
    if not has_one(config):
        return {}
    of_one = cost(config)
    # forward, input gradient and kernel gradient; nobody asks for the first layer's input gradient
    macs = 3 * of_one["macs_per_patch"] - of_one["rows"][0]["macs"]
    gflop = 2e-9 * macs * config.options.batch_size
    return {"model": of_one["model"], **timing.speed(gflop, seconds)}
