"""How RDMs are compared: how much the effects of single conditions count.

A condition that lies far from all others makes all of its dissimilarities large. Such condition effects dominate many
RDMs, and say little on how conditions are arranged. Shrinking them by ``sqrt(2 / n)`` makes least squares on RDMs the
generalised least squares for the covariance that dissimilarities of noisy patterns have; the inner products are then
those of linear centred kernel alignment (docs/METHODS.md, "Comparison of RDMs").
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache, partial
from typing import Literal

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.parallel.threads import in_threads
from utils.rdm import Pairs, n_conditions_of

Comparison = Literal["whitened", "plain", "without_condition_effects"]
_RDMS_PER_THREAD = 64


def condition_weight(comparison: Comparison, n_conditions: int) -> float:
    """What a comparison multiplies condition effects by.

    For n conditions with independent noise of equal variance, squared distances have the covariance 4 with themselves,
    1 with those that share a condition, 0 with all others. Its eigenvalues are 2n on the constant, n on condition
    effects and 2 on the rest; whitening therefore shrinks condition effects by ``sqrt(2 / n)`` relative to the rest.

    Parameters
    ----------
    comparison : {"whitened", "plain", "without_condition_effects"}
    n_conditions : int

    Returns
    -------
    float
        ``sqrt(2 / n)``, 1 or 0.

    References
    ----------
    Diedrichsen et al. 2021, Neurons Behav Data Anal Theory 5(3) (whitened RDM similarity).
    """
    return {"whitened": float(np.sqrt(2 / n_conditions)), "plain": 1.0, "without_condition_effects": 0.0}[comparison]


def compared(rdms: ArrayLike, comparison: Comparison, pairs: Pairs | None = None) -> NDArray[np.float64]:
    """RDMs in the form in which ordinary least squares compares them.

    Parameters
    ----------
    rdms : array_like, shape (..., n_pairs)
        Condensed RDMs of 3 or more conditions.
    comparison : {"whitened", "plain", "without_condition_effects"}
    pairs : Pairs, optional
        The pairs that RDMs are restricted to, if not all.

    Returns
    -------
    ndarray of float64, shape (..., n_pairs)
        For "plain" the RDMs as they are; otherwise centred, with condition effects shrunk or removed.
    """
    rdms = np.asarray(rdms, dtype=np.float64)
    if comparison == "plain":
        return rdms
    if pairs is not None:
        return metric(pairs, comparison).compared(rdms)
    return scale_condition_effects(rdms, condition_weight(comparison, n_conditions_of(rdms.shape[-1])))


def as_before(rdms: NDArray[np.float64], comparison: Comparison, pairs: Pairs | None = None) -> NDArray[np.float64]:
    """Undo `compared`, but for the mean, and for condition effects that were removed.

    Parameters
    ----------
    rdms : ndarray of float64, shape (..., n_pairs)
        In the form in which they are compared.
    comparison : {"whitened", "plain", "without_condition_effects"}
    pairs : Pairs, optional

    Returns
    -------
    ndarray of float64, shape (..., n_pairs)
    """
    if pairs is not None:
        return metric(pairs, comparison).as_before(rdms)
    weight = condition_weight(comparison, n_conditions_of(rdms.shape[-1]))
    return scale_condition_effects(rdms, 1 / weight) if weight > 0 else rdms


def transposed(rows: NDArray, comparison: Comparison, pairs: Pairs | None = None) -> NDArray[np.float64]:
    """Rows whose products with RDMs as they are equal those of `rows` with the RDMs as they are compared.

    Parameters
    ----------
    rows : ndarray of float64, shape (..., n_pairs)
        Centred.
    comparison : {"whitened", "plain", "without_condition_effects"}
    pairs : Pairs, optional

    Returns
    -------
    ndarray of float64, shape (..., n_pairs)
    """
    return compared(rows, comparison) if pairs is None else metric(pairs, comparison).transposed(rows)


class Metric:
    """How RDMs of which some pairs are left out are compared.

    Dissimilarities of noisy patterns have the covariance ``V = 2 + M M'`` (of pairs; M is 1 where a condition is in a
    pair), for any choice of the pairs. Generalised least squares is least squares after multiplication by ``V**-0.5``,
    which follows from the eigenvectors of the n x n matrix ``M' M``. It turns the intercept into another vector; this
    is taken out, and a reflection makes it constant, so that all that is compared has the mean 0. Permutations that
    keep the pairs commute with all of this (docs/METHODS.md, "Pairs left out").

    Parameters
    ----------
    pairs : Pairs
    comparison : {"whitened", "plain", "without_condition_effects"}
    """

    def __init__(self, pairs: Pairs, comparison: Comparison) -> None:
        self.pairs, self._comparison = pairs, comparison
        gram = pairs.square + np.diag(pairs.degrees)
        values, self._vectors = np.linalg.eigh(gram.astype(np.float64))
        # Without an odd circle of pairs, one pattern of signs cancels in all of them.
        self._values = np.where(values > 1e-9 * values[-1], values, 0.0)
        self.n_effects = int((self._values > 0).sum())

    def _of_effects(self, function: Callable[[NDArray], NDArray]) -> NDArray[np.float64]:
        """Matrix (n, n) with the eigenvectors of M'M, and a function of its eigenvalues that are not 0."""
        found = self._values > 0
        values = np.where(found, function(np.where(found, self._values, 1.0)), 0.0)
        return np.asarray((self._vectors * values) @ self._vectors.T)

    def _scaled(self, rdms: NDArray, function: Callable[[NDArray], NDArray]) -> NDArray[np.float64]:
        """RDMs with the part along each eigenvector of M M' multiplied by a function of its eigenvalue."""
        factors = self._of_effects(lambda values: (function(values) - 1) / values)
        return np.asarray(rdms + self.pairs.spread(self.pairs.sums(rdms) @ factors))

    @cached_property
    def _reflected(self) -> NDArray[np.float64]:
        """Difference of the intercept as it is compared from a constant, of unit length; 0 if there is none."""
        constant = np.full(self.pairs.n_kept, self.pairs.n_kept**-0.5)
        difference = _units(self._whitened(constant)) - constant
        return _units(difference) if np.linalg.norm(difference) > 1e-12 else np.zeros_like(difference)

    def _whitened(self, rdms: NDArray) -> NDArray[np.float64]:
        return self._scaled(rdms, lambda values: np.sqrt(2 / (2 + values)))

    def _reflect(self, rdms: NDArray) -> NDArray[np.float64]:
        return np.asarray(rdms - 2 * (rdms @ self._reflected)[..., None] * self._reflected)

    def compared(self, rdms: ArrayLike) -> NDArray[np.float64]:
        """RDMs (..., n_kept) in the form in which they are compared, centred."""
        values = np.asarray(rdms, dtype=np.float64)
        values = values - values.mean(axis=-1, keepdims=True)
        if self._comparison == "plain":
            return values
        if self._comparison == "without_condition_effects":
            return self._scaled(values, np.zeros_like)
        values = self._reflect(self._whitened(values))
        return np.asarray(values - values.mean(axis=-1, keepdims=True))

    def as_before(self, rdms: NDArray[np.float64]) -> NDArray[np.float64]:
        """RDMs (..., n_kept) whose compared form this is, but for the mean, and for effects that were removed."""
        if self._comparison != "whitened":
            return rdms
        return self._scaled(self._reflect(rdms), lambda values: np.sqrt((2 + values) / 2))

    def transposed(self, rows: NDArray) -> NDArray[np.float64]:
        """Rows (..., n_kept) such that their products with RDMs are those of `rows` with the compared RDMs."""
        rows = rows - rows.mean(axis=-1, keepdims=True)
        if self._comparison != "whitened":
            return self.compared(rows)
        rows = self._whitened(self._reflect(rows))
        return np.asarray(rows - rows.mean(axis=-1, keepdims=True))

    @cached_property
    def taken(self) -> NDArray[np.float64]:
        """(n, n): the inner product of compared RDMs is that of centred RDMs less ``a @ taken @ b``.

        There a and b are the sums of the conditions of both. For whitened RDMs, this is Woodbury's formula for ``2 /
        V``, less what the intercept takes.
        """
        if self._comparison == "without_condition_effects":
            return self.effects
        if self._comparison == "plain":
            return np.full((self.pairs.n_conditions,) * 2, 1 / (4 * self.pairs.n_kept))
        inverse = np.linalg.inv(self.pairs.square + np.diag(self.pairs.degrees + 2.0))
        intercept = inverse.sum(axis=0)
        return np.asarray(inverse + np.outer(intercept, intercept) / (intercept @ self.pairs.degrees))

    @cached_property
    def effects(self) -> NDArray[np.float64]:
        """(n, n): ``a @ effects @ b`` is the inner product of what condition effects have of two centred RDMs."""
        return self._of_effects(np.reciprocal)


@lru_cache(maxsize=512)
def metric(pairs: Pairs, comparison: Comparison) -> Metric:
    """The `Metric` of some pairs, kept for when it is next asked for."""
    return Metric(pairs, comparison)


def _units(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vector / np.linalg.norm(vector))


def scale_condition_effects(rdms: NDArray, weight: float) -> NDArray[np.float64]:
    """Multiply the effects of single conditions by a weight.

    Parameters
    ----------
    rdms : ndarray, shape (..., n_pairs)
        Condensed RDMs of 3 or more conditions.
    weight : float

    Returns
    -------
    ndarray of float64, shape (..., n_pairs)
        Centred.
    """
    rows = np.array(rdms, dtype=np.float64).reshape(-1, rdms.shape[-1])
    in_threads(partial(_scale, rows, n_conditions_of(rows.shape[1]), weight), len(rows), _RDMS_PER_THREAD)
    return rows.reshape(rdms.shape)


@numba.njit(cache=True, nogil=True)
def _scale(rdms: NDArray, n: int, weight: float, first: int, last: int) -> None:
    """The effect of a condition is the sum of its centred dissimilarities, divided by n - 2."""
    effect = np.empty(n)
    for row in range(first, last):
        rdm = rdms[row]
        rdm -= rdm.mean()
        effect[:] = 0.0
        k = 0
        for i in range(n - 1):
            for j in range(i + 1, n):
                effect[i] += rdm[k]
                effect[j] += rdm[k]
                k += 1
        effect *= (1 - weight) / (n - 2)
        k = 0
        for i in range(n - 1):
            for j in range(i + 1, n):
                rdm[k] -= effect[i] + effect[j]
                k += 1
