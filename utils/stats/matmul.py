"""Matrix products in float32 on the CPU, by whichever library is fastest on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
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


def fastest_matmul(a: torch.Tensor, b: torch.Tensor) -> Matmul:
    """The fastest of `available_matmuls` on this machine, by a trial of each, once per process, threads and shape.

    Parameters
    ----------
    a, b : tensor of float32, shapes (n, k) and (m, k)
        Matrices to be multiplied.

    Returns
    -------
    callable
    """
    import torch

    return _fastest(
        tuple(available_matmuls()), torch.get_num_threads(), min(len(a), 512), min(len(b), 2048), a.shape[1]
    )


@cache  # a trial takes as long as forty permutations
def _fastest(ways: tuple[Matmul, ...], n_threads: int, n: int, m: int, k: int) -> Matmul:
    import torch

    a, b = (torch.nn.functional.normalize(torch.rand(rows, k) - 0.5, dim=1) for rows in (n, m))
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
