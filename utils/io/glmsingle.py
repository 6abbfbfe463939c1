"""Outputs of GLMsingle: single-trial betas, and the order of the conditions in its design.

References
----------
Prince et al. 2022, eLife 11:e77599.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.io.pickled_arrays import read_pickled_array
from utils.io.readers import read_mat, readable

# From the last to the first of its models.
_MODELS = ("TYPED_FITHRF_GLMDENOISE_RR", "TYPEC_FITHRF_GLMDENOISE", "TYPEB_FITHRF")
_SUFFIXES = (".npy", ".mat", ".hdf5", ".h5")
_BETAS = ("betasmd", "modelmd")  # in Python, in MATLAB


def is_output(path: Path) -> bool:
    """Whether a file holds single-trial betas of GLMsingle, by its name."""
    return path.suffix in _SUFFIXES and path.stem in _MODELS


def betas_in(folder: Path) -> Path | None:
    """File with the betas of the last model that there is, or None."""
    paths = (folder / f"{model}{suffix}" for model in _MODELS for suffix in _SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def read_values(path: Path) -> Any:
    """Single-trial betas, array-like of shape (X, Y, Z, n_trials).

    Raises
    ------
    InputError
        If the file has no such array.
    """
    if path.suffix == ".npy":
        content = read_pickled_array(path)
        values = content.get("betasmd") if isinstance(content, dict) else None
        if values is None:
            raise InputError(f"{path}: holds no 'betasmd', expected the single-trial betas of GLMsingle")
    elif path.suffix == ".mat":
        values = read_mat(path, [*_BETAS, *(f"results.{name}" for name in _BETAS)])
    else:
        import h5py

        with readable(path, "HDF5 file"), h5py.File(path, "r") as file:
            name = next((name for name in _BETAS if name in file), "")
            if not name:
                raise InputError(f"{path}: holds {', '.join(file) or 'nothing'}, expected 'betasmd'")
            values = file[name][()]
    values = np.asarray(values)
    if values.ndim != 4:
        raise InputError(
            f"{path}: betas have shape {values.shape}, expected (X, Y, Z, trials): GLMsingle must be run on "
            "volumes, not on vectors of voxels"
        )
    return values


def read_design(folder: Path) -> tuple[NDArray[np.int64] | None, list[int]]:
    """Condition of each trial, and the number of trials in each run.

    Parameters
    ----------
    folder : Path
        With DESIGNINFO.npy or DESIGNINFO.mat.

    Returns
    -------
    order : ndarray of int64, shape (n_trials,), or None
        Number of the condition, counted from 1; None where there is no design.
    per_run : list of int
        Empty where the design does not say it.

    Raises
    ------
    InputError
        If a file is there and has no design.
    """
    python, matlab = folder / "DESIGNINFO.npy", folder / "DESIGNINFO.mat"
    if python.is_file():
        content = read_pickled_array(python)
        if not isinstance(content, dict) or "stimorder" not in content:
            raise InputError(f"{python}: holds no 'stimorder', expected the design of GLMsingle")
        order = np.asarray(content["stimorder"]).ravel() + 1
        per_run: Any = content.get("numtrialrun", [])
    elif matlab.is_file():
        order = np.asarray(read_mat(matlab, ["stimorder"])).ravel()
        try:
            per_run = read_mat(matlab, ["numtrialrun"])
        except InputError:
            per_run = []
    else:
        return None, []
    return order.astype(np.int64), [int(n) for n in np.ravel(per_run)]
