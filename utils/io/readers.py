"""Readers of every file format, which check what they read and name the file in their errors."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.rdm import Pairs, condense, is_constant, is_similarity, n_conditions_of, n_pairs_of


@contextmanager
def readable(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a parser says of a damaged file into one line: no list of their exceptions is complete.

    Parameters
    ----------
    path : Path
    kind : str
        What the file should be, such as "NIfTI image".

    Raises
    ------
    InputError
        In place of any other exception.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected a {kind}") from None
    except Exception as error:
        raise InputError(f"{path}: is not a readable {kind} ({one_line(error)}); copy or make it again") from None


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def check_unique(path: Path, values: Sequence[Any], expected: str) -> None:
    """Raise an InputError with the values that occur more than once, if there are any."""
    repeated = sorted({str(value) for value in values if values.count(value) > 1})
    if repeated:
        raise InputError(f"{path}: {', '.join(repeated)} occur(s) more than once; {expected}")


def choose(wanted: Sequence[str], items: Sequence[Any], names: Sequence[str], kind: str) -> list[Any]:
    """Those of the items whose names are wanted, in that order, each once; an InputError for an unknown name."""
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise InputError(f"unknown {kind}(s) {', '.join(unknown)}; there are {', '.join(names)}")
    return [items[names.index(name)] for name in dict.fromkeys(wanted)]


def check_n_conditions(path: Path, n_pairs: int, n_conditions: int, others: str = "the model RDMs") -> None:
    """Raise an InputError if condensed RDMs of `n_pairs` are not of as many conditions as the model RDMs, or others."""
    if n_pairs != n_pairs_of(n_conditions):
        try:
            found = f"{n_conditions_of(n_pairs)} conditions"
        except ValueError:
            found = f"{n_pairs} entries per RDM, which no number of conditions gives,"
        raise InputError(
            f"{path}: found {found} where {others} have {n_conditions}; both must be of the same conditions"
        )


def check_n_people(path: Path, found: int, n_people: int | None) -> None:
    """Raise an InputError if brain RDMs are not those of the `n_people` that have model RDMs of their own."""
    if n_people is not None and found != n_people:
        raise InputError(
            f"{path}: found RDMs of {found} people, expected {n_people}, since there are model RDMs of {n_people} "
            "people; give both of the same people in the same order, or one (n, n) matrix of each model for everyone"
        )


def read_conditions(path: Path) -> list[str]:
    """Read the names of conditions from a text file, one per line.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of str

    Raises
    ------
    InputError
        If the file is unreadable, a line between others is empty, a name occurs twice, or there are fewer than two.
    """
    names = _lines(path, "one condition")
    check_unique(path, names, "give every condition one line")
    if len(names) < 2:
        raise InputError(
            f"{path}: names {len([n for n in names if n])} condition(s), expected two or more, one per line"
        )
    return names


def read_blocks(path: Path) -> list[str]:
    """Read the block of every condition from a text file, one per line, in the order of the conditions.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of str

    Raises
    ------
    InputError
        If the file is unreadable, or a line between others is empty.
    """
    return _lines(path, "the block of one condition")


def read_pairs(path: Path) -> Pairs:
    """Read which pairs of conditions count: True, or False for those that are left out.

    Parameters
    ----------
    path : Path
        NumPy file of a boolean array, symmetric (n, n) or condensed (n (n - 1) / 2,); the diagonal does not matter.

    Returns
    -------
    Pairs

    Raises
    ------
    InputError
        If the file is unreadable or holds something else, or a condition has no pair left.
    """
    array = open_array(path)
    if array.dtype.kind not in "biu" or not np.isin(array, (0, 1)).all():
        raise InputError(f"{path}: holds values of type {array.dtype}, expected True for pairs that count, else False")
    kept = np.asarray(array, dtype=bool)
    if kept.ndim == 2 and kept.shape[0] == kept.shape[1]:
        if (kept != kept.T).any():
            raise InputError(f"{path}: is not symmetric, so that it does not say which pairs count")
        kept = condense(kept)
    try:
        n_conditions = n_conditions_of(kept.size) if kept.ndim == 1 else 0
    except ValueError:
        n_conditions = 0
    if n_conditions < 4:
        raise InputError(
            f"{path}: found shape {array.shape}, expected (n, n), or n (n - 1) / 2 pairs of n conditions, four or more"
        )
    pairs = Pairs(kept)
    if lacking := int((pairs.degrees == 0).sum()):
        raise InputError(
            f"{path}: leaves {lacking} of {n_conditions} conditions without a pair that counts; leave these conditions "
            "out of all RDMs instead"
        )
    return pairs


def _lines(path: Path, expected: str) -> list[str]:
    """Lines of a text file, none of which is empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path}: is not a readable text file ({error}); expected {expected} per line") from None
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if "" in lines[:-1]:
        raise InputError(f"{path}: line {lines.index('') + 1} is empty; expected {expected} per line")
    return lines


# Square RDMs that differ from their transpose by more than this share of their range are not RDMs.
_SYMMETRY_TOLERANCE = 1e-4


def read_rdms(path: Path, key: str, name: str, pairs: Pairs | None = None) -> NDArray[np.float64]:
    """Read square RDMs from .npy or .mat, check them, and condense them.

    Parameters
    ----------
    path : Path
    key : str
        Variable in a .mat file.
    name : str
        Whose RDM it is, for messages.
    pairs : Pairs, optional
        The pairs that count, if not all. What stands elsewhere does not matter, and is left out.

    Returns
    -------
    ndarray of float64, shape (..., n_pairs)

    Raises
    ------
    InputError
        If the file is unreadable, or an RDM is not square, not symmetric, not finite, constant, or of other conditions
        than the pairs.
    """
    array = open_array(path) if path.suffix == ".npy" else np.asarray(read_mat(path, [key]))
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: {name} holds values of type {array.dtype}, expected numbers")
    rdms = np.asarray(array, dtype=np.float64)
    if rdms.ndim not in (2, 3) or rdms.shape[-1] != rdms.shape[-2] or rdms.shape[-1] < 4:
        raise InputError(f"{path}: {name} has shape {rdms.shape}, expected square RDMs of four or more conditions")
    rows, columns = np.triu_indices(rdms.shape[-1], k=1)
    if pairs is not None:
        check_n_conditions(path, len(rows), pairs.n_conditions, "the pairs that count")
        rows, columns = pairs.first, pairs.second
    vectors, mirrored = rdms[..., rows, columns], rdms[..., columns, rows]
    bad = np.count_nonzero(~np.isfinite([vectors, mirrored]))
    if bad:
        raise InputError(f"{path}: {name} holds {bad} entries that are NaN or inf, expected finite dissimilarities")
    difference = np.abs(vectors - mirrored).max()
    if difference > _SYMMETRY_TOLERANCE * max(np.ptp(vectors), np.finfo(float).tiny):
        raise InputError(f"{path}: {name} is not symmetric (difference {difference:.3g}), so it is not an RDM")
    if is_similarity(vectors, rdms.diagonal(axis1=-2, axis2=-1)).any():
        raise similarities(path, f"{name} holds")
    constant = np.atleast_1d(is_constant(vectors))
    if constant.any():
        raise InputError(
            f"{path}: {name} has {int(constant.sum())} constant RDM(s) of {constant.size}: nothing can be compared"
        )
    return vectors


def similarities(path: Path, what: str) -> InputError:
    """The error that what a file has ("RDMs hold") is similarities: see `utils.rdm.is_similarity`."""
    return InputError(
        f"{path}: {what} similarities, as the diagonal is larger than all that is beside it; expected dissimilarities: "
        "save 1 - r, for example, with 0 on the diagonal"
    )


def read_mat(path: Path, keys: Sequence[str]) -> Any:
    """Read a variable from a MATLAB file of any version.

    Parameters
    ----------
    path : Path
    keys : sequence of str
        Names that the variable may have; `a.b` is field b of a struct.

    Returns
    -------
    ndarray, or nested lists of str for cell arrays of texts
        Numbers with their axes as in MATLAB.

    Raises
    ------
    InputError
        If the file is unreadable, or has no such variable.
    """
    from scipy.io import loadmat

    with readable(path, "MATLAB file"):
        with path.open("rb") as file:  # from version 7.3 on they are HDF5, behind a block of text
            start = file.read(2056)
        if any(start[at : at + 8] == b"\x89HDF\r\n\x1a\n" for at in (0, 512, 1024, 2048)):
            return _read_hdf5(path, keys)
        content: Any = loadmat(path, struct_as_record=False)
        names = [name for name in content if not name.startswith("__")]
        for key in keys:
            value = content
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else getattr(np.ravel(value)[0], part, None)
                if value is None:
                    break
            else:
                return [str(np.ravel(text)[0]) for text in value.ravel()] if value.dtype == object else value
    raise _lacks(path, names, keys)


def _read_hdf5(path: Path, keys: Sequence[str]) -> Any:
    """The same from MATLAB 7.3: axes are stored in reverse, texts as numbers, cells as references."""
    import h5py

    with h5py.File(path, "r") as file:
        for key in keys:
            stored = file.get(key.replace(".", "/"))
            if not isinstance(stored, h5py.Dataset):
                continue
            if stored.dtype == h5py.ref_dtype:
                return ["".join(map(chr, file[ref][()].ravel())) for ref in stored[()].ravel()]
            return stored[()].T
        names = [name for name in file if not name.startswith("#")]
    raise _lacks(path, names, keys)


def _lacks(path: Path, found: Sequence[str], keys: Sequence[str]) -> InputError:
    wanted = " or ".join(f"'{key}'" for key in keys)
    return InputError(f"{path}: holds {', '.join(found) or 'nothing'}, expected a variable named {wanted}")


def open_array(path: Path) -> Any:
    """Open a .npy file memory-mapped, or an .npz archive; never a pickle.

    Parameters
    ----------
    path : Path

    Returns
    -------
    numpy.memmap or numpy.lib.npyio.NpzFile

    Raises
    ------
    InputError
        If the file is neither.
    """
    with readable(path, "numpy file"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    archive, wanted = isinstance(array, np.lib.npyio.NpzFile), path.suffix == ".npz"
    if archive != wanted:
        raise InputError(
            f"{path}: is {'an archive of arrays' if archive else 'a single array'}, expected "
            f"{'an archive of arrays' if wanted else 'a single array'}; copy or make it again"
        )
    return array


def read_archive(path: Path, names: Sequence[str]) -> dict[str, NDArray]:
    """Read arrays of numbers or texts from an .npz archive.

    Parameters
    ----------
    path : Path
    names : sequence of str
        Arrays to read, as far as they are there.

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    InputError
        If the file is no such archive, or damaged.
    """
    archive = open_array(path)
    with readable(path, "numpy file"), archive:
        return {name: np.asarray(archive[name]) for name in names if name in archive.files}


def names_and_digests(paths: Sequence[Path]) -> dict[str, NDArray]:
    """Names and contents of RDM files, kept with their noise ceilings to tell later whether they are still the same.

    Times and sizes do not tell: RDMs of the same number of locations always have one size, and copies can keep the
    time of the original.

    Parameters
    ----------
    paths : sequence of Path

    Returns
    -------
    dict
        `names` and `digests`, each ndarray of str, shape (n_files,).

    Raises
    ------
    InputError
        If a file cannot be read.
    """

    def digest(path: Path) -> str:
        with readable(path, "file"), path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(digest, paths))
    return {"names": np.array([path.name for path in paths]), "digests": np.array(digests)}


def read_ceilings(path: Path, rdms: Sequence[Path]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Read noise ceilings that were kept beside RDMs.

    Parameters
    ----------
    path : Path
        Archive with arrays lower and upper, and perhaps the names and digests of the RDM files.
    rdms : sequence of Path
        RDM files that there are now, sorted by name.

    Returns
    -------
    (lower, upper), each ndarray of float64, shape (n_searchlights,), or None
        None if there is no such archive, or the RDMs have changed since.

    Raises
    ------
    InputError
        If it holds something else.
    """
    if not path.exists():
        return None
    arrays = read_archive(path, ("lower", "upper", "names", "digests", "sizes"))
    if not {"lower", "upper"} <= set(arrays):
        raise InputError(f"{path}: found arrays {', '.join(arrays) or 'of other names'}, expected lower and upper")
    if any(arrays[name].dtype.kind not in "fiu" for name in ("lower", "upper")):
        raise InputError(f"{path}: holds values of type {arrays['lower'].dtype}, expected numbers")
    if "names" in arrays:
        if not all(np.array_equal(arrays.get(name, []), now) for name, now in names_and_digests(rdms).items()):
            return None
    elif path.stat().st_mtime < max(rdm.stat().st_mtime for rdm in rdms):
        return None
    return arrays["lower"].astype(np.float64), arrays["upper"].astype(np.float64)


def read_volume(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read a volume.

    Parameters
    ----------
    path : Path
        NIfTI image of three dimensions, or of four of which the last is 1.

    Returns
    -------
    data : ndarray of float64, shape (X, Y, Z)
    affine : ndarray of float64, shape (4, 4)
        Voxel indices to mm.

    Raises
    ------
    InputError
        If the file is not such an image.
    """
    image = open_image(path)
    with readable(path, "NIfTI image"):
        data = np.asarray(image.dataobj, dtype=np.float64)
    if data.ndim == 4 and data.shape[3] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        raise InputError(f"{path}: found {data.ndim} dimensions, expected a 3-D volume")
    return data, np.asarray(image.affine, dtype=np.float64)


def open_image(path: Path, *, cifti: bool = False) -> Any:
    """Open an image (NIfTI, MGH, perhaps CIFTI), whose values are not read yet; an InputError if it is none."""
    import nibabel as nib

    with readable(path, "NIfTI image"):
        # An open file goes on where the last slice ended: compressed ones are then unpacked only once.
        image: Any = nib.load(path, keep_file_open=True)
    if not (isinstance(image, nib.spatialimages.SpatialImage) or (cifti and is_cifti(image))):
        raise InputError(f"{path}: holds {type(image).__name__}, expected a volume (NIfTI)")
    # Values of vertices, in a column, have no place among voxels.
    affine = None if image.shape[1:3] == (1, 1) else getattr(image, "affine", None)
    if affine is not None and not (np.isfinite(affine).all() and np.linalg.matrix_rank(affine[:3, :3]) == 3):
        raise InputError(
            f"{path}: the affine of the header gives voxels no place in three dimensions, expected one that can be "
            "inverted; write the image again with the affine of the scan"
        )
    return image


def is_cifti(image: Any) -> bool:
    """Whether an image is CIFTI, of vertices and voxels, of which NIfTI is no more than the envelope."""
    from nibabel.cifti2 import Cifti2Image

    return isinstance(image, Cifti2Image)


def read_table(path: Path, delimiter: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a text table with a header.

    Parameters
    ----------
    path : Path
    delimiter : str
    columns : sequence of str
        Columns that must be there, and filled in every row.

    Returns
    -------
    list of dict of str to str
        Rows, without blanks around names and values; empty lines are left out.

    Raises
    ------
    InputError
        If the file is unreadable, or a column, a value or all rows are missing.
    """
    with readable(path, "text table (UTF-8)"):
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.DictReader(text.splitlines(), delimiter=delimiter, skipinitialspace=True)
        header, lines = [(name or "").strip() for name in reader.fieldnames or []], list(reader)
    absent = [name for name in columns if name not in header]
    if absent:
        kind = "tab" if delimiter == "\t" else "comma"
        raise InputError(
            f"{path}: no column {', '.join(absent)} (found {', '.join(header) or 'nothing'}); "
            f"expected a {kind}-separated table with columns {', '.join(columns)}"
        )
    rows = []
    for number, row in enumerate(lines, start=2):
        values = {str(k).strip(): (v or "").strip() for k, v in row.items() if k is not None}
        empty = [name for name in columns if not values.get(name)]
        if empty and any(values.values()):
            raise InputError(f"{path}: line {number} has no {', '.join(empty)}; fill in every column")
        if not empty:
            rows.append(values)
    if not rows:
        raise InputError(f"{path}: holds no rows; expected one per {columns[-1]}")
    return rows
