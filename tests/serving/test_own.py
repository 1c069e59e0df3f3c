"""A detector of one's own variables says what the detector of a run of them says."""

import pickle

import numpy as np
import pytest
import small_runs

import cae_jax
from cae_jax.runs import job
from cae_jax.runs.build import read_split
from cae_jax.runs.config import configure
from cae_jax.serving import own, trained
from cae_jax.training import fit
from cae_jax.types import DataError, UsageError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    with small_runs.images_in(root, "tablet", n_train=12):
        yield root


def test_it_judges_as_the_run_does(world):
    config = small_runs.config_of(world, "run", validation_fraction=0.3)
    job.run(config)
    run = trained.open_run(world / "run")
    images = read_split(run.cell.config)
    flags = {"model": "small_net:Tiny", "patch_size": 32, "stride": 16}
    made = own.detector(run.variables, images.validation, **flags)
    assert made.threshold == run.judge.threshold
    assert made.model.frame == run.detector.model.frame
    for one, other in zip(
        made.verdicts(images.test, images.test_paths),
        run.detector.verdicts(images.test, images.test_paths),
        strict=True,
    ):
        assert (one.distance, one.defective, one.p_value) == (
            other.distance,
            other.defective,
            other.p_value,
        )
        np.testing.assert_array_equal(one.mask, other.mask)
    again = pickle.loads(pickle.dumps(made))
    assert again.threshold == made.threshold
    assert again.score(images.test[0]).distance == made.score(images.test[0]).distance


@pytest.fixture(scope="module")
def fitted():
    images = np.random.default_rng(0).random((30, 32, 48, 1), np.float32)
    config = configure(method="variation_model", image_size=(32, 48), dataset="arrays")
    method = config.resolved().build()
    return fit.fit(method, images[:10], 0), images[10:]


def test_thresholds_by_percent_and_by_rate(fitted, capsys):
    """Counted by hand: 0.1 of 20 may be above the rank ceil(0.9 * 21) = 19."""
    variables, unseen = fitted
    made = own.detector(variables, unseen, method="variation_model")
    said = made.verdicts(unseen, ["?"] * len(unseen))
    ranked = sorted(verdict.distance for verdict in said)
    assert made.threshold.value == pytest.approx(ranked[17], rel=1e-6)  # 90 % of 20 are 18
    assert made.threshold.n == 20
    all_good = own.detector(variables, unseen, percent=100, method="variation_model")
    assert all_good.threshold.value == pytest.approx(ranked[19], rel=1e-6)
    rate = own.detector(variables, unseen, false_alarms=0.1, method="variation_model")
    assert rate.threshold.value == pytest.approx(ranked[18], rel=1e-6)
    own.detector(variables, unseen, false_alarms=0.01, method="variation_model")
    assert "warning: variation_model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"method": "variation_mode"}, "did you mean variation_model"),
        (
            {"method": "autoencoder", "model": "small_net:Tiny", "patch_size": 32},
            "variables: not of",
        ),
        ({"method": "variation_model", "percent": 90, "false_alarms": 0.1}, "take one of them"),
        ({"method": "variation_model", "epochs": 3}, "a flag of --method="),
        ({"method": "variation_model", "channels": 1}, "channels: is that of the images"),
        ({"method": "variation_model", "roi": "1,1,9,9"}, "--roi=1,1,9,9: only of files"),
    ],
)
def test_what_cannot_be_is_said(fitted, flags, said):
    with pytest.raises((UsageError, DataError), match=said):
        own.detector(*fitted, **flags)


def test_images_that_cannot_be_are_named(fitted):
    variables, unseen = fitted
    for images, said in ((unseen[:0], "unseen: holds no image"), (unseen * 200, "divide by 255")):
        with pytest.raises(DataError, match=said):
            own.detector(variables, images, method="variation_model")
    with pytest.raises(DataError, match="variables: not of --method=variation_model"):
        own.detector(variables, unseen[:, :20], method="variation_model")


def test_new_images_are_brought_to_their_frame(fitted):
    """What is no part of a new image is in no score, where they are not stretched."""
    variables, unseen = fitted
    detector = own.detector(variables, unseen, method="variation_model", resize="crop")
    wide = np.concatenate([np.ones_like(unseen[0]), unseen[0], np.ones_like(unseen[0])], axis=1)
    assert detector.score(wide).distance == pytest.approx(detector.score(unseen[0]).distance)


def test_it_is_in_the_package(fitted):
    assert cae_jax.detector(*fitted, method="variation_model").threshold.n == 20
