"""What a computation may use, and how it reports its progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from utils.parallel.dask_workers import Workers

# Called with (steps done, steps in all).
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Resources:
    """Where and how to compute; none of it changes a result.

    Attributes
    ----------
    device : str
        Device of torch: "cpu", "cuda" or "cuda:0".
    workers : Workers, optional
        Processes of a Dask cluster that share the work, in place of `device`.
    progress : callable, optional
        Called with (steps done, steps in all).
    threads : int, optional
        Threads of this process; None for as many as its libraries use by themselves.
    """

    device: str = "cpu"
    workers: Workers | None = None
    progress: Progress | None = None
    threads: int | None = None
