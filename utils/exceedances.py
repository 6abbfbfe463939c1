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

from utils.draws import Draws
from utils.products import fastest_product

if TYPE_CHECKING:
    import torch

PLAIN, TWO_SIDED, SIGNED = 0, 1, 2

Progress = Callable[[int, int], None]

# What a block of permutations is projected to stays in the third-level cache.
_BLOCK_BYTES = 20 * 2**20
_PLACES_PER_PRODUCT = 5000
_PERMUTATIONS_PER_BLOCK = 256
# Places that one thread scans at a time: their values for one permutation stay in the first-level cache.
_STRIP = 256
# Entries per strip that may be left open before a block has to be scanned again with more room.
_FLAGS = 4096
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


def count_exceedances(plan: Plan, places: Places, start: int, stop: int, progress: Progress | None = None) -> Counts:
    """Count permutations number `start` to `stop` - 1 at all places, on the CPU.

    Parameters
    ----------
    plan : Plan
    places : Places
    start, stop : int
    progress : callable, optional
        Called with (permutations done, permutations in all) after each block.

    Returns
    -------
    Counts
    """
    import torch

    numba.set_num_threads(max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)))
    n_pairs = plan.basis.shape[1]
    permuted, turn = np.ascontiguousarray(plan.permuted, dtype=np.float32), _single(plan.turn)
    pieces = list(places.pieces(_PLACES_PER_PRODUCT))
    brains = [_single(piece.responses) for piece in pieces]
    counters = [Counter(plan, piece) for piece in pieces]
    product = fastest_product(_single(np.tile(permuted, (8, 1))), brains[0])
    bytes_each = 4 * len(plan.turn) * max(len(pieces[0]), n_pairs)
    size = max(1, min(_PERMUTATIONS_PER_BLOCK, _BLOCK_BYTES // bytes_each))
    for first in range(start, stop, size):
        draw = plan.draws.indices(plan.draws.orders(first, min(first + size, stop)))
        stacked = torch.from_numpy(permute(permuted, draw)).reshape(-1, n_pairs)
        for brain, counter in zip(brains, counters, strict=True):
            projected = product(stacked, brain).reshape(len(permuted), -1)
            if plan.turns_late:
                projected = turn @ projected
            counter.add(projected.numpy().reshape(-1, len(draw), len(brain)), draw)
        if progress is not None:
            progress(first + len(draw) - start, stop - start)
    return Counts.beside([counter.counts for counter in counters])


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


class Counter:
    """Counts block after block of projections of some places.

    Parameters
    ----------
    plan : Plan
    places : Places
    """

    def __init__(self, plan: Plan, places: Places) -> None:
        self._plan = plan
        self.exact = Exact(plan, places)
        self._error = plan.error
        self._single = tuple(
            np.ascontiguousarray(array, dtype=np.float32)
            for array in (
                plan.rows.terms[2], plan.rows.offset, places.targets, places.sign, self.exact.target_best
            )
        )  # fmt: skip
        self._n_flags = _FLAGS
        self._count = np.zeros(places.targets.shape, dtype=np.int64)
        self._best = np.zeros(len(places), dtype=np.int64)
        self._largest: list[NDArray[np.float64]] = []

    @property
    def counts(self) -> Counts:
        """Of all blocks so far."""
        return Counts(self._count, self._best, np.concatenate(self._largest, axis=1))

    def add(self, projected: NDArray[np.float32], permutations: NDArray[np.int64]) -> None:
        """Count a block of permutations.

        Parameters
        ----------
        projected : ndarray of float32, shape (n_directions, n, n_places)
            Projections of all places on the permuted directions.
        permutations : ndarray of int64, shape (n, n_pairs)
            The permutations themselves.
        """
        rows = self._plan.rows
        start, direction, _ = rows.terms
        _, n, n_places = projected.shape
        n_strips = -(-n_places // _STRIP)
        weight, offset, targets, sign, target_best = self._single
        while True:
            count = np.zeros((len(offset) + 1, n_places), dtype=np.int64)
            flags = np.empty((n_strips, self._n_flags, 3), dtype=np.int32)
            n_flags = np.zeros(n_strips, dtype=np.int64)
            tops = np.full((2, n_strips, n), -np.inf, dtype=np.float32)
            errors = np.zeros((2, n_strips, n), dtype=np.float32)
            _scan(
                projected, start, direction, weight, offset, rows.kind, targets, sign, target_best,
                np.float32(2 * self._error), np.float32(rows.rounding), count, flags, n_flags, tops, errors,
            )  # fmt: skip
            if n_flags.max() <= self._n_flags:
                break
            self._n_flags = 2 * int(n_flags.max())
        self._count += count[:-1]
        self._best += count[-1]
        doubtful = np.concatenate([flags[strip, :k] for strip, k in enumerate(n_flags)]).astype(np.int64)
        self.exact.settle(doubtful, permutations, self._count, self._best)
        self._largest.append(self._largest_of_block(projected, permutations, tops, errors))

    def _largest_of_block(
        self,
        projected: NDArray[np.float32],
        permutations: NDArray[np.int64],
        tops: NDArray[np.float32],
        errors: NDArray[np.float32],
    ) -> NDArray[np.float64]:
        """Largest value of every permutation, exact wherever rounding could move it across a target."""
        top, error = tops.max(axis=1).astype(np.float64), errors.max(axis=1).astype(np.float64)
        is_open = np.argwhere(self.exact.is_open(top, error))
        if len(is_open):
            near = top - 2 * error
            found = [self._candidates(projected[:, p], p, family, near[family, p]) for family, p in is_open]
            values = self.exact.values(np.concatenate(found), permutations)
            starts = np.cumsum([0, *map(len, found[:-1])])
            top[tuple(is_open.T)] = np.maximum.reduceat(values, starts)
        return top

    def _candidates(self, projected: NDArray[np.float32], p: int, family: int, least: float) -> NDArray[np.int64]:
        """Entries (permutation, row, place) of one permutation whose value is about the largest."""
        rows, found = self._plan.rows, []
        sign = self._single[3]
        squares = np.square(projected, dtype=np.float64)
        for r in range(rows.n_plain) if family == 0 else range(rows.n_plain, len(rows.offset)):
            value = rows.weights[r] @ squares + rows.offset[r]
            if rows.kind[r] != PLAIN:
                value = np.abs(value) if rows.kind[r] == TWO_SIDED else value * sign[r]
            found += [(p, r, place) for place in np.flatnonzero(value >= least)]
        return np.array(found, dtype=np.int64)


@numba.njit(parallel=True, cache=True, fastmath=True)
def _scan(
    projected,
    start,
    direction,
    weight,
    offset,
    kind,
    targets,
    sign,
    target_best,
    error,
    rounding,
    count,
    flags,
    n_flags,
    tops,
    errors,
):
    """One pass over a block: counts, doubtful entries, and the largest value with its error bound, strip by strip.

    The error of ``sum w x**2``, where each x errs by up to e, is at most ``2 e sum |w x|``, and that is at most
    ``2 e sqrt(sum |w|) sqrt(sum |w| x**2)`` (Cauchy-Schwarz); to it comes the rounding of the sum itself. Counts of a
    strip are kept in float32, which holds them exactly, so that all loops work on vectors of one type.
    """
    n_rows, n_places = targets.shape
    n, capacity = projected.shape[1], flags.shape[1]
    one, zero = np.float32(1), np.float32(0)
    lowest = np.float32(-1e30)
    for strip in numba.prange(n_flags.size):
        first = strip * _STRIP
        length = min(_STRIP, n_places - first)
        value, bound, size = np.empty(length, np.float32), np.empty(length, np.float32), np.empty(length, np.float32)
        best, best_bound = np.empty(length, np.float32), np.empty(length, np.float32)
        counted = np.zeros((n_rows + 1, length), np.float32)
        n_found = 0
        for p in range(n):
            best[:] = lowest
            best_bound[:] = zero
            for r in range(n_rows):
                factor = zero
                value[:] = zero
                positive = True
                for t in range(start[r], start[r + 1]):
                    w, row = weight[t], projected[direction[t], p, first : first + length]
                    factor += abs(w)
                    positive = positive and w >= zero
                    for s in range(length):
                        value[s] += w * row[s] * row[s]
                if positive:
                    size[:] = value
                else:
                    size[:] = zero
                    for t in range(start[r], start[r + 1]):
                        w, row = abs(weight[t]), projected[direction[t], p, first : first + length]
                        for s in range(length):
                            size[s] += w * row[s] * row[s]
                if kind[r] == PLAIN:
                    for s in range(length):
                        value[s] += offset[r]
                elif kind[r] == TWO_SIDED:
                    for s in range(length):
                        value[s] = abs(value[s] + offset[r])
                else:
                    for s in range(length):
                        value[s] = (value[s] + offset[r]) * sign[r, first + s]
                factor = error * np.sqrt(factor)
                wanted = targets[r, first : first + length]
                mine = counted[r]
                near, top, top_bound = zero, lowest, zero
                for s in range(length):
                    bound[s] = factor * np.sqrt(size[s]) + rounding * (size[s] + abs(offset[r]) + abs(wanted[s]))
                    excess = value[s] - wanted[s]
                    mine[s] += one if excess > bound[s] else zero
                    near += one if abs(excess) <= bound[s] else zero
                    top = max(top, value[s])
                    top_bound = max(top_bound, bound[s])
                if kind[r] == PLAIN:
                    for s in range(length):
                        best[s] = max(best[s], value[s])
                        best_bound[s] = max(best_bound[s], bound[s])
                family = 0 if kind[r] == PLAIN else 1
                tops[family, strip, p] = max(tops[family, strip, p], top)
                errors[family, strip, p] = max(errors[family, strip, p], top_bound)
                if near > zero:
                    n_found = _flag(value, wanted, bound, p, r, first, flags[strip], n_found, capacity)
            wanted = target_best[first : first + length]
            mine = counted[n_rows]
            near = zero
            for s in range(length):
                excess = best[s] - wanted[s]
                mine[s] += one if excess > best_bound[s] else zero
                near += one if abs(excess) <= best_bound[s] else zero
            if near > zero:
                n_found = _flag(best, wanted, best_bound, p, n_rows, first, flags[strip], n_found, capacity)
        n_flags[strip] = n_found
        for r in range(n_rows + 1):
            for s in range(length):
                count[r, first + s] += np.int64(counted[r, s])


@numba.njit(cache=True)
def _flag(value, wanted, bound, p, row, first, flags, n_found, capacity):
    """Note the entries of a strip that are too close to their target to tell; returns how many there are by now."""
    for s in range(value.size):
        if abs(value[s] - wanted[s]) <= bound[s]:
            if n_found < capacity:
                flags[n_found, 0], flags[n_found, 1], flags[n_found, 2] = p, row, first + s
            n_found += 1
    return n_found


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
