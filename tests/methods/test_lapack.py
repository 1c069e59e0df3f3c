"""No program has two calls of LAPACK that may run beside each other.

On a CPU a call over a batch is divided among the threads and waited for by the one that holds it:
two calls on two threads wait for each other, for ever.
"""

import collections
import re

import jax
import numpy as np
import pytest

from cae_jax.runs.config import configure


@pytest.mark.parametrize(
    ("method", "options", "learning"),
    # what gmm_texture learns, level by level, has each call twice, but one after the other
    [("filter_bank", {"mixture": 3}, True), ("gmm_texture", {}, False)],
)
def test_each_kind_of_call_stands_once(method, options, learning):
    built = configure(method=method, image_size=64, folds=0, **options).resolved().build()
    images = jax.ShapeDtypeStruct((6, 64, 64, 1), np.float32)
    key = jax.random.key(0)
    if learning:
        program = jax.jit(built.learn.fit).lower(key, images)
    else:
        variables = jax.eval_shape(built.learn.fit, key, images)
        program = jax.jit(built.inspect).lower(variables, images)
    calls = collections.Counter(re.findall(r"@(lapack_\w+)\(", program.as_text()))
    assert set(calls.values()) == {1}, calls
