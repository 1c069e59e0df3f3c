"""The networks of bidirectional GANs: an encoder, a generator, and discriminators of pairs.

As the authors' codes have them: BiGAN as in Zenati et al. 2018 (arXiv 1802.06222,
houssamzenati/Efficient-GAN-Anomaly-Detection, of MNIST's 28 pixels), ALAD as in Zenati et al. 2018b
(arXiv 1812.02288, houssamzenati/Adversarially-Learned-Anomaly-Detection, of CIFAR-10's 32). Images
are in [-1, 1].

Other sizes, ours to choose: maps are halved until their side is that of the paper's smallest one
(8 pixels for BiGAN's 7, 4 for ALAD's), twice at least; each further halving is a copy of the last
row, with twice the channels, up to 512, where the paper's rows double theirs. The generator goes
the encoder's way back. `width` scales all channels and units but those of the latent vector.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cae_jax.models.layers.conv_transpose import conv, conv_transpose
from cae_jax.types import UsageError

_WIDEST = 512  # channels of a row that no paper has, at the paper's width
_TINY = 1e-12


class Layer(NamedTuple):
    """A row of a network's table: what weighs, then a norm, an activation, dropout."""

    op: str  # conv, deconv, dense
    features: int  # at the paper's width; LATENT and CHANNELS stand for what is given
    kernel: int = 1
    stride: int = 1
    norm: bool = False
    activation: str = "leaky"  # leaky, relu, tanh; "" for none
    dropout: bool = False


LATENT, CHANNELS = 0, -1


class Paper(NamedTuple):
    """What a paper's networks are, and the settings that go with them."""

    width: int  # that of the tables
    latent: int
    learning_rate: float
    scale: float  # standard deviation of the initial weights
    slope: float  # of the leaky ReLU
    dropped: float  # share of units
    spectral: bool  # norm of the encoder's and the discriminators' hidden layers
    smallest: int  # side of the smallest map
    encoder: tuple[Layer, ...]  # its rows but the last, which gives the latent vector
    generator: tuple[Layer, ...]  # its dense rows but the last, which gives the smallest map
    image: tuple[Layer, ...]  # of the joint discriminator: the path of x,
    code: tuple[Layer, ...]  # that of z,
    joint: tuple[Layer, ...]  # and what both go through; it ends in the features
    images: tuple[Layer, ...] = ()  # of the discriminator of pairs of images
    codes: tuple[Layer, ...] = ()  # of that of pairs of latent vectors


PAPERS = {
    "bigan": Paper(
        width=32,
        latent=200,
        learning_rate=1e-5,
        scale=0.02,
        slope=0.1,
        dropped=0.5,
        spectral=False,
        smallest=8,
        encoder=(
            Layer("conv", 32, 3, 1, activation=""),
            Layer("conv", 64, 3, 2, norm=True),
            Layer("conv", 128, 3, 2, norm=True),
        ),
        generator=(Layer("dense", 1024, norm=True, activation="relu"),),
        image=(
            Layer("conv", 64, 4, 2, dropout=True),
            Layer("conv", 64, 4, 2, norm=True, dropout=True),
        ),
        code=(Layer("dense", 512, dropout=True),),
        joint=(Layer("dense", 1024, dropout=True),),
    ),
    "alad": Paper(
        width=64,
        latent=100,
        learning_rate=2e-4,
        scale=0.01,
        slope=0.2,
        dropped=0.2,
        spectral=True,
        smallest=4,
        encoder=(
            Layer("conv", 128, 4, 2, norm=True),
            Layer("conv", 256, 4, 2, norm=True),
            Layer("conv", 512, 4, 2, norm=True),
        ),
        generator=(),
        image=(
            Layer("conv", 128, 4, 2),
            Layer("conv", 256, 4, 2, norm=True),
            Layer("conv", 512, 4, 2, norm=True),
        ),
        code=(Layer("dense", 512, dropout=True), Layer("dense", 512, dropout=True)),
        joint=(Layer("dense", 1024, dropout=True),),
        images=(Layer("conv", 64, 5, 2, dropout=True), Layer("conv", 128, 5, 2, dropout=True)),
        codes=(Layer("dense", 64, dropout=True), Layer("dense", 32, dropout=True)),
    ),
}
_IMAGES_SMALLEST = 8  # of the discriminator of pairs of images, at its end


class Sizes(NamedTuple):
    """What all networks of one GAN share."""

    variant: str  # of PAPERS
    channels: int
    patch_size: int
    width: int
    latent: int

    @property
    def paper(self) -> Paper:
        """Where they come from."""
        return PAPERS[self.variant]

    def features(self, layer: Layer) -> int:
        """Returns the channels or units of a row at this width."""
        given = {LATENT: self.latent, CHANNELS: self.channels}
        return given.get(layer.features) or max(1, layer.features * self.width // self.paper.width)


class Judged(NamedTuple):
    """What a discriminator says of N pairs."""

    logits: jax.Array  # [N]: above 0 for pairs of real images, or of equal ones
    features: jax.Array  # [N, F]: what the logits are linear in


def halvings(patch_size: int, smallest: int) -> int:
    """Returns how often a side is halved from `patch_size` to `smallest` pixels, at least 2.

    Raises UsageError where the patch size is no power of two of at least 16.
    """
    if patch_size < 16 or patch_size & (patch_size - 1):
        raise UsageError(
            f"--patch_size={patch_size}: bidirectional GANs take a power of two, 16 or more pixels"
        )
    return max(2, (patch_size // smallest).bit_length() - 1)


def deepened(rows: tuple[Layer, ...], count: int) -> tuple[Layer, ...]:
    """Returns rows of which `count` halve: the first ones, or the last one's copies behind all."""
    kept, strided = [], 0
    for row in rows:
        strided += row.stride == 2
        if strided <= count:
            kept.append(row)
    doubles = rows[-1].features == 2 * rows[-2].features
    for _ in range(count - strided):
        features = min(_WIDEST, 2 * kept[-1].features) if doubles else kept[-1].features
        kept.append(kept[-1]._replace(features=features))
    return tuple(kept)


def spectrally_normed(kernel: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the kernel over its spectral norm, and u after one power iteration.

    Miyato et al. 2018 (arXiv 1802.05957), algorithm 1: the kernel [..., out] is a matrix of its
    last axis against all others; u and v are held fixed where gradients are taken.

    Args:
      kernel: [..., out].
      u: [out], near the matrix's first singular vector on that side once it has been iterated.
    """
    matrix = lax.stop_gradient(kernel).reshape(-1, kernel.shape[-1])
    v = _unit(matrix @ u)
    u = _unit(v @ matrix)
    norm = v @ kernel.reshape(matrix.shape) @ u
    return kernel / norm, u


class Weighted(nn.Module):
    """The part of a row that weighs; "spectral" holds the vectors of the power iteration."""

    layer: Layer
    features: int
    scale: float
    spectral: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, H, W, C] -> [N, H', W', features]; dense rows [N, C] -> [N, features]."""
        side = self.layer.kernel, self.layer.kernel
        shape = (*(side if self.layer.op != "dense" else ()), x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.normal(self.scale), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if self.spectral:
            start = self.variable(
                "spectral", "u", lambda: jax.random.normal(self.make_rng("params"), bias.shape)
            )
            normed, u = spectrally_normed(kernel.astype(jnp.float32), start.value)
            kernel = normed.astype(kernel.dtype)
            if train and self.is_mutable_collection("spectral"):
                start.value = u
        strides = self.layer.stride, self.layer.stride
        match self.layer.op:
            case "conv":
                return conv(x, kernel, strides, "SAME") + bias
            case "deconv":
                return conv_transpose(x, kernel, strides) + bias
        return x @ kernel + bias


class Rows(nn.Module):
    """Rows one after the other; `bare` leaves the spectral norm out, as of a last row."""

    rows: tuple[Layer, ...]
    sizes: Sizes
    bare: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, ...] -> what the last row leaves; a dense row takes a map's points as one vector."""
        paper = self.sizes.paper
        for i, row in enumerate(self.rows, 1):
            x = x.reshape(len(x), -1) if row.op == "dense" else x
            normed = paper.spectral and not self.bare
            features = self.sizes.features(row)
            x = Weighted(row, features, paper.scale, normed, name=f"{row.op}{i}")(x, train)
            if row.norm:  # the defaults of tf.layers, which the authors used
                x = nn.BatchNorm(not train, momentum=0.99, epsilon=1e-3, name=f"norm{i}")(x)
            match row.activation:
                case "leaky":
                    x = nn.leaky_relu(x, paper.slope)
                case "relu":
                    x = nn.relu(x)
                case "tanh":
                    x = jnp.tanh(x)
            if row.dropout:
                x = nn.Dropout(paper.dropped, deterministic=not train)(x)
        return x


class Encoder(nn.Module):
    """From an image to a latent vector; its last row is linear."""

    sizes: Sizes

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, p, p, C] -> [N, latent]; raises UsageError for the patch size."""
        s = self.sizes
        rows = deepened(s.paper.encoder, halvings(s.patch_size, s.paper.smallest))
        x = Rows(rows, s, name="body")(x, train)
        # ALAD's last row is a convolution over the whole map, which is the same
        last = Layer("dense", LATENT, activation="")
        return Rows((last,), s, bare=True, name="output")(x, train)


class Generator(nn.Module):
    """From a latent vector, drawn from N(0, 1), to an image."""

    sizes: Sizes

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False) -> jax.Array:
        """[N, latent] -> [N, p, p, C] in [-1, 1]; raises UsageError for the patch size."""
        s, count = self.sizes, halvings(self.sizes.patch_size, self.sizes.paper.smallest)
        down = [row.features for row in deepened(s.paper.encoder, count) if row.stride == 2]
        side = s.patch_size // 2**count
        bottom = s.features(Layer("dense", down[-1]))
        z = Rows(s.paper.generator, s, bare=True, name="head")(z, train)
        first = Weighted(Layer("dense", 0), side**2 * bottom, s.paper.scale, False, name="map")
        # ALAD's first row is a transposed convolution of one point, which is a dense one, and its
        # norm is of channels; BiGAN's is dense, and its norm of units
        x = first(z, train)
        x = x.reshape(-1, side, side, bottom) if s.variant == "alad" else x
        x = nn.relu(nn.BatchNorm(not train, momentum=0.99, epsilon=1e-3, name="norm")(x))
        up = [Layer("deconv", f, 4, 2, norm=True, activation="relu") for f in down[-2::-1]]
        up.append(Layer("deconv", CHANNELS, 4, 2, activation="tanh"))
        return Rows(tuple(up), s, bare=True, name="body")(x.reshape(-1, side, side, bottom), train)


class Joint(nn.Module):
    """Tells (x, E(x)) from (G(z), z)."""

    sizes: Sizes

    @nn.compact
    def __call__(self, pair: tuple[jax.Array, jax.Array], train: bool = False) -> Judged:
        """([N, p, p, C], [N, latent]) -> Judged; raises UsageError for the patch size."""
        s, (x, z) = self.sizes, pair
        rows = deepened(s.paper.image, halvings(s.patch_size, s.paper.smallest))
        x = Rows(rows, s, name="image")(x, train)
        z = Rows(s.paper.code, s, name="code")(z, train)
        both = jnp.concatenate([x.reshape(len(x), -1), z], axis=-1)
        return _judged(Rows(s.paper.joint, s, name="joint")(both, train), s)


class Images(nn.Module):
    """Tells (x, x) from (x, G(E(x))): the two images' channels side by side.

    The authors' code puts one image below the other, so that no convolution but at the seam sees
    both; the paper speaks of pairs.
    """

    sizes: Sizes

    @nn.compact
    def __call__(self, pair: tuple[jax.Array, jax.Array], train: bool = False) -> Judged:
        """([N, p, p, C], [N, p, p, C]) -> Judged; raises UsageError for the patch size."""
        s = self.sizes
        rows = deepened(s.paper.images, halvings(s.patch_size, _IMAGES_SMALLEST))
        x = Rows(rows, s, name="body")(jnp.concatenate(pair, axis=-1), train)
        return _judged(x.reshape(len(x), -1), s)


class Codes(nn.Module):
    """Tells (z, z) from (z, E(G(z)))."""

    sizes: Sizes

    @nn.compact
    def __call__(self, pair: tuple[jax.Array, jax.Array], train: bool = False) -> Judged:
        """([N, latent], [N, latent]) -> Judged."""
        s = self.sizes
        return _judged(
            Rows(s.paper.codes, s, name="body")(jnp.concatenate(pair, axis=-1), train), s
        )


def networks(sizes: Sizes) -> dict[str, nn.Module]:
    """Returns a variant's networks by name; ALAD has two discriminators more."""
    found: dict[str, nn.Module] = {"encoder": Encoder(sizes), "generator": Generator(sizes)}
    found["joint"] = Joint(sizes)
    if sizes.paper.images:
        found |= {"images": Images(sizes), "codes": Codes(sizes)}
    return found


def _judged(features: jax.Array, sizes: Sizes) -> Judged:
    """What is linear in the features, inside a compact `__call__`."""
    last = Layer("dense", 1, activation="")
    weighted = Weighted(last, 1, sizes.paper.scale, False, name="output")
    return Judged(weighted(features, False)[:, 0], features)


def _unit(x: jax.Array) -> jax.Array:
    return x / (jnp.linalg.norm(x) + _TINY)
