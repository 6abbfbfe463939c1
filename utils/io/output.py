"""Files that a run leaves behind: tables, arrays, volumes, provenance. All of them, or none."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from utils import InputError

if TYPE_CHECKING:
    import pandas as pd


class Outputs:
    """The result folder of a run, filled in one go.

    Files are written to a hidden folder beside their destination. They are moved into place when the run has ended
    well, and files of an earlier run that this one did not write again are removed then; a failed run changes nothing.

    Parameters
    ----------
    folder : Path
        Where the files go; made if needed.

    Raises
    ------
    InputError
        If the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._staging = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
        except OSError as error:
            raise InputError(
                f"results folder {folder} cannot be written to ({error.strerror}); choose another with --results"
            ) from None

    def __enter__(self) -> Outputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        shutil.rmtree(self._staging, ignore_errors=True)

    def path(self, name: str) -> Path:
        """Where to write a file of this run now; `name` is relative to the result folder."""
        path = self._staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def publish(self, provenance: dict[str, Any]) -> list[Path]:
        """Write `run.json`, move all files into place, and return where they are now."""
        names = sorted(str(path.relative_to(self._staging)) for path in self._staging.rglob("*") if path.is_file())
        record = self.path("run.json")
        record.write_text(json.dumps({**provenance, "files": names}, indent=2) + "\n")
        stale = set(self._earlier_files()) - set(names)
        for name in [*names, record.name]:
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (self._staging / name).replace(target)
        for name in stale:
            (self.folder / name).unlink(missing_ok=True)
        return [self.folder / name for name in [*names, record.name]]

    def _earlier_files(self) -> list[str]:
        """Files that an earlier run says it wrote here."""
        try:
            names = json.loads((self.folder / "run.json").read_text())["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return [name for name in names if isinstance(name, str) and ".." not in Path(name).parts and name[:1] != "/"]


@contextmanager
def disk_errors(path: Path, what: str = "") -> Iterator[None]:
    """Errors of the file system as one line."""
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise InputError(
            f"{path}: {what or 'it'} cannot be written ({reason}); free space, or choose another folder"
        ) from None


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file that gets its name when it is complete, and is removed if it never is."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w+b") as file:
                yield file
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Tab-separated text with a header; missing values are `n/a`, as in BIDS."""
    table.to_csv(path, sep="\t", index=False, na_rep="n/a", float_format="%.9g")


def write_arrays(path: Path, **arrays: ArrayLike) -> None:
    """Numpy archive that opens with ``allow_pickle=False``."""
    converted = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in converted.items():
        if array.dtype == object:
            raise ValueError(f"array '{name}' is of objects, which only a pickle could hold")
    np.savez_compressed(path, allow_pickle=False, **converted)


def write_volume(path: Path, data: NDArray, affine: NDArray, intent: str = "none") -> None:
    """NIfTI image: integers as int16, values as float32; `intent` "label" says that the integers are names."""
    import nibabel as nib

    data = data.astype(np.int16 if data.dtype.kind in "iu" else np.float32)
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_intent(intent)
    nib.save(image, path)
