"""EfficientAD-style distillation against loops in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cae_jax import methods
from cae_jax.methods import distilled
from cae_jax.methods.distilled import Options, hard_mean, jittered, merged, quantiles, scaled
from cae_jax.methods.features import aligned
from cae_jax.models.efficient_ad import Autoencoder, Student
from cae_jax.training import loop
from cae_jax.types import UsageError

KEY = jax.random.key(0)
SIDE = 16
FLAGS = {"width": 2, "num_patches": 4, "epochs": 20}
KERNEL = np.random.default_rng(1).normal(size=(3, 6)).astype("f")


def extract(variables, images):
    """Six channels on a 4 x 4 grid."""
    return {"only": jnp.abs(images[:, ::4, ::4] @ KERNEL)}


@pytest.fixture(scope="module")
def method():
    found = aligned(extract, {}, SIDE, 3)
    return distilled.of_features(Options(**FLAGS), found, (SIDE, SIDE, 3))


@pytest.fixture(scope="module")
def step(method):
    return jax.jit(method.learn.step)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).random((4, SIDE, SIDE, 3), np.float32)


def shapes(network, side):
    image = jax.ShapeDtypeStruct((1, side, side, 3), np.float32)
    made, variables = jax.eval_shape(lambda x: network.init_with_output(KEY, x), image)
    kernels = {name: layer["kernel"].shape for name, layer in variables["params"].items()}
    return made.shape, kernels


def test_the_students_layers_are_the_papers():
    made, kernels = shapes(Student(384, (64, 64)), 256)
    assert made == (1, 64, 64, 384)
    assert kernels == {
        "conv1": (4, 4, 3, 128),
        "conv2": (4, 4, 128, 256),
        "conv3": (3, 3, 256, 256),
        "output": (4, 4, 256, 384),
    }


def test_the_autoencoders_layers_are_the_papers():
    """From 8 x 8 maps a dense layer is the paper's convolution of 8 x 8 pixels."""
    made, kernels = shapes(Autoencoder(384, (56, 56)), 256)
    assert made == (1, 56, 56, 384)
    down = [kernels[f"down{i}"][2:] for i in range(1, 6)]
    assert down == [(3, 32), (32, 32), (32, 64), (64, 64), (64, 64)]
    assert kernels["code"] == (8 * 8 * 64, 64)
    assert {kernels[f"up{i}"] for i in range(1, 5)} == {(4, 4, 64, 64)}
    assert (kernels["last"], kernels["output"]) == ((3, 3, 64, 64), (3, 3, 64, 384))


@pytest.mark.parametrize(("side", "grid"), [(20, 3), (20, 5), (36, 9), (36, 3), (64, 8), (64, 16)])
def test_both_end_on_the_teachers_grid(side, grid):
    for network in (Student(7, (grid, grid), 2), Autoencoder(7, (grid, grid))):
        assert shapes(network, side)[0] == (1, grid, grid, 7)


@pytest.mark.parametrize(
    ("shape", "quantile"),
    [((3, 4, 5, 7), 0.5), ((2, 10, 10, 10), 0.999), ((1, 7, 11, 13), 1.0), ((2, 1, 1, 1), 0.0)],
)
def test_the_hardest_errors(rng, shape, quantile):
    errors = rng.random(shape, np.float32)
    each = []
    for one in errors.astype(float):
        each.append(one[one >= np.quantile(one, quantile)].mean())
    np.testing.assert_allclose(hard_mean(errors, quantile), np.mean(each), rtol=1e-5)


def test_a_thousand_and_one_errors(rng):
    """The quantile falls on an error, to which rounding must add none."""
    errors = rng.permutation(1001).astype("f").reshape(1, 7, 11, 13)
    assert hard_mean(errors, 0.999) == np.mean([999, 1000])


def test_statistics_of_batches_are_those_of_all(rng):
    maps = [rng.normal(3, 2, (n, 3, 5, 4)).astype("f") for n in (2, 1, 4)]
    seen = {"images": jnp.zeros(()), "mean": jnp.zeros(4), "variance": jnp.zeros(4)}
    for some in maps:
        seen = merged(seen, some)
    every = np.concatenate(maps).reshape(-1, 4).astype(float)
    assert seen["images"] == 7
    np.testing.assert_allclose(seen["mean"], every.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(seen["variance"], every.var(axis=0), rtol=1e-5)


def test_maps_are_scaled_by_their_quantiles(rng):
    maps = rng.gamma(2.0, 3.0, (3, 7, 9)).astype("f")
    low, high = np.quantile(maps, 0.9), np.quantile(maps, 0.995)
    found = scaled(maps, quantiles(maps))
    np.testing.assert_allclose(found, 0.1 * (maps - low) / (high - low), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_jittered_as_torchvision_does(rng, channels):
    """Each is one of three changes by one factor from 0.8 to 1.2."""
    images = rng.uniform(0.3, 0.7, (24, 5, 6, channels)).astype("f")
    found = np.asarray(jittered(images, KEY), float)
    kinds = set()
    for one, other in zip(images.astype(float), found, strict=True):
        luma = one @ [0.299, 0.587, 0.114] if channels == 3 else one[..., 0]
        abouts = {"brightness": 0.0, "contrast": luma.mean(), "saturation": luma[..., None]}
        if channels == 1:
            abouts.pop("saturation")
            if np.allclose(one, other):
                continue
        for kind, about in abouts.items():
            away = one - about
            factor = np.sum((other - about) * away) / np.sum(away**2)
            if np.allclose(other, about + factor * away, atol=1e-5):
                kinds.add(kind)
                assert 0.8 <= factor <= 1.2
                break
        else:
            pytest.fail("no change that is known")
    assert kinds == set(abouts)


def test_jittered_images_stay_in_range():
    assert jittered(np.ones((9, 2, 2, 3), np.float32), KEY).max() == 1


def said_by(method, variables, images):
    """Teacher, the student's halves and autoencoder, each by itself, in float64."""
    nets = method.inspect.args[0]
    seen, params = variables["batch_stats"]["teacher"], variables["params"]
    c = nets.teacher.channels
    teacher = np.abs(images[:, ::4, ::4].astype(float) @ KERNEL)
    deviation = np.sqrt(np.asarray(seen["variance"], float))
    x = (images - 0.45) / 0.225
    student = np.asarray(nets.student.apply({"params": params["student"]}, x), float)
    imagined = np.asarray(nets.autoencoder.apply({"params": params["autoencoder"]}, x), float)
    return (teacher - seen["mean"]) / deviation, student[..., :c], student[..., c:], imagined


def test_maps_of_given_weights(method, step, images):
    state, _ = step(loop.fresh_state(method.learn, 0), images[:2])
    ends = {"student": jnp.array([1.0, 3.0]), "autoencoder": jnp.array([0.5, 0.75])}
    variables = {**state.variables, "batch_stats": {**state.variables["batch_stats"], "maps": ends}}
    found = jax.jit(method.inspect)(variables, images).maps
    teacher, said, imitated, imagined = said_by(method, variables, images)
    student = np.mean((teacher - said) ** 2, axis=-1)
    apart = np.mean((imagined - imitated) ** 2, axis=-1)
    np.testing.assert_allclose(found["student"], student, rtol=1e-3)
    np.testing.assert_allclose(found["autoencoder"], apart, rtol=1e-3)
    both = 0.1 * (student - 1) / 2 + 0.1 * (apart - 0.5) / 0.25
    np.testing.assert_allclose(found["combined"], both / 2, rtol=1e-3, atol=1e-4)


def test_the_loss_is_the_sum_of_three(method, step, images):
    state, _ = step(loop.fresh_state(method.learn, 0), images[:2])
    found = jax.jit(method.learn.validate)(state.variables, images)
    teacher, said, imitated, imagined = said_by(method, state.variables, images)
    wrong = (teacher - said) ** 2
    hard = [one[one >= np.quantile(one, 0.999)].mean() for one in wrong]
    expected = {
        "student_loss": np.mean(hard),
        "autoencoder_loss": np.mean((teacher - imagined) ** 2),
        "imitation_loss": np.mean((imagined - imitated) ** 2),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-3, err_msg=name)
    np.testing.assert_allclose(found["loss"], sum(expected.values()), rtol=1e-3)


def test_statistics_gather_in_the_first_epoch_alone(method, step, images):
    """Of four steps; afterwards the teacher's channels stand still."""
    state = loop.fresh_state(method.learn, 0)
    for i in range(6):
        state, _ = step(state, images[i % 4][None])
        if i == 3:
            first = state.variables["batch_stats"]["teacher"]
    seen = state.variables["batch_stats"]["teacher"]
    teacher = np.abs(images[:, ::4, ::4].astype(float) @ KERNEL)
    assert seen["images"] == 4
    for one, other in zip(first.values(), seen.values(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(seen["mean"], teacher.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen["variance"], teacher.var(axis=(0, 1, 2)), rtol=1e-3)


def test_quantiles_are_means_of_the_last_steps(method, step, images):
    """Of 80 steps the last four: 76 to 79. Before, they are those of the last step alone."""
    state = loop.fresh_state(method.learn, 0)
    each = []
    for at in (10, 76, 77, 78):
        state = state._replace(step=jnp.asarray(at, jnp.int32))
        before = state.variables["params"]
        nets = method.inspect.args[0]
        state, _ = step(state, images[:1])
        x = (images[:1] - 0.45) / 0.225
        student = nets.student.apply({"params": before["student"]}, x)
        imagined = nets.autoencoder.apply({"params": before["autoencoder"]}, x)
        apart = np.mean(np.square(imagined - student[..., nets.teacher.channels :]), axis=-1)
        each.append(np.quantile(apart.astype(float), [0.9, 0.995]))
        found = state.variables["batch_stats"]["maps"]["autoencoder"]
        expected = each[-1] if at <= 76 else np.mean(each[1:], axis=0)
        np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_the_rate_falls_to_a_tenth():
    """Adam's step of a steady gradient is as long as the rate: of 80 steps 76 long ones."""
    o = Options(**FLAGS, learning_rate=0.01, weight_decay=0.0)
    tx, params, path = distilled.optimizer(o), {"x": jnp.zeros(())}, []
    state = tx.init(params)
    update = jax.jit(tx.update)
    for _ in range(80):
        moved, state = update({"x": jnp.ones(())}, state, params)
        params = optax.apply_updates(params, moved)
        path.append(float(moved["x"]))
    np.testing.assert_allclose(path[:76], -0.01, rtol=1e-3)
    np.testing.assert_allclose(path[76:], -0.001, rtol=1e-3)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"width": 0}, "--width=0: must be at least 1"),
        ({"hardest": 1.1}, "--hardest=1.1: must be from 0 to 1"),
        ({"batch_size": 9}, "--batch_size=9 is larger than --num_patches=4"),
        ({"stages": "40@8"}, "--stages=40@8: --features=filter_bank has none"),
    ],
)
def test_bad_options(flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        methods.build("distilled", Options(features="filter_bank", **(FLAGS | flags)), SIDE, 1)
