"""What methods of several networks that learn against each other share: variables by network, whose
steps move one of them at a time, and what tells a collapsed generator.

Variables are {"params": ..., "batch_stats": ...}, each of them by network. Images are in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cae_jax.methods import gradients
from cae_jax.types import Metrics, State, Variables


class Learned(NamedTuple):
    """What a step moves."""

    variables: Variables
    opt_state: dict[str, Any]  # by network


def init(
    networks: Mapping[str, nn.Module],
    samples: Mapping[str, jax.Array],
    optimizers: Mapping[str, optax.GradientTransformation],
    key: jax.Array,
) -> State:
    """Returns a fresh state of networks, by name; `samples` are what each takes."""
    variables: Variables = {"params": {}, "batch_stats": {}}
    for one, (name, x) in zip(jax.random.split(key, len(samples)), samples.items(), strict=True):
        for part, values in networks[name].init(one, x).items():
            variables[part][name] = values
    opt_state = {name: tx.init(variables["params"][name]) for name, tx in optimizers.items()}
    return State(jnp.zeros((), jnp.int32), key, variables, opt_state)


def apply(
    network: nn.Module,
    name: str,
    precision: str,
    variables: Variables,
    x: jax.Array,
    train: bool = False,
) -> tuple[Any, Variables]:
    """Applies a network.

    Args:
      network: the module.
      name: what its variables go by.
      precision: of `gradients.PRECISIONS`.
      variables: all networks'.
      x: what it takes.
      train: whether it normalises by the batch's statistics.

    Returns:
      What it gives, and all networks' batch statistics as it moves them, if it trains.
    """
    stats = variables["batch_stats"]
    own = {"params": variables["params"][name]}
    if name in stats:
        own["batch_stats"] = stats[name]
    called = gradients.application(network, precision)
    if not train:
        return called(own, x), stats
    made, changed = called(own, x, train=True, mutable=["batch_stats"])
    return made, {**stats, **({name: changed["batch_stats"]} if name in stats else {})}


def with_params(variables: Variables, name: str, params: Any) -> Variables:
    """Returns the variables with other parameters of one network."""
    return {**variables, "params": {**variables["params"], name: params}}


def moved(
    tx: optax.GradientTransformation,
    learned: Learned,
    name: str,
    gradient: Any,
    stats: Variables,
) -> Learned:
    """Returns what is learned once the network of that name has moved against its gradient, with
    these batch statistics of all."""
    params, opt_state = learned.variables["params"][name], learned.opt_state
    updates, own = tx.update(gradient, opt_state[name], params)
    changed = with_params(learned.variables, name, optax.apply_updates(params, updates))
    return Learned({**changed, "batch_stats": stats}, {**opt_state, name: own})


def cross_entropy(logits: jax.Array, real: bool) -> jax.Array:
    """Returns -log D where images should be taken for real ones, else -log(1 - D), D the sigmoid of
    a discriminator's logits."""
    return jax.nn.softplus(-logits if real else logits)


def spread(made: jax.Array, x: jax.Array) -> Metrics:
    """Returns how generated crops differ among themselves, beside how real ones do.

    "sample_variance" and "crop_variance" are the variance of a value over the batch [N, p, p, C],
    averaged over pixels and channels. A collapsed generator makes all crops alike: the names are
    those that `evaluation.collapse` looks for in a history.
    """
    variance = {"sample_variance": made, "crop_variance": x}
    return {name: jnp.mean(jnp.var(each, axis=0)) for name, each in variance.items()}


def signed(images: jax.Array) -> jax.Array:
    """From [0, 1], as images travel, to [-1, 1], as the networks see them."""
    return 2 * images - 1
