"""Bidirectional GANs: a generator and an encoder that one discriminator cannot tell apart.

Zenati et al., "Efficient GAN-based anomaly detection", 2018 (arXiv 1802.06222), of which this is
`--variant=bigan`: the discriminator sees pairs, (x, E(x)) of an image and (G(z), z) of a generated
one; where it cannot tell them any more, E inverts G. `--variant=alad` is Zenati et al.,
"Adversarially learned anomaly detection", ICDM 2018 (arXiv 1812.02288): two discriminators more, of
(x, x) and (x, G(E(x))), and of (z, z) and (z, E(G(z))), and spectral norm. `--consistency` adds the
term of Carrara et al. 2020 (CBiGAN, arXiv 2011.08102), to either. What the papers leave out is as
in the authors' codes, see `models.bigan`. What the generator cannot make is a defect.

A training step moves the discriminators, then encoder and generator against them, on the same
crops (the codes: on others) with z drawn anew. Scores are of the weights' moving averages, which
start where the weights do. The last checkpoint counts: none is chosen on test images, as CBiGAN's.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cae_jax.methods import descent, gradients
from cae_jax.methods.adversarial import cross_entropy, signed, spread
from cae_jax.methods.options.bigan import WEIGHT, Options
from cae_jax.models import bigan
from cae_jax.models.bigan import PAPERS, Judged, Sizes
from cae_jax.scoring import reconstruction, residuals
from cae_jax.scoring.options import DISTANCES
from cae_jax.scoring.reconstruction import Reconstruct
from cae_jax.training import schedule
from cae_jax.types import Method, Metrics, Reconstruction, Size, State, Steps, UsageError, Variables

_MAKERS = ("encoder", "generator")  # all others are discriminators


class Networks(NamedTuple):
    """The networks by name, and the precision that they are applied in."""

    modules: dict[str, nn.Module]
    sizes: Sizes
    precision: str = "float32"

    @property
    def discriminators(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(name for name in self.modules if name not in _MAKERS)

    def apply(
        self, name: str, params: Variables, rest: Variables, x: Any, key: jax.Array | None = None
    ) -> tuple[Any, Variables]:
        """Returns what the network of that name makes of x, and `rest` as it moves, if it trains.

        Args:
          name: of `modules`.
          params: by network: the weights, or their moving averages.
          rest: the other variables, by collection and network: batch statistics, spectral vectors.
          x: what it takes.
          key: of the dropout, where it trains: by the batch's own statistics.
        """
        own = {part: trees[name] for part, trees in rest.items() if name in trees}
        apply = gradients.application(self.modules[name], self.precision)
        variables = {"params": params[name], **own}
        if key is None:
            return apply(variables, x), rest
        how = {"train": True, "mutable": list(own), "rngs": {"dropout": key}}
        made, moved = apply(variables, x, **how)
        return made, {k: {**v, **({name: moved[k]} if k in own else {})} for k, v in rest.items()}


class _Learned(NamedTuple):
    params: Variables  # by network
    rest: Variables  # by collection, by network
    opt_state: dict[str, Any]  # by network


class Made(NamedTuple):
    """What encoder and generator make of crops x [N, p, p, C] and latent vectors z."""

    x: jax.Array
    z: jax.Array
    code: jax.Array  # E(x)
    sample: jax.Array  # G(z)
    x_again: Any = None  # G(E(x)), where it is asked for
    z_again: Any = None  # E(G(z))

    def pairs(self, name: str) -> tuple[Any, Any]:
        """What the discriminator of that name takes for real, and what it should not."""
        x, z = self.x, self.z
        return {
            "joint": ((x, self.code), (self.sample, z)),
            "images": ((x, x), (x, self.x_again)),
            "codes": ((z, z), (z, self.z_again)),
        }[name]


# by discriminator: what it says of real pairs, and of others
Judgements: TypeAlias = dict[str, tuple[Judged, Judged]]


def make(options: Options, size: Size, channels: int) -> Method:
    """Returns the method for images [B, *size, channels]; raises UsageError.

    Its own distance, of the variant's name, is the map |x - G(E(x))| on the 0..255 scale, summed
    over the channels, and the number of `score`, of an image's worst patch.
    """
    o = options.resolved(size)
    schedule.check(o)
    if o.variant == "alad" and o.score_weight != WEIGHT:
        raise UsageError(
            f"--score_weight={o.score_weight}: the score of --variant=alad has no residual to weigh"
        )
    bigan.halvings(o.patch_size, PAPERS[o.variant].smallest)
    reconstruction.check(o, size)
    nets = networks(o, channels)
    own = {o.variant: functools.partial(residuals.residual_map, "l1")}
    inspect = reconstruction.by_patches(reconstructor(nets, o), o, own=own)
    return Method(steps(nets, o), inspect, (o.variant, *DISTANCES))


def networks(o: Options, channels: int) -> Networks:
    """Returns the networks of resolved options."""
    sizes = Sizes(o.variant, channels, o.patch_size, o.width, o.latent)
    return Networks(bigan.networks(sizes), sizes, o.precision)


def optimizer(o: Options) -> optax.GradientTransformation:
    """Returns what moves each network: Adam with a first beta of 0.5."""
    return descent.guided(optax.adam(o.learning_rate, b1=0.5), o, o.steps)


def steps(nets: Networks, o: Options) -> Steps:
    """Returns how the networks learn.

    Metrics, on images in [-1, 1]: the losses of the discriminators and of generator and encoder;
    the shares of pairs (x, E(x)) and (G(z), z) that the joint discriminator takes for what they
    are; and how generated crops differ among themselves, beside how real ones do: a collapsed
    generator makes them all alike. `validate` gives the mean score of crops. Options are resolved.
    """

    def init(key: jax.Array) -> State:
        s = nets.sizes
        x, z = jnp.zeros((1, s.patch_size, s.patch_size, s.channels)), jnp.zeros((1, s.latent))
        samples = {"encoder": x, "generator": z, "joint": (x, z), "images": (x, x), "codes": (z, z)}
        variables: Variables = {"params": {}, "batch_stats": {}, "spectral": {}}
        keys = jax.random.split(key, len(nets.modules))
        for one, (name, module) in zip(keys, nets.modules.items(), strict=True):
            for part, values in module.init(one, samples[name]).items():
                variables[part][name] = values
        params = variables["params"]
        opt_state = {name: optimizer(o).init(tree) for name, tree in params.items()}
        variables["ema"] = jax.tree.map(jnp.array, params)
        variables = {part: trees for part, trees in variables.items() if trees}
        return State(jnp.zeros((), jnp.int32), key, variables, opt_state)

    def step(state: State, crops: jax.Array) -> tuple[State, Metrics]:
        rest = {k: v for k, v in state.variables.items() if k not in ("params", "ema")}
        learned = _Learned(state.variables["params"], rest, state.opt_state)
        first, second = jax.random.split(gradients.step_key(state))
        x = signed(crops)
        learned, metrics = _train_discriminators(nets, o, learned, x, first)
        learned, of_makers = _train_makers(nets, o, learned, x, second)
        ema = averaged(state.variables["ema"], learned.params, o.ema)
        variables = {"params": learned.params, "ema": ema, **learned.rest}
        state = State(state.step + 1, state.key, variables, learned.opt_state)
        return state, {**metrics, **of_makers}

    def validate(variables: Variables, crops: jax.Array) -> Metrics:
        x = signed(crops)
        return {"loss": jnp.mean(score(nets, o, variables, x)[0])}

    step, validate = (gradients.within(o.precision, f) for f in (step, validate))
    return Steps(init, step, validate, o.patch_size, best_by="")


def averaged(averages: Any, params: Any, decay: float) -> Any:
    """Returns decay * averages + (1 - decay) * params, leaf by leaf."""
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, averages, params)


def reconstructor(nets: Networks, o: Options) -> Reconstruct:
    """Returns (variables, patches [N, p, p, C] in [0, 1]) -> Reconstruction G(E(x)), aux "score"
    [N]."""

    def reconstruct(variables: Variables, patches: jax.Array) -> Reconstruction:
        number, made = score(nets, o, variables, signed(patches))
        return Reconstruction((made + 1) / 2, {"score": number})

    return gradients.within(nets.precision, reconstruct)


def score(
    nets: Networks, o: Options, variables: Variables, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns a paper's anomaly score of each patch, and G(E(x)), by the moving averages.

    BiGAN's is (1 - w) |x - G(E(x))|_1 + w L, w the --score_weight, and L the distance |f(x, E(x)) -
    f(G(E(x)), E(x))|_1 of the joint discriminator's features ("fm"), or -log D(G(E(x)), E(x))
    ("cross_entropy"). ALAD's is the same L of the discriminator of (x, x) and (x, G(E(x))). Norms
    are sums over pixels, channels and features, as the authors', and not means: the weight means
    something else at every size.

    Args:
      nets: the networks.
      o: resolved.
      variables: theirs.
      x: patches [N, p, p, C] in [-1, 1].
    """
    rest = {k: v for k, v in variables.items() if k in ("batch_stats", "spectral")}

    def apply(name: str, x: Any) -> Any:
        return nets.apply(name, variables["ema"], rest, x)[0]

    code = apply("encoder", x)
    made = apply("generator", code)
    judge, pairs = {
        "bigan": ("joint", ((x, code), (made, code))),
        "alad": ("images", ((x, x), (x, made))),
    }[o.variant]
    of_x, of_made = (apply(judge, pair) for pair in pairs)
    by_features = _distance(of_x.features, of_made.features)
    number = by_features if o.score == "fm" else cross_entropy(of_made.logits, True)
    if o.variant == "bigan":
        number = (1 - o.score_weight) * _distance(x, made) + o.score_weight * number
    return number, made


def consistency(made: Made) -> jax.Array:
    """Returns CBiGAN's |x - G(E(x))|_1 + |z - E(G(z))|_1, sums over a patch, the batch's mean.

    As its code has it at first; a later version of it sums over the batch, too.
    """
    return jnp.mean(_distance(made.x, made.x_again) + _distance(made.z, made.z_again))


def discriminator_loss(judged: Judgements) -> jax.Array:
    """Returns the sum over discriminators of -log D of real pairs and -log(1 - D) of others."""
    losses = [
        jnp.mean(cross_entropy(real.logits, True)) + jnp.mean(cross_entropy(other.logits, False))
        for real, other in judged.values()
    ]
    return jnp.sum(jnp.stack(losses))


def maker_losses(judged: Judgements) -> Metrics:
    """Returns what generator and encoder minimise, not saturating: the same with labels exchanged.

    Of "joint" the generator has the part of (G(z), z), the encoder that of (x, E(x)); of ALAD's
    further discriminators both have that of the pairs that they make.
    """
    real, other = judged["joint"]
    losses = {
        "generator_loss": jnp.mean(cross_entropy(other.logits, True)),
        "encoder_loss": jnp.mean(cross_entropy(real.logits, False)),
    }
    for name in [name for name in judged if name != "joint"]:
        losses[f"{name}_loss"] = jnp.mean(cross_entropy(judged[name][1].logits, True))
    return losses


def _train_discriminators(
    nets: Networks, o: Options, learned: _Learned, x: jax.Array, key: jax.Array
) -> tuple[_Learned, Metrics]:
    noise, dropout = jax.random.split(key)
    again = len(nets.discriminators) > 1
    made, _ = _make(nets, learned.params, learned.rest, x, noise, again)  # whose statistics stay

    def loss(params: Variables) -> tuple[jax.Array, tuple[Judgements, Variables]]:
        judged, rest = _judge(nets, {**learned.params, **params}, learned.rest, made, dropout)
        return discriminator_loss(judged), (judged, rest)

    moving = {name: learned.params[name] for name in nets.discriminators}
    (value, (judged, rest)), gradient = jax.value_and_grad(loss, has_aux=True)(moving)
    real, other = judged["joint"]
    metrics = {
        "discriminator_loss": value,
        "real_accuracy": jnp.mean(real.logits > 0),
        "generated_accuracy": jnp.mean(other.logits < 0),
        **spread(made.sample, x),
    }
    return _moved(o, learned, nets.discriminators, gradient, rest), metrics


def _train_makers(
    nets: Networks, o: Options, learned: _Learned, x: jax.Array, key: jax.Array
) -> tuple[_Learned, Metrics]:
    noise, dropout = jax.random.split(key)
    again = len(nets.discriminators) > 1 or o.consistency > 0

    def loss(params: Variables) -> tuple[jax.Array, tuple[Metrics, Variables]]:
        params = {**learned.params, **params}
        made, rest = _make(nets, params, learned.rest, x, noise, again)
        judged, _ = _judge(nets, params, rest, made, dropout)
        losses = maker_losses(judged)
        value = jnp.sum(jnp.stack(list(losses.values())))
        if o.consistency:
            losses["consistency"] = consistency(made)
            value = (1 - o.consistency) * value + o.consistency * losses["consistency"]
        return value, (losses, rest)

    moving = {name: learned.params[name] for name in _MAKERS}
    gradient, (losses, rest) = jax.grad(loss, has_aux=True)(moving)
    return _moved(o, learned, _MAKERS, gradient, rest), losses


def _make(
    nets: Networks, params: Variables, rest: Variables, x: jax.Array, key: jax.Array, again: bool
) -> tuple[Made, Variables]:
    """As encoder and generator train; they drop nothing out, and z is from N(0, 1)."""
    z = jax.random.normal(key, (len(x), nets.sizes.latent))
    code, rest = nets.apply("encoder", params, rest, x, key)
    sample, rest = nets.apply("generator", params, rest, z, key)
    if not again:
        return Made(x, z, code, sample), rest
    x_again, _ = nets.apply("generator", params, rest, code, key)
    z_again, _ = nets.apply("encoder", params, rest, sample, key)
    return Made(x, z, code, sample, x_again, z_again), rest


def _judge(
    nets: Networks, params: Variables, rest: Variables, made: Made, key: jax.Array
) -> tuple[Judgements, Variables]:
    """As the discriminators train, each batch of pairs with its own statistics and dropout."""
    judged = {}
    for i, name in enumerate(nets.discriminators):
        first, second = jax.random.split(jax.random.fold_in(key, i))
        real, other = made.pairs(name)
        of_real, rest = nets.apply(name, params, rest, real, first)
        of_other, rest = nets.apply(name, params, rest, other, second)
        judged[name] = of_real, of_other
    return judged, rest


def _moved(
    o: Options, learned: _Learned, names: tuple[str, ...], gradient: Variables, rest: Variables
) -> _Learned:
    """What is learned once the networks of these names have moved against their gradient."""
    params, opt_state = dict(learned.params), dict(learned.opt_state)
    for name in names:
        updates, opt_state[name] = optimizer(o).update(gradient[name], opt_state[name])
        params[name] = optax.apply_updates(params[name], updates)
    return _Learned(params, rest, opt_state)


def _distance(one: jax.Array, other: jax.Array) -> jax.Array:
    """The L1 distance of each of N, summed over all else."""
    return jnp.sum(jnp.abs(one - other).reshape(len(one), -1), axis=1)
