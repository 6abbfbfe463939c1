"""Matrix products in float32 on the CPU, by whichever library is fastest on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Matmul = Callable[[Any, Any], Any]


def available_matmuls() -> list[Matmul]:
    """Ways to compute ``a @ b.T`` in float32 on the CPU.

    Torch multiplies with MKL, which is slow on processors of other makers; where its oneDNN operator is there, that one
    is up to twice as fast on them.

    Returns
    -------
    list of callable
        Each takes two tensors of float32, (n, k) and (m, k), and returns one of shape (n, m).
    """
    import torch

    has_linear = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return [_by_torch, _by_onednn] if has_linear else [_by_torch]


def _by_torch(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a @ b.T


def _by_onednn(a: torch.Tensor, b: torch.Tensor) -> Any:
    import torch

    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


# The fastest, for some ways, threads and sizes: a trial takes as long as forty permutations.
_fastest_known: dict[tuple[Any, ...], Matmul] = {}


def fastest_matmul(a: torch.Tensor, b: torch.Tensor) -> Matmul:
    """The fastest of `available_matmuls` on this machine, by a trial of each, once per process, threads and shape.

    Parameters
    ----------
    a, b : tensor of float32, shapes (n, k) and (m, k)
        Some of their rows are multiplied. Rows are about of unit length: one way that differs from the first by 1e-4 or
        more is not taken.

    Returns
    -------
    callable
    """
    import torch

    a, b = a[:512], b[:2048]
    key = (*available_matmuls(), torch.get_num_threads(), a.shape, b.shape)
    if key not in _fastest_known:
        _fastest_known[key] = _fastest(a, b)
    return _fastest_known[key]


def _fastest(a: torch.Tensor, b: torch.Tensor) -> Matmul:
    ways = available_matmuls()
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
