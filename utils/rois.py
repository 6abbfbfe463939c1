"""Regions of interest (ROIs): RDMs from beta maps and an atlas.

    python -m utils.rois --betas sub-*/betas.nii.gz --conditions conditions.txt --out my_study \\
        --atlas maxprob_vol_lh.nii.gz maxprob_vol_rh.nii.gz
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from utils import InputError
from utils.searchlight import add_data_options

if TYPE_CHECKING:
    from utils.rdms.atlas import Atlas
    from utils.rdms.betas import Betas
from utils.rdms.roi_rdms import FOLDER, subject_rdms


def _write(
    data: Path,
    betas: Betas,
    atlas: Atlas,
    rdms: dict[str, NDArray[np.float32]],
    counts: Sequence[dict[str, Any]],
    record: dict[str, Any],
) -> list[Path]:
    """Write everything into a hidden folder and move it into place when it is whole; returns the files."""
    from utils.io.output import write_volume
    from utils.rdms.betas import CONDITIONS_FILE

    names = [f"{FOLDER}/{name}.npy" for name in rdms]
    files = [*names, f"{FOLDER}/roi_voxels.tsv", f"{FOLDER}/run.json", "roi_labels.csv", "atlas.nii.gz"]
    ids = {name: number for number, name in atlas.names.items()}
    labels = np.where(np.isin(atlas.labels, [ids[name] for name in rdms]), atlas.labels, 0)
    columns = ("roi", "subject", "voxels", "usable")
    try:
        (data / FOLDER).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=data) as folder:
            staging = Path(folder)
            (staging / FOLDER).mkdir()
            for name, stack in rdms.items():
                np.save(staging / FOLDER / f"{name}.npy", stack)
            lines = ["\t".join(columns), *("\t".join(str(row[column]) for column in columns) for row in counts)]
            _write_lines(staging / FOLDER / "roi_voxels.tsv", lines)
            _write_lines(staging / FOLDER / "run.json", [json.dumps({**record, "files": files}, indent=2)])
            _write_lines(staging / "roi_labels.csv", ["id,roi", *(f"{ids[name]},{name}" for name in rdms)])
            write_volume(staging / "atlas.nii.gz", labels.astype(np.int16), betas.grid.affine)
            if not (data / CONDITIONS_FILE).exists():
                _write_lines(staging / CONDITIONS_FILE, betas.conditions)
                files.append(CONDITIONS_FILE)
            _remove_earlier(data, keep=files)
            for name in files:
                (staging / name).replace(data / name)
    except OSError as error:
        raise InputError(
            f"{data}: cannot be written ({error.strerror or error}); nothing unfinished was left: make room, or choose "
            "another --out"
        ) from error
    return [data / name for name in files]


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    path.write_text("\n".join([*lines, ""]), encoding="utf-8", newline="\n")


def _remove_earlier(data: Path, keep: Sequence[str]) -> None:
    """Remove RDMs that an earlier call wrote and this one did not."""
    try:
        names = json.loads((data / FOLDER / "run.json").read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for name in names:
        parts = Path(str(name)).parts
        if len(parts) == 2 and parts[0] == FOLDER and parts[1].endswith(".npy") and name not in keep:
            (data / name).unlink(missing_ok=True)


_HELP = """ROI RDMs of every subject from beta maps and an atlas, for Fig 2 and Fig 3b.

PATHs of --betas are as in python -m utils.searchlight: 4-D NIfTI files with one volume per condition, or folders of
such files (runs) or of 3-D files named after their conditions; PATHs with the same sub-... are of one subject.

An atlas is one of
  - a volume of whole numbers, with --labels, a table of its ids and names: CSV with columns id and roi, or lines of a
    number and a name as in ROIfiles_Labeling.txt of Wang et al. 2015;
  - two such volumes, one per hemisphere, with lh and rh (or left and right) in their names, such as
    maxprob_vol_lh.nii.gz and maxprob_vol_rh.nii.gz of Wang et al. 2015, whose names are built in;
  - with --threshold, probability maps: one 4-D file in the order of the ids, or one file per ROI with its id in the
    name, such as perc_VTPM_vol_roi1_lh.nii.gz. A voxel goes to the ROI of the largest value.
Where the atlas is on another grid than the beta maps, the nearest voxel counts.

Into DATA go roi_rdms/ (one .npy per ROI, roi_voxels.tsv, run.json), roi_labels.csv, atlas.nii.gz and conditions.txt.

examples:
  python -m utils.rois --betas sub-*/betas.nii.gz --conditions conditions.txt --out my_study \\
      --atlas maxprob_vol_lh.nii.gz maxprob_vol_rh.nii.gz
  python -m utils.rois --betas sub-01 sub-02 --atlas atlas.nii.gz --labels labels.csv --mask mask.nii.gz --out my_study
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: RDMs of all ROIs and subjects into a data folder."""
    started = time.time()
    options = _parse(argv)
    from utils import cli
    from utils.rdms import atlas, betas

    maps = betas.find_betas(options.betas, options.conditions, options.out)
    betas.check_conditions_of(options.out, maps.conditions)
    inside = None
    if options.mask is not None:
        inside, grid = betas.read_mask(options.mask)
        betas.check_same_grid(options.mask, grid, maps)
    if not options.quiet:
        print(betas.describe(maps), flush=True)
    regions = atlas.read_atlas(options.atlas, maps.grid, options.labels, options.hemisphere, options.threshold)
    with cli.progress("ROIs", options) as advance:
        rdms, counts = subject_rdms(
            maps, regions, inside, metric=options.metric, center=options.center, progress=advance
        )
    written = _write(options.out, maps, regions, rdms, counts, _record(options, maps, regions, rdms, started))
    if not options.quiet:
        print(f"{len(rdms)} ROI(s) of {len(maps.subjects)} subject(s) took {time.time() - started:.1f} s")
        print(f"{len(written)} files are in {options.out}: {FOLDER}/, roi_labels.csv, atlas.nii.gz, conditions.txt")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    from utils import cli
    from utils.rdm import METRICS

    parser = cli.Parser(prog="python -m utils.rois", description=_HELP, formatter_class=cli.Help, allow_abbrev=False)
    add_data_options(parser, mask_required=False)
    group = parser.add_argument_group("ROIs")
    none = argparse.SUPPRESS
    group.add_argument("--atlas", type=Path, nargs="+", required=True, metavar="FILE", default=none,
                       help="NIfTI volume(s), as explained above")  # fmt: skip
    group.add_argument("--labels", type=Path, metavar="TABLE", default=none, help="ids and names of the ROIs")
    group.add_argument("--hemisphere", choices=("left", "right", "both", "separate"), default="both",
                       help="one hemisphere, both together, or both as ROIs of their own (V1v_lh, V1v_rh)")  # fmt: skip
    group.add_argument("--threshold", type=float, metavar="P", default=none,
                       help="volumes are probability maps; take voxels of P or more, in the unit of the maps"
                       )  # fmt: skip
    group.add_argument("--metric", choices=tuple(METRICS), default="correlation", help="correlation is 1 - Pearson")
    group.add_argument("--center", action="store_true", help="subtract the mean over conditions from every voxel first")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but warnings")
    options = parser.parse_args(argv)
    for name in ("mask", "conditions", "labels", "threshold"):
        options.__dict__.setdefault(name, None)
    if options.threshold is not None and not 0 < options.threshold < np.inf:
        parser.error(f"--threshold is {options.threshold:g}, expected a positive number in the unit of the maps")
    return options


def _record(
    options: argparse.Namespace, betas: Betas, atlas: Atlas, rdms: dict[str, NDArray], started: float
) -> dict[str, Any]:
    from utils.io.provenance import fingerprint, provenance

    listed = ("betas", "atlas")
    chosen = {name: [str(p) for p in value] if name in listed else value for name, value in vars(options).items()}
    data = {
        "simulated": False,
        "n_subjects": len(betas.subjects),
        "n_conditions": len(betas.conditions),
        "grid": str(betas.grid),
        "files": {subject.name: [str(path) for path in subject.files] for subject in betas.subjects},
        "fingerprint": fingerprint(atlas.labels, *rdms.values()),
    }
    return provenance("rois", chosen, data, "cpu", started)


if __name__ == "__main__":
    from utils import cli

    cli.execute(main)
