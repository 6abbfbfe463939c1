"""Permutation tests: p values of statistics, of their differences, and of what sets add to others, at many locations.

A permutation test exchanges conditions (rows and columns of an RDM together) and counts how often a statistic reaches
the observed value. Since the same permutation serves every location in the brain, permuting the predictors' basis
instead of thousands of brain RDMs gives the same numbers for the price of one matrix product per permutation. How null
values are counted stands in `exceedances`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import block_diag

from utils.io.interim import Tally, identity
from utils.parallel.resources import Progress, Resources, ignore
from utils.stats.exceedances import Contrasts, Counts, Given, NullPlan, Permutations, Targets, permute
from utils.stats.exceedances_cpu import count_on_cpu, parts_on_cpu
from utils.stats.inference import difference_contrasts
from utils.stats.regression import RANK_TOLERANCE, Bases, Basis, LinearStatistic, each_person, standardise

# What the maximum statistic compares: values as they are, or in standard deviations of what they are by chance.
Scale = Literal["as_is", "studentised"]
# Two values closer than this are equal but for rounding; without it, a permutation that changes nothing (or only swaps
# equal entries) would count or not depending on how the product was cut into blocks.
_TIE = 1e-11
# Further permutations for the mean and standard deviation of null values, and locations that are projected at once.
_FOR_MOMENTS, _LOCATIONS_FOR_MOMENTS = 200, 500
# Locations that are counted at once; for workers, operations per task (seconds of work), and tasks enough to share.
_CHUNK_BYTES = 2**30
_TASK_FLOP = 1e12
_LEAST_TASKS = 20
# Counts are kept after so much of a GPU's work (10 s at 30 TFLOP/s), or after so many seconds of a CPU's.
_GPU_FLOP = 3e14
_CPU_SECONDS = 1.0


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
    pairs : sequence of (int, int)
        Pairs of statistics that were compared.
    p_difference : ndarray of float64, shape (n_pairs, n_locations)
        p values of their differences, in the direction observed.
    """

    observed: NDArray[np.float64]
    p: NDArray[np.float64]
    p_max: NDArray[np.float64]
    p_best: NDArray[np.float64]
    pairs: Sequence[tuple[int, int]]
    p_difference: NDArray[np.float64]


@dataclass(frozen=True)
class ConditionalTest:
    """Outcome of `conditional_test`.

    Attributes
    ----------
    observed : ndarray of float64, shape (n_sets, n_locations)
        R2 that each set adds to the others, not adjusted.
    p, p_max : ndarray of float64, shape (n_sets, n_locations)
        p values, and the same corrected for all sets and locations by the maximum statistic.
    p_best : ndarray of float64, shape (n_locations,)
        Of the largest of the sets at each location: how often the largest one of a permutation reaches it.
    p_total, p_total_max : ndarray of float64, shape (n_locations,)
        Of all sets together: whether they explain anything, beside what is given.
    """

    observed: NDArray[np.float64]
    p: NDArray[np.float64]
    p_max: NDArray[np.float64]
    p_best: NDArray[np.float64]
    p_total: NDArray[np.float64]
    p_total_max: NDArray[np.float64]


def permutation_test(
    basis: Bases,
    statistic: LinearStatistic | Sequence[LinearStatistic],
    rdms: ArrayLike,
    permutations: Permutations,
    *,
    pairs: Sequence[tuple[int, int]] = (),
    chance: NDArray[np.float64] | None = None,
    largest: Scale = "as_is",
    resources: Resources = Resources(),
    progress: Progress = ignore,
) -> PermutationTest:
    """Permutation test of statistics, and of their differences, at many locations at once.

    All models are permuted together, which is what would happen if none of them were related to the brain. p values are
    ``(1 + #{null >= observed}) / (1 + n)`` for n permutations (Phipson & Smyth 2010, Stat Appl Genet Mol Biol 9:39);
    the observed data are one of the arrangements, so p is never 0. The maximum statistic (Nichols & Holmes 2002, Hum
    Brain Mapp 15:1) takes, per permutation, the largest value over all statistics and locations.

    Where models differ between people, all people's conditions are permuted alike, and the statistic is its mean over
    people (docs/METHODS.md, "Models that differ between people").

    Parameters
    ----------
    basis : Basis, or sequence of Basis
        Of all predictors; of each person's own.
    statistic : LinearStatistic, or sequence of LinearStatistic
        Of each basis.
    rdms : array_like, shape (n_locations, n_pairs) or (n_people, n_locations, n_pairs)
        Condensed brain RDMs of the locations to be tested; for models that differ, those of every person.
    permutations : Permutations
    pairs : sequence of (int, int)
        Statistics to be compared with one another, in the direction observed, as the published code does.
    chance : ndarray of float64, shape (n_statistics, n_locations), optional
        What the statistics, R2 between 0 and 1, are by chance. The largest of each location and the maximum are then
        taken of ``1 - (1 - value) / (1 - chance)``.
    largest : {"as_is", "studentised"}
        Whether the largest ones are taken in standard deviations of the null values instead, found by further
        permutations: where the widths of null distributions differ between locations, the maximum has more power.
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
        If a brain RDM is constant.
    """
    bases, rdms = each_person(basis, rdms)
    statistics = [statistic] if isinstance(statistic, LinearStatistic) else [*statistic]
    responses, n = _unit_length(rdms), len(statistics[0].weights)
    contrasts = np.vstack([np.eye(n), difference_contrasts(pairs, n)])
    weights = contrasts @ np.hstack([own.weights for own in statistics])
    offset = np.mean([own.offset for own in statistics], axis=0)
    offset = np.repeat(contrasts @ offset, responses.shape[1], axis=1)
    everyone = zip(statistics, bases, responses, strict=True)
    observed = weights @ np.square(np.vstack([s.directions.T @ b.q.T @ y.T for s, b, y in everyone])) + offset
    scale = np.ones_like(observed)
    scale[n:] = np.where(observed[n:] < 0, -1.0, 1.0)
    offset[n:] *= scale[n:]
    if chance is not None:
        scale[:n] = 1 / (1 - chance)
        offset[:n] = scale[:n] * offset[:n] + 1 - scale[:n]
    family = np.repeat([0, 1], [n, len(pairs)])
    rotation = block_diag(*(own.directions.T for own in statistics))
    plan = _Plan(bases, rotation, (), Contrasts(weights, family, np.arange(len(family)) >= n))
    test = plan.count(responses, scale, offset, permutations, largest, resources, progress)
    return PermutationTest(observed[:n], test.p[:n], test.p_max[:n], test.p_best, pairs, test.p[n:])


def _unit_length(rdms: NDArray) -> NDArray[np.float64]:
    """Standardised RDMs (n_people, n_locations, n_pairs), so scaled that squares summed over people are their mean."""
    responses = standardise(rdms)
    responses /= np.sqrt(len(responses))
    return responses


def conditional_test(
    basis: Bases,
    rdms: ArrayLike,
    permutations: Permutations,
    *,
    each_alone: bool = False,
    largest: Scale = "as_is",
    resources: Resources = Resources(),
    progress: Progress = ignore,
) -> ConditionalTest:
    """Test what each set of predictors adds to all others, which may be related to the brain or not.

    Only the part of a set that lies outside of the others is permuted, and in every permutation what the others have of
    it is taken out again (double semi-partialling). A test that permutes all sets together asks whether any of them is
    related at all; used for a single set beside related ones, it may reject far too often or hardly ever.

    Parameters
    ----------
    basis : Basis, or sequence of Basis
        Of all sets; of each person's own, as for `permutation_test`.
    rdms : array_like, shape (n_locations, n_pairs) or (n_people, n_locations, n_pairs)
        Condensed brain RDMs of the locations to be tested.
    permutations : Permutations
    each_alone : bool
        Test what each set adds to the sets that are given only, not to all others.
    largest : {"as_is", "studentised"}
        What the maximum is taken of: R2 that a set adds, as a share of what the others leave unexplained, less what so
        many predictors add by chance; or the same in standard deviations of the null values, see `permutation_test`.
    resources, progress
        As for `permutation_test`.

    Returns
    -------
    ConditionalTest

    Raises
    ------
    ValueError
        If a brain RDM is constant.

    References
    ----------
    Dekker, Krackhardt & Snijders 2007, Psychometrika 72:563; Winkler et al. 2014, NeuroImage 92:381.
    """
    bases, rdms = each_person(basis, rdms)
    responses, n = _unit_length(rdms), bases[0].n_sets
    rotations: list[NDArray[np.float64]] = []
    blocks: list[list[Given]] = []  # of every person: of each set
    start = 0
    for person, basis in enumerate(bases):
        own = []
        blocks.append([])
        # Behind the sets, what all of them together add to those that are given.
        everything = [np.hstack(basis.coordinates[:n])] if basis.given else []
        for i, coordinates in enumerate([*basis.coordinates[:n], *everything]):
            others = basis.subset([j for j in range(n) if j != i and i < n and not each_alone] + [*basis.given])
            own.append(outside(coordinates, others))
            blocks[-1].append(Given(slice(start, start + own[-1].shape[1]), others, person))
            start += own[-1].shape[1]
        rotations.append(np.hstack(own).T)
    # Without such sets, the permuted bases themselves stand behind the directions, of which the total is made.
    weights = np.zeros((n + 1, start + (0 if bases[0].given else sum(b.q.shape[1] for b in bases))))
    for i, block in ((i, block) for given in blocks for i, block in enumerate(given)):
        weights[i, block.directions] = 1.0
    if not bases[0].given:
        weights[n, start:] = 1.0
    projected = [b.q.T @ y.T for b, y in zip(bases, responses, strict=True)]
    rotation, below = block_diag(*rotations), np.concatenate(projected)
    observed = weights @ np.square(np.vstack([rotation @ below, below]))[: weights.shape[1]]
    scale, offset = np.ones_like(observed), np.zeros_like(observed)
    for i, of_set in enumerate(zip(*blocks, strict=True)):
        explained = [np.square(block.others.T @ c).sum(axis=0) for block, c in zip(of_set, projected, strict=True)]
        left = 1 - np.sum(explained, axis=0)
        # A set without directions of its own adds nothing.
        n_own = sum(block.directions.stop - block.directions.start for block in of_set)
        n_left = sum(b.n_pairs - 1 - block.others.shape[1] for b, block in zip(bases, of_set, strict=True))
        by_chance = n_own / n_left if each_alone else 0.0
        scale[i], offset[i] = 1 / (left * (1 - by_chance)), -by_chance / (1 - by_chance)
    contrasts = Contrasts(weights, np.repeat([0, 1], [n, 1]), np.zeros(n + 1, dtype=bool))
    plan = _Plan(bases, rotation, tuple(block for given in blocks for block in given), contrasts)
    test = plan.count(responses, scale, offset, permutations, largest, resources, progress)
    return ConditionalTest(observed[:n], test.p[:n], test.p_max[:n], test.p_best, test.p[n], test.p_max[n])


def outside(coordinates: NDArray[np.float64], given: NDArray[np.float64]) -> NDArray[np.float64]:
    """Orthonormal coordinates, (rank, k), of what of some predictors lies outside of the span of `given`."""
    left = coordinates - given @ (given.T @ coordinates)
    left -= given @ (given.T @ left)
    u, s, _ = np.linalg.svd(left, full_matrices=False)
    return u[:, s > RANK_TOLERANCE]


@dataclass(frozen=True)
class _PValues:
    """p values of contrasts, (n_contrasts, n_locations), by the maximum of their family, of the best of family 0."""

    p: NDArray[np.float64]
    p_max: NDArray[np.float64]
    p_best: NDArray[np.float64]


@dataclass(frozen=True)
class _Plan:
    """What is counted, but for the permutations and the locations; see `NullPlan`."""

    bases: Sequence[Basis]
    rotation: NDArray[np.float64]
    given: tuple[Given, ...]
    contrasts: Contrasts

    def count(
        self,
        responses: NDArray[np.float64],
        scale: NDArray[np.float64],
        offset: NDArray[np.float64],
        permutations: Permutations,
        largest: Scale,
        resources: Resources,
        progress: Progress,
    ) -> _PValues:
        """p values of the contrasts, times `scale` plus `offset`, (n_contrasts, n_locations)."""
        contrasts, ranks = self.contrasts, tuple(basis.q.shape[1] for basis in self.bases)
        basis = np.concatenate([basis.q.T for basis in self.bases])
        plan = NullPlan(basis, ranks, self.rotation, self.given, contrasts, permutations, ())
        if largest == "studentised":
            scale, offset = _studentised(plan, responses, scale, offset)
        projected = plan.project(responses)
        rows = [self.rotation @ projected, projected][: 1 + (contrasts.weights.shape[1] > len(self.rotation))]
        observed = scale * (contrasts.weights @ np.square(np.vstack(rows))) + offset
        thresholds = observed - _TIE
        ordered = [np.sort(thresholds[contrasts.family == k], axis=None) for k in range(contrasts.n_families)]
        plan = replace(plan, sorted_thresholds=tuple(ordered))
        counts = _count(plan, Targets(responses, thresholds, scale, offset), resources, progress)
        n, p_max = permutations.n, np.empty_like(thresholds)
        for k, values in enumerate(np.sort(counts.largest, axis=1)):
            own = contrasts.family == k
            p_max[own] = (1.0 + n - np.searchsorted(values, thresholds[own])) / (1.0 + n)
        p, p_best = (np.asarray((1.0 + count) / (1.0 + n)) for count in (counts.count, counts.best))
        return _PValues(p, p_max, p_best)


def _studentised(
    plan: NullPlan, responses: NDArray[np.float64], scale: NDArray[np.float64], offset: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and offset that bring null values to mean 0 and standard deviation 1, by permutations of their own.

    They are rounded, so that rounding of the products on one machine or another does not matter.
    """
    n = plan.permutations.n
    permutations = plan.permutations.indices(plan.basis.shape[1], n, n + _FOR_MOMENTS)
    moved = permute(np.ascontiguousarray(plan.permuted), permutations)
    rotations, weights = plan.rotations(permutations), plan.contrasts.weights
    mean, deviation = np.empty_like(scale), np.empty_like(scale)
    for start in range(0, responses.shape[1], _LOCATIONS_FOR_MOMENTS):
        here = slice(start, start + _LOCATIONS_FOR_MOMENTS)
        everyone = zip(plan.of_people(), responses[:, here], strict=True)
        products = [moved[own].reshape(-1, moved.shape[2]) @ rdms.T for own, rdms in everyone]
        rows = np.concatenate(products).reshape(len(moved), _FOR_MOMENTS, -1)
        if rotations.size:
            below = np.broadcast_to(plan.project(responses[:, here])[:, None], rows.shape)
            both = np.concatenate([rows, below]).swapaxes(0, 1)
            rows = np.concatenate([(rotations @ both).swapaxes(0, 1), rows])[: weights.shape[1]]
        null = np.tensordot(weights, np.square(rows), 1)
        mean[:, here], deviation[:, here] = null.mean(axis=1), null.std(axis=1, ddof=1)
    deviation[deviation == 0] = 1.0
    digits = 10.0 ** (np.floor(np.log10(deviation)) - 2)
    deviation = np.round(deviation / digits) * digits
    signed = plan.contrasts.signed
    studentised = 1 / deviation, -np.round(mean / deviation, 2)
    return np.where(signed[:, None], scale, studentised[0]), np.where(signed[:, None], offset, studentised[1])


def _count(plan: NullPlan, targets: Targets, resources: Resources, progress: Progress) -> Counts:
    """Count chunks of the brain one after another, going on from what an interrupted run has counted."""
    n = plan.permutations.n
    tally = resources.interim.tally(
        partial(_identity, plan, targets),
        count=np.zeros(targets.thresholds.shape, dtype=np.int64),
        best=np.zeros(len(targets), dtype=np.int64),
        largest=np.full((plan.contrasts.n_families, n), -np.inf),
        # In how many chunks each permutation has been counted.
        done=np.zeros(n, dtype=np.int32),
    )
    found, chunks = tally.arrays, list(targets.chunks(max(1, _CHUNK_BYTES // (8 * targets.responses[:, 0].size))))
    first = 0
    for number, chunk in enumerate(chunks):
        here = slice(first, first + len(chunk))
        first = here.stop

        def keep(start: int, counts: Counts, here: slice = here) -> None:
            own = slice(start, start + counts.largest.shape[1])
            with tally.changes():
                found["count"][:, here] += counts.count
                found["best"][here] += counts.best
                np.maximum(found["largest"][:, own], counts.largest, out=found["largest"][:, own])
                found["done"][own] += 1

        def advance(done: int, number: int = number) -> None:
            progress((number * n + done) // len(chunks), n)

        with tally:
            _count_chunk(plan, chunk, _ranges(found["done"] == number), resources, tally, keep, advance)
    return Counts(found["count"], found["best"], found["largest"])


def _identity(plan: NullPlan, targets: Targets) -> dict[str, str]:
    """What the counts of a test depend on; thresholds follow from it."""
    contrasts = plan.contrasts
    others = [given.others for given in plan.given]
    return identity(
        f"{plan.permutations.describe()} {plan.ranks}",
        brain_RDMs=(targets.responses,),
        model_RDMs=(plan.basis, plan.rotation, *others, contrasts.weights, contrasts.family),
        statistics=(targets.scale, targets.offset),
    )


def _ranges(chosen: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and stop of every run of True."""
    edges = np.flatnonzero(np.diff(chosen.astype(np.int8), prepend=0, append=0)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _cut(ranges: Sequence[tuple[int, int]], step: int) -> list[tuple[int, int]]:
    return [(start, min(start + step, stop)) for a, stop in ranges for start in range(a, stop, step)]


def _count_chunk(
    plan: NullPlan,
    chunk: Targets,
    missing: list[tuple[int, int]],
    resources: Resources,
    tally: Tally,
    keep: Callable[[int, Counts], None],
    advance: Callable[[int], None],
) -> None:
    """Count the missing permutations of a chunk of the brain; `keep` takes the first one's number, and counts."""
    n, flop_each = plan.permutations.n, 2 * plan.permuted.size * len(chunk)

    def beginning_at(start: int) -> Progress:
        return lambda done, _: advance(start + done)

    if resources.workers is not None:
        tasks = _cut(missing, int(np.clip(_TASK_FLOP // flop_each, 16, max(16, n // _LEAST_TASKS))))
        left = sum(stop - start for start, stop in tasks)

        def took(task: int, counts: Counts) -> None:
            nonlocal left
            keep(tasks[task][0], counts)
            left -= counts.largest.shape[1]
            advance(n - left)

        resources.workers.run(count_on_cpu, (plan, chunk), tasks, took)
    elif resources.device == "cpu":
        for start, stop in missing:
            seconds = _CPU_SECONDS if tally.is_kept else math.inf
            for counts in parts_on_cpu(plan, chunk, start, stop, seconds, beginning_at(start)):
                keep(start, counts)
                start += counts.largest.shape[1]
    else:
        from utils.stats.exceedances_gpu import count_on_gpu

        for start, stop in _cut(missing, max(1, int(_GPU_FLOP // flop_each)) if tally.is_kept else n):
            keep(start, count_on_gpu(plan, chunk, start, stop, beginning_at(start), device=resources.device))
