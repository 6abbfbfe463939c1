"""Downloads that go on where they stopped, and archives that write nowhere but into their folder."""

from __future__ import annotations

import errno
import re
import shutil
import stat
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from utils import InputError

if TYPE_CHECKING:
    import requests

Progress = Callable[[int, int], None]
TIMEOUT = 30.0  # seconds without a byte
_ATTEMPTS = 10
_PAUSE = 1.0  # seconds between two attempts
_CHUNK = 2**20


def download(
    url: str, path: Path, sha256: str | None = None, *, progress: Progress | None = None, by_hand: str | None = None
) -> bool:
    """Download a file, unless it is there.

    What arrives is kept in ``<name>.part`` until it is complete, and a later call goes on from there if the server
    allows and the file has not changed. The file takes its name when its digest was found right.

    Parameters
    ----------
    url : str
    path : Path
        Where to put it; folders are made.
    sha256 : str, optional
        Expected digest. None compares nothing, and takes a file that is there for the right one.
    progress : callable, optional
        Told of (bytes done, bytes in all).
    by_hand : str, optional
        Address that a person would visit instead; by default `url`.

    Returns
    -------
    bool
        Whether anything was downloaded.

    Raises
    ------
    InputError
        If the server cannot be reached or refuses, the digest is wrong, or the disk is full or read-only.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")  # progress and results are told by the caller
    receive = _Receiver(path, progress, trusted=sha256 is not None)
    remedy = f"download {by_hand or url} by hand, save it as {path} and run this again"
    try:
        pooch.retrieve(url, known_hash=sha256, fname=path.name, path=path.parent, downloader=receive)
    except requests.HTTPError as error:
        raise InputError(f"{url}: the server answers '{http_status(error)}'; {remedy}") from None
    except requests.RequestException as error:
        kept = f" (what has arrived is kept in {receive.part})" if receive.part.exists() else ""
        raise InputError(f"{url}: cannot be reached: {why_unreachable(error)}{kept}; {remedy}") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            receive.forget()
        raise disk_error(path, error) from None
    except ValueError as error:
        found = re.findall(r"\b[0-9a-f]{64}\b", str(error))
        raise InputError(
            f"{url}: the file has SHA-256 {found[-1] if found else 'other than expected'}, expected {sha256}; it was "
            "not kept: run this again, and if that does not help, the file was changed where it comes from"
        ) from None
    return receive.called


def disk_error(path: Path, error: OSError) -> InputError:
    """What to tell about a file that could not be written."""
    if error.errno == errno.ENOSPC:
        return InputError(f"{path}: the disk is full, and what was unfinished was removed; free space or use --out")
    reason = error.strerror or str(error).splitlines()[0]
    return InputError(f"{path}: cannot be written ({reason}); choose another folder with --out")


def http_status(error: requests.HTTPError) -> str:
    return "nothing" if error.response is None else f"{error.response.status_code} {error.response.reason}".strip()


def why_unreachable(error: Exception) -> str:
    """The innermost reason of a failed request, without addresses of objects."""
    last = re.split(r":(?= )", str(error).rstrip(")'\""))[-1]
    text = re.sub(r"<[^>]*>|\(Caused by.*|\[Errno -?\d+\] ", "", last).strip(" '\"")
    return text + ")" * (text.count("(") - text.count(")")) or type(error).__name__


class _Receiver:
    """Downloader for pooch that resumes, which pooch's own does not.

    Parameters
    ----------
    path : Path
        Final place of the file.
    progress : callable or None
    trusted : bool
        Whether the digest is known. Otherwise a piece from an earlier run is only used if the server confirms, by the
        file's validator (ETag or date), that it is of the same file.
    """

    def __init__(self, path: Path, progress: Progress | None, trusted: bool) -> None:
        self.part = path.with_name(f"{path.name}.part")
        self.called = False
        self._validator_file = path.with_name(f"{path.name}.part.etag")
        self._progress = progress
        self._trusted = trusted

    def __call__(self, url: str, output_file: str, pooch: object = None, check_only: bool = False) -> None:
        """Download `url` to `output_file` (the interface that pooch asks for)."""
        import requests

        self.called = True
        for attempt in range(1, _ATTEMPTS + 1):
            before = self._size()
            try:
                self._receive(url)
                break
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                # A server that was never reached will hardly be a second later; a broken connection may well be.
                if attempt == _ATTEMPTS or self._size() == before:
                    raise
                time.sleep(_PAUSE)
        self.part.replace(output_file)
        self._validator_file.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove what has arrived."""
        self.part.unlink(missing_ok=True)
        self._validator_file.unlink(missing_ok=True)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _receive(self, url: str) -> None:
        """Ask for what is missing, and append it."""
        import requests

        start = self._size()
        validator = self._validator_file.read_text().strip() if self._validator_file.exists() else ""
        headers = {"Accept-Encoding": "identity"}  # ranges of a compressed answer would not fit together
        if start and (validator or self._trusted):
            headers |= {"Range": f"bytes={start}-"} | ({"If-Range": validator} if validator else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == 416:  # the piece is as long as the file, or longer
                if response.headers.get("Content-Range", "").endswith(f"/{start}"):
                    return
                self.forget()
                raise requests.ConnectionError("the unfinished file did not fit that of the server")
            response.raise_for_status()
            resumed = response.status_code == 206
            if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                self.forget()
                raise requests.ConnectionError("the server sent another range than was asked for")
            self._remember(response)
            self._append(response, start if resumed else 0)

    def _remember(self, response: requests.Response) -> None:
        """Keep what identifies this version of the file; weak validators (W/) do not identify bytes."""
        validator = response.headers.get("ETag", "")
        validator = validator if validator.startswith('"') else response.headers.get("Last-Modified", "")
        if validator:
            self._validator_file.write_text(validator)
        else:
            self._validator_file.unlink(missing_ok=True)

    def _append(self, response: requests.Response, done: int) -> None:
        import requests

        encoded = response.headers.get("Content-Encoding", "identity") != "identity"
        total = 0 if encoded else done + int(response.headers.get("Content-Length", 0))
        with self.part.open("ab" if done else "wb") as file:
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if self._progress is not None:
                    self._progress(done, max(total, done))
        if done < total:
            raise requests.ConnectionError(f"the connection was cut after {done:,} of {total:,} bytes")


def safe_path(name: str, origin: str | Path) -> PurePosixPath:
    """A relative path from an archive or a listing.

    Raises
    ------
    InputError
        If it leads outside the folder that it is meant for.
    """
    plain = name.replace("\\", "/")  # zips from Windows; also what Windows would take for a separator
    path = PurePosixPath(plain)
    if not path.parts or path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", plain) or "\0" in plain:
        raise InputError(f"{origin}: refused, since it holds '{name}', which would land outside the target folder")
    return path


def unpack(
    archive: Path, folder: Path, place: Callable[[PurePosixPath], PurePosixPath | None] | None = None
) -> list[Path]:
    """Unpack a zip, all of it or nothing.

    Parameters
    ----------
    archive, folder : Path
    place : callable, optional
        Path of a member -> where it goes in `folder`, None to leave it out. By default all stay where they are.

    Returns
    -------
    list of Path
        Files of the archive that now lie in `folder`; those that were there already are not written again.

    Raises
    ------
    InputError
        If the archive is damaged, encrypted or too large for the disk, or a member is a link or would land outside.
    """
    if not archive.is_file():
        raise InputError(f"{archive}: is no file; give the zip that you downloaded")
    try:
        with zipfile.ZipFile(archive) as file:
            members = _members(archive, file, place or (lambda path: path))
            new = [(info, folder / path) for info, path in members if not _same(folder / path, info)]
            needed = sum(info.file_size for info, _ in new)
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
            if needed > free:
                raise InputError(
                    f"{archive}: needs {needed / 1e9:.1f} GB in {folder}, where {free / 1e9:.1f} GB are free; "
                    "free some space or use --out"
                )
            _extract(file, new, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise InputError(f"{archive}: is no readable zip ({error}); delete it and get it again") from None
    except OSError as error:
        raise disk_error(folder, error) from None
    return [folder / path for _, path in members]


def _members(
    archive: Path, file: zipfile.ZipFile, place: Callable[[PurePosixPath], PurePosixPath | None]
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Files of an archive and where they go, after all its members were checked."""
    members = []
    for info in file.infolist():
        if info.orig_filename == "./":
            continue
        path = safe_path(info.orig_filename, archive)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            what = "a link" if kind == stat.S_IFLNK else "no plain file"
            raise InputError(f"{archive}: refused, since '{info.filename}' is {what}; expected files and folders")
        if info.flag_bits & 1:
            raise InputError(f"{archive}: '{info.filename}' is encrypted; expected a zip without a password")
        target = None if info.is_dir() else place(path)
        if target is not None:
            members.append((info, target))
    if not members:
        raise InputError(f"{archive}: holds none of the files that were looked for; is it the right zip?")
    return members


def _same(path: Path, info: zipfile.ZipInfo) -> bool:
    """Whether a member of an archive lies there already."""
    if not path.is_file() or path.stat().st_size != info.file_size:
        return False
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum == info.CRC


def _extract(file: zipfile.ZipFile, members: Sequence[tuple[zipfile.ZipInfo, Path]], folder: Path) -> None:
    """Extract into a hidden folder first, and move into place when all of it is there."""
    staging = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
    try:
        for number, (info, _) in enumerate(members):
            with file.open(info) as source, (staging / str(number)).open("wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
        for number, (_, path) in enumerate(members):
            path.parent.mkdir(parents=True, exist_ok=True)
            (staging / str(number)).replace(path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
