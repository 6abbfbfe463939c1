"""Representational dissimilarity matrices (RDMs).

An RDM travels as its condensed vector: the strict upper triangle in row-major order, as in `scipy.spatial.distance`.
A stack of RDMs has shape (..., n_pairs), with n_pairs = n (n - 1) / 2 for n conditions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

EPSILON = float(np.finfo(np.float64).eps)


def n_pairs_of(n_conditions: int) -> int:
    """Number of entries of a condensed RDM.

    Parameters
    ----------
    n_conditions : int

    Returns
    -------
    int
        ``n (n - 1) / 2``.
    """
    return n_conditions * (n_conditions - 1) // 2


def n_conditions_of(n_pairs: int) -> int:
    """Number of conditions of a condensed RDM.

    Parameters
    ----------
    n_pairs : int

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If no number of conditions has that many pairs.
    """
    n = round((1 + (1 + 8 * n_pairs) ** 0.5) / 2)
    if n_pairs < 1 or n_pairs_of(n) != n_pairs:
        raise ValueError(f"{n_pairs} entries are not a condensed RDM: expected n (n - 1) / 2 of them for some n >= 2")
    return n


def condense(rdms: ArrayLike) -> NDArray:
    """Strict upper triangle of square RDMs.

    Parameters
    ----------
    rdms : array_like, shape (..., n, n)
        Square RDMs. Only the part above the diagonal is read.

    Returns
    -------
    ndarray, shape (..., n (n - 1) / 2)
        Condensed RDMs, same dtype.

    Raises
    ------
    ValueError
        If the RDMs are not square.
    """
    rdms = np.asarray(rdms)
    if rdms.ndim < 2 or rdms.shape[-1] != rdms.shape[-2]:
        raise ValueError(f"expected square RDMs of shape (..., n, n), got shape {rdms.shape}")
    rows, columns = np.triu_indices(rdms.shape[-1], k=1)
    return rdms[..., rows, columns]


def expand(vectors: ArrayLike) -> NDArray:
    """Square, symmetric RDMs with a zero diagonal: the inverse of `condense`.

    Parameters
    ----------
    vectors : array_like, shape (..., n_pairs)

    Returns
    -------
    ndarray, shape (..., n, n)
        Same dtype.
    """
    vectors = np.asarray(vectors)
    n = n_conditions_of(vectors.shape[-1])
    rows, columns = np.triu_indices(n, k=1)
    rdms = np.zeros((*vectors.shape[:-1], n, n), dtype=vectors.dtype)
    rdms[..., rows, columns] = vectors
    rdms[..., columns, rows] = vectors
    return rdms


def is_constant(rdms: NDArray) -> NDArray[np.bool_]:
    """Whether the entries of RDMs differ by no more than rounding.

    Parameters
    ----------
    rdms : ndarray, shape (..., n_pairs)
        Condensed, finite.

    Returns
    -------
    ndarray of bool, shape (...)
    """
    low, high = rdms.min(axis=-1), rdms.max(axis=-1)
    return np.asarray(high - low <= rdms.shape[-1] * EPSILON * np.maximum(np.abs(low), np.abs(high)))


def is_similarity(rdms: NDArray, diagonals: NDArray) -> NDArray[np.bool_]:
    """Whether square matrices hold similarities: on their diagonal stands more than anywhere beside it.

    Parameters
    ----------
    rdms : ndarray, shape (..., n_pairs)
        Condensed.
    diagonals : ndarray, shape (..., n_conditions)

    Returns
    -------
    ndarray of bool, shape (...)
        False for diagonals of 0, since cross-validated distances may all be negative.
    """
    return np.asarray((diagonals.min(axis=-1) > rdms.max(axis=-1)) & (diagonals != 0).any(axis=-1))


def correlation_rdm(patterns: ArrayLike) -> NDArray[np.float64]:
    """1 - Pearson correlation between the patterns of every pair of conditions, in float64.

    Parameters
    ----------
    patterns : array_like, shape (..., n_conditions, n_features)
        Response patterns: voxels of a searchlight or ROI, or units of a network layer.

    Returns
    -------
    ndarray of float64, shape (..., n_pairs)
        Condensed RDMs in [0, 2]. NaN where a pattern is constant over features.

    References
    ----------
    Kriegeskorte, Mur & Bandettini 2008, Front Syst Neurosci 2:4.
    """
    return pattern_rdms(np.asarray(patterns, dtype=np.float64))


def pattern_rdms(patterns: Any, metric: str = "correlation", *, center: bool = False) -> Any:
    """RDMs of stacks of response patterns, on whatever device and in whatever precision they are.

    Parameters
    ----------
    patterns : ndarray or torch.Tensor, shape (..., n_conditions, n_features)
    metric : str
        One of `METRICS`.
    center : bool
        Subtract the mean over conditions from every feature first. This changes correlations and cosines, not Euclidean
        distances.

    Returns
    -------
    ndarray or torch.Tensor, shape (..., n_pairs)
        Condensed RDMs of the same type, precision and device.

    Raises
    ------
    ValueError
        If the metric is unknown.
    """
    if metric not in METRICS:
        raise ValueError(f"unknown metric '{metric}'; there are {', '.join(METRICS)}")
    if center:
        patterns = patterns - patterns.mean(axis=-2, keepdims=True)
    with np.errstate(invalid="ignore"):
        square = METRICS[metric](patterns)
    rows, columns = np.triu_indices(patterns.shape[-2], k=1)
    return square[..., rows, columns]


# Metrics use only what numpy arrays and torch tensors have in common. Each returns (..., n_conditions, n_conditions).


def _correlation(patterns: Any) -> Any:
    return _angle(patterns, patterns - patterns.mean(axis=-1, keepdims=True))


def _cosine(patterns: Any) -> Any:
    return _angle(patterns, patterns)


def _angle(patterns: Any, vectors: Any) -> Any:
    """1 - cosine of the angle between vectors; NaN for those that are zero but for rounding of the patterns."""
    length = (vectors * vectors).sum(axis=-1, keepdims=True) ** 0.5
    size = (patterns * patterns).sum(axis=-1, keepdims=True) ** 0.5
    epsilon = float(np.finfo(str(patterns.dtype).replace("torch.", "")).eps)
    exists = length > epsilon * patterns.shape[-1] ** 0.5 * size
    unit = vectors * exists / (length * exists)
    distances = 1 - (unit @ unit.swapaxes(-1, -2)).clip(-1, 1)
    # Patterns of one direction, such as those of two voxels: what rounding leaves is no distance.
    return distances * (abs(distances) > 4 * epsilon)


def _squared_euclidean(patterns: Any) -> Any:
    # Distances stay the same when all patterns move; around 0 the difference below loses the fewest digits.
    patterns = patterns - patterns.mean(axis=-2, keepdims=True)
    square = (patterns * patterns).sum(axis=-1, keepdims=True)
    return (square + square.swapaxes(-1, -2) - 2 * (patterns @ patterns.swapaxes(-1, -2))).clip(0, None)


def _euclidean(patterns: Any) -> Any:
    return _squared_euclidean(patterns) ** 0.5


METRICS: dict[str, Callable[[Any], Any]] = {
    "correlation": _correlation,
    "cosine": _cosine,
    "euclidean": _euclidean,
    "sqeuclidean": _squared_euclidean,
}


def pair_permutation(conditions: ArrayLike) -> NDArray[np.int64]:
    """What permutations of conditions do to a condensed RDM.

    Parameters
    ----------
    conditions : array_like of int, shape (..., n_conditions)
        Permutations: new position i holds condition ``conditions[..., i]``.

    Returns
    -------
    ndarray of int64, shape (..., n_pairs)
        `index` such that ``vector[index]`` equals ``condense(rdm[conditions][:, conditions])``.
    """
    conditions = np.asarray(conditions)
    n = conditions.shape[-1]
    rows, columns = np.triu_indices(n, k=1)
    return _number(conditions[..., rows], conditions[..., columns], n)


def _number(first: NDArray, second: NDArray, n: int) -> NDArray[np.int64]:
    """Where pairs of n conditions stand in the condensed form: (i, j), i < j, at i n - i (i + 1) / 2 + j - i - 1."""
    low, high = np.minimum(first, second), np.maximum(first, second)
    return low * n - low * (low + 1) // 2 + high - low - 1


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs of conditions that count where others are left out, such as those within a run.

    RDMs are then restricted to these: vectors of `n_kept` entries, in the order of the condensed form.

    Attributes
    ----------
    kept : ndarray of bool, shape (n (n - 1) / 2,)
        Of all pairs, whether they count.
    """

    kept: NDArray[np.bool_]

    @classmethod
    def where(cls, square: NDArray[np.bool_]) -> Pairs:
        """The pairs that are True in a symmetric matrix (n, n)."""
        return cls(condense(square))

    @property
    def n_conditions(self) -> int:
        """Number of conditions."""
        return n_conditions_of(len(self.kept))

    @property
    def n_kept(self) -> int:
        """Number of pairs that count."""
        return len(self.first)

    @property
    def first(self) -> NDArray[np.int64]:
        """The condition of every pair that comes first, (n_kept,)."""
        return self._ends[0]

    @property
    def second(self) -> NDArray[np.int64]:
        """The other one."""
        return self._ends[1]

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.array(np.triu_indices(self.n_conditions, k=1))[:, self.kept]

    @cached_property
    def square(self) -> NDArray[np.bool_]:
        """Whether two conditions are a pair that counts, (n, n)."""
        return expand(self.kept)

    @cached_property
    def position(self) -> NDArray[np.int64]:
        """Number of the pair of two conditions among those that count, (n, n); -1 for others."""
        numbers = np.where(self.kept, np.cumsum(self.kept) - 1, -1)
        return np.where(self.square, expand(numbers), -1)

    def of(self, rdms: NDArray) -> NDArray:
        """Whole condensed RDMs (..., n (n - 1) / 2), restricted to these pairs: (..., n_kept)."""
        return np.take(rdms, np.flatnonzero(self.kept), axis=-1)

    def filled(self, rdms: NDArray) -> NDArray:
        """Whole condensed RDMs (..., n (n - 1) / 2), with 0 for the pairs that are left out: undoes `of`."""
        whole = np.zeros((*rdms.shape[:-1], len(self.kept)), dtype=rdms.dtype)
        whole[..., self.kept] = rdms
        return whole

    def sums(self, rdms: NDArray) -> NDArray[np.float64]:
        """Of every condition, the sum over the pairs that it is in: (..., n) of restricted RDMs (..., n_kept)."""
        rows = np.asarray(rdms, dtype=np.float64).reshape(-1, self.n_kept)
        return np.ascontiguousarray((self._incidence @ rows.T).T).reshape(*rdms.shape[:-1], self.n_conditions)

    def spread(self, effects: NDArray) -> NDArray[np.float64]:
        """Restricted RDMs that are sums of one value per condition: (..., n_kept) from (..., n)."""
        return np.asarray(effects[..., self.first] + effects[..., self.second])

    @cached_property
    def _incidence(self) -> Any:
        """Sparse (n, n_kept): 1 where a condition is in a pair."""
        from scipy.sparse import csr_array

        columns = np.tile(np.arange(self.n_kept), 2)
        return csr_array((np.ones(2 * self.n_kept), (self._ends.ravel(), columns)), (self.n_conditions, self.n_kept))

    @cached_property
    def degrees(self) -> NDArray[np.int64]:
        """In how many pairs every condition is, (n,)."""
        return np.asarray(self.square.sum(axis=0))

    def among(self, conditions: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], Pairs]:
        """Which of these pairs are of some conditions (n,), and these as the pairs of those conditions alone."""
        return conditions[self.first] & conditions[self.second], Pairs.where(
            self.square[np.ix_(conditions, conditions)]
        )

    def reordered(self, conditions: NDArray[np.int64]) -> Pairs:
        """The same pairs where condition ``conditions[i]`` stands at position i."""
        return Pairs.where(self.square[np.ix_(conditions, conditions)])

    def permutation(self, conditions: NDArray[np.int64], among: Pairs | None = None) -> NDArray[np.int64]:
        """What permutations of conditions do to restricted RDMs; see `pair_permutation`.

        Parameters
        ----------
        conditions : ndarray of int, shape (..., n_conditions)
        among : Pairs, optional
            The pairs that are permuted, if their order is another one than that of these.

        Returns
        -------
        ndarray of int64, shape (..., n_kept)

        Raises
        ------
        ValueError
            If a permutation puts a pair that is left out in the place of one that counts.
        """
        position = (among or self).position
        moved = np.asarray(position[conditions[..., self.first], conditions[..., self.second]])
        if (moved < 0).any():
            raise ValueError("a permutation of conditions exchanges pairs that count with pairs that are left out")
        return moved

    def keeps(self, conditions: NDArray[np.int64]) -> bool:
        """Whether permutations of conditions, (n, n_conditions), leave the pairs that count as they are."""
        moved = self.square[conditions[:, :, None], conditions[:, None, :]]
        return bool((moved == self.square).all())

    def fewest_without(self, n_left_out: int) -> int:
        """A number of pairs that is left at least, whichever conditions are left out."""
        return int(self.n_kept - np.sort(self.degrees)[-n_left_out:].sum()) if n_left_out else self.n_kept

    @cached_property
    def exchangeable(self) -> NDArray[np.int64]:
        """Classes of conditions, (n,), any two of which can change places without that the pairs that count change.

        Two such conditions lack the same partners, apart from each other. This is an equivalence relation: to exchange
        i with j, j with k and i with j again is to exchange i with k.
        """
        left_out = ~self.square & ~np.eye(self.n_conditions, dtype=bool)
        classes, n_classes = np.arange(self.n_conditions), self.n_conditions
        # Of conditions that are not left out beside each other, and of those that are, no two groups overlap.
        for partners in (left_out, left_out | np.eye(self.n_conditions, dtype=bool)):
            _, group, size = np.unique(partners, axis=0, return_inverse=True, return_counts=True)
            group = group.ravel()
            together = size[group] > 1
            classes[together] = n_classes + group[together]
            n_classes += len(size)
        first, classes = np.unique(classes, return_index=True, return_inverse=True)[1:]
        return np.argsort(np.argsort(first))[classes.ravel()]
