"""No production call hands the compiler half as much again as when the record was written."""

import json

import jax
import jax.numpy as jnp

from benchmarks import compilation, production_calls


def test_no_call_has_grown_by_half():
    before = json.loads(compilation.RECORD.read_text(encoding="utf-8"))["operations"]
    now = compilation.operations()
    assert list(now) == list(before), "python -m benchmarks.compilation --write"
    assert compilation.grown(before, now) == [], "python -m benchmarks.compilation --write"


def test_a_call_that_grew_is_named_and_so_is_a_new_one():
    before = {"a": 2.0, "b": 2.0}
    now = {"a": 2.9, "b": 3.0, "c": 0.1}
    assert [line.split(":")[0] for line in compilation.grown(before, now)] == ["b", "c"]


def test_operations_are_those_of_the_text():
    def lowered(n):
        def chain(x):
            for _ in range(n):
                x = jnp.sin(x)
            return x

        return jax.jit(chain).lower(jnp.float32(1))

    counts = [production_calls.operations(lowered(n)) for n in (0, 1, 5)]
    assert [count - counts[0] for count in counts] == [0, 1, 5]
