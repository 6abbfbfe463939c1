"""Counting how often null values reach observed ones, on a GPU: the same counts as `utils.stats.exceedances`.

Places and predictors stay on the device, and only orders of conditions go there. What comes back, every now and then,
are the few entries that float32 leaves open, which are settled in float64 as on the CPU. All is written in operations
of torch, which run on any of its devices; for a long test on a GPU, the pass over the projections is compiled into a
few kernels.
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

from utils.rdm import expand
from utils.stats.exceedances import SIGNED, Counts, Exact, Places, Plan, Progress

# Rows of the product of a block: enough to fill a large GPU, more would only take memory.
_ROWS_PER_PRODUCT = 4096
_PERMUTATIONS_PER_BLOCK = 1024
# Share of the free memory to fill; the library of the product and the compiler need some, too.
_MEMORY_SHARE = 0.6
_CPU_BYTES = 2**30
# Arrays of shape (rows, permutations, places) that are alive at once while a block is counted.
_COPIES = 6
# Entries of a block that may be left open before it has to be counted again with more room.
_OPEN_PER_MILLION = 500
_LEAST_ROOM = 8192
# Blocks whose open entries wait on the device: it never stands still for a single block.
_BLOCKS_PER_TRANSFER = 64
# To compile takes some ten seconds: not for a test that is over by then.
_COMPILE_FLOP = 1e15
# TF32 rounds to 11 bits; its error is measured on so many permutations and places, and doubled.
_TRIAL_PERMUTATIONS, _TRIAL_PLACES = 16, 512


def count_exceedances(
    plan: Plan,
    places: Places,
    start: int,
    stop: int,
    progress: Progress | None = None,
    *,
    device: str = "cuda",
    tf32: bool = False,
) -> Counts:
    """Count permutations number `start` to `stop` - 1 at all places, on a device of torch.

    Where its memory does not suffice, smaller pieces are tried, with a warning.

    Parameters
    ----------
    plan : Plan
    places : Places
    start, stop : int
    progress : callable, optional
        Called with (permutations done, permutations in all); where the brain is counted in pieces, every piece takes
        part of them.
    device : str
    tf32 : bool
        Multiply with the tensor cores of recent GPUs, which round to 11 bits. What this leaves open is not settled, but
        counts as reached: p values become larger, never smaller, by what `Counts.slack` says.

    Returns
    -------
    Counts
        Without `tf32`, those of the CPU.
    """
    n_block = max(1, min(stop - start, _PERMUTATIONS_PER_BLOCK, _ROWS_PER_PRODUCT // len(plan.permuted)))
    n_places = min(len(places), _places_at_once(plan, n_block, device))
    while True:
        try:
            return _count(plan, places, start, stop, progress, n_places, n_block, device, tf32)
        except torch.OutOfMemoryError:
            if n_places == n_block == 1:
                raise
        # Only here, where the error is gone that keeps the arrays of the attempt alive.
        if device != "cpu":
            torch.cuda.empty_cache()
        n_places, n_block = -(-n_places // 2), -(-n_block // 2)
        warnings.warn(
            f"the memory of the GPU is short; starting again with {n_places:,} places and {n_block:,} permutations at "
            "a time",
            stacklevel=2,
        )


def _places_at_once(plan: Plan, n_block: int, device: str) -> int:
    free = _CPU_BYTES if device == "cpu" else torch.cuda.mem_get_info()[0]
    n_rows, n_pairs = len(plan.rows.offset), plan.basis.shape[1]
    block = n_block * n_pairs * (8 + 4 * len(plan.permuted))
    each = 4 * (n_pairs + 3 * n_rows + n_block * (2 * len(plan.turn) + _COPIES * (n_rows + 1)))
    return max(1, int((_MEMORY_SHARE * free - block) // each))


@torch.inference_mode()
def _count(
    plan: Plan,
    places: Places,
    start: int,
    stop: int,
    progress: Progress | None,
    n_places: int,
    n_block: int,
    device: str,
    tf32: bool,
) -> Counts:
    n = stop - start
    orders = torch.from_numpy(plan.draws.orders(start, stop)).to(device)
    pieces, parts = list(places.pieces(n_places)), []
    for number, piece in enumerate(pieces):
        counter = _Counter(plan, piece, orders, start, device, tf32)
        for first in range(0, n, n_block):
            last = min(first + n_block, n)
            counter.add(first, last)
            if progress is not None:
                progress((number * n + last) // len(pieces), n)
        parts.append(counter.counts())
    return Counts.beside(parts)


@dataclass(frozen=True)
class _Block:
    """What is left open of a block of permutations, on the device.

    `doubtful` and `near`, (room, 3), are entries (row, permutation, place) of which the first `found` are filled: those
    too close to their target to tell, and those that may be the largest of their permutation. `top` and `error`,
    (2, n), are the largest values, and how much they may err.
    """

    first: int
    last: int
    doubtful: torch.Tensor
    near: torch.Tensor
    found: torch.Tensor
    top: torch.Tensor
    error: torch.Tensor

    def entries(self, listed: torch.Tensor, which: int, origin: int) -> NDArray[np.int64]:
        """The filled entries of a list, as (permutation from `origin` on, row, place)."""
        rows = listed[: int(self.found[which])].cpu().numpy()
        return rows[:, [1, 0, 2]] + np.array([self.first - origin, 0, 0])


class _Counter:
    """Counts one piece of the brain, block after block of the permutations `orders` (n, n_items)."""

    def __init__(self, plan: Plan, places: Places, orders: torch.Tensor, start: int, device: str, tf32: bool) -> None:
        self._plan, self._orders, self._start, self._device, self._tf32 = plan, orders, start, device, tf32
        rows = plan.rows
        self._permuted, self._turn = self._put(plan.permuted), self._put(plan.turn)
        self._index: tuple[torch.Tensor, ...] = ()
        if plan.draws.unit == "conditions":
            position = expand(np.arange(plan.draws.n_pairs)).astype(np.int64)
            self._index = tuple(
                torch.from_numpy(array).to(device) for array in (position, *np.triu_indices(plan.draws.n_items, k=1))
            )
        self._exact = Exact(plan, places)
        self._brain = self._put(places.responses)
        signed = (rows.kind == SIGNED).any()
        self._operands = (
            self._put(rows.weights),
            self._put(rows.offset),
            self._put(places.targets),
            self._put(self._exact.target_best),
            self._put(places.sign[rows.n_plain :]) if signed else None,
        )
        flop = 2.0 * len(orders) * plan.permuted.size * len(places)
        self._scan = _compiled_scan() if device != "cpu" and flop > _COMPILE_FLOP else _scan
        self._error = self._measured_error() if tf32 else plan.error
        self._certain = torch.zeros((len(rows.offset) + 1, len(places)), dtype=torch.int64, device=device)
        self._open = torch.zeros_like(self._certain)
        self._settled = np.zeros(places.targets.shape, dtype=np.int64)
        self._settled_best = np.zeros(len(places), dtype=np.int64)
        self._largest: list[NDArray[np.float64]] = []
        self._waiting: list[_Block] = []

    def add(self, first: int, last: int) -> None:
        """Count a block of permutations."""
        count, doubtful, near, top, error = self._compared(first, last)
        self._certain += count
        if self._tf32:
            self._open += doubtful.sum(dim=1)
            self._largest.append((top + error).cpu().numpy().astype(np.float64))
            return
        self._waiting.append(_block(first, last, doubtful, near, top, error))
        if len(self._waiting) == _BLOCKS_PER_TRANSFER:
            self._settle()

    def counts(self) -> Counts:
        """Counts after all blocks."""
        self._settle()
        total = (self._certain + self._open).cpu().numpy()
        return Counts(
            total[:-1] + self._settled,
            total[-1] + self._settled_best,
            np.concatenate(self._largest, axis=1),
            slack=int(self._open.max()),
        )

    def _compared(self, first: int, last: int) -> tuple[torch.Tensor, ...]:
        permuted = _permute(self._permuted, self._orders[first:last], self._index)
        with precision("high" if self._tf32 else "highest"):
            projected = multiply(permuted, self._brain).reshape(len(self._permuted), -1)
        with precision("highest"):
            if self._plan.turns_late:
                projected = self._turn @ projected
            rows = self._plan.rows
            return self._scan(
                projected.reshape(-1, last - first, len(self._brain)), *self._operands,
                rows.n_plain, 2 * self._error, rows.rounding,
            )  # fmt: skip

    def _settle(self) -> None:
        """Take the open entries of all waiting blocks from the device, and settle them in float64."""
        if not self._waiting:
            return
        first, last = self._waiting[0].first, self._waiting[-1].last
        permutations = self._plan.draws.indices(self._plan.draws.orders(self._start + first, self._start + last))
        blocks = [self._with_room(block) for block in self._waiting]
        doubtful = np.concatenate([block.entries(block.doubtful, 0, first) for block in blocks])
        self._exact.settle(doubtful, permutations, self._settled, self._settled_best)
        near = np.concatenate([block.entries(block.near, 1, first) for block in blocks])
        top, error = (
            torch.cat([getattr(block, name) for block in blocks], dim=1).double().cpu().numpy()
            for name in ("top", "error")
        )
        self._largest.append(self._largest_of_all(top, error, near, permutations))
        self._waiting.clear()

    def _with_room(self, block: _Block) -> _Block:
        """The block, counted again if more was left open than it had room for."""
        needed = int(block.found.max())
        if needed <= len(block.doubtful):
            return block
        _, doubtful, near, top, error = self._compared(block.first, block.last)
        return _block(block.first, block.last, doubtful, near, top, error, needed)

    def _largest_of_all(
        self,
        top: NDArray[np.float64],
        error: NDArray[np.float64],
        near: NDArray[np.int64],
        permutations: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Largest value of every permutation, exact wherever rounding could move it across a target."""
        is_open = self._exact.is_open(top, error)
        family = (near[:, 1] >= self._plan.rows.n_plain).astype(int)
        needed = is_open[family, near[:, 0]]
        values = self._exact.values(near[needed], permutations)
        top[is_open] = -np.inf
        np.maximum.at(top, (family[needed], near[needed, 0]), values)
        return top

    def _measured_error(self) -> float:
        """Twice the largest error of some projections, as TF32 makes them."""
        some = _permute(self._permuted, self._orders[:_TRIAL_PERMUTATIONS], self._index)
        brain = self._brain[:_TRIAL_PLACES]
        with precision("high"):
            projected = multiply(some, brain)
        return 2 * float((projected - some.double() @ brain.T.double()).abs().max())

    def _put(self, array: NDArray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).to(self._device)


def _block(
    first: int,
    last: int,
    doubtful: torch.Tensor,
    near: torch.Tensor,
    top: torch.Tensor,
    error: torch.Tensor,
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
    """``a @ b.T``, at the precision that is set."""
    return a @ b.T


@contextmanager
def precision(name: str) -> Iterator[None]:
    """Products of float32 at full precision ("highest"), or with TF32 ("high")."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _scan(
    projected: torch.Tensor,
    weights: torch.Tensor,
    offset: torch.Tensor,
    targets: torch.Tensor,
    target_best: torch.Tensor,
    sign: torch.Tensor | None,
    n_plain: int,
    error: float,
    rounding: float,
) -> tuple[torch.Tensor, ...]:
    """Compare a block of projections (n_directions, n, n_places); for the error bound see `exceedances_cpu._scan`.

    Returns
    -------
    count : (n_rows + 1, n_places)
        Values that surely reach their target; the last row is of the largest plain value.
    doubtful : (n_rows + 1, n, n_places), bool
    near : (n_rows, n, n_places), bool
        May be the largest of their permutation.
    top, error : (2, n)
        Largest value of the plain rows, and of the others, over places, and how much they may err.
    """
    n_directions, n, n_places = projected.shape
    squares = projected.square().reshape(n_directions, -1)
    values = (weights @ squares).reshape(-1, n, n_places) + offset[:, None, None]
    size = (weights.abs() @ squares).reshape(-1, n, n_places)
    if n_plain < len(values):
        others = values[n_plain:]
        values = torch.cat([values[:n_plain], others.abs() if sign is None else others * sign[:, None]])
    factor = error * weights.abs().sum(dim=1).sqrt()
    bound = factor[:, None, None] * size.sqrt() + rounding * (
        size + offset.abs()[:, None, None] + targets.abs()[:, None]
    )
    excess = values - targets[:, None]
    best_excess = values[:n_plain].amax(dim=0) - target_best
    best_bound = bound[:n_plain].amax(dim=0)
    count = torch.cat([(excess > bound).sum(dim=1), (best_excess > best_bound).sum(dim=0)[None]])
    doubtful = torch.cat([excess.abs() <= bound, (best_excess.abs() <= best_bound)[None]])
    families = [slice(0, n_plain)] + ([slice(n_plain, None)] if n_plain < len(values) else [])
    top = values.new_full((2, n), -torch.inf)
    top_error = values.new_zeros((2, n))
    near = []
    for f, family in enumerate(families):
        top[f] = values[family].amax(dim=(0, 2))
        top_error[f] = bound[family].amax(dim=(0, 2))
        near.append(values[family] >= (top[f] - 2 * top_error[f])[:, None])
    return count, doubtful, torch.cat(near), top, top_error


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
