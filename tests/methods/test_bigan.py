"""Bidirectional GANs: their losses, scores and steps by hand, on networks of one number each."""

import dataclasses
import math
import re
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cae_jax import methods, options
from cae_jax.methods import bigan, gradients
from cae_jax.methods.bigan import Networks, Options, cross_entropy
from cae_jax.methods.options.bigan import SCORES
from cae_jax.models.bigan import PAPERS, Judged, Sizes
from cae_jax.types import State, UsageError

SMALL = Options(
    **{"variant": "alad", "epochs": 1, "num_patches": 8, "batch_size": 4, "patch_size": 16},
    **{"stride": 16, "width": 4, "latent": 3, "learning_rate": 1e-3, "ema": 0.9},
)
N, P = 30, 16  # crops of 4 x 4 pixels


class Times(nn.Module):
    """An encoder or a generator that is its input times a number."""

    shape: tuple
    start: float

    @nn.compact
    def __call__(self, x, train=False):
        return self.param("by", nn.initializers.constant(self.start), ()) * x.reshape(self.shape)


class Linear(nn.Module):
    """A discriminator whose features are its pair times w, and whose logit is their sum."""

    @nn.compact
    def __call__(self, pair, train=False):
        both = jnp.concatenate([each.reshape(len(each), -1) for each in pair], axis=1)
        w = self.param("w", nn.initializers.normal(0.3), both.shape[1:])
        return Judged((both * w).sum(axis=1), both * w)


def by_hand(variant, **changes):
    """(networks, resolved options) of which every step can be done by hand."""
    modules = {"encoder": Times((-1, P), 0.8), "generator": Times((-1, 4, 4, 1), 0.5)}
    names = ("joint",) if variant == "bigan" else ("joint", "images", "codes")
    modules |= {name: Linear() for name in names}
    o = dataclasses.replace(SMALL, variant=variant, latent=P, **changes)
    return Networks(modules, Sizes(variant, 1, 4, 1, P)), o


def logs(logits, real):
    """Minus the logarithm of the probability, in float64."""
    return -np.log(1 / (1 + np.exp(-logits if real else logits)))


def judgements(ws, a, b, x, z):
    """The logits of real pairs and of others, by discriminator; G(z) = a z, E(x) = b x."""
    pairs = {
        "joint": ((x, b * x), (a * z, z)),
        "images": ((x, x), (x, a * b * x)),
        "codes": ((z, z), (z, a * b * z)),
    }
    return {
        name: tuple(np.concatenate(pair, axis=1) @ w for pair in pairs[name])
        for name, w in ws.items()
    }


@pytest.mark.parametrize(("variant", "share"), [("bigan", 0.0), ("alad", 0.2)])
def test_a_step_by_hand(variant, share):
    nets, o = by_hand(variant, consistency=share)
    learn = bigan.steps(nets, o)
    state = learn.init(jax.random.key(1))
    crops = np.random.default_rng(1).random((N, 4, 4, 1), np.float32)
    x = (2 * crops.astype(float) - 1).reshape(N, P)
    halves = jax.random.split(gradients.step_key(state))
    z = [np.asarray(jax.random.normal(jax.random.split(k)[0], (N, P)), float) for k in halves]
    after, metrics = jax.jit(learn.step)(state, crops)
    ws = {name: np.asarray(state.variables["params"][name]["w"], float) for name in nets.modules
          if name not in ("encoder", "generator")}  # fmt: skip

    def of_discriminators(ws):
        found = judgements(ws, 0.5, 0.8, x, z[0]).values()
        return sum(logs(real, True).mean() + logs(other, False).mean() for real, other in found)

    np.testing.assert_allclose(metrics["discriminator_loss"], of_discriminators(ws), rtol=1e-4)
    real, other = judgements(ws, 0.5, 0.8, x, z[0])["joint"]
    np.testing.assert_allclose(metrics["real_accuracy"], (real > 0).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["generated_accuracy"], (other < 0).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["crop_variance"], x.var(axis=0).mean(), rtol=1e-4)
    variance = (0.5 * z[0]).var(axis=0).mean()
    np.testing.assert_allclose(metrics["sample_variance"], variance, rtol=1e-4)
    moved = {name: np.asarray(after.variables["params"][name]["w"], float) for name in ws}
    for name, w in ws.items():  # Adam's first moment is half the gradient, its step the sign
        slopes = []
        for i in range(len(w)):
            ends = [{**ws, name: w + d * np.eye(len(w))[i]} for d in (1e-5, -1e-5)]
            slopes.append((of_discriminators(ends[0]) - of_discriminators(ends[1])) / 2e-5)
        found = after.opt_state[name][0].mu["w"]
        np.testing.assert_allclose(found, 0.5 * np.array(slopes), rtol=2e-3, atol=1e-5)
        np.testing.assert_allclose(moved[name] - w, -1e-3 * np.sign(slopes), rtol=2e-2)

    def of_makers(a, b):  # by the discriminators as they have just moved, on z of its own
        found = judgements(moved, a, b, x, z[1])
        total = logs(found["joint"][0], False).mean()
        total += sum(logs(other, True).mean() for _, other in found.values())
        apart = sum(np.abs(each - a * b * each).sum(axis=1).mean() for each in (x, z[1]))
        return (1 - share) * total + share * apart

    slopes = {
        "generator": (of_makers(0.5 + 1e-5, 0.8) - of_makers(0.5 - 1e-5, 0.8)) / 2e-5,
        "encoder": (of_makers(0.5, 0.8 + 1e-5) - of_makers(0.5, 0.8 - 1e-5)) / 2e-5,
    }
    for name, start in (("generator", 0.5), ("encoder", 0.8)):
        found = after.opt_state[name][0].mu["by"]
        np.testing.assert_allclose(found, 0.5 * slopes[name], rtol=2e-3, err_msg=name)
        by = after.variables["params"][name]["by"]
        np.testing.assert_allclose(by, start - 1e-3 * np.sign(slopes[name]), rtol=1e-5)
        np.testing.assert_allclose(
            after.variables["ema"][name]["by"], 0.9 * start + 0.1 * float(by), rtol=1e-6
        )
    if share:
        apart = sum(np.abs(0.6 * each).sum(axis=1).mean() for each in (x, z[1]))
        np.testing.assert_allclose(metrics["consistency"], apart, rtol=1e-4)
    assert ("consistency" in metrics) == bool(share)
    assert after.step == 1


@pytest.mark.parametrize("variant", ["bigan", "alad"])
@pytest.mark.parametrize("kind", SCORES)
def test_the_scores_by_hand(variant, kind, rng):
    """Sums over pixels and features: means would be 16 and 32 times as small, and not by the same.
    They are of the moving averages."""
    nets, o = by_hand(variant, score=kind, **({"score_weight": 0.3} if variant == "bigan" else {}))
    variables = bigan.steps(nets, o).init(jax.random.key(2)).variables
    ema = jax.tree.map(lambda leaf: 0.9 * np.asarray(leaf), variables["ema"])
    patches = rng.random((3, 4, 4, 1), np.float32)
    x = (2 * patches.astype(float) - 1).reshape(3, P)
    b, made = 0.72, 0.72 * 0.45 * x
    if variant == "bigan":
        of_x, of_made = (np.concatenate([each, b * x], axis=1) * ema["joint"]["w"]
                         for each in (x, made))  # fmt: skip
    else:
        of_x, of_made = (np.concatenate([x, each], axis=1) * ema["images"]["w"]
                         for each in (x, made))  # fmt: skip
    expected = np.abs(of_x - of_made).sum(axis=1)
    if kind == "cross_entropy":
        expected = logs(of_made.sum(axis=1), True)
    if variant == "bigan":
        expected = 0.7 * np.abs(x - made).sum(axis=1) + 0.3 * expected
    variables = {**variables, "ema": ema}
    found = bigan.reconstructor(nets, o)(variables, patches)
    np.testing.assert_allclose(found.aux["score"], expected, rtol=1e-4)
    np.testing.assert_allclose(found.output.reshape(3, P), (made + 1) / 2, rtol=1e-4)
    loss = bigan.steps(nets, o).validate(variables, patches)
    np.testing.assert_allclose(loss["loss"], expected.mean(), rtol=1e-4)


def test_cross_entropy(rng):
    logits = 5 * rng.standard_normal(9)
    for real in (True, False):
        np.testing.assert_allclose(cross_entropy(logits, real), logs(logits, real), rtol=1e-5)
    np.testing.assert_allclose(cross_entropy(np.float32([-200, 200]), True), [200, 0], atol=1e-6)


def test_moving_averages():
    old, new = {"a": np.float32([1, 2])}, {"a": np.float32([3, -2])}
    np.testing.assert_allclose(bigan.averaged(old, new, 0.999)["a"], [1.002, 1.996], rtol=1e-6)


class Subject(NamedTuple):
    """A tiny ALAD with its compiled step, made once for all tests of it."""

    networks: Networks
    state: State
    step: object
    crops: np.ndarray


@pytest.fixture(scope="module")
def subject():
    method = methods.build("bigan", SMALL, 32, 1)
    state = jax.jit(method.learn.init)(jax.random.key(3, impl="rbg"))
    crops = np.random.default_rng(0).random((4, 16, 16, 1), np.float32)
    nets = bigan.networks(SMALL.resolved(32), 1)
    return Subject(nets, state, jax.jit(method.learn.step), crops)


def leaves(tree):
    return {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_flatten_with_path(tree)[0]}


def test_what_a_step_of_alad_moves(subject):
    before, (after, metrics) = subject.state.variables, subject.step(subject.state, subject.crops)
    after = after.variables
    for part in ("params", "batch_stats", "spectral"):
        for name, leaf in leaves(before[part]).items():
            moved = np.asarray(leaves(after[part])[name])
            # a bias in front of a norm has no gradient, but for rounding
            assert "bias" in name or not np.array_equal(leaf, moved), name
    for name, leaf in leaves(before["ema"]).items():
        expected = 0.9 * np.asarray(leaf, float) + 0.1 * np.asarray(leaves(after["params"])[name])
        np.testing.assert_allclose(leaves(after["ema"])[name], expected, rtol=1e-4, atol=1e-7)
    assert set(before["spectral"]) == {"encoder", "joint", "images", "codes"}
    assert set(metrics) == {
        *("discriminator_loss", "real_accuracy", "generated_accuracy", "sample_variance"),
        *("crop_variance", "generator_loss", "encoder_loss", "images_loss", "codes_loss"),
    }
    # untrained, of weights of 0.01, a discriminator gives one half to everything
    np.testing.assert_allclose(metrics["discriminator_loss"], 6 * math.log(2), rtol=0.02)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_what_is_learned_stays_float32(subject, precision):
    """Nothing is compiled: shapes and types alone."""
    o = dataclasses.replace(SMALL, precision=precision, consistency=0.1)
    learn = methods.build("bigan", o, 32, 1).learn
    after, metrics = jax.eval_shape(learn.step, subject.state, subject.crops)
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), s[2:])
              for s in (after, subject.state)]  # fmt: skip
    assert shapes[0] == shapes[1]
    assert {leaf.dtype for leaf in metrics.values()} == {np.dtype("float32")}


def test_random_numbers_are_of_the_step_and_of_the_key(subject):
    state = subject.state
    other = state._replace(key=jax.random.key(4, impl="rbg"))
    later = state._replace(step=jnp.int32(2))
    states = (state, state, later, other)
    found = [subject.step(s, subject.crops)[1]["sample_variance"] for s in states]
    assert found[0] == found[1]
    assert len({float(each) for each in found}) == 3


def test_a_fifth_is_dropped_while_it_trains(subject, rng):
    nets, variables = subject.networks, subject.state.variables
    rest = {part: variables[part] for part in ("batch_stats", "spectral")}
    z = rng.standard_normal((500, 3)).astype("f")
    judge = [nets.apply("codes", variables["params"], rest, (z, z), key)[0].features
             for key in (jax.random.key(0), jax.random.key(1), None, None)]  # fmt: skip
    np.testing.assert_array_equal(judge[2], judge[3])
    assert not np.array_equal(judge[0], judge[1])
    np.testing.assert_allclose(np.mean(np.asarray(judge[0]) == 0), 0.2, atol=0.05)
    assert np.all(np.asarray(judge[2]) != 0)


def test_the_defaults_are_the_papers():
    one, two = Options().resolved(256), Options(variant="alad").resolved(256)
    assert (one.width, one.latent, one.learning_rate) == (32, 200, 1e-5)
    assert (two.width, two.latent, two.learning_rate) == (64, 100, 2e-4)
    assert (one.batch_size, one.patch_size, one.ema, one.consistency) == (100, 32, 0.999, 0)
    assert (one.score, one.score_weight) == ("fm", 0.1)
    known = options.fields(Options)
    assert known["score"].metadata["part"] == options.SCORING
    assert known["score_weight"].metadata["part"] == options.SCORING
    for o in (one, two):
        method = methods.build("bigan", o, 64, 3)
        assert method.distances == (o.variant, "l2", "l1", "ssim")
        assert method.learn.best_by == ""  # the last one, and none chosen by its scores
    assert dataclasses.replace(one, width=8).resolved(256).width == 8


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"patch_size": 24, "stride": 24}, "--patch_size=24: bidirectional GANs take a power of"),
        ({"patch_size": 8, "stride": 8}, "--patch_size=8: must be at least 16"),
        ({"patch_size": 128}, "--patch_size=128 is outside 1..64"),
        ({"variant": "bygan"}, "unknown --variant 'bygan': did you mean bigan?"),
        ({"score": "ch"}, "unknown --score 'ch'"),
        ({"variant": "alad", "score_weight": 0.5}, "--score_weight=0.5: the score of --variant=al"),
        ({"consistency": 1.5}, "--consistency=1.5: must be from 0 to 1"),
        ({"ema": -0.1}, "--ema=-0.1: must be from 0 to 1"),
        ({"num_patches": 10}, "--batch_size=100 is larger than --num_patches=10"),
        ({"latent": -1}, "--latent=-1: must be at least 0"),
    ],
)
def test_options_that_cannot_work(flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        methods.build("bigan", Options(**flags), 64, 1)


def test_the_variants_are_the_papers():
    known = {field.name: field for field in dataclasses.fields(Options)}
    assert known["variant"].metadata["among"] == tuple(PAPERS)
