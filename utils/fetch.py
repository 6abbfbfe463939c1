"""Downloads: the published RDMs, the visual atlas of Wang et al. (2015), the checkpoints of the networks.

    python -m utils.fetch data       RDMs of the paper, from OSF project dj7v2
    python -m utils.fetch atlas      probabilistic atlas of visual areas
    python -m utils.fetch weights    encoders of the Taskonomy networks

Downloads that were cut off go on where they stopped, and a file takes its name only when it is complete and its SHA-256
is the expected one.
"""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from models.checkpoints import WEIGHTS, fetch_checkpoint, hub_folder
from models.tasks import TASKS
from utils import InputError, cli
from utils.dataset import Kind, holds_release, locate
from utils.download import TIMEOUT, Progress, download, http_status, safe_path, unpack, why_unreachable

if TYPE_CHECKING:
    pass

OSF_API = "https://api.osf.io/v2"
OSF_PROJECT = "dj7v2"
OSF_PAGE = f"https://osf.io/{OSF_PROJECT}/"

# The laboratory gives no digest. Its server is reported to refuse programs, so the page to visit is named as well.
ATLAS_ZIP = "http://scholar.princeton.edu/sites/default/files/napl/files/probatlas_v4.zip"
ATLAS_PAGE = "https://napl.scholar.princeton.edu/resources"
_ATLAS_NAME = "ProbAtlas_v4.zip"
_ATLAS_VOLUMES = ("maxprob_vol_lh.nii.gz", "maxprob_vol_rh.nii.gz")

# Names by which parts of the release are recognised, whatever folder they come in (data/README.md).
RELEASE_PARTS = (
    "RDM_taskonomy_bonner50",
    "kastner_ROIs_RDMs_pearson",
    "ROIfiles_Labeling.txt",
    "sl_rad=1__max_blk_edge=2",
    "mask.nii",
)
_FIGURES: dict[Kind, str] = {"searchlight": "Fig 1 and Fig 3a", "roi": "Fig 2 and Fig 3b"}

# ------------------------------------------------------------------------------------------------------ published RDMs


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


# ------------------------------------------------------------------------------------------------------------ archives


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


# -------------------------------------------------------------------------------------------------------- command line


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(prog="python -m utils.fetch", description=__doc__, formatter_class=cli.Help)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{data,atlas,weights}")

    def command(name: str, text: str, example: str) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name, help=text, formatter_class=cli.Help, description=f"{text}.\n\nexample:\n  {example}"
        )
        added.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
        return added

    data = command("data", "published RDMs of the paper, from OSF (gigabytes)", "python -m utils.fetch data --out data")
    atlas = command(
        "atlas",
        "atlas of visual areas of Wang et al. (2015)",
        "python -m utils.fetch atlas --archive ~/Downloads/ProbAtlas_v4.zip",
    )
    weights = command(
        "weights",
        "checkpoints of the Taskonomy encoders (95 MB each)",
        "python -m utils.fetch weights edge2d rgb2sfnorm",
    )
    for one, default in ((data, "dj7v2 on OSF"), (atlas, ATLAS_ZIP)):
        one.add_argument("--out", type=Path, default=cli.HOME / "data", metavar="DIR", help="data folder")
        source = one.add_mutually_exclusive_group()
        source.add_argument("--url", help=f"address of a zip to take instead of {default}", default=argparse.SUPPRESS)
        source.add_argument("--archive", type=Path, metavar="FILE", default=argparse.SUPPRESS,
                            help="zip that was downloaded by hand")  # fmt: skip
        if one is data:
            source.add_argument("--from", dest="base", default=OSF_API, metavar="URL",
                                help="address of OSF's programming interface, or of a mirror")  # fmt: skip
    weights.add_argument("tasks", nargs="*", metavar="TASK", help="tasks, by their keys; all if none is named")
    weights.add_argument("--out", type=Path, metavar="DIR", default=argparse.SUPPRESS,
                         help="folder (default: that of torch hub, where all scripts look)")  # fmt: skip
    weights.add_argument("--from", dest="base", default=WEIGHTS, metavar="URL",
                         help="address of the folder that holds the checkpoints, or of a mirror")  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = _parser().parse_args(arguments)
    for name in ("url", "archive", "out"):
        options.__dict__.setdefault(name, None)
    {"data": _main_data, "atlas": _main_atlas, "weights": _main_weights}[options.command](options)


def _main_data(options: argparse.Namespace) -> None:
    folder: Path = options.out
    if options.archive or options.url:
        unpack(_archive(options, options.url, "data.zip"), folder, release_path)
    else:
        with cli.progress("RDMs (bytes)", options) as advance:
            fetched, n_files, unverified = fetch_release(folder, options.base, advance)
        if unverified:
            cli.warn(f"OSF states no SHA-256 for {len(unverified)} file(s), which were not verified: {unverified[0]}")
        print(f"{n_files} file(s) of the release: {fetched} downloaded, {n_files - fetched} already there")
    present, absent = check_release(folder)
    for figures in present:
        print(f"{figures}: all data are in {folder}")
    for line in absent:
        cli.warn(line)
    if not holds_release(folder):
        raise InputError(f"{folder}: still holds no {RELEASE_PARTS[0]}, the RDMs of the networks; see {OSF_PAGE}")


def _main_atlas(options: argparse.Namespace) -> None:
    archive = _archive(options, options.url or ATLAS_ZIP, _ATLAS_NAME, ATLAS_PAGE)
    files = unpack(archive, options.out, _beside_release)
    volumes = [path for path in files if path.name in _ATLAS_VOLUMES]
    if len(volumes) < len(_ATLAS_VOLUMES):
        cli.warn(f"{archive}: expected the volumes {' and '.join(_ATLAS_VOLUMES)} in it; is it the right zip?")
    print(f"{len(files)} files of the atlas are in {options.out}")
    for path in sorted(volumes):
        print(f"  {path}")


def _beside_release(path: PurePosixPath) -> PurePosixPath | None:
    """Into a folder of the atlas's own: its table of areas has the name of the release's, and another form."""
    if path.parts[0] == "__MACOSX" or path.name.startswith("._"):
        return None
    top = _ATLAS_NAME.removesuffix(".zip")
    return path if path.parts[0] == top else PurePosixPath(top, path)


def _archive(options: argparse.Namespace, url: str, name: str, by_hand: str | None = None) -> Path:
    """The zip that the user has, or the one at `url`, with a word on its digest."""
    if options.archive:
        return options.archive
    path: Path = options.out / name
    with cli.progress(f"{name} (bytes)", options) as advance:
        digest, compared, fetched = fetch_zip(url, path, advance, by_hand)
    print(f"{path}: {'downloaded' if fetched else 'already there'}, SHA-256 {digest}")
    if compared:
        print("  the same as when it was first fetched")
    else:
        print(f"  recorded in {path.name}.sha256, not verified: its publisher states no digest")
    return path


def _main_weights(options: argparse.Namespace) -> None:
    known = {task.key: task for task in TASKS if task.checkpoint}
    unknown = [key for key in options.tasks if key not in known]
    if unknown:
        raise InputError(f"no checkpoint is known for {', '.join(unknown)}; there are {', '.join(known)}")
    folder = options.out or hub_folder()
    for key in options.tasks or known:
        with cli.progress(f"{key} (bytes)", options) as advance:
            path = fetch_checkpoint(known[key], folder, options.base, advance)
        print(f"{key}: {path} (SHA-256 verified)")


if __name__ == "__main__":
    cli.execute(main)
