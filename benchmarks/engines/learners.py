"""What other libraries take to learn the same: a pair of calls, and how far apart they end."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import production
from benchmarks.engines.graphs import apart
from cae_jax.methods import feature_autoencoder, features, gmm_texture, mixtures, variation_model
from cae_jax.models.dfr import FeatureAutoencoder
from cae_jax.runs.config import Config
from cae_jax.types import UsageError

_ROUNDS = 20  # of EM
_VECTORS, _STEPS, _COMPARED = 20_000, 200, 10
_MASKED = 0.3  # share of an image that is taken for a defect


class Pair(NamedTuple):
    """The same work, by us and by another library."""

    what: str
    engine: str
    ours: Callable[[], object]  # waited for
    theirs: Callable[[], object]
    apart: float  # largest difference of what is compared, over its largest value
    compared: str
    each: int = 1  # how often a call does `what`


def _variation_model(s: Config, n: int) -> Pair:
    """Both references of n images, by NumPy."""
    images = production.images_of(s, n)
    robust = s.options.mode == "robust"
    fit = jax.jit(variation_model.robust if robust else variation_model.standard)

    def theirs() -> tuple[np.ndarray, np.ndarray]:
        if not robust:
            return images.mean(0), images.std(0)
        middle = np.median(images, axis=0)
        return middle, 1.4826 * np.median(np.abs(images - middle), axis=0)

    def ours() -> tuple[jax.Array, jax.Array]:
        return jax.block_until_ready(fit(images))

    off = max(apart(mine, other) for mine, other in zip(ours(), theirs(), strict=True))
    return Pair(f"fit to {n} images", "numpy", ours, theirs, off, "both references")


def _gmm_texture(s: Config, n: int) -> Pair:
    """EM from one start on one level's patches of n images, by scikit-learn."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    o = s.options
    if o.covariance != "full":
        raise UsageError(f"--covariance={o.covariance}: full ones are compared")
    of_filters, of_samples, of_start = jax.random.split(jax.random.key(s.seed), 3)
    filters = gmm_texture.projection(of_filters, o.patch, s.channels, o.dimensions)
    x = gmm_texture.sampled(of_samples, production.images_of(s, n), filters, 1, o)[0]
    x = (x - jnp.mean(x, axis=0)) / jnp.std(x)
    floor = o.variance_floor
    start = mixtures.start(of_start, x, o.components, o.covariance, floor)
    fit = jax.jit(lambda x: mixtures.fit(start, x, mixtures.Rounds(_ROUNDS, 0.0, floor)))
    inverse = np.asarray(mixtures.inverses(start))
    vectors = np.asarray(x)

    def ours() -> mixtures.Mixture:
        return jax.block_until_ready(fit(x))

    def theirs() -> GaussianMixture:
        found = GaussianMixture(
            o.components,
            **{"tol": 0.0, "reg_covar": floor, "max_iter": _ROUNDS},
            **{"weights_init": np.asarray(start.weights), "means_init": np.asarray(start.means)},
            precisions_init=inverse.swapaxes(1, 2) @ inverse,
        )
        with warnings.catch_warnings():  # it took all rounds, as it should
            warnings.simplefilter("ignore", ConvergenceWarning)
            return found.fit(vectors)

    off = apart(ours().means, theirs().means_)
    what = f"{_ROUNDS} rounds of EM, {len(vectors)} patches"
    return Pair(what, "scikit-learn", ours, theirs, off, "means")


def _feature_autoencoder(s: Config, n: int) -> Pair:
    """Steps of Adam on the same features from the same weights, by torch; n is not looked at."""
    import torch

    from benchmarks.engines import torch_vectors

    o = s.options
    c = features.extractor(o, s.image_size, s.channels, slice(1, 3)).channels
    network = FeatureAutoencoder(c, o.latent or round(0.4 * c))
    o = s.changed(train_steps=_STEPS).options
    vectors = np.random.default_rng(s.seed).standard_normal((_VECTORS, c), np.float32)
    key = jax.random.key(s.seed)
    learn = jax.jit(lambda x, key: feature_autoencoder.learned(network, o, x, key)[1])
    of_weights, of_steps = jax.random.split(key)
    start = network.init(of_weights, vectors[:1])
    keys = jax.random.split(of_steps, _STEPS)
    drawn = jax.vmap(lambda k: jax.random.randint(k, (o.batch_size,), 0, len(vectors)))(keys)
    batches, whole = torch.from_numpy(np.array(drawn)), torch.from_numpy(vectors)

    def ours() -> jax.Array:
        return jax.block_until_ready(learn(vectors, key))

    def theirs() -> list[float]:
        return torch_vectors.losses(start["params"], whole, batches, o.learning_rate)

    off = apart(ours()[:_COMPARED], np.array(theirs()[:_COMPARED]))
    compared = f"losses of {_COMPARED} steps"
    return Pair(f"step of {o.batch_size} vectors", "torch", ours, theirs, off, compared, _STEPS)


def _draem(s: Config, n: int) -> Pair:
    """A training step of n images' crops beside anomalib's DRAEM, which is handed images with
    anomalies in them and makes none."""
    from benchmarks.engines import anomalib_draem

    ready = production.training(s, n)
    twin = anomalib_draem.Twin(s, ready.variables)
    x = ready.images[: s.options.batch_size]
    masks = np.random.default_rng(s.seed).random((len(x), *x.shape[1:3])) < _MASKED
    made, logits = twin.networks(x)
    ours = anomalib_draem.ours(s, ready.variables, x)
    off = max(apart(ours[0], made), apart(ours[1], logits))

    def theirs() -> float:
        return twin.step(x, masks)

    what = f"step of {len(x)} images"
    return Pair(what, "anomalib", ready.call, theirs, off, "both networks' output")


PAIRS: dict[str, Callable[[Config, int], Pair]] = {
    "variation_model": _variation_model,
    "gmm_texture": _gmm_texture,
    "feature_autoencoder": _feature_autoencoder,
    "draem": _draem,
}
NEEDED = {  # what each needs installed
    **{"variation_model": ("numpy",), "gmm_texture": ("sklearn",)},
    **{"feature_autoencoder": ("torch",), "draem": ("torch", "anomalib")},
}
