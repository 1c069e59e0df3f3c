"""What every autoencoder shares: gradient, optimiser, members, statistics, penalty, random keys."""

import re
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cae_jax import methods
from cae_jax.methods.autoencoder import Options, reconstructor, steps
from cae_jax.methods.gradients import optimizer
from cae_jax.types import Reconstruction, State, UsageError

FITS = {"patch_size": 16, "stride": 8}  # an image of 24 pixels


def close(found, expected, rtol=1e-5):
    """Trees equal up to float32 rounding, measured by the size of each leaf."""

    def leaf(a, b):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * np.abs(b).max() + 1e-12)

    jax.tree.map(leaf, found, expected)


def numbers(state: State):
    return state.step, state.variables, state.opt_state


class Normed(nn.Module):
    """A model with batch statistics."""

    channels: int = 1
    patch_size: int = 8

    @nn.compact
    def __call__(self, x, train=False):
        y = nn.BatchNorm(not train, momentum=0.75, name="norm")(x)
        return Reconstruction(nn.Conv(1, (3, 3), name="conv")(y), {})


class Penalized(nn.Module):
    """A model whose every output is 0 and whose penalty is known."""

    channels: int = 1
    patch_size: int = 8

    @nn.compact
    def __call__(self, x, train=False):
        weight = self.param("weight", nn.initializers.constant(0.5), ())
        return Reconstruction(0 * x, {"penalty": weight**2 * x.max(axis=(1, 2, 3))})


class Random(nn.Module):
    """A model that drops pixels and adds noise while it trains; `seen` is told each call's key."""

    channels: int = 1
    patch_size: int = 8
    seen: Callable = lambda key: None

    @nn.compact
    def __call__(self, x, train=False):
        y = nn.Dropout(0.5, deterministic=not train)(x)
        if train:
            key = self.make_rng("noise")
            jax.debug.callback(self.seen, jax.random.key_data(key))
            y = y + 0.1 * jax.random.normal(key, y.shape)
        return Reconstruction(nn.Conv(1, (3, 3), name="conv")(y), {})


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_a_step_is_adam_on_the_gradient_of_the_mean(rng, tiny_model, tiny_state, chunk_size):
    """By any chunks, also of 3 that do not divide 7, the step is that of the whole batch."""
    patches = rng.random((7, 8, 8, 1), np.float32)
    learn = steps(tiny_model, optimizer(1e-2, 1e-3), chunk_size)
    state = tiny_state(learn, 1)
    params = state.variables["params"]

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        output = tiny_model.apply({"params": params}, patches).output
        return jnp.sum((output - patches) ** 2) / patches.size

    value, gradient = loss(params)
    decayed = jax.tree.map(lambda g, p: g + 1e-3 * p, gradient, params)
    adam = optax.adam(1e-2)
    updates, moments = adam.update(decayed, adam.init(params), params)
    after, metrics = jax.jit(learn.step)(state, patches)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    # Adam's first step is the gradient's sign: only the moments hold its size
    close(after.opt_state[1], moments)
    close(after.variables, {"params": optax.apply_updates(params, updates)}, rtol=1e-4)
    assert after.step == 1
    assert after.key == state.key


def numpy_adam(p, gradient, steps, rate, decay, decoupled):
    """PyTorch's Adam(weight_decay=decay), or AdamW's decay where decoupled."""
    m = v = np.zeros_like(p)
    for t in range(1, steps + 1):
        g = gradient(p) + (0 if decoupled else decay * p)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        move = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        p = p - rate * (move + (decay * p if decoupled else 0))
    return p


@pytest.mark.parametrize("decoupled", [False, True])
def test_weight_decay(rng, decoupled):
    target, start = rng.standard_normal((2, 6))

    def gradient(p):
        return 0.05 * (p - target)  # small: a decay of 0.3 shows

    expected = numpy_adam(start, gradient, 20, 0.1, 0.3, decoupled)
    other = numpy_adam(start, gradient, 20, 0.1, 0.3, not decoupled)
    assert np.abs(expected - other).max() > 0.1
    tx = optimizer(0.1, 0.3, decoupled)
    params = jnp.asarray(start)
    state = tx.init(params)
    for _ in range(20):
        updates, state = tx.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, expected, rtol=1e-4, atol=1e-5)


def test_init_starts_at_step_0_with_its_key(tiny_model):
    learn = steps(tiny_model, optimizer(1e-2, 0))
    key = jax.random.key(5, impl="rbg")
    state = jax.jit(learn.init)(key)
    assert state.step == 0
    assert state.key == key
    kernels = [state.variables["params"][name]["kernel"] for name in ("encoder", "decoder")]
    assert [kernel.shape for kernel in kernels] == [(3, 3, 1, 4), (4, 4, 4, 1)]
    assert all(np.unique(kernel).size == kernel.size for kernel in kernels)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))


def test_the_loss_falls(rng, tiny_model, tiny_state):
    patches = np.ones((1, 8, 8, 1), np.float32) * rng.random((16, 1, 1, 1), np.float32)
    learn = steps(tiny_model, optimizer(1e-2, 1e-5))
    state, step = tiny_state(learn, 0), jax.jit(learn.step)
    losses = []
    for _ in range(60):
        state, metrics = step(state, patches)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.1 * losses[0]
    assert state.step == 60


def test_members_under_vmap_are_members_alone(rng, tiny_model, tiny_state):
    learn = steps(tiny_model, optimizer(1e-2, 1e-3), 100)
    states = [tiny_state(learn, seed) for seed in (3, 4)]
    patches = rng.random((2, 5, 8, 8, 1), np.float32)
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    step, both = jax.jit(learn.step), jax.jit(jax.vmap(learn.step))
    for _ in range(2):
        together, losses = both(together, patches)
        alone = [step(state, part) for state, part in zip(states, patches, strict=True)]
        states = [state for state, _ in alone]
    for member in range(2):
        found = jax.tree.map(lambda leaf, i=member: leaf[i], together)
        close(numbers(found), numbers(states[member]), rtol=1e-4)
        assert (jax.random.key_data(found.key) == jax.random.key_data(states[member].key)).all()
        np.testing.assert_allclose(losses["loss"][member], alone[member][1]["loss"], rtol=1e-5)
    assert losses["loss"][0] != losses["loss"][1]


def test_a_reconstruction_is_of_its_patch_alone(rng, tiny_model, tiny_state):
    variables = tiny_state(steps(tiny_model, optimizer(1e-3, 0)), 0).variables
    patches = rng.random((5, 8, 8, 1), np.float32)
    reconstruct = jax.jit(reconstructor(tiny_model))
    together = np.asarray(reconstruct(variables, patches).output)
    for i, patch in enumerate(patches):
        alone = reconstruct(variables, patch[None]).output[0]
        np.testing.assert_allclose(together[i], alone, rtol=1e-5, atol=1e-6)
    others = rng.random(patches.shape, np.float32)
    others[2] = patches[2]
    np.testing.assert_array_equal(reconstruct(variables, others).output[2], together[2])


def test_batch_statistics_move_in_training_alone(rng):
    """The running mean takes a quarter of the whole batch's mean, whatever the chunk size."""
    learn = steps(Normed(), optimizer(1e-2, 0), chunk_size=2)
    state = jax.jit(learn.init)(jax.random.key(0, impl="rbg"))
    patches = 3 + 2 * rng.random((6, 8, 8, 1), np.float32)
    kernel = np.asarray(state.variables["params"]["conv"]["kernel"])
    after, _ = jax.jit(learn.step)(state, patches)
    moved = after.variables["batch_stats"]["norm"]
    np.testing.assert_allclose(moved["mean"], [0.25 * patches.mean()], rtol=1e-5)
    np.testing.assert_allclose(moved["var"], [0.75 + 0.25 * patches.var()], rtol=1e-4)
    assert np.abs(np.asarray(after.variables["params"]["conv"]["kernel"]) - kernel).min() > 1e-3
    # judging uses the statistics, and a patch's neighbors do not matter
    reconstruct = jax.jit(reconstructor(Normed()))
    alone = reconstruct(after.variables, patches[:1]).output
    close(alone, reconstruct(after.variables, patches).output[:1])


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_a_penalty_is_added_to_the_loss_of_its_patch(rng, chunk_size):
    learn = steps(Penalized(), optax.sgd(0.1), chunk_size)
    state = learn.init(jax.random.key(0))
    patches = rng.random((5, 8, 8, 1), np.float32)
    highest = patches.max(axis=(1, 2, 3)).mean()
    expected = np.square(patches).mean() + 0.25 * highest
    after, metrics = jax.jit(learn.step)(state, patches)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(
        learn.validate(state.variables, patches)["loss"], expected, rtol=1e-5
    )
    # d/dw of w^2 m is 2 w m = m at w = 0.5
    np.testing.assert_allclose(after.variables["params"]["weight"], 0.5 - 0.1 * highest, rtol=1e-5)


def test_validate_is_the_mean_squared_error(rng, tiny_model, tiny_state):
    learn = steps(tiny_model, optimizer(1e-3, 0), 2)
    variables = tiny_state(learn, 0).variables
    patches = rng.random((3, 8, 8, 1), np.float32)
    output = np.asarray(jax.jit(tiny_model.apply)(variables, patches).output)
    expected = np.mean(np.square(output.astype(np.float64) - patches))
    found = jax.jit(learn.validate)(variables, patches)["loss"]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("precision", "wanted"), [("float32", "HIGHEST"), ("tf32", "HIGH"), ("bfloat16", "DEFAULT")]
)
def test_products_are_asked_for_in_that_precision(rng, tiny_model, tiny_state, precision, wanted):
    """Of the forward pass and of both gradients, as XLA is told; a CPU knows float32 alone."""
    learn = steps(tiny_model, optimizer(1e-2, 1e-3), precision=precision)
    patches = rng.random((2, 8, 8, 1), np.float32)
    lowered = jax.jit(learn.step).lower(tiny_state(learn, 1), patches).as_text()
    products = re.findall(r"stablehlo\.(?:convolution|dot_general).*", lowered)
    assert len(products) >= 4
    for product in products:
        found = set(re.findall(r"precision (\w+)>|precision = \[(\w+)", product))
        assert {name for pair in found for name in pair if name} == {wanted}, product


def test_bfloat16_rounds_the_model_and_nothing_else(rng, tiny_model, tiny_state):
    patches = rng.random((6, 8, 8, 1), np.float32)
    ends = {}
    for precision in ("float32", "bfloat16"):
        learn = steps(tiny_model, optimizer(1e-2, 1e-3), precision=precision)
        state = tiny_state(learn, 1)
        output = reconstructor(tiny_model, precision)(state.variables, patches).output
        state, metrics = jax.jit(learn.step)(state, patches)
        assert {leaf.dtype for leaf in jax.tree.leaves(state.variables)} == {np.dtype("f")}
        assert output.dtype == metrics["loss"].dtype == np.float32
        ends[precision] = output, float(metrics["loss"])
    (exact, loss), (rounded, other) = ends["float32"], ends["bfloat16"]
    error = np.abs(exact - rounded).max() / np.abs(exact).max()
    assert 1e-4 < error < 2e-2  # bfloat16 keeps 8 bits
    assert other == pytest.approx(loss, rel=2e-2)
    assert other != loss


def test_bfloat16_leaves_running_statistics_in_float32(rng):
    learn = steps(Normed(), optimizer(1e-2, 0.0), precision="bfloat16")
    state, patches = learn.init(jax.random.key(0)), rng.random((6, 8, 8, 1), np.float32)
    after, _ = jax.jit(learn.step)(state, patches)
    mean = after.variables["batch_stats"]["norm"]["mean"]
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, 0.25 * patches.mean((0, 1, 2)), rtol=1e-2)


def test_random_keys_are_of_the_step_and_of_the_chunk(rng):
    keys = []
    model = Random(seen=lambda key: keys.append(tuple(np.asarray(key).tolist())))
    learn = steps(model, optimizer(1e-2, 0), chunk_size=2)
    state = learn.init(jax.random.key(0, impl="rbg"))
    assert not keys  # nothing random is asked for before training
    patches, step = rng.random((5, 8, 8, 1), np.float32), jax.jit(learn.step)
    for _ in range(2):
        state, _ = step(state, patches)
    jax.effects_barrier()
    assert len(keys) == len(set(keys)) == 2 * 3  # chunks of 2, 2 and 1


def test_the_same_state_takes_the_same_step(rng):
    learn = steps(Random(), optimizer(1e-2, 0), chunk_size=2)
    state, patches = learn.init(jax.random.key(0, impl="rbg")), rng.random((4, 8, 8, 1), "f")
    step = jax.jit(learn.step)
    one, same = step(state, patches), step(state, patches)
    jax.tree.map(np.testing.assert_array_equal, numbers(one[0]), numbers(same[0]))
    assert one[1]["loss"] == same[1]["loss"]
    later = state._replace(step=state.step + 1)
    other = state._replace(key=jax.random.key(1, impl="rbg"))
    losses = {float(step(start, patches)[1]["loss"]) for start in (state, later, other)}
    assert len(losses) == 3


def test_scoring_is_not_random(rng):
    """A model with dropout and noise is judged without either, and needs no key for it."""
    learn = steps(Random(), optimizer(1e-2, 0))
    state, patches = learn.init(jax.random.key(0)), rng.random((3, 8, 8, 1), np.float32)
    state, _ = jax.jit(learn.step)(state, patches)
    conv = nn.Conv(1, (3, 3)).apply({"params": state.variables["params"]["conv"]}, patches)
    found = jax.jit(reconstructor(Random()))(state.variables, patches).output
    np.testing.assert_allclose(found, conv, rtol=1e-5, atol=1e-6)
    loss = jax.jit(learn.validate)(state.variables, patches)["loss"]
    np.testing.assert_allclose(loss, np.mean(np.square(conv - patches)), rtol=1e-5)


def test_random_members_under_vmap_are_members_alone(rng):
    """Also with keys of rbg, whose numbers under vmap are not those of a member alone."""
    learn = steps(Random(), optimizer(1e-2, 0), chunk_size=2)
    states = [learn.init(jax.random.key(seed, impl="rbg")) for seed in (3, 4)]
    patches = rng.random((2, 3, 8, 8, 1), np.float32)
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    _, found = jax.jit(jax.vmap(learn.step))(together, patches)
    step = jax.jit(learn.step)
    alone = [step(s, x)[1]["loss"] for s, x in zip(states, patches, strict=True)]
    np.testing.assert_allclose(found["loss"], alone, rtol=1e-5)


def test_the_options_make_the_method(rng):
    small = Options(**FITS, model_options="decoder=mirror", loss="l1")
    method = methods.build("autoencoder", small, 24, 1)
    assert method is methods.build("autoencoder", small, 24, 1)
    assert method.distances == ("l2", "l1", "ssim")
    assert (method.learn.patch_size, method.learn.best_by) == (16, "loss")
    images = jax.ShapeDtypeStruct((2, 24, 24, 1), np.float32)
    variables = jax.eval_shape(method.learn.init, jax.random.key(0)).variables
    evidence = jax.eval_shape(method.inspect, variables, images)
    assert {maps.shape for maps in evidence.maps.values()} == {(2, 24, 24)}
    assert evidence.reconstruction.shape == images.shape
    assert methods.label("autoencoder", small) == "bergmann-l1"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model": "bergman", **FITS}, "unknown model 'bergman': did you mean bergmann"),
        ({"patch_size": 32, "stride": 8}, "--patch_size=32 is outside 1..24"),
        ({"patch_size": 16}, "--stride=30 is outside 1..16"),
        ({"batch_size": 8, "num_patches": 7}, "--batch_size=8 is larger than --num_patches=7"),
        ({"whole_image": True, "stride": 5}, "--stride=5: --whole_image takes one patch"),
        ({"model_options": "decoder", **FITS}, "--model_options=decoder: expected name=value"),
        ({"corruption_strength": 0.3, **FITS}, "--corruption_strength=0.3: --corruption=none"),
        ({"corruption": "salt", **FITS}, "--corruption 'salt': did you mean salt_pepper?"),
        (
            {"code": 9, "model": "gong", **FITS},
            "--code=9: gong has no option of that name; it is for bergmann, chow, oh_yun, vanilla",
        ),
        ({"code": 9, "model_options": "code=8", **FITS}, "--model_options has a code too"),
        ({"model_options": "code=-8", **FITS}, "a code of -8 numbers: must be 0"),
    ],
)
def test_options_that_cannot_work(flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        methods.build("autoencoder", Options(**flags), 24, 1)
