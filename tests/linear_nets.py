"""A generator and a discriminator of which every step can be done by hand."""

import flax.linen as nn


class Scaled(nn.Module):
    """A generator that is its latent vector times a number."""

    channels: int = 1
    patch_size: int = 8
    latent: int = 64

    @nn.compact
    def __call__(self, z, train=False):
        return self.param("scale", nn.initializers.constant(0.5), ()) * z.reshape(-1, 8, 8, 1)


class Linear(nn.Module):
    """A discriminator or critic whose gradient is the same everywhere, and whose features are half
    its input."""

    @nn.compact
    def __call__(self, x, train=False):
        flat = x.reshape(len(x), -1)
        w = self.param("w", nn.initializers.normal(0.3), flat.shape[1:])
        return flat @ w, flat / 2
