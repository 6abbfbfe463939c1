"""What could have happened by chance: permutation tests, t-tests, correction, standard errors.

The permutation test exchanges conditions (rows and columns of an RDM together) and counts how often a statistic reaches
the observed value. Since the same permutation serves every place in the brain, permuting the predictors' basis instead
of thousands of brain RDMs gives the same numbers for the price of one matrix product per permutation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.rdm import n_conditions_of, pair_permutation
from utils.regression import (
    RANK_TOLERANCE,
    Basis,
    LinearStatistic,
    adjust,
    own_adjusted_r2,
    standardise,
)

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
_PLACES_PER_REFIT = 500
_SINGULAR = 1e-10


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


def chance_adjusted_r2(basis: Basis, statistic: LinearStatistic, rdms: ArrayLike) -> NDArray[np.float64]:
    """Exact mean of a statistic over all permutations of conditions.

    The pairs of n conditions split into three spaces that no permutation of conditions mixes: the constant, the n - 1
    dimensions of condition effects (how far a condition lies from all others), and the remaining n (n - 3) / 2. By
    Schur's lemma the mean of ``(q' P y)**2`` over all permutations P is the sum, over these spaces, of the squared
    length of q in it times that of y, divided by its dimension. Where model and brain RDM both have strong condition
    effects this exceeds what adjusted R2 allows for, hence adjusted R2 alone is above 0 by chance.

    Parameters
    ----------
    basis : Basis
    statistic : LinearStatistic
        Of that basis.
    rdms : array_like, shape (n_places, n_pairs)
        Condensed brain RDMs of at least 4 conditions.

    Returns
    -------
    ndarray of float64, shape (n_statistics, n_places)

    References
    ----------
    Diaconis 1988, Group Representations in Probability and Statistics, ch. 7 (the spaces); docs/METHODS.md, "Chance
    level" (the derivation).
    """
    n = n_conditions_of(basis.n_pairs)
    if n < 4:
        raise ValueError(f"the chance level needs at least 4 conditions, got {n}")
    directions = _condition_energy((basis.q @ statistic.directions).T)
    responses = _condition_energy(standardise(np.asarray(rdms)))
    mean = np.outer(directions, responses) / (n - 1) + np.outer(1 - directions, 1 - responses) / (n * (n - 3) / 2)
    return statistic.weights @ mean + statistic.offset


def _condition_energy(unit_rdms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the variance of condensed RDMs (n_rdms, n_pairs) that effects of single conditions make up."""
    n = n_conditions_of(unit_rdms.shape[-1])
    rows, columns = np.triu_indices(n, k=1)
    incidence = np.zeros((unit_rdms.shape[-1], n))
    incidence[np.arange(rows.size), rows] = incidence[np.arange(rows.size), columns] = 1.0
    return np.square(unit_rdms @ incidence).sum(axis=-1) / (n - 2)


@dataclass(frozen=True)
class TTest:
    """Outcome of `t_test`: one-sided `p` (n_statistics, n_places), two-sided `p_difference` (n_pairs, n_places)."""

    p: NDArray[np.float64]
    p_difference: NDArray[np.float64]


def t_test(
    values: NDArray[np.float64],
    pairs: Sequence[tuple[int, int]] = (),
    *,
    chance: NDArray[np.float64] | float = 0.0,
    paired: bool = True,
) -> TTest:
    """Are values above chance, and do they differ, over subjects as a random sample?

    Parameters
    ----------
    values : ndarray of float64, shape (n_statistics, n_subjects, n_places)
        Statistics of each subject's own RDMs.
    pairs : sequence of (int, int)
        Statistics to be compared with one another.
    chance : ndarray or float
        Level to test against, as `values` or a constant; see `chance_adjusted_r2`.
    paired : bool
        Compare within subjects; otherwise as independent samples, as the published code does.

    Returns
    -------
    TTest
    """
    from scipy import stats

    above = stats.ttest_1samp(values - chance, 0.0, axis=1, alternative="greater").pvalue
    excess = values - chance
    compare = stats.ttest_rel if paired else stats.ttest_ind
    differences = [compare(excess[i], excess[j], axis=0).pvalue for i, j in pairs]
    return TTest(np.asarray(above), np.array(differences).reshape(len(pairs), values.shape[2]))


def fdr(p: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
    """Benjamini-Hochberg q values over all entries, or along one axis; 1 where p is not a number.

    References
    ----------
    Benjamini & Hochberg 1995, J R Stat Soc B 57:289.
    """
    from scipy.stats import false_discovery_control

    if p.size == 0:
        return p.copy()
    q = false_discovery_control(np.nan_to_num(p, nan=1.0), axis=axis)
    return np.asarray(q).reshape(p.shape)


def published_fdr(p: NDArray[np.float64], across_places: bool) -> NDArray[np.float64]:
    """The published correction: over models within each place, then (searchlights only) over places for each model."""
    within = fdr(p, axis=0)
    return fdr(within, axis=1) if across_places else within


@dataclass(frozen=True)
class StandardErrors:
    """Standard errors of unique variances (n_sets, n_places) and of their differences (n_pairs, n_places)."""

    unique: NDArray[np.float64]
    difference: NDArray[np.float64]


def jackknife(
    basis: Basis,
    rdms: ArrayLike,
    pairs: Sequence[tuple[int, int]] = (),
    *,
    ratio: float = 0.9,
    n_subsets: int = 10_000,
    seed: int = 0,
    scaled: bool = True,
) -> StandardErrors:
    """Standard errors of unique variance and its differences, from refitting on random subsets of the conditions.

    Delete-d jackknife: the standard deviation over subsets of m of n conditions, times ``sqrt(m / (n - m))``, because
    subsets of 90 % of the conditions differ far less among themselves than new experiments would.

    Parameters
    ----------
    basis : Basis
    rdms : array_like, shape (n_places, n_pairs)
    pairs : sequence of (int, int)
        Sets whose unique variances are compared.
    ratio : float
        Share of the conditions in a subset.
    n_subsets : int
    seed : int
    scaled : bool
        False leaves the factor out, as the published code does.

    Returns
    -------
    StandardErrors

    References
    ----------
    Shao & Wu 1989, Ann Stat 17:1176.
    """
    responses = standardise(np.asarray(rdms))
    n = n_conditions_of(basis.n_pairs)
    m = round(ratio * n)
    subsets = condition_subsets(n, m, n_subsets, seed)
    factor = np.sqrt(m / (n - m)) if scaled else 1.0
    unique = np.empty((len(basis.coordinates), len(responses)))
    difference = np.empty((len(pairs), len(responses)))
    for start in range(0, len(responses), _PLACES_PER_REFIT):
        here = slice(start, start + _PLACES_PER_REFIT)
        values = unique_in_subsets(basis, responses[here], subsets)
        unique[:, here] = factor * values.std(axis=0, ddof=1)
        for row, (i, j) in enumerate(pairs):
            difference[row, here] = factor * (values[:, i] - values[:, j]).std(axis=0, ddof=1)
    return StandardErrors(unique, difference)


def difference_p(
    difference: NDArray[np.float64], standard_error: NDArray[np.float64], n_conditions: int
) -> NDArray[np.float64]:
    """Two-sided p value of a difference between two unique variances, by its jackknife standard error.

    The permutation of conditions asks whether two sets differ more than two that explain nothing. Two sets that explain
    the same, but something, differ by more than that from sample to sample: their difference has to be held against its
    own standard error (t distribution with n_conditions - 1 degrees of freedom). docs/METHODS.md, "Differences".
    """
    from scipy.stats import t

    ratio = np.divide(np.abs(difference), standard_error, out=np.zeros_like(difference), where=standard_error > 0)
    return np.asarray(2 * t.sf(ratio, n_conditions - 1))


def condition_subsets(n_conditions: int, size: int, n_subsets: int, seed: int) -> NDArray[np.bool_]:
    """Random subsets of conditions without replacement, (n_subsets, n_conditions) of bool."""
    # A stream apart from those of the permutations, [seed, number].
    order = np.random.default_rng([seed, 0, 1]).random((n_subsets, n_conditions)).argsort(axis=1)
    return order < size


def unique_in_subsets(basis: Basis, rdms: NDArray[np.float64], subsets: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Unique variance of every set of predictors, refitted on subsets of the conditions.

    Parameters
    ----------
    basis : Basis
    rdms : ndarray of float64, shape (n_places, n_pairs)
    subsets : ndarray of bool, shape (n_subsets, n_conditions)

    Returns
    -------
    ndarray of float64, shape (n_subsets, n_sets, n_places)

    Notes
    -----
    The sums of squares and products that a subset needs are linear in which pairs it holds, so all of them come from
    one matrix product. In terms of the orthonormal basis the normal equations are well conditioned, since a subset of
    90 % of the conditions leaves the basis nearly orthonormal.
    """
    n_sets = len(basis.coordinates)
    rows, columns = np.triu_indices(subsets.shape[1], k=1)
    rank, n_places = basis.q.shape[1], len(rdms)
    data = np.hstack([basis.q, rdms.T])
    left, right = np.triu_indices(rank)
    products = np.hstack(
        [np.ones((len(data), 1)), data, basis.q[:, left] * basis.q[:, right], rdms.T**2]
        + [basis.q[:, [k]] * rdms.T for k in range(rank)]
    )
    everything = tuple(range(n_sets))
    families = [everything] + [tuple(j for j in everything if j != i) for i in everything]
    coordinates = [basis.subset(family) for family in families]
    result = np.empty((len(subsets), n_sets, n_places))
    for start in range(0, len(subsets), 1000):
        chosen = subsets[start : start + 1000]
        sums = (chosen[:, rows] & chosen[:, columns]).astype(np.float64) @ products
        n_kept, totals, upper, square, cross = np.split(
            sums, np.cumsum([1, rank + n_places, left.size, n_places]), axis=1
        )
        gram = np.empty((len(chosen), rank, rank))
        gram[:, left, right] = gram[:, right, left] = upper
        sum_q, sum_y = totals[:, :rank], totals[:, rank:]
        gram -= sum_q[:, :, None] * sum_q[:, None, :] / n_kept[:, :, None]
        cross = cross.reshape(-1, rank, n_places) - sum_q[:, :, None] * sum_y[:, None, :] / n_kept[:, :, None]
        square = square - sum_y**2 / n_kept
        r2 = [_adjusted_from_moments(b, gram, cross, square, n_kept) for b in coordinates]
        for i in everything:
            result[start : start + 1000, i] = r2[0] - r2[1 + i]
    return result


def _adjusted_from_moments(
    directions: NDArray, gram: NDArray, cross: NDArray, square: NDArray, n_kept: NDArray
) -> NDArray[np.float64]:
    """Adjusted R2, (n_subsets, n_places), of the predictors `directions`, from centred moments of each subset."""
    if directions.shape[1] == 0:
        return np.zeros_like(square)
    inner = directions.T @ cross
    square_sums = directions.T @ gram @ directions
    fitted, rank = np.empty_like(inner), np.full((len(inner), 1), directions.shape[1])
    # In some subset a predictor may be constant, or two the same: there, only the rank that is left is fitted.
    singular = np.linalg.det(square_sums) < _SINGULAR
    fitted[~singular] = np.linalg.solve(square_sums[~singular], inner[~singular])
    if singular.any():
        length, axes = np.linalg.eigh(square_sums[singular])
        inverse = np.divide(1.0, length, out=np.zeros_like(length), where=length > _SINGULAR)
        fitted[singular] = axes @ (inverse[:, :, None] * (axes.swapaxes(1, 2) @ inner[singular]))
        rank[singular, 0] = (inverse > 0).sum(axis=1)
    r2 = np.einsum("bkp,bkp->bp", inner, fitted) / square
    return adjust(r2, n_kept, rank)


def largest_difference_p(
    winner: NDArray[np.int64], pairs: Sequence[tuple[int, int]], p_difference: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Largest p value, (n_places,), of the differences between each place's winner and all others."""
    involved = np.array([[w in pair for w in winner] for pair in pairs])
    return np.where(involved, p_difference, 0.0).max(axis=0)


def all_pairs(n: int) -> list[tuple[int, int]]:
    """All pairs (i, j) with i < j < n."""
    return list(combinations(range(n), 2))
