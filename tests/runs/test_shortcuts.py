"""What tells the test images apart without a model, as a run says it."""

import dataclasses

from cae_jax.data import synthetic
from cae_jax.runs import evaluate
from cae_jax.types import Duplicate


def test_images_that_recur_are_counted_once():
    split = synthetic.read("weave", 32, 1, 0)
    train, test = split.train_paths, split.test_paths
    pairs = [(test[0], train[3]), (test[0], test[4]), (test[2], test[0]), (train[1], train[0])]
    found = tuple(Duplicate(*pair, "near", 0.9) for pair in [*pairs, (test[5], train[3])])
    assert evaluate._n_recurring(dataclasses.replace(split, duplicates=found)) == 2
