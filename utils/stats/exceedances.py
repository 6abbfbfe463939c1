"""What the permutation test counts: types that the CPU and the GPU share, and the exact check in float64.

`exceedances_cpu` and `exceedances_gpu` count how often null values reach observed ones. Both multiply in float32. Where
float32 cannot tell a null value from the observed one, `Exact` computes that single value again in float64, so that all
counts are those of float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray

from utils.rdm import Pairs, n_conditions_of, pair_permutation

UNIT_ROUNDOFF = float(np.finfo(np.float32).eps) / 2
Unit = Literal["conditions", "blocks", "entries"]
# Permutations that share a stream of random numbers: to start a stream takes as long as to draw ten permutations.
_PER_STREAM = 16
# To start threads takes longer than a few values do.
_ENTRIES_FOR_THREADS = 4096
# A permuted direction whose squared length outside of the other predictors is smaller than this adds nothing.
_SINGULAR = 1e-8


@dataclass(frozen=True)
class Permutations:
    """Random permutations number 0, 1, 2, ..., n - 1 of condensed RDMs.

    Attributes
    ----------
    n : int
    unit : {"conditions", "blocks", "entries"}
        Exchange conditions (Mantel 1967, Cancer Res 27:209); blocks of them as wholes, which then are of one size; or
        the entries of the RDM as if they were independent (as in the published code).
    seed : int
    blocks : tuple of int
        The block of each condition. If given, conditions are exchanged within blocks only, or blocks as wholes. With
        other conditions, blocks are where conditions are exchangeable (Winkler et al. 2015, NeuroImage 123:253).
    pairs : Pairs or None
        The pairs that count, if not all. Conditions are then exchanged only where this keeps these pairs, and, if there
        are blocks, within those; blocks as wholes have to be such that it does.
    """

    n: int
    unit: Unit = "conditions"
    seed: int = 0
    blocks: tuple[int, ...] = ()
    pairs: Pairs | None = None

    def orders(self, n_pairs: int, start: int, stop: int) -> NDArray[np.int64]:
        """Permutations of what is exchanged.

        Parameters
        ----------
        n_pairs : int
            Entries of a condensed RDM.
        start, stop : int
            Numbers of the first permutation, and of the one after the last.

        Returns
        -------
        ndarray of int64, shape (stop - start, n_conditions) or (stop - start, n_pairs)
            The same ones however the range is cut.
        """
        n_items = n_pairs if self.unit == "entries" else self._n_conditions(n_pairs)
        first = start // _PER_STREAM
        streams = [self._stream(number, n_items) for number in range(first, -(-stop // _PER_STREAM))]
        return np.concatenate(streams)[start - first * _PER_STREAM : stop - first * _PER_STREAM]

    def _stream(self, number: int, n_items: int) -> NDArray[np.int64]:
        """Orders of one stream, (_PER_STREAM, n_items)."""
        rng = np.random.default_rng([self.seed, number])
        if self.unit == "entries" or not (self.blocks or self.pairs):
            return rng.permuted(np.tile(np.arange(n_items), (_PER_STREAM, 1)), axis=1)
        orders = np.empty((_PER_STREAM, n_items), dtype=np.int64)
        members = self._members()
        if self.unit == "blocks":
            drawn = rng.permuted(np.tile(np.arange(len(members)), (_PER_STREAM, 1)), axis=1)
            orders[:, np.concatenate(members)] = np.stack(members)[drawn].reshape(_PER_STREAM, -1)
        else:
            for own in members:
                orders[:, own] = rng.permuted(np.tile(own, (_PER_STREAM, 1)), axis=1)
        return orders

    def _n_conditions(self, n_pairs: int) -> int:
        return n_conditions_of(n_pairs) if self.pairs is None else self.pairs.n_conditions

    def _members(self) -> list[NDArray[np.int64]]:
        """Conditions of each block, within which or between which they are exchanged."""
        blocks = np.array(self.blocks)
        if self.pairs is not None and self.unit == "conditions":
            classes = self.pairs.exchangeable
            both = classes[:, None] if not self.blocks else np.column_stack([blocks, classes])
            blocks = np.unique(both, axis=0, return_inverse=True)[1].ravel()
        return [np.flatnonzero(blocks == block) for block in np.unique(blocks)]

    def describe(self) -> str:
        """Everything that the permutations depend on but the number of pairs, as text."""
        kept = "" if self.pairs is None else np.packbits(self.pairs.kept).tobytes().hex()
        return f"{self.n} {self.unit} {self.seed} {self.blocks} {kept}"

    @property
    def n_distinct(self) -> float:
        """How many different permutations of the conditions there are; infinite where all can be exchanged."""
        if self.unit == "entries" or not (self.blocks or self.pairs):
            return math.inf
        sizes = [len(own) for own in self._members()]
        logs = [math.lgamma(len(sizes) + 1)] if self.unit == "blocks" else [math.lgamma(size + 1) for size in sizes]
        return math.exp(min(sum(logs), 700.0))

    def indices(self, n_pairs: int, start: int, stop: int) -> NDArray[np.int64]:
        """Indices, (stop - start, n_pairs), that permute a condensed RDM by the `orders` of the same numbers."""
        orders = self.orders(n_pairs, start, stop)
        if self.unit == "entries":
            return orders
        return pair_permutation(orders) if self.pairs is None else self.pairs.permutation(orders)


@dataclass(frozen=True)
class Contrasts:
    """Values to be counted, each a weighted sum of squared projections.

    Attributes
    ----------
    weights : ndarray of float64, shape (n_contrasts, n_directions)
    family : ndarray of int64, shape (n_contrasts,)
        0, 1, ..., in ascending order: contrasts whose largest value is of interest. At each location, too, the largest
        of family 0 is followed.
    signed : ndarray of bool, shape (n_contrasts,)
        Whether values are multiplied by the sign of the observed one.
    """

    weights: NDArray[np.float64]
    family: NDArray[np.int64]
    signed: NDArray[np.bool_]

    @property
    def n_families(self) -> int:
        """How many families there are."""
        return int(self.family.max()) + 1

    @property
    def n_first(self) -> int:
        """How many of the contrasts are of family 0; they come first."""
        return int((self.family == 0).sum())

    @cached_property
    def terms(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Weights that are not 0: start, direction, weight; contrast i has those from ``start[i]`` on."""
        row, direction = np.nonzero(self.weights)
        return np.searchsorted(row, np.arange(len(self.weights) + 1)), direction, self.weights[row, direction]

    @cached_property
    def rounding(self) -> float:
        """Relative error of the sum of a contrast's terms in float32.

        Higham 2002, Accuracy and Stability of Numerical Algorithms, eq. 4.4.
        """
        return UNIT_ROUNDOFF * (5 + int((self.weights != 0).sum(axis=1).max(initial=0)))


@dataclass(frozen=True)
class Given:
    """Directions that count only outside of the span of other predictors, which are not permuted.

    Attributes
    ----------
    directions : slice
        Rows of `NullPlan.rotation`.
    others : ndarray of float64, shape (rank of the person's basis, n_others)
        Orthonormal coordinates of the other predictors, orthogonal to the directions.
    person : int
        Whose predictors they are, where models differ between people.
    """

    directions: slice
    others: NDArray[np.float64]
    person: int = 0


@dataclass(frozen=True)
class NullPlan:
    """What is counted, whatever the locations.

    Where models differ between people, every vector is one person's and is projected on that person's RDMs only, in the
    same permutation for everyone; squares are summed over all of them.

    Attributes
    ----------
    basis : ndarray of float64, shape (rank, n_pairs)
        Orthonormal basis of all predictors; those of several people one after the other.
    ranks : tuple of int
        How many rows of the basis are of each person.
    rotation : ndarray of float64, shape (n_directions, rank)
        Coordinates of the directions whose projections are squared; orthonormal within each subset of the predictors.
        Those of several people one after the other, and 0 in the bases of others.
    given : tuple of Given
        Directions that are taken beside other predictors.
    contrasts : Contrasts
    permutations : Permutations
    sorted_thresholds : tuple of ndarray of float64
        For each family its thresholds at all locations, ascending: what the largest value of a permutation will be
        compared with.
    """

    basis: NDArray[np.float64]
    ranks: tuple[int, ...]
    rotation: NDArray[np.float64]
    given: tuple[Given, ...]
    contrasts: Contrasts
    permutations: Permutations
    sorted_thresholds: tuple[NDArray[np.float64], ...]

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        """Number of the person whose vector each row of `permuted` is, ascending."""
        of_basis = np.repeat(np.arange(len(self.ranks)), self.ranks)
        return of_basis if self.rotates_late else of_basis[np.abs(self.rotation).argmax(axis=1)]

    def of_people(self) -> list[slice]:
        """Rows of `permuted` of each person."""
        ends = np.searchsorted(self.owner, np.arange(len(self.ranks) + 1))
        return [slice(start, stop) for start, stop in pairwise(ends.tolist())]

    def project(self, responses: NDArray[np.float64]) -> NDArray[np.float64]:
        """Projections (rank, n_locations) of RDMs (n_people, n_locations, n_pairs) on the basis as it is."""
        ends = np.cumsum((0, *self.ranks)).tolist()
        rows = [slice(start, stop) for start, stop in pairwise(ends)]
        return np.concatenate([self.basis[own] @ rdms.T for own, rdms in zip(rows, responses, strict=True)])

    @cached_property
    def directions(self) -> NDArray[np.float64]:
        """The directions themselves, (n_directions, n_pairs)."""
        return self.rotation @ self.basis

    @property
    def rotates_late(self) -> bool:
        """Whether the basis is permuted, and the directions are found after projecting.

        This takes fewer products where subsets of the predictors overlap, as in variance partitioning, and is the only
        way where directions are taken beside other predictors.
        """
        return bool(self.given) or len(self.rotation) > len(self.basis)

    @property
    def permuted(self) -> NDArray[np.float64]:
        """What is permuted: the basis or the directions."""
        return self.basis if self.rotates_late else self.directions

    def rotations(self, permutations: NDArray[np.int64]) -> NDArray[np.float64]:
        """From projections to directions in each permutation.

        Parameters
        ----------
        permutations : ndarray of int64, shape (n, n_pairs)

        Returns
        -------
        ndarray of float64, shape (n or 1, n_directions, 2 rank)
            To be multiplied by the projections on the permuted basis, and below them those on the basis as it is. A
            single one where all are the same; none, (1, 0, 0), where projections are on the directions already.

        Notes
        -----
        Of a set of predictors beside others, the part outside of these, E = Q B, is permuted. What the others, Q_O = Q
        B_O, have of the permuted part is taken out again and the rest made orthonormal, so that the squared length of a
        projection is what the permuted part adds to the others. With M the products of the permuted with the present
        basis, and A = B' M B_O those of the permuted part with the others, the rest has the products I - A A'. Dekker
        et al. 2007, Psychometrika 72:563 (double semi-partialling).
        """
        if not self.rotates_late:
            return np.empty((1, 0, 0))
        rank, n = len(self.basis), len(permutations) if self.given else 1
        rotations = np.zeros((n, len(self.rotation), 2 * rank))
        rotations[:, :, :rank] = self.rotation
        people = self.of_people()
        products = [self._products(rows, permutations) for rows in people] if self.given else []
        for given in self.given:
            rows, moved = people[given.person], products[given.person]
            own = self.rotation[given.directions, rows]
            overlap = own @ moved @ given.others
            values, vectors = np.linalg.eigh(np.eye(len(own)) - overlap @ overlap.swapaxes(1, 2))
            kept = values > _SINGULAR
            root = (vectors * (kept / np.sqrt(np.where(kept, values, 1.0)))[:, None]).swapaxes(1, 2)
            rotations[:, given.directions, rows] = root @ own
            rotations[:, given.directions, rank + rows.start : rank + rows.stop] = -root @ overlap @ given.others.T
        return rotations

    def _products(self, rows: slice, permutations: NDArray[np.int64]) -> NDArray[np.float64]:
        """Of some rows of the basis, permuted, with the same rows as they are: (n, n_rows, n_rows)."""
        basis = self.basis[rows]
        moved = permute(basis, permutations)
        products = moved.reshape(-1, moved.shape[2]) @ basis.T
        return products.reshape(len(basis), len(permutations), len(basis)).swapaxes(0, 1)

    def errors(self, rotations: NDArray[np.float64]) -> NDArray[np.float64]:
        """Error of a direction's projection in float32, for each of `rotations`; see `error`."""
        if not rotations.size:
            return np.array([self.error])
        length = np.sqrt(np.square(rotations).sum(axis=2)).max(axis=1)
        return length * (self.error + UNIT_ROUNDOFF * (2 + 2 * max(self.ranks)) / np.sqrt(len(self.ranks)))

    @property
    def error(self) -> float:
        """Error of a projection in float32.

        For a sum of n products of unit vectors it grows as sqrt(n) (Higham & Mary 2019, SIAM J Sci Comput 41:A2815).
        What is met in practice is several times smaller. RDMs of several people are of unit length together.
        """
        return UNIT_ROUNDOFF * float(np.sqrt(self.basis.shape[1] / len(self.ranks)))


@dataclass(frozen=True)
class Targets:
    """Brain RDMs of some locations, and what null values have to reach there.

    Attributes
    ----------
    responses : ndarray of float64, shape (n_people, n_locations, n_pairs)
        Standardised brain RDMs: the mean RDM, as that of one person, or those of all people with models of their own,
        divided by the root of the number of people.
    thresholds : ndarray of float64, shape (n_contrasts, n_locations)
        A null value counts if it is at least the threshold.
    scale, offset : ndarray of float64, shape (n_contrasts, n_locations)
        A value is `scale` times the weighted sum of squares, plus `offset`; the scale is above 0 for those that are not
        signed, and holds the sign for those that are.
    """

    responses: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]

    def __len__(self) -> int:
        return self.responses.shape[1]

    def chunks(self, size: int) -> Iterator[Targets]:
        """All locations, in chunks of about the same length and at most `size`."""
        for chosen in np.array_split(np.arange(len(self)), -(-len(self) // size)):
            here = slice(chosen[0], chosen[-1] + 1)
            yield Targets(self.responses[:, here], self.thresholds[:, here], self.scale[:, here], self.offset[:, here])


@dataclass(frozen=True)
class Counts:
    """How many null values reached their thresholds.

    Attributes
    ----------
    count : ndarray of int64, shape (n_contrasts, n_locations)
    best : ndarray of int64, shape (n_locations,)
        How often the largest of family 0 reaches the largest of its thresholds.
    largest : ndarray of float64, shape (n_families, n_permutations)
        Largest value of each family over all locations: right up to where it lies among all thresholds.
    """

    count: NDArray[np.int64]
    best: NDArray[np.int64]
    largest: NDArray[np.float64]

    @classmethod
    def over_locations(cls, parts: Sequence[Counts]) -> Counts:
        """Counts of the same permutations at several chunks of locations, as one."""
        return cls(
            np.concatenate([part.count for part in parts], axis=1),
            np.concatenate([part.best for part in parts]),
            np.maximum.reduce([part.largest for part in parts]),
        )


def permute(vectors: NDArray, permutations: NDArray[np.int64]) -> NDArray:
    """Vectors in all orders, some twenty times as fast as indexing of numpy or torch.

    Parameters
    ----------
    vectors : ndarray, shape (n_vectors, n_pairs)
    permutations : ndarray of int64, shape (n, n_pairs)

    Returns
    -------
    ndarray, shape (n_vectors, n, n_pairs)
        Of the same dtype.
    """
    result = np.empty((len(vectors), *permutations.shape), dtype=vectors.dtype)
    _permute(np.ascontiguousarray(vectors), permutations, result)
    return result


@numba.njit(parallel=True, cache=True)
def _permute(vectors, permutations, result):
    for p in numba.prange(len(permutations)):
        for v in range(len(vectors)):
            for k in range(permutations.shape[1]):
                result[v, p, k] = vectors[v, permutations[p, k]]


class Exact:
    """Single values in float64, for what float32 leaves open.

    An entry is (permutation, contrast, location); the contrast numbered n_contrasts stands for the largest of family 0.

    Parameters
    ----------
    plan : NullPlan
    targets : Targets

    Attributes
    ----------
    best_threshold : ndarray of float64, shape (n_locations,)
        Largest threshold of family 0.
    """

    def __init__(self, plan: NullPlan, targets: Targets) -> None:
        self._plan, self._targets = plan, targets
        self.best_threshold = targets.thresholds[: plan.contrasts.n_first].max(axis=0)
        responses = np.ascontiguousarray(targets.responses)
        self._operands = (
            np.ascontiguousarray(plan.permuted), plan.owner, responses, np.ascontiguousarray(plan.project(responses).T),
            *plan.contrasts.terms, targets.scale, targets.offset, plan.contrasts.n_first,
        )  # fmt: skip

    def values(
        self, entries: NDArray[np.int64], permutations: NDArray[np.int64], rotations: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Values of `entries`, (n_entries, 3), whose permutations are rows of `permutations`, (n, n_pairs)."""
        compute = _values if len(entries) < _ENTRIES_FOR_THREADS else _values_in_threads
        return compute(entries, permutations, rotations, self._operands)

    def recheck_in_float64(
        self,
        doubtful: NDArray[np.int64],
        permutations: NDArray[np.int64],
        rotations: NDArray[np.float64],
        count: NDArray[np.int64],
        best: NDArray[np.int64],
    ) -> None:
        """Add those doubtful entries to the counts that do reach their thresholds.

        Parameters
        ----------
        doubtful : ndarray of int64, shape (n_entries, 3)
        permutations : ndarray of int64, shape (n, n_pairs)
        rotations : ndarray of float64
            `NullPlan.rotations` of these permutations.
        count, best : ndarray of int64, shapes (n_contrasts, n_locations) and (n_locations,)
            Changed in place.
        """
        values = self.values(doubtful, permutations, rotations)
        contrast, location = doubtful[:, 1], doubtful[:, 2]
        is_best = contrast == len(count)
        own = self._targets.thresholds[np.where(is_best, 0, contrast), location]
        reached = values >= np.where(is_best, self.best_threshold[location], own)
        np.add.at(count, (contrast[~is_best & reached], location[~is_best & reached]), 1)
        np.add.at(best, location[is_best & reached], 1)

    def is_open(self, largest: NDArray[np.float64], error: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether rounding could move the largest values, (n_families, n), of permutations across a threshold."""
        return np.stack(
            [
                np.searchsorted(thresholds, value - e) != np.searchsorted(thresholds, value + e, side="right")
                for thresholds, value, e in zip(self._plan.sorted_thresholds, largest, error, strict=True)
            ]
        )


@numba.njit(cache=True)
def _values(entries, permutations, rotations, operands):
    result = np.empty(len(entries))
    for i in range(len(entries)):
        result[i] = _value(entries[i], permutations, rotations, *operands)
    return result


@numba.njit(parallel=True, cache=True)
def _values_in_threads(entries, permutations, rotations, operands):
    result = np.empty(len(entries))
    for i in numba.prange(len(entries)):
        result[i] = _value(entries[i], permutations, rotations, *operands)
    return result


@numba.njit(cache=True)
def _value(
    entry, permutations, rotations, permuted, owner, responses, unpermuted, start, direction, weight, scale, offset,
    n_first,
):  # fmt: skip
    p, contrast, location = entry[0], entry[1], entry[2]
    first, last = (0, n_first) if contrast == len(scale) else (contrast, contrast + 1)
    rank, n_rotated = len(permuted), rotations.shape[1]
    rotation = rotations[p if len(rotations) > 1 else 0]
    projected, known = np.empty(rank), np.zeros(rank, np.bool_)
    if n_rotated:
        for k in range(rank):
            projected[k] = _projection(permuted[k], permutations[p], responses[owner[k], location])
    largest = -np.inf
    for r in range(first, last):
        value = 0.0
        for t in range(start[r], start[r + 1]):
            d = direction[t]
            if d < n_rotated:
                total = 0.0
                for k in range(rank):
                    total += rotation[d, k] * projected[k] + rotation[d, rank + k] * unpermuted[location, k]
            elif n_rotated:
                total = projected[d - n_rotated]
            else:
                if not known[d]:
                    response = responses[owner[d], location]
                    projected[d], known[d] = _projection(permuted[d], permutations[p], response), True
                total = projected[d]
            value += weight[t] * total * total
        largest = max(largest, scale[r, location] * value + offset[r, location])
    return largest


@numba.njit(cache=True)
def _projection(vector, permutation, response):
    total = 0.0
    for k in range(permutation.size):
        total += vector[permutation[k]] * response[k]
    return total
