"""Linear regression of brain RDMs on model RDMs, by one projection.

All predictors of an analysis span one space. With an orthonormal basis `q` of it, a response is projected once,
``c = q' y``; the R2 of any subset of the predictors is then the squared length of `c` along that subset's directions.
All results of the four figures are linear in such R2 (docs/METHODS.md, "Regression").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.rdm import Pairs, is_constant, n_conditions_of

# A predictor whose part outside the span of those before it is shorter than this (of unit length) adds no rank.
RANK_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Basis:
    """Orthonormal basis of the span of all predictors, and where each set of predictors lies in it.

    Attributes
    ----------
    q : ndarray of float64, shape (n_pairs, rank)
        Orthonormal columns, each with mean 0.
    coordinates : tuple of ndarray of float64, each (rank, n_predictors of the set)
        Centred, unit-length predictors of each set in terms of `q`.
    dependent : tuple of (int, int)
        (set, predictor) that are linear combinations of the predictors before them.
    n_given : int
        How many of the sets, the last ones, are given: nuisance predictors, beside which all others are looked at.
    pairs : Pairs or None
        The pairs that count, if not all.
    """

    q: NDArray[np.float64]
    coordinates: tuple[NDArray[np.float64], ...]
    dependent: tuple[tuple[int, int], ...]
    n_given: int = 0
    pairs: Pairs | None = None

    @property
    def n_pairs(self) -> int:
        """Entries of a condensed RDM that count."""
        return self.q.shape[0]

    @property
    def n_conditions(self) -> int:
        """Number of conditions."""
        return n_conditions_of(self.n_pairs) if self.pairs is None else self.pairs.n_conditions

    @property
    def n_sets(self) -> int:
        """Number of sets without those that are given."""
        return len(self.coordinates) - self.n_given

    @property
    def given(self) -> tuple[int, ...]:
        """Numbers of the sets that are given."""
        return tuple(range(self.n_sets, len(self.coordinates)))

    def subset(self, sets: Sequence[int]) -> NDArray[np.float64]:
        """Orthonormal coordinates, (rank, rank of the subset), of the span of some sets of predictors."""
        if not sets:
            return np.zeros((self.q.shape[1], 0))
        u, s, _ = np.linalg.svd(np.hstack([self.coordinates[i] for i in sets]), full_matrices=False)
        return u[:, s > RANK_TOLERANCE * s[0]]


# One basis for all people, whose mean RDM is fitted, or that of each person's own models.
Bases = Basis | Sequence[Basis]


def each_person(bases: Bases, rdms: ArrayLike) -> tuple[list[Basis], NDArray[np.float64]]:
    """What is fitted to what: a basis and RDMs for every person, or one for the mean over people.

    Parameters
    ----------
    bases : Basis, or sequence of Basis
    rdms : array_like, shape (n_locations, n_pairs) or (n_people, n_locations, n_pairs)
        The latter with as many bases.

    Returns
    -------
    bases : list of Basis
    rdms : ndarray, shape (n_bases, n_locations, n_pairs)

    Raises
    ------
    ValueError
        If there is not one basis for the RDMs of each person.
    """
    rdms = np.asarray(rdms)
    if isinstance(bases, Basis):
        return [bases], rdms[None]
    if rdms.ndim != 3 or len(rdms) != len(bases):
        raise ValueError(f"`rdms` has shape {rdms.shape}, expected those of {len(bases)} people, one for each basis")
    return [*bases], rdms


def orthonormal_basis(predictor_sets: Sequence[ArrayLike], n_given: int = 0, pairs: Pairs | None = None) -> Basis:
    """Orthonormal basis of the centred predictors of several sets.

    Parameters
    ----------
    predictor_sets : sequence of array_like, each (n_predictors, n_pairs)
        Condensed RDMs; a set is one network (its layers) or one group of networks.
    n_given : int
        How many of the sets, the last ones, are nuisance predictors.
    pairs : Pairs, optional
        The pairs that the predictors are restricted to, if not all.

    Returns
    -------
    Basis

    Raises
    ------
    ValueError
        If a predictor is constant, or if there are not more pairs than predictors.

    Notes
    -----
    Gram-Schmidt, with each vector orthogonalised twice, which keeps the basis orthogonal to rounding (Giraud et al.
    2005, Comput Math Appl 50:1069). Unlike a pivoted factorisation it names the predictors that add nothing.
    """
    arrays = [np.atleast_2d(np.asarray(rdms, dtype=np.float64)) for rdms in predictor_sets]
    n_predictors = sum(len(array) for array in arrays)
    n_pairs = arrays[0].shape[-1]
    if n_pairs - n_predictors < 2:
        raise ValueError(
            f"{n_predictors} predictors need at least {n_predictors + 2} pairs of conditions, got {n_pairs}"
        )
    units = [standardise(array) for array in arrays]
    q = np.zeros((n_pairs, n_predictors))
    rank, dependent = 0, []
    for i, unit in enumerate(units):
        for j, vector in enumerate(unit):
            for _ in range(2):
                vector = vector - q[:, :rank] @ (q[:, :rank].T @ vector)
                vector -= vector.mean()
            length = np.linalg.norm(vector)
            if length > RANK_TOLERANCE:
                q[:, rank] = vector / length
                rank += 1
            else:
                dependent.append((i, j))
    q = np.ascontiguousarray(q[:, :rank])
    return Basis(q, tuple(q.T @ unit.T for unit in units), tuple(dependent), n_given, pairs)


def standardise(rdms: NDArray) -> NDArray[np.float64]:
    """Centre condensed RDMs and scale them to unit length.

    Parameters
    ----------
    rdms : array_like, shape (..., n_pairs)

    Returns
    -------
    ndarray of float64, shape (..., n_pairs)

    Raises
    ------
    ValueError
        If an RDM is constant but for rounding.
    """
    rdms = np.asarray(rdms, dtype=np.float64)
    centred = rdms - rdms.mean(axis=-1, keepdims=True)
    norm = np.linalg.norm(centred, axis=-1, keepdims=True)
    constant = is_constant(rdms)
    if constant.any():
        raise ValueError(f"{int(constant.sum())} of {constant.size} RDMs are constant: nothing in them to explain")
    return centred / norm


def project(basis: Basis, rdms: ArrayLike) -> NDArray[np.float64]:
    """Coordinates of standardised responses in the basis.

    Parameters
    ----------
    basis : Basis
    rdms : array_like, shape (n_locations, n_pairs)
        Condensed brain RDMs.

    Returns
    -------
    ndarray of float64, shape (rank, n_locations)
        The squared length of a column is the R2 of all predictors together.
    """
    return basis.q.T @ standardise(np.asarray(rdms)).T


def adjust(r2: Any, n_pairs: Any, n_predictors: Any) -> Any:
    """Adjusted R2, ``1 - (1 - R2) (n - 1) / (n - k - 1)``.

    Parameters
    ----------
    r2, n_pairs, n_predictors : float, ndarray or torch.Tensor
        Broadcast against one another.

    Returns
    -------
    float, ndarray or torch.Tensor

    References
    ----------
    Ezekiel 1930, Methods of Correlation Analysis.
    """
    return 1.0 - (1.0 - r2) * ((n_pairs - 1.0) / (n_pairs - n_predictors - 1.0))


@dataclass(frozen=True)
class LinearStatistic:
    """Statistics that are linear in the R2 of subsets of the predictors: all results of the four figures.

    With R2 adjusted for the number of predictors, a value is ``weights @ (directions' c)**2 + offset`` for projected
    responses `c`.

    Attributes
    ----------
    directions : ndarray, shape (rank, n_directions)
        Orthonormal coordinates of all subsets that are needed, side by side.
    weights : ndarray, shape (n_statistics, n_directions)
    offset : ndarray, shape (n_statistics, 1)
    sizes : tuple of int
        Directions of each subset.
    subset_weights : ndarray, shape (n_statistics, n_subsets)
        Weight of the R2 of each subset in each statistic.
    """

    directions: NDArray[np.float64]
    weights: NDArray[np.float64]
    offset: NDArray[np.float64]
    sizes: tuple[int, ...]
    subset_weights: NDArray[np.float64]

    def __call__(self, projected: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values (n_statistics, n) for projected responses (rank, n)."""
        return self.weights @ (self.directions.T @ projected) ** 2 + self.offset

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where the directions of each subset begin."""
        return np.cumsum((0, *self.sizes[:-1]))

    def slices(self) -> list[slice]:
        """The directions of each subset."""
        return [slice(start, start + size) for start, size in zip(self.starts, self.sizes, strict=True)]

    def r2(self, projected: NDArray[np.float64]) -> NDArray[np.float64]:
        """R2 of each subset, (n_subsets, n), for projected responses (rank, n)."""
        return np.add.reduceat((self.directions.T @ projected) ** 2, self.starts, axis=0)


# What makes a statistic of any basis, such as `own_r2`.
MakeStatistic = Callable[[Basis], LinearStatistic]


def linear_statistic(
    basis: Basis, terms: Sequence[Sequence[tuple[Sequence[int], float]]], adjusted: bool = True
) -> LinearStatistic:
    """Statistics as weighted sums of the R2 of subsets.

    Parameters
    ----------
    basis : Basis
    terms : sequence of sequences of (sets, weight)
        One sequence per statistic: the sets of predictors of each subset, and the weight of its R2. Sets that are
        given count with every subset, and what they explain by themselves is subtracted.
    adjusted : bool
        Whether to sum adjusted R2 or plain ones.

    Returns
    -------
    LinearStatistic
    """
    # No predictors explain nothing.
    given = basis.given
    terms = [[((*sets, *given), weight) for sets, weight in statistic if len(sets)] for statistic in terms]
    if given:
        sums = [sum(weight for _, weight in statistic) for statistic in terms]
        terms = [
            [*statistic, (given, -total)] if total else statistic for statistic, total in zip(terms, sums, strict=True)
        ]
    subsets = list(dict.fromkeys(sets for statistic in terms for sets, _ in statistic))
    bases = [basis.subset(sets) for sets in subsets]
    starts = np.cumsum([0] + [b.shape[1] for b in bases])
    weights, offset = np.zeros((len(terms), starts[-1])), np.zeros((len(terms), 1))
    subset_weights = np.zeros((len(terms), len(subsets)))
    for row, statistic in enumerate(terms):
        for sets, weight in statistic:
            which = subsets.index(sets)
            subset_weights[row, which] += weight
            # adjusted R2 = slope R2 + (1 - slope)
            slope = (basis.n_pairs - 1) / (basis.n_pairs - bases[which].shape[1] - 1) if adjusted else 1.0
            weights[row, starts[which] : starts[which + 1]] += weight * slope
            offset[row] += weight * (1 - slope)
    return LinearStatistic(np.hstack(bases), weights, offset, tuple(b.shape[1] for b in bases), subset_weights)


def own_r2(basis: Basis) -> LinearStatistic:
    """R2 of every set of predictors by itself.

    Parameters
    ----------
    basis : Basis

    Returns
    -------
    LinearStatistic
        One statistic per set.
    """
    return linear_statistic(basis, [[((i,), 1.0)] for i in range(basis.n_sets)], adjusted=False)


def own_adjusted_r2(basis: Basis) -> LinearStatistic:
    """Adjusted R2 of every set of predictors by itself.

    Parameters
    ----------
    basis : Basis

    Returns
    -------
    LinearStatistic
        One statistic per set.
    """
    return linear_statistic(basis, [[((i,), 1.0)] for i in range(basis.n_sets)])


def total_adjusted_r2(basis: Basis) -> LinearStatistic:
    """Adjusted R2 of all sets of predictors together.

    Parameters
    ----------
    basis : Basis

    Returns
    -------
    LinearStatistic
        One statistic.
    """
    return linear_statistic(basis, [[(tuple(range(basis.n_sets)), 1.0)]])


def unique_adjusted_r2(basis: Basis) -> LinearStatistic:
    """Unique variance of every set: adjusted R2 of all sets minus that of all others.

    Parameters
    ----------
    basis : Basis

    Returns
    -------
    LinearStatistic
        One statistic per set.
    """
    everything = tuple(range(basis.n_sets))
    return linear_statistic(basis, _unique_terms(everything))


def unique_and_total(basis: Basis) -> LinearStatistic:
    """Unique variance of every set, then adjusted R2 of all sets together.

    Parameters
    ----------
    basis : Basis

    Returns
    -------
    LinearStatistic
        One statistic per set, and one more.
    """
    everything = tuple(range(basis.n_sets))
    return linear_statistic(basis, [*_unique_terms(everything), [(everything, 1.0)]])


def _unique_terms(everything: tuple[int, ...]) -> list[list[tuple[Sequence[int], float]]]:
    return [[(everything, 1.0), (tuple(j for j in everything if j != i), -1.0)] for i in everything]


def part_names(n_sets: int) -> list[tuple[int, ...]]:
    """Names of the parts of the variance that several sets of predictors explain.

    Parameters
    ----------
    n_sets : int

    Returns
    -------
    list of tuple of int
        Sets that share each part: by their number, then in order. ``[(0,), (1,), (0, 1)]`` for two sets.
    """
    return [part for size in range(1, n_sets + 1) for part in combinations(range(n_sets), size)]


def variance_parts(basis: Basis) -> LinearStatistic:
    """Unique and shared variance of any number of sets, in the order of `part_names`.

    The part that exactly the sets T share follows from inclusion-exclusion over the adjusted R2, V, of unions of sets:
    the sum over all subsets U of T of ``(-1)**(|U| + 1) V(U and all sets outside T)``. The parts add up to the total.
    Shared parts may be negative (suppression).

    Parameters
    ----------
    basis : Basis

    Returns
    -------
    LinearStatistic
        One statistic per part.

    References
    ----------
    Nimon & Reio 2011, Hum Resour Dev Rev 10:329 (commonality analysis), for any number of sets.
    """
    return linear_statistic(basis, _part_terms(basis.n_sets))


def own_and_parts(basis: Basis) -> LinearStatistic:
    """Adjusted R2 of every set of predictors by itself, then unique and shared variance as from `variance_parts`.

    Parameters
    ----------
    basis : Basis

    Returns
    -------
    LinearStatistic
        One statistic per set, and one per part.
    """
    n_sets = basis.n_sets
    return linear_statistic(basis, [*([((i,), 1.0)] for i in range(n_sets)), *_part_terms(n_sets)])


def _part_terms(n_sets: int) -> list[list[tuple[Sequence[int], float]]]:
    terms: list[list[tuple[Sequence[int], float]]] = []
    for part in part_names(n_sets):
        outside = [i for i in range(n_sets) if i not in part]
        unions = [u for size in range(len(part) + 1) for u in combinations(part, size)]
        terms.append([(tuple(sorted((*u, *outside))), -((-1.0) ** len(u))) for u in unions])
    return terms
