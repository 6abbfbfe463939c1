"""How much of a place's RDM any model could explain, given that people differ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_CHUNK_BYTES = 64 * 2**20


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

    Raises
    ------
    ValueError
        If there are fewer than two subjects, for whom no ceiling exists.

    References
    ----------
    Nili et al. 2014, PLOS Comput Biol 10:e1003553 (there with other rank correlations); Spearman as in the code of
    Dwivedi et al. 2021.
    """
    n_subjects, n_places, n_pairs = subject_rdms.shape
    if n_subjects < 2:
        raise ValueError(f"a noise ceiling needs at least 2 subjects, got {n_subjects}")
    lower, upper = np.empty(n_places), np.empty(n_places)
    step = max(1, _CHUNK_BYTES // (8 * n_subjects * n_pairs))
    for start in range(0, n_places, step):
        places = slice(start, start + step)
        block = np.asarray(subject_rdms[:, places], dtype=np.float64)
        total = block.sum(axis=0)
        subjects = _unit_ranks(block)
        others = _unit_ranks((total - block) / (n_subjects - 1))
        everyone = _unit_ranks(total / n_subjects)
        lower[places] = np.einsum("spq,spq->sp", subjects, others).mean(axis=0)
        upper[places] = np.einsum("spq,pq->sp", subjects, everyone).mean(axis=0)
        if progress is not None:
            progress(min(start + step, n_places), n_places)
    return lower, upper


def ceiling_as_r2(ceiling: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared ceiling, comparable with R2; a negative correlation leaves nothing to explain and becomes 0."""
    return np.square(np.clip(ceiling, 0.0, None))


def _unit_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average ranks along the last axis, centred and scaled to unit length: their products are Spearman's rho."""
    n = values.shape[-1]
    order = np.argsort(values, axis=-1)
    ranks = np.empty_like(values)
    np.put_along_axis(ranks, order, np.arange(1.0, n + 1.0), axis=-1)
    ordered = np.take_along_axis(values, order, axis=-1)
    tied = (ordered[..., 1:] == ordered[..., :-1]).any(axis=-1)
    if tied.any():
        from scipy.stats import rankdata

        ranks[tied] = rankdata(values[tied], axis=-1)
    ranks -= (n + 1) / 2
    norm = np.linalg.norm(ranks, axis=-1, keepdims=True)
    return np.divide(ranks, norm, out=np.full_like(ranks, np.nan), where=norm > 0)
