"""How well models predict the RDMs of new people for new images: cross-validated R2, in closed form.

The images are cut into folds. For every fold and every person, models are fitted to the mean RDM of all other people,
to pairs of images of all other folds; they then predict that person's dissimilarities among images of that fold.
Weights are linear in the brain RDM, so that one product with what depends on the models only gives those of all folds,
people and locations (docs/METHODS.md, "Cross-validation").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.rdm import Pairs, n_pairs_of
from utils.stats.comparison import Comparison, as_before, compared, transposed
from utils.stats.regression import Basis, LinearStatistic

# With fewer images in a fold, no arrangement is left once the effects of single images are taken out.
LEAST_CONDITIONS = 4
# Singular values of predictors among the training pairs, relative to the largest, below which they add no rank.
_SINGULAR = 1e-8
_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class CrossValidated:
    """What is predicted of people and images that were not used to fit.

    Attributes
    ----------
    values, se : ndarray of float64, shape (n_statistics, n_locations)
        Mean over subjects of the statistic, made of cross-validated R2, and its standard error over subjects (NaN for a
        single one).
    ceiling : ndarray of float64, shape (n_locations,)
        R2 of the other subjects' mean RDM, scaled freely, as a prediction of each subject's RDM among the same pairs;
        NaN for a single subject.
    """

    values: NDArray[np.float64]
    se: NDArray[np.float64]
    ceiling: NDArray[np.float64]

    @classmethod
    def over_locations(cls, parts: Sequence[CrossValidated]) -> CrossValidated:
        """Results of several blocks of locations, one after the other, as one."""
        return cls(
            np.concatenate([part.values for part in parts], axis=1),
            np.concatenate([part.se for part in parts], axis=1),
            np.concatenate([part.ceiling for part in parts]),
        )

    @classmethod
    def over_people(cls, parts: Sequence[CrossValidated]) -> CrossValidated:
        """Mean over people, each of whom is predicted from the own other images by models of the own."""
        if len(parts) == 1:
            return parts[0]
        values = np.stack([part.values for part in parts])
        se = values.std(axis=0, ddof=1) / np.sqrt(len(parts))
        return cls(values.mean(axis=0), se, parts[0].ceiling)


def condition_folds(n_conditions: int, n_folds: int, seed: int) -> NDArray[np.int64]:
    """Random folds of about the same size.

    Parameters
    ----------
    n_conditions, n_folds : int
    seed : int

    Returns
    -------
    ndarray of int64, shape (n_conditions,)
        Fold of each condition, from 0 on.
    """
    # A stream apart from those of permutations, [seed, number], of subsets of the conditions and of sign flips.
    return np.random.default_rng([seed, 0, 3]).permutation(np.arange(n_conditions) % n_folds)


class CrossValidation:
    """A statistic of cross-validated R2. What does not depend on the brain is prepared once.

    RDMs are compared among the training pairs, and among the test pairs, as they are compared among all: whitening uses
    the conditions of the part only, so that nothing of a test image enters a fit. Dissimilarities are predicted up to a
    constant, since noise raises those of some people more than those of others.

    Parameters
    ----------
    basis : Basis
        Of the predictors in the form in which they are compared.
    statistic : LinearStatistic
        Of that basis; its subsets of predictors and their weights are used, not its adjustment.
    comparison : {"whitened", "plain", "without_condition_effects"}
    folds : ndarray of int, shape (n_conditions,)

    Raises
    ------
    ValueError
        If a fold is too small, or the others have too few pairs for so many predictors.
    """

    def __init__(self, basis: Basis, statistic: LinearStatistic, comparison: Comparison, folds: NDArray) -> None:
        n, counts, pairs = basis.n_conditions, np.bincount(folds), basis.pairs
        if counts.min() < LEAST_CONDITIONS or n_pairs_of(n - counts.max()) < max(statistic.sizes) + 2:
            raise ValueError(
                f"folds of {counts.min()} to {counts.max()} of {n} conditions: expected {LEAST_CONDITIONS} or more in "
                f"each, and enough without each to fit {max(statistic.sizes)} predictors"
            )
        self._comparison, self._subset_weights = comparison, statistic.subset_weights
        unscaled = as_before((basis.q @ statistic.directions).T, comparison, pairs)
        parts = [(_part(pairs, folds != f), _part(pairs, folds == f)) for f in range(len(counts))]
        for (train, _), (test, _) in parts if pairs is not None else ():
            if train.sum() < max(statistic.sizes) + 2 or test.sum() < counts.max() + 2:
                raise ValueError(
                    f"a fold has {test.sum()} pairs that count, and {train.sum()} are without its conditions: expected "
                    f"{counts.max() + 2} or more in each, and {max(statistic.sizes) + 2} to fit the predictors"
                )
        subsets = [unscaled[own] for own in statistic.slices()]
        self._folds = [_Fold.of(subsets, train, test, comparison) for train, test in parts]
        self._fit = np.vstack([fold.fit for fold in self._folds]).T.copy()

    def __call__(self, subjects: NDArray) -> CrossValidated:
        """Cross-validated values at some locations.

        Parameters
        ----------
        subjects : ndarray, shape (n_subjects, n_locations, n_pairs)
            Condensed RDMs as they are, any float dtype. A single subject is predicted from its own other images.

        Returns
        -------
        CrossValidated
        """
        n_subjects, n_locations, n_pairs = subjects.shape
        step = max(1, _BLOCK_BYTES // (8 * n_subjects * (n_pairs + self._fit.shape[1])))
        return CrossValidated.over_locations(
            [self._evaluate(subjects[:, start : start + step]) for start in range(0, n_locations, step)]
        )

    def _evaluate(self, subjects: NDArray) -> CrossValidated:
        n, n_locations, n_pairs = subjects.shape
        rdms = np.asarray(subjects, dtype=np.float64)
        rdms = rdms - rdms.mean(axis=2, keepdims=True)
        fitted = (rdms.reshape(-1, n_pairs) @ self._fit).reshape(n, n_locations, -1)
        if n > 1:
            fitted = (fitted.sum(axis=0) - fitted) / (n - 1)
        explained = np.zeros((n, n_locations, self._subset_weights.shape[1]))
        total = np.zeros((n, n_locations))
        of_others, size_of_others = np.zeros((2, n, n_locations))  # products with the others' mean, times n - 1
        start = 0
        for fold in self._folds:
            test = _centred(compared(rdms[:, :, fold.test], self._comparison, fold.pairs))
            predicted = fitted[:, :, start : start + len(fold.fit)]
            start += len(fold.fit)
            terms = predicted * (2 * (test @ fold.axes) - predicted)
            explained += np.add.reduceat(terms, fold.starts, axis=2)
            own, summed = np.square(test).sum(axis=2), test.sum(axis=0)
            with_sum = np.einsum("lp,slp->sl", summed, test)
            total += own
            of_others += with_sum - own
            size_of_others += np.square(summed).sum(axis=1) - 2 * with_sum + own
        with np.errstate(divide="ignore", invalid="ignore"):
            values = (explained / total[:, :, None]) @ self._subset_weights.T
            ceiling = np.square(np.maximum(of_others, 0)) / (size_of_others * total)
        nothing = np.full(values.shape[1:], np.nan)
        se = values.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else nothing
        return CrossValidated(values.mean(axis=0).T, se.T, ceiling.mean(axis=0) if n > 1 else nothing[:, 0])


@dataclass(frozen=True)
class _Fold:
    """One fold: from brain RDMs to what is predicted of its pairs.

    `fit`, (n_axes, n_pairs), times an RDM gives the prediction's coordinates on orthonormal `axes`, (n_test, n_axes),
    of the test pairs, which are numbered in `test`; those of each subset of the predictors begin at `starts`. `pairs`
    are those that count among the test conditions, if not all.
    """

    fit: NDArray[np.float64]
    axes: NDArray[np.float64]
    test: NDArray[np.int64]
    starts: NDArray[np.int64]
    pairs: Pairs | None

    @classmethod
    def of(cls, subsets: Sequence[NDArray[np.float64]], trained: _Part, tested: _Part, comparison: Comparison) -> _Fold:
        (train, train_pairs), (test, test_pairs) = trained, tested
        fits, axes = [], []
        for predictors in subsets:
            # Least-squares weights are W y for the compared RDM y, so that W, compared, gives them for the RDM itself.
            weights = np.linalg.pinv(
                _centred(compared(predictors[:, train], comparison, train_pairs)).T, rcond=_SINGULAR
            )
            weights = _centred(transposed(weights, comparison, train_pairs))
            axis, coordinates = np.linalg.qr(_centred(compared(predictors[:, test], comparison, test_pairs)).T)
            fit = np.zeros((len(coordinates), train.size))
            fit[:, train] = coordinates @ weights
            fits.append(fit)
            axes.append(axis)
        starts = np.cumsum([0, *(len(fit) for fit in fits[:-1])])
        return cls(np.vstack(fits), np.hstack(axes), np.flatnonzero(test), starts, test_pairs)


# Which pairs are of some conditions, and these as the pairs of those conditions alone, if they are not all.
_Part = tuple[NDArray[np.bool_], Pairs | None]


def _part(pairs: Pairs | None, conditions: NDArray[np.bool_]) -> _Part:
    if pairs is not None:
        return pairs.among(conditions)
    first, second = conditions[np.array(np.triu_indices(len(conditions), k=1))]
    return first & second, None


def _centred(rdms: NDArray[np.float64]) -> NDArray[np.float64]:
    return rdms - rdms.mean(axis=-1, keepdims=True)
