"""Does each of the chosen models add something to the others, given that it was chosen among many?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils.io.interim import identity
from utils.parallel.resources import Progress, Resources, ignore
from utils.stats.exceedances import Permutations, permute
from utils.stats.permutation import outside
from utils.stats.regression import Bases, Basis, each_person, standardise

# Two values whose ratio is this close to 1 are equal but for rounding.
_TIE = 1e-9
_BLOCK_BYTES = 20 * 2**20


@dataclass(frozen=True)
class StepwiseTest:
    """Outcome of `stepwise_test`.

    Attributes
    ----------
    f : ndarray of float64, shape (n_chosen, n_locations)
        F of what each chosen model adds to the other chosen ones.
    p, p_max : ndarray of float64, shape (n_chosen, n_locations)
        p values, and the same corrected for all ranks and locations by the maximum statistic.
    """

    f: NDArray[np.float64]
    p: NDArray[np.float64]
    p_max: NDArray[np.float64]


def stepwise_test(
    basis: Bases,
    chosen: NDArray[np.int64],
    rdms: ArrayLike,
    permutations: Permutations,
    progress: Progress = ignore,
    resources: Resources = Resources(),
) -> StepwiseTest:
    """Test what each chosen model adds to the other chosen ones, against the most that any model adds by chance.

    For every location and every chosen model, what the others leave unexplained of the brain RDM is permuted (Freedman
    & Lane 1983, J Bus Econ Stat 1:292), and the largest F of all models that are not among these others is taken. Since
    the best of many models adds something by chance, this and not the model's own F is what it has to reach. A test
    that merely repeats the choice in every permutation of everything is valid only where no model at all is related to
    the brain: the second rank is then held against the second best of chance, though it is the best of those left.

    Where models differ between people, F is that of all people's regressions together: sums of squares and degrees of
    freedom are summed over people.

    Parameters
    ----------
    basis : Basis, or sequence of Basis
        Of all models, of each person's own; what is given is among the others of each.
    chosen : ndarray of int, shape (n_chosen, n_locations)
        Models of each location.
    rdms : array_like, shape (n_locations, n_pairs) or (n_people, n_locations, n_pairs)
        Condensed brain RDMs, in the form in which they are compared; for models that differ, those of every person.
    permutations : Permutations
    progress : callable, optional
        Called with (permutations done, permutations in all).
    resources : Resources
        Of which only `interim` is used.

    Returns
    -------
    StepwiseTest
    """
    bases, rdms = each_person(basis, rdms)
    people = [_Person.of(own, chosen, responses) for own, responses in zip(bases, standardise(rdms), strict=True)]
    tests, candidates = _F([person.steps for person in people]), [step.candidate for step in people[0].steps]
    n_steps, n_pairs = len(candidates), bases[0].n_pairs
    as_it_is = reduce(np.add, [person.squares(person.q[:, None]) for person in people])
    observed = tests(as_it_is)[np.arange(n_steps), candidates, 0]
    threshold = observed * (1 - _TIE)
    tally = resources.interim.tally(
        lambda: identity(
            f"stepwise {permutations.describe()}",
            brain_RDMs=tuple(person.residuals for person in people),
            model_RDMs=tuple(array for person in people for array in (person.q, person.axes)),
        ),
        count=np.zeros(n_steps, dtype=np.int64),
        largest=np.empty(permutations.n),
        done=np.zeros(permutations.n, dtype=np.int32),
    )
    count, largest, done = (tally.arrays[name] for name in ("count", "largest", "done"))
    size = max(1, _BLOCK_BYTES // (8 * people[0].q.size))
    with tally:
        for start in range(int(done.sum()), permutations.n, size):
            stop = min(start + size, permutations.n)
            orders = permutations.indices(n_pairs, start, stop)
            best = tests(reduce(np.add, (person.squares(permute(person.q, orders)) for person in people))).max(axis=1)
            with tally.changes():
                count += (best >= threshold[:, None]).sum(axis=1)
                largest[start:stop] = best.max(axis=0)
                done[start:stop] = 1
            progress(stop, permutations.n)
    at_least = permutations.n - np.searchsorted(np.sort(largest), threshold)
    p, p_max = (np.asarray((1.0 + k) / (1.0 + permutations.n)).reshape(chosen.shape) for k in (count, at_least))
    return StepwiseTest(observed.reshape(chosen.shape), p, p_max)


@dataclass(frozen=True)
class _Person:
    """All steps of one person's RDMs, or of the mean RDMs: their axes and, as columns, the residuals to be permuted."""

    steps: list[_Step]
    axes: NDArray[np.float64]
    residuals: NDArray[np.float64]
    q: NDArray[np.float64]

    @classmethod
    def of(cls, basis: Basis, chosen: NDArray[np.int64], responses: NDArray[np.float64]) -> _Person:
        steps = [_Step(basis, chosen[:, i], k, y) for k in range(len(chosen)) for i, y in enumerate(responses)]
        residuals = np.ascontiguousarray(np.stack([step.residual for step in steps]).T)
        return cls(steps, np.stack([step.axes for step in steps]), residuals, np.ascontiguousarray(basis.q.T))

    def squares(self, moved: NDArray[np.float64]) -> NDArray[np.float64]:
        """Squared projections (n_steps, n_axes, n) of residuals on axes in the permuted basis, (rank, n, n_pairs)."""
        rank, n, n_pairs = moved.shape
        projected = (moved.reshape(-1, n_pairs) @ self.residuals).reshape(rank, n, -1)
        return np.square(self.axes @ projected.transpose(2, 0, 1))


class _Step:
    """One chosen model of one location: the others chosen there, and what every remaining model adds to them."""

    def __init__(self, basis: Basis, chosen: NDArray[np.int64], k: int, response: NDArray[np.float64]) -> None:
        others = np.delete(chosen, k)
        given = basis.subset([*others, *basis.given])
        rest = [j for j in range(basis.n_sets) if j not in others]
        added = [outside(basis.coordinates[j], given) for j in rest]
        self.candidate = rest.index(chosen[k])
        self.n_given, self.ranks = given.shape[1], [own.shape[1] for own in added]
        self.width = max(c.shape[1] for c in basis.coordinates[: basis.n_sets])
        self.residual = response - basis.q @ (given @ (given.T @ (basis.q.T @ response)))
        self.size, self.n_pairs = self.residual @ self.residual, basis.n_pairs
        # Axes of the others, then of each candidate; 0 where there are fewer than there is room for.
        n_given = self.width * len(others) + sum(basis.coordinates[j].shape[1] for j in basis.given)
        self.n_room = n_given
        self.axes = np.zeros((n_given + self.width * len(rest), basis.q.shape[1]))
        self.axes[: self.n_given] = given.T
        for j, own in enumerate(added):
            start = n_given + j * self.width
            self.axes[start : start + own.shape[1]] = own.T


class _F:
    """F of every candidate of every step, from squared projections on the steps' axes, summed over people."""

    def __init__(self, people: Sequence[Sequence[_Step]]) -> None:
        first = people[0][0]
        self._width, self._n_given = first.width, first.n_room
        steps = [[*same] for same in zip(*people, strict=True)]
        self._size = np.array([sum(step.size for step in same) for same in steps])[:, None]
        ranks = np.array([np.sum([step.ranks for step in same], axis=0) for same in steps])
        left = np.array([sum(step.n_pairs - 1 - step.n_given for step in same) for same in steps])[:, None] - ranks
        # A candidate within the span of the others adds nothing.
        self._degrees = np.where(ranks > 0, left / np.maximum(ranks, 1), 0.0)[:, :, None]

    def __call__(self, squares: NDArray[np.float64]) -> NDArray[np.float64]:
        """F (n_steps, n_candidates, n) from squared projections (n_steps, n_axes, n)."""
        rest = self._size - squares[:, : self._n_given].sum(axis=1)
        own = squares[:, self._n_given :]
        added = own.reshape(len(own), -1, self._width, own.shape[2]).sum(axis=2)
        return added / (rest[:, None] - added) * self._degrees
