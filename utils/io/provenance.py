"""What a run was computed from, and with what."""

from __future__ import annotations

import hashlib
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils import __version__

_PACKAGES = (
    "numpy",
    "scipy",
    "torch",
    "torchvision",
    "pillow",
    "numba",
    "distributed",
    "nilearn",
    "nibabel",
    "pandas",
    "matplotlib",
)


def fingerprint(*arrays: NDArray) -> str:
    """BLAKE2 digest of arrays, shapes and types included: which data a result comes from.

    Parameters
    ----------
    *arrays : ndarray

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def provenance(
    figure: str, options: Mapping[str, Any], data: Mapping[str, Any], device: str, started: float
) -> dict[str, Any]:
    """Describe a run so that a reader can repeat it: command, options, data, versions, device, time taken.

    Parameters
    ----------
    figure : str
        What was made: a figure, or what a command writes.
    options : mapping
        All options with the values used.
    data : mapping
        Where the data lie, their size and fingerprint, and whether they are simulated.
    device : str
    started : float
        `time.time()` at the start of the run.

    Returns
    -------
    dict
        What can be written as JSON.
    """
    versions = {}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "figure": figure,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "options": {key: _plain(value) for key, value in options.items()},
        "data": dict(data),
        "device": device,
        "versions": {"dnn2brain": __version__, "python": platform.python_version(), **versions},
        "system": platform.platform(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(time.time() - started, 2),
    }


def _plain(value: Any) -> Any:
    """Paths, and those in lists, as text."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
