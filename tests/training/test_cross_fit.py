"""Folds that part the images evenly and leave groups whole, and their models against NumPy's."""

import jax
import numpy as np
import pytest

from cae_jax import methods
from cae_jax.methods import features, gaussian, variation_model
from cae_jax.training import cross_fit

SIDE = 16


def checked(groups, n_folds, seed):
    """The folds, once it is sure that they are folds."""
    found, n = cross_fit.folds(groups, n_folds, seed), len(groups)
    np.testing.assert_array_equal(np.sort(np.concatenate([f.own for f in found])), np.arange(n))
    assert len({len(f.learned) for f in found}) == 1  # one program for all
    assert len(found[0].learned) == n - max(len(f.own) for f in found) > 0
    for fold in found:
        assert not {*fold.own} & {*fold.learned}
        inside = {groups[i] for i in fold.own}
        assert not inside & {groups[i] for i in range(n) if i not in fold.own}
        for part in fold:
            assert part.tolist() == sorted(set(part.tolist()))
    return found


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 11, 30, 288])
@pytest.mark.parametrize("n_folds", [2, 5, 10])
def test_without_duplicates_folds_are_even(n, n_folds):
    found = checked(np.arange(n), n_folds, 3)
    sizes = sorted(len(fold.own) for fold in found)
    assert len(sizes) == min(n, n_folds)
    assert sizes[-1] - sizes[0] <= 1


def test_what_repeats_itself_stays_together(rng):
    for n in (7, 20, 41):
        groups = rng.integers(0, n // 2, n)
        found = checked(groups, 5, 0)
        assert len(found) == min(5, len(set(groups)))
    found = checked([4, 9, 4, 4, 9, 4], 5, 0)  # two photographs
    assert sorted(len(fold.own) for fold in found) == [2, 4]
    assert [len(fold.learned) for fold in found] == [2, 2]
    for alone in ([0], [3, 3, 3]):
        assert cross_fit.folds(alone, 5, 0) == []


def test_the_seed_and_the_number_of_images_decide():
    own = {
        (seed, n): [fold.own.tolist() for fold in cross_fit.folds(np.arange(n), 5, seed)]
        for seed in (0, 1, 2)
        for n in (23, 24)
    }
    for (seed, n), folds in own.items():
        again = cross_fit.folds(np.arange(n) * 7 + 3, 5, seed)  # other names of the groups
        assert [fold.own.tolist() for fold in again] == folds
    assert len({str(folds) for folds in own.values()}) == 6


def drawn(rng, n):
    return np.clip(0.5 + 0.1 * rng.standard_normal((n, SIDE, SIDE, 1)), 0, 1).astype(np.float32)


def test_variation_models_are_numpys_and_one_program(rng):
    images, traced = drawn(rng, 11), []
    method = methods.build("variation_model", variation_model.Options(), SIDE, 1)

    def learn(key, good):
        traced.append(good.shape)
        return method.learn.fit(key, good)

    folds = cross_fit.folds(np.arange(11), 5, 1)
    models = [*cross_fit.variables(learn, images, folds, 1)]
    assert len(models) == 5
    assert traced == [(8, SIDE, SIDE, 1)]  # three of 11 are the most that a fold holds
    for fold, model in zip(folds, models, strict=True):
        good = images[[i for i in range(11) if i in fold.learned]].astype(float)
        np.testing.assert_allclose(model["params"]["ideal"], good.mean(axis=0), rtol=1e-5)
        deviation = good.std(axis=0)
        np.testing.assert_allclose(model["params"]["deviation"], deviation, rtol=1e-3, atol=1e-6)


def test_gaussians_of_filters_are_numpys(rng):
    images = drawn(rng, 7)
    found = features.of_filters(SIDE, 1)
    method = gaussian.of_features(gaussian.Head(feature_channels=5), found)
    folds = cross_fit.folds(np.arange(7), 3, 0)
    x = np.asarray(found.of(images), float)
    inspect = jax.jit(method.inspect)
    models = cross_fit.variables(method.learn.fit, images, folds, 2)
    channels = set()
    for fold, model in zip(folds, models, strict=True):
        chosen = np.asarray(model["params"]["channels"])
        channels.add(tuple(chosen.tolist()))
        good, own = x[fold.learned][..., chosen], x[fold.own][..., chosen]
        by = np.sqrt(good.var(axis=0, ddof=1).mean(axis=(0, 1)) + good.mean(axis=0).var((0, 1)))
        maps = inspect(model, images[fold.own]).maps["mahalanobis"]
        for at in np.ndindex(*found.grid):
            s = np.cov((good[:, *at] / by).T) + 0.01 * np.eye(5)
            off = (own[:, *at] - good[:, *at].mean(axis=0)) / by
            wanted = np.sqrt(np.einsum("ni,ij,nj->n", off, np.linalg.inv(s), off))
            np.testing.assert_allclose(maps[:, *at], wanted, rtol=2e-3)
    assert len(channels) == 1  # the seed is one, so that the models differ by their images alone
