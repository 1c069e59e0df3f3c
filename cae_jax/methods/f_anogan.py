"""f-AnoGAN: a Wasserstein GAN learns good patches, then an encoder learns to invert its generator.

Schlegl et al., "f-AnoGAN: Fast unsupervised anomaly detection with generative adversarial
networks", Medical Image Analysis 54, 2019; numbers that the paper leaves out are the authors'
code's (tSchlegl/f-AnoGAN). What the generator cannot make is a defect.

A training step is one batch. At first it moves the critic, and every `--critic_steps`-th time the
generator after it; in the last `--encoder_epochs` epochs it moves the encoder alone. The defaults
are those of MVTec AD's journal paper (Bergmann et al., IJCV 2021): 100 epochs of the GAN, and
50,000 steps of the encoder, which are 320 epochs of 156 steps of 64 of 10,000 crops. They ask for a
GPU. The code mirrors images by chance and turns none; `--augment` is ours to choose.

Where members train under vmap, every step computes both phases and keeps one.
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
from cae_jax.methods.adversarial import Learned, signed, with_params
from cae_jax.methods.options.f_anogan import Options
from cae_jax.models.wgan import Critic, Encoder, Generator, depth
from cae_jax.scoring import reconstruction, residuals
from cae_jax.scoring.options import DISTANCES
from cae_jax.scoring.reconstruction import Reconstruct
from cae_jax.training import schedule
from cae_jax.types import Method, Metrics, Reconstruction, Size, State, Steps, UsageError, Variables

# Of a step: 0 where it is the other phase's. The first five are of the GAN: the critic's and the
# generator's loss, how far the critic tells crops from generated ones (an estimate of their
# Wasserstein distance), its gradient penalty, and how generated crops differ among themselves,
# beside how real ones do: a collapsed generator makes them all alike.
METRICS = (
    *("critic_loss", "generator_loss", "critic_distance", "gradient_penalty"),
    *("sample_variance", "crop_variance", "encoder_loss"),
)
_TINY = 1e-12  # under a root, whose slope at 0 is infinite


class Networks(NamedTuple):
    """The three networks, and the precision that they are applied in."""

    generator: nn.Module
    critic: nn.Module
    encoder: nn.Module
    precision: str = "float32"

    def apply(
        self, name: str, variables: Variables, x: jax.Array, train: bool = False
    ) -> tuple[Any, Variables]:
        """Applies the network of that name.

        Args:
          name: of the three.
          variables: {"params": ..., "batch_stats": ...}, each by network.
          x: what it takes.
          train: whether it normalises by the batch's statistics.

        Returns:
          What it gives, and all networks' batch statistics as it moves them, if it trains.
        """
        network = getattr(self, name)
        return adversarial.apply(network, name, self.precision, variables, x, train)


def make(options: Options, size: Size, channels: int) -> Method:
    """Returns the method for images [B, *size, channels]; raises UsageError.

    Its own distance "izi_f" is the map |x - G(E(x))| on the 0..255 scale, summed over the channels,
    and the number of `score`, of an image's worst patch.
    """
    o = options
    schedule.check(o)
    if o.encoder_epochs >= o.epochs:
        raise UsageError(
            f"--encoder_epochs={o.encoder_epochs}: must be less than --epochs={o.epochs}, of which "
            "the first ones train the GAN"
        )
    depth(o.patch_size)
    reconstruction.check(o, size)
    nets = networks(o, channels)
    own = {"izi_f": functools.partial(residuals.residual_map, "l1")}
    inspect = reconstruction.by_patches(reconstructor(nets, o.kappa), o, own=own)
    return Method(descent.averaged(steps(nets, o), o), inspect, ("izi_f", *DISTANCES))


def networks(o: Options, channels: int) -> Networks:
    """Returns the networks of these options."""
    return Networks(
        Generator(channels, o.patch_size, o.width, o.latent),
        Critic(o.patch_size, o.width),
        Encoder(o.patch_size, o.width, o.latent, o.z_activation),
        o.precision,
    )


def optimizers(o: Options) -> dict[str, optax.GradientTransformation]:
    """Returns what moves each network: Adam with betas 0 and 0.9, the encoder RMSProp.

    The latter as TensorFlow 1 has it, in which the authors wrote: its mean square starts at 1.
    """
    adam = optax.adam(o.learning_rate, b1=0.0, b2=0.9)
    rmsprop = optax.rmsprop(o.encoder_learning_rate, decay=0.9, eps=1e-10, initial_scale=1.0)
    of_gan, of_encoder = o.gan_steps, o.steps - o.gan_steps
    return {
        "generator": descent.guided(adam, o, of_gan // o.critic_steps),
        "critic": descent.guided(adam, o, of_gan),
        "encoder": descent.guided(rmsprop, o, of_encoder),
    }


def steps(nets: Networks, o: Options) -> Steps:
    """Returns how the networks learn: `o.gan_steps` steps of the GAN, then those of the encoder.

    A step's metrics are METRICS, on images in [-1, 1]. `validate` gives the encoder's loss, which
    says little before the encoder has learned. The last state is the one to keep: adversarial
    losses do not fall towards the best one.
    """

    def init(key: jax.Array) -> State:
        size, channels = nets.generator.patch_size, nets.generator.channels
        image = jnp.zeros((1, size, size, channels))
        samples = {"generator": jnp.zeros((1, o.latent)), "critic": image, "encoder": image}
        networks = {name: getattr(nets, name) for name in samples}
        return adversarial.init(networks, samples, optimizers(o), key)

    def step(state: State, crops: jax.Array) -> tuple[State, Metrics]:
        x, learned = signed(crops), Learned(state.variables, state.opt_state)
        learned, metrics = lax.cond(
            state.step < o.gan_steps,
            functools.partial(_train_gan, nets, o),
            functools.partial(_train_encoder, nets, o),
            *(learned, x, gradients.step_key(state), state.step),
        )
        return State(state.step + 1, state.key, *learned), metrics

    def validate(variables: Variables, crops: jax.Array) -> Metrics:
        x = signed(crops)
        made, _ = _inverted(nets, variables, x)
        return {"loss": jnp.mean(score(nets, variables, x, made, o.kappa))}

    step, validate = (gradients.within(o.precision, f) for f in (step, validate))
    return Steps(init, step, validate, o.patch_size, best_by="")


def reconstructor(nets: Networks, kappa: float) -> Reconstruct:
    """Returns (variables, patches [N, p, p, C] in [0, 1]) -> Reconstruction G(E(x)), aux "score"
    [N]."""

    def reconstruct(variables: Variables, patches: jax.Array) -> Reconstruction:
        x = signed(patches)
        made, _ = _inverted(nets, variables, x)
        return Reconstruction((made + 1) / 2, {"score": score(nets, variables, x, made, kappa)})

    return gradients.within(nets.precision, reconstruct)


def score(
    nets: Networks, variables: Variables, x: jax.Array, made: jax.Array, kappa: float
) -> jax.Array:
    """Returns the paper's anomaly score A(x) of each patch, whose mean the encoder minimises.

    The mean square of x - G(E(x)) over pixels and channels, plus kappa times that of f(x) -
    f(G(E(x))) over the features f before the critic's last layer ("izi_f"; means and not sums, or
    kappa would mean something else at every size).

    Args:
      nets: the networks.
      variables: theirs.
      x: patches [N, p, p, C] in [-1, 1].
      made: G(E(x)), of the same shape.
      kappa: the weight of the features.

    Returns:
      float32 [N].
    """
    (_, features), _ = nets.apply("critic", variables, jnp.concatenate([x, made]))
    of_x, of_made = jnp.split(features, 2)
    of_pixels = jnp.mean(jnp.square(x - made), axis=(1, 2, 3))
    return of_pixels + kappa * jnp.mean(jnp.square(of_x - of_made), axis=1)


def gradient_penalty(
    critic: Callable[[jax.Array], jax.Array], x: jax.Array, made: jax.Array, key: jax.Array
) -> jax.Array:
    """Returns the mean of (|gradient of the critic at y| - 1)^2, y at random between x and made.

    Gulrajani et al. 2017 (arXiv 1704.00028), eq. 3 without its weight: y is uniform on the straight
    line between the two patches of a pair, the norm is over all pixels and channels of a patch.

    Args:
      critic: patches [N, p, p, C] -> [N], each of its patch alone.
      x: real patches.
      made: generated ones, of the same shape.
      key: of the draw.
    """
    share = jax.random.uniform(key, (len(x), 1, 1, 1))
    slopes = jax.grad(lambda y: jnp.sum(critic(y)))(x + share * (made - x))
    norms = jnp.sqrt(jnp.sum(jnp.square(slopes), axis=(1, 2, 3)) + _TINY)
    return jnp.mean(jnp.square(norms - 1))


def _train_gan(
    nets: Networks, o: Options, learned: Learned, x: jax.Array, key: jax.Array, step: jax.Array
) -> tuple[Learned, Metrics]:
    """A step of the critic, and every critic_steps-th time one of the generator."""
    noise, line, again = jax.random.split(key, 3)
    variables = learned.variables
    made, _ = _generated(nets, variables, len(x), noise)

    def loss(params: Any) -> tuple[jax.Array, Metrics]:
        changed = with_params(variables, "critic", params)

        def critic(y: jax.Array) -> jax.Array:
            return nets.apply("critic", changed, y)[0][0]

        of_x, of_made = jnp.split(critic(jnp.concatenate([x, made])), 2)
        distance = jnp.mean(of_x) - jnp.mean(of_made)
        penalty = gradient_penalty(critic, x, made, line)
        value = o.gradient_penalty * penalty - distance
        return value, _metrics(
            critic_loss=value,
            generator_loss=-jnp.mean(of_made),
            critic_distance=distance,
            gradient_penalty=penalty,
            **adversarial.spread(made, x),
        )

    (_, metrics), gradient = jax.value_and_grad(loss, has_aux=True)(variables["params"]["critic"])
    learned = _moved(o, learned, "critic", gradient, variables["batch_stats"])
    learned = lax.cond(
        (step + 1) % o.critic_steps == 0,
        functools.partial(_train_generator, nets, o, len(x)),
        lambda learned, _: learned,
        *(learned, again),
    )
    return learned, metrics


def _train_generator(
    nets: Networks, o: Options, n: int, learned: Learned, key: jax.Array
) -> Learned:
    def loss(params: Any) -> tuple[jax.Array, Variables]:
        changed = with_params(learned.variables, "generator", params)
        made, stats = _generated(nets, changed, n, key)
        (of_made, _), _ = nets.apply("critic", changed, made)
        return -jnp.mean(of_made), stats

    gradient, stats = jax.grad(loss, has_aux=True)(learned.variables["params"]["generator"])
    return _moved(o, learned, "generator", gradient, stats)


def _train_encoder(
    nets: Networks, o: Options, learned: Learned, x: jax.Array, key: jax.Array, step: jax.Array
) -> tuple[Learned, Metrics]:
    def loss(params: Any) -> tuple[jax.Array, Variables]:
        changed = with_params(learned.variables, "encoder", params)
        made, stats = _inverted(nets, changed, x, train=True)
        return jnp.mean(score(nets, changed, x, made, o.kappa)), stats

    value_and_grad = jax.value_and_grad(loss, has_aux=True)
    (value, stats), gradient = value_and_grad(learned.variables["params"]["encoder"])
    return _moved(o, learned, "encoder", gradient, stats), _metrics(encoder_loss=value)


def _generated(
    nets: Networks, variables: Variables, n: int, key: jax.Array
) -> tuple[jax.Array, Variables]:
    """n patches made of latent vectors from N(0, 1), as the generator trains."""
    z = jax.random.normal(key, (n, nets.generator.latent))
    return nets.apply("generator", variables, z, train=True)


def _inverted(
    nets: Networks, variables: Variables, x: jax.Array, train: bool = False
) -> tuple[jax.Array, Variables]:
    """G(E(x)), whose encoder alone may train."""
    z, stats = nets.apply("encoder", variables, x, train)
    return nets.apply("generator", variables, z)[0], stats


def _moved(o: Options, learned: Learned, name: str, gradient: Any, stats: Variables) -> Learned:
    return adversarial.moved(optimizers(o)[name], learned, name, gradient, stats)


def _metrics(**known: jax.Array) -> Metrics:
    return {name: known.get(name, jnp.zeros(())) for name in METRICS}
