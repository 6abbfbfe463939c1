"""Permutation tests: what could have happened by chance.

A permutation test exchanges conditions (rows and columns of an RDM together) and counts how often a statistic reaches
the observed value. Since the same permutation serves every place in the brain, permuting the predictors' basis instead
of thousands of brain RDMs gives the same numbers for the price of one matrix product per permutation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.rdm import n_conditions_of, pair_permutation
from utils.regression import RANK_TOLERANCE, Basis, LinearStatistic, adjust, own_adjusted_r2, standardise

if TYPE_CHECKING:
    import torch

Statistic = Callable[[Any], Any]
Unit = Literal["conditions", "entries"]
Progress = Callable[[int, int], None]
Product = Callable[[Any, Any], Any]

# Two values closer than this are equal but for rounding; without it, a permutation that changes nothing (or only swaps
# equal entries) would count or not depending on how the product was cut into blocks.
_TIE = 1e-11
# What a block of permutations is projected to stays in the third-level cache.
_BLOCK_BYTES = 20 * 2**20
_PLACES_PER_BLOCK = 1024
_PLACES_PER_PRODUCT = 5000


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


def permutation_indices(n_pairs: int, n_permutations: int, unit: Unit, seed: int, start: int = 0) -> NDArray[np.int64]:
    """Random permutations of a condensed RDM.

    Every permutation has a random stream of its own, so that permutation number i is the same however the work is cut.

    Parameters
    ----------
    n_pairs : int
        Entries of a condensed RDM.
    n_permutations : int
        How many to draw.
    unit : {"conditions", "entries"}
        Exchange conditions (Mantel 1967, Cancer Res 27:209), or the entries of the RDM as if they were independent
        (as in the published code).
    seed : int
    start : int
        Number of the first permutation.

    Returns
    -------
    ndarray of int64, shape (n_permutations, n_pairs)
        Row i: indices into a condensed RDM that give the permuted one.
    """
    n = n_conditions_of(n_pairs) if unit == "conditions" else n_pairs
    rows = np.empty((n_permutations, n_pairs), dtype=np.int64)
    for i in range(n_permutations):
        order = np.random.default_rng([seed, start + i]).permutation(n)
        rows[i] = pair_permutation(order) if unit == "conditions" else order
    return rows


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
        What is exchanged, see `permutation_indices`.
    pairs : sequence of (int, int)
        Statistics to be compared with one another.
    two_sided : bool
        Compare absolute differences; otherwise count in the direction observed, as the published code does.
    seed : int
    device : str
        Where torch computes. Counts are those of float64 everywhere.
    progress : callable, optional
        Called with (permutations done, permutations in all).

    Returns
    -------
    PermutationTest
    """
    responses = standardise(np.asarray(rdms))
    draws = _Draws(basis.n_pairs, n_permutations, unit, seed, progress)
    if isinstance(statistic, LinearStatistic) and device == "cpu":
        return _test_in_single_precision(basis, statistic, responses, draws, list(pairs), two_sided)
    return _test_in_double_precision(basis, statistic, responses, draws, list(pairs), two_sided, device)


@dataclass(frozen=True)
class _Draws:
    """The permutations of a test, in blocks."""

    n_pairs: int
    n: int
    unit: Unit
    seed: int
    progress: Progress | None

    def blocks(self, size: int) -> Iterator[NDArray[np.int64]]:
        """Blocks (at most `size`, n_pairs) of indices; reports progress after each."""
        for start in range(0, self.n, size):
            n = min(size, self.n - start)
            yield permutation_indices(self.n_pairs, n, self.unit, self.seed, start)
            if self.progress is not None:
                self.progress(start + n, self.n)

    def p_values(self, counts: NDArray) -> NDArray[np.float64]:
        return np.asarray((1.0 + counts) / (1.0 + self.n), dtype=np.float64)

    def corrected_p_values(self, largest: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
        """p values of targets among the largest null value of every permutation."""
        return self.p_values(largest.size - np.searchsorted(np.sort(largest), targets))


def _test_in_single_precision(
    basis: Basis,
    statistic: LinearStatistic,
    responses: NDArray[np.float64],
    draws: _Draws,
    pairs: list[tuple[int, int]],
    two_sided: bool,
) -> PermutationTest:
    """Products in float32, with every comparison that this leaves open made in float64; see `utils.exceedances`."""
    import torch

    from utils.exceedances import PLAIN, SIGNED, TWO_SIDED, Counter, Rows, set_threads

    n_statistics, (n_places, n_pairs) = len(statistic.weights), responses.shape
    weights = np.vstack([statistic.weights, *(statistic.weights[[i]] - statistic.weights[[j]] for i, j in pairs)])
    offset = np.concatenate([statistic.offset, *(statistic.offset[[i]] - statistic.offset[[j]] for i, j in pairs)])
    directions = basis.q @ statistic.directions
    observed = weights @ np.square(directions.T @ responses.T) + offset
    kinds = np.array([PLAIN] * n_statistics + [TWO_SIDED if two_sided else SIGNED] * len(pairs))
    targets = np.concatenate([observed[:n_statistics], np.abs(observed[n_statistics:])]) - _TIE
    sign = np.where(observed < 0, -1.0, 1.0)
    rows = Rows.of(weights, offset[:, 0], kinds)
    set_threads(torch.get_num_threads())

    # Where the subsets overlap (as in variance partitioning) it is cheaper to permute the basis of all predictors and
    # to turn to the directions afterwards.
    fold = directions.shape[1] <= basis.q.shape[1]
    permuted = _single((directions if fold else basis.q).T)
    turn = _single(statistic.directions.T)
    chunks = np.array_split(np.arange(n_places), -(-n_places // _PLACES_PER_PRODUCT))
    brains = [_single(responses[places]) for places in chunks]
    product = fastest_product(permuted.repeat(8, 1), brains[0])
    counters = [
        Counter(rows, targets[:, places], sign[:, places], directions.T, responses[places], targets)
        for places in chunks
    ]
    size = max(1, min(256, _BLOCK_BYTES // (4 * directions.shape[1] * max(len(chunks[0]), n_pairs))))
    for draw in draws.blocks(size):
        stacked = permuted.index_select(1, torch.from_numpy(draw.ravel())).reshape(-1, n_pairs)
        for brain, counter in zip(brains, counters, strict=True):
            projected = product(stacked, brain).reshape(len(permuted), -1)
            if not fold:
                projected = turn @ projected
            counter.add(projected.numpy().reshape(-1, len(draw), len(brain)), draw)
    count = np.concatenate([counter.count for counter in counters], axis=1)
    largest = np.maximum.reduce([np.concatenate(counter.largest, axis=1) for counter in counters])
    return PermutationTest(
        observed=observed[:n_statistics],
        p=draws.p_values(count[:n_statistics]),
        p_max=draws.corrected_p_values(largest[0], targets[:n_statistics]),
        p_best=draws.p_values(np.concatenate([counter.count_best for counter in counters])),
        pairs=pairs,
        p_difference=draws.p_values(count[n_statistics:]),
        p_difference_max=draws.corrected_p_values(largest[1], targets[n_statistics:]),
        n_permutations=draws.n,
    )


def products() -> list[Product]:
    """Ways to compute ``a @ b.T`` in float32 on the CPU, for matrices of equal row length.

    Torch multiplies with MKL, which is slow on processors of other makers; where its oneDNN operator is there, that one
    is up to twice as fast on them.
    """
    import torch

    ways: list[Product] = [lambda a, b: a @ b.T]
    linear = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
    if linear is not None:
        ways.append(lambda a, b: linear(a, b, None, "none", [], ""))
    return ways


def fastest_product(a: torch.Tensor, b: torch.Tensor) -> Product:
    """The fastest of `products` on this machine, by trying each on some rows of `a` and `b`."""
    a, b = a[:512], b[:2048]
    ways = products()
    expected, seconds = ways[0](a, b), []
    for way in ways:
        try:
            works = bool((way(a, b) - expected).abs().max() < 1e-4)
        except RuntimeError:  # the operator exists, but not for this processor
            works = False
        started = time.perf_counter()
        if works:
            way(a, b)
            way(a, b)
        seconds.append(time.perf_counter() - started if works else np.inf)
    return ways[int(np.argmin(seconds))]


def _test_in_double_precision(
    basis: Basis,
    statistic: Statistic,
    responses: NDArray[np.float64],
    draws: _Draws,
    pairs: list[tuple[int, int]],
    two_sided: bool,
    device: str,
) -> PermutationTest:
    """All in float64, for any statistic and any device of torch."""
    import torch

    q, brain = _tensor(basis.q.T, device), _tensor(responses.T, device)
    if isinstance(statistic, LinearStatistic):
        statistic = LinearStatistic(*(_tensor(x, device) for x in vars(statistic).values()))
    observed = statistic(q @ brain)
    contrast = _contrast(pairs, len(observed)).to(observed)
    difference = contrast @ observed
    direction = torch.where(difference < 0, -1.0, 1.0).to(difference)
    tally, tally_difference = _Tally(observed), _Tally(difference.abs())
    rank, n_places = q.shape[0], brain.shape[1]
    size = max(1, _BLOCK_BYTES // (8 * rank * max(basis.n_pairs, min(n_places, _PLACES_PER_BLOCK))))
    for rows in draws.blocks(size):
        n = len(rows)
        permuted = q[:, torch.from_numpy(rows.ravel()).to(q.device)].reshape(rank * n, basis.n_pairs)
        tally.begin(n)
        tally_difference.begin(n)
        for left in range(0, n_places, _PLACES_PER_BLOCK):
            here = slice(left, left + _PLACES_PER_BLOCK)
            null = statistic((permuted @ brain[:, here]).reshape(rank, -1))
            tally.add(null.reshape(len(observed), n, -1), here)
            if pairs:
                change = (contrast @ null).reshape(len(pairs), n, -1)
                tally_difference.add(change.abs() if two_sided else change * direction[:, None, here], here)
    return PermutationTest(
        observed=observed.cpu().numpy(),
        p=draws.p_values(tally.count.cpu().numpy()),
        p_max=draws.corrected_p_values(tally.maxima(), tally.target.cpu().numpy()),
        p_best=draws.p_values(tally.count_best.cpu().numpy()),
        pairs=pairs,
        p_difference=draws.p_values(tally_difference.count.cpu().numpy()),
        p_difference_max=draws.corrected_p_values(tally_difference.maxima(), tally_difference.target.cpu().numpy()),
        n_permutations=draws.n,
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
        teams, team_of = chosen.unique(dim=1, return_inverse=True)
        values = torch.empty_like(chosen, dtype=projected.dtype)
        total = self._adjusted_r2(teams.T, team_of, projected)
        for k in range(self.n_top):
            others = [j for j in range(self.n_top) if j != k]
            values[k] = total - (self._adjusted_r2(teams[others].T, team_of, projected) if others else 0.0)
        return torch.empty_like(values).scatter_(0, order, values)

    def _adjusted_r2(self, teams: torch.Tensor, team_of: torch.Tensor, projected: torch.Tensor) -> torch.Tensor:
        """Adjusted R2, (n,), of each response on its team of models; `teams` is (n_teams, members)."""
        import torch

        joined = self._coordinates[teams].movedim(1, 2).flatten(2)  # n_teams, rank, members x layers
        u, s, _ = torch.linalg.svd(joined, full_matrices=False)
        kept = s > RANK_TOLERANCE * s[:, :1]
        u = u * kept[:, None]
        r2 = torch.einsum("rn,nrk->nk", projected, u[team_of]).square().sum(dim=1)
        return adjust(r2, self.n_pairs, kept.sum(dim=1).to(r2)[team_of])
