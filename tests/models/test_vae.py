"""The variational autoencoder: its divergence by integrals, what is random, and its table."""

import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from cae_jax import models
from cae_jax.methods import autoencoder, gradients
from cae_jax.models.layers.table import costs
from cae_jax.models.vae import Model, divergence
from cae_jax.types import UsageError

SIDE = 32


def divergence_by_integral(mean, variance):
    """Of N(mean, variance) from N(0, 1), with SciPy's densities."""
    q, p = stats.norm(mean, math.sqrt(variance)), stats.norm()
    ends = mean - 10 * math.sqrt(variance), mean + 10 * math.sqrt(variance)
    return integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), *ends)[0]


def drawn(model, shape):
    """Variables by NumPy, which compiles nothing, at about the scale of fresh ones."""
    rng = np.random.default_rng(1)
    leaves = jax.eval_shape(model.init, jax.random.key(0), np.zeros(shape, "f"))
    return jax.tree.map(
        lambda leaf: rng.normal(0, 1.4 / math.sqrt(math.prod(leaf.shape[:-1])), leaf.shape).astype(
            "f"
        ),
        leaves,
    )


@pytest.fixture(scope="module")
def small():
    """A model of few latent numbers, its variables and patches."""
    model = models.build("vae", 1, SIDE, {"latent": "7"})
    x = np.random.default_rng(0).random((4, SIDE, SIDE, 1), np.float32)
    return model, drawn(model, x.shape), x


@functools.partial(jax.jit, static_argnums=0)
def scored(model, variables, x):
    """What the model makes of patches, and the mean and log-variance that its encoder gives."""
    made, kept = model.apply(
        *(variables, x),
        capture_intermediates=lambda module, _: module.name == "encoder",
        mutable=["intermediates"],
    )
    moments = kept["intermediates"]["encoder"]["__call__"][0]
    assert moments.shape == (len(x), 1, 1, 2 * model.latent)
    return made, jnp.split(moments[:, 0, 0], 2, axis=-1)


def test_divergence_by_integrals(rng):
    mean, log_variance = rng.normal(0, 1.5, (2, 3, 1, 2, 2)).astype("f")
    expected = [
        sum(
            divergence_by_integral(float(m), math.exp(v))
            for m, v in zip(mean[n].flat, log_variance[n].flat, strict=True)
        )
        for n in range(3)
    ]
    np.testing.assert_allclose(jax.jit(divergence)(mean, log_variance), expected, rtol=1e-5)
    np.testing.assert_allclose(divergence(0 * mean, 0 * mean), 0, atol=1e-7)


@pytest.mark.parametrize(("channels", "beta"), [(1, 1.0), (3, 0.25)])
def test_the_penalty_is_the_bounds_in_the_unit_of_the_loss(rng, channels, beta):
    """2 beta / D times the divergence: then D / (2 beta) times the loss is the negative bound, but
    for a constant, of images whose pixels have a noise of variance beta."""
    model = Model(channels, 16, latent=3, beta=beta)
    x = rng.random((2, 16, 16, channels), np.float32)
    made, (mean, log_variance) = scored(model, drawn(model, x.shape), x)
    assert (made.output.shape, made.aux["penalty"].shape) == (x.shape, (2,))
    mean, variance = np.asarray(mean, float), np.exp(np.asarray(log_variance, float))
    size = 16 * 16 * channels
    for n in range(2):
        nats = sum(divergence_by_integral(m, v) for m, v in zip(mean[n], variance[n], strict=True))
        np.testing.assert_allclose(made.aux["penalty"][n], 2 * beta / size * nats, rtol=1e-4)
        noise = stats.norm(np.asarray(made.output[n]), math.sqrt(beta))
        bound = noise.logpdf(x[n]).sum() - nats
        constant = -size / 2 * math.log(2 * math.pi * beta)
        loss = np.square(np.asarray(made.output[n], float) - x[n]).mean() + made.aux["penalty"][n]
        np.testing.assert_allclose(-size / (2 * beta) * loss + constant, bound, rtol=1e-4)


def test_it_is_random_by_its_key_while_it_trains_and_not_otherwise(small):
    model, variables, x = small
    train = jax.jit(lambda key: model.apply(variables, x, train=True, rngs={"sample": key}))
    one, same, other = (train(jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(one.output, same.output)
    assert np.abs(one.output - other.output).max() > 1e-3
    np.testing.assert_array_equal(one.aux["penalty"], other.aux["penalty"])
    judged = scored(model, variables, x)[0].output  # no key is given
    assert np.abs(one.output - judged).max() > 1e-3


def test_the_latent_has_the_mean_and_the_variance_that_the_encoder_gives(small):
    """What the decoder is given, 4,000 times for one patch."""
    model, variables, x = small
    _, (mean, log_variance) = scored(model, variables, x)

    def latent(train, **how):
        given = []

        def look(function, args, kwargs, context):
            if context.module.name == "decoder":
                given.append(args[0])
            return function(*args, **kwargs)

        with nn.intercept_methods(look):
            model.apply(variables, x, train, **how)
        return given[0][:, 0, 0]

    keys = jax.random.split(jax.random.key(5), 4000)
    found = jax.jit(jax.vmap(lambda key: latent(True, rngs={"sample": key})[0]))(keys)
    deviation = np.exp(np.asarray(log_variance[0]) / 2)
    np.testing.assert_allclose((found.mean(axis=0) - mean[0]) / deviation, 0, atol=0.08)
    np.testing.assert_allclose(found.std(axis=0) / deviation, 1, rtol=0.06)
    np.testing.assert_allclose(jax.jit(lambda: latent(False))(), mean, rtol=1e-4, atol=1e-6)


def test_the_table_is_the_module():
    for channels, side, options, parameters in [
        (1, 128, {}, 1_253_449),
        (3, 32, {"latent": "20"}, None),
    ]:
        model = models.build("vae", channels, side, options)
        patch = jax.ShapeDtypeStruct((1, side, side, channels), np.float32)
        params = jax.eval_shape(model.init, jax.random.key(0), patch)["params"]
        shape, total = (side, side, channels), 0
        for rows in model.tables().values():
            for cost in costs(rows, shape, channels):
                shape, total = cost.output, total + cost.parameters
        assert shape == (side, side, channels)
        assert total == sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        assert parameters in (None, total)


def test_the_loss_falls(rng):
    model = models.build("vae", 1, SIDE, {})
    learn = autoencoder.steps(model, gradients.optimizer(1e-3, 0.0))
    ramp = np.linspace(0, 1, SIDE, dtype=np.float32)
    tilt = rng.random((6, 1, 1, 1), np.float32)
    patches = tilt * ramp[:, None, None] + (1 - tilt) * ramp[None, :, None]
    state = jax.jit(learn.init)(jax.random.key(3, impl="rbg"))
    step, losses = jax.jit(learn.step), []
    while len(losses) < 150 and (not losses or losses[-1] > 0.6 * losses[0]):
        state, metrics = step(state, patches)
        losses.append(float(metrics["loss"]))
    assert losses[-1] <= 0.6 * losses[0]
    assert np.isfinite(float(jax.jit(learn.validate)(state.variables, patches)["loss"]))


@pytest.mark.parametrize(
    ("patch_size", "options", "message"),
    [
        (40, {}, "vae takes patches of a multiple of 16 pixels, not 40"),
        (8, {}, "vae takes patches of a multiple of 16 pixels, not 8"),
        (16, {"latent": "0"}, "vae takes a latent of 1 or more"),
        (16, {"beta": "-1"}, "a beta of 0 or more, not 100 and -1.0"),
        (16, {"bata": "1"}, "unknown option of vae 'bata': did you mean beta?"),
    ],
)
def test_options_that_cannot_work(patch_size, options, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        models.build("vae", 1, patch_size, options)
