"""The published release on OSF, and the atlas of visual areas of Wang et al. (2015)."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urljoin

import numpy as np
import pooch
import requests

from utils import InputError
from utils.datasets.layout import Kind, locate
from utils.io.data_folder import RELEASE, DataFolder
from utils.io.download import TIMEOUT, Progress, download, safe_path, unpack, why_failed
from utils.io.output import disk_errors, write_roi_table, write_volume
from utils.io.readers import read_volume
from utils.io.roi_tables import read_roi_table
from utils.rdms.atlas import read_atlas
from utils.rdms.stimuli import few

OSF_API = "https://api.osf.io/v2"
OSF_PROJECT = "dj7v2"
OSF_PAGE = f"https://osf.io/{OSF_PROJECT}/"
_FIGURES: dict[Kind, str] = {"searchlight": "Fig 1 and Fig 3a", "roi": "Fig 2 and Fig 3b"}

# The laboratory publishes no digest. Its server is reported to refuse programs, so the page to visit is named as well.
ATLAS_ZIP = "http://scholar.princeton.edu/sites/default/files/napl/files/probatlas_v4.zip"
ATLAS_PAGE = "https://napl.scholar.princeton.edu/resources"
ATLAS_NAME = "ProbAtlas_v4"
ATLAS_VOLUMES = ("maxprob_vol_lh.nii.gz", "maxprob_vol_rh.nii.gz")


@dataclass(frozen=True)
class Remote:
    """A file of an OSF project: its path there, address, digest (None if not stated) and size in bytes."""

    path: str
    url: str
    sha256: str | None
    size: int


def list_osf(base: str = OSF_API) -> list[Remote]:
    """All files in the storage of the paper's OSF project, including those in folders.

    Parameters
    ----------
    base : str
        Address of OSF's programming interface, version 2, or of a mirror of it.

    Returns
    -------
    list of Remote

    Raises
    ------
    InputError
        If there is no such listing, or it never ends.
    """
    waiting = [f"{base.rstrip('/')}/nodes/{OSF_PROJECT}/files/osfstorage/?page[size]=100"]
    remedy = f"download {OSF_PAGE} by hand and give the zip as `archive`"
    seen: set[str] = set()
    files: list[Remote] = []
    while waiting:
        url = waiting.pop(0)
        if url in seen:
            raise InputError(f"{url}: the listing leads back to itself, expected one that ends; see {OSF_PAGE}")
        seen.add(url)
        try:
            response = requests.get(url, timeout=TIMEOUT, headers={"Accept": "application/json"})
            response.raise_for_status()
            page = response.json()
            folders = [item for item in page["data"] if item["attributes"]["kind"] == "folder"]
            links = [item["relationships"]["files"]["links"]["related"]["href"] for item in folders]
            waiting += [urljoin(url, link) for link in (*links, page["links"]["next"]) if link]
            files += [_remote(url, item) for item in page["data"] if item not in folders]
        except requests.RequestException as error:
            raise InputError(f"{url}: {why_failed(error)}; {remedy}") from None
        except (KeyError, TypeError, AttributeError, ValueError):
            raise InputError(f"{url}: is not a listing of OSF files; {remedy}") from None
    return files


def _remote(url: str, item: dict[str, Any]) -> Remote:
    attributes = item["attributes"]
    return Remote(
        path=(attributes.get("materialized_path") or attributes["name"]).removeprefix("/"),
        url=urljoin(url, item["links"]["download"]),
        sha256=((attributes.get("extra") or {}).get("hashes") or {}).get("sha256"),
        size=int(attributes.get("size") or 0),
    )


def release_path(path: PurePosixPath) -> PurePosixPath | None:
    """Where a file belongs in the data folder.

    Parameters
    ----------
    path : PurePosixPath
        Path in the OSF project or in a zip.

    Returns
    -------
    PurePosixPath or None
        Path in the data folder; None if the file is not part of the release.
    """
    for i, part in enumerate(path.parts):
        if part in RELEASE.values():
            return PurePosixPath(*path.parts[i:])
    return None


def atlas_path(path: PurePosixPath) -> PurePosixPath:
    """Where a file of the atlas belongs in the data folder: in a folder of its own.

    The atlas's table of areas has the name of the release's, but another format.

    Parameters
    ----------
    path : PurePosixPath
        Path in the zip.

    Returns
    -------
    PurePosixPath
    """
    return path if path.parts[0] == ATLAS_NAME else PurePosixPath(ATLAS_NAME, path)


def merge_atlas(volumes: Sequence[Path], out: Path) -> tuple[list[Path], list[str]]:
    """Make the data folder's atlas of the two hemispheres of Wang et al. (2015), as Fig 2 and Fig 3b read it.

    Its labels are the ids of the folder's ROI table. Where there is no table, they are those of Wang et al., which are
    also the release's, and a table is written.

    Parameters
    ----------
    volumes : sequence of Path
        `ATLAS_VOLUMES`.
    out : Path
        Data folder.

    Returns
    -------
    written : list of Path
        The atlas, and the table if there was none; nothing if the folder has another atlas, which is left alone.
    lacking : list of str
        Areas of the atlas that the ROI table does not have.

    Raises
    ------
    InputError
        If a volume or the table cannot be read, the table has none of the areas, or the disk is full.
    """
    atlas, folder = read_atlas(volumes), DataFolder(out)
    table = folder.find("roi_labels")
    ids = {name: number for number, name in (read_roi_table(table) if table else atlas.names).items()}
    lacking = [name for name in atlas.names.values() if name not in ids]
    if len(lacking) == len(atlas.names):
        raise InputError(
            f"{table}: has none of the areas of Wang et al. 2015 ({few(lacking)}), expected the release's ROI table; "
            "choose another folder as `out`"
        )
    labels = np.zeros_like(atlas.labels)
    for number, name in atlas.names.items():
        labels[atlas.labels == number] = ids.get(name, 0)
    if folder.atlas.exists():
        there, affine = read_volume(folder.atlas)
        if not (np.array_equal(there, labels) and np.allclose(affine, atlas.affine)):
            return [], lacking
    with disk_errors(folder.atlas):
        unfinished = folder.atlas.with_name(f".unfinished-{folder.atlas.name}")
        try:
            write_volume(unfinished, labels, atlas.affine, "label", atlas.space)
            unfinished.replace(folder.atlas)
        finally:
            unfinished.unlink(missing_ok=True)
    if table is None:
        write_roi_table(folder.roi_labels, atlas.names)
    return [folder.atlas, *([folder.roi_labels] if table is None else [])], lacking


def fetch_release(out: Path, base: str = OSF_API, progress: Progress | None = None) -> tuple[int, list[Remote]]:
    """Download the published RDMs from OSF into the layout that the scripts read.

    Parameters
    ----------
    out : Path
        Data folder.
    base : str
        Address of OSF's programming interface, or of a mirror.
    progress : callable, optional
        Called with (bytes done, bytes in total).

    Returns
    -------
    n_fetched : int
        How many files were downloaded; the others were there already.
    files : list of Remote
        All files of the release. Those without a digest were not verified.

    Raises
    ------
    InputError
        As `list_osf`, `download` and `unpack`, and if the project contains no part of the release.
    """
    remotes = list_osf(base)
    files = {remote: place for remote in remotes if (place := _place(safe_path(remote.path, base)))}
    if not files:
        found = ", ".join(sorted({remote.path.partition("/")[0] for remote in remotes})) or "nothing"
        raise InputError(
            f"{base}: project {OSF_PROJECT} contains {found}, expected {' or '.join(RELEASE.values())} or a zip; "
            f"see {OSF_PAGE}, and give a zip as `archive` or its address as `url`"
        )
    total, done, n_fetched = sum(remote.size for remote in files), 0, 0
    for remote, place in files.items():
        counted = None if progress is None else _shifted(progress, done, total)
        by_hand = f"{OSF_PAGE} ({remote.path})"
        n_fetched += download(remote.url, out / place, remote.sha256, progress=counted, by_hand=by_hand)
        if place.suffix == ".zip":
            unpack(out / place, out, release_path)
        done += remote.size
    return n_fetched, list(files)


def _place(path: PurePosixPath) -> PurePosixPath | None:
    return PurePosixPath(path.name) if path.suffix == ".zip" else release_path(path)


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    return lambda done, _: progress(before + done, max(total, before + done))


def check_release(folder: Path) -> dict[str, str]:
    """What the figures lack in a data folder.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    dict of str to str
        "Fig 1 and Fig 3a", "Fig 2 and Fig 3b" -> message, empty if nothing is missing.
    """
    lacking = dict.fromkeys(_FIGURES.values(), "")
    for kind, figures in _FIGURES.items():
        try:
            locate(kind, folder)
        except InputError as error:
            lacking[figures] = str(error)
    return lacking


def fetch_zip(url: str, path: Path, progress: Progress | None = None, by_hand: str | None = None) -> tuple[str, bool]:
    """Download a zip whose publisher states no digest, unless it is there, and record the digest that was found.

    Later calls compare with the record, ``<name>.sha256`` in the format of `sha256sum`. It shows that the file has
    not changed since it was first downloaded, not that it was correct then.

    Parameters
    ----------
    url, path, progress, by_hand
        As in `download`.

    Returns
    -------
    digest : str
        SHA-256 of the file.
    compared : bool
        Whether there was a record to compare it with.

    Raises
    ------
    InputError
        As `download`, and if the file is not a zip.
    """
    record = path.with_name(f"{path.name}.sha256")
    known = record.read_text().split()[0] if record.is_file() else None
    try:
        fetched = download(url, path, known, progress=progress, by_hand=by_hand)
    except InputError as error:
        again = f"; to accept another version, delete {record}" if known and known in str(error) else ""
        raise InputError(f"{error}{again}") from None
    if not zipfile.is_zipfile(path):
        if fetched:
            path.unlink()  # most likely a web page that says why there is no file
        raise InputError(
            f"{url if fetched else path}: is not a zip; download {by_hand or url} by hand, save it as {path} and "
            "run this again"
        )
    digest = known or pooch.file_hash(path)
    record.write_text(f"{digest}  {path.name}\n")
    return digest, known is not None
