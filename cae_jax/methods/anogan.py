"""AnoGAN: a GAN learns good patches, and at test time each patch's latent vector is searched for.

Schlegl et al., "Unsupervised anomaly detection with generative adversarial networks to guide
marker discovery", IPMI 2017 (arXiv 1703.05921). What the generator cannot make, however long one
searches, is a defect.

A training step moves the discriminator, then the generator, as a DCGAN's. Scoring a patch x takes
`--search_steps` steps of Adam on z, which minimise the paper's score

    A(x) = (1 - lambda) sum |x - G(z)| + lambda sum |f(x) - f(G(z))|,

sums over pixels and over the features f before the discriminator's last layer, lambda being
`--feature_weight`. The networks stay as they are, batch norm by its running statistics. Every
search starts from the same z, and goes on image by image: rounding, which hundreds of steps make
large, is then the same in every batch.

The defaults are IPMI 2017's search and MVTec's training (Bergmann et al., CVPR 2019: 50 epochs of
10,000 crops, Adam 2e-4); rates of the search, which IPMI 2017 leaves out, are those of Zenati
et al.'s code (arXiv 1802.06222). They ask for a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

from cae_jax.methods import adversarial, descent, gradients
from cae_jax.methods.adversarial import Learned, cross_entropy, signed, with_params
from cae_jax.methods.options.anogan import Options
from cae_jax.models.dcgan import Discriminator, Generator, levels
from cae_jax.scoring import patches, reconstruction, residuals
from cae_jax.scoring.options import DISTANCES
from cae_jax.scoring.reconstruction import Inspect, Reconstruct
from cae_jax.training import schedule
from cae_jax.types import Evidence, Method, Metrics, Reconstruction, Size, State, Steps, Variables

# "stepped": of the steps, how many are done before the rate falls to which share of the first
_STEPPED = {2 / 5: 0.1, 3 / 5: 0.05}
_BETA = 0.5  # Adam's first one in training, as DCGANs have it
_START = 0  # seeds the latent vectors that searches start from, whatever the run's seed is


class Networks(NamedTuple):
    """The two networks, and the precision that they are applied in."""

    generator: nn.Module
    discriminator: nn.Module
    precision: str = "float32"

    def apply(
        self, name: str, variables: Variables, x: jax.Array, train: bool = False
    ) -> tuple[Any, Variables]:
        """Applies the network of that name, see `adversarial.apply`."""
        network = getattr(self, name)
        return adversarial.apply(network, name, self.precision, variables, x, train)


def make(options: Options, size: Size, channels: int) -> Method:
    """Returns the method for images [B, *size, channels]; raises UsageError.

    Its own distance "anogan" is the map |x - G(z)| on the 0..255 scale, summed over the channels,
    and the number of `score`, of an image's worst patch. "l2" is the map of CVPR 2019.
    """
    o = options
    schedule.check(o)
    levels(o.patch_size)
    reconstruction.check(o, size)
    nets = networks(o, channels)
    learn = descent.averaged(steps(nets, o), o)
    return Method(learn, inspector(nets, o, size), ("anogan", *DISTANCES))


def networks(o: Options, channels: int) -> Networks:
    """Returns the networks of these options."""
    return Networks(
        Generator(channels, o.patch_size, o.width, o.latent),
        Discriminator(o.patch_size, o.width),
        o.precision,
    )


def draw(prior: str, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Returns latent vectors of a prior of PRIORS: U(-1, 1), N(0, 1), or the latter drawn anew
    where it is beyond 2."""
    match prior:
        case "uniform":
            return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
        case "normal":
            return jax.random.normal(key, shape)
    return jax.random.truncated_normal(key, -2.0, 2.0, shape)


def steps(nets: Networks, o: Options) -> Steps:
    """Returns how the networks learn: in each step the discriminator, then the generator.

    Losses are cross-entropies, the generator's the one that does not saturate: -log D(G(z)).
    Metrics are both, how often the discriminator is right on crops and on generated ones, and how
    these differ among themselves, see `adversarial.spread`. Nothing is validated; the last state is
    the one to keep.
    """
    tx = descent.guided(optax.adam(o.learning_rate, b1=_BETA), o, o.steps)

    def init(key: jax.Array) -> State:
        size, channels = nets.generator.patch_size, nets.generator.channels
        image = jnp.zeros((1, size, size, channels))
        samples = {"generator": jnp.zeros((1, o.latent)), "discriminator": image}
        named = {name: getattr(nets, name) for name in samples}
        return adversarial.init(named, samples, dict.fromkeys(samples, tx), key)

    def step(state: State, crops: jax.Array) -> tuple[State, Metrics]:
        x, learned = signed(crops), Learned(state.variables, state.opt_state)
        for_one, for_other = (
            draw(o.z_prior, key, (len(x), o.latent))
            for key in jax.random.split(gradients.step_key(state))
        )
        learned, metrics = _train_discriminator(nets, tx, learned, x, for_one)
        learned, loss = _train_generator(nets, tx, learned, for_other)
        return State(state.step + 1, state.key, *learned), {**metrics, "generator_loss": loss}

    def validate(variables: Variables, crops: jax.Array) -> Metrics:
        return {}

    return Steps(init, gradients.within(o.precision, step), validate, o.patch_size, best_by="")


def _train_discriminator(
    nets: Networks, tx: optax.GradientTransformation, learned: Learned, x: jax.Array, z: jax.Array
) -> tuple[Learned, Metrics]:
    """A step on crops and generated ones, each normalised as a batch of its own."""
    variables = learned.variables
    made, _ = nets.apply("generator", variables, z, train=True)

    def loss(params: Any) -> tuple[jax.Array, tuple[Metrics, Variables]]:
        changed = with_params(variables, "discriminator", params)
        (of_x, _), stats = nets.apply("discriminator", changed, x, train=True)
        changed = {**changed, "batch_stats": stats}
        (of_made, _), stats = nets.apply("discriminator", changed, made, train=True)
        value = jnp.mean(cross_entropy(of_x, True)) + jnp.mean(cross_entropy(of_made, False))
        metrics = {
            "discriminator_loss": value,
            "accuracy_on_crops": jnp.mean((of_x > 0).astype(jnp.float32)),
            "accuracy_on_generated": jnp.mean((of_made < 0).astype(jnp.float32)),
            **adversarial.spread(made, x),
        }
        return value, (metrics, stats)

    params = variables["params"]["discriminator"]
    gradient, (metrics, stats) = jax.grad(loss, has_aux=True)(params)
    return adversarial.moved(tx, learned, "discriminator", gradient, stats), metrics


def _train_generator(
    nets: Networks, tx: optax.GradientTransformation, learned: Learned, z: jax.Array
) -> tuple[Learned, jax.Array]:
    """A step against the discriminator, whose running statistics stay as they are."""

    def loss(params: Any) -> tuple[jax.Array, Variables]:
        changed = with_params(learned.variables, "generator", params)
        made, stats = nets.apply("generator", changed, z, train=True)
        (of_made, _), _ = nets.apply("discriminator", changed, made, train=True)
        return jnp.mean(cross_entropy(of_made, True)), stats

    params = learned.variables["params"]["generator"]
    (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    return adversarial.moved(tx, learned, "generator", gradient, stats), value


def rates(o: Options) -> optax.Schedule:
    """Returns the learning rate of each step of a search."""
    if o.search_schedule == "constant":
        return optax.constant_schedule(o.search_rate)
    bounds = [round(share * o.search_steps) for share in _STEPPED]
    parts = [optax.constant_schedule(o.search_rate * f) for f in (1.0, *_STEPPED.values())]
    return optax.join_schedules(parts, bounds)


def search(loss: Callable[[jax.Array], jax.Array], start: jax.Array, o: Options) -> jax.Array:
    """Minimises by `o.search_steps` steps of Adam, all of them in one compiled loop.

    Args:
      loss: latent vectors [N, latent] -> [N], each of its vector alone.
      start: [N, latent].
      o: how many steps, at which rates.

    Returns:
      The last vectors [N, latent]: each is what a search for it alone would have found.
    """
    tx = optax.adam(rates(o))

    def step(carry: tuple[jax.Array, Any], _: None) -> tuple[tuple[jax.Array, Any], None]:
        z, opt_state = carry
        gradient = jax.grad(lambda z: jnp.sum(loss(z)))(z)
        updates, opt_state = tx.update(gradient, opt_state)
        return (z + updates, opt_state), None

    return lax.scan(step, (start, tx.init(start)), length=o.search_steps)[0][0]


def score(
    x: jax.Array, made: jax.Array, of_x: jax.Array, of_made: jax.Array, feature_weight: float
) -> jax.Array:
    """Returns the paper's anomaly score A(x) of each patch, which its search minimises.

    Sums, not means: with means, pixels and features would weigh by their number.

    Args:
      x: patches [N, p, p, C] in [-1, 1].
      made: G(z), of the same shape.
      of_x: the discriminator's features [N, F] of x.
      of_made: of made.
      feature_weight: lambda, in [0, 1].

    Returns:
      float32 [N].
    """
    of_pixels = jnp.sum(jnp.abs(x - made), axis=(1, 2, 3))
    of_features = jnp.sum(jnp.abs(of_x - of_made), axis=1)
    return (1 - feature_weight) * of_pixels + feature_weight * of_features


def starts(o: Options) -> jax.Array:
    """Returns where the searches for any patch start, [restarts, latent]."""
    return draw(o.z_prior, jax.random.key(_START, impl="threefry2x32"), (o.restarts, o.latent))


def reconstructor(nets: Networks, o: Options) -> Reconstruct:
    """Returns (variables, patches [N, p, p, C] in [0, 1]) -> Reconstruction G(z) of the z found,
    aux "score" [N]."""

    def reconstruct(variables: Variables, patches: jax.Array) -> Reconstruction:
        n, x = len(patches), jnp.tile(signed(patches), (o.restarts, 1, 1, 1))
        of_x = jnp.tile(nets.apply("discriminator", variables, x[:n])[0][1], (o.restarts, 1))

        def tried(z: jax.Array) -> tuple[jax.Array, jax.Array]:
            made, _ = nets.apply("generator", variables, z)
            (_, of_made), _ = nets.apply("discriminator", variables, made)
            return score(x, made, of_x, of_made, o.feature_weight), made

        with jax.named_scope("search"):
            z = search(lambda z: tried(z)[0], jnp.repeat(starts(o), n, axis=0), o)
        scores, made = tried(z)
        best = jnp.argmin(scores.reshape(o.restarts, n), axis=0) * n + jnp.arange(n)
        return Reconstruction((made[best] + 1) / 2, {"score": scores[best]})

    return gradients.within(o.precision, reconstruct)


def inspector(nets: Networks, o: Options, size: Size) -> Inspect:
    """Returns (variables, images [B, *size, C]) -> Evidence, see `make`."""
    own = {"anogan": functools.partial(residuals.residual_map, "l1")}
    together = patches.number(size, o.stride)  # an image's patches are one search
    of_some = reconstruction.by_patches(reconstructor(nets, o), o, together, own)

    def inspect(variables: Variables, images: jax.Array) -> Evidence:
        found = lax.map(lambda image: of_some(variables, image[None]), images)
        evidence: Evidence = jax.tree.map(lambda leaf: leaf[:, 0], found)
        return evidence

    return inspect
