"""Downloads that resume where they stopped, and zips that are unpacked completely or not at all."""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

import pooch
import requests

from utils import InputError
from utils.io.output import disk_errors
from utils.parallel.resources import Progress, ignore

TIMEOUT = 30.0  # seconds without a byte
_PAUSE = 1.0  # seconds before a broken download is resumed
_CHUNK = 2**20


def download(
    url: str, path: Path, sha256: str | None = None, *, progress: Progress | None = None, by_hand: str | None = None
) -> bool:
    """Download a file, unless it is there.

    Data arrive in ``<name>.part``, from which a later call resumes if the server allows it and the file has not
    changed. The file gets its name once it is complete and its digest is correct.

    Parameters
    ----------
    url : str
    path : Path
        Name of the file; its folder is created.
    sha256 : str, optional
        Expected digest. Without one, nothing is verified, and an existing file is kept.
    progress : callable, optional
        Called with (bytes done, bytes in total).
    by_hand : str, optional
        Address for people to visit if the download fails; `url` by default.

    Returns
    -------
    bool
        Whether anything was downloaded.

    Raises
    ------
    InputError
        If the server cannot be reached or refuses, the digest is wrong, or the file cannot be written.
    """
    pooch.get_logger().setLevel("ERROR")  # the caller reports progress and results
    receive = _Receiver(path, progress, trusted=sha256 is not None)
    remedy = f"download {by_hand or url} by hand, save it as {path} and run this again"
    with disk_errors(path):
        try:
            pooch.retrieve(url, known_hash=sha256, fname=path.name, path=path.parent, downloader=receive)
        except requests.RequestException as error:
            kept = f" (what has arrived is kept in {receive.part})" if receive.part.exists() else ""
            raise InputError(f"{url}: {why_failed(error)}{kept}; {remedy}") from None
        except OSError as error:
            if error.errno == errno.ENOSPC:
                receive.forget()
            raise
        except ValueError as error:  # pooch names both digests
            raise InputError(f"{url}: {str(error).rstrip('.')}; run this again") from None
    return receive.called


def why_failed(error: requests.RequestException) -> str:
    """Why a request failed, in a few words.

    Parameters
    ----------
    error : requests.RequestException

    Returns
    -------
    str
        The server's answer, or the innermost reason why there was none, without addresses of objects.
    """
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"the server answers '{error.response.status_code} {error.response.reason}'"
    if isinstance(error, requests.JSONDecodeError):
        return "the answer is not JSON"
    last = re.split(r":(?= )", str(error).rstrip(")'\""))[-1]
    text = re.sub(r"<[^>]*>|\(Caused by.*|\[Errno -?\d+\] ", "", last).strip(" '\"")
    return f"cannot be reached: {text + ')' * (text.count('(') - text.count(')')) or type(error).__name__}"


class _Receiver:
    """Downloader for pooch that resumes, which pooch's own does not.

    If the digest of the file is known (`trusted`), it will tell whether all pieces fit together. Otherwise a piece is
    used only if the server confirms, by the file's validator (ETag or date), that it is of the same file.
    """

    def __init__(self, path: Path, progress: Progress | None, trusted: bool) -> None:
        self.part = path.with_name(f"{path.name}.part")
        self.called = False
        self._validator = path.with_name(f"{path.name}.part.etag")
        self._progress = progress or ignore
        self._trusted = trusted

    def __call__(self, url: str, output_file: str, pooch: object = None, check_only: bool = False) -> None:
        """Download `url` to `output_file` (the interface that pooch asks for)."""
        self.called = True
        while True:
            before = self._size()
            try:
                self._receive(url)
                break
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                # A broken connection may well work again; a server that sent nothing more hardly will.
                if self._size() <= before:
                    raise
                time.sleep(_PAUSE)
        self.part.replace(output_file)
        self._validator.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove what has arrived."""
        self.part.unlink(missing_ok=True)
        self._validator.unlink(missing_ok=True)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _receive(self, url: str) -> None:
        """Request what is missing, and append it."""
        start = self._size()
        validator = self._validator.read_text() if self._validator.exists() else ""
        headers = {"Accept-Encoding": "identity"}  # ranges of a compressed answer would not fit together
        if start and (validator or self._trusted):
            headers |= {"Range": f"bytes={start}-"} | ({"If-Range": validator} if validator else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            resumed = response.status_code == 206
            other_range = resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            if "Range" in headers and (response.status_code == 416 or other_range):
                self.forget()  # the piece is as long as the server's file, or longer, or the server is confused
                self._receive(url)
                return
            response.raise_for_status()
            self._remember(response)
            self._append(response, start if resumed else 0)

    def _remember(self, response: requests.Response) -> None:
        """Keep what identifies this version of the file."""
        validator = response.headers.get("ETag", "")
        if not validator.startswith('"'):  # none, or a weak one (W/), which does not identify bytes
            validator = response.headers.get("Last-Modified", "")
        self._validator.write_text(validator)

    def _append(self, response: requests.Response, done: int) -> None:
        total = done + int(response.headers.get("Content-Length", 0))
        with self.part.open("ab" if done else "wb") as file:
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                self._progress(done, max(total, done))
        if done < total:
            raise requests.ConnectionError(f"the connection was cut after {done:,} of {total:,} bytes")


def safe_path(name: str, origin: str | Path) -> PurePosixPath:
    r"""A relative path from an archive or a listing.

    Parameters
    ----------
    name : str
        Parts are separated by / or \.
    origin : str or Path
        The archive or listing, for the message.

    Returns
    -------
    PurePosixPath

    Raises
    ------
    InputError
        If it leads outside the folder that it is meant for.
    """
    path = PureWindowsPath(name)  # knows both separators, and drives
    if not path.parts or path.anchor or ".." in path.parts:
        raise InputError(f"{origin}: refused, since it contains '{name}', which would land outside the target folder")
    return PurePosixPath(path.as_posix())


def unpack(
    archive: Path, out: Path, place: Callable[[PurePosixPath], PurePosixPath | None] = lambda path: path
) -> list[Path]:
    """Unpack a zip, all of it or nothing.

    Parameters
    ----------
    archive : Path
    out : Path
        Folder to unpack into, created if needed.
    place : callable, optional
        Maps the path of a member to where it goes in `out`, or to None to leave it out. By default, paths are kept.

    Returns
    -------
    list of Path
        Files of the archive that are now in `out`; those that were there already are not written again.

    Raises
    ------
    InputError
        If the archive is damaged, encrypted or too large for the disk, or a member would land outside.
    """
    if not archive.is_file():
        raise InputError(f"{archive}: is not a file; give the zip that you downloaded")
    try:
        with disk_errors(out), zipfile.ZipFile(archive) as file:
            wanted = [info for info in file.infolist() if not info.is_dir() and not _is_of_macos(info.filename)]
            places = [(place(safe_path(info.filename, archive)), info) for info in wanted]
            members = {out / path: info for path, info in places if path is not None}
            if not members:
                raise InputError(f"{archive}: contains none of the expected files; is it the right zip?")
            _extract(archive, file, {path: info for path, info in members.items() if not _same(path, info)}, out)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
        raise InputError(f"{archive}: is not a readable zip ({error}); delete it and download it again") from None
    return list(members)


def _is_of_macos(name: str) -> bool:
    """Whether a member is one of those that macOS adds to zips."""
    return name.startswith("__MACOSX/") or PurePosixPath(name).name.startswith("._")


def _same(path: Path, info: zipfile.ZipInfo) -> bool:
    """Whether a member of an archive is there already."""
    if not path.is_file() or path.stat().st_size != info.file_size:
        return False
    checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum == info.CRC


def _extract(archive: Path, file: zipfile.ZipFile, members: dict[Path, zipfile.ZipInfo], out: Path) -> None:
    """Extract into a hidden folder first, and move the files into place when all are there."""
    out.mkdir(parents=True, exist_ok=True)
    needed, free = sum(info.file_size for info in members.values()), shutil.disk_usage(out).free
    if needed > free:
        raise InputError(
            f"{archive}: needs {needed / 1e9:.1f} GB in {out}, which has {free / 1e9:.1f} GB free; "
            "free some space or choose another `out`"
        )
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=out) as staging:
        extracted = {path: file.extract(info, staging) for path, info in members.items()}
        for path, temporary in extracted.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            Path(temporary).replace(path)
