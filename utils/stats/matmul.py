"""Matrix products in float32 on the CPU, by whichever library is fastest on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Product = Callable[[Any, Any], Any]


def products() -> list[Product]:
    """Ways to compute ``a @ b.T`` in float32 on the CPU, for matrices of equal row length.

    Torch multiplies with MKL, which is slow on processors of other makers; where its oneDNN operator is there, that one
    is up to twice as fast on them.
    """
    import torch

    has_linear = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return [_by_torch, _by_onednn] if has_linear else [_by_torch]


def _by_torch(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a @ b.T


def _by_onednn(a: torch.Tensor, b: torch.Tensor) -> Any:
    import torch

    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


# What was found to be the fastest, for some ways, threads and sizes: a trial takes as long as forty permutations.
_known: dict[tuple[Any, ...], Product] = {}


def fastest_product(a: torch.Tensor, b: torch.Tensor) -> Product:
    """The fastest of `products` on this machine, by trying each on some rows of `a` and `b`, once per process."""
    import torch

    a, b = a[:512], b[:2048]
    key = (*products(), torch.get_num_threads(), a.shape, b.shape)
    if key not in _known:
        _known[key] = _fastest(a, b)
    return _known[key]


def _fastest(a: torch.Tensor, b: torch.Tensor) -> Product:
    ways = products()
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
