"""Random permutations that are the same wherever, and in whatever pieces, they are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from utils.rdm import n_conditions_of, pair_permutation

Unit = Literal["conditions", "entries"]

# Permutations that share a stream of random numbers: to start a stream takes as long as to draw ten permutations.
_PER_STREAM = 16


@dataclass(frozen=True)
class Draws:
    """Permutations number 0, 1, 2, ... of condensed RDMs.

    Attributes
    ----------
    n_pairs : int
        Entries of a condensed RDM.
    unit : {"conditions", "entries"}
        Exchange conditions (Mantel 1967, Cancer Res 27:209), or the entries of the RDM as if they were independent
        (as in the published code).
    seed : int
    """

    n_pairs: int
    unit: Unit
    seed: int

    @property
    def n_items(self) -> int:
        """How many things are exchanged."""
        return n_conditions_of(self.n_pairs) if self.unit == "conditions" else self.n_pairs

    def orders(self, start: int, stop: int) -> NDArray[np.int64]:
        """Permutations number `start` to `stop` - 1 of the items, shape (stop - start, n_items)."""
        first = start // _PER_STREAM
        items = np.tile(np.arange(self.n_items), (_PER_STREAM, 1))
        streams = [
            np.random.default_rng([self.seed, stream]).permuted(items, axis=1)
            for stream in range(first, -(-stop // _PER_STREAM))
        ]
        return np.concatenate(streams)[start - first * _PER_STREAM : stop - first * _PER_STREAM]

    def indices(self, orders: NDArray[np.int64]) -> NDArray[np.int64]:
        """What permutations of the items do to a condensed RDM.

        Parameters
        ----------
        orders : ndarray of int64, shape (n, n_items)

        Returns
        -------
        ndarray of int64, shape (n, n_pairs)
            Row i: indices into a condensed RDM that give the permuted one.
        """
        return orders if self.unit == "entries" else pair_permutation(orders)
