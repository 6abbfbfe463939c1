"""Counting how often null values reach observed ones: the inner loop of the permutation test on a CPU.

One large product in float32 projects all places on a block of permuted bases; one pass over it squares, sums, compares
and keeps maxima. Where float32 cannot tell a null value from the observed one, that single value is computed again in
float64, so that all counts are those of float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

PLAIN, TWO_SIDED, SIGNED = 0, 1, 2

# Places that one thread scans at a time: their values for one permutation stay in the first-level cache.
_STRIP = 256
_UNIT_ROUNDOFF = float(np.finfo(np.float32).eps) / 2


@dataclass(frozen=True)
class Rows:
    """Values to be counted, each a weighted sum of squared projections.

    Attributes
    ----------
    start : ndarray of int64, shape (n_rows + 1,)
        Row r has the terms ``start[r]`` to ``start[r + 1] - 1``.
    direction : ndarray of int64, shape (n_terms,)
        Which projection is squared.
    weight : ndarray of float64, shape (n_terms,)
    offset : ndarray of float64, shape (n_rows,)
    kind : ndarray of int64, shape (n_rows,)
        Compare the value (`PLAIN`, which come first), its absolute value (`TWO_SIDED`), or the value times `sign`.
    """

    start: NDArray[np.int64]
    direction: NDArray[np.int64]
    weight: NDArray[np.float64]
    offset: NDArray[np.float64]
    kind: NDArray[np.int64]

    @classmethod
    def of(cls, weights: NDArray[np.float64], offset: NDArray[np.float64], kind: NDArray[np.int64]) -> Rows:
        """Rows of dense `weights`, (n_rows, n_directions), and `offset`, (n_rows,)."""
        row, direction = np.nonzero(weights)
        start = np.searchsorted(row, np.arange(len(weights) + 1))
        return cls(start, direction, weights[row, direction], offset, kind)


class Counter:
    """Counts of null values that reach their targets, and the largest null value of every permutation.

    Parameters
    ----------
    rows : Rows
    targets : ndarray of float64, shape (n_rows, n_places)
        A null value counts if it is at least the target.
    sign : ndarray of float64, shape (n_rows, n_places)
        Only read for rows of kind `SIGNED`.
    basis : ndarray of float64, shape (n_directions, n_pairs)
        Directions, orthonormal within each subset, for exact recalculation.
    responses : ndarray of float64, shape (n_places, n_pairs)
        Standardised brain RDMs.
    all_targets : ndarray of float64, shape (n_rows, any number)
        Targets of all places, also those that other counters see to: what the largest values will be compared with.

    Attributes
    ----------
    count : ndarray of int64, shape (n_rows, n_places)
    count_best : ndarray of int64, shape (n_places,)
        How often the largest of the plain rows reaches the largest of their targets.
    largest : list of ndarray, each (2, permutations of a block)
        Largest value of the plain rows, and of the others, over all places.
    n_exact : int
        How many values were computed again in float64.
    """

    def __init__(
        self,
        rows: Rows,
        targets: NDArray[np.float64],
        sign: NDArray[np.float64],
        basis: NDArray[np.float64],
        responses: NDArray[np.float64],
        all_targets: NDArray[np.float64],
    ) -> None:
        self._rows, self._targets, self._sign = rows, targets, sign
        self._basis, self._responses = np.ascontiguousarray(basis), np.ascontiguousarray(responses)
        plain = rows.kind == PLAIN
        self._n_plain = int(plain.sum())
        self._target_best = targets[plain].max(axis=0)
        self._sorted_targets = [np.sort(all_targets[chosen], axis=None) for chosen in (plain, ~plain)]
        # A sum of n products, of unit vectors, in float32: error grows as sqrt(n) (Higham & Mary 2019, SIAM J Sci
        # Comput 41:A2815). What is met in practice is several times smaller.
        self._error = _UNIT_ROUNDOFF * np.sqrt(responses.shape[1])
        self._single = tuple(
            np.ascontiguousarray(array, dtype=np.float32)
            for array in (rows.weight, rows.offset, targets, sign, self._target_best)
        )
        self._n_flags = 4096
        self.count = np.zeros(targets.shape, dtype=np.int64)
        self.count_best = np.zeros(targets.shape[1], dtype=np.int64)
        self.largest: list[NDArray[np.float64]] = []
        self.n_exact = 0

    def add(self, projected: NDArray[np.float32], permutations: NDArray[np.int64]) -> None:
        """Count a block of permutations.

        Parameters
        ----------
        projected : ndarray of float32, shape (n_directions, n, n_places)
            Projections of all places on the permuted directions.
        permutations : ndarray of int64, shape (n, n_pairs)
            The permutations themselves.
        """
        rows = self._rows
        _, n, n_places = projected.shape
        n_strips = -(-n_places // _STRIP)
        weight, offset, targets, sign, target_best = self._single
        while True:
            count = np.zeros((len(rows.offset) + 1, n_places), dtype=np.int64)
            flags = np.empty((n_strips, self._n_flags, 3), dtype=np.int32)
            n_flags = np.zeros(n_strips, dtype=np.int64)
            tops = np.full((2, n_strips, n), -np.inf, dtype=np.float32)
            errors = np.zeros((2, n_strips, n), dtype=np.float32)
            _scan(
                projected, rows.start, rows.direction, weight, offset, rows.kind, targets, sign, target_best,
                np.float32(2 * self._error), count, flags, n_flags, tops, errors,
            )  # fmt: skip
            if n_flags.max() <= self._n_flags:
                break
            self._n_flags = 2 * int(n_flags.max())
        self.count += count[:-1]
        self.count_best += count[-1]
        doubtful = np.concatenate([flags[strip, :k] for strip, k in enumerate(n_flags)]).astype(np.int64)
        self._settle(doubtful, permutations)
        self.largest.append(self._largest(projected, permutations, tops, errors))

    def _settle(self, doubtful: NDArray[np.int64], permutations: NDArray[np.int64]) -> None:
        """Count the values (permutation, row, place) that float32 left open; row n_rows is the best plain one."""
        values = self._exact(doubtful, permutations)
        row, place = doubtful[:, 1], doubtful[:, 2]
        is_best = row == len(self._rows.offset)
        reached = values >= np.where(is_best, self._target_best[place], self._targets[np.where(is_best, 0, row), place])
        np.add.at(self.count, (row[~is_best & reached], place[~is_best & reached]), 1)
        np.add.at(self.count_best, place[is_best & reached], 1)

    def _exact(self, entries: NDArray[np.int64], permutations: NDArray[np.int64]) -> NDArray[np.float64]:
        self.n_exact += len(entries)
        rows = self._rows
        return _recalculate(
            entries, permutations, self._basis, self._responses, rows.start, rows.direction, rows.weight, rows.offset,
            rows.kind, self._sign, self._n_plain,
        )  # fmt: skip

    def _largest(
        self,
        projected: NDArray[np.float32],
        permutations: NDArray[np.int64],
        tops: NDArray[np.float32],
        errors: NDArray[np.float32],
    ) -> NDArray[np.float64]:
        """Largest value of every permutation, exact wherever rounding could move it across a target."""
        top, error = tops.max(axis=1).astype(np.float64), errors.max(axis=1).astype(np.float64)
        for family, targets in enumerate(self._sorted_targets):
            low = np.searchsorted(targets, top[family] - error[family])
            high = np.searchsorted(targets, top[family] + error[family], side="right")
            for p in np.flatnonzero(low != high).tolist():
                near = top[family, p] - 2 * error[family, p]
                entries = self._candidates(projected[:, p], p, family, near)
                top[family, p] = self._exact(entries, permutations).max()
        return top

    def _candidates(self, projected: NDArray[np.float32], p: int, family: int, least: float) -> NDArray[np.int64]:
        """Entries (permutation, row, place) of one permutation whose value is about the largest."""
        rows, found = self._rows, []
        chosen = range(self._n_plain) if family == 0 else range(self._n_plain, len(rows.offset))
        for r in chosen:
            terms = slice(rows.start[r], rows.start[r + 1])
            value = rows.weight[terms] @ np.square(projected[rows.direction[terms]], dtype=np.float64) + rows.offset[r]
            if rows.kind[r] != PLAIN:
                value = np.abs(value) if rows.kind[r] == TWO_SIDED else value * self._sign[r]
            found += [(p, r, place) for place in np.flatnonzero(value >= least)]
        return np.array(found, dtype=np.int64)


def set_threads(n: int) -> None:
    """Use at most `n` threads for the scan."""
    numba.set_num_threads(max(1, min(n, numba.config.NUMBA_NUM_THREADS)))


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
    rounding, one, zero = np.float32(8 * _UNIT_ROUNDOFF), np.float32(1), np.float32(0)
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


@numba.njit(parallel=True, cache=True)
def _recalculate(entries, permutations, basis, responses, start, direction, weight, offset, kind, sign, n_plain):
    """Values in float64 of single entries (permutation, row, place); row n_rows is the best of the plain rows."""
    n_rows = offset.size
    result = np.empty(len(entries))
    for i in numba.prange(len(entries)):
        p, row, place = entries[i, 0], entries[i, 1], entries[i, 2]
        first, last = (0, n_plain) if row == n_rows else (row, row + 1)
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
        result[i] = largest
    return result
