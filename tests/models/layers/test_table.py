"""Layer tables: what a row costs, what it becomes, and how its parameters start."""

import math

import jax
import numpy as np
import pytest

from cae_jax.models.layers.table import ConvTranspose, Row, Table, costs, he_normal

# fmt: off
# Every op, odd sizes, both paddings, by hand: output, parameters, multiply-accumulates.
MADE_UP = [
    (Row("A", "conv", 4, 3, 2),                    (7, 5, 4),   3*3*2*4 + 4, 7*5 * 3*3*2*4),
    (Row("B", "conv", 6, 2, 1, padding="VALID"),   (6, 4, 6),   2*2*4*6 + 6, 6*4 * 2*2*4*6),
    (Row("P", "max_pool", None, 2, 2),             (3, 2, 6),   0,           0),
    (Row("C", "deconv", 3, 5, 4),                  (12, 8, 3),  5*5*6*3 + 3, 3*2 * 5*5*6*3),
    (Row("D", "deconv", None, 4, 1),               (12, 8, 2),  4*4*3*2 + 2, 12*8 * 4*4*3*2),
    (Row("F", "flatten", None),                    (192,),      0,           0),
    (Row("G", "dense", 10),                        (10,),       192*10 + 10, 192*10),
    (Row("R", "reshape", 10),                      (1, 1, 10),  0,           0),
    (Row("L", "conv", 5, 1, linear=True),          (1, 1, 5),   10*5 + 5,    10*5),
]
# fmt: on
ROWS = tuple(row for row, *_ in MADE_UP)


def shapes(table: Table, shape: tuple[int, ...]) -> tuple[tuple[int, ...], dict]:
    """Output shape and variables' shapes of a table, nothing computed."""
    out, variables = jax.eval_shape(
        lambda x: table.init_with_output(jax.random.key(0), x), np.zeros((2, *shape), np.float32)
    )
    return out.shape, variables


def size(tree: dict) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def test_costs_by_hand():
    found = costs(ROWS, (13, 10, 2), channels=2)
    assert [(c.row, c.output, c.parameters, c.macs) for c in found] == MADE_UP


@pytest.mark.parametrize("n", range(1, len(ROWS) + 1))
def test_costs_equal_the_module(n):
    found = costs(ROWS[:n], (13, 10, 2), channels=2)
    out, variables = shapes(Table(ROWS[:n], 2), (13, 10, 2))
    assert out == (2, *found[-1].output)
    sizes = {name: size(leaves) for name, leaves in variables["params"].items()}
    assert sizes == {c.row.name: c.parameters for c in found if c.parameters}


def test_an_unknown_op_and_an_unknown_block():
    with pytest.raises(ValueError, match="row X: unknown op 'cnov'"):
        shapes(Table((Row("X", "cnov", 3, 3),), 1), (8, 8, 1))
    with pytest.raises(ValueError, match="unknown block 'leeky'"):
        shapes(Table(ROWS[:1], 1, block="leeky"), (8, 8, 1))


def leaky(x: np.ndarray, slope: float) -> np.ndarray:
    return np.where(x > 0, x, slope * x)


@pytest.mark.parametrize("block", ["leaky", "norm_leaky", "relu_norm_relu"])
def test_blocks(rng, block):
    """After a 1x1 convolution, a matrix product, everything is NumPy; the last row is linear."""
    rows = (Row("A", "conv", 4, 1), Row("B", "conv", 3, 1, linear=True))
    x = rng.standard_normal((5, 4, 3, 2), np.float32)
    table = Table(rows, 2, block=block, slope=0.1)
    variables = jax.tree.map(
        lambda leaf: rng.uniform(0.2, 1.5, leaf.shape).astype(np.float32),
        shapes(table, (4, 3, 2))[1],
    )
    params = variables["params"]
    y = x @ params["A"]["kernel"][0, 0] - 1.5  # below and above zero
    params["A"]["bias"] = np.full(4, -1.5, np.float32)
    if block == "leaky":
        y = leaky(y, 0.1)
    else:
        relu = block == "relu_norm_relu"
        y = np.maximum(y, 0) if relu else y
        epsilon = 1e-3 if relu else 1e-5
        mean, variance = y.mean((0, 1, 2)), y.var((0, 1, 2))
        y = (y - mean) / np.sqrt(variance + epsilon)
        norm = params["A_norm"]
        assert ("scale" in norm) is not relu
        y = y * norm.get("scale", 1) + norm["bias"]
        y = np.maximum(y, 0) if relu else leaky(y, 0.1)
    y = y @ params["B"]["kernel"][0, 0] + params["B"]["bias"]
    found, moved = table.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(found, y, rtol=2e-4, atol=1e-5)
    if block != "leaky":
        momentum = 0.999 if block == "relu_norm_relu" else 0.99
        before = variables["batch_stats"]["A_norm"]["mean"]
        after = moved["batch_stats"]["A_norm"]["mean"]
        np.testing.assert_allclose(after, momentum * before + (1 - momentum) * mean, rtol=1e-4)


def test_he_normal_has_its_scale():
    """He et al., eq. 15: half the inputs lost to a ReLU doubles the variance, 1 / fan-in else."""
    shape = (3, 3, 40, 80)
    for slope, taps, variance in [(0, None, 2 / 360), (1, None, 1 / 360), (0.2, 2, 2 / 1.04 / 80)]:
        weights = np.asarray(he_normal(slope, taps)(jax.random.key(1), shape))
        assert weights.shape == shape
        np.testing.assert_allclose(weights.var(), variance, rtol=0.03)
        assert abs(weights.mean()) < 0.01 * np.sqrt(variance)


@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (3, 2), (4, 1)])
def test_a_fresh_deconv_keeps_the_variance(rng, kernel, stride):
    x = rng.standard_normal((4, 12, 12, 32), np.float32)
    layer = ConvTranspose(32, (kernel, kernel), (stride, stride))
    y, _ = jax.jit(layer.init_with_output)(jax.random.key(0, impl="rbg"), x)
    inside = np.asarray(y)[:, 4:-4, 4:-4]
    np.testing.assert_allclose(inside.std(), 1, rtol=0.1)
