"""Downloads: the published RDMs, the visual atlas of Wang et al. (2015), the checkpoints of the networks.

    python -m utils.fetch data       RDMs of the paper, from OSF project dj7v2
    python -m utils.fetch atlas      probabilistic atlas of visual areas
    python -m utils.fetch weights    encoders of the Taskonomy networks

Downloads that were cut off go on where they stopped, and a file takes its name only when it is complete and its SHA-256
is the expected one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from models.checkpoints import WEIGHTS, fetch_checkpoint, hub_folder
from models.tasks import TASKS
from utils import InputError, cli
from utils.datasets.layout import holds_release
from utils.datasets.release import (
    OSF_API,
    OSF_PAGE,
    RELEASE_PARTS,
    check_release,
    fetch_release,
    fetch_zip,
    release_path,
)
from utils.io.download import unpack

# The laboratory gives no digest. Its server is reported to refuse programs, so the page to visit is named as well.
ATLAS_ZIP = "http://scholar.princeton.edu/sites/default/files/napl/files/probatlas_v4.zip"
ATLAS_PAGE = "https://napl.scholar.princeton.edu/resources"
_ATLAS_NAME = "ProbAtlas_v4.zip"
_ATLAS_VOLUMES = ("maxprob_vol_lh.nii.gz", "maxprob_vol_rh.nii.gz")


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
