"""Cross-validated distances, against rsatoolbox, literal loops and what is true."""

import numpy as np
import pytest
from rsatoolbox.data import Dataset
from rsatoolbox.data.noise import cov_from_residuals, prec_from_residuals
from rsatoolbox.rdm import calc_rdm
from sklearn.covariance import LedoitWolf

from utils.rdms import cross_validated
from utils.rdms.cross_validated import deviations, prepare, shrunk_covariance

R, C, V = 5, 7, 11


@pytest.fixture
def runs(rng) -> np.ndarray:
    """Responses of three locations, (3, R, C, V): a signal, correlated noise, shifts of whole runs."""
    mixing = rng.standard_normal((V, V)) / 3 + np.eye(V)
    noise = rng.standard_normal((3, R, C, V)) @ mixing
    return rng.standard_normal((3, 1, C, V)) + noise + 5 * rng.standard_normal((3, R, 1, V))


def cross_validated_rdms(runs: np.ndarray, metric: str, noise: np.ndarray | None = None, dof: float = 0) -> np.ndarray:
    """RDMs of runs (n, R, C, V) and noise (n, T, V)."""
    prepared = [prepare(one.transpose(2, 0, 1), metric) for one in runs]
    values = np.stack([own for own, _ in prepared])
    residuals = None if noise is None else noise.swapaxes(1, 2)
    return cross_validated.cross_validated_rdms(values, prepared[0][1], metric, residuals, dof)


def dataset(runs: np.ndarray) -> Dataset:
    """The same for rsatoolbox, without what is NaN."""
    r, c = np.indices(runs.shape[:2]).reshape(2, -1)
    flat = runs.reshape(-1, runs.shape[2])
    keep = np.isfinite(flat[:, 0])
    return Dataset(flat[keep], obs_descriptors={"run": r[keep], "condition": c[keep]})


def test_without_noise_normalisation_as_rsatoolbox(runs):
    found = cross_validated_rdms(runs, "crossnobis")
    for one, rdm in zip(runs, found, strict=True):
        theirs = calc_rdm(dataset(one), method="crossnobis", descriptor="condition", cv_descriptor="run")
        np.testing.assert_allclose(rdm, theirs.dissimilarities[0], atol=1e-10)


def test_with_residuals_as_rsatoolbox(rng, runs):
    residuals = rng.standard_normal((3, 60, V)) @ rng.standard_normal((V, V))
    centred = residuals - residuals.mean(axis=1, keepdims=True)
    found = cross_validated_rdms(runs, "crossnobis", centred, dof=59)
    for one, noise, rdm in zip(runs, residuals, found, strict=True):
        precision = prec_from_residuals(noise, method="shrinkage_eye")
        theirs = calc_rdm(
            dataset(one), method="crossnobis", descriptor="condition", cv_descriptor="run", noise=precision
        )
        np.testing.assert_allclose(rdm, theirs.dissimilarities[0], rtol=1e-9, atol=1e-9)


def noise_of(runs: np.ndarray) -> tuple[np.ndarray, int]:
    """Deviations of the runs of every location, (n, n_responses, V)."""
    found = [deviations(one.transpose(2, 0, 1)) for one in runs]
    return np.stack([residuals.T for residuals, _ in found]), found[0][1]


def test_with_the_deviations_of_runs_as_rsatoolbox(runs):
    residuals, dof = noise_of(runs)
    assert dof == (R - 1) * (C - 1)
    literal = runs - runs.mean(axis=1, keepdims=True) - runs.mean(axis=2, keepdims=True)
    literal += runs.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(residuals, literal.reshape(3, R * C, V), atol=1e-10)
    found = cross_validated_rdms(runs, "crossnobis", residuals, dof)
    for one, noise, rdm in zip(runs, residuals, found, strict=True):
        theirs = calc_rdm(
            dataset(one), method="crossnobis", descriptor="condition", cv_descriptor="run",
            noise=prec_from_residuals(noise, dof=dof, method="shrinkage_eye"),
        )  # fmt: skip
        np.testing.assert_allclose(rdm, theirs.dissimilarities[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("n_residuals", [4, 30, 500])
def test_shrinkage_as_rsatoolbox_and_scikit_learn(rng, n_residuals):
    residuals = rng.standard_normal((2, n_residuals, V)) @ rng.standard_normal((V, V))
    residuals -= residuals.mean(axis=1, keepdims=True)
    for own in residuals:
        covariance = shrunk_covariance(own.T, n_residuals - 1)
        theirs = cov_from_residuals(own, method="shrinkage_eye")
        np.testing.assert_allclose(covariance, theirs, rtol=1e-9, atol=1e-12)
        sklearn = LedoitWolf(assume_centered=True).fit(own).covariance_ * n_residuals / (n_residuals - 1)
        np.testing.assert_allclose(covariance, sklearn, rtol=1e-9, atol=1e-12)


def test_residuals_that_are_already_spherical_stay_so():
    residuals = np.repeat(np.eye(3), 2, axis=1) * np.array([1, -1, 1, -1, 1, -1])
    np.testing.assert_allclose(shrunk_covariance(residuals, 6), np.eye(3) / 3)


def literal_distances(runs: np.ndarray) -> np.ndarray:
    """Mean product of differences over ordered pairs of different runs that have both conditions."""
    found = []
    for i in range(runs.shape[1]):
        for j in range(i + 1, runs.shape[1]):
            delta = [run[i] - run[j] for run in runs if np.isfinite(run[[i, j]]).all()]
            products = [a @ b for k, a in enumerate(delta) for m, b in enumerate(delta) if k != m]
            found.append(np.mean(products) / runs.shape[2] if products else np.nan)
    return np.array(found)


def test_conditions_that_runs_lack(runs):
    np.testing.assert_allclose(cross_validated_rdms(runs, "crossnobis")[0], literal_distances(runs[0]), atol=1e-10)
    runs[:, 0, 2] = np.nan
    runs[:, 3, [1, 2]] = np.nan
    found = cross_validated_rdms(runs, "crossnobis")
    for one, rdm in zip(runs, found, strict=True):
        np.testing.assert_allclose(rdm, literal_distances(one), atol=1e-10)
    runs[:, :4, 5] = np.nan  # in one run only
    found = cross_validated_rdms(runs, "crossnobis")
    expected = literal_distances(runs[0])
    assert np.isnan(expected).sum() == C - 1
    np.testing.assert_allclose(found[0], expected, atol=1e-10)
    residuals, dof = noise_of(runs)
    assert residuals.shape == (3, R * C - 7, V)
    run, condition = np.nonzero(np.isfinite(runs[0, :, :, 0]))
    effects = np.hstack([np.eye(R)[run], np.eye(C)[condition]])
    assert dof == len(run) - np.linalg.matrix_rank(effects)
    there = runs[0][run, condition]
    np.testing.assert_allclose(residuals[0], there - effects @ np.linalg.lstsq(effects, there)[0], atol=1e-10)


def literal_correlation(runs: np.ndarray) -> np.ndarray:
    n_runs, n_conditions, _ = runs.shape
    there = np.isfinite(runs[:, :, 0])

    def covariance(i, j):
        values = [
            np.cov(runs[r, i], runs[s, j], ddof=0)[0, 1]
            for r in range(n_runs)
            for s in range(n_runs)
            if r != s and there[r, i] and there[s, j]
        ]
        return np.mean(values)

    variance = [
        max(covariance(i, i), 0.1 * np.mean([run[i].var() for k, run in enumerate(runs) if there[k, i]]))
        for i in range(n_conditions)
    ]
    return np.array(
        [
            1 - np.clip((covariance(i, j) + covariance(j, i)) / 2 / np.sqrt(variance[i] * variance[j]), -1, 1)
            for i in range(n_conditions)
            for j in range(i + 1, n_conditions)
        ]
    )


@pytest.mark.parametrize("missing", [False, True])
def test_cross_validated_correlation_is_a_literal_loop(rng, runs, missing):
    runs[2] = rng.standard_normal(runs[2].shape)  # no signal: variances are bounded
    if missing:
        runs[:, 1, 3] = np.nan
    for one, rdm in zip(runs, cross_validated_rdms(runs, "cross-validated-correlation"), strict=True):
        np.testing.assert_allclose(rdm, literal_correlation(one), atol=1e-10)


def test_distances_are_unbiased(rng):
    """Without any difference they are 0 on average, where those of averages over runs are not."""
    runs = rng.standard_normal((4000, 3, 4, 10))
    found = cross_validated_rdms(runs, "crossnobis")
    error = found.std(axis=0) / np.sqrt(4000)
    assert (np.abs(found.mean(axis=0)) < 4 * error).all()
    assert (found < 0).mean() > 0.4
    signal = rng.standard_normal((4, 10))
    found = cross_validated_rdms(signal + runs, "crossnobis")
    rows, columns = np.triu_indices(4, k=1)
    true = np.square(signal[rows] - signal[columns]).mean(axis=1)
    assert (np.abs(found.mean(axis=0) - true) < 4 * found.std(axis=0) / np.sqrt(4000)).all()


def test_single_precision_is_precise(runs):
    runs = runs + 800
    exact = cross_validated_rdms(runs, "crossnobis", *noise_of(runs))
    single = runs.astype(np.float32)
    found = cross_validated_rdms(single, "crossnobis", *noise_of(single))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=2e-3 * np.abs(exact).max())
