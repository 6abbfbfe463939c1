"""Standard errors over images, over people, or over both at once, in closed form.

An estimate from the mean RDM varies because other images might have been shown, and other people scanned. For the
images it is fitted anew to all conditions but one, exactly, for each condition in turn; for the people, and for their
interaction with the images, it is linearised. The variance components add up as in a crossed design with two random
factors (docs/METHODS.md, "Images and people").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NoReturn

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.parallel.threads import in_threads
from utils.rdm import expand, n_pairs_of
from utils.stats.comparison import Comparison, Metric, as_before, condition_weight, metric
from utils.stats.inference import Dimensions, dimensions_of, energy_of, mean_r2
from utils.stats.regression import Basis, LinearStatistic

Population = Literal["both", "images", "people"]
# A direction with a smaller sum of squares without one condition, of 1 with all, says nothing there.
_SINGULAR = 1e-10
_LOCATIONS_AT_ONCE, _LOCATIONS_PER_THREAD = 128, 8
# Entries of square RDMs of one subject that are held at once where pairs are left out.
_SQUARES_AT_ONCE = 2**20


@dataclass(frozen=True)
class Components:
    """Variance components of estimates.

    Attributes
    ----------
    images, people, interaction : ndarray of float64, shape (n_estimates, n_locations)
        Variance of an estimate over samples of images with the same people, over samples of people with the same
        images, and what both contain. The last two are 0 for a single subject.
    n_conditions : int
    n_subjects : int
    """

    images: NDArray[np.float64]
    people: NDArray[np.float64]
    interaction: NDArray[np.float64]
    n_conditions: int
    n_subjects: int

    def __getitem__(self, rows: slice) -> Components:
        """Components of some of the estimates."""
        return Components(
            self.images[rows], self.people[rows], self.interaction[rows], self.n_conditions, self.n_subjects
        )

    def standard_error(self, over: Population) -> NDArray[np.float64]:
        """Standard error over samples of images, people or both; images alone where there is a single subject.

        Over both, variances of the two factors add, less what both contain (Cameron, Gelbach & Miller 2011, J Bus Econ
        Stat 29:238; Owen 2007, Ann Appl Stat 1:386), and are never less than that of either.
        """
        if over == "images" or self.n_subjects < 2:
            return np.sqrt(self.images)
        if over == "people":
            return np.sqrt(self.people)
        either = np.maximum(self.images, self.people)
        return np.sqrt(np.maximum(self.images + self.people - self.interaction, either))

    def degrees_of_freedom(self, over: Population) -> int:
        """Of the t distribution that an estimate divided by its standard error follows."""
        return degrees_of_freedom(over, self.n_conditions, self.n_subjects)


def degrees_of_freedom(over: Population, n_conditions: int, n_subjects: int) -> int:
    """Number of images, of people, or the smaller of the two, minus one."""
    if over == "images" or n_subjects < 2:
        return n_conditions - 1
    return n_subjects - 1 if over == "people" else min(n_subjects, n_conditions) - 1


@dataclass(frozen=True)
class Sampled:
    """Estimates with their variance components.

    Attributes
    ----------
    estimates, shares : ndarray of float64, shape (n_estimates, n_locations)
        The estimates, and the same as shares of the explainable variance: divided by the reliability of the mean RDM.
        Shares are NaN for a single subject, for models that differ between people, and where the reliability is not
        above 0.
    components, share_components : Components
    reliability : ndarray of float64, shape (n_locations,)
    influence : ndarray of float64, shape (n_estimates, n_locations, n_conditions)
        How much each estimate changes without each condition, centred.
    """

    estimates: NDArray[np.float64]
    shares: NDArray[np.float64]
    components: Components
    share_components: Components
    reliability: NDArray[np.float64]
    influence: NDArray[np.float64]

    @classmethod
    def over_locations(cls, parts: Sequence[Sampled]) -> Sampled:
        """Results of several blocks of locations, one after the other, as one."""

        def joined(arrays: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
            return np.concatenate(arrays, axis=1 if arrays[0].ndim > 1 else 0)

        def components(own: Sequence[Components]) -> Components:
            images, people, interaction = (
                joined([getattr(part, name) for part in own]) for name in ("images", "people", "interaction")
            )
            return Components(images, people, interaction, own[0].n_conditions, own[0].n_subjects)

        return cls(
            joined([part.estimates for part in parts]),
            joined([part.shares for part in parts]),
            components([part.components for part in parts]),
            components([part.share_components for part in parts]),
            joined([part.reliability for part in parts]),
            joined([part.influence for part in parts]),
        )

    @classmethod
    def over_people(cls, parts: Sequence[Sampled]) -> Sampled:
        """Mean over people of estimates from each one's own RDM and models.

        Parameters
        ----------
        parts : sequence of Sampled
            Of every person alone: what `Jackknife` gives without subjects.

        Returns
        -------
        Sampled
            As shares of the explainable variance NaN: people whose models differ need not agree.

        Notes
        -----
        Estimates are of a person's own RDM, so that their spread over people is exact, and so is the part that belongs
        to single images of single people: the jackknife over images of how far a person is from the mean over people.
        """
        if len(parts) == 1:
            return parts[0]
        n_people, n = len(parts), parts[0].components.n_conditions
        estimates = np.stack([part.estimates for part in parts])
        own = np.stack([part.influence for part in parts])
        influence = own.mean(axis=0)
        of_images, of_both = ((n - 1) / n * np.square(change).sum(axis=-1) for change in (influence, own - influence))
        mean, nothing = estimates.mean(axis=0), np.full(estimates.shape[1:], np.nan)
        components = Components(
            of_images,
            estimates.var(axis=0, ddof=1) / n_people,
            of_both.sum(axis=0) / (n_people * (n_people - 1)),
            n,
            n_people,
        )
        undefined = Components(nothing, nothing, nothing, n, n_people)
        return cls(mean, nothing, components, undefined, nothing[0], influence)


class Jackknife:
    """Estimates of a statistic, and of contrasts of its values, with variance components.

    Without a condition everything is done anew: the comparison of RDMs, the regressions and the adjustment for chance.
    What does not depend on the brain is prepared once.

    Parameters
    ----------
    basis : Basis
        Of the predictors in the form in which they are compared.
    statistic : LinearStatistic
        Of that basis.
    comparison : {"whitened", "plain", "without_condition_effects"}
    by_chance : bool
        Adjust R2 by its mean over all permutations of conditions, not by the number of predictors.

    Raises
    ------
    ValueError
        If there are fewer than 5 conditions, or too few for so many predictors when one is left out.

    References
    ----------
    Efron & Stein 1981, Ann Stat 9:586 (the jackknife); docs/METHODS.md, "Images and people" (the closed form).
    """

    def __init__(
        self, basis: Basis, statistic: LinearStatistic, comparison: Comparison, *, by_chance: bool = True
    ) -> None:
        self._n, self._statistic, self._by_chance = basis.n_conditions, statistic, by_chance
        if self._n < 5:
            self._refuse()
        products = _OfAllPairs if basis.pairs is None else _OfSomePairs
        self._products = products(basis, comparison)
        if np.min(self._products.n_pairs_left) - max(statistic.sizes) < 2:
            self._refuse()
        compared = (basis.q @ statistic.directions).T
        unscaled = as_before(compared, comparison, basis.pairs)
        self._directions = np.ascontiguousarray(unscaled.T)
        self._sums = self._products.sums_of(unscaled[None])
        self._energy = np.add.reduceat(energy_of(compared, basis.pairs), statistic.starts)
        self._prepare(unscaled)

    def _refuse(self) -> NoReturn:
        raise ValueError(
            f"{self._n} conditions are too few to leave one out with {max(self._statistic.sizes)} predictors"
        )

    def _prepare(self, directions: NDArray[np.float64]) -> None:
        """Without each condition: orthonormal axes, rank and condition energy of every subset of the predictors."""
        n = self._n
        self._axes, self._rank, self._energies = [], np.empty((n, len(self._statistic.sizes))), []
        for m, own in enumerate(self._statistic.slices()):
            gram, of_effects = self._products.gram_left(directions[own])
            values, vectors = np.linalg.eigh(gram)
            kept = values > _SINGULAR
            axes = vectors * (kept / np.sqrt(np.where(kept, values, 1.0)))[:, None]
            self._axes.append(axes)
            self._rank[:, m] = kept.sum(axis=1)
            energy = np.einsum("ikr,ikl,ilr->i", axes, of_effects, axes)
            self._energies.append(self._products.energy_left(energy))

    def __call__(
        self, mean: ArrayLike, subjects: NDArray | None = None, contrasts: NDArray[np.float64] | None = None
    ) -> Sampled:
        """Estimates at some locations.

        Parameters
        ----------
        mean : array_like, shape (n_locations, n_pairs)
            Condensed RDMs as they are, averaged over subjects.
        subjects : ndarray, shape (n_subjects, n_locations, n_pairs), optional
            The subjects' own RDMs.
        contrasts : ndarray, shape (n_estimates, n_statistics) or (n_locations, n_estimates, n_statistics), optional
            Weights of the statistic's values in each estimate; by default each value is one.

        Returns
        -------
        Sampled
        """
        mean = np.ascontiguousarray(mean, dtype=np.float64)
        subjects = None if subjects is None or len(subjects) < 2 else subjects
        if contrasts is None:
            contrasts = np.eye(len(self._statistic.subset_weights))
        parts = []
        step = self._products.n_at_once
        for start in range(0, len(mean), step):
            here = slice(start, start + step)
            own = None if subjects is None else subjects[:, here]
            parts.append(self._estimate(mean[here], own, contrasts if contrasts.ndim == 2 else contrasts[here]))
        return Sampled.over_locations(parts)

    def _estimate(self, mean: NDArray[np.float64], subjects: NDArray | None, contrasts: NDArray) -> Sampled:
        n, statistic = self._n, self._statistic
        squares = self._products.squares(mean[None])
        size, size_left = squares.whole[0], squares.left[0]  # (locations,), (locations, n)
        whole, left = self._products(self._directions[None], self._sums, mean[None])
        whole, left = whole[0], left[0].swapaxes(0, 1)  # (locations, directions), (n, locations, directions)
        r2 = np.add.reduceat(whole**2, statistic.starts, axis=1) / size[:, None]
        fits = zip(statistic.slices(), self._axes, strict=True)
        r2_left = np.stack([np.square(left[:, :, own] @ axes).sum(axis=2) for own, axes in fits], axis=2)
        r2_left /= size_left.T[:, :, None]
        weights = contrasts @ statistic.subset_weights  # (estimates, subsets), perhaps for each location
        of, of_left = self._products.dimensions, self._products.dimensions_left
        slope = self._slope(of, np.array(statistic.sizes), self._energy, squares.energy[0])
        energies = np.stack(self._energies, axis=1)[:, None]
        slope_left = self._slope(of_left, self._rank[:, None], energies, squares.energy_left[0].T)
        estimates = _weighted(weights, 1 - (1 - r2) * slope)
        without = np.stack([_weighted(weights, 1 - (1 - a) * b) for a, b in zip(r2_left, slope_left, strict=True)])
        if subjects is None:
            nothing = np.zeros_like(estimates.T)
            images = Components(_jackknife_variance(without).T, nothing, nothing, n, 1)
            undefined = Components(*(np.full_like(nothing, np.nan),) * 3, n, 1)
            influence = (without - without.mean(axis=0)).transpose(2, 1, 0)
            missing = np.full(len(mean), np.nan)
            return Sampled(estimates.T, np.full_like(nothing, np.nan), images, undefined, missing, influence)
        fitted = _Fitted(r2, r2_left, weights, slope, estimates, without, size, size_left, whole)
        return self._over_subjects(mean, subjects, fitted)

    def _slope(
        self, dimensions: Dimensions, rank: NDArray, energy: NDArray, energy_of_rdms: NDArray
    ) -> NDArray[np.float64]:
        """What unexplained variance is multiplied by: (..., n_locations, n_subsets)."""
        if self._by_chance:
            return 1 / (1 - mean_r2(dimensions, rank, energy, energy_of_rdms[..., None]))
        n_pairs = dimensions[0] + dimensions[1] + 1
        return np.broadcast_to((n_pairs - 1) / (n_pairs - rank - 1), (*energy_of_rdms.shape, rank.shape[-1]))

    def _over_subjects(self, mean: NDArray[np.float64], subjects: NDArray, fit: _Fitted) -> Sampled:
        """Add what varies between subjects; all is linear in a subject's RDM, but for its own sum of squares."""
        n, n_subjects, statistic = self._n, len(subjects), self._statistic
        centred = mean - mean.mean(axis=1, keepdims=True)
        # R2 of a subset changes with the mean RDM, in the direction of these.
        gradients = np.empty((*mean.shape, len(statistic.sizes) + 1))
        for m, own in enumerate(statistic.slices()):
            gradients[:, :, m] = fit.whole[:, own] @ self._directions[:, own].T - fit.r2[:, m, None] * centred
        gradients[:, :, -1] = centred
        sums = self._products.sums_of(np.ascontiguousarray(gradients.swapaxes(1, 2)))
        whole, left = self._products(gradients, sums, subjects)
        of_condition = whole[:, :, None] - left  # (subjects, locations, n, subsets and the mean RDM itself)
        squares = self._products.squares(subjects)
        size = fit.size[:, None]

        # R2 and estimates: per subject, and per subject and condition.
        scaled = fit.weights * fit.slope[:, None] if fit.weights.ndim == 3 else fit.weights * fit.slope[:, None, :]
        change = 2 * np.einsum("pem,spm->spe", scaled, whole[..., :-1]) / size[None]
        part = 2 * np.einsum("pem,spim->spie", scaled, of_condition[..., :-1]) / size[None, :, None]
        components = _components(fit.without, change, part, n)

        # Reliability of the mean RDM: 1 - (mean size of a subject's RDM / size of the mean RDM - 1) / (n_subjects - 1).
        mean_size = squares.whole.mean(axis=0)
        reliability = 1 - (mean_size / fit.size - 1) / (n_subjects - 1)
        reliability_left = 1 - (squares.left.mean(axis=0) / fit.size_left - 1) / (n_subjects - 1)
        own_size = (squares.whole - mean_size) / fit.size
        toward_mean = 2 * mean_size / fit.size**2 * (whole[..., -1] - fit.size)
        change_r = -(own_size - toward_mean) / (n_subjects - 1)
        of_size = (squares.whole[:, :, None] - squares.left) / size[None]
        part_r = -(of_size - 2 * (mean_size / fit.size**2)[:, None] * of_condition[..., -1]) / (n_subjects - 1)

        with np.errstate(divide="ignore", invalid="ignore"):
            usable = np.where(reliability > 0, reliability, np.nan)
            shares = fit.estimates / usable[:, None]
            shares_left = fit.without / np.where(reliability_left > 0, reliability_left, np.nan).T[:, :, None]
            per_share = 1 / usable[:, None]
            change_s = change * per_share - shares * per_share * change_r[..., None]
            part_s = part * per_share[:, None] - (shares * per_share)[:, None] * part_r[..., None]
        return Sampled(
            fit.estimates.T,
            shares.T,
            components,
            _components(shares_left, change_s, part_s, n),
            reliability,
            (fit.without - fit.without.mean(axis=0)).transpose(2, 1, 0),
        )


@dataclass(frozen=True)
class _Fitted:
    """Intermediate results of some locations: with all conditions, and without each (n first)."""

    r2: NDArray[np.float64]
    r2_left: NDArray[np.float64]
    weights: NDArray[np.float64]
    slope: NDArray[np.float64]
    estimates: NDArray[np.float64]
    without: NDArray[np.float64]
    size: NDArray[np.float64]
    size_left: NDArray[np.float64]
    whole: NDArray[np.float64]


def _weighted(weights: NDArray, values: NDArray) -> NDArray[np.float64]:
    """Estimates (n_locations, n_estimates) from values of subsets (n_locations, n_subsets)."""
    return values @ weights.T if weights.ndim == 2 else (weights @ values[:, :, None])[:, :, 0]


def _jackknife_variance(without: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance of estimates from their values without each condition, along the first axis."""
    return np.asarray((len(without) - 1) * without.var(axis=0))


def _components(
    without: NDArray[np.float64], change: NDArray[np.float64], part: NDArray[np.float64], n: int
) -> Components:
    """Variance components from values without each condition (n, locations, estimates), and from the influence of each
    subject (subjects, locations, estimates), and of each subject and condition (subjects, locations, n, estimates).
    """
    n_subjects = len(change)
    squared = n_subjects * (n_subjects - 1)
    people = np.square(change - change.mean(axis=0)).sum(axis=0) / squared
    part = part - part.mean(axis=0)
    part -= part.mean(axis=2, keepdims=True)
    interaction = np.square(part).sum(axis=(0, 2)) / squared * n * (n - 1) / (n - 2) ** 2
    return Components(_jackknife_variance(without).T, people.T, interaction.T, n, n_subjects)


@dataclass(frozen=True)
class _Squares:
    """Sums of squares of RDMs as they are compared, and the share of condition effects in them.

    With all conditions (n_rdms, n_locations), and without each (n_rdms, n_locations, n_conditions).
    """

    whole: NDArray[np.float64]
    energy: NDArray[np.float64]
    left: NDArray[np.float64]
    energy_left: NDArray[np.float64]


class _OfAllPairs:
    """Inner products of RDMs as they are compared, with all conditions and without each, where no pair is left out.

    They are plain ones minus `shrinkage` times those of the conditions' sums, whose effects count `weights` times.
    """

    n_at_once = _LOCATIONS_AT_ONCE

    def __init__(self, basis: Basis, comparison: Comparison) -> None:
        n = self._n = basis.n_conditions
        self._weights = condition_weight(comparison, n), condition_weight(comparison, n - 1)
        self._shrinkage = (1 - self._weights[0] ** 2) / (n - 2), (1 - self._weights[1] ** 2) / (n - 3)
        self.n_pairs_left = n_pairs_of(n - 1)
        self.dimensions, self.dimensions_left = dimensions_of(n), dimensions_of(n - 1)

    def sums_of(self, rdms: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over the pairs of each condition, (n_locations, n_conditions, n_rdms) of (n_locations, n_rdms, n_pairs).

        The memory has that order, too.
        """
        return np.ascontiguousarray(expand(rdms).sum(axis=3).swapaxes(1, 2))

    def squares(self, rdms: NDArray) -> _Squares:
        """Of RDMs (n_rdms, n_locations, n_pairs)."""
        n, weights = self._n, self._weights
        n_rdms, n_locations, _ = rdms.shape
        whole, whole_sums = np.empty((2, n_rdms, n_locations))
        left, left_sums = np.empty((2, n_rdms, n_locations, n))
        work = partial(_squares, rdms, whole, whole_sums, left, left_sums)
        in_threads(work, n_locations, _LOCATIONS_PER_THREAD)
        whole, left = whole - self._shrinkage[0] * whole_sums, left - self._shrinkage[1] * left_sums
        energy = weights[0] ** 2 * whole_sums / (n - 2) / whole
        return _Squares(whole, energy, left, weights[1] ** 2 * left_sums / (n - 3) / left)

    def gram_left(self, rdms: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of centred RDMs (n_rdms, n_pairs) with each other without each condition, and of the conditions' sums there.

        Both (n_conditions, n_rdms, n_rdms).
        """
        square = expand(rdms)
        sums, n = square.sum(axis=2), square.shape[1]
        of_condition = np.einsum("kij,lij->ikl", square, square, optimize=True)
        own = np.einsum("ki,li->ikl", sums, sums)
        cross = np.einsum("kj,lij->ikl", sums, square, optimize=True)
        plain = rdms @ rdms.T - of_condition - own / n_pairs_of(n - 1)
        of_sums = sums @ sums.T - own - cross - cross.swapaxes(1, 2) + of_condition - 4 * own / (n - 1)
        return plain - self._shrinkage[1] * of_sums, of_sums

    def energy_left(self, of_sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Condition energy without each condition, from products of sums as those of `gram_left`."""
        return of_sums * self._weights[1] ** 2 / (self._n - 3)

    def __call__(
        self, vectors: NDArray[np.float64], sums: NDArray[np.float64], rdms: NDArray
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of centred vectors with RDMs, with all conditions and without each.

        Parameters
        ----------
        vectors : ndarray, shape (n_locations or 1, n_pairs, n_vectors)
        sums : ndarray, shape (n_locations or 1, n_conditions, n_vectors)
            Of the vectors, from `sums_of`.
        rdms : ndarray, shape (n_rdms, n_locations, n_pairs)

        Returns
        -------
        whole : ndarray, shape (n_rdms, n_locations, n_vectors)
        left : ndarray, shape (n_rdms, n_locations, n_conditions, n_vectors)
        """
        n_rdms, n_locations, _ = rdms.shape
        whole = np.empty((n_rdms, n_locations, vectors.shape[2]))
        left = np.empty((n_rdms, n_locations, *sums.shape[1:]))
        work = partial(_products_of, vectors, sums, rdms, *self._shrinkage, whole, left)
        in_threads(work, n_locations, _LOCATIONS_PER_THREAD)
        return whole, left


class _OfSomePairs:
    """The same where pairs are left out; methods as those of `_OfAllPairs`.

    A product of centred RDMs a and b, less that of their sums over conditions with `Metric.taken` in between, is that
    of the compared RDMs. Without condition i it loses the pairs of i, and the sums of the others lose these, too.
    """

    def __init__(self, basis: Basis, comparison: Comparison) -> None:
        assert basis.pairs is not None
        pairs, n = basis.pairs, basis.n_conditions
        self._pairs, whole = pairs, metric(pairs, comparison)
        self.n_at_once = int(np.clip(_SQUARES_AT_ONCE // n**2, 1, _LOCATIONS_AT_ONCE))
        # Condition i has no sum of its own once it is left out.
        self._taken, self._effects = np.zeros((2, n + 1, n, n))
        self._taken[n], self._effects[n] = whole.taken, whole.effects
        n_effects = np.empty(n)
        for i in range(n):
            others = np.arange(n) != i
            here = np.ix_(others, others)
            left = Metric(pairs.among(others)[1], comparison)
            self._taken[i][here], self._effects[i][here], n_effects[i] = left.taken, left.effects, left.n_effects
        self.n_pairs_left = pairs.n_kept - pairs.degrees
        self.dimensions = dimensions_of(n, pairs)
        self.dimensions_left = (n_effects - 1)[:, None, None], (self.n_pairs_left - n_effects)[:, None, None]

    def sums_of(self, rdms: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.ascontiguousarray(self._pairs.sums(rdms).swapaxes(1, 2))

    def squares(self, rdms: NDArray) -> _Squares:
        n, centred = len(self._taken) - 1, np.asarray(rdms, dtype=np.float64)
        centred = centred - centred.mean(axis=2, keepdims=True)
        square, sums = expand(self._pairs.filled(centred)), self._pairs.sums(centred)
        total = np.square(centred).sum(axis=2)

        def without(i: int, own: NDArray, sums: NDArray) -> tuple[NDArray, NDArray]:
            plain = total - np.square(own).sum(axis=2)
            taken, effects = (((sums @ part[i]) * sums).sum(axis=2) for part in (self._taken, self._effects))
            return plain - taken, (effects - taken) / (plain - taken)

        whole, energy = without(n, np.zeros((*total.shape, 0)), sums)
        left = [without(i, square[:, :, i], sums - square[:, :, i]) for i in range(n)]
        return _Squares(whole, energy, *(np.stack(part, axis=2) for part in zip(*left, strict=True)))

    def gram_left(self, rdms: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        square, sums, total = expand(self._pairs.filled(rdms)), self._pairs.sums(rdms), rdms @ rdms.T
        gram, of_effects = np.empty((2, sums.shape[1], *total.shape))
        for i in range(len(gram)):
            own = sums - square[:, i]
            plain = total - square[:, i] @ square[:, i].T
            taken, effects = own @ self._taken[i] @ own.T, own @ self._effects[i] @ own.T
            gram[i], of_effects[i] = plain - taken, effects - taken
        return gram, of_effects

    def energy_left(self, of_effects: NDArray[np.float64]) -> NDArray[np.float64]:
        return of_effects

    def __call__(
        self, vectors: NDArray[np.float64], sums: NDArray[np.float64], rdms: NDArray
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        centred = np.asarray(rdms, dtype=np.float64)
        centred = (centred - centred.mean(axis=2, keepdims=True)).swapaxes(0, 1)
        square, own_sums = expand(self._pairs.filled(centred)), self._pairs.sums(centred)
        squares = expand(self._pairs.filled(np.ascontiguousarray(vectors.swapaxes(1, 2))))
        total, of_vectors, n = centred @ vectors, sums.swapaxes(1, 2), sums.shape[1]
        whole = total - own_sums @ self._taken[n] @ sums
        left = np.empty((*total.shape[:2], n, total.shape[2]))
        for i in range(n):
            own, of_vector = square[:, :, i], squares[:, :, i]
            rest = (of_vectors - of_vector).swapaxes(1, 2)
            left[:, :, i] = total - own @ of_vector.swapaxes(1, 2) - (own_sums - own) @ self._taken[i] @ rest
        return np.ascontiguousarray(whole.swapaxes(0, 1)), np.ascontiguousarray(left.swapaxes(0, 1))


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _products_of(
    vectors: NDArray,
    sums: NDArray,
    rdms: NDArray,
    shrinkage: float,
    shrinkage_left: float,
    whole: NDArray,
    left: NDArray,
    first: int,
    last: int,
) -> None:
    """Fill `whole` and `left` of `_products`.

    Without condition i, a product loses its pairs, the centring changes, and so do the sums of all other conditions:
    with a, b centred, and A, B their sums, the products of pairs become ``ab - sum_j a_ij b_ij - A_i B_i / n_pairs``,
    and those of sums ``AB - A_i B_i - sum_j (A_j b_ij + a_ij B_j - a_ij b_ij) - 4 A_i B_i / (n - 1)``.
    """
    n, n_vectors = sums.shape[1], sums.shape[2]
    of_rdm, of_sums, lam = np.empty(n), np.empty(n_vectors), shrinkage_left
    for location in range(first, last):
        a = vectors[location if len(vectors) > 1 else 0]
        a_sums = sums[location if len(vectors) > 1 else 0]
        for r in range(len(rdms)):
            rdm, product, without = rdms[r, location], whole[r, location], left[r, location]
            mean = 0.0
            for k in range(rdm.size):
                mean += rdm[k]
            mean /= rdm.size
            of_rdm[:] = 0.0
            k = 0
            for i in range(n - 1):
                for j in range(i + 1, n):
                    of_rdm[i] += rdm[k] - mean
                    of_rdm[j] += rdm[k] - mean
                    k += 1
            product[:], of_sums[:] = 0.0, 0.0
            without[:] = 0.0
            k = 0
            for i in range(n - 1):
                for j in range(i + 1, n):
                    value = rdm[k] - mean
                    for c in range(n_vectors):
                        both = a[k, c] * value
                        product[c] += both
                        both *= -(1 + lam)
                        without[i, c] += both + lam * (value * a_sums[j, c] + a[k, c] * of_rdm[j])
                        without[j, c] += both + lam * (value * a_sums[i, c] + a[k, c] * of_rdm[i])
                    k += 1
            for i in range(n):
                for c in range(n_vectors):
                    of_sums[c] += a_sums[i, c] * of_rdm[i]
            factor = lam + 4 * lam / (n - 1) - 1 / ((n - 1) * (n - 2) / 2)
            for i in range(n):
                for c in range(n_vectors):
                    without[i, c] += product[c] - lam * of_sums[c] + factor * a_sums[i, c] * of_rdm[i]
            for c in range(n_vectors):
                product[c] -= shrinkage * of_sums[c]


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _squares(
    rdms: NDArray, whole: NDArray, whole_sums: NDArray, left: NDArray, left_sums: NDArray, first: int, last: int
) -> None:
    """Fill the arrays of `_Squares`, before shrinkage: `_products_of` of each centred RDM with itself."""
    n = left.shape[2]
    sums, squares, cross = np.empty(n), np.empty(n), np.empty(n)
    for location in range(first, last):
        for r in range(len(rdms)):
            rdm = rdms[r, location]
            mean = 0.0
            for k in range(rdm.size):
                mean += rdm[k]
            mean /= rdm.size
            sums[:], squares[:], cross[:] = 0.0, 0.0, 0.0
            k, total = 0, 0.0
            for i in range(n - 1):
                for j in range(i + 1, n):
                    value = rdm[k] - mean
                    sums[i] += value
                    sums[j] += value
                    squares[i] += value * value
                    squares[j] += value * value
                    total += value * value
                    k += 1
            k, of_sums = 0, 0.0
            for i in range(n - 1):
                for j in range(i + 1, n):
                    value = rdm[k] - mean
                    cross[i] += value * sums[j]
                    cross[j] += value * sums[i]
                    k += 1
                of_sums += sums[i] * sums[i]
            of_sums += sums[n - 1] * sums[n - 1]
            whole[r, location], whole_sums[r, location] = total, of_sums
            for i in range(n):
                own = sums[i] * sums[i]
                left[r, location, i] = total - squares[i] - own / ((n - 1) * (n - 2) / 2)
                left_sums[r, location, i] = of_sums - own - 2 * cross[i] + squares[i] - 4 * own / (n - 1)
