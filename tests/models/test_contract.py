"""What every model keeps to, by discovery: a new file in models/ is tested by being there."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest

from cae_jax import models
from cae_jax.methods.autoencoder import reconstructor, steps
from cae_jax.methods.gradients import optimizer
from cae_jax.serving.onnx import graph
from cae_jax.training import loop, members
from cae_jax.training.checkpoints import Checkpoints

SIDE = 32
BLOCKS = {"oh_yun": {"paper_block": "true"}, "gong": {"batch_norm": "true", "items": "60"}}
CASES = [(name, {"items": "60"} if name == "gong" else {}) for name in models.names()]
CASES += list(BLOCKS.items())


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model with its compiled step, made once for all tests of it."""

    model: object
    learn: object
    reconstruct: object
    step: object
    state: object
    patches: np.ndarray

    @property
    def has_statistics(self):
        return "batch_stats" in self.state.variables


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join([case[0], *case[1]]))
def subject(request):
    name, options = request.param
    model = models.build(name, 1, SIDE, options)
    # no weight decay: a parameter without a gradient then stays where it is
    learn = steps(model, optimizer(5e-4, 0.0))  # in one chunk: a program a third as long
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, SIDE, dtype=np.float32)
    tilt = rng.random((6, 1, 1, 1)).astype(np.float32)
    patches = tilt * ramp[:, None, None] + (1 - tilt) * ramp[None, :, None]
    step, state = jax.jit(learn.step), loop.fresh_state(learn, 3)
    return Subject(model, learn, reconstructor(model), step, state, patches)


def test_loss_falls(subject):
    state, losses = subject.state, []
    while len(losses) < 150 and (not losses or losses[-1] > 0.7 * losses[0]):
        state, metrics = subject.step(state, subject.patches)
        losses.append(float(metrics["loss"]))
    assert losses[-1] <= 0.7 * losses[0]
    assert int(state.step) == len(losses)
    if subject.has_statistics:
        before, after = (s.variables["batch_stats"] for s in (subject.state, state))
        moved = jax.tree.map(lambda a, b: bool(np.any(np.not_equal(a, b))), before, after)
        assert all(jax.tree.leaves(moved))


def test_shape_and_batch_independence(subject):
    reconstruct = jax.jit(subject.reconstruct)
    whole = np.asarray(reconstruct(subject.state.variables, subject.patches).output)
    assert whole.shape == (6, SIDE, SIDE, 1)
    for i in (0, 4):
        alone = reconstruct(subject.state.variables, subject.patches[i : i + 1]).output
        assert alone.shape == (1, SIDE, SIDE, 1)
        np.testing.assert_allclose(alone[0], whole[i], rtol=1e-4, atol=1e-5)


def test_a_memory_says_how_many_items_are_in_use(subject):
    metrics = subject.step(subject.state, subject.patches)[1]
    if "memory" not in subject.model.tables():
        assert metrics.keys() == {"loss"}
        return
    made = jax.jit(subject.reconstruct)(subject.state.variables, subject.patches)
    assert made.aux["items_used"].shape == (6, 60)
    how = {"train": True, "mutable": ["batch_stats"]}
    apply = jax.jit(functools.partial(subject.model.apply, **how))
    in_training, _ = apply(subject.state.variables, subject.patches)
    used = int(np.asarray(in_training.aux["items_used"]).any(axis=0).sum())
    assert int(metrics["items_used"]) == used
    shown = jax.eval_shape(subject.learn.validate, subject.state.variables, subject.patches)
    assert shown.keys() == {"loss"}
    assert 1 <= int(metrics["items_used"]) <= 60
    assert np.all(np.asarray(made.aux["penalty"]) >= 0)


def test_jit_equals_eager(subject):
    eager = subject.reconstruct(subject.state.variables, subject.patches)
    jitted = jax.jit(subject.reconstruct)(subject.state.variables, subject.patches)
    for one, other in zip(jax.tree.leaves(jitted), jax.tree.leaves(eager), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter_that_can_have_one(subject):
    """What a step without weight decay leaves alone has no gradient: padding is all it meets."""
    params = subject.state.variables["params"]
    moved = subject.step(subject.state, subject.patches)[0].variables["params"]
    paths, leaves = zip(*jax.tree_util.tree_flatten_with_path(params)[0], strict=True)
    expected = expected_dead(subject.model)
    for path, before, after in zip(paths, leaves, jax.tree.leaves(moved), strict=True):
        name = "/".join(str(key.key) for key in path)
        if name.endswith("kernel") and name not in before_pooling(subject.model):
            dead = expected.get(name, 0)
            if len(before) == SIDE**2:  # of every pixel its own: one that is always 0 tells nothing
                dead = np.all(subject.patches == 0, axis=0).sum() * before.shape[1]
            more = int(np.sum(np.equal(before, after))) - dead
            # a few steps round to nothing; ReLUs may be off for all six patches
            share = 0.5 if getattr(subject.model, "paper_block", False) else 1e-4
            assert 0 <= more <= share * before.size + 1, name


def before_pooling(model):
    """A pooled map passes a gradient to its largest pixels alone, which images decide."""
    pairs = [pair for rows in model.tables().values() for pair in itertools.pairwise(rows)]
    return {f"encoder/{one.name}/kernel" for one, two in pairs if two.op == "max_pool"}


def expected_dead(model):
    """Kernel elements that meet nothing but padding, found by convolving ones, tap by tap."""
    dead, size = {}, SIDE
    for part, rows in model.tables().items():
        for row in rows:
            if row.op in ("conv", "deconv"):
                k, s, same = row.kernel, row.stride, row.padding == "SAME"
                out = size * s if row.op == "deconv" else -(-(size if same else size - k + 1) // s)
                if row.op == "conv":
                    before = max((out - 1) * s + k - size, 0) // 2 if same else 0
                    taps = [
                        any(0 <= o * s + t - before < size for o in range(out)) for t in range(k)
                    ]
                else:
                    before = k - 1 if s > k - 1 else -(-(k + s - 2) // 2)
                    reached = [(o + t - before) for o in range(out) for t in range(k)]
                    taps = [False] * k
                    for i, at in enumerate(reached):
                        taps[i % k] |= at % s == 0 and 0 <= at // s < size
                live = sum(taps) ** 2
                features = row.features or 1
                dead[f"{part}/{row.name}/kernel"] = (k * k - live, features)
                size = out
            elif row.op == "max_pool":
                size //= 2
            elif row.op == "reshape":
                size = 1
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 1)))["params"]
    flat = jax.tree_util.tree_flatten_with_path(shapes)[0]
    channels = {"/".join(str(k.key) for k in path): leaf.shape for path, leaf in flat}
    return {name: n * channels[name][2] * f for name, (n, f) in dead.items()}


def test_members_by_vmap_equal_members_by_loop(subject):
    if getattr(subject.model, "paper_block", False):
        pytest.skip("gong's option has batch norm too, and compiles in half the time")
    states = [loop.fresh_state(subject.learn, seed) for seed in (3, 4)]
    batches = jnp.stack([subject.patches, subject.patches[::-1] * 0.8])
    stacked = jax.jit(lambda *trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees))(
        *states
    )
    together, metrics = jax.jit(jax.vmap(subject.learn.step))(stacked, batches)
    for i, (state, batch) in enumerate(zip(states, batches, strict=True)):
        alone, alone_metrics = subject.step(state, batch)
        np.testing.assert_allclose(metrics["loss"][i], alone_metrics["loss"], rtol=1e-4)
        pairs = zip(
            jax.tree_util.tree_flatten_with_path(together.variables["params"])[0],
            jax.tree.leaves(alone.variables["params"]),
            strict=True,
        )
        for (path, one), other in pairs:
            # Adam's first step is the gradient's sign: where that is rounding it may flip, as
            # for every bias in front of batch norm, which has no gradient at all
            if path[-1].key == "kernel" or not subject.has_statistics:
                assert np.mean(np.abs(np.asarray(one)[i] - np.asarray(other)) > 1e-4) < 0.02


def test_onnx_runtime_reconstructs_the_same(subject):
    def function(patches):
        return [subject.reconstruct(subject.state.variables, patches).output]

    patches = subject.patches
    inputs = {"patches": jax.ShapeDtypeStruct(patches.shape, patches.dtype)}
    model = graph.of_function(function, inputs, ["made"])
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"patches": patches})
    wanted = jax.jit(subject.reconstruct)(subject.state.variables, patches).output
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_checkpoint_is_bit_equal(subject, tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, subject.state, {})
    with Checkpoints(tmp_path) as checkpoints:
        _, state, _ = checkpoints.restore(loop.fresh_state(subject.learn, 9))
    for one, other in zip(
        jax.tree.leaves(state.variables), jax.tree.leaves(subject.state.variables), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_oh_yun_at_full_size_has_the_thesiss_dead_weights():
    model = models.build("oh_yun", 1, 128, {})
    patches = np.random.default_rng(1).random((1, 128, 128, 1), dtype=np.float32)
    variables = loop.fresh_state(steps(model, optimizer(1e-3, 0)), 0).variables

    def loss(params):
        # both signs of every unit: a leaky ReLU's slope is never 0, so what is 0 is dead
        return jnp.sum(jnp.square(model.apply({"params": params}, patches).output - patches))

    gradient = jax.jit(jax.grad(loss))(variables["params"])
    zeros = {
        f"{part}/{layer}": int(np.sum(np.equal(leaf["kernel"], 0)))
        for part, layers in gradient.items()
        for layer, leaf in layers.items()
        if np.any(np.equal(leaf["kernel"], 0))
    }
    assert zeros == {
        "encoder/Conv7": 12 * 128 * 160,
        "encoder/Conv8": 15 * 160 * 160,
        "encoder/Conv9": 8 * 160 * 192,
        "decoder/Deconv1": 5 * 192 * 192,
    }
    assert sum(zeros.values()) == 1_059_840


def test_train_compiles_one_step_for_equal_steps(subject):
    again = subject.learn._replace()
    assert members.compile_step(again) is members.compile_step(subject.learn)
    assert members.compile_validation(again) is members.compile_validation(subject.learn)
