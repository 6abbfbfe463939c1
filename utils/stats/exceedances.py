"""What the permutation test counts: types that the CPU and the GPU share, and the exact check in float64.

`exceedances_cpu` and `exceedances_gpu` count how often null values reach observed ones. Both multiply in float32. Where
float32 cannot tell a null value from the observed one, `Exact` computes that single value again in float64, so that all
counts are those of float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray

from utils.rdm import n_conditions_of, pair_permutation

PLAIN, TWO_SIDED, SIGNED = 0, 1, 2
UNIT_ROUNDOFF = float(np.finfo(np.float32).eps) / 2
Unit = Literal["conditions", "entries"]
# Permutations that share a stream of random numbers: to start a stream takes as long as to draw ten permutations.
_PER_STREAM = 16
# To start threads takes longer than a few values do.
_ENTRIES_FOR_THREADS = 4096


@dataclass(frozen=True)
class Permutations:
    """Random permutations number 0, 1, 2, ..., n - 1 of condensed RDMs.

    Attributes
    ----------
    n : int
    unit : {"conditions", "entries"}
        Exchange conditions (Mantel 1967, Cancer Res 27:209), or the entries of the RDM as if they were independent
        (as in the published code).
    seed : int
    """

    n: int
    unit: Unit = "conditions"
    seed: int = 0

    def orders(self, n_pairs: int, start: int, stop: int) -> NDArray[np.int64]:
        """Permutations of what is exchanged.

        Parameters
        ----------
        n_pairs : int
            Entries of a condensed RDM.
        start, stop : int
            Numbers of the first permutation, and of the one after the last.

        Returns
        -------
        ndarray of int64, shape (stop - start, n_conditions) or (stop - start, n_pairs)
            The same ones however the range is cut.
        """
        n_items = n_conditions_of(n_pairs) if self.unit == "conditions" else n_pairs
        first, items = start // _PER_STREAM, np.tile(np.arange(n_items), (_PER_STREAM, 1))
        streams = [
            np.random.default_rng([self.seed, stream]).permuted(items, axis=1)
            for stream in range(first, -(-stop // _PER_STREAM))
        ]
        return np.concatenate(streams)[start - first * _PER_STREAM : stop - first * _PER_STREAM]

    def indices(self, n_pairs: int, start: int, stop: int) -> NDArray[np.int64]:
        """Indices, (stop - start, n_pairs), that permute a condensed RDM by the `orders` of the same numbers."""
        orders = self.orders(n_pairs, start, stop)
        return orders if self.unit == "entries" else pair_permutation(orders)


@dataclass(frozen=True)
class Contrasts:
    """Values to be counted, each a weighted sum of squared projections.

    Attributes
    ----------
    weights : ndarray of float64, shape (n_contrasts, n_directions)
    offset : ndarray of float64, shape (n_contrasts,)
    kind : ndarray of int64, shape (n_contrasts,)
        Compare the value (`PLAIN`, which come first), its absolute value (`TWO_SIDED`), or the value times its sign
        (`SIGNED`).
    """

    weights: NDArray[np.float64]
    offset: NDArray[np.float64]
    kind: NDArray[np.int64]

    @property
    def n_plain(self) -> int:
        """How many of the contrasts are plain."""
        return int((self.kind == PLAIN).sum())

    @cached_property
    def terms(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Weights that are not 0: start, direction, weight; contrast i has those from ``start[i]`` on."""
        row, direction = np.nonzero(self.weights)
        return np.searchsorted(row, np.arange(len(self.weights) + 1)), direction, self.weights[row, direction]

    @cached_property
    def rounding(self) -> float:
        """Relative error of the sum of a contrast's terms in float32.

        Higham 2002, Accuracy and Stability of Numerical Algorithms, eq. 4.4.
        """
        return UNIT_ROUNDOFF * (4 + int((self.weights != 0).sum(axis=1).max(initial=0)))


@dataclass(frozen=True)
class NullPlan:
    """What is counted, whatever the locations.

    Attributes
    ----------
    basis : ndarray of float64, shape (rank, n_pairs)
        Orthonormal basis of all predictors.
    rotation : ndarray of float64, shape (n_directions, rank)
        Coordinates of the directions whose projections are squared; orthonormal within each subset of the predictors.
    contrasts : Contrasts
    permutations : Permutations
    sorted_thresholds : tuple of ndarray of float64
        Thresholds of the plain contrasts at all locations, ascending, and those of the others: what the largest value
        of a permutation will be compared with.
    """

    basis: NDArray[np.float64]
    rotation: NDArray[np.float64]
    contrasts: Contrasts
    permutations: Permutations
    sorted_thresholds: tuple[NDArray[np.float64], NDArray[np.float64]]

    @cached_property
    def directions(self) -> NDArray[np.float64]:
        """The directions themselves, (n_directions, n_pairs)."""
        return self.rotation @ self.basis

    @property
    def rotates_late(self) -> bool:
        """Whether it takes fewer products to permute the basis, and to rotate to the directions after projecting.

        It does where subsets of the predictors overlap, as in variance partitioning.
        """
        return len(self.rotation) > len(self.basis)

    @property
    def permuted(self) -> NDArray[np.float64]:
        """What is permuted: the basis or the directions."""
        return self.basis if self.rotates_late else self.directions

    @property
    def error(self) -> float:
        """Error of a projection in float32.

        For a sum of n products of unit vectors it grows as sqrt(n) (Higham & Mary 2019, SIAM J Sci Comput 41:A2815).
        What is met in practice is several times smaller.
        """
        return UNIT_ROUNDOFF * float(np.sqrt(self.basis.shape[1]))


@dataclass(frozen=True)
class Targets:
    """Brain RDMs of some locations, and what null values have to reach there.

    Attributes
    ----------
    responses : ndarray of float64, shape (n_locations, n_pairs)
        Standardised brain RDMs.
    thresholds, sign : ndarray of float64, shape (n_contrasts, n_locations)
        A null value counts if it is at least the threshold; contrasts of kind `SIGNED` are multiplied by `sign` first.
    """

    responses: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    sign: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.responses)

    def chunks(self, size: int) -> Iterator[Targets]:
        """All locations, in chunks of about the same length and at most `size`."""
        for chosen in np.array_split(np.arange(len(self)), -(-len(self) // size)):
            here = slice(chosen[0], chosen[-1] + 1)
            yield Targets(self.responses[here], self.thresholds[:, here], self.sign[:, here])


@dataclass(frozen=True)
class Counts:
    """How many null values reached their thresholds.

    Attributes
    ----------
    count : ndarray of int64, shape (n_contrasts, n_locations)
    best : ndarray of int64, shape (n_locations,)
        How often the largest of the plain contrasts reaches the largest of their thresholds.
    largest : ndarray of float64, shape (2, n_permutations)
        Largest value of the plain contrasts, and of the others, over all locations: right up to where it lies among all
        thresholds.
    """

    count: NDArray[np.int64]
    best: NDArray[np.int64]
    largest: NDArray[np.float64]

    @classmethod
    def over_locations(cls, parts: Sequence[Counts]) -> Counts:
        """Counts of the same permutations at several chunks of locations, as one."""
        return cls(
            np.concatenate([part.count for part in parts], axis=1),
            np.concatenate([part.best for part in parts]),
            np.maximum.reduce([part.largest for part in parts]),
        )

    @classmethod
    def over_permutations(cls, parts: Sequence[Counts]) -> Counts:
        """Counts of successive permutations at the same locations, as one."""
        return cls(
            np.sum([part.count for part in parts], axis=0),
            np.sum([part.best for part in parts], axis=0),
            np.concatenate([part.largest for part in parts], axis=1),
        )


def permute(vectors: NDArray, permutations: NDArray[np.int64]) -> NDArray:
    """Vectors in all orders, some twenty times as fast as indexing of numpy or torch.

    Parameters
    ----------
    vectors : ndarray, shape (n_vectors, n_pairs)
    permutations : ndarray of int64, shape (n, n_pairs)

    Returns
    -------
    ndarray, shape (n_vectors, n, n_pairs)
        Of the same dtype.
    """
    result = np.empty((len(vectors), *permutations.shape), dtype=vectors.dtype)
    _permute(np.ascontiguousarray(vectors), permutations, result)
    return result


@numba.njit(parallel=True, cache=True)
def _permute(vectors, permutations, result):
    for p in numba.prange(len(permutations)):
        for v in range(len(vectors)):
            for k in range(permutations.shape[1]):
                result[v, p, k] = vectors[v, permutations[p, k]]


class Exact:
    """Single values in float64, for what float32 leaves open.

    An entry is (permutation, contrast, location); the contrast numbered n_contrasts stands for the largest of the plain
    ones.

    Parameters
    ----------
    plan : NullPlan
    targets : Targets

    Attributes
    ----------
    best_threshold : ndarray of float64, shape (n_locations,)
        Largest threshold of the plain contrasts.
    """

    def __init__(self, plan: NullPlan, targets: Targets) -> None:
        self._plan, self._targets = plan, targets
        contrasts = plan.contrasts
        self.best_threshold = targets.thresholds[: contrasts.n_plain].max(axis=0)
        self._operands = (
            np.ascontiguousarray(plan.directions), np.ascontiguousarray(targets.responses), *contrasts.terms,
            contrasts.offset, contrasts.kind, targets.sign, contrasts.n_plain,
        )  # fmt: skip

    def values(self, entries: NDArray[np.int64], permutations: NDArray[np.int64]) -> NDArray[np.float64]:
        """Values of `entries`, (n_entries, 3), whose permutations are rows of `permutations`, (n, n_pairs)."""
        compute = _values if len(entries) < _ENTRIES_FOR_THREADS else _values_in_threads
        return compute(entries, permutations, self._operands)

    def recheck_in_float64(
        self,
        doubtful: NDArray[np.int64],
        permutations: NDArray[np.int64],
        count: NDArray[np.int64],
        best: NDArray[np.int64],
    ) -> None:
        """Add those doubtful entries to the counts that do reach their thresholds.

        Parameters
        ----------
        doubtful : ndarray of int64, shape (n_entries, 3)
        permutations : ndarray of int64, shape (n, n_pairs)
        count, best : ndarray of int64, shapes (n_contrasts, n_locations) and (n_locations,)
            Changed in place.
        """
        values = self.values(doubtful, permutations)
        contrast, location = doubtful[:, 1], doubtful[:, 2]
        is_best = contrast == len(count)
        own = self._targets.thresholds[np.where(is_best, 0, contrast), location]
        reached = values >= np.where(is_best, self.best_threshold[location], own)
        np.add.at(count, (contrast[~is_best & reached], location[~is_best & reached]), 1)
        np.add.at(best, location[is_best & reached], 1)

    def is_open(self, largest: NDArray[np.float64], error: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether rounding could move the largest values, (2, n), of permutations across a threshold anywhere."""
        return np.stack(
            [
                np.searchsorted(thresholds, value - e) != np.searchsorted(thresholds, value + e, side="right")
                for thresholds, value, e in zip(self._plan.sorted_thresholds, largest, error, strict=True)
            ]
        )


@numba.njit(cache=True)
def _values(entries, permutations, operands):
    result = np.empty(len(entries))
    for i in range(len(entries)):
        result[i] = _value(entries[i], permutations, *operands)
    return result


@numba.njit(parallel=True, cache=True)
def _values_in_threads(entries, permutations, operands):
    result = np.empty(len(entries))
    for i in numba.prange(len(entries)):
        result[i] = _value(entries[i], permutations, *operands)
    return result


@numba.njit(cache=True)
def _value(entry, permutations, basis, responses, start, direction, weight, offset, kind, sign, n_plain):
    p, contrast, location = entry[0], entry[1], entry[2]
    first, last = (0, n_plain) if contrast == offset.size else (contrast, contrast + 1)
    largest = -np.inf
    for r in range(first, last):
        value = offset[r]
        for t in range(start[r], start[r + 1]):
            total = 0.0
            for k in range(permutations.shape[1]):
                total += basis[direction[t], permutations[p, k]] * responses[location, k]
            value += weight[t] * total * total
        if kind[r] == TWO_SIDED:
            value = abs(value)
        elif kind[r] == SIGNED:
            value *= sign[r, location]
        largest = max(largest, value)
    return largest
