"""An autoencoder learns to reconstruct good patches: the thesis's method (Sec. 4.1)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cae_jax import models
from cae_jax.methods import gradients, losses
from cae_jax.methods.gradients import PRECISIONS
from cae_jax.options import flag, pairs
from cae_jax.scoring import reconstruction
from cae_jax.scoring.reconstruction import Reconstruct, Windows
from cae_jax.scoring.residuals import DISTANCES
from cae_jax.training import schedule
from cae_jax.training.schedule import Training
from cae_jax.types import Method, Metrics, Reconstruction, State, Steps, UsageError, Variables


@dataclasses.dataclass(frozen=True)
class Options(Training, Windows):
    """The flags of --method=autoencoder."""

    model: str = flag("bergmann", "a built-in model or package.module[:Name] of your own")
    model_options: str = flag("", "the model's own options: name=value, several with commas")
    loss: str = flag("l2", "what training minimises", among=losses.NAMES)
    learning_rate: float = flag(2e-4, "of Adam", 0)
    weight_decay: float = flag(1e-5, "L2 added to the gradient", 0)
    decoupled_weight_decay: bool = flag(False, "AdamW's weight decay instead of L2")
    whole_image: bool = flag(False, "one patch, the whole image (CVPR 2019's objects)")
    precision: str = flag("float32", "of products and sums", among=PRECISIONS)

    @property
    def label(self) -> str:
        """What its runs are called: the model, and the loss where it is not the thesis's."""
        model = self.model.replace(":", ".")
        return model if self.loss == "l2" else f"{model}-{self.loss}"

    @property
    def of_model(self) -> dict[str, str]:
        """The model's options by name; raises UsageError for one without a value."""
        found = pairs("model_options", self.model_options)
        if self.whole_image and self.model == "bergmann":  # CVPR 2019: one more convolution
            found.setdefault("whole_image", "true")
        return found

    def resolved(self, side: int) -> Options:
        """Returns the record for images of that side, --whole_image worked out.

        Raises UsageError where sizes are given that --whole_image does not take.
        """
        if not self.whole_image:
            return self
        for name in ("patch_size", "stride"):
            value, default = getattr(self, name), getattr(Options, name)
            if value not in (default, side):
                raise UsageError(
                    f"--{name}={value}: --whole_image takes one patch of "
                    f"--image_size={side}; leave out one of the two"
                )
        return dataclasses.replace(self, patch_size=side, stride=side)


def make(options: Options, side: int, channels: int) -> Method:
    """Returns the method for images [B, side, side, channels]; raises UsageError."""
    o = options.resolved(side)
    schedule.check(o)
    reconstruction.check(o, side)
    model = models.build(o.model, channels, o.patch_size, o.of_model)
    tx = gradients.optimizer(o.learning_rate, o.weight_decay, o.decoupled_weight_decay)
    learn = steps(model, tx, patch_loss=losses.loss(o.loss, o.ssim), precision=o.precision)
    return Method(learn, reconstruction.by_patches(reconstructor(model, o.precision), o), DISTANCES)


def steps(
    model: nn.Module,
    tx: optax.GradientTransformation,
    chunk_size: int | None = None,
    patch_loss: Callable[[jax.Array, jax.Array], jax.Array] = losses.l2,
    precision: str = "float32",
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
    """
    apply = gradients.application(model, precision)

    def each(made: Reconstruction, patches: jax.Array) -> jax.Array:
        return patch_loss(made.output, patches) + made.aux.get("penalty", 0.0)

    def init(key: jax.Array) -> State:
        sample = jnp.zeros((1, model.patch_size, model.patch_size, model.channels))
        variables = dict(model.init(key, sample))
        return State(jnp.zeros((), jnp.int32), key, variables, tx.init(variables["params"]))

    def loss(params: Any, rest: Variables, patches: jax.Array, key: jax.Array) -> tuple:
        how = {"train": True, "mutable": list(rest), "rngs": {"params": key}}
        made, rest = apply({"params": params, **rest}, patches, **how)
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
        made = apply(variables, patches)
        return {"loss": jnp.mean(each(made, patches))}

    step, validate = (gradients.within(precision, f) for f in (step, validate))
    return Steps(init, step, validate, model.patch_size)


def reconstructor(model: nn.Module, precision: str = "float32") -> Reconstruct:
    """Returns (variables, patches [N, p, p, C]) -> Reconstruction, as a trained model gives it."""
    return gradients.within(precision, gradients.application(model, precision))


def _used(made: Reconstruction) -> dict[str, jax.Array]:
    """Which parts any of the patches made use of, bool [K] by name."""
    return {k: jnp.any(v, axis=0) for k, v in made.aux.items() if k.endswith("_used")}
