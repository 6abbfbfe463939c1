"""How much of a place's RDM any model could explain, given that people differ."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

_CHUNK_BYTES = 16 * 2**20
_PLACES_PER_THREAD = 8


def noise_ceiling(
    subject_rdms: NDArray, progress: Callable[[int, int], None] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper noise ceiling, as mean Spearman correlations over subjects.

    Upper: each subject with the mean of all subjects, itself included. Lower: each subject with the mean of the
    others. Both are correlations; square them before they share an axis with R2.

    Parameters
    ----------
    subject_rdms : ndarray, shape (n_subjects, n_places, n_pairs)
        Condensed RDMs, any float dtype; may be memory-mapped, as it is read a block of places at a time.
    progress : callable, optional
        Called with (places done, places in all) after each block.

    Returns
    -------
    lower, upper : ndarray of float64, shape (n_places,)
        NaN where the RDM of a subject holds NaN or is constant.

    Raises
    ------
    ValueError
        If there are fewer than two subjects, for whom no ceiling exists.

    References
    ----------
    Nili et al. 2014, PLOS Comput Biol 10:e1003553 (there with other rank correlations); Spearman as in the code of
    Dwivedi et al. 2021.
    """
    from utils import compiled

    n_subjects, n_places, n_pairs = subject_rdms.shape
    if n_subjects < 2:
        raise ValueError(f"a noise ceiling needs at least 2 subjects, got {n_subjects}")
    lower, upper = np.empty(n_places), np.empty(n_places)
    step = max(1, _CHUNK_BYTES // (8 * n_subjects * n_pairs))
    for start in range(0, n_places, step):
        places = slice(start, start + step)
        block = compiled.plain(subject_rdms[:, places])
        bounds = partial(compiled.ceilings, block, lower[places], upper[places])
        compiled.in_threads(bounds, block.shape[1], _PLACES_PER_THREAD)
        if progress is not None:
            progress(min(start + step, n_places), n_places)
    return lower, upper


def ceiling_as_r2(ceiling: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared ceiling, comparable with R2; a negative correlation leaves nothing to explain and becomes 0."""
    return np.square(np.clip(ceiling, 0.0, None))
