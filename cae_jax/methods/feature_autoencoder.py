"""An autoencoder of good images' features: the thesis's idea on a pretrained network (DFR).

Shi, Yang and Qi, "Unsupervised anomaly segmentation via deep feature reconstruction",
Neurocomputing 2021 (arXiv 2012.07122). What an autoencoder of 1 x 1 convolutions makes of the
features at a point is compared with them there; its code is too small for any but good ones.

The network sees points one by one, so what it learns from is a bag of vectors and not of images.
They are computed once and mixed, and the steps, a few matrix products each, are one compiled loop:
seconds, where a method by steps would compute the features again at each of them. There is no
history for that, and no checkpoint on the way.

As the paper and its code: the layers, batch norm, MSE, Adam, a code as large as the number of
principal components that explain 90 % of the features. That number shapes the network, so it is
fixed before images are seen: two fifths of the channels of a network (Lite0's two middle stages of
three products: 58, 60 and 66 of 152), a seventh of the filters (8 of 56; 9 and 10 of 72).
Different: Adam's steps are ten times as long and a tenth as many, of 256 vectors and not 16,384
(together as long a way as the paper's 700 epochs of 210 images); maps are not enlarged before they
are compared; --residual_smooth, which the paper does not have.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from cae_jax.methods.feature_memory import drawn
from cae_jax.methods.features import Extractor, deviations, extractor, learned_of
from cae_jax.methods.options.feature_autoencoder import Head, Options
from cae_jax.models.dfr import FeatureAutoencoder
from cae_jax.types import Evidence, Method, Size, UsageError, Variables

DISTANCES = ("reconstruction",)
_MIDDLE = slice(1, 3)  # of a network's stages
_CODE, _CODE_OF_FILTERS = 2 / 5, 1 / 7  # of the channels


def make(options: Options, size: Size, channels: int) -> Method:
    """Returns the method for images [B, *size, channels]; raises UsageError."""
    return of_features(options, extractor(options, size, channels, _MIDDLE))


def of_features(o: Head, found: Extractor) -> Method:
    """Returns the method on any features: its map is the squared error, averaged over the channels.

    The variables are the network's "params" and "batch_stats", and "divide" [c] among the params,
    1 for features of a network. Raises UsageError for a code as large as what it stands for.
    """
    share = _CODE_OF_FILTERS if found.uneven else _CODE
    latent = o.latent or max(1, round(share * found.channels))
    if latent >= found.channels:
        raise UsageError(
            f"--latent={latent}: must be less than the {found.channels} channels of the features, "
            "or the autoencoder could copy them"
        )
    network = FeatureAutoencoder(found.channels, latent)

    def fit(found: Extractor, key: jax.Array, images: jax.Array) -> Variables:
        for_points, for_network = jax.random.split(key)
        divide = deviations(found, images)
        vectors = drawn(found, for_points, images, o.candidates) / divide
        variables, _ = learned(network, o, vectors, for_network)
        return {**variables, "params": {"network": variables["params"], "divide": divide}}

    def judge(variables: Variables, features: jax.Array) -> Evidence:
        params = variables["params"]
        x = features / params["divide"]
        of_network = {"params": params["network"], "batch_stats": variables["batch_stats"]}
        error = jnp.square(network.apply(of_network, x) - x)
        return Evidence({"reconstruction": jnp.mean(error, axis=-1)})

    return learned_of(found, fit, judge, DISTANCES)


def learned(
    network: FeatureAutoencoder, o: Head, vectors: jax.Array, key: jax.Array
) -> tuple[Variables, jax.Array]:
    """Returns the network's variables after `o.train_steps` of Adam on the mean squared error.

    Args:
      network: takes [m, c].
      o: how long, and on how many at a time.
      vectors: float32 [m, c], drawn from with replacement.
      key: of the weights and the draws.

    Returns:
      {"params", "batch_stats"}, and the steps' losses, float32 [steps].
    """
    for_weights, for_steps = jax.random.split(key)
    start = network.init(for_weights, vectors[:1])
    tx = optax.adam(o.learning_rate)

    def step(held: tuple, key: jax.Array) -> tuple[tuple, jax.Array]:
        params, statistics, opt_state = held
        x = vectors[jax.random.randint(key, (o.batch_size,), 0, len(vectors))]

        def loss(params: Variables) -> tuple[jax.Array, Variables]:
            variables = {"params": params, "batch_stats": statistics}
            made, moved = network.apply(variables, x, True, mutable=["batch_stats"])
            return jnp.mean(jnp.square(made - x)), moved["batch_stats"]

        (value, statistics), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = tx.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), statistics, opt_state), value

    held = start["params"], start["batch_stats"], tx.init(start["params"])
    keys = jax.random.split(for_steps, o.train_steps)
    (params, statistics, _), losses = jax.lax.scan(step, held, keys)
    return {"params": params, "batch_stats": statistics}, losses
