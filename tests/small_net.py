"""A net that compiles at once, for runs whose subject is not the architecture: small_net:Tiny."""

import flax.linen as nn

from cae_jax.types import Reconstruction


class Tiny(nn.Module):
    """One convolution down and one up."""

    channels: int = 1
    patch_size: int = 32

    @nn.compact
    def __call__(self, x, train=False):
        hidden = nn.relu(nn.Conv(4, (3, 3), strides=(2, 2))(x))
        return Reconstruction(nn.ConvTranspose(self.channels, (4, 4), (2, 2))(hidden), {})
