"""The one way in which files get written: whole, or not at all."""

from __future__ import annotations

import csv
import ctypes
import errno
import json
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import ArrayLike, NDArray

from utils import InputError
from utils.io.data_folder import RECORD
from utils.io.readers import names_and_digests
from utils.io.spaces import write_space

if TYPE_CHECKING:
    import pandas as pd

# Folder of what an unfinished run has counted, see `interim`; it goes when the run has ended well.
INTERIM = ".interim"
_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Outputs:
    """Files of a run, written to a hidden folder until `publish` moves them all into place; `staged` gives one.

    Parameters
    ----------
    folder : Path
        Where the files go.
    staging : Path
        Where they are until then; on the same disk.
    record : str
        Name of the file, relative to `folder`, that says what wrote the others.
    at_once : bool
        Whether `publish` may put a new folder in the place of the old one.
    """

    def __init__(self, folder: Path, staging: Path, record: str = RECORD, *, at_once: bool = False) -> None:
        self.folder, self.staging, self.record, self._at_once = folder, staging, record, at_once

    def path(self, name: str) -> Path:
        """Where to write a file of this run now; `name` is relative to the destination."""
        path = self.staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def latest(self, name: str) -> Path:
        """Where a file lies now: as written by this run, else in its place."""
        staged = self.staging / name
        return staged if staged.exists() else self.folder / name

    def publish(self, provenance: Mapping[str, Any], keep: Collection[str] = ()) -> list[Path]:
        """Move all files into place, and remove those of an earlier run that this one has not.

        If it may be done at once, and the file system can exchange two folders, a folder with all files takes the place
        of the old one in a single step. Otherwise, the record goes first and comes back last: where it is, it is right.
        In between, files move in the order in which they were written.

        Parameters
        ----------
        provenance : mapping
            What the record is to hold, beside the list of files.
        keep : collection of str
            Files of this run that are in place already.

        Returns
        -------
        list of Path
            All files of this run, in alphabetical order, then the record.

        Raises
        ------
        InputError
            If the disk is full, or a file cannot be replaced.
        """
        with disk_errors(self.folder):
            written = [path for path in self.staging.rglob("[!.]*") if path.is_file()]
            written.sort(key=lambda path: path.stat().st_mtime_ns)
            moved = [path.relative_to(self.staging).as_posix() for path in written]
            names = sorted({*moved, *keep} - {self.record})
            text = json.dumps({**provenance, "files": names}, indent=2) + "\n"
            stale = {name for name in read_record(self.folder / self.record)["files"] if _is_inside(name)} - {*names}
            self.path(self.record).write_text(text, encoding="utf-8")
            moved = [*(name for name in moved if name != self.record), self.record]
            if not (self._at_once and self._exchange(moved, stale)):
                self._move(moved, stale)
        return [self.folder / name for name in [*names, self.record]]

    def _move(self, moved: Sequence[str], stale: Collection[str]) -> None:
        """Move one file after the other into place."""
        (self.folder / self.record).unlink(missing_ok=True)
        for name in stale:
            (self.folder / name).unlink(missing_ok=True)
        for name in moved:
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.staging / name).replace(target)

    def _exchange(self, moved: Sequence[str], stale: Collection[str]) -> bool:
        """Put a folder with the new files, and what else is in the old one, in its place.

        Where this is not possible, nothing is changed, and the value is False.
        """
        new, there = self.staging / ".new", self.folder.exists()
        gone = {*moved, *stale}
        try:
            new.mkdir()
            for path in sorted(self.folder.rglob("*")) if there else []:
                other = path.relative_to(self.folder)
                if other.parts[0] == INTERIM or other.as_posix() in gone:
                    continue
                if path.is_dir() and not path.is_symlink():
                    if not any(path.iterdir()):
                        (new / other).mkdir(parents=True)
                    continue
                (new / other).parent.mkdir(parents=True, exist_ok=True)
                os.link(path, new / other, follow_symlinks=False)
            for name in moved:
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(self.staging / name, new / name)
            if there:
                shutil.copymode(self.folder, new)
                return exchange_folders(new, self.folder.resolve())
            new.rename(self.folder)
        except OSError as error:
            if error.errno in _DISK_IS_FULL:
                raise
            return False
        return True


def exchange_folders(a: Path, b: Path) -> bool:
    """Exchange two folders in one step; False, and nothing done, where the system or the file system cannot do that."""
    functions = {"linux": ("renameat2", (-100,), (-100,), 2), "darwin": ("renamex_np", (), (), 2)}
    if sys.platform not in functions:
        return False
    name, before_a, before_b, flag = functions[sys.platform]
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return False
    return int(function(*before_a, os.fsencode(a), *before_b, os.fsencode(b), flag)) == 0


@contextmanager
def staged(
    folder: Path,
    record: str = RECORD,
    what: str = "",
    *,
    resume: bool = False,
    wait: bool = False,
    at_once: bool = False,
) -> Iterator[Outputs]:
    """A folder to be filled in one go: whatever happens in the `with` block, only `Outputs.publish` changes it.

    One process at a time writes to a folder; the system gives the lock back however that process ends. What a process
    that was killed has left is removed by the next one.

    Parameters
    ----------
    folder : Path
        Where the files go; made if needed, and removed again if nothing came to be in it.
    record : str
        See `Outputs`.
    what : str
        What is written, for messages.
    resume : bool
        Keep what is staged after an error, and begin with what an earlier run has left.
    wait : bool
        Wait for another process that writes there, in place of an error.
    at_once : bool
        Put a new folder in the place of the old one, where the system can. Files are then staged beside the folder.

    Yields
    ------
    Outputs

    Raises
    ------
    InputError
        If the folder cannot be written to, another process writes to it, or the disk is full.
    """
    at_once = at_once and not folder.is_mount()
    existed, staging = folder.exists(), folder / ".unfinished"
    if at_once:
        place = folder.resolve()
        staging = place.with_name(f".{place.name}.unfinished")
    lock = FileLock(staging / ".lock", timeout=-1 if wait else 0)
    try:
        with disk_errors(folder, what):
            _acquire(lock, folder)
        if not resume:
            _empty(staging)
        with disk_errors(folder, what, only_full=True):
            yield Outputs(folder, staging, record, at_once=at_once)
        resume = False
    finally:
        if lock.is_locked:
            if not resume:
                shutil.rmtree(staging, ignore_errors=True)
            lock.release()
        if not existed:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def _acquire(lock: FileLock, folder: Path) -> None:
    """Take the lock of a staging folder, which is made if needed."""
    path = Path(lock.lock_file)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with suppress(FileNotFoundError):  # whoever had the lock has just removed the folder
                lock.acquire()
                if path.exists():
                    return
                lock.release()
        except Timeout:
            raise InputError(
                f"{folder}: another run is writing here; wait until it has ended, or choose another folder"
            ) from None


def _empty(staging: Path) -> None:
    """Remove what an earlier run has left in a staging folder, but for the lock."""
    for path in staging.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != ".lock":
            path.unlink(missing_ok=True)


def read_record(path: Path) -> dict[str, Any]:
    """What an earlier run recorded; always with `files` (empty where there is no record that can be read)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {**content, "files": [name for name in content["files"] if isinstance(name, str)]}
    except (OSError, ValueError, KeyError, TypeError):
        return {"files": []}


def _is_inside(name: str) -> bool:
    """Whether a name from a record stays in the record's folder."""
    return ".." not in Path(name).parts and not Path(name).is_absolute()


@contextmanager
def disk_errors(path: Path, what: str = "", *, only_full: bool = False) -> Iterator[None]:
    """Turn errors of the file system into one line.

    Parameters
    ----------
    path : Path
        What is being written.
    what : str
        What it is, where the path does not say it.
    only_full : bool
        Leave errors alone that have nothing to do with a full disk, as the block does more than write.

    Raises
    ------
    InputError
        In place of the OSError.
    """
    try:
        yield
    except OSError as error:
        # Numpy says how many values it could write, and no more.
        full = error.errno in _DISK_IS_FULL or (error.errno is None and "requested and" in str(error))
        if only_full and not full:
            raise
        reason = "the disk is full" if full else (error.strerror or str(error))
        raise InputError(
            f"{path}: {what}{' ' if what else ''}cannot be written ({reason}); free space, or choose another folder"
        ) from None


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when it is complete, and is removed if it never is.

    Parameters
    ----------
    path : Path
        Its folder is made if needed.

    Yields
    ------
    binary file
        Open for reading and writing.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w+b") as file:
                yield file
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """UTF-8 text that is the same on every system; every line ends, the last one too."""
    path.write_text("\n".join([*lines, ""]), encoding="utf-8", newline="\n")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Tab-separated text with a header, from rows of the same columns."""
    write_lines(path, ["\t".join(rows[0]), *("\t".join(map(str, row.values())) for row in rows)])


def write_roi_table(path: Path, names: Mapping[int, str]) -> None:
    """CSV with columns id and roi; names with commas stand in quotes."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("id", "roi"), *names.items()])


def write_conditions(path: Path, names: Sequence[str]) -> None:
    """Names of the conditions, one per line; a file that is there already stays as it is."""
    if not path.exists():
        with written_whole(path) as file:
            file.write("".join(f"{name}\n" for name in names).encode())


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Tab-separated text with a header; missing values are `n/a`, as in BIDS."""
    table.to_csv(path, sep="\t", index=False, na_rep="n/a", float_format="%.9g")


def write_arrays(path: Path, **arrays: ArrayLike) -> None:
    """Numpy archive that opens with ``allow_pickle=False``.

    Raises
    ------
    ValueError
        If an array is of objects.
    """
    converted = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in converted.items():
        if array.dtype == object:
            raise ValueError(f"array '{name}' is of objects, which only a pickle could hold")
    np.savez_compressed(path, allow_pickle=False, **converted)


def write_ceilings(path: Path, rdms: Sequence[Path], lower: NDArray, upper: NDArray) -> None:
    """Noise ceilings (n_searchlights,) for `read_ceilings`, with the names and digests of the RDM files they are of."""
    with written_whole(path) as file:
        np.savez(file, allow_pickle=False, lower=lower, upper=upper, **names_and_digests(rdms))


def write_volume(path: Path, data: NDArray, affine: NDArray, intent: str = "none", space: str = "aligned") -> None:
    """NIfTI image in mm.

    Parameters
    ----------
    path : Path
    data : ndarray, shape (X, Y, Z)
        Masks of uint8 stay so, other integers are written as int16, values as float32.
    affine : ndarray, shape (4, 4)
        Voxel indices to mm.
    intent : str
        NIfTI intent; "label" says that integers are names.
    space : str
        Of the millimetres, for the codes in the header: see `utils.io.spaces`.
    """
    import nibabel as nib

    if data.dtype != np.uint8:
        data = data.astype(np.int16 if data.dtype.kind in "iu" else np.float32)
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_intent(intent)
    write_space(image, space)
    nib.save(image, path)


def write_vertices(
    path: Path,
    values: NDArray,
    side: str,
    name: str,
    labels: Mapping[int, tuple[str, float, float, float, float]] | None = None,
) -> None:
    """GIFTI file of the vertices of one hemisphere.

    Parameters
    ----------
    path : Path
    values : ndarray, shape (n_vertices,)
        Written as float32, labels as int32.
    side : {"left", "right"}
    name : str
        Of the map.
    labels : mapping of int to (str, float, float, float, float), optional
        Name of every label, with its red, green, blue and opacity from 0 to 1; with these, values are labels.
    """
    from nibabel import gifti, save

    table = gifti.GiftiLabelTable()
    for key, (text, *rgba) in (labels or {}).items():
        label = gifti.GiftiLabel(key, *rgba)
        label.label = text  # type: ignore[attr-defined]
        table.labels.append(label)
    if labels is None:
        kind = {"intent": "NIFTI_INTENT_NONE", "datatype": "NIFTI_TYPE_FLOAT32"}
    else:
        kind = {"intent": "NIFTI_INTENT_LABEL", "datatype": "NIFTI_TYPE_INT32"}
    values = values.astype(np.float32 if labels is None else np.int32)
    array = gifti.GiftiDataArray(values, **kind, meta={"Name": name})
    # Tells Connectome Workbench which hemisphere the file is of.
    structure = gifti.GiftiMetaData({"AnatomicalStructurePrimary": f"Cortex{side.capitalize()}"})
    save(gifti.GiftiImage(darrays=[array], labeltable=table, meta=structure), path)
