"""The heads on the filter bank: what each finds, end to end, on drawn textures."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from cae_jax import methods
from cae_jax.evaluation.metrics import image_auroc
from cae_jax.methods import filter_bank
from cae_jax.methods.filter_bank import Options
from cae_jax.models import filters
from cae_jax.runs.config import configure
from cae_jax.scoring import scorer
from cae_jax.scoring.residuals import Reduction
from cae_jax.types import UsageError

HEADS = {
    "gaussian": {},
    "memory": {"coreset": 0.1},
    "pca": {"components": 6},
    "pca of vectors": {"pca_of": "vectors"},
}


def woven(rng, n, side):
    """Stripes at a random phase, and noise."""
    y, x = np.mgrid[:side, :side]
    phase = rng.random((n, 1, 1)) * 2 * np.pi
    image = 0.5 + 0.2 * np.sin(2 * np.pi * x / 8 + phase) + 0.02 * rng.normal(size=(n, side, side))
    return image[..., None].astype("f") + 0 * y[..., None].astype("f")


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("name", HEADS)
def test_a_hole_in_stripes_is_found_where_it_is(rng, name, stride):
    o = Options(head=name.split()[0], filter_stride=stride, **HEADS[name])
    method = methods.build("filter_bank", o, 40, 1)
    good, images = woven(rng, 20, 40), woven(rng, 12, 40)
    images[6:, 12:20, 20:28] = 0.5
    variables = jax.jit(method.learn.fit)(jax.random.key(0), good)
    (distance,) = method.distances
    call = scorer.scorer(method.inspect, Reduction((distance,), 1.0, reduce="max"))
    scores = call(variables, images)
    assert image_auroc(np.arange(12) >= 6, np.asarray(scores.distances[distance])) == 1
    for residual in scores.residuals[distance][6:]:
        y, x = np.unravel_index(np.argmax(residual), residual.shape)
        assert abs(y - 15.5) < 8
        assert abs(x - 23.5) < 8
    one = call(variables, images[3:4])
    np.testing.assert_allclose(one.distances[distance][0], scores.distances[distance][3], rtol=1e-3)


def test_no_weights_and_no_flags_of_them():
    method = methods.build("filter_bank", Options(), 16, 3)
    assert not method.frozen
    with pytest.raises(UsageError, match="--weights: a flag of --method="):
        configure(method="filter_bank", weights="x.pt")
    c = configure(method="filter_bank", head="memory", coreset=0.1).resolved()
    assert (c.distance, c.residual_smooth, c.image_score) == ("nearest", 4, "max")
    again = type(c).from_flagfile(c.to_flagfile(), "flags.txt")
    assert again == c


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"head": "gausian"}, "unknown --head 'gausian': did you mean gaussian?"),
        ({"filter_stride": 2}, "--filter_stride=2: must be 4 or 8"),
        ({"head": "memory", "coreset": 0.0}, "--coreset=0.0: must be above 0"),
    ],
)
def test_bad_options(flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        methods.build("filter_bank", Options(**flags), 16, 1)


def test_every_head_is_a_method_of_its_own():
    known = {f.name: f.metadata.get("among") for f in dataclasses.fields(Options)}
    assert known["head"] == tuple(filter_bank.HEADS) == ("gaussian", "memory", "pca")
    assert known["filter_stride"] == filters.STRIDES
    for head in filter_bank.HEADS.values():
        assert head.__name__.rpartition(".")[2] in methods.names()
