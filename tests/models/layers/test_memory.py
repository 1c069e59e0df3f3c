"""The memory against NumPy's version of the paper's equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cae_jax.models.layers.memory import Memory, shrink
from cae_jax.types import UsageError


def paper(code, memory, addressing, threshold):
    """Equations 3 to 7 of Gong et al. for codes [N, P, C], position by position."""
    read, entropies, used = np.zeros_like(code), [], np.zeros((len(code), len(memory)), bool)
    for n, image in enumerate(code):
        total = 0.0
        for p, z in enumerate(image):
            d = memory @ z
            if addressing == "cosine":
                d = d / (np.linalg.norm(memory, axis=1) * np.linalg.norm(z))
            w = np.exp(d - d.max())
            w = w / w.sum()
            kept = np.maximum(w - threshold, 0) * w / (np.abs(w - threshold) + 1e-12)
            w = kept / kept.sum() if kept.sum() > 0 else w
            read[n, p] = w @ memory
            total += -np.sum(w[w > 0] * np.log(w[w > 0]))
            used[n] |= w > 0
        entropies.append(total / len(image))
    return read, np.array(entropies), used


@pytest.mark.parametrize("addressing", ["dot", "cosine"])
@pytest.mark.parametrize("threshold", [0.0, 0.06, 0.9])
def test_equals_the_equations(addressing, threshold):
    rng = np.random.default_rng(3)
    code = rng.normal(size=(3, 2, 5, 7)).astype(np.float32) * 3
    module = Memory(items=17, addressing=addressing, threshold=threshold)
    variables = module.init(jax.random.key(1), code)
    assert np.abs(variables["params"]["memory"]).max() <= 1 / np.sqrt(7)
    memory = rng.normal(size=(17, 7)).astype(np.float32)
    found = module.apply({"params": {"memory": memory}}, code)
    flat = code.reshape(3, 10, 7).astype(np.float64)
    read, entropy, used = paper(flat, memory.astype(np.float64), addressing, threshold)
    np.testing.assert_allclose(found.code, read.reshape(code.shape), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.entropy, entropy, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.used, used)


@pytest.mark.parametrize("threshold", [0.0, 1e-3, 0.02, 0.5, 2.0])
def test_every_row_sums_to_one_and_has_a_gradient(threshold):
    logits = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    logits[0] = 0  # all equal: every weight 1 / 50
    weights = jax.nn.softmax(logits)
    rows = shrink(weights, threshold)
    np.testing.assert_allclose(np.sum(rows, axis=-1), 1, atol=1e-5)
    assert np.min(rows) >= 0
    # a weight at or below the threshold survives only in a row that would lose all
    dead = np.max(weights, axis=-1) <= threshold
    assert not np.any(np.asarray(rows)[~dead][np.asarray(weights)[~dead] <= threshold])
    np.testing.assert_allclose(np.asarray(rows)[dead], np.asarray(weights)[dead], rtol=1e-6)

    def total(x):
        return jnp.sum(shrink(jax.nn.softmax(x), threshold) ** 2)

    assert np.isfinite(jax.grad(total)(logits)).all()


def test_cosine_survives_the_papers_threshold_where_all_weights_are_small():
    code = np.random.default_rng(1).normal(size=(1, 4, 4, 96)).astype(np.float32)
    module = Memory(items=2000, addressing="cosine", threshold=5 / 2000)
    variables = module.init(jax.random.key(0), code)
    found = module.apply(variables, code)
    assert np.abs(found.code).max() > 0  # the paper's rule alone would leave nothing
    assert np.isfinite(found.entropy).all()


def test_unknown_addressing():
    with pytest.raises(UsageError, match="did you mean cosine"):
        Memory(items=3, addressing="cosin").init(jax.random.key(0), np.ones((1, 2, 2, 3)))
