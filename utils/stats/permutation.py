"""The permutation test: p values of statistics, and of their differences, at many locations at once.

A permutation test exchanges conditions (rows and columns of an RDM together) and counts how often a statistic reaches
the observed value. Since the same permutation serves every location in the brain, permuting the predictors' basis
instead of thousands of brain RDMs gives the same numbers for the price of one matrix product per permutation. How a
`LinearStatistic` is counted stands in `exceedances`; every other statistic, as `TopModels`, is counted here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.parallel.resources import Progress, Resources, ignore
from utils.stats.exceedances import (
    PLAIN,
    SIGNED,
    TWO_SIDED,
    Contrasts,
    Counts,
    NullPlan,
    Permutations,
    Targets,
    permute,
)
from utils.stats.exceedances_cpu import count_on_cpu
from utils.stats.inference import difference_contrasts
from utils.stats.regression import RANK_TOLERANCE, Basis, LinearStatistic, adjust, own_adjusted_r2, standardise

if TYPE_CHECKING:
    import torch

    from utils.parallel.dask_workers import Workers

Statistic = Callable[[Any], Any]
# Two values closer than this are equal but for rounding; without it, a permutation that changes nothing (or only swaps
# equal entries) would count or not depending on how the product was cut into blocks.
_TIE = 1e-11
# Blocks of the test in float64.
_BLOCK_BYTES = 20 * 2**20
_LOCATIONS_PER_BLOCK = 1024
# Directions of subsets of models that are kept, to be used again.
_DIRECTIONS_BYTES = 256 * 2**20
# What workers get: locations that they hold at once, operations per task (seconds of work), tasks enough to share.
_CHUNK_BYTES = 2**30
_TASK_FLOP = 1e12
_LEAST_TASKS = 20


@dataclass(frozen=True)
class PermutationTest:
    """Outcome of `permutation_test`.

    Attributes
    ----------
    observed : ndarray of float64, shape (n_statistics, n_locations)
    p, p_max : ndarray of float64, shape (n_statistics, n_locations)
        One-sided p values, and the same corrected for all statistics and locations by the maximum statistic.
    p_best : ndarray of float64, shape (n_locations,)
        Of the largest statistic at each location: how often the largest one of a permutation, whichever it is, reaches
        it.
    pairs : list of (int, int)
        Pairs of statistics that were compared.
    p_difference, p_difference_max : ndarray of float64, shape (n_pairs, n_locations)
        p values of their differences, and corrected for all pairs and locations.
    """

    observed: NDArray[np.float64]
    p: NDArray[np.float64]
    p_max: NDArray[np.float64]
    p_best: NDArray[np.float64]
    pairs: list[tuple[int, int]]
    p_difference: NDArray[np.float64]
    p_difference_max: NDArray[np.float64]


def permutation_test(
    basis: Basis,
    statistic: Statistic,
    rdms: ArrayLike,
    permutations: Permutations,
    *,
    pairs: Sequence[tuple[int, int]] = (),
    two_sided: bool = True,
    resources: Resources = Resources(),
    progress: Progress = ignore,
) -> PermutationTest:
    """Permutation test of statistics, and of their differences, at many locations at once.

    p values are ``(1 + #{null >= observed}) / (1 + n)`` for n permutations (Phipson & Smyth 2010, Stat Appl Genet Mol
    Biol 9:39); the observed data are one of the arrangements, so p is never 0. The maximum statistic (Nichols & Holmes
    2002, Hum Brain Mapp 15:1) takes, per permutation, the largest value over all statistics and locations.

    Parameters
    ----------
    basis : Basis
        Of all predictors.
    statistic : callable
        Maps projected responses (rank, n) to values (n_statistics, n). A `LinearStatistic` is counted from products in
        float32, rechecked in float64, and workers can share it; any other callable, such as `TopModels`, gets tensors
        of float64 on `resources.device`.
    rdms : array_like, shape (n_locations, n_pairs)
        Condensed brain RDMs of the locations to be tested.
    permutations : Permutations
    pairs : sequence of (int, int)
        Statistics to be compared with one another.
    two_sided : bool
        Compare absolute differences; otherwise count in the direction observed, as the published code does.
    resources : Resources
        Device and workers to count on. Counts are those of float64 on every device and with any number of workers.
    progress : callable, optional
        Called with (permutations done, permutations in all).

    Returns
    -------
    PermutationTest

    Raises
    ------
    ValueError
        If there are workers and the statistic is not a `LinearStatistic`, or if a brain RDM is constant.
    """
    responses = standardise(np.asarray(rdms))
    rest = responses, permutations, list(pairs), two_sided, resources, progress
    if isinstance(statistic, LinearStatistic):
        return _test_linear_statistic(basis, statistic, *rest)
    if resources.workers is not None:
        raise ValueError(
            f"`workers` can share the test of a LinearStatistic, not of {type(statistic).__name__}; leave them out"
        )
    return _test_any_statistic(basis, statistic, *rest)


def _test_linear_statistic(
    basis: Basis,
    statistic: LinearStatistic,
    responses: NDArray[np.float64],
    permutations: Permutations,
    pairs: list[tuple[int, int]],
    two_sided: bool,
    resources: Resources,
    progress: Progress,
) -> PermutationTest:
    """Counts from products in float32, rechecked in float64 where this leaves them open; see `exceedances`."""
    n = len(statistic.weights)
    contrasts = np.vstack([np.eye(n), difference_contrasts(pairs, n)])
    weights, offset = contrasts @ statistic.weights, contrasts @ statistic.offset
    kind = np.array([PLAIN] * n + [TWO_SIDED if two_sided else SIGNED] * len(pairs))
    observed = weights @ np.square(statistic.directions.T @ basis.q.T @ responses.T) + offset
    thresholds = np.concatenate([observed[:n], np.abs(observed[n:])]) - _TIE
    plan = NullPlan(
        basis.q.T,
        statistic.directions.T,
        Contrasts(weights, offset[:, 0], kind),
        permutations,
        (np.sort(thresholds[:n], axis=None), np.sort(thresholds[n:], axis=None)),
    )
    targets = Targets(responses, thresholds, np.where(observed < 0, -1.0, 1.0))
    return _p_values(observed[:n], thresholds, _count(plan, targets, resources, progress), pairs)


def _count(plan: NullPlan, targets: Targets, resources: Resources, progress: Progress) -> Counts:
    if resources.workers is not None:
        return _count_on_workers(resources.workers, plan, targets, progress)
    if resources.device == "cpu":
        return count_on_cpu(plan, targets, 0, plan.permutations.n, progress)
    from utils.stats.exceedances_gpu import count_on_gpu

    return count_on_gpu(plan, targets, 0, plan.permutations.n, progress, device=resources.device)


def _count_on_workers(workers: Workers, plan: NullPlan, targets: Targets, progress: Progress) -> Counts:
    """Count chunks of the brain one after another, permutations of each side by side."""
    flop_each, n_permutations = 2 * plan.permuted.size, plan.permutations.n
    chunks = list(targets.chunks(max(1, _CHUNK_BYTES // (8 * targets.responses.shape[1]))))
    parts = []
    for number, chunk in enumerate(chunks):
        step = int(np.clip(_TASK_FLOP // (flop_each * len(chunk)), 16, max(16, n_permutations // _LEAST_TASKS)))
        tasks = [(start, min(start + step, n_permutations)) for start in range(0, n_permutations, step)]
        found: dict[int, Counts] = {}

        def keep(task: int, counts: Counts, found: dict = found, tasks: list = tasks, number: int = number) -> None:
            found[task] = counts
            done = sum(tasks[i][1] - tasks[i][0] for i in found)
            progress((number * n_permutations + done) // len(chunks), n_permutations)

        workers.run(count_on_cpu, (plan, chunk), tasks, keep)
        parts.append(Counts.over_permutations([found[i] for i in range(len(tasks))]))
    return Counts.over_locations(parts)


def _test_any_statistic(
    basis: Basis,
    statistic: Statistic,
    responses: NDArray[np.float64],
    permutations: Permutations,
    pairs: list[tuple[int, int]],
    two_sided: bool,
    resources: Resources,
    progress: Progress,
) -> PermutationTest:
    """All in float64, for any statistic and any device of torch."""
    import torch

    q, brain = _float64(basis.q.T, resources.device), _float64(responses.T, resources.device)
    observed = statistic(q @ brain)
    n = len(observed)
    contrasts = _float64(difference_contrasts(pairs, n), resources.device)
    difference = contrasts @ observed
    direction = torch.where(difference < 0, -1.0, 1.0).to(difference)
    thresholds = torch.cat([observed, difference.abs()]) - _TIE
    best_threshold = thresholds[:n].amax(dim=0)
    count, best = torch.zeros_like(thresholds, dtype=torch.long), torch.zeros_like(best_threshold, dtype=torch.long)
    largest = thresholds.new_full((2, permutations.n), -torch.inf)
    (rank, n_pairs), n_locations = q.shape, brain.shape[1]
    size = max(1, _BLOCK_BYTES // (8 * rank * max(n_pairs, min(n_locations, _LOCATIONS_PER_BLOCK))))
    for start in range(0, permutations.n, size):
        block = slice(start, min(start + size, permutations.n))
        moved = torch.from_numpy(permute(basis.q.T, permutations.indices(n_pairs, block.start, block.stop))).to(
            q.device
        )
        for left in range(0, n_locations, _LOCATIONS_PER_BLOCK):
            here = slice(left, left + _LOCATIONS_PER_BLOCK)
            null = statistic((moved.reshape(-1, n_pairs) @ brain[:, here]).reshape(rank, -1))
            null, change = (values.unflatten(1, (moved.shape[1], -1)) for values in (null, contrasts @ null))
            change = change.abs() if two_sided else change * direction[:, None, here]
            top = null.amax(dim=0)
            count[:, here] += (torch.cat([null, change]) >= thresholds[:, None, here]).sum(dim=1)
            best[here] += (top >= best_threshold[here]).sum(dim=0)
            largest[0, block] = largest[0, block].maximum(top.amax(dim=1))
            if pairs:
                largest[1, block] = largest[1, block].maximum(change.amax(dim=(0, 2)))
        progress(block.stop, permutations.n)
    counts = Counts(*(tensor.cpu().numpy() for tensor in (count, best, largest)))
    return _p_values(observed.cpu().numpy(), thresholds.cpu().numpy(), counts, pairs)


def _p_values(
    observed: NDArray[np.float64], thresholds: NDArray[np.float64], counts: Counts, pairs: list[tuple[int, int]]
) -> PermutationTest:
    """p values from counts of the statistics, and of the differences of `pairs` behind them."""
    n, n_permutations = len(observed), counts.largest.shape[1]
    largest = np.sort(counts.largest, axis=1)
    p = (1.0 + counts.count) / (1.0 + n_permutations)
    at_least = [
        n_permutations - np.searchsorted(null, values)
        for null, values in zip(largest, (thresholds[:n], thresholds[n:]), strict=True)
    ]
    return PermutationTest(
        observed=observed,
        p=p[:n],
        p_max=(1.0 + at_least[0]) / (1.0 + n_permutations),
        p_best=(1.0 + counts.best) / (1.0 + n_permutations),
        pairs=pairs,
        p_difference=p[n:],
        p_difference_max=(1.0 + at_least[1]) / (1.0 + n_permutations),
    )


def _float64(array: NDArray, device: str) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64)).to(device)


class TopModels:
    """Unique variance of the models that explain a location best, for `permutation_test`.

    At every location, and in every permutation anew, the `n_top` models with the largest adjusted R2 are chosen and
    ranked; the statistics are the unique variance of the first, second, ... among the chosen. Repeating the choice
    keeps the test honest, since the best of many models explains something by chance (Kriegeskorte et al. 2009, Nat
    Neurosci 12:535).

    Parameters
    ----------
    basis : Basis
        Of all models.
    n_top : int
        How many are chosen.
    fixed : ndarray of int, shape (n_top, n_locations), optional
        Choose once: these models at each location, in this order, in every permutation (as published).
    device : str
        Where torch computes.
    """

    def __init__(
        self, basis: Basis, n_top: int = 3, fixed: NDArray[np.int64] | None = None, device: str = "cpu"
    ) -> None:
        import torch

        self.n_top, self.n_pairs = n_top, basis.n_pairs
        own = own_adjusted_r2(basis)
        self._own = LinearStatistic(*(_float64(part, device) for part in (own.directions, own.weights, own.offset)))
        width = max(c.shape[1] for c in basis.coordinates)
        padded = [np.pad(c, ((0, 0), (0, width - c.shape[1]))) for c in basis.coordinates]
        self._coordinates = _float64(np.stack(padded), device)
        self._fixed = None if fixed is None else torch.from_numpy(fixed).to(device)
        self._known = {size: _SubsetDirections(self._coordinates, size) for size in (n_top - 1, n_top) if size}

    def select(self, projected: Any) -> Any:
        """Indices (n_top, n) of the best models, best first, for projected responses (rank, n)."""
        return self._own(projected).topk(self.n_top, dim=0).indices

    def __call__(self, projected: Any) -> Any:
        """Unique variance (n_top, n) of the chosen models."""
        import torch

        if self._fixed is None:
            chosen = self.select(projected)
        else:
            chosen = self._fixed.repeat(1, projected.shape[1] // self._fixed.shape[1])
        chosen, order = chosen.sort(dim=0)
        values = torch.empty_like(chosen, dtype=projected.dtype)
        total = self._adjusted_r2(chosen, projected)
        for k in range(self.n_top):
            others = [j for j in range(self.n_top) if j != k]
            values[k] = total - (self._adjusted_r2(chosen[others], projected) if others else 0.0)
        return torch.empty_like(values).scatter_(0, order, values)

    def _adjusted_r2(self, members: torch.Tensor, projected: torch.Tensor) -> torch.Tensor:
        """Adjusted R2, (n,), of each response on its own models; `members`, (size, n), in ascending order."""
        import torch

        directions, rank, subset = self._known[len(members)].of(members)
        r2 = torch.einsum("rn,nrk->nk", projected, directions[subset]).square().sum(dim=1)
        return adjust(r2, self.n_pairs, rank[subset])


class _SubsetDirections:
    """Orthonormal directions of subsets of `size` models, kept from one block of permutations to the next."""

    def __init__(self, coordinates: torch.Tensor, size: int) -> None:
        self._coordinates, self._size = coordinates, size
        self._forget()

    def _forget(self) -> None:
        _, rank, width = self._coordinates.shape
        self._slot: dict[int, int] = {}
        self._directions = self._coordinates.new_empty((0, rank, self._size * width))
        self._rank = self._coordinates.new_empty(0)

    def of(self, members: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Directions (n_subsets, rank, k), 0 beyond their number (n_subsets,), and the subset of each response."""
        import torch

        if self._directions.nbytes > _DIRECTIONS_BYTES:
            self._forget()
        n_models = len(self._coordinates)
        powers = n_models ** torch.arange(self._size, device=members.device)
        codes, subset = (powers @ members).unique(return_inverse=True)
        new = torch.tensor([c for c in codes.tolist() if c not in self._slot], dtype=torch.long, device=codes.device)
        if len(new):
            self._slot |= {code: len(self._slot) + i for i, code in enumerate(new.tolist())}
            joined = self._coordinates[new[:, None] // powers % n_models].movedim(1, 2).flatten(2)
            u, s, _ = torch.linalg.svd(joined, full_matrices=False)
            kept = s > RANK_TOLERANCE * s[:, :1]
            self._directions = torch.cat([self._directions, u * kept[:, None]])
            self._rank = torch.cat([self._rank, kept.sum(dim=1).to(s)])
        slots = torch.tensor([self._slot[code] for code in codes.tolist()], device=codes.device)
        return self._directions, self._rank, slots[subset]
