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
from cae_jax.methods import corruption, descent, gradients, losses
from cae_jax.methods.corruption import KINDS
from cae_jax.methods.descent import Descent
from cae_jax.methods.gradients import PRECISIONS
from cae_jax.options import flag, pairs
from cae_jax.scoring import reconstruction
from cae_jax.scoring.reconstruction import Reconstruct, Windows
from cae_jax.scoring.residuals import DISTANCES
from cae_jax.training import schedule
from cae_jax.training.schedule import Training
from cae_jax.types import (
    Method,
    Metrics,
    Reconstruction,
    Size,
    State,
    Steps,
    UsageError,
    Variables,
    height_width,
    size_text,
)

_CORRUPT = 2**31 - 1  # sets the key of the corruption apart from the model's own


@dataclasses.dataclass(frozen=True)
class Options(Training, Descent, Windows):
    """The flags of --method=autoencoder."""

    model: str = flag("bergmann", "a built-in model or package.module[:Name] of your own")
    model_options: str = flag("", "the model's own options: name=value, several with commas")
    code: int = flag(0, "numbers that a patch is reconstructed from; 0: as the model's table", 0)
    loss: str = flag("l2", "what training minimises", among=losses.NAMES)
    corruption: str = flag(
        corruption.NONE, "of what training reconstructs from, not of its target", among=KINDS
    )
    corruption_strength: float = flag(
        0.0, "sigma of gaussian, share of the pixels of others; 0: 0.1, and 0.25", 0, 1
    )
    learning_rate: float = flag(2e-4, "of Adam", 0)
    weight_decay: float = flag(1e-5, "L2 added to the gradient", 0)
    decoupled_weight_decay: bool = flag(False, "AdamW's weight decay instead of L2")
    whole_image: bool = flag(False, "one patch, the whole image (CVPR 2019's objects)")
    precision: str = flag("float32", "of products and sums", among=PRECISIONS)

    @property
    def label(self) -> str:
        """What its runs are called: the model, and what is not the thesis's: loss, corruption and
        code."""
        more = [self.loss] if self.loss != "l2" else []
        more += [self.corruption] if self.corruption != corruption.NONE else []
        more += [f"code{self.code}"] if self.code else []
        return "-".join([self.model.replace(":", "."), *more])

    @property
    def of_model(self) -> dict[str, str]:
        """The model's options by name; raises UsageError for one without a value, for a code of a
        model that has none, and for two."""
        found = pairs("model_options", self.model_options)
        if self.whole_image and self.model == "bergmann":  # CVPR 2019: one more convolution
            found.setdefault("whole_image", "true")
        if self.code:
            if "code" not in models.options_of(self.model):
                having = [name for name in models.names() if "code" in models.options_of(name)]
                raise UsageError(
                    f"--code={self.code}: {self.model} has no option of that name; it is for "
                    f"{', '.join(having)}, and models of your own with a field `code`"
                )
            if "code" in found:
                raise UsageError(
                    f"--code={self.code}: --model_options has a code too; leave out one"
                )
            found["code"] = str(self.code)
        return found

    def resolved(self, size: Size) -> Options:
        """Returns the record for images of that size, --whole_image worked out.

        Raises UsageError where sizes are given that --whole_image does not take.
        """
        if not self.whole_image:
            return self
        height, side = height_width(size)
        if height != side:
            raise UsageError(
                f"--whole_image: takes one square patch, images are --image_size={size_text(size)}"
            )
        for name in ("patch_size", "stride"):
            value, default = getattr(self, name), getattr(Options, name)
            if value not in (default, side):
                raise UsageError(
                    f"--{name}={value}: --whole_image takes one patch of "
                    f"--image_size={side}; leave out one of the two"
                )
        return dataclasses.replace(self, patch_size=side, stride=side)


def make(options: Options, size: Size, channels: int) -> Method:
    """Returns the method for images [B, *size, channels]; raises UsageError."""
    o = options.resolved(size)
    schedule.check(o)
    reconstruction.check(o, size)
    if o.corruption_strength and o.corruption == corruption.NONE:
        raise UsageError(
            f"--corruption_strength={o.corruption_strength}: --corruption=none corrupts nothing; "
            f"take one of {', '.join(KINDS[1:])}"
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
