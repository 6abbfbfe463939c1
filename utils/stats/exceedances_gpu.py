"""Counting exceedances on a GPU: the same counts as `exceedances_cpu`.

Brain RDMs and predictors stay on the device, and only orders of conditions go there. What comes back, every now and
then, are the few entries that float32 leaves open, which are computed again in float64 as on the CPU. All is written in
operations of torch, which run on any of its devices; for a long test on a GPU, the pass over the projections is
compiled into a few kernels.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from utils.parallel.resources import Progress, ignore
from utils.rdm import expand
from utils.stats.exceedances import Counts, Exact, NullPlan, Targets

# Rows of the product of a block: enough to fill a large GPU, more would only take memory.
_ROWS_PER_PRODUCT = 4096
_PERMUTATIONS_PER_BLOCK = 1024
# Share of the free memory to fill; the library of the product and the compiler need some, too.
_MEMORY_SHARE = 0.6
_CPU_BYTES = 2**30
# Arrays of shape (contrasts, permutations, locations) that are alive at once while a block is counted.
_COPIES = 6
# Entries of a block that may be left open before it has to be counted again with more room.
_OPEN_PER_MILLION = 500
_LEAST_ROOM = 8192
# Blocks whose open entries wait on the device: it never stands still for a single block.
_BLOCKS_PER_TRANSFER = 64
# To compile takes some ten seconds: not for a test that is over by then.
_COMPILE_FLOP = 1e15
_NO_PERMUTATIONS = np.empty((1, 0), dtype=np.int64)


def count_on_gpu(
    plan: NullPlan, targets: Targets, start: int, stop: int, progress: Progress = ignore, *, device: str = "cuda"
) -> Counts:
    """Count exceedances of some permutations at all locations, on a device of torch.

    Where its memory does not suffice, smaller chunks are tried, with a warning.

    Parameters
    ----------
    plan : NullPlan
    targets : Targets
    start, stop : int
        Numbers of the first permutation, and of the one after the last.
    progress : callable, optional
        Called with (permutations done, permutations in all); where the brain is counted in chunks, every chunk takes
        part of them.
    device : str

    Returns
    -------
    Counts
        Those of the CPU.
    """
    n_block = max(1, min(stop - start, _PERMUTATIONS_PER_BLOCK, _ROWS_PER_PRODUCT // len(plan.permuted)))
    n_locations = min(len(targets), _locations_at_once(plan, n_block, device))
    while True:
        try:
            orders = torch.from_numpy(plan.permutations.orders(plan.basis.shape[1], start, stop)).to(device)
            counters = (_DeviceCounter(plan, chunk, orders, start) for chunk in targets.chunks(n_locations))
            return _count(counters, -(-len(targets) // n_locations), n_block, progress)
        except torch.OutOfMemoryError:
            if n_locations == n_block == 1:
                raise
        # Only here, where the error is gone that keeps the arrays of the attempt alive.
        if device != "cpu":
            torch.cuda.empty_cache()
        n_locations, n_block = -(-n_locations // 2), -(-n_block // 2)
        warnings.warn(
            f"the memory of the GPU is short; starting again with {n_locations:,} locations and {n_block:,} "
            "permutations at a time",
            stacklevel=2,
        )


def _locations_at_once(plan: NullPlan, n_block: int, device: str) -> int:
    free = _CPU_BYTES if device == "cpu" else torch.cuda.mem_get_info()[0]
    n_contrasts, n_pairs = len(plan.contrasts.weights), plan.basis.shape[1]
    block = n_block * n_pairs * (8 + 4 * len(plan.permuted))
    rows = len(plan.permuted) + (len(plan.rotation) if plan.rotates_late else 0)
    each = 4 * (n_pairs * len(plan.ranks) + 4 * n_contrasts + n_block * (2 * rows + _COPIES * (n_contrasts + 1)))
    return max(1, int((_MEMORY_SHARE * free - block) // each))


@contextmanager
def _full_float32() -> Iterator[None]:
    """Products of float32 at full precision: the error bound does not hold for TF32, which a program may allow."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@torch.inference_mode()
def _count(counters: Iterator[_DeviceCounter], n_chunks: int, n_block: int, progress: Progress) -> Counts:
    """Let each counter, made when its turn comes, count all permutations."""
    parts = []
    with _full_float32():
        for number, counter in enumerate(counters):
            n = len(counter.orders)
            for first in range(0, n, n_block):
                last = min(first + n_block, n)
                counter.add(first, last)
                progress((number * n + last) // n_chunks, n)
            parts.append(counter.counts())
    return Counts.over_locations(parts)


@dataclass(frozen=True)
class _Block:
    """What is left open of a block of permutations, on the device.

    `doubtful` and `near`, (room, 3), are entries (contrast, permutation, location) of which the first `found` are
    filled: those too close to their threshold to tell, and those that may be the largest of their permutation. `top`
    and `error`, (n_families, n), are the largest values, and how much they may err.
    """

    first: int
    last: int
    doubtful: torch.Tensor
    near: torch.Tensor
    found: torch.Tensor
    top: torch.Tensor
    error: torch.Tensor

    def entries(self, listed: torch.Tensor, which: int, origin: int) -> NDArray[np.int64]:
        """The filled entries of a list, as (permutation from `origin` on, contrast, location)."""
        rows = listed[: int(self.found[which])].cpu().numpy()
        return rows[:, [1, 0, 2]] + np.array([self.first - origin, 0, 0])


class _DeviceCounter:
    """Counts one chunk of the brain, block after block of the permutations `orders` (n, n_items)."""

    def __init__(self, plan: NullPlan, targets: Targets, orders: torch.Tensor, start: int) -> None:
        self._plan, self.orders, self._start = plan, orders, start
        contrasts, device, n_pairs = plan.contrasts, orders.device, plan.basis.shape[1]
        self._permuted = self._put(plan.permuted)
        self._index: tuple[torch.Tensor, ...] = ()
        if plan.permutations.unit != "entries":
            if (pairs := plan.permutations.pairs) is None:
                position = expand(np.arange(n_pairs)).astype(np.int64)
                index = (position, *np.triu_indices(len(position), k=1))
            else:
                index = (pairs.position, pairs.first, pairs.second)
            self._index = tuple(torch.from_numpy(array).to(device) for array in index)
        self._exact = Exact(plan, targets)
        self._brain = [self._put(rdms) for rdms in targets.responses]
        self._unpermuted = self._put(plan.project(targets.responses))
        self._operands = tuple(
            self._put(array)
            for array in (
                contrasts.weights, targets.scale, targets.offset, targets.thresholds, self._exact.best_threshold
            )
        )  # fmt: skip
        self._families = tuple(np.bincount(contrasts.family).tolist())
        flop = 2.0 * len(orders) * plan.permuted.size * len(targets)
        self._scan = _compiled_scan() if device.type != "cpu" and flop > _COMPILE_FLOP else _scan
        self._certain = torch.zeros((len(contrasts.weights) + 1, len(targets)), dtype=torch.int64, device=device)
        self._rechecked = np.zeros(targets.thresholds.shape, dtype=np.int64)
        self._rechecked_best = np.zeros(len(targets), dtype=np.int64)
        self._largest: list[NDArray[np.float64]] = []
        self._waiting: list[_Block] = []

    def add(self, first: int, last: int) -> None:
        """Count a block of permutations."""
        count, *left_open = self._compared(first, last)
        self._certain += count
        self._waiting.append(_block(first, last, *left_open))
        if len(self._waiting) == _BLOCKS_PER_TRANSFER:
            self._recheck()

    def counts(self) -> Counts:
        """Counts after all blocks."""
        self._recheck()
        certain = self._certain.cpu().numpy()
        return Counts(
            certain[:-1] + self._rechecked, certain[-1] + self._rechecked_best, np.concatenate(self._largest, axis=1)
        )

    def _compared(self, first: int, last: int) -> tuple[torch.Tensor, ...]:
        permuted = _permute(self._permuted, self.orders[first:last], self._index)
        n = last - first
        rows = [slice(own.start * n, own.stop * n) for own in self._plan.of_people()]
        parts = [multiply(permuted[own], rdms) for own, rdms in zip(rows, self._brain, strict=True)]
        projected = (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(len(self._permuted), n, -1)
        rotations = self._rotations(first, last)
        error = self._put(np.broadcast_to(2 * self._plan.errors(rotations), (n,)))
        if rotations.size:
            projected = _rotated(projected, self._unpermuted, self._put(rotations))
        projected = projected[: self._plan.contrasts.weights.shape[1]]
        return self._scan(projected, self._operands, error, self._families, self._plan.contrasts.rounding)

    def _rotations(self, first: int, last: int) -> NDArray[np.float64]:
        return self._plan.rotations(self._permutations(first, last) if self._plan.given else _NO_PERMUTATIONS)

    def _permutations(self, first: int, last: int) -> NDArray[np.int64]:
        return self._plan.permutations.indices(self._plan.basis.shape[1], self._start + first, self._start + last)

    def _recheck(self) -> None:
        """Take the open entries of all waiting blocks from the device, and compute them in float64."""
        if not self._waiting:
            return
        first, last = self._waiting[0].first, self._waiting[-1].last
        permutations, rotations = self._permutations(first, last), self._rotations(first, last)
        blocks = [self._with_room(block) for block in self._waiting]
        doubtful = np.concatenate([block.entries(block.doubtful, 0, first) for block in blocks])
        self._exact.recheck_in_float64(doubtful, permutations, rotations, self._rechecked, self._rechecked_best)
        near = np.concatenate([block.entries(block.near, 1, first) for block in blocks])
        top, error = (
            torch.cat([getattr(block, name) for block in blocks], dim=1).double().cpu().numpy()
            for name in ("top", "error")
        )
        self._largest.append(self._largest_of_all(top, error, near, permutations, rotations))
        self._waiting.clear()

    def _with_room(self, block: _Block) -> _Block:
        """The block, counted again if more was left open than it had room for."""
        needed = int(block.found.max())
        if needed <= len(block.doubtful):
            return block
        _, *left_open = self._compared(block.first, block.last)
        return _block(block.first, block.last, *left_open, room=needed)

    def _largest_of_all(
        self,
        top: NDArray[np.float64],
        error: NDArray[np.float64],
        near: NDArray[np.int64],
        permutations: NDArray[np.int64],
        rotations: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Largest value of every permutation, exact wherever rounding could move it across a threshold."""
        is_open = self._exact.is_open(top, error)
        family = self._plan.contrasts.family[near[:, 1]]
        needed = is_open[family, near[:, 0]]
        values = self._exact.values(near[needed], permutations, rotations)
        top[is_open] = -np.inf
        np.maximum.at(top, (family[needed], near[needed, 0]), values)
        return top

    def _put(self, array: NDArray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self.orders.device)


def _block(
    first: int,
    last: int,
    doubtful: torch.Tensor,
    near: torch.Tensor,
    top: torch.Tensor,
    error: torch.Tensor,
    *,
    room: int | None = None,
) -> _Block:
    # A list of fixed length, unlike one as long as needed, does not have to wait for the device.
    room = room or max(_LEAST_ROOM, doubtful.numel() * _OPEN_PER_MILLION // 10**6)
    entries = [torch.nonzero_static(mask, size=room) for mask in (doubtful, near)]
    return _Block(first, last, entries[0], entries[1], torch.stack([doubtful.sum(), near.sum()]), top, error)


def _permute(basis: torch.Tensor, orders: torch.Tensor, index: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Rows of `basis`, (n_rows, n_pairs), in all orders: (n_rows * n, n_pairs)."""
    if index:
        position, first, second = index
        orders = position[orders[:, first], orders[:, second]]
    return basis.index_select(1, orders.ravel()).reshape(-1, basis.shape[1])


def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``a @ b.T``; by itself so that tests can let it run out of memory."""
    return a @ b.T


def _rotated(projected: torch.Tensor, unpermuted: torch.Tensor, rotations: torch.Tensor) -> torch.Tensor:
    """Projections on the directions, then those on the permuted basis, (n_directions + rank, n, n_locations)."""
    rank, n, n_locations = projected.shape
    _, n_directions, _ = rotations.shape
    if len(rotations) == 1:
        own = (rotations[0, :, :rank] @ projected.reshape(rank, -1)).reshape(n_directions, n, n_locations)
    else:
        own = torch.bmm(rotations[:, :, :rank], projected.transpose(0, 1))
        own += (rotations[:, :, rank:].reshape(-1, rank) @ unpermuted).reshape(own.shape)
        own = own.transpose(0, 1)
    return torch.cat([own, projected])


def _scan(
    projected: torch.Tensor,
    operands: tuple[torch.Tensor, ...],
    error: torch.Tensor,
    families: tuple[int, ...],
    rounding: float,
) -> tuple[torch.Tensor, ...]:
    """Compare a block of projections (n_directions, n, n_locations); for the error bound see `exceedances_cpu._scan`.

    `operands` are weights, scale, offset, thresholds and the threshold of the best; `error`, (n,), is that of a
    projection; `families` are numbers of contrasts.

    Returns
    -------
    count : (n_contrasts + 1, n_locations)
        Values that surely reach their threshold; the last row is of the largest of the first family.
    doubtful : (n_contrasts + 1, n, n_locations), bool
    near : (n_contrasts, n, n_locations), bool
        May be the largest of their permutation.
    top, error : (n_families, n)
        Largest value of each family over locations, and how much it may err.
    """
    n_directions, n, n_locations = projected.shape
    weights, scale, offset, thresholds, best_threshold = operands
    squares = projected.square().reshape(n_directions, -1)
    scale, offset, thresholds = scale[:, None], offset[:, None], thresholds[:, None]
    values = scale * (weights @ squares).reshape(-1, n, n_locations) + offset
    size = (weights.abs() @ squares).reshape(-1, n, n_locations)
    factor = weights.abs().sum(dim=1).sqrt()[:, None] * error
    bound = scale.abs() * factor[:, :, None] * size.sqrt() + rounding * (
        scale.abs() * size + offset.abs() + thresholds.abs()
    )
    excess = values - thresholds
    best_excess = values[: families[0]].amax(dim=0) - best_threshold
    best_bound = bound[: families[0]].amax(dim=0)
    count = torch.cat([(excess > bound).sum(dim=1), (best_excess > best_bound).sum(dim=0)[None]])
    doubtful = torch.cat([excess.abs() <= bound, (best_excess.abs() <= best_bound)[None]])
    tops, top_errors, near = [], [], []
    for own_values, own_bound in zip(values.split(families), bound.split(families), strict=True):
        tops.append(own_values.amax(dim=(0, 2)))
        top_errors.append(own_bound.amax(dim=(0, 2)))
        near.append(own_values >= (tops[-1] - 2 * top_errors[-1])[:, None])
    return count, doubtful, torch.cat(near), torch.stack(tops), torch.stack(top_errors)


@cache
def _compiled_scan() -> Callable[..., Any]:
    """`_scan` as a few kernels; as it is, where they cannot be built."""
    compiled = torch.compile(_scan, dynamic=True)
    usable: list[Callable[..., Any]] = [compiled]

    def scan(*operands: Any) -> Any:
        try:
            return usable[0](*operands)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler may raise
            if usable[0] is _scan:
                raise
            warnings.warn(
                f"no compiled kernels on this machine ({type(error).__name__}); the test goes on a little slower",
                stacklevel=2,
            )
            usable[0] = _scan
            return _scan(*operands)

    return scan
