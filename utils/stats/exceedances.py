"""Counting how often null values reach observed ones: the inner loop of the permutation test on a CPU.

One large product in float32 projects all places on a block of permuted bases; one pass over it squares, sums, compares
and keeps maxima. Where float32 cannot tell a null value from the observed one, that single value is computed again in
float64, so that all counts are those of float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numba
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
from typing import Literal

from utils.rdm import n_conditions_of, pair_permutation

PLAIN, TWO_SIDED, SIGNED = 0, 1, 2
Progress = Callable[[int, int], None]
UNIT_ROUNDOFF = float(np.finfo(np.float32).eps) / 2


@dataclass(frozen=True)
class Rows:
    """Values to be counted, each a weighted sum of squared projections.

    Attributes
    ----------
    weights : ndarray of float64, shape (n_rows, n_directions)
    offset : ndarray of float64, shape (n_rows,)
    kind : ndarray of int64, shape (n_rows,)
        Compare the value (`PLAIN`, which come first), its absolute value (`TWO_SIDED`), or the value times its sign
        (`SIGNED`).
    """

    weights: NDArray[np.float64]
    offset: NDArray[np.float64]
    kind: NDArray[np.int64]

    @property
    def n_plain(self) -> int:
        return int((self.kind == PLAIN).sum())

    @cached_property
    def terms(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Weights that are not 0: start, direction, weight; row r has those from ``start[r]`` on."""
        row, direction = np.nonzero(self.weights)
        return np.searchsorted(row, np.arange(len(self.weights) + 1)), direction, self.weights[row, direction]

    @cached_property
    def rounding(self) -> float:
        """Relative error of the sum of a row's terms in float32 (Higham 2002, Accuracy and Stability, eq. 4.4)."""
        return UNIT_ROUNDOFF * (4 + int((self.weights != 0).sum(axis=1).max(initial=0)))


@dataclass(frozen=True)
class Plan:
    """What is counted, whatever the places and the permutations.

    Attributes
    ----------
    basis : ndarray of float64, shape (rank, n_pairs)
        Orthonormal basis of all predictors.
    turn : ndarray of float64, shape (n_directions, rank)
        Coordinates of the directions whose projections are squared; orthonormal within each subset of the predictors.
    rows : Rows
    draws : Draws
    sorted_targets : tuple of ndarray of float64
        Targets of the plain rows at all places, ascending, and those of the other rows: what the largest value of a
        permutation will be compared with.
    """

    basis: NDArray[np.float64]
    turn: NDArray[np.float64]
    rows: Rows
    draws: Draws
    sorted_targets: tuple[NDArray[np.float64], NDArray[np.float64]]

    @cached_property
    def directions(self) -> NDArray[np.float64]:
        """The directions themselves, (n_directions, n_pairs)."""
        return self.turn @ self.basis

    @property
    def turns_late(self) -> bool:
        """Whether it takes fewer products to permute the basis, and to turn to the directions after projecting.

        It does where subsets of the predictors overlap, as in variance partitioning.
        """
        return len(self.turn) > len(self.basis)

    @property
    def permuted(self) -> NDArray[np.float64]:
        """What is permuted: the basis or the directions."""
        return self.basis if self.turns_late else self.directions

    @property
    def error(self) -> float:
        """Error of a projection in float32.

        For a sum of n products of unit vectors it grows as sqrt(n) (Higham & Mary 2019, SIAM J Sci Comput 41:A2815).
        What is met in practice is several times smaller.
        """
        return UNIT_ROUNDOFF * float(np.sqrt(self.basis.shape[1]))


@dataclass(frozen=True)
class Places:
    """Places in the brain, and what null values have to reach there.

    Attributes
    ----------
    responses : ndarray of float64, shape (n_places, n_pairs)
        Standardised brain RDMs.
    targets, sign : ndarray of float64, shape (n_rows, n_places)
        A null value counts if it is at least the target; rows of kind `SIGNED` are multiplied by `sign` first.
    """

    responses: NDArray[np.float64]
    targets: NDArray[np.float64]
    sign: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.responses)

    def pieces(self, size: int) -> Iterator[Places]:
        """All places, in pieces of about the same length and at most `size`."""
        for chosen in np.array_split(np.arange(len(self)), -(-len(self) // size)):
            here = slice(chosen[0], chosen[-1] + 1)
            yield Places(self.responses[here], self.targets[:, here], self.sign[:, here])


@dataclass(frozen=True)
class Counts:
    """How many null values reached their targets.

    Attributes
    ----------
    count : ndarray of int64, shape (n_rows, n_places)
    best : ndarray of int64, shape (n_places,)
        How often the largest of the plain rows reaches the largest of their targets.
    largest : ndarray of float64, shape (2, n_permutations)
        Largest value of the plain rows, and of the others, over all places: right up to where it lies among all
        targets.
    slack : int
        At most so many counts of a row at a place, or of its best, were left open by rounding and taken as reached.
    """

    count: NDArray[np.int64]
    best: NDArray[np.int64]
    largest: NDArray[np.float64]
    slack: int = 0

    @classmethod
    def beside(cls, parts: Sequence[Counts]) -> Counts:
        """Counts of the same permutations at other places, as one."""
        return cls(
            np.concatenate([part.count for part in parts], axis=1),
            np.concatenate([part.best for part in parts]),
            np.maximum.reduce([part.largest for part in parts]),
            max(part.slack for part in parts),
        )

    @classmethod
    def after(cls, parts: Sequence[Counts]) -> Counts:
        """Counts of later permutations at the same places, as one."""
        count, best = parts[0].count.copy(), parts[0].best.copy()
        for part in parts[1:]:
            count += part.count
            best += part.best
        largest = np.concatenate([part.largest for part in parts], axis=1)
        return cls(count, best, largest, sum(part.slack for part in parts))


def permute(vectors: NDArray, permutations: NDArray[np.int64]) -> NDArray:
    """Vectors (n_vectors, n_pairs) in all orders (n, n_pairs), as an array (n_vectors, n, n_pairs) of their type.

    Some twenty times as fast as indexing of numpy or torch.
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


def _single(array: NDArray) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


class Exact:
    """Single values in float64, for what float32 leaves open."""

    def __init__(self, plan: Plan, places: Places) -> None:
        self._plan, self._places = plan, places
        self._basis, self._responses = np.ascontiguousarray(plan.directions), np.ascontiguousarray(places.responses)
        self.target_best = places.targets[: plan.rows.n_plain].max(axis=0)

    def values(self, entries: NDArray[np.int64], permutations: NDArray[np.int64]) -> NDArray[np.float64]:
        """Values of `entries`, rows of (permutation, row, place); row n_rows is the largest of the plain ones."""
        rows = self._plan.rows
        start, direction, weight = rows.terms
        recalculate = _recalculate if len(entries) < _ENTRIES_FOR_THREADS else _recalculate_in_threads
        return recalculate(
            entries, permutations, self._basis, self._responses, start, direction, weight, rows.offset, rows.kind,
            self._places.sign, rows.n_plain,
        )  # fmt: skip

    def settle(
        self,
        doubtful: NDArray[np.int64],
        permutations: NDArray[np.int64],
        count: NDArray[np.int64],
        best: NDArray[np.int64],
    ) -> None:
        """Add those doubtful entries to the counts that do reach their targets."""
        values = self.values(doubtful, permutations)
        row, place = doubtful[:, 1], doubtful[:, 2]
        is_best = row == len(count)
        target = np.where(is_best, self.target_best[place], self._places.targets[np.where(is_best, 0, row), place])
        reached = values >= target
        np.add.at(count, (row[~is_best & reached], place[~is_best & reached]), 1)
        np.add.at(best, place[is_best & reached], 1)

    def is_open(self, largest: NDArray[np.float64], error: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether rounding could move the largest values, (2, n), of permutations across a target of any place."""
        return np.stack(
            [
                np.searchsorted(targets, value - e) != np.searchsorted(targets, value + e, side="right")
                for targets, value, e in zip(self._plan.sorted_targets, largest, error, strict=True)
            ]
        )


# To start threads takes longer than a few values do.
_ENTRIES_FOR_THREADS = 4096


@numba.njit(cache=True)
def _recalculate(entries, permutations, basis, responses, start, direction, weight, offset, kind, sign, n_plain):
    """Values in float64 of single entries (permutation, row, place); row n_rows is the best of the plain rows."""
    result = np.empty(len(entries))
    for i in range(len(entries)):
        result[i] = _value(
            entries[i], permutations, basis, responses, start, direction, weight, offset, kind, sign, n_plain
        )
    return result


@numba.njit(parallel=True, cache=True)
def _recalculate_in_threads(
    entries, permutations, basis, responses, start, direction, weight, offset, kind, sign, n_plain
):
    """As `_recalculate`."""
    result = np.empty(len(entries))
    for i in numba.prange(len(entries)):
        result[i] = _value(
            entries[i], permutations, basis, responses, start, direction, weight, offset, kind, sign, n_plain
        )
    return result


@numba.njit(cache=True)
def _value(entry, permutations, basis, responses, start, direction, weight, offset, kind, sign, n_plain):
    p, row, place = entry[0], entry[1], entry[2]
    first, last = (0, n_plain) if row == offset.size else (row, row + 1)
    largest = -np.inf
    for r in range(first, last):
        value = offset[r]
        for t in range(start[r], start[r + 1]):
            total = 0.0
            for k in range(permutations.shape[1]):
                total += basis[direction[t], permutations[p, k]] * responses[place, k]
            value += weight[t] * total * total
        if kind[r] == TWO_SIDED:
            value = abs(value)
        elif kind[r] == SIGNED:
            value *= sign[r, place]
        largest = max(largest, value)
    return largest


Unit = Literal["conditions", "entries"]
# Permutations that share a stream of random numbers: to start a stream takes as long as to draw ten permutations.
_PER_STREAM = 16


@dataclass(frozen=True)
class Draws:
    """Permutations number 0, 1, 2, ... of condensed RDMs.

    Attributes
    ----------
    n_pairs : int
        Entries of a condensed RDM.
    unit : {"conditions", "entries"}
        Exchange conditions (Mantel 1967, Cancer Res 27:209), or the entries of the RDM as if they were independent
        (as in the published code).
    seed : int
    """

    n_pairs: int
    unit: Unit
    seed: int

    @property
    def n_items(self) -> int:
        """How many things are exchanged."""
        return n_conditions_of(self.n_pairs) if self.unit == "conditions" else self.n_pairs

    def orders(self, start: int, stop: int) -> NDArray[np.int64]:
        """Permutations number `start` to `stop` - 1 of the items, shape (stop - start, n_items)."""
        first = start // _PER_STREAM
        items = np.tile(np.arange(self.n_items), (_PER_STREAM, 1))
        streams = [
            np.random.default_rng([self.seed, stream]).permuted(items, axis=1)
            for stream in range(first, -(-stop // _PER_STREAM))
        ]
        return np.concatenate(streams)[start - first * _PER_STREAM : stop - first * _PER_STREAM]

    def indices(self, orders: NDArray[np.int64]) -> NDArray[np.int64]:
        """What permutations of the items do to a condensed RDM.

        Parameters
        ----------
        orders : ndarray of int64, shape (n, n_items)

        Returns
        -------
        ndarray of int64, shape (n, n_pairs)
            Row i: indices into a condensed RDM that give the permuted one.
        """
        return orders if self.unit == "entries" else pair_permutation(orders)
