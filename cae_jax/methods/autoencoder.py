"""An autoencoder learns to reconstruct good patches: the thesis's method (Sec. 4.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cae_jax import models
from cae_jax.methods import corruption, descent, gradients, losses
from cae_jax.methods.options.autoencoder import CORRUPTIONS, NO_CORRUPTION, Options
from cae_jax.scoring import reconstruction
from cae_jax.scoring.options import DISTANCES
from cae_jax.scoring.reconstruction import Reconstruct
from cae_jax.training import schedule
from cae_jax.types import (
    Method,
    Metrics,
    Reconstruction,
    Size,
    State,
    Steps,
    UsageError,
    Variables,
)

_CORRUPT = 2**31 - 1  # sets the key of the corruption apart from the model's own


def make(options: Options, size: Size, channels: int) -> Method:
    """Returns the method for images [B, *size, channels]; raises UsageError."""
    o = options.resolved(size)
    schedule.check(o)
    reconstruction.check(o, size)
    if o.corruption_strength and o.corruption == NO_CORRUPTION:
        raise UsageError(
            f"--corruption_strength={o.corruption_strength}: --corruption=none corrupts nothing; "
            f"take one of {', '.join(CORRUPTIONS[1:])}"
        )
    model = models.build(o.model, channels, o.patch_size, o.of_model)
    tx = gradients.optimizer(o.learning_rate, o.weight_decay, o.decoupled_weight_decay)
    learn = steps(
        model,
        descent.guided(tx, o, o.steps),
        patch_loss=losses.loss(o.loss, o.ssim),
        precision=o.precision,
        corrupt=corruption.corruption(o.corruption, o.corruption_strength),
    )
    learn = descent.averaged(learn, o)
    return Method(learn, reconstruction.by_patches(reconstructor(model, o.precision), o), DISTANCES)


def steps(
    model: nn.Module,
    tx: optax.GradientTransformation,
    chunk_size: int | None = None,
    patch_loss: Callable[[jax.Array, jax.Array], jax.Array] = losses.l2,
    precision: str = "float32",
    corrupt: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> Steps:
    """Returns how `model` learns by `tx` on the mean of `patch_loss`.

    Args:
      model: a module with `channels` and `patch_size`; `model(patches, train)` gives a
        Reconstruction, whose aux may hold "penalty" [N], added to the loss of each patch. While
        training it may ask for random keys by any name; otherwise it gets none, and gives its
        mean.
      tx: the optimiser.
      chunk_size: see `gradients.mean_gradient`; None takes `gradients.default_chunk_size`.
      patch_loss: (output, patches) [N, p, p, C] -> [N], see `losses`.
      precision: of the model's products, one of `gradients.PRECISIONS`.
      corrupt: (key, patches) -> what is reconstructed from in their place, in training and
        validation; the loss is against the patches themselves. None for the patches.
    """
    apply = gradients.application(model, precision)

    def each(made: Reconstruction, patches: jax.Array) -> jax.Array:
        return patch_loss(made.output, patches) + made.aux.get("penalty", 0.0)

    def init(key: jax.Array) -> State:
        sample = jnp.zeros((1, model.patch_size, model.patch_size, model.channels))
        variables = dict(model.init(key, sample))
        return State(jnp.zeros((), jnp.int32), key, variables, tx.init(variables["params"]))

    def seen(patches: jax.Array, key: jax.Array) -> jax.Array:
        return corrupt(jax.random.fold_in(key, _CORRUPT), patches) if corrupt else patches

    def loss(params: Any, rest: Variables, patches: jax.Array, key: jax.Array) -> tuple:
        how = {"train": True, "mutable": list(rest), "rngs": {"params": key}}
        made, rest = apply({"params": params, **rest}, seen(patches, key), **how)
        return jnp.mean(each(made, patches)), (rest, _used(made))

    def step(state: State, patches: jax.Array) -> tuple[State, Metrics]:
        rest = {name: value for name, value in state.variables.items() if name != "params"}
        params = state.variables["params"]
        key = gradients.step_key(state)
        size = chunk_size or gradients.default_chunk_size(model.patch_size)
        value, rest, used, gradient = gradients.mean_gradient(
            loss, params, rest, patches, key, size
        )
        updates, opt_state = tx.update(gradient, state.opt_state, params)
        variables = {"params": optax.apply_updates(params, updates), **rest}
        return State(state.step + 1, state.key, variables, opt_state), {"loss": value, **used}

    def validate(variables: Variables, patches: jax.Array) -> Metrics:
        # one key for all: epochs are compared on the same noise
        made = apply(variables, seen(patches, jax.random.key(0, impl="threefry2x32")))
        return {"loss": jnp.mean(each(made, patches))}

    step, validate = (gradients.within(precision, f) for f in (step, validate))
    return Steps(init, step, validate, model.patch_size)


def reconstructor(model: nn.Module, precision: str = "float32") -> Reconstruct:
    """Returns (variables, patches [N, p, p, C]) -> Reconstruction, as a trained model gives it."""
    return gradients.within(precision, gradients.application(model, precision))


def _used(made: Reconstruction) -> dict[str, jax.Array]:
    """Which parts any of the patches made use of, bool [K] by name."""
    return {k: jnp.any(v, axis=0) for k, v in made.aux.items() if k.endswith("_used")}
