"""Counting exceedances on the CPU."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from utils.stats.exceedances import PLAIN, TWO_SIDED, Counts, Exact, Places, Plan, Progress, _single, permute
from utils.stats.matmul import fastest_product

# What a block of permutations is projected to stays in the third-level cache.
_BLOCK_BYTES = 20 * 2**20
_PLACES_PER_PRODUCT = 5000
_PERMUTATIONS_PER_BLOCK = 256
# Places that one thread scans at a time: their values for one permutation stay in the first-level cache.
_STRIP = 256
# Entries per strip that may be left open before a block has to be scanned again with more room.
_FLAGS = 4096


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
