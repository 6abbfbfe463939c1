"""What a computation may use, and how it reports its progress."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from utils.io.interim import Interim

if TYPE_CHECKING:
    from utils.parallel.dask_workers import Workers

# Called with (steps done, steps in all).
Progress = Callable[[int, int], None]


def ignore(done: int, total: int) -> None:
    """Progress that is reported to nobody."""


def silent(title: str) -> AbstractContextManager[Progress]:
    """Progress of a long step that is reported to nobody."""
    return nullcontext(ignore)


@dataclass(frozen=True)
class Resources:
    """Where and how to compute; none of it changes a result.

    Attributes
    ----------
    device : str
        Device of torch: "cpu" or "cuda".
    workers : Workers, optional
        Processes of a Dask cluster that share the work, in place of `device`.
    progress : callable
        Takes the title of a long step, and returns a context manager for the time of the step, which yields a
        function of (steps done, steps in all).
    interim : Interim
        Where tests keep what they have counted; by default nowhere.
    """

    device: str = "cpu"
    workers: Workers | None = None
    progress: Callable[[str], AbstractContextManager[Progress]] = silent
    interim: Interim = field(default_factory=Interim)
