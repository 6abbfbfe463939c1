"""The RDM of more patterns than fit into memory, from blocks of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.rdm import expand, pattern_rdms

# (rows, columns) -> activations (n_rows, n_columns) in float64, on the device that RDMs are computed on.
Reader = Callable[[NDArray[np.int64], slice], Any]

_CACHE_BYTES = 2**21


class Undefined(ValueError):
    """Patterns between which a dissimilarity is not defined.

    Attributes
    ----------
    what : str
    rows : list of int
        The images.
    finite : bool
        Whether the patterns are finite.
    """

    def __init__(self, what: str, rows: Sequence[int], finite: bool) -> None:
        super().__init__(what)
        self.what, self.rows, self.finite = what, list(rows), finite


def blockwise_rdm(
    read: Reader, shape: tuple[int, int], metric: str = "correlation", *, center: bool = False, memory: int = 2**29
) -> NDArray[np.float64]:
    """RDM of patterns that are read in parts, in float64, whatever precision they are kept in.

    Squared Euclidean distances add up over units. So do, therefore, the other metrics: the correlation distance is half
    the squared Euclidean distance between patterns with mean 0 and length 1, the cosine distance that between patterns
    of length 1. Parts are some units of all conditions, or of two blocks of conditions where these are many.

    Parameters
    ----------
    read : callable
        (array of conditions, slice of units) -> patterns of these, (n_rows, n_columns), a float64 tensor.
    shape : (int, int)
        Conditions, units.
    metric : str
        One of `utils.rdm.METRICS`. One that this function does not know how to build from parts is computed at once.
    center : bool
        Subtract the mean over conditions from every unit first.
    memory : int
        Bytes for what is computed with at a time; the RDM itself comes on top.

    Returns
    -------
    ndarray of float64, shape (n_conditions, n_conditions)

    Raises
    ------
    ValueError
        If a pattern is not finite, or the metric not defined for it (a constant pattern has no correlation).
    """
    n, n_units = shape
    if metric not in ("correlation", "cosine", "euclidean", "sqeuclidean"):
        whole = pattern_rdms(read(np.arange(n), slice(0, n_units)), metric, center=center)
        return np.asarray(expand(whole.cpu().numpy()))
    # Distances within m conditions take about six (m, m) arrays, and as many of (m, columns).
    n_blocks = 1
    while n_blocks < n and 6 * 8 * _pair_size(n, n_blocks) ** 2 > memory // 2:
        n_blocks += 1
    m = _pair_size(n, n_blocks)
    step = max(1, min(n_units, memory // (2 * 6 * 8 * m)))
    if read(np.arange(1), slice(0, 1)).device.type == "cpu":
        # Parts that stay in the cache, but not so small that summing up (m, m) arrays takes the time.
        step = min(step, max(_CACHE_BYTES // (8 * m), 4 * m))
    columns = [slice(start, min(start + step, n_units)) for start in range(0, n_units, step)]
    blocks = np.array_split(np.arange(n), n_blocks)
    average = [_mean_over_conditions(read, blocks, n, part) if center else 0.0 for part in columns]
    shift, scale = _standardisation(read, blocks, columns, average, n_units, metric)
    rdm = np.zeros((n, n))
    for i, first in enumerate(blocks):
        for second in blocks[i + 1 :] or ([first] if n_blocks == 1 else []):
            rows = np.union1d(first, second)
            squares: Any = 0.0
            for part, mean in zip(columns, average, strict=True):
                patterns = (read(rows, part) - mean - shift[rows]) * scale[rows]
                squares = squares + pattern_rdms(patterns, "sqeuclidean")
            distances = _from_squares(squares, metric).cpu().numpy()
            rdm[np.ix_(rows, rows)] = expand(distances)
    return rdm


def _pair_size(n: int, n_blocks: int) -> int:
    """Conditions in the two largest of `n_blocks` blocks."""
    return n if n_blocks == 1 else min(n, 2 * -(-n // n_blocks))


def _mean_over_conditions(read: Reader, blocks: Sequence[NDArray], n: int, part: slice) -> Any:
    total: Any = 0.0
    for rows in blocks:
        total = total + read(rows, part).sum(dim=0)
    return total / n


def _standardisation(
    read: Reader,
    blocks: Sequence[NDArray],
    columns: Sequence[slice],
    average: Sequence[Any],
    n_units: int,
    metric: str,
) -> tuple[Any, Any]:
    """What to subtract from each pattern, and what to multiply it with then; each (n_conditions, 1)."""
    import torch

    shifts, scales = [], []
    for rows in blocks:
        total: Any = 0.0
        squares: Any = 0.0
        size: Any = 0.0
        # Around a value of the pattern itself, sums lose no digits to a large mean, and constants give exactly 0.
        origin = read(rows, slice(0, 1)) - (average[0] if isinstance(average[0], float) else average[0][:1])
        if metric != "correlation":
            origin = torch.zeros_like(origin)
        for part, mean in zip(columns, average, strict=True):
            raw = read(rows, part)
            patterns = raw - mean - origin
            total = total + patterns.sum(dim=1, keepdim=True)
            squares = squares + torch.linalg.vector_norm(patterns, dim=1, keepdim=True) ** 2
            size = size + torch.linalg.vector_norm(raw, dim=1, keepdim=True) ** 2
        _require(torch.isfinite(size), rows, "activations are NaN or inf", finite=False)
        if metric == "correlation":
            squares = (squares - total**2 / n_units).clip(0)
            shifts.append(origin + total / n_units)
        else:
            shifts.append(origin)
        if metric in ("correlation", "cosine"):
            rounding = np.finfo(np.float64).eps ** 2 * n_units
            what = "activations are the same in all units" if metric == "correlation" else "activations are all 0"
            _require(squares > rounding * size, rows, what, finite=True)
            scales.append(squares**-0.5)
        else:
            scales.append(torch.ones_like(squares))
    return torch.cat(shifts), torch.cat(scales)


def _require(fine: Any, rows: NDArray, what: str, finite: bool) -> None:
    bad = rows[~fine[:, 0].cpu().numpy()]
    if bad.size:
        raise Undefined(what, bad.tolist(), finite)


def _from_squares(squares: Any, metric: str) -> Any:
    if metric == "sqeuclidean":
        return squares
    return squares**0.5 if metric == "euclidean" else (squares / 2).clip(0, 2)
