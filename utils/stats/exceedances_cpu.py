"""Counting exceedances on the CPU.

One large product in float32 projects all locations on a block of permuted bases; one pass over it (`_scan`) squares,
sums, compares and keeps maxima.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numba
import numpy as np
from numpy.typing import NDArray

from utils.parallel.resources import Progress, ignore
from utils.stats.exceedances import Counts, Exact, NullPlan, Targets, permute
from utils.stats.matmul import fastest_matmul

if TYPE_CHECKING:
    import torch

# What a block of permutations is projected to stays in the third-level cache.
_BLOCK_BYTES = 20 * 2**20
_LOCATIONS_PER_PRODUCT = 5000
_PERMUTATIONS_PER_BLOCK = 256
# Locations that one thread scans at a time: their values for one permutation stay in the first-level cache.
_TILE = 256
# Entries per tile that may be left open before a block has to be scanned again with more room.
_FLAGS = 4096


def count_on_cpu(plan: NullPlan, targets: Targets, start: int, stop: int, progress: Progress = ignore) -> Counts:
    """Count exceedances of some permutations at all locations, on the CPU.

    Parameters
    ----------
    plan : NullPlan
    targets : Targets
    start, stop : int
        Numbers of the first permutation, and of the one after the last.
    progress : callable, optional
        Called with (permutations done, permutations in all) after each block.

    Returns
    -------
    Counts
        Those of float64.
    """
    (counts,) = parts_on_cpu(plan, targets, start, stop, math.inf, progress)
    return counts


def parts_on_cpu(
    plan: NullPlan, targets: Targets, start: int, stop: int, seconds: float, progress: Progress = ignore
) -> Iterator[Counts]:
    """`count_on_cpu` in parts, each of successive permutations that take about so many seconds."""
    import torch

    numba.set_num_threads(max(1, min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)))
    n_pairs = plan.basis.shape[1]
    permuted = np.ascontiguousarray(plan.permuted, dtype=np.float32)
    chunks = list(targets.chunks(_LOCATIONS_PER_PRODUCT))
    brains = [[_float32(rdms) for rdms in chunk.responses] for chunk in chunks]
    counters = [_ExceedanceCounter(plan, chunk) for chunk in chunks]
    people = plan.of_people()
    matmul = fastest_matmul(_float32(np.tile(permuted[people[0]], (8, 1))), brains[0][0])
    bytes_each = 4 * len(permuted) * max(len(chunks[0]), n_pairs)
    size = max(1, min(_PERMUTATIONS_PER_BLOCK, _BLOCK_BYTES // bytes_each))
    began = time.monotonic()
    for first in range(start, stop, size):
        permutations = plan.permutations.indices(n_pairs, first, min(first + size, stop))
        rotations = plan.rotations(permutations)
        moved = torch.from_numpy(permute(permuted, permutations))
        for brain, counter in zip(brains, counters, strict=True):
            parts = [matmul(moved[own].reshape(-1, n_pairs), rdms) for own, rdms in zip(people, brain, strict=True)]
            projected = parts[0] if len(parts) == 1 else torch.cat(parts)
            counter.add(projected.numpy().reshape(len(moved), len(permutations), -1), permutations, rotations)
        progress(first + len(permutations) - start, stop - start)
        if first + size >= stop or time.monotonic() - began >= seconds:
            yield Counts.over_locations([counter.take() for counter in counters])
            began = time.monotonic()


def _float32(array: NDArray) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


class _ExceedanceCounter:
    """Counts block after block of projections of some locations."""

    def __init__(self, plan: NullPlan, targets: Targets) -> None:
        self._plan = plan
        self._exact = Exact(plan, targets)
        self._unpermuted, self._weight, self._thresholds, self._scale, self._offset, self._best_threshold = (
            np.ascontiguousarray(array, dtype=np.float32)
            for array in (
                plan.project(targets.responses), plan.contrasts.terms[2], targets.thresholds, targets.scale,
                targets.offset, self._exact.best_threshold,
            )
        )  # fmt: skip
        self._n_flags = _FLAGS
        self._begin(targets.thresholds.shape)

    def _begin(self, shape: tuple[int, ...]) -> None:
        self._count = np.zeros(shape, dtype=np.int64)
        self._best = np.zeros(shape[1], dtype=np.int64)
        self._largest: list[NDArray[np.float64]] = []

    def take(self) -> Counts:
        """Of all blocks since the last call."""
        counts = Counts(self._count, self._best, np.concatenate(self._largest, axis=1))
        self._begin(self._count.shape)
        return counts

    def add(
        self, projected: NDArray[np.float32], permutations: NDArray[np.int64], rotations: NDArray[np.float64]
    ) -> None:
        """Count a block of permutations.

        Parameters
        ----------
        projected : ndarray of float32, shape (n_permuted, n, n_locations)
            Projections of all locations on what is permuted.
        permutations : ndarray of int64, shape (n, n_pairs)
            The permutations themselves.
        rotations : ndarray of float64
            `NullPlan.rotations` of these permutations.
        """
        contrasts = self._plan.contrasts
        start, direction, _ = contrasts.terms
        _, n, n_locations = projected.shape
        n_tiles, n_families = -(-n_locations // _TILE), contrasts.n_families
        errors = np.broadcast_to(2 * self._plan.errors(rotations), (n,)).astype(np.float32)
        small = rotations.astype(np.float32)
        while True:
            count = np.zeros((len(self._scale) + 1, n_locations), dtype=np.int64)
            flags = np.empty((n_tiles, self._n_flags, 3), dtype=np.int32)
            n_flags = np.zeros(n_tiles, dtype=np.int64)
            tops = np.full((n_families, n_tiles, n), -np.inf, dtype=np.float32)
            top_errors = np.zeros((n_families, n_tiles, n), dtype=np.float32)
            _scan(
                projected, small, self._unpermuted, start, direction, self._weight, contrasts.family, self._scale,
                self._offset, self._thresholds, self._best_threshold, errors, np.float32(contrasts.rounding), count,
                flags, n_flags, tops, top_errors,
            )  # fmt: skip
            if n_flags.max() <= self._n_flags:
                break
            self._n_flags = 2 * int(n_flags.max())
        self._count += count[:-1]
        self._best += count[-1]
        doubtful = np.concatenate([flags[tile, :k] for tile, k in enumerate(n_flags)]).astype(np.int64)
        self._exact.recheck_in_float64(doubtful, permutations, rotations, self._count, self._best)
        top, error = tops.max(axis=1).astype(np.float64), top_errors.max(axis=1).astype(np.float64)
        is_open = np.argwhere(self._exact.is_open(top, error))
        if len(is_open):
            near = top - 2 * error
            found = [self._candidates(projected, rotations, p, family, near[family, p]) for family, p in is_open]
            values = self._exact.values(np.concatenate(found), permutations, rotations)
            starts = np.cumsum([0, *map(len, found[:-1])])
            top[tuple(is_open.T)] = np.maximum.reduceat(values, starts)
        self._largest.append(top)

    def _candidates(
        self, projected: NDArray[np.float32], rotations: NDArray[np.float64], p: int, family: int, least: float
    ) -> NDArray[np.int64]:
        """Entries (permutation, contrast, location) of one permutation whose value is about the largest."""
        contrasts, found = self._plan.contrasts, []
        rows = projected[:, p].astype(np.float64)
        if rotations.size:
            rotation = rotations[p if len(rotations) > 1 else 0]
            rows = np.vstack([rotation @ np.vstack([rows, self._unpermuted]), rows])[: contrasts.weights.shape[1]]
        squares = np.square(rows)
        for r in np.flatnonzero(contrasts.family == family):
            value = self._scale[r] * (contrasts.weights[r] @ squares) + self._offset[r]
            found += [(p, r, location) for location in np.flatnonzero(value >= least)]
        return np.array(found, dtype=np.int64)


@numba.njit(parallel=True, cache=True, fastmath=True)
def _scan(
    projected,
    rotations,
    unpermuted,
    start,
    direction,
    weight,
    family,
    scale,
    offset,
    thresholds,
    best_threshold,
    error,
    rounding,
    count,
    flags,
    n_flags,
    tops,
    errors,
):
    """One pass over a block: counts, doubtful entries, and the largest values with their error bounds, tile by tile.

    The error of ``sum w x**2``, where each x errs by up to e, is at most ``2 e sum |w x|``, and that is at most
    ``2 e sqrt(sum |w|) sqrt(sum |w| x**2)`` (Cauchy-Schwarz); to it comes the rounding of the sum itself. Counts of a
    tile are kept in float32, which holds them exactly, so that all loops work on vectors of one type.
    """
    n_contrasts, n_locations = thresholds.shape
    (rank, n, _), capacity, n_rotated = projected.shape, flags.shape[1], rotations.shape[1]
    one, zero = np.float32(1), np.float32(0)
    lowest = np.float32(-1e30)
    for tile in numba.prange(n_flags.size):
        first = tile * _TILE
        length = min(_TILE, n_locations - first)
        value, bound, size = np.empty(length, np.float32), np.empty(length, np.float32), np.empty(length, np.float32)
        best, best_bound = np.empty(length, np.float32), np.empty(length, np.float32)
        counted, rotated = np.zeros((n_contrasts + 1, length), np.float32), np.empty((n_rotated, length), np.float32)
        n_found = 0
        for p in range(n):
            best[:] = lowest
            best_bound[:] = zero
            rotation = rotations[p if len(rotations) > 1 else 0]
            for d in range(n_rotated):
                line = rotated[d]
                line[:] = zero
                for k in range(rank):
                    a = rotation[d, k]
                    if a != zero:  # else of another person's basis
                        row = projected[k, p, first : first + length]
                        for s in range(length):
                            line[s] += a * row[s]
                if len(rotations) > 1:
                    for k in range(rank):
                        a = rotation[d, rank + k]
                        if a != zero:
                            row = unpermuted[k, first : first + length]
                            for s in range(length):
                                line[s] += a * row[s]
            for r in range(n_contrasts):
                factor = zero
                value[:] = zero
                positive = True
                for t in range(start[r], start[r + 1]):
                    w, d = weight[t], direction[t]
                    factor += abs(w)
                    positive = positive and w >= zero
                    if d < n_rotated:
                        line = rotated[d]
                        for s in range(length):
                            value[s] += w * line[s] * line[s]
                    else:
                        row = projected[d - n_rotated, p, first : first + length]
                        for s in range(length):
                            value[s] += w * row[s] * row[s]
                if positive:
                    size[:] = value
                else:
                    size[:] = zero
                    for t in range(start[r], start[r + 1]):
                        w, d = abs(weight[t]), direction[t]
                        if d < n_rotated:
                            line = rotated[d]
                            for s in range(length):
                                size[s] += w * line[s] * line[s]
                        else:
                            row = projected[d - n_rotated, p, first : first + length]
                            for s in range(length):
                                size[s] += w * row[s] * row[s]
                factor = error[p] * np.sqrt(factor)
                times, plus = scale[r, first : first + length], offset[r, first : first + length]
                wanted = thresholds[r, first : first + length]
                mine = counted[r]
                near, top, top_bound = zero, lowest, zero
                for s in range(length):
                    value[s] = times[s] * value[s] + plus[s]
                    larger = abs(times[s])
                    bound[s] = larger * factor * np.sqrt(size[s]) + rounding * (
                        larger * size[s] + abs(plus[s]) + abs(wanted[s])
                    )
                    excess = value[s] - wanted[s]
                    mine[s] += one if excess > bound[s] else zero
                    near += one if abs(excess) <= bound[s] else zero
                    top = max(top, value[s])
                    top_bound = max(top_bound, bound[s])
                own = family[r]
                if own == 0:
                    for s in range(length):
                        best[s] = max(best[s], value[s])
                        best_bound[s] = max(best_bound[s], bound[s])
                tops[own, tile, p] = max(tops[own, tile, p], top)
                errors[own, tile, p] = max(errors[own, tile, p], top_bound)
                if near > zero:
                    n_found = _flag(value, wanted, bound, p, r, first, flags[tile], n_found, capacity)
            wanted = best_threshold[first : first + length]
            mine = counted[n_contrasts]
            near = zero
            for s in range(length):
                excess = best[s] - wanted[s]
                mine[s] += one if excess > best_bound[s] else zero
                near += one if abs(excess) <= best_bound[s] else zero
            if near > zero:
                n_found = _flag(best, wanted, best_bound, p, n_contrasts, first, flags[tile], n_found, capacity)
        n_flags[tile] = n_found
        for r in range(n_contrasts + 1):
            for s in range(length):
                count[r, first + s] += np.int64(counted[r, s])


@numba.njit(cache=True)
def _flag(value, wanted, bound, p, row, first, flags, n_found, capacity):
    """Note the entries of a tile that are too close to their threshold to tell; returns how many there are by now."""
    for s in range(value.size):
        if abs(value[s] - wanted[s]) <= bound[s]:
            if n_found < capacity:
                flags[n_found, 0], flags[n_found, 1], flags[n_found, 2] = p, row, first + s
            n_found += 1
    return n_found
