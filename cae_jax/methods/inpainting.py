"""Inpainting: a U-Net learns to fill in what is cut out of good images (RIAD).

Zavrtanik, Kristan, Skočaj, "Reconstruction by inpainting for visual anomaly detection", Pattern
Recognition 112, 2021; numbers that are not printed there are those of a re-implementation
(taikiinoue45/RIAD). An image is divided into cells of k x k pixels, and these at random into three
parts. Each part in turn is cut out and filled in from the rest; the three fillings are the
reconstruction, no pixel of which saw itself or its cell. A defect cannot be guessed from around it.

A training step draws one k for its batch; an image is judged by the mean over all k, whose cells
are the same for every image. The network sees images in [-1, 1] and 0 where they are cut out;
losses and maps are of images in [0, 1], which the constants of SSIM and MSGMS are for.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from cae_jax.jit import one_by_one
from cae_jax.methods import descent, gradients, losses
from cae_jax.methods.options.inpainting import Options
from cae_jax.models.unet import Unet, levels
from cae_jax.scoring import msgms, residuals, ssim
from cae_jax.scoring.options import DISTANCES, Ssim
from cae_jax.scoring.reconstruction import Inspect
from cae_jax.training import schedule
from cae_jax.types import (
    Array,
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

CELLS = (2, 4, 8, 16)  # k, in pixels
PARTS = 3  # n
_LEVELS = 5  # of the network at 256 pixels
_WIDEST = 8  # times the width
_FEWEST = 4  # cells along a side: of fewer there is too little left around what is cut out
_MEAN = 21  # side of the mean filter over a map, in pixels


def make(options: Options, size: Size, channels: int) -> Method:
    """Returns the method for images [B, *size, channels]; raises UsageError.

    Its own distance "msgms" is the mean over k of the multi-scale gradient magnitude similarity's
    map, with a mean filter of 21 x 21 pixels; the others compare the image with the mean over k of
    its reconstructions.
    """
    o = options.resolved(size)
    schedule.check(o)
    side = min(height_width(size))
    if o.patch_size > side or o.patch_size < _FEWEST * CELLS[0]:
        raise UsageError(
            f"--patch_size={o.patch_size}: must be from {_FEWEST * CELLS[0]} to {side} "
            f"(--image_size={size_text(size)})"
        )
    depth = levels(o.patch_size, _LEVELS)
    features = tuple(min(_WIDEST, 2**i) * o.width for i in range(depth))
    network = Unet(features, channels)
    learn = steps(network, o, channels)
    inspect = gradients.within(o.precision, inspector(network, o))
    return Method(descent.averaged(learn, o), inspect, ("msgms", *DISTANCES))


def cell_sizes(side: int) -> tuple[int, ...]:
    """Returns the k, of CELLS, of which at least four cells lie along crops of that side."""
    return tuple(k for k in CELLS if _FEWEST * k <= side)


def parts(order: Array, k: int, height: int, width: int) -> Array:
    """Returns which of the three parts each pixel belongs to.

    Args:
      order: a permutation of 0 .. n - 1, n being the number of cells of `cells`.
      k: side of a cell, in pixels; cells at the lower and right border may be cut short.
      height: in pixels.
      width: in pixels.

    Returns:
      [H, W] of 0, 1 and 2, the same for all pixels of a cell; parts have as many cells each, but
      for one.
    """
    of = (order % PARTS).reshape(-(-height // k), -(-width // k))
    return of.repeat(k, axis=0).repeat(k, axis=1)[:height, :width]


def cells(k: int, height: int, width: int) -> int:
    """Returns how many cells of k x k pixels cover an image."""
    return -(-height // k) * -(-width // k)


def fill(
    network: nn.Module,
    o: Options,
    variables: Variables,
    x: jax.Array,
    of: Array,
    train: bool = False,
) -> tuple[jax.Array, Variables]:
    """Reconstructs images of what lies around each pixel's part.

    Args:
      network: from images to images, in [-1, 1].
      o: the precision.
      variables: the network's.
      x: images [N, H, W, C] in [0, 1].
      of: each pixel's part, as `parts` gives it, [G, H, W]: N images are filled in G times.
      train: whether batch norm takes the batch's statistics.

    Returns:
      The reconstructions [G, N, H, W, C], in [0, 1], of whose every pixel the part was cut out;
      and the variables besides the parameters, as they move if it trains.
    """
    groups, n = len(of), len(x)
    cut = of[:, None] == jnp.arange(PARTS)[:, None, None]  # [G, 3, H, W]
    seen = jnp.where(cut[:, :, None, :, :, None], 0.0, 2 * x - 1)
    apply, inputs = gradients.application(network, o.precision), seen.reshape(-1, *x.shape[1:])
    rest = {name: value for name, value in variables.items() if name != "params"}
    if train:
        made, rest = apply(variables, inputs, train=True, mutable=list(rest))
    else:
        made = one_by_one(functools.partial(apply, variables), inputs)
    made = (jnp.tanh(made) + 1) / 2
    made = made.reshape(groups, PARTS, n, *x.shape[1:])
    return jnp.sum(jnp.where(cut[:, :, None, :, :, None], made, 0.0), axis=1), rest


def steps(network: nn.Module, o: Options, channels: int) -> Steps:
    """Returns how the network learns to fill in: Adam on the sum of squared error, SSIM and MSGMS.

    Metrics are the loss and its terms, and how crops and their reconstructions differ among
    themselves: a network that has learned the mean image alone makes them all alike.

    Args:
      network: (images [N, H, W, C], train) -> the same shape, any range.
      o: resolved.
      channels: of the images.
    """
    adam, sizes = gradients.optimizer(o.learning_rate, o.weight_decay), cell_sizes(o.patch_size)
    tx = descent.guided(adam, o, o.steps)

    def init(key: jax.Array) -> State:
        sample = jnp.zeros((1, o.patch_size, o.patch_size, channels))
        variables = dict(network.init(key, sample))
        return State(jnp.zeros((), jnp.int32), key, variables, tx.init(variables["params"]))

    def step(state: State, x: jax.Array) -> tuple[State, Metrics]:
        size, *keys = jax.random.split(gradients.step_key(state), 1 + len(sizes))
        side = x.shape[1:3]
        of_all = [
            parts(jax.random.permutation(key, cells(k, *side)), k, *side)
            for key, k in zip(keys, sizes, strict=True)
        ]
        of = jnp.stack(of_all)[jax.random.randint(size, (1,), 0, len(sizes))]

        def loss(params: Any) -> tuple[jax.Array, tuple[Metrics, Variables]]:
            variables = {**state.variables, "params": params}
            made, rest = fill(network, o, variables, x, of, train=True)
            terms = _terms(x, made[0])
            terms["made_variance"] = jnp.mean(jnp.var(made[0], axis=0))
            return terms["loss"], (terms, rest)

        params = state.variables["params"]
        gradient, (terms, rest) = jax.grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(gradient, state.opt_state, params)
        variables = {"params": optax.apply_updates(params, updates), **rest}
        terms["crop_variance"] = jnp.mean(jnp.var(x, axis=0))
        return State(state.step + 1, state.key, variables, opt_state), terms

    def validate(variables: Variables, x: jax.Array) -> Metrics:
        made = fill_all(network, o, variables, x)
        beside = jnp.broadcast_to(x, made.shape).reshape(-1, *x.shape[1:])
        return _terms(beside, made.reshape(beside.shape))

    step, validate = (gradients.within(o.precision, f) for f in (step, validate))
    return Steps(init, step, validate, o.patch_size)


def fill_all(network: nn.Module, o: Options, variables: Variables, x: jax.Array) -> jax.Array:
    """Returns the reconstructions of images [N, H, W, C] by every k, [K, N, H, W, C].

    The parts are drawn from a fixed seed, the same for every image.
    """
    side = x.shape[1:3]
    orders = {k: np.random.default_rng(k).permutation(cells(k, *side)) for k in CELLS}
    of = np.stack([parts(orders[k], k, *side) for k in cell_sizes(o.patch_size)])

    def fill_by(one: Array) -> jax.Array:
        return fill(network, o, variables, x, one[None])[0][0]

    return lax.map(fill_by, of)  # all at once ask for much memory


def inspector(network: nn.Module, o: Options) -> Inspect:
    """Returns (variables, images [B, H, W, C]) -> Evidence, see `make`."""

    def inspect(variables: Variables, images: jax.Array) -> Evidence:
        made = fill_all(network, o, variables, images)
        beside = jnp.broadcast_to(images, made.shape).reshape(-1, *images.shape[1:])
        with jax.named_scope("score"):
            each = msgms.dissimilarity(beside, made.reshape(beside.shape))
            own = jnp.mean(each.reshape(made.shape[:-1]), axis=0)
            own = ssim.blur(own, (1 / _MEAN,) * _MEAN, "reflect")
            output = jnp.mean(made, axis=0)
            others = {name: residuals.residual_map(name, images, output) for name in DISTANCES}
        return Evidence({"msgms": own, **others}, reconstruction=output)

    return inspect


def _terms(x: jax.Array, made: jax.Array) -> Metrics:
    """The loss and its three terms, of images and their reconstructions [N, H, W, C]."""
    terms = {
        "l2_loss": jnp.mean(losses.l2(made, x)),
        "ssim_loss": jnp.mean(losses.ssim(made, x, Ssim())),
        "msgms_loss": jnp.mean(msgms.loss(made, x)),
    }
    return {"loss": functools.reduce(jnp.add, terms.values()), **terms}
