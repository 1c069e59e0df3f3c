"""A variational autoencoder (Kingma and Welling 2014, arXiv 1312.6114).

The baseline that Bergmann et al. 2018 (arXiv 1807.02011) compare their autoencoder with: the same
convolutions, of which the last gives a mean and a log-variance of every latent number. Encoder and
decoder are that paper's table, see `bergmann`; nothing here is printed in the thesis.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from cae_jax.models.bergmann import ENCODER, MIRROR
from cae_jax.models.layers.table import Row, Table
from cae_jax.types import Reconstruction, UsageError

_SHRINK = 16  # pixels of a patch to one of the map before the latent


class Model(nn.Module):
    """Bergmann's network with a latent distribution: 1,253,449 parameters (one channel, 128 px).

    With beta 1 the loss is the negative evidence lower bound of images whose pixels have a noise of
    variance 1, where they reach from 0 to 1; in general of variance beta. A larger beta leaves
    out more of what differs between patches. "l2" is the loss that this holds for.
    """

    channels: int = 1
    patch_size: int = 128
    latent: int = 100
    beta: float = 1.0

    def tables(self) -> dict[str, tuple[Row, ...]]:
        """Returns the rows; raises UsageError for a patch size that is no multiple of 16, a latent
        or a beta that cannot work."""
        if self.patch_size < _SHRINK or self.patch_size % _SHRINK:
            raise UsageError(
                f"vae takes patches of a multiple of {_SHRINK} pixels, not {self.patch_size}"
            )
        if self.latent < 1 or self.beta < 0:
            raise UsageError(
                f"vae takes a latent of 1 or more and a beta of 0 or more, not {self.latent} and "
                f"{self.beta}"
            )
        side = self.patch_size // _SHRINK
        *convolutions, last = (
            row._replace(printed=(), printed_padding=None, note="") for row in ENCODER
        )
        return {
            "encoder": (*convolutions, last._replace(kernel=side, features=2 * self.latent)),
            "latent": (Row("Sample", "sample", self.latent),),
            "decoder": (MIRROR[0]._replace(kernel=side, stride=side), *MIRROR[1:]),
        }

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> Reconstruction:
        """Patches [N, p, p, C] -> Reconstruction; aux: penalty [N].

        The latent is drawn while training, by the random key "sample", and the mean otherwise. The
        penalty is beta times the divergence, times 2 / (p p C): the bound's squared errors, halved
        and summed, are then the mean that the loss is.
        """
        tables = self.tables()
        with jax.named_scope("encode"):
            moments = Table(tables["encoder"], self.channels, name="encoder")(x, train)
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        z = mean
        if train:
            noise = jax.random.normal(self.make_rng("sample"), mean.shape, mean.dtype)
            z = mean + jnp.exp(log_variance / 2) * noise
        with jax.named_scope("decode"):
            output = Table(tables["decoder"], self.channels, name="decoder")(z, train)
        scale = 2 * self.beta / (self.patch_size**2 * self.channels)
        return Reconstruction(output, {"penalty": scale * divergence(mean, log_variance)})


def divergence(mean: jax.Array, log_variance: jax.Array) -> jax.Array:
    """Returns the Kullback-Leibler divergence of N(mean, exp(log_variance)) from N(0, 1).

    Kingma and Welling 2014, appendix B: the mean square, plus the variance, less its logarithm and
    1, halved and summed over all axes but the first.

    Args:
      mean: [N, ...].
      log_variance: of the same shape.

    Returns:
      [N], in nats.
    """
    each = jnp.square(mean) + jnp.exp(log_variance) - log_variance - 1
    return jnp.sum(each.reshape(len(each), -1), axis=1) / 2
