"""Permutation tests: what could have happened by chance.

A permutation test exchanges conditions (rows and columns of an RDM together) and counts how often a statistic reaches
the observed value. Since the same permutation serves every place in the brain, permuting the predictors' basis instead
of thousands of brain RDMs gives the same numbers for the price of one matrix product per permutation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.stats.exceedances import Draws, Unit
from utils.stats.regression import RANK_TOLERANCE, Basis, LinearStatistic, adjust, own_adjusted_r2, standardise

if TYPE_CHECKING:
    import torch

    from utils.parallel.dask_workers import Cluster
    from utils.stats.exceedances import Counts, Places, Plan

Statistic = Callable[[Any], Any]
Progress = Callable[[int, int], None]
# Two values closer than this are equal but for rounding; without it, a permutation that changes nothing (or only swaps
# equal entries) would count or not depending on how the product was cut into blocks.
_TIE = 1e-11
# Blocks of the test in float64.
_BLOCK_BYTES = 20 * 2**20
_PLACES_PER_BLOCK = 1024
# Directions of sets of models that are kept, to be used again.
_TEAM_BYTES = 256 * 2**20
# What a cluster gets: places that its workers hold at once, seconds of work per task, tasks enough to share.
_PIECE_BYTES = 2**30
_TASK_FLOP = 1e12
_LEAST_TASKS = 20


@dataclass(frozen=True)
class PermutationTest:
    """Outcome of `permutation_test`.

    Attributes
    ----------
    observed : ndarray of float64, shape (n_statistics, n_places)
    p, p_max : ndarray of float64, shape (n_statistics, n_places)
        One-sided p values, and the same corrected for all statistics and places by the maximum statistic.
    p_best : ndarray of float64, shape (n_places,)
        Of the largest statistic at each place: how often the largest one of a permutation, whichever it is, reaches it.
    pairs : list of (int, int)
        Pairs of statistics that were compared.
    p_difference, p_difference_max : ndarray of float64, shape (n_pairs, n_places)
        p values of their differences, and corrected for all pairs and places.
    n_permutations : int
    """

    observed: NDArray[np.float64]
    p: NDArray[np.float64]
    p_max: NDArray[np.float64]
    p_best: NDArray[np.float64]
    pairs: list[tuple[int, int]]
    p_difference: NDArray[np.float64]
    p_difference_max: NDArray[np.float64]
    n_permutations: int
    slack: float = 0.0


def permutation_test(
    basis: Basis,
    statistic: Statistic,
    rdms: ArrayLike,
    n_permutations: int,
    *,
    unit: Unit = "conditions",
    pairs: Sequence[tuple[int, int]] = (),
    two_sided: bool = True,
    seed: int = 0,
    device: str = "cpu",
    tf32: bool = False,
    cluster: Cluster | None = None,
    progress: Progress | None = None,
) -> PermutationTest:
    """Permutation test of statistics, and of their differences, at many places at once.

    p values are ``(1 + #{null >= observed}) / (1 + n_permutations)`` (Phipson & Smyth 2010, Stat Appl Genet Mol Biol
    9:39); the observed data are one of the arrangements, so p is never 0. The maximum statistic (Nichols & Holmes 2002,
    Hum Brain Mapp 15:1) takes, per permutation, the largest value over all statistics and places.

    Parameters
    ----------
    basis : Basis
        Of all predictors.
    statistic : callable
        Maps projected responses (rank, n) to values (n_statistics, n): a `LinearStatistic` or `TopModels`.
    rdms : array_like, shape (n_places, n_pairs)
        Condensed brain RDMs of the places to be tested.
    n_permutations : int
    unit : {"conditions", "entries"}
        What is exchanged, see `Draws`.
    pairs : sequence of (int, int)
        Statistics to be compared with one another.
    two_sided : bool
        Compare absolute differences; otherwise count in the direction observed, as the published code does.
    seed : int
    device : str
        Where torch computes. Counts are those of float64 everywhere.
    tf32 : bool
        Let a GPU multiply a `LinearStatistic` with numbers of 11 bits: faster, and p values become larger by up to
        `slack`.
    cluster : Cluster, optional
        Workers that share the counting of a `LinearStatistic`, in place of `device`.
    progress : callable, optional
        Called with (permutations done, permutations in all).

    Returns
    -------
    PermutationTest
    """
    responses, draws = standardise(np.asarray(rdms)), Draws(basis.n_pairs, unit, seed)
    if not isinstance(statistic, LinearStatistic):
        return _test_in_double_precision(
            basis, statistic, responses, draws, list(pairs), two_sided, n_permutations, device, progress
        )

    def count(plan: Plan, places: Places) -> Counts:
        if cluster is not None:
            return _count_on_cluster(cluster, plan, places, n_permutations, progress)
        if device == "cpu":
            from utils.stats.exceedances_cpu import count_exceedances

            return count_exceedances(plan, places, 0, n_permutations, progress)
        from utils.stats import exceedances_gpu

        return exceedances_gpu.count_exceedances(plan, places, 0, n_permutations, progress, device=device, tf32=tf32)

    return _test_linear(basis, statistic, responses, draws, list(pairs), two_sided, count)


def _test_linear(
    basis: Basis,
    statistic: LinearStatistic,
    responses: NDArray[np.float64],
    draws: Draws,
    pairs: list[tuple[int, int]],
    two_sided: bool,
    count: Callable[[Plan, Places], Counts],
) -> PermutationTest:
    """Counts from products in float32, settled in float64 where this leaves them open; see `stats.exceedances`."""
    from utils.stats.exceedances import PLAIN, SIGNED, TWO_SIDED, Places, Plan, Rows

    n = len(statistic.weights)
    weights = np.vstack([statistic.weights, *(statistic.weights[[i]] - statistic.weights[[j]] for i, j in pairs)])
    offset = np.concatenate([statistic.offset, *(statistic.offset[[i]] - statistic.offset[[j]] for i, j in pairs)])
    kind = np.array([PLAIN] * n + [TWO_SIDED if two_sided else SIGNED] * len(pairs))
    observed = weights @ np.square(statistic.directions.T @ basis.q.T @ responses.T) + offset
    targets = np.concatenate([observed[:n], np.abs(observed[n:])]) - _TIE
    sorted_targets = (np.sort(targets[:n], axis=None), np.sort(targets[n:], axis=None))
    rows = Rows(weights, offset[:, 0], kind)
    plan = Plan(basis.q.T, statistic.directions.T, rows, draws, sorted_targets)
    counts = count(plan, Places(responses, targets, np.where(observed < 0, -1.0, 1.0)))
    n_permutations = counts.largest.shape[1]
    largest = np.sort(counts.largest, axis=1)
    return PermutationTest(
        observed=observed[:n],
        p=_p_values(counts.count[:n], n_permutations),
        p_max=_corrected_p_values(largest[0], targets[:n]),
        p_best=_p_values(counts.best, n_permutations),
        pairs=pairs,
        p_difference=_p_values(counts.count[n:], n_permutations),
        p_difference_max=_corrected_p_values(largest[1], targets[n:]),
        n_permutations=n_permutations,
        slack=counts.slack / (1 + n_permutations),
    )


def _p_values(counts: NDArray, n_permutations: int) -> NDArray[np.float64]:
    return np.asarray((1.0 + counts) / (1.0 + n_permutations), dtype=np.float64)


def _corrected_p_values(largest: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """p values of targets among the largest null values of all permutations, which are in ascending order."""
    return _p_values(largest.size - np.searchsorted(largest, targets), largest.size)


def _count_on_cluster(
    cluster: Cluster, plan: Plan, places: Places, n_permutations: int, progress: Progress | None
) -> Counts:
    """Count on the workers of a cluster: pieces of the brain one after another, permutations of each side by side."""
    from utils.stats.exceedances import Counts
    from utils.stats.exceedances_cpu import count_exceedances

    flop_each = 2 * plan.permuted.size
    pieces = list(places.pieces(max(1, _PIECE_BYTES // (8 * places.responses.shape[1]))))
    parts = []
    for number, piece in enumerate(pieces):
        step = int(np.clip(_TASK_FLOP // (flop_each * len(piece)), 16, max(16, n_permutations // _LEAST_TASKS)))
        tasks = [(start, min(start + step, n_permutations)) for start in range(0, n_permutations, step)]
        found: dict[int, Counts] = {}

        def keep(task: int, counts: Counts, found: dict = found, tasks: list = tasks, number: int = number) -> None:
            found[task] = counts
            if progress is not None:
                done = sum(tasks[i][1] - tasks[i][0] for i in found)
                progress((number * n_permutations + done) // len(pieces), n_permutations)

        cluster.run(count_exceedances, (plan, piece), tasks, keep)
        parts.append(Counts.after([found[i] for i in range(len(tasks))]))
    return Counts.beside(parts)


def _test_in_double_precision(
    basis: Basis,
    statistic: Statistic,
    responses: NDArray[np.float64],
    draws: Draws,
    pairs: list[tuple[int, int]],
    two_sided: bool,
    n_permutations: int,
    device: str,
    progress: Progress | None,
) -> PermutationTest:
    """All in float64, for any statistic and any device of torch."""
    import torch

    from utils.stats.exceedances import permute

    q, brain = _tensor(basis.q.T, device), _tensor(responses.T, device)
    observed = statistic(q @ brain)
    contrast = _contrast(pairs, len(observed)).to(observed)
    difference = contrast @ observed
    direction = torch.where(difference < 0, -1.0, 1.0).to(difference)
    tally, tally_difference = _Tally(observed), _Tally(difference.abs())
    rank, n_places = q.shape[0], brain.shape[1]
    size = max(1, _BLOCK_BYTES // (8 * rank * max(basis.n_pairs, min(n_places, _PLACES_PER_BLOCK))))
    for start in range(0, n_permutations, size):
        rows = draws.indices(draws.orders(start, min(start + size, n_permutations)))
        n = len(rows)
        permuted = torch.from_numpy(permute(basis.q.T, rows)).reshape(rank * n, basis.n_pairs).to(q.device)
        tally.begin(n)
        tally_difference.begin(n)
        for left in range(0, n_places, _PLACES_PER_BLOCK):
            here = slice(left, left + _PLACES_PER_BLOCK)
            null = statistic((permuted @ brain[:, here]).reshape(rank, -1))
            tally.add(null.reshape(len(observed), n, -1), here)
            if pairs:
                change = (contrast @ null).reshape(len(pairs), n, -1)
                tally_difference.add(change.abs() if two_sided else change * direction[:, None, here], here)
        if progress is not None:
            progress(start + n, n_permutations)
    return PermutationTest(
        observed=observed.cpu().numpy(),
        p=_p_values(tally.count.cpu().numpy(), n_permutations),
        p_max=_corrected_p_values(np.sort(tally.maxima()), tally.target.cpu().numpy()),
        p_best=_p_values(tally.count_best.cpu().numpy(), n_permutations),
        pairs=pairs,
        p_difference=_p_values(tally_difference.count.cpu().numpy(), n_permutations),
        p_difference_max=_corrected_p_values(np.sort(tally_difference.maxima()), tally_difference.target.cpu().numpy()),
        n_permutations=n_permutations,
    )


class _Tally:
    """Counts the null values that reach the observed ones, and keeps each permutation's largest."""

    def __init__(self, observed: torch.Tensor) -> None:
        self.target = observed - _TIE
        self.count = self.target.new_zeros(self.target.shape)
        self.count_best = self.target.new_zeros(self.target.shape[1])
        self.best = self.target.amax(dim=0) if len(self.target) else self.count_best
        self.largest: list[torch.Tensor] = []

    def begin(self, n: int) -> None:
        """A new batch of `n` permutations."""
        self.largest.append(self.target.new_full((n,), -float("inf")))

    def add(self, null: torch.Tensor, places: slice) -> None:
        """Null values (n_statistics, n, places) of the batch at some places."""
        best = null.amax(dim=0)
        self.count[:, places] += (null >= self.target[:, None, places]).sum(dim=1)
        self.count_best[places] += (best >= self.best[places]).sum(dim=0)
        self.largest[-1] = self.largest[-1].maximum(best.amax(dim=1))

    def maxima(self) -> NDArray[np.float64]:
        """Largest value of every permutation."""
        import torch

        return torch.cat(self.largest).cpu().numpy()


def _contrast(pairs: Sequence[tuple[int, int]], n_statistics: int) -> torch.Tensor:
    """Matrix that turns values into the differences of `pairs`."""
    import torch

    contrast = torch.zeros((len(pairs), n_statistics), dtype=torch.float64)
    for row, (i, j) in enumerate(pairs):
        contrast[row, i], contrast[row, j] = 1.0, -1.0
    return contrast


def _single(array: NDArray) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _tensor(array: NDArray, device: str) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64)).to(device)


class TopModels:
    """Unique variance of the models that explain a place best, for `permutation_test`.

    At every place, and in every permutation anew, the `n_top` models with the largest adjusted R2 are chosen and
    ranked; the statistics are the unique variance of the first, second, ... among the chosen. Repeating the choice
    keeps the test honest, since the best of many models explains something by chance (Kriegeskorte et al. 2009, Nat
    Neurosci 12:535).

    Parameters
    ----------
    basis : Basis
        Of all models.
    n_top : int
        How many are chosen.
    fixed : ndarray of int, shape (n_top, n_places), optional
        Choose once: these models at each place, in this order, in every permutation (as published).
    device : str
        Where torch computes.
    """

    def __init__(
        self, basis: Basis, n_top: int = 3, fixed: NDArray[np.int64] | None = None, device: str = "cpu"
    ) -> None:
        import torch

        self.n_top, self.n_pairs = n_top, basis.n_pairs
        own = own_adjusted_r2(basis)
        self._own = LinearStatistic(*(_tensor(part, device) for part in (own.directions, own.weights, own.offset)))
        width = max(c.shape[1] for c in basis.coordinates)
        padded = [np.pad(c, ((0, 0), (0, width - c.shape[1]))) for c in basis.coordinates]
        self._coordinates = _tensor(np.stack(padded), device)
        self._fixed = None if fixed is None else torch.from_numpy(fixed).to(device)
        self._known = {size: _Teams(self._coordinates, size) for size in (n_top - 1, n_top) if size}

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

        directions, rank, team = self._known[len(members)].of(members)
        r2 = torch.einsum("rn,nrk->nk", projected, directions[team]).square().sum(dim=1)
        return adjust(r2, self.n_pairs, rank[team])


class _Teams:
    """Orthonormal directions of sets of `size` models, kept from one block of permutations to the next."""

    def __init__(self, coordinates: torch.Tensor, size: int) -> None:
        self._coordinates, self._size = coordinates, size
        self._forget()

    def _forget(self) -> None:
        _, rank, width = self._coordinates.shape
        self._slot: dict[int, int] = {}
        self._directions = self._coordinates.new_empty((0, rank, self._size * width))
        self._rank = self._coordinates.new_empty(0)

    def of(self, members: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Directions (n_teams, rank, k), 0 beyond their number (n_teams,), and the team of each response."""
        import torch

        if self._directions.nbytes > _TEAM_BYTES:
            self._forget()
        n_models = len(self._coordinates)
        powers = n_models ** torch.arange(self._size, device=members.device)
        codes, team = (powers @ members).unique(return_inverse=True)
        new = torch.tensor([c for c in codes.tolist() if c not in self._slot], dtype=torch.long, device=codes.device)
        if len(new):
            self._slot |= {code: len(self._slot) + i for i, code in enumerate(new.tolist())}
            joined = self._coordinates[new[:, None] // powers % n_models].movedim(1, 2).flatten(2)
            u, s, _ = torch.linalg.svd(joined, full_matrices=False)
            kept = s > RANK_TOLERANCE * s[:, :1]
            self._directions = torch.cat([self._directions, u * kept[:, None]])
            self._rank = torch.cat([self._rank, kept.sum(dim=1).to(s)])
        slots = torch.tensor([self._slot[code] for code in codes.tolist()], device=codes.device)
        return self._directions, self._rank, slots[team]
