"""Downloads: the published RDMs, the visual atlas of Wang et al. (2015), the checkpoints of the networks.

    python -m utils.fetch data       RDMs of the paper, from OSF project dj7v2
    python -m utils.fetch atlas      probabilistic atlas of visual areas
    python -m utils.fetch weights    encoders of the Taskonomy networks

Interrupted downloads resume where they stopped, and a file gets its name only when it is complete and its SHA-256 is
the expected one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from models.checkpoints import WEIGHTS, fetch_checkpoint, hub_folder
from models.tasks import TASKS
from utils import InputError
from utils.cli import command as cli
from utils.datasets import release
from utils.datasets.layout import holds_release
from utils.io.data_folder import RELEASE, DataFolder, default_data
from utils.io.download import unpack


def _parser() -> cli.Parser:
    parser = cli.Parser(prog="python -m utils.fetch", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{data,atlas,weights}")

    def command(name: str, text: str, example: str) -> argparse.ArgumentParser:
        description = f"{text}.\n\nexample:\n  python -m utils.fetch {name} {example}"
        added = commands.add_parser(name, help=text, description=description)
        added.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
        return added

    data = command("data", "published RDMs of the paper, from OSF (gigabytes)", "--out data")
    atlas = command("atlas", "atlas of visual areas of Wang et al. (2015)", "--archive ~/Downloads/ProbAtlas_v4.zip")
    weights = command("weights", "checkpoints of the Taskonomy encoders (95 MB each)", "edge2d rgb2sfnorm")
    for one, source in ((data, "dj7v2 on OSF"), (atlas, release.ATLAS_ZIP)):
        one.add_argument("--out", type=Path, default=default_data(), metavar="DIR", help="data folder")
        other = one.add_mutually_exclusive_group()
        other.add_argument("--url", help=f"address of a zip to use instead of {source}")
        other.add_argument("--archive", type=Path, metavar="FILE", help="zip that was downloaded by hand")
        if one is data:
            other.add_argument("--from", dest="base", default=release.OSF_API, metavar="URL",
                               help="address of OSF's programming interface, or of a mirror")  # fmt: skip
    weights.add_argument("tasks", nargs="*", metavar="TASK", help="keys of tasks (default: all)")
    weights.add_argument("--out", type=Path, metavar="DIR",
                         help="folder (default: that of torch hub, where all scripts look)")  # fmt: skip
    weights.add_argument("--from", dest="base", default=WEIGHTS, metavar="URL",
                         help="address of the folder of the checkpoints, or of a mirror")  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    options = _parser().parse_args(arguments)
    {"data": _main_data, "atlas": _main_atlas, "weights": _main_weights}[options.command](options)


def _main_data(options: argparse.Namespace) -> None:
    if options.archive or options.url:
        unpack(_archive(options, options.url, "data.zip"), options.out, release.release_path)
    else:
        with cli.progress("RDMs (bytes)", options) as advance:
            fetched, files = release.fetch_release(options.out, options.base, advance)
        unverified = [file.path for file in files if file.sha256 is None]
        if unverified:
            cli.warn(f"OSF states no SHA-256 for {len(unverified)} file(s), which were not verified: {unverified[0]}")
        print(f"{len(files)} file(s) of the release: {fetched} downloaded, {len(files) - fetched} already there")
    for figures, lacking in release.check_release(options.out).items():
        if lacking:
            cli.warn(f"{figures}: {lacking}")
        else:
            print(f"{figures}: all data are in {options.out}")
    if not holds_release(options.out):
        raise InputError(f"{options.out}: still has no {RELEASE['dnn_rdms']}, the RDMs of the networks; "
                         f"see {release.OSF_PAGE}")  # fmt: skip


def _main_atlas(options: argparse.Namespace) -> None:
    archive = _archive(options, options.url or release.ATLAS_ZIP, f"{release.ATLAS_NAME}.zip", release.ATLAS_PAGE)
    files = unpack(archive, options.out, release.atlas_path)
    volumes = sorted(path for path in files if path.name in release.ATLAS_VOLUMES)
    print(f"{len(files)} files of the atlas are in {options.out}", *volumes, sep="\n  ")
    if len(volumes) < len(release.ATLAS_VOLUMES):
        cli.warn(f"{archive}: expected the volumes {' and '.join(release.ATLAS_VOLUMES)} in it; is it the right zip?")
        return
    written, lacking = release.merge_atlas(volumes, options.out)
    if lacking:
        cli.warn(f"the ROI table in {options.out} does not have {', '.join(lacking)}, which are left out of the atlas")
    if written:
        print(f"{' and '.join(map(str, written))}: both hemispheres together, for the brain maps of Fig 2 and Fig 3b")
    else:
        cli.warn(f"{DataFolder(options.out).atlas}: is there already with other labels and was left as it is; delete "
                 "it and run this again to have that of Wang et al. 2015")  # fmt: skip


def _archive(options: argparse.Namespace, url: str, name: str, by_hand: str | None = None) -> Path:
    """The zip that the user has, or the one at `url`, with a note on its digest."""
    if options.archive:
        return options.archive
    path: Path = options.out / name
    with cli.progress(f"{name} (bytes)", options) as advance:
        digest, compared = release.fetch_zip(url, path, advance, by_hand)
    note = "the same as when it was first downloaded" if compared else "not verified, as its publisher states no digest"
    print(f"{path}: SHA-256 {digest} ({note})")
    return path


def _main_weights(options: argparse.Namespace) -> None:
    known = {task.key: task for task in TASKS if task.checkpoint}
    unknown = [key for key in options.tasks if key not in known]
    if unknown:
        raise InputError(f"no checkpoint is known for {', '.join(unknown)}; there are {', '.join(known)}")
    for key in options.tasks or known:
        with cli.progress(f"{key} (bytes)", options) as advance:
            path = fetch_checkpoint(known[key], options.out or hub_folder(), options.base, advance)
        print(f"{key}: {path} (SHA-256 verified)")


def command() -> None:
    """Run from the command line."""
    cli.execute(main, _parser())


if __name__ == "__main__":
    command()
