"""Every primitive in ONNX, run by ONNX Runtime, against JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from jax import lax

from cae_jax.models.layers.conv_transpose import conv_transpose
from cae_jax.models.layers.convolution import convolve
from cae_jax.scoring import patches
from cae_jax.scoring.median import median
from cae_jax.scoring.resize import resize
from cae_jax.serving.onnx import files, graph
from cae_jax.serving.onnx.writer import Constants
from cae_jax.types import CaeError

F = np.float32


def drawn(*shape, seed=0):
    return np.random.default_rng((*shape, seed)).standard_normal(shape, F)


X = drawn(3, 5, 7)
MAPS = drawn(2, 9, 8, 4)
ROWS = np.array([0, 2, 1], np.int32)
NUMBERS = np.arange(-7, 8, dtype=np.int32)
NHWC = ("NHWC", "HWIO", "NHWC")


def of_onnx(model, *arrays):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {f"x{i}": np.asarray(x) for i, x in enumerate(arrays)})


def converted(function, *arrays):
    inputs = {f"x{i}": jax.ShapeDtypeStruct(x.shape, x.dtype) for i, x in enumerate(arrays)}
    n = len(jax.eval_shape(function, *arrays))
    model = graph.of_function(function, inputs, [f"y{i}" for i in range(n)])
    onnx.checker.check_model(model, full_check=True)
    return model


def same(function, *arrays, rtol=2e-6, atol=2e-6):
    model = converted(function, *arrays)
    for found, wanted in zip(of_onnx(model, *arrays), function(*arrays), strict=True):
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol)
    return [node.op_type for node in model.graph.node]


ELEMENTWISE = {
    "arithmetic": lambda a: (a + 2 * a[::-1], a - 1, a * a, a / (jnp.abs(a) + 1), -a),
    "powers": lambda a: (a**3, a**-2, a**0, jnp.square(a), jnp.abs(a) ** 0.3, jnp.exp2(a)),
    "roots": lambda a: (jnp.sqrt(jnp.abs(a)), lax.rsqrt(a * a + 1), jnp.hypot(a, a[::-1])),
    "logarithms": lambda a: (jnp.log(jnp.abs(a)), jnp.log1p(jnp.abs(a)), jnp.exp(a)),
    "small": lambda a: (1e4 * jnp.log1p(1e-4 * a), 1e4 * jnp.expm1(1e-4 * a), jnp.expm1(9 * a)),
    "waves": lambda a: (jnp.sin(a), jnp.cos(a), jnp.tan(a), jnp.tanh(a), jnp.arctan(a)),
    "activations": lambda a: (jax.nn.sigmoid(a), jax.nn.relu(a), jax.nn.elu(a), lax.erf(a)),
    "leaky": lambda a: (jax.nn.leaky_relu(a, 0.2), jnp.where(a > 0, a, 0.1 * a)),
    "softmax": lambda a: (jax.nn.softmax(a), jax.scipy.special.logsumexp(a, axis=1)),
    "rounding": lambda a: (jnp.floor(a), jnp.ceil(a), jnp.round(3 * a), lax.round(2 * a)),
    "bounds": lambda a: (jnp.clip(a, 0, 0.5), jnp.maximum(a, 0.1), jnp.minimum(a, -0.1),
                         jnp.clip(a, 0, -1), jnp.minimum(jnp.maximum(a, 0), a[::-1])),
    "clamp": lambda a: (lax.clamp(F(-0.5), a, F(0.5)),),
    "comparisons": lambda a: (a < 0, a <= a[::-1], a > 0, a >= 0, a == a[::-1], a != a[::-1]),
    "logic": lambda a: ((a < 0) & (a > -1), (a < 0) | (a > 1), ~(a < 0), (a < 0) ^ (a < 1)),
    "finite": lambda a: (jnp.isfinite(1 / jnp.floor(a)),),
    "types": lambda a: (a.astype(jnp.int32), (a > 0).astype(jnp.float32), a.astype(bool)),
    "choice": lambda a: (jnp.where(a > 0, a, 7), lax.select_n(a.astype(int) % 3, a, -a, 2 * a)),
}  # fmt: skip


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(name):
    same(ELEMENTWISE[name], X)


def test_whole_numbers():
    same(
        lambda i: (i + 1, i * i, lax.div(i, 3), lax.rem(i, 3), i // 3, i % 3, -i, jnp.abs(i)),
        NUMBERS,
    )
    same(lambda i: (i & 5, i | 5, i ^ 5, ~i, i << 2, lax.shift_right_logical(i, 1)), NUMBERS)
    same(lambda i: (jnp.minimum(i, 3), i < 2, i.astype(jnp.float32), jnp.sum(i)), NUMBERS)


SHAPES = {
    "turned": lambda a: (jnp.transpose(a, (2, 0, 1)) + jnp.ones((7, 1, 5)), a.T[:, ::-1]),
    "reshaped": lambda a: (a.reshape(15, 7), a[:, None], a[:, :1].swapaxes(0, 2).squeeze(1)),
    "spread": lambda a: (jnp.broadcast_to(a[0, :, None], (5, 2, 7)), jnp.ones((2, 7)) * a[0, 0]),
    "cut": lambda a: (a[1:, ::2, 1:-1:3], a[:, 1], a[::-1, :, ::-1]),
    "joined": lambda a: (jnp.concatenate([a.T, jnp.ones((7, 5, 2))], 2), jnp.stack([a, a], 1)),
    "split": lambda a: (*jnp.split(a, [1, 3], axis=1), jnp.tile(a, (2, 1, 3))),
    "padded": lambda a: (lax.pad(a, F(0.5), ((1, -2, 0), (-1, 3, 2), (0, 1, 1))),),
    "borders": lambda a: tuple(jnp.pad(a, ((1, 0), (2, 2), (0, 1)), mode)
                               for mode in ("edge", "symmetric", "reflect")),
    "constant": lambda a: (jnp.arange(3), a, jnp.full((2, 3), 0.5)),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name):
    same(SHAPES[name], X)


PRODUCTS = [
    ("jw,...hw->...hj", (6, 4), (2, 3, 5, 4), True),
    ("ih,...hw->...iw", (6, 5), (2, 3, 5, 4), True),
    ("kol,tblw->kbtow", (2, 3, 5), (4, 1, 5, 6), True),
    ("tbhl,kol->kbhto", (4, 1, 6, 5), (2, 3, 5), False),
    ("jw,cbiw->bijc", (6, 4), (3, 2, 5, 4), True),
    ("hwij,bhwi->bhwj", (3, 4, 5, 6), (2, 3, 4, 5), True),
    ("bpi,bpj->pij", (2, 3, 5), (2, 3, 4), None),
    ("nd,d->n", (3, 5), (5,), False),
    ("tco,nhwtc->nhwo", (4, 3, 2), (2, 3, 3, 4, 3), True),
    ("kdn,ken->kde", (2, 3, 5), (2, 4, 5), None),
]


@pytest.mark.parametrize(("how", "one", "other", "first"), PRODUCTS, ids=lambda p: str(p))
def test_products(how, one, other, first):
    """`first` says which factor is a constant: the first, the second or none."""
    a, b = drawn(*one), drawn(*other, seed=1)
    if first is None:
        kinds = same(lambda a, b: (jnp.einsum(how, a, b),), a, b, atol=1e-5)
    elif first:
        kinds = same(lambda b: (jnp.einsum(how, a, b),), b, atol=1e-5)
    else:
        kinds = same(lambda a: (jnp.einsum(how, a, b),), a, atol=1e-5)
    assert "Einsum" not in kinds
    same(lambda a, b: (jnp.einsum(how, a, b),), a, b, atol=1e-5)


@pytest.mark.parametrize(
    "how",
    [
        {"window_strides": (2, 1), "padding": ((1, 2), (-1, 0))},
        {"window_strides": (1, 1), "padding": ((0, 1), (2, 1)), "rhs_dilation": (2, 1)},
        {"window_strides": (1, 2), "padding": ((2, -1), (1, 1)), "lhs_dilation": (2, 3)},
        {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 2},
    ],
    ids=str,
)
def test_convolutions(how):
    kernel = drawn(3, 2, 4 // how.get("feature_group_count", 1), 6)
    same(
        lambda x: (lax.conv_general_dilated(x, kernel, dimension_numbers=NHWC, **how),),
        MAPS,
        atol=1e-5,
    )


def test_windows():
    at = ((0, 0), (1, 1), (1, 0), (0, 0))
    same(
        lambda x: (
            lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 2, 1, 1), "SAME"),
            lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 2, 1), (1, 2, 2, 1), at),
            lax.reduce_window(x[0, :, 0, 0], jnp.inf, lax.min, (3,), (1,), "VALID"),
        ),
        MAPS,
    )


REDUCED = {
    "sums": lambda a: (jnp.sum(a), jnp.mean(a.swapaxes(0, 2), axis=1), jnp.prod(a, axis=2)),
    "ends": lambda a: (jnp.max(a, axis=(0, 2)), jnp.min(a, axis=1), jnp.sum(a.T[:1], axis=0)),
    "bools": lambda a: (jnp.all(a > -1, axis=1), jnp.any(a > 1.5, axis=(0, 2))),
    "places": lambda a: (jnp.argmax(a, axis=1), jnp.argmin(jnp.round(a), axis=2)),
    "order": lambda a: (jnp.sort(a, axis=1), jnp.argsort(jnp.round(a), axis=1), *lax.top_k(a, 3)),
    "so far": lambda a: (jnp.cumsum(a, axis=1), lax.cumsum(a, 2, reverse=True)),
    "quantile": lambda a: (jnp.quantile(a, 0.3), jnp.median(a)),
}


@pytest.mark.parametrize("name", REDUCED)
def test_reduced(name):
    same(REDUCED[name], X)


@pytest.mark.parametrize("n", [6, 7])
def test_the_median_is_an_operator(n):
    values = np.abs(drawn(2, n))
    model = converted(lambda a: (jax.vmap(median)(a),), values)
    assert "Scan" not in [node.op_type for node in model.graph.node]
    (found,) = of_onnx(model, values)
    np.testing.assert_array_equal(found, np.median(values, axis=1))


READ = {
    "known": lambda a, i: (a[:, jnp.array([2, 0, 4])], a[jnp.array([0, 2]), jnp.array([1, 3])]),
    "rows": lambda a, i: (a[i], jnp.take(a, i, axis=1), a[i, i], jax.vmap(lambda u, j: u[j])(a, i)),
    "along": lambda a, i: (jnp.take_along_axis(a, jnp.argmax(a, axis=2)[..., None], axis=2),),
    "outside": lambda a, i: (jnp.take(a, i * 3, axis=1, mode="fill", fill_value=7),
                             jnp.take(a, i * 3, axis=1, mode="clip")),
    "windows": lambda a, i: (lax.dynamic_slice(a, (i[1], i[0] + 1, 0), (2, 3, 7)),
                             jax.vmap(lambda j: lax.dynamic_slice(a, (0, j, j), (3, 2, 2)))(i)),
    "replaced": lambda a, i: (lax.dynamic_update_slice(a, 3 * a[:2, :2], (i[2], i[1], 2)),
                              lax.dynamic_update_slice(a, 3 * a[:2, :2], (1, 9, 0))),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_read_and_replaced(name):
    same(READ[name], X, ROWS)


def test_nothing_scatters():
    """Also where places repeat, and where a window leaves the array."""
    zeros, twice = jnp.zeros((4, 9, 7)), jnp.array([1, 1, 3])
    kinds = same(
        lambda a: (
            zeros.at[1:, 2:7].add(a),
            (1 + zeros).at[twice, 2:7].add(a),
            (1 + zeros).at[jnp.array([1, 0, 3]), 2:7].set(a),
            jnp.zeros(9).at[jnp.array([1, 8, 1, 30])].add(a[0, :4, 0]),
        ),
        X,
        atol=1e-6,
    )
    assert not any("Scatter" in kind for kind in kinds)


def test_patches_come_and_go_without_scattering():
    images = drawn(1, 13, 17, 2)
    kinds = same(lambda x: (patches.merge(patches.extract(x, 5, 3) ** 2, 13, 17, 3),), images)
    assert not any("Scatter" in kind for kind in kinds)


def test_loops_and_choices():
    row = jnp.ones(7)
    same(lambda a: lax.scan(lambda c, t: (c / 2 + t, c @ row), row, a[:, 0]), X)
    same(
        lambda a: lax.scan(lambda c, t: (c / 2 + t, c.sum() + a[0, 0, 0]), row, a[:, 0],
                           reverse=True),
        X,
    )  # fmt: skip
    same(lambda a: (lax.fori_loop(0, 5, lambda i, c: c / 2 + i, a),), X)
    kinds = same(lambda a: (lax.map(lambda t: 2 * t, a[:1]), lax.map(lambda t: t @ row, a)), X)
    assert "Scan" not in kinds  # few turns that do not know each other
    same(lambda a: (lax.map(lambda t: t * a[1, 2, 3], a.reshape(-1)[:17]),), X)
    turn = lambda c: (c[0] + 1, c[1] + 7)  # noqa: E731
    same(lambda a: lax.while_loop(lambda c: c[1] < 30 + a[0, 0, 0], turn, (a[1], 0)), X)
    ways = [lambda y: 2 * y, lambda y: -y, lambda y: y + 1]
    for index in np.arange(3, dtype=np.int32):
        same(lambda a, i: (lax.switch(i, ways, a), lax.cond(i > 1, *ways[:2], a)), X, index)


def test_a_sum_of_shifted_products_is_a_convolution():
    for inputs, kernel, stride in (
        (1, (3, 3, 1, 5), 2),
        (4, (3, 2, 4, 3), 1),
        (1, (2, 3, 1, 1), 1),
    ):
        w, x = drawn(*kernel), MAPS[..., :inputs]
        function = lambda x, w=w, s=stride: (convolve(x, w, (s, s), ((1, 2), (0, 1))),)  # noqa: E731
        assert set(same(function, x, atol=1e-5)) <= {"Transpose", "Conv", "Identity", "Reshape"}
    w = drawn(4, 4, 4, 6)
    kinds = same(lambda x: (conv_transpose(x, w, (2, 2)),), MAPS, atol=1e-5)
    assert kinds.count("Conv") == kinds.count("DepthToSpace") == 1
    other = lambda x: (x[:, 1:] * 2 + x[:, :-1] * MAPS[:1, :1, :1, :1] + x[:, 1:] + x[:, :-1],)  # noqa: E731
    assert "Conv" not in same(other, MAPS)


def test_an_image_keeps_the_layout_of_convolutions():
    w, v, bias = drawn(3, 3, 4, 5), drawn(5, 4), drawn(5)

    def network(x):
        y = jnp.clip(
            lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC) + bias, 0, 6
        )
        return (
            lax.conv_general_dilated(jnp.matmul(y, v), w, (2, 2), "SAME", dimension_numbers=NHWC),
        )

    kinds = same(network, MAPS, atol=1e-5)
    assert kinds.count("Transpose") == 2
    assert kinds.count("Conv") == 3


FOURIER = {
    "real": lambda a: (jnp.fft.rfft2(a).real, jnp.fft.rfft2(a).imag, jnp.abs(jnp.fft.rfft(a))),
    "back": lambda a: (jnp.fft.irfft2(jnp.fft.rfft2(a) * jnp.conj(jnp.fft.rfft2(a[::-1])), (6, 8)),
                       jnp.fft.irfft(jnp.fft.rfft(a, axis=1), 5, axis=1)),
    "all": lambda a: (jnp.abs(jnp.fft.fftshift(jnp.fft.fft2(a, (9, 10)))),
                      jnp.fft.ifft2(jnp.fft.fft2(a)).real),
    "shares": lambda a: ((jnp.fft.rfft(a) / (jnp.fft.rfft(a[::-1]) + 2j)).imag,),
}  # fmt: skip


@pytest.mark.parametrize("name", FOURIER)
def test_fourier_transforms_are_products(name):
    same(FOURIER[name], X, atol=2e-5)


def test_a_scalar_chooses_among_constants():
    one, other = jnp.array([2.0]), jnp.array([3.0])
    same(lambda a: (jnp.concatenate([lax.select(a[0, 0, 0] > 0, one, other), one]),), X)


def test_what_has_no_rule_is_named():
    with pytest.raises(CaeError, match="no rule for the primitive cholesky"):
        converted(lambda a: (jnp.linalg.cholesky(a[0, :5, :5]),), X)
    with pytest.raises(CaeError, match="no arrays of bfloat16"):
        converted(lambda a: (a.astype(jnp.bfloat16).astype(F),), X)
    image = jax.ShapeDtypeStruct((1, 5, 5, 1), F)
    with pytest.raises(CaeError, match="hazelnut: ONNX: no rule for the primitive cholesky"):
        graph.convert(lambda x: (jnp.linalg.cholesky(x[..., 0]),), {"image": image}, ["y"],
                      about="hazelnut")  # fmt: skip


def test_too_many_weights_are_refused():
    constants = Constants(most=8)
    assert constants.add(np.ones(2, F)) == constants.add(np.ones(2, F))
    with pytest.raises(CaeError, match=r"GB of weights; a model holds at most 8e-09 GB"):
        constants.add(np.ones(1, F))


SIZES = [(40, 33, 101), (101, 77, 40), (13, 200, 40), (12, 12, 12), (300, 499, 384)]


@pytest.mark.parametrize(("height", "width", "side"), SIZES)
def test_images_of_any_size_are_resized(height, width, side):
    images = np.random.default_rng(0).random((2, height, width, 3), F)
    wanted = jax.jit(resize, static_argnums=1)(images, side)
    image = jax.ShapeDtypeStruct((1, side, side, 3), F)
    for dynamic in (False, True):
        model = graph.convert(lambda x: (x,), {"x0": image}, ["y0"], dynamic)
        (found,) = of_onnx(model, images if dynamic else images[:1])
        np.testing.assert_allclose(found, wanted[: len(found)], rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def models():
    w = drawn(5, 5, 3, 40)

    def score(x):
        maps = jnp.sum(lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC), -1)
        return jnp.max(maps, axis=(1, 2)), maps

    image = {"image": jax.ShapeDtypeStruct((1, 16, 16, 3), F)}
    return {
        name: graph.convert(score, image, ["score", "map"], name == "batch", "a model", {"a": "b"})
        for name in ("model", "batch")
    }


def test_a_score_knows_no_batch(models):
    assert models["model"].doc_string == "a model"
    assert [(p.key, p.value) for p in models["model"].metadata_props] == [("a", "b")]
    one, many = (onnxruntime.InferenceSession(m.SerializeToString()) for m in models.values())
    images = np.random.default_rng(0).random((3, 20, 31, 3), F)
    scores, maps = many.run(None, {"image": images})
    assert scores.shape == (3,)
    assert maps.shape == (3, 16, 16)
    for i, image in enumerate(images):
        score, its = one.run(None, {"image": image[None]})
        np.testing.assert_allclose(score, scores[i : i + 1], rtol=1e-6)
        np.testing.assert_allclose(its, maps[i : i + 1], rtol=1e-5, atol=1e-4)
        alone, _ = many.run(None, {"image": image[None]})
        np.testing.assert_array_equal(alone, scores[i : i + 1])


@pytest.mark.parametrize("large", [0, 2**20])
def test_saved_models_share_their_weights(models, tmp_path, large):
    names = files.save(models, tmp_path, large)
    assert names == [*(["weights.bin"] if large == 0 else []), "model.onnx", "batch.onnx"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names)
    weights = 5 * 5 * 3 * 40 * 4
    if large == 0:
        assert weights <= (tmp_path / "weights.bin").stat().st_size < 2 * weights
        assert (tmp_path / "model.onnx").stat().st_size < weights
    image = np.random.default_rng(0).random((1, 20, 31, 3), F)
    for name, model in models.items():
        onnx.checker.check_model(str(tmp_path / f"{name}.onnx"))
        found = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx").run(None, {"image": image})
        whole = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"image": image})
        np.testing.assert_array_equal(found[0], whole[0])
