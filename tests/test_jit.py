"""Programs compile at a lower level of optimisation on a CPU, unless the user has chosen one."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cae_jax.jit import jit, one_by_one

OFF = "jax_disable_most_optimizations"


@pytest.fixture
def optimized(monkeypatch):
    """Optimisation as users have it, which tests are without."""
    before = jax.config.values[OFF]
    monkeypatch.setenv("XLA_FLAGS", "")
    jax.config.update(OFF, False)
    yield
    jax.config.update(OFF, before)


def levels(monkeypatch):
    """The options of each `jax.jit` that one of ours makes."""
    asked = []
    with monkeypatch.context() as patch:
        made = SimpleNamespace(lower=None)
        patch.setattr(jax, "jit", lambda function, **how: asked.append(how) or made)
        jit(np.sin, donate_argnums=0)
    return [how.get("compiler_options") for how in asked if how.pop("donate_argnums") == 0]


def test_the_level_is_the_first_unless_the_user_has_chosen_one(optimized, monkeypatch):
    assert levels(monkeypatch) == [{"xla_backend_optimization_level": 1}, None]
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=3")
    assert levels(monkeypatch) == [None]
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX2")
    jax.config.update(OFF, True)
    assert levels(monkeypatch) == [None]


def test_the_numbers_are_right_alone_and_inside_another_function(optimized, rng):
    x, y = (rng.standard_normal((7, 5)).astype(np.float32) for _ in range(2))
    ours = jit(lambda x, y: jnp.tanh(x) @ y.T)
    truth = np.tanh(x) @ y.T
    for found in (ours(x, y), jax.jit(ours)(x, y), jax.vmap(ours)(x[None], y[None])[0]):
        np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-6)
    assert "tanh" in ours.lower(x, y).as_text()


@pytest.mark.parametrize("n", [1, 3])
def test_one_by_one_is_the_call_of_all_and_of_each(n, rng):
    images = rng.standard_normal((n, 5, 4, 2)).astype(np.float32)
    seen = []

    def call(x):
        seen.append(x.shape[0])
        return {"mean": x.mean((1, 2)), "all": x.reshape(-1, 40).sum(1)}

    found = one_by_one(call, images)
    assert seen == [1]  # never more than one at a time
    np.testing.assert_allclose(found["mean"], images.mean((1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["all"], images.sum((1, 2, 3)), rtol=1e-5, atol=1e-5)


def test_an_open_number_of_images_is_one_call():
    (n,) = jax.export.symbolic_shape("n")
    shape, seen = jax.ShapeDtypeStruct((n, 3), np.float32), []
    jax.eval_shape(lambda x: one_by_one(lambda x: seen.append(x.shape[0]) or x, x), shape)
    assert seen == [n]
