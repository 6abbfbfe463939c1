"""The data folder: where things lie, how they are read, and what is checked before any number is computed.

Two layouts are read, the published release's and a generic one (data/README.md describes both).
"""

from __future__ import annotations

import csv
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils import InputError


def read_roi_labels(path: Path) -> list[tuple[int, str]]:
    """Read the ROI table: CSV with columns id and roi; blanks around names are stripped.

    Raises
    ------
    InputError
        If a column is missing, an id is no positive whole number, or an id or name stands twice.
    """
    table = []
    for row in read_table(path, ",", ("id", "roi")):
        if not row["id"].isdigit() or int(row["id"]) == 0:
            raise InputError(f"{path}: ROI {row['roi']} has id '{row['id']}', expected a whole number from 1 on")
        table.append((int(row["id"]), row["roi"]))
    for column in zip(*table, strict=True):
        doubled = sorted({str(value) for value in column if column.count(value) > 1})
        if doubled:
            raise InputError(f"{path}: {', '.join(doubled)} stand(s) more than once; ids and names must be unique")
    return table


# Square RDMs that differ from their transpose by more than this share of their range are not RDMs.
_SYMMETRY_TOLERANCE = 1e-4


def read_rdms(path: Path, key: str, name: str) -> NDArray[np.float64]:
    """Read square RDMs from .npy or .mat, check them, and condense them.

    Parameters
    ----------
    path : Path
    key : str
        Variable in a .mat file.
    name : str
        Whose RDM it is, for messages.

    Returns
    -------
    ndarray of float64, shape (..., n_pairs)

    Raises
    ------
    InputError
        If the file is unreadable, or an RDM is not square, not symmetric, not finite, or constant.
    """
    array = open_array(path) if path.suffix == ".npy" else _read_mat(path, key)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: {name} holds values of type {array.dtype}, expected numbers")
    rdms = np.asarray(array, dtype=np.float64)
    if rdms.ndim not in (2, 3) or rdms.shape[-1] != rdms.shape[-2] or rdms.shape[-1] < 4:
        raise InputError(f"{path}: {name} has shape {rdms.shape}, expected square RDMs of four or more conditions")
    rows, columns = np.triu_indices(rdms.shape[-1], k=1)
    bad = int((~np.isfinite(rdms[..., rows, columns])).sum() + (~np.isfinite(rdms[..., columns, rows])).sum())
    if bad:
        raise InputError(f"{path}: {name} holds {bad} entries that are NaN or inf, expected finite dissimilarities")
    vectors, mirrored = rdms[..., rows, columns], rdms[..., columns, rows]
    if np.abs(vectors - mirrored).max() > _SYMMETRY_TOLERANCE * max(np.ptp(vectors), np.finfo(float).tiny):
        raise InputError(
            f"{path}: {name} is not symmetric (difference {np.abs(vectors - mirrored).max():.3g}), so it is no RDM"
        )
    constant = np.atleast_1d(np.ptp(vectors, axis=-1) == 0)
    if constant.any():
        raise InputError(
            f"{path}: {name} has {int(constant.sum())} constant RDM(s) of {constant.size}: nothing can be compared"
        )
    return vectors


def _read_mat(path: Path, key: str) -> NDArray:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path)
    except NotImplementedError:
        raise InputError(
            f"{path}: is a MATLAB 7.3 file, which cannot be read; save it with `save(..., '-v7')`"
        ) from None
    except (MatReadError, ValueError, TypeError, OSError, EOFError) as error:
        raise InputError(f"{path}: is no readable MATLAB file ({error})") from None
    if key not in content:
        found = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise InputError(f"{path}: holds {found}, expected a variable named '{key}'")
    return np.asarray(content[key])


def open_array(path: Path) -> Any:
    """A .npy file memory-mapped, or an .npz archive; never a pickle."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: is no readable numpy file ({error})") from None


def read_volume(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Data (X, Y, Z) and affine of a NIfTI image."""
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError

    try:
        image: Any = nib.load(path)
        data = np.asarray(image.dataobj, dtype=np.float64)
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        raise InputError(f"{path}: is no readable NIfTI image ({error})") from None
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        raise InputError(f"{path}: found {data.ndim} dimensions, expected a 3-D volume")
    return data, np.asarray(image.affine, dtype=np.float64)


def read_table(path: Path, delimiter: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a text table, stripped of blanks; the named columns are there and filled."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: is no readable text table ({error})") from None
    reader = csv.DictReader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
    header = [(name or "").strip() for name in reader.fieldnames or []]
    absent = [name for name in columns if name not in header]
    if absent:
        kind = "tab" if delimiter == "\t" else "comma"
        raise InputError(
            f"{path}: no column {', '.join(absent)} (found {', '.join(header) or 'nothing'}); "
            f"expected a {kind}-separated table with columns {', '.join(columns)}"
        )
    rows = []
    for number, row in enumerate(reader, start=2):
        values = {str(k).strip(): (v or "").strip() for k, v in row.items() if k is not None}
        empty = [name for name in columns if not values.get(name)]
        if empty and any(values.values()):
            raise InputError(f"{path}: line {number} has no {', '.join(empty)}; fill in every column")
        if not empty:
            rows.append(values)
    if not rows:
        raise InputError(f"{path}: holds no rows; expected one per {columns[-1]}")
    return rows


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays of numbers, and containers of them, and refuses everything else."""

    _ALLOWED = frozenset(
        (f"numpy.{core}.{module}", name)
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    ) | {("numpy", "ndarray"), ("numpy", "dtype")}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


def _encode_latin1(text: str, encoding: str) -> bytes:
    """How old pickle protocols spell the bytes of an array; stands in for the general `_codecs.encode`."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"_codecs.encode to {encoding}")
    return text.encode("latin1")


def read_noise_ceiling(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read the release's pickled noise ceiling, (lower, upper), without running anything that the file brings.

    Raises
    ------
    InputError
        If the pickle holds anything but numpy arrays of numbers, or not two of them.
    """
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file).load()
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused, since it asks for '{error}'; expected two numpy arrays (lower, upper) and nothing else"
        ) from None
    except (EOFError, ValueError, TypeError, AttributeError, IndexError, ImportError, KeyError) as error:
        raise InputError(f"{path}: is no readable pickle ({error}); expected two numpy arrays (lower, upper)") from None
    arrays = content if isinstance(content, (tuple, list, np.ndarray)) else ()
    if len(arrays) != 2 or any(not isinstance(a, np.ndarray) or a.dtype.kind not in "fiu" for a in arrays):
        raise InputError(f"{path}: found {type(content).__name__}, expected two numpy arrays of numbers (lower, upper)")
    return np.asarray(arrays[0], dtype=np.float64), np.asarray(arrays[1], dtype=np.float64)
