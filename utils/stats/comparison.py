"""How RDMs are compared: how much the effects of single conditions count.

A condition that lies far from all others makes all of its dissimilarities large. Such condition effects dominate many
RDMs, and say little on how conditions are arranged. Shrinking them by ``sqrt(2 / n)`` makes least squares on RDMs the
generalised least squares for the covariance that dissimilarities of noisy patterns have; the inner products are then
those of linear centred kernel alignment (docs/METHODS.md, "Comparison of RDMs").
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.parallel.threads import in_threads
from utils.rdm import n_conditions_of

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


def compared(rdms: ArrayLike, comparison: Comparison) -> NDArray[np.float64]:
    """RDMs in the form in which ordinary least squares compares them.

    Parameters
    ----------
    rdms : array_like, shape (..., n_pairs)
        Condensed RDMs of 3 or more conditions.
    comparison : {"whitened", "plain", "without_condition_effects"}

    Returns
    -------
    ndarray of float64, shape (..., n_pairs)
        For "plain" the RDMs as they are; otherwise centred, with condition effects shrunk or removed.
    """
    rdms = np.asarray(rdms, dtype=np.float64)
    n = n_conditions_of(rdms.shape[-1])
    return scale_condition_effects(rdms, condition_weight(comparison, n)) if comparison != "plain" else rdms


def as_before(rdms: NDArray[np.float64], comparison: Comparison) -> NDArray[np.float64]:
    """Undo `compared`, but for the mean, and for condition effects that were removed.

    Parameters
    ----------
    rdms : ndarray of float64, shape (..., n_pairs)
        In the form in which they are compared.
    comparison : {"whitened", "plain", "without_condition_effects"}

    Returns
    -------
    ndarray of float64, shape (..., n_pairs)
    """
    weight = condition_weight(comparison, n_conditions_of(rdms.shape[-1]))
    return scale_condition_effects(rdms, 1 / weight) if weight > 0 else rdms


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
