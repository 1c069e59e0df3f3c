"""Mixtures of Gaussians against scikit-learn's from the same start."""

import warnings

import jax
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from cae_jax.methods.mixtures import Mixture, Rounds, fit, log_likelihood, start


@pytest.mark.parametrize(
    ("covariance", "tolerance"), [("full", 1e-3), ("diagonal", 0.0)], ids=["full", "diagonal"]
)
def test_scikit_learns_mixture_from_the_same_start(rng, covariance, tolerance):
    k, d, n, rounds, floor = 3, 4, 301, 60 if tolerance else 7, 1e-2
    kinds = rng.integers(0, k, n)
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d))
    x = (x + 3 * rng.standard_normal((k, d))[kinds]).astype("f")
    weights = np.array([0.5, 0.3, 0.2], np.float32)
    shape, kind = ((k, d, d), "full") if covariance == "full" else ((k, d), "diag")
    precisions = np.broadcast_to(np.eye(d), shape) if kind == "full" else np.ones(shape)
    sklearns = GaussianMixture(
        k,
        covariance_type=kind,
        tol=tolerance,
        reg_covar=floor,
        max_iter=rounds,
        weights_init=weights.astype(float) / weights.astype(float).sum(),
        means_init=x[:k].astype(float),
        precisions_init=precisions,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the one with a tolerance of 0
        sklearns.fit(x.astype(float))
    assert sklearns.n_iter_ == rounds or 3 < sklearns.n_iter_ < rounds - 10  # it stops by itself
    began = Mixture(weights, x[:k], precisions.astype("f"))  # the root of 1 is 1

    @jax.jit
    def both(began, x):
        found = fit(began, x, Rounds(rounds, tolerance, floor), 128)
        return found, log_likelihood(found, x, 100)

    found, logs = both(began, x)
    roots = np.asarray(found.roots)
    covariances = roots @ roots.swapaxes(1, 2) if kind == "full" else roots**2
    np.testing.assert_allclose(found.weights, sklearns.weights_, atol=1e-4)
    np.testing.assert_allclose(found.means, sklearns.means_, atol=1e-4)
    np.testing.assert_allclose(covariances, sklearns.covariances_, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logs, sklearns.score_samples(x.astype(float)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_it_starts_from_the_gaussians_of_groups(rng, covariance):
    kinds = np.repeat([0, 1, 2], [9, 12, 20])
    x = (rng.standard_normal((41, 3)) + 50 * np.eye(3)[kinds]).astype("f")
    run = jax.jit(lambda x: start(jax.random.key(0), x, 3, covariance, 0.1))
    found = run(x)
    order = np.argsort(found.weights)
    roots = np.asarray(found.roots)[order]
    for i, root in enumerate(roots):
        own = x[kinds == i].astype(float)
        expected = np.cov(own.T, bias=True) + 0.1 * np.eye(3)
        np.testing.assert_allclose(found.weights[order[i]], len(own) / 41, rtol=1e-4)
        np.testing.assert_allclose(found.means[order[i]], own.mean(axis=0), rtol=1e-4, atol=1e-4)
        if covariance == "full":
            np.testing.assert_allclose(root @ root.T, expected, rtol=1e-3, atol=1e-4)
        else:
            np.testing.assert_allclose(root**2, np.diag(expected), rtol=1e-3)
    alike = run(np.ones_like(x))  # two groups have no vector at all
    assert all(np.isfinite(each).all() for each in alike)
