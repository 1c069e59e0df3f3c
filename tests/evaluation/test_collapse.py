"""A collapsed generator is told by a history's variances, whichever method they are of."""

import re

import pytest

from cae_jax.evaluation import collapse


def row(epoch, samples, crops):
    return {"epoch": epoch, "sample_variance": samples, "crop_variance": crops, "other": 1.0}


@pytest.mark.parametrize(
    ("history", "share"),
    [
        ([], ""),
        ([{"epoch": 1, "loss": 0.3}], ""),
        ([row(1, 0.0, 0.2), row(2, 0.1, 0.2)], ""),  # the last epoch counts
        ([row(1, 0.1, 0.2), row(2, 0.009, 0.2)], "in epoch 2 its crops varied 4.5%"),
        ([row(1, 0.1, 0.2), row(2, 0.011, 0.2)], ""),  # 5.5 %
        ([row(7, 0.0, 0.3)], "in epoch 7 its crops varied 0.0%"),
        # a later phase, of the encoder alone, leaves both at 0
        ([row(1, 0.001, 0.2), row(2, 0.0, 0.0)], "in epoch 1 its crops varied 0.5%"),
        ([row(1, 0.1, 0.2), row(2, 0.0, 0.0)], ""),
        ([row(1, 0.0, 0.0)], ""),
    ],
)
def test_a_collapse_is_said(history, share):
    said = collapse.warning(history)
    assert bool(said) == bool(share)
    assert re.search(share, said)
    assert not share or "sample_variance and crop_variance in history.csv" in said
