"""The published release on OSF."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin

from utils import InputError
from utils.datasets.layout import Kind, locate
from utils.io.download import TIMEOUT, Progress, download, http_status, safe_path, unpack, why_unreachable

OSF_API = "https://api.osf.io/v2"
OSF_PROJECT = "dj7v2"
OSF_PAGE = f"https://osf.io/{OSF_PROJECT}/"
# Names by which parts of the release are recognised, whatever folder they come in (data/README.md).
RELEASE_PARTS = (
    "RDM_taskonomy_bonner50",
    "kastner_ROIs_RDMs_pearson",
    "ROIfiles_Labeling.txt",
    "sl_rad=1__max_blk_edge=2",
    "mask.nii",
)
_FIGURES: dict[Kind, str] = {"searchlight": "Fig 1 and Fig 3a", "roi": "Fig 2 and Fig 3b"}


@dataclass(frozen=True)
class Remote:
    """A file of an OSF project: its path there, address, digest (None if not stated) and size in bytes."""

    path: PurePosixPath
    url: str
    sha256: str | None
    size: int


def list_osf(base: str = OSF_API, project: str = OSF_PROJECT, folder: Path | None = None) -> list[Remote]:
    """All files in the storage of a public OSF project, folders included.

    Parameters
    ----------
    base : str
        Address of OSF's programming interface, version 2, or of a mirror of it.
    project : str
    folder : Path, optional
        Where the files are meant to go, for messages.

    Returns
    -------
    list of Remote

    Raises
    ------
    InputError
        If the listing cannot be had, is none, never ends, or names a file outside the project.
    """
    waiting = [f"{base.rstrip('/')}/nodes/{project}/files/osfstorage/?page[size]=100"]
    seen: set[str] = set()
    files: list[Remote] = []
    while waiting:
        url = waiting.pop(0)
        if url in seen:
            raise InputError(f"{url}: the listing leads back to itself, expected one that ends; see {OSF_PAGE}")
        seen.add(url)
        page = _json(url, folder)
        try:
            for item in page["data"]:
                if item["attributes"]["kind"] == "folder":
                    waiting.append(urljoin(url, item["relationships"]["files"]["links"]["related"]["href"]))
                else:
                    files.append(_remote(url, item))
            following = page["links"]["next"]
        except InputError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError):
            raise InputError(f"{url}: is no listing of OSF files; download {OSF_PAGE} by hand") from None
        if following:
            waiting.append(urljoin(url, following))
    return files


def _remote(url: str, item: dict[str, Any]) -> Remote:
    attributes = item["attributes"]
    name = (attributes.get("materialized_path") or attributes["name"]).removeprefix("/")
    hashes = (attributes.get("extra") or {}).get("hashes") or {}
    return Remote(
        path=safe_path(name, url),
        url=urljoin(url, item["links"]["download"]),
        sha256=hashes.get("sha256"),
        size=int(attributes.get("size") or 0),
    )


def _json(url: str, folder: Path | None) -> Any:
    import requests

    remedy = (
        f"download {OSF_PAGE} by hand and unpack it into {folder or 'the data folder'}, or give the zip with --archive"
    )
    try:
        response = requests.get(url, timeout=TIMEOUT, headers={"Accept": "application/json"})
        response.raise_for_status()
        return response.json()
    except requests.HTTPError as error:
        raise InputError(f"{url}: the server answers '{http_status(error)}'; {remedy}") from None
    except requests.JSONDecodeError:
        raise InputError(f"{url}: answers with something other than JSON; {remedy}") from None
    except requests.RequestException as error:
        raise InputError(f"{url}: cannot be reached: {why_unreachable(error)}; {remedy}") from None


def release_path(path: PurePosixPath) -> PurePosixPath | None:
    """Where a file belongs in the data folder; None if it is not part of the release."""
    if path.parts[0] == "__MACOSX" or path.name.startswith("._"):  # what macOS adds to zips
        return None
    for i, part in enumerate(path.parts):
        if part in RELEASE_PARTS:
            return PurePosixPath(*path.parts[i:])
    return None


def fetch_release(folder: Path, base: str = OSF_API, progress: Progress | None = None) -> tuple[int, int, list[str]]:
    """Fetch the published RDMs from OSF into the layout that the scripts read.

    Parameters
    ----------
    folder : Path
    base : str
        Address of OSF's programming interface or of a mirror.
    progress : callable, optional
        Told of (bytes done, bytes in all).

    Returns
    -------
    n_fetched, n_files : int
        Files that were downloaded, and files in all.
    unverified : list of str
        Names of files for which OSF states no digest.

    Raises
    ------
    InputError
        As `download` and `unpack`, and if the project holds nothing of the release.
    """
    remotes = list_osf(base, folder=folder)
    wanted = [(remote, _place(remote)) for remote in remotes]
    parts = [(remote, place) for remote, place in wanted if place is not None]
    if not parts:
        found = ", ".join(sorted({remote.path.parts[0] for remote in remotes})) or "nothing"
        raise InputError(
            f"{base}: project {OSF_PROJECT} holds {found}, expected {' or '.join(RELEASE_PARTS)} or a zip; "
            f"see {OSF_PAGE}, and give a zip with --archive or --url"
        )
    total, done, fetched = sum(remote.size for remote, _ in parts), 0, 0
    for remote, place in parts:
        target = folder / place
        counted = None if progress is None else _shifted(progress, done, total)
        by_hand = f"{OSF_PAGE} ({remote.path})"
        fetched += download(remote.url, target, remote.sha256, progress=counted, by_hand=by_hand)
        if target.suffix == ".zip":
            unpack(target, folder, release_path)
        done += remote.size
    return fetched, len(parts), [str(place) for remote, place in parts if remote.sha256 is None]


def _place(remote: Remote) -> PurePosixPath | None:
    return release_path(remote.path) or (PurePosixPath(remote.path.name) if remote.path.suffix == ".zip" else None)


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, max(total, before + done))


def check_release(folder: Path) -> tuple[list[str], list[str]]:
    """Figures whose data lie in a folder, and what the others lack, one line each."""
    present, absent = [], []
    for kind, figures in _FIGURES.items():
        try:
            locate(kind, folder)
            present.append(figures)
        except InputError as error:
            absent.append(f"{figures}: {error}")
    return present, absent


def fetch_zip(
    url: str, path: Path, progress: Progress | None = None, by_hand: str | None = None
) -> tuple[str, bool, bool]:
    """Download a zip whose digest nobody states, and keep a record of the digest that was found.

    The record, ``<name>.sha256`` in the form of `sha256sum`, is what later runs compare with: it shows that the file
    has not changed since it was first fetched, not that it was right then.

    Returns
    -------
    digest : str
        SHA-256 of the file.
    compared : bool
        Whether there was a record to compare it with.
    fetched : bool
        Whether it was downloaded now.

    Raises
    ------
    InputError
        As `download`, and if the file is no zip.
    """
    record = path.with_name(f"{path.name}.sha256")
    known = record.read_text().split()[:1] if record.is_file() else []
    try:
        fetched = download(url, path, known[0] if known else None, progress=progress, by_hand=by_hand)
    except InputError as error:
        again = f"; to accept another version, delete {record}" if known and "SHA-256" in str(error) else ""
        raise InputError(f"{error}{again}") from None
    if not zipfile.is_zipfile(path):
        if fetched:
            path.unlink()  # a server's page of apology, most likely
        raise InputError(
            f"{url if fetched else path}: is no zip; download {by_hand or url} by hand, save it as {path} and run again"
        )
    with path.open("rb") as file:
        digest = known[0] if known else hashlib.file_digest(file, "sha256").hexdigest()
    record.write_text(f"{digest}  {path.name}\n")
    return digest, bool(known), fetched
