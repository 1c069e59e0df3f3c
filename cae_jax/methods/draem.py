"""DRAEM: a network takes anomalies out of images, another one sees where it did.

Zavrtanik, Kristan, Skočaj, "DRAEM: a discriminatively trained reconstruction embedding for surface
anomaly detection", ICCV 2021; numbers that are not printed there are those of the authors' code
(VitjanZ/DRAEM). An autoencoder learns to give back the good image that an anomaly was put into (see
`anomalies`); a U-Net sees its reconstruction beside the image and learns where the anomaly is. The
paper's textures are another data set's (DTD); here they are made of the training images and noise.

The squared error, SSIM and the focal loss add up, at equal weights. Images are in [0, 1]. The map
is the probability of a defect at every pixel; an image's score is the largest mean of it over 21 x
21 pixels.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cae_jax.jit import one_by_one
from cae_jax.methods import anomalies, descent, gradients, losses
from cae_jax.methods.options.draem import TEXTURES, Options
from cae_jax.models.unet import Unet, levels
from cae_jax.scoring import residuals, ssim
from cae_jax.scoring.options import DISTANCES, Ssim
from cae_jax.training import schedule
from cae_jax.types import (
    Evidence,
    Method,
    Metrics,
    Size,
    State,
    Steps,
    UsageError,
    Variables,
    height_width,
    size_text,
)

_RECONSTRUCTION_LEVELS, _SEGMENTATION_LEVELS = 5, 6  # at 256 pixels
_WIDEST = 8  # times the width
_MEAN = 21  # side of the mean filter before the maximum, in pixels
_SLOWER = {0.8: 0.2, 0.9: 0.2}  # from these shares of the steps on, the learning rate is times this


class Networks(nn.Module):
    """An autoencoder without skips, and a U-Net of its reconstruction beside the image."""

    channels: int
    width: int
    patch_size: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """[N, H, W, C] in [0, 1] -> the reconstruction, of the same shape, and the logits of good
        and of defective, [N, H, W, 2]."""

        def features(width: int, most: int) -> tuple[int, ...]:
            depth = levels(self.patch_size, most)
            return tuple(min(_WIDEST, 2**i) * width for i in range(depth))

        wide = features(self.width, _RECONSTRUCTION_LEVELS)
        made = Unet(wide, self.channels, True, skips=False, name="reconstruction")(x, train)
        narrow = features(self.width // 2, _SEGMENTATION_LEVELS)
        both = jnp.concatenate([made, x], axis=-1)
        return made, Unet(narrow, 2, True, name="segmentation")(both, train)


def make(options: Options, size: Size, channels: int) -> Method:
    """Returns the method for images [B, *size, channels]; raises UsageError.

    Its own distance "mask" is the probability of a defect, and the number the largest mean of it
    over 21 x 21 pixels; the others compare the image with its reconstruction.
    """
    o = options.resolved(size)
    schedule.check(o)
    side = min(height_width(size))
    if not 8 <= o.patch_size <= side:
        raise UsageError(
            f"--patch_size={o.patch_size}: must be from 8 to {side} "
            f"(--image_size={size_text(size)})"
        )
    networks = Networks(channels, o.width, o.patch_size)
    apply = gradients.application(networks, o.precision)

    def inspect(variables: Variables, images: jax.Array) -> Evidence:
        made, logits = one_by_one(functools.partial(apply, variables), images)
        with jax.named_scope("score"):
            mask = jax.nn.softmax(logits)[..., 1]
            means = ssim.blur(mask, (1 / _MEAN,) * _MEAN, "reflect")
            others = {name: residuals.residual_map(name, images, made) for name in DISTANCES}
        return Evidence({"mask": mask, **others}, {"mask": jnp.max(means, axis=(1, 2))}, made)

    inspect = gradients.within(o.precision, inspect)
    return Method(descent.averaged(steps(networks, o, channels), o), inspect, ("mask", *DISTANCES))


def optimizer(o: Options) -> optax.GradientTransformation:
    """Adam, whose learning rate falls to a fifth after .8 of the steps and again after .9."""
    slower = {round(share * o.steps): times for share, times in _SLOWER.items()}
    adam = optax.adam(optax.piecewise_constant_schedule(o.learning_rate, slower))
    return descent.guided(adam, o, o.steps)


def steps(networks: nn.Module, o: Options, channels: int) -> Steps:
    """Returns how both networks learn together.

    Metrics are the loss and its terms; the share of anomalous pixels; and the mean of the predicted
    mask on these and on the others: equal ones tell that nothing is segmented. The last checkpoint
    counts, as the authors'.

    Args:
      networks: (images, train) -> (reconstruction, logits), see `Networks`.
      o: resolved.
      channels: of the images.
    """
    tx, apply = optimizer(o), gradients.application(networks, o.precision)
    by_noise = TEXTURES[o.texture]

    def init(key: jax.Array) -> State:
        sample = jnp.zeros((1, o.patch_size, o.patch_size, channels))
        variables = dict(networks.init(key, sample))
        return State(jnp.zeros((), jnp.int32), key, variables, tx.init(variables["params"]))

    def step(state: State, x: jax.Array) -> tuple[State, Metrics]:
        by_turn, by_anomaly = jax.random.split(gradients.step_key(state))
        good = anomalies.turned(by_turn, x, o.turned_share)
        changed, mask = anomalies.blend(by_anomaly, good, by_noise)
        rest = {name: value for name, value in state.variables.items() if name != "params"}

        def loss(params: Any) -> tuple[jax.Array, tuple[Metrics, Variables]]:
            made, rest_after = apply(
                {"params": params, **rest}, changed, train=True, mutable=list(rest)
            )
            terms = _terms(good, mask, *made)
            return terms["loss"], (terms, rest_after)

        params = state.variables["params"]
        gradient, (terms, rest) = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(gradient, state.opt_state, params)
        variables = {"params": optax.apply_updates(params, updates), **rest}
        return State(state.step + 1, state.key, variables, opt_state), terms

    def validate(variables: Variables, x: jax.Array) -> Metrics:
        changed, mask = anomalies.blend(jax.random.key(0, impl="threefry2x32"), x, by_noise)
        return _terms(x, mask, *apply(variables, changed))

    step, validate = (gradients.within(o.precision, f) for f in (step, validate))
    return Steps(init, step, validate, o.patch_size, best_by="")


def _terms(good: jax.Array, mask: jax.Array, made: jax.Array, logits: jax.Array) -> Metrics:
    """The loss and its three terms, and what is predicted, of good images [N, H, W, C], where they
    were changed [N, H, W], the reconstructions and the logits."""
    terms = {
        "l2_loss": jnp.mean(losses.l2(made, good)),
        "ssim_loss": jnp.mean(losses.ssim(made, good, Ssim())),
        "focal_loss": jnp.mean(losses.focal(logits, mask)),
    }
    predicted = jax.nn.softmax(logits)[..., 1]

    def mean_where(mask: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(mask, predicted, 0)) / jnp.maximum(jnp.sum(mask), 1)

    return {
        "loss": functools.reduce(jnp.add, terms.values()),
        **terms,
        "anomalous_share": jnp.mean(mask.astype(jnp.float32)),
        "mask_on_anomalous": mean_where(mask),
        "mask_on_good": mean_where(~mask),
    }
