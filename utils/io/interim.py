"""What tests have counted so far, kept beside the results, so that a run that was interrupted goes on from there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.io.output import written_whole
from utils.io.provenance import fingerprint

# Between two savings, which take at most this share of the time; what a test takes whose counts are worth keeping.
SECONDS, _SHARE, WORTH_SECONDS = 10.0, 0.005, 2.0
# Values that are digested at once.
_VALUES = 2**22


class Interim:
    """Files of counts, one for each test of a run in the order in which they are made.

    Parameters
    ----------
    folder : Path, optional
        Where they are kept; nothing is kept without it.
    fresh : bool
        Use nothing of what an earlier run has kept.
    tell : callable
        Called with what a person should know: where a test goes on, and why it does not.
    """

    def __init__(
        self, folder: Path | None = None, *, fresh: bool = False, tell: Callable[[str], None] = lambda line: None
    ) -> None:
        self._folder, self._tell, self._n_tests = folder, tell, 0
        if fresh:
            self.remove()

    def tally(self, identity: Callable[[], dict[str, str]], **zero: NDArray) -> Tally:
        """Counts of the next test: those that were kept, if they are of the same test, else `zero`.

        Parameters
        ----------
        identity : callable
            Returns what has to be the same for counts to be of the same test, by what it is called; see `identity`.
        **zero : ndarray
            Among them `done`, with an element for each permutation.
        """
        if self._folder is None:
            return Tally(zero, None, dict)
        self._n_tests += 1
        path = self._folder / f"{self._n_tests}.npz"
        # Digests are made once, and only where something is read or written.
        identity = cache(identity)
        return Tally(self._kept(path, identity, zero) or zero, path, identity, self._tell)

    def _kept(
        self, path: Path, identity: Callable[[], dict[str, str]], zero: Mapping[str, NDArray]
    ) -> dict[str, NDArray] | None:
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            before: dict[str, str] = json.loads(str(found.pop("identity")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            self._tell(f"{path}: cannot be read; the test begins anew")
            return None
        if differ := [name for name, digest in identity().items() if before.get(name) != digest]:
            self._tell(
                f"An interrupted run has counted permutations with {' and '.join(f'other {name}' for name in differ)}: "
                "they are not used."
            )
            return None
        if {k: (v.shape, v.dtype) for k, v in found.items()} != {k: (v.shape, v.dtype) for k, v in zero.items()}:
            self._tell(f"{path}: holds other arrays than expected; the test begins anew")
            return None
        done = found["done"]
        self._tell(
            f"Going on from {done.mean():.0%} of the {len(done):,} permutations, which an interrupted run has counted "
            "(--fresh starts anew)."
        )
        return found

    def remove(self) -> None:
        """Remove everything that is kept."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


class Tally:
    """Counts of one test, for the time of a `with` block, at the end of which they are kept, however it ends.

    Attributes
    ----------
    arrays : dict of ndarray
        To be changed in place within `changes`.
    """

    def __init__(
        self,
        arrays: dict[str, NDArray],
        path: Path | None,
        identity: Callable[[], dict[str, str]],
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.arrays, self._path, self._identity, self._tell = arrays, path, identity, tell
        self._began = self._last = time.monotonic()
        self._cost = 0.0
        self._changing = self._new = False

    @property
    def is_kept(self) -> bool:
        """Whether anything is ever written."""
        return self._path is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        worth_it = error is not None or time.monotonic() - self._began >= WORTH_SECONDS
        # An interruption within `changes` leaves the file as it was last written, which is consistent.
        if self._new and worth_it and not self._changing:
            self._save()

    @contextmanager
    def changes(self) -> Iterator[None]:
        """Time of a `with` block that changes the counts, after which they are kept if it is time to."""
        self._changing = True
        yield
        self._changing, self._new = False, True
        if time.monotonic() - self._last >= max(SECONDS, self._cost / _SHARE):
            self._save()

    def _save(self) -> None:
        """Write the counts; where this is not possible, the test goes on without."""
        if self._path is None:
            return
        began = time.monotonic()
        try:
            with written_whole(self._path) as file:
                np.savez(file, allow_pickle=False, identity=np.array(json.dumps(self._identity())), **self.arrays)
                file.flush()
                os.fsync(file.fileno())
        except InputError as error:
            self._tell(f"{error}: the test goes on, but could not be taken up again")
            self._path = None
        self._last, self._new = time.monotonic(), False
        self._cost = self._last - began


def identity(settings: str, **data: tuple[NDArray, ...]) -> dict[str, str]:
    """What counts are of, as digests: of each kind of data, of settings, and of the code.

    Values are taken in float32: their last digits depend on the machine and on the number of threads, counts do not.

    Parameters
    ----------
    settings : str
    **data : tuple of ndarray
        By what they are called, with underscores for blanks.
    """
    digests = {name.replace("_", " "): _digest(*arrays) for name, arrays in data.items()}
    return {**digests, "settings": _hash(settings.encode()), "program code": _code()}


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _digest(*arrays: NDArray) -> str:
    parts = [str([array.shape for array in arrays])]
    for array in arrays:
        flat = array.reshape(-1)
        # Adding 0 makes 0 of -0.
        slices = (flat[start : start + _VALUES] for start in range(0, len(flat), _VALUES))
        parts += [fingerprint(values.astype(np.float32) + np.float32(0)) for values in slices]
    return _hash("".join(parts).encode())


@cache
def _code() -> str:
    """Digest of everything that a count could depend on."""
    package = Path(__file__).resolve().parents[1]
    return _hash(
        b"".join(path.read_bytes() for path in [package / "rdm.py", *sorted((package / "stats").glob("*.py"))])
    )
