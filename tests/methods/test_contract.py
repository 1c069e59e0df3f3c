"""What every method keeps to, by discovery: a new file in methods/ is tested by being there."""

import dataclasses
import functools

import jax
import numpy as np
import onnxruntime
import pytest
from jax import export

from cae_jax import methods, options
from cae_jax.evaluation import thresholds, verdict
from cae_jax.runs.cell import Cell
from cae_jax.runs.config import configure, flags_of
from cae_jax.scoring import scorer
from cae_jax.serving.export import onnx_files, stablehlo
from cae_jax.serving.export.program import program_of
from cae_jax.serving.trained import TrainedRun
from cae_jax.training import loop
from cae_jax.training.checkpoints import Checkpoints
from cae_jax.training.fit import fit
from cae_jax.types import Evidence, Fit, Method, Steps, UsageError

SIDE, PATCH = 40, 16
SMALL = {  # of the flags that a method has, those that make it small
    **{"patch_size": PATCH, "stride": 12, "num_patches": 24, "batch_size": 8, "epochs": 2},
    **{"model": "small_net:Tiny", "width": 4, "latent": 5, "encoder_epochs": 1},
    **{"train_steps": 9, "search_steps": 5},
}
# A network of a few layers: it is in every program of that method.
SMALL_OF = {
    **{name: {"stages": "24@4"} for name in ("distilled", "feature_dictionary")},
    "f_anogan": {"patch_size": 8, "stride": 8},  # three networks of half as many blocks
    "gmm_texture": {"components": 2, "dimensions": 3, "samples": 1000, "em_rounds": 2},
}


@dataclasses.dataclass(frozen=True)
class Subject:
    """A method at small size, and what it has learned."""

    config: object
    method: Method
    variables: dict
    images: np.ndarray


@pytest.fixture(scope="module", params=methods.names())
def subject(request):
    known = flags_of(request.param)
    own = {name: value for name, value in SMALL.items() if name in known}
    own |= SMALL_OF.get(request.param, {})
    config = configure(method=request.param, image_size=SIDE, **own).resolved()
    method, rng = config.build(), np.random.default_rng(4)
    drawn = 0.5 + 0.1 * rng.standard_normal((2, 7, SIDE, SIDE, 1), np.float32)
    good, images = np.clip(drawn, 0, 1)
    if isinstance(method.learn, Fit):
        variables = fit(method, good, 3)
    else:
        variables = loop.fresh_state(method.learn, 3).variables
    if method.frozen:
        variables = {**variables, "frozen": dict(method.frozen)}
    return Subject(config, method, variables, images)


def crops_of(learn, *shape):
    p = learn.patch_size
    return np.random.default_rng(0).random((*shape, p, p, 1), np.float32)


@functools.cache
def compiled(function):
    """One program for all tests of a method."""
    return jax.jit(function)


def test_a_schedule_a_clip_and_an_average_keep_the_state_in_shape(subject):
    """Of every method that learns by steps; the optimisers' states hold what they need."""
    if not isinstance(subject.method.learn, Steps):
        pytest.skip("learns in one pass")
    asked = {"schedule": "cosine_decay", "gradient_clip": 0.5, "ema": 0.9}
    learn = subject.config.changed(**asked).build().learn
    plain, key = subject.method.learn, jax.random.key(0)
    state, before = jax.eval_shape(learn.init, key), jax.eval_shape(plain.init, key)
    kept = [jax.tree.map(lambda x: (x.shape, x.dtype), each.variables) for each in (state, before)]
    assert kept[0] == kept[1]  # scoring sees no difference
    more = [len(jax.tree.leaves(each.opt_state)) for each in (state, before)]
    assert more[0] > more[1]
    crops = jax.ShapeDtypeStruct(crops_of(learn, 4).shape, np.float32)
    after, _ = jax.eval_shape(learn.step, state, crops)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    one, two = (jax.tree.map(lambda x: (x.shape, x.dtype), each) for each in (after, state))
    assert one == two


def test_it_is_a_record_of_the_contract(subject):
    assert isinstance(subject.method, Method)
    assert isinstance(subject.method.learn, Fit | Steps)
    assert subject.method.distances
    assert subject.config.distance == subject.method.distances[0]
    if isinstance(subject.method.learn, Steps):
        assert isinstance(subject.config.options.course(PATCH, 0).steps_per_epoch, int)


def test_every_flag_of_its_own_tells_what_it_is(subject):
    for name, field in options.fields(subject.config.options).items():
        about = field.metadata
        assert about["help"], name
        assert "\n" not in about["help"], name
        assert about["part"] in (options.IDENTITY, options.SCORING, options.FREE), name
        assert type(field.default) in (bool, int, float, str), name


def test_evidence_has_the_shapes_and_a_map_for_every_distance(subject):
    found = compiled(subject.method.inspect)(subject.variables, subject.images[:2])
    assert isinstance(found, Evidence)
    for name in subject.method.distances:
        assert found.maps[name].shape[0] == 2, name
        assert found.maps[name].ndim == 3, name
        assert found.maps[name].dtype == np.float32, name
        assert np.isfinite(found.maps[name]).all(), name
    for number in found.numbers.values():
        assert number.shape == (2,)
    if found.reconstruction is not None:
        assert found.reconstruction.shape == (2, SIDE, SIDE, 1)


def test_jit_equals_eager(subject):
    eager = subject.method.inspect(subject.variables, subject.images[:2])
    jitted = compiled(subject.method.inspect)(subject.variables, subject.images[:2])
    for name in subject.method.distances:
        scale = float(np.abs(eager.maps[name]).max()) + 1e-6
        np.testing.assert_allclose(
            jitted.maps[name], eager.maps[name], rtol=1e-3, atol=1e-4 * scale, err_msg=name
        )


def test_features_seen_once_are_what_inspect_sees(subject):
    learn = subject.method.learn
    if not isinstance(learn, Fit) or learn.seen is None:
        pytest.skip("it has no features apart")
    looked = jax.jit(learn.seen.look)(subject.variables, subject.images[:2])
    found = jax.jit(learn.seen.judge)(subject.variables, looked)
    whole = compiled(subject.method.inspect)(subject.variables, subject.images[:2])
    for name in subject.method.distances:
        np.testing.assert_allclose(found.maps[name], whole.maps[name], rtol=1e-4, err_msg=name)


def test_a_score_knows_no_batch(subject):
    call = scorer.scorer(subject.method.inspect, subject.config.reduction(subject.method.distances))
    whole = call(subject.variables, subject.images)
    for i in (0, 4):
        alone = call(subject.variables, subject.images[i : i + 1])
        for name in subject.method.distances:
            one, other = alone.distances[name][0], whole.distances[name][i]
            np.testing.assert_allclose(one, other, rtol=1e-4, err_msg=name)
            assert whole.residuals[name].shape == (7, SIDE, SIDE)


def test_exported_it_scores_the_same(subject, tmp_path):
    config, images = subject.config, subject.images
    call = scorer.scorer(subject.method.inspect, config.reduction(subject.method.distances))
    wanted = call(subject.variables, images)
    distances = np.asarray(wanted.distances[config.distance])
    low, high = np.sort(distances)[[3, 4]].astype(np.float64)
    maps = np.asarray(wanted.residuals[config.distance])
    at = thresholds.Threshold((low + high) / 2, "ceil", thresholds.VALIDATION_GOOD, 90, 7)
    judge = verdict.Judge(at, distances, float(np.quantile(maps, 0.9)))
    masks = np.stack([judge.mask(each, config.opening) for each in maps])
    run = TrainedRun(Cell(tmp_path / "a" / "b", config), subject.variables, judge, {})
    answers = {"stablehlo": in_jax, "onnx": in_onnxruntime}
    for form, answer in answers.items():
        found = answer(program_of(run), tmp_path, images)
        np.testing.assert_allclose(found["score"], distances, rtol=1e-5, err_msg=form)
        np.testing.assert_array_equal(found["defective"], distances > at.value, form)
        atol = 1e-5 * np.abs(maps).max()
        np.testing.assert_allclose(found["map"], maps, rtol=1e-4, atol=atol, err_msg=form)
        assert (np.asarray(found["mask"]) != masks).mean() < 1e-3, form


def in_jax(program, folder, images):
    stablehlo.write(program, folder)
    loaded = export.deserialize(bytearray((folder / "stablehlo" / "batch.bin").read_bytes()))
    with np.load(folder / "stablehlo" / "weights.npz") as weights:
        return jax.jit(loaded.call)(dict(weights), images)


def in_onnxruntime(program, folder, images):
    model = onnx_files.model(program, many=True)
    assert "Scatter" not in str({node.op_type for node in model.graph.node})
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(onnx_files.OUTPUTS, {"image": images})
    return dict(zip(onnx_files.OUTPUTS, found, strict=True))


def test_the_same_seed_learns_the_same_bits(subject):
    learn = subject.method.learn
    if isinstance(learn, Fit):
        ends = [fit(subject.method, subject.images, 3) for _ in range(2)]
    else:
        step = compiled(learn.step)
        crops = crops_of(learn, 8)
        ends = [step(loop.fresh_state(learn, 3), crops)[0].variables for _ in range(2)]
    for one, other in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_array_equal(one, other)


def test_steps_are_finite_and_count_themselves(subject):
    learn = subject.method.learn
    if isinstance(learn, Fit):
        pytest.skip("it learns in one pass")
    crops = crops_of(learn, 8)
    state, metrics = compiled(learn.step)(loop.fresh_state(learn, 3), crops)
    assert int(state.step) == 1
    assert metrics
    assert all(np.shape(value) == () and np.isfinite(value) for value in metrics.values())
    found = compiled(learn.validate)(state.variables, crops)
    assert all(np.isfinite(value) for value in found.values())
    assert learn.best_by in ("", *metrics, *found)


def test_members_by_vmap_equal_members_by_loop(subject):
    learn = subject.method.learn
    if isinstance(learn, Fit):
        pytest.skip("it learns in one pass")
    states = [loop.fresh_state(learn, seed) for seed in (3, 4)]
    crops = crops_of(learn, 2, 8)
    stacked = jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *states)
    _, together = jax.jit(jax.vmap(learn.step))(stacked, crops)
    step = compiled(learn.step)
    for i, state in enumerate(states):
        _, alone = step(state, crops[i])
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][i], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_what_it_learned_goes_through_a_checkpoint_to_the_bit(subject, tmp_path):
    learned = {k: v for k, v in subject.variables.items() if k != "frozen"}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, learned, {})
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore_variables(learned).held
    assert jax.tree.structure(found) == jax.tree.structure(learned)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(learned), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_unknown_distance_is_named(subject):
    with pytest.raises(
        UsageError, match=f"--distance 'no': .*known: .*{subject.method.distances[0]}"
    ):
        subject.config.changed(distance="no").resolved()
