"""DRAEM: its two networks, what is judged, when it learns slower, and that it learns to segment."""

import dataclasses
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import ndimage

from cae_jax import methods
from cae_jax.methods import draem
from cae_jax.methods.draem import Networks, Options
from cae_jax.types import State, UsageError

SMALL = Options(
    **{"width": 8, "batch_size": 6, "num_patches": 60, "epochs": 10, "learning_rate": 1e-2},
    turned_share=0.0,
)
SIDE = 24


class Subject(NamedTuple):
    """A tiny DRAEM that has learned for a while, made once for all tests of it."""

    method: object
    state: State
    metrics: list
    images: np.ndarray


@pytest.fixture(scope="module")
def subject():
    method = methods.build("draem", SMALL, SIDE, 1)
    rng, ramp = np.random.default_rng(0), np.linspace(0.3, 0.7, SIDE, dtype=np.float32)
    images = ramp[:, None, None] + rng.uniform(-0.1, 0.1, (100, 6, 1, 1, 1)).astype("f")
    images = images + np.zeros((SIDE, 1), np.float32)
    state = jax.jit(method.learn.init)(jax.random.key(3, impl="rbg"))
    step, metrics = jax.jit(method.learn.step), []
    for batch in images:
        state, found = step(state, batch)
        metrics.append(jax.device_get(found))
    return Subject(method, state, metrics, rng.random((3, SIDE, SIDE, 1), np.float32))


def test_what_it_says_of_images(subject):
    """The image's number is the largest mean over 21 x 21 pixels, by SciPy."""
    method, variables, images = subject.method, subject.state.variables, subject.images
    found = jax.jit(method.inspect)(variables, images)
    made, logits = jax.jit(Networks(1, 8, SIDE).apply)(variables, images)
    assert method.distances == ("mask", "l2", "l1", "ssim")
    odds = np.exp(np.asarray(logits, float))
    np.testing.assert_allclose(found.maps["mask"], odds[..., 1] / odds.sum(axis=-1), rtol=1e-3)
    for mask, number in zip(found.maps["mask"], found.numbers["mask"], strict=True):
        mean = ndimage.uniform_filter(np.asarray(mask, float), 21, mode="reflect")
        np.testing.assert_allclose(number, mean.max(), rtol=1e-4)
    assert set(found.numbers) == {"mask"}
    np.testing.assert_allclose(found.reconstruction, made, atol=1e-5)
    error = 255 * np.abs(images - made)[..., 0]
    np.testing.assert_allclose(found.maps["l1"], error, rtol=1e-3, atol=1e-2)


def test_it_learns_to_segment(subject):
    first, *_, last = subject.metrics
    assert last["loss"] < 0.7 * first["loss"]
    late = {k: np.mean([each[k] for each in subject.metrics[-20:]]) for k in first}
    assert late["mask_on_anomalous"] > late["mask_on_good"] + 0.1
    assert 0.005 < late["anomalous_share"] < 0.2
    assert int(subject.state.step) == 100


def test_the_loss_is_the_sum_of_its_terms(subject):
    for each in subject.metrics[::20]:
        terms = [each[f"{name}_loss"] for name in ("l2", "ssim", "focal")]
        np.testing.assert_allclose(each["loss"], sum(terms), rtol=1e-5)


def test_metrics_of_what_is_predicted(rng):
    good = np.zeros((2, 5, 4, 1), np.float32)
    mask, logits = rng.random((2, 5, 4)) > 0.6, rng.normal(size=(2, 5, 4, 2)).astype("f")
    found = draem._terms(good, mask, good + 0.1, logits)
    predicted = np.exp(logits[..., 1]) / np.exp(logits).sum(axis=-1)
    np.testing.assert_allclose(found["anomalous_share"], mask.mean(), rtol=1e-6)
    np.testing.assert_allclose(found["mask_on_anomalous"], predicted[mask].mean(), rtol=1e-5)
    np.testing.assert_allclose(found["mask_on_good"], predicted[~mask].mean(), rtol=1e-5)
    np.testing.assert_allclose(found["l2_loss"], 0.01, rtol=1e-4)
    none = draem._terms(good, mask & False, good, logits)
    assert none["mask_on_anomalous"] == 0


def test_the_segmentation_has_half_the_width_and_sees_both():
    sample = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    shapes = jax.eval_shape(Networks(3, 128, 256).init, jax.random.key(0), sample)["params"]
    kernel = {name: net["down0_1"]["kernel"].shape for name, net in shapes.items()}
    assert kernel == {"reconstruction": (3, 3, 3, 128), "segmentation": (3, 3, 6, 64)}
    depths = [sum(name.endswith("_1") for name in net if "down" in name) for net in shapes.values()]
    assert dict(zip(shapes, depths, strict=True)) == {"reconstruction": 5, "segmentation": 6}
    made = jax.eval_shape(Networks(3, 128, 256).init_with_output, jax.random.key(0), sample)[0]
    assert [each.shape for each in made] == [(1, 256, 256, 3), (1, 256, 256, 2)]


def test_it_learns_slower_towards_the_end():
    """Of a constant gradient Adam moves by the learning rate."""
    o = dataclasses.replace(SMALL, epochs=2, num_patches=60, batch_size=6)
    assert o.steps == 20
    tx, moves = draem.optimizer(o), []
    state = tx.init(jnp.float32(0))
    update = jax.jit(tx.update)
    for _ in range(20):
        move, state = update(jnp.float32(1), state)
        moves.append(float(move))
    expected = [1.0] * 16 + [0.2] * 2 + [0.04] * 2
    np.testing.assert_allclose(moves, -1e-2 * np.array(expected), rtol=1e-4)
    assert isinstance(tx, optax.GradientTransformation)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"patch_size": 7}, "--patch_size=7: must be from 8 to 24 (--image_size=24)"),
        ({"patch_size": 25}, "--patch_size=25: must be from 8 to 24"),
        ({"texture": "noises"}, "--texture 'noises': did you mean noise or images?"),
        ({"width": 1}, "--width=1: must be at least 2"),
    ],
)
def test_flags_that_cannot_be(flags, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        methods.build("draem", dataclasses.replace(SMALL, **flags), SIDE, 1)
