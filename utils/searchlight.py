"""Searchlight RDMs from beta maps: the command `python -m utils.searchlight`."""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.rdms.searchlights import MIN_VOXELS, block_searchlights, sphere_searchlights

if TYPE_CHECKING:
    from utils.parallel.dask_workers import Cluster
    from utils.rdms.searchlight_rdms import Job, Outcome

_HELP = """Searchlight RDMs of every subject from beta maps, for Fig 1 and Fig 3a.

PATHs of --betas are 4-D NIfTI files with one volume per condition, or folders: of such files, which are runs, or of 3-D
files named after their conditions (face.nii.gz, or sub-01_run-2_face.nii.gz). PATHs with the same sub-... in their
names are of one subject; any other PATH is a subject of its own. Runs of a condition are averaged. 4-D files need
--conditions, a text file with one name per line in the order of the volumes, unless DATA has a conditions.txt.

Into DATA go searchlight_rdms/ (one .npy per subject, geometry.npz, noise_ceiling.npz for two or more subjects, the
number of voxels of each searchlight, subjects.tsv, run.json), mask.nii.gz and conditions.txt. A run that was
interrupted goes on where it stopped, and subjects whose inputs are the same are not computed again.

examples:
  python -m utils.searchlight --betas sub-*/betas.nii.gz --mask mask.nii.gz --conditions conditions.txt --out my_study
  python -m utils.searchlight --betas sub-01 sub-02 sub-03 --mask mask.nii.gz --geometry spheres --radius-mm 9 \\
      --out my_study
"""
_MIN_VOXELS_OF_SPHERE = 5


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: RDMs of all searchlights and subjects into a data folder."""
    started = time.time()
    options = _parse(argv)
    from utils import cli
    from utils.rdms import betas, searchlight_rdms

    maps = betas.find_betas(options.betas, options.conditions, options.out)
    betas.check_conditions_of(options.out, maps.conditions)
    mask, grid = betas.read_mask(options.mask)
    betas.check_same_grid(options.mask, grid, maps)
    if not options.quiet:
        print(betas.describe(maps), flush=True)
    if options.geometry == "spheres":
        searchlights = sphere_searchlights(mask, grid.affine, options.radius_mm, options.min_voxels)
    else:
        searchlights = block_searchlights(mask, grid.affine)
    job = searchlight_rdms.Job(
        betas=maps,
        searchlights=searchlights,
        settings={name: getattr(options, name) for name in ("metric", "center", "min_voxels")},
        exact=options.geometry == "blocks",
        mask=mask,
        data=options.out,
        threads=options.threads,
        memory=options.memory,
    )
    with cli.workers(options) as cluster, cli.progress("searchlights", options) as advance:
        outcome = searchlight_rdms.compute(
            job, lambda: _record(options, job, cluster, started), advance, fresh=options.fresh, cluster=cluster
        )
    _report(options, outcome, started)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    from utils import cli
    from utils.rdm import METRICS

    parser = cli.Parser(
        prog="python -m utils.searchlight", description=_HELP, formatter_class=cli.Help, allow_abbrev=False
    )
    add_data_options(parser)
    shape = parser.add_argument_group("searchlights")
    shape.add_argument("--geometry", choices=("blocks", "spheres"), default="blocks",
                       help="the release's blocks (4 x 4 x 4 voxels for every 2 x 2 x 2), or spheres")  # fmt: skip
    shape.add_argument("--radius-mm", type=float, metavar="R", default=argparse.SUPPRESS,
                       help="radius of the spheres, in mm; needed for them")  # fmt: skip
    shape.add_argument("--min-voxels", type=int, metavar="N", default=argparse.SUPPRESS,
                       help=f"fewer voxels make no RDM; spheres with fewer voxels in the mask are left out "
                            f"(default: {_MIN_VOXELS_OF_SPHERE} for spheres, {MIN_VOXELS} for blocks)")  # fmt: skip
    shape.add_argument("--metric", choices=tuple(METRICS), default="correlation", help="correlation is 1 - Pearson")
    shape.add_argument("--center", action="store_true", help="subtract the mean over conditions from every voxel first")
    run = parser.add_argument_group("run")
    cli.add_threads_option(run, "--n-jobs")
    cli.add_dask_option(run)
    run.add_argument("--memory", type=cli.size, default="1GB", metavar="SIZE",
                     help="let this process, without workers of --dask, stay under this, such as 800MB")  # fmt: skip
    run.add_argument("--fresh", action="store_true", help="compute everything anew, and keep nothing of earlier calls")
    run.add_argument("-q", "--quiet", action="store_true", help="say nothing but warnings")
    options = parser.parse_args(argv)
    for name in ("conditions", "radius_mm", "min_voxels", "dask"):
        options.__dict__.setdefault(name, None)
    if options.geometry == "blocks" and options.radius_mm is not None:
        parser.error("--radius-mm is the radius of spheres, which blocks have not; add --geometry spheres")
    if options.geometry == "spheres" and not (options.radius_mm and 0 < options.radius_mm < np.inf):
        parser.error("--geometry spheres needs --radius-mm, a positive number; three voxels are usual")
    if options.min_voxels is None:
        options.min_voxels = _MIN_VOXELS_OF_SPHERE if options.geometry == "spheres" else MIN_VOXELS
    if options.min_voxels < MIN_VOXELS:
        parser.error(f"--min-voxels is {options.min_voxels}, expected {MIN_VOXELS} or more")
    return options


def add_data_options(parser: argparse.ArgumentParser, *, mask_required: bool = True) -> None:
    """Options that searchlights and ROIs share: where beta maps come from, and where RDMs go."""
    group = parser.add_argument_group("data")
    none = argparse.SUPPRESS
    group.add_argument("--betas", type=Path, nargs="+", required=True, metavar="PATH", default=none,
                       help="beta maps: NIfTI files or folders, as explained above")  # fmt: skip
    group.add_argument("--mask", type=Path, required=mask_required, metavar="FILE", default=none,
                       help="brain mask (NIfTI, inside where > 0) on the grid of the beta maps")  # fmt: skip
    group.add_argument("--conditions", type=Path, metavar="FILE", default=none,
                       help="names of the conditions, one per line (default: conditions.txt of DATA, or file names)"
                       )  # fmt: skip
    group.add_argument("--out", type=Path, required=True, metavar="DATA", default=none,
                       help="data folder, in the layout of data/README.md; made if needed")  # fmt: skip


def _record(options: argparse.Namespace, job: Job, cluster: Cluster | None, started: float) -> dict[str, Any]:
    from utils.io.provenance import provenance

    chosen = {name: [str(p) for p in value] if name == "betas" else value for name, value in vars(options).items()}
    data = {
        "n_subjects": len(job.betas.subjects),
        "n_conditions": len(job.betas.conditions),
        "n_searchlights": len(job.searchlights),
        "grid": str(job.betas.grid),
        "files": {subject.name: [str(path) for path in subject.files] for subject in job.betas.subjects},
    }
    if cluster is not None:
        data["dask_workers"] = cluster.n_workers
    return provenance("searchlight", chosen, {"simulated": False, **data}, "cpu", started)


def _report(options: argparse.Namespace, outcome: Outcome, started: float) -> None:
    """What was done, and what was left out."""
    rows = outcome.rows
    without = max(rows, key=lambda row: row["without_rdm"])
    if without["without_rdm"]:
        warnings.warn(
            f"subject {without['subject']}: {without['without_rdm']:,} of {without['searchlights']:,} searchlights "
            f"hold fewer than {options.min_voxels} usable voxels and have no RDM; the figures leave out those that "
            f"any subject lacks (see {outcome.folder / 'subjects.tsv'})",
            stacklevel=1,
        )
    if len(rows) == 1:
        warnings.warn("one subject has no noise ceiling; Fig 1 and Fig 3a need two subjects or more", stacklevel=1)
    if options.quiet:
        return
    kept = len(rows) - outcome.n_computed
    print(
        f"{rows[0]['searchlights']:,} searchlights of {len(rows)} subject(s)"
        + (f", {kept} of them kept from an earlier call," if kept else "")
        + f" took {time.time() - started:.1f} s"
    )
    for kind, title in (("not_finite", "NaN or infinite"), ("constant", "the same in all conditions")):
        counts = [row[kind] for row in rows]
        if max(counts):
            spread = f"{max(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
            print(f"  left out: {spread} of {rows[0]['voxels']:,} voxels per subject, as they are {title}")
    print(f"{len(outcome.files)} files are in {options.out}: {outcome.folder.name}/, mask.nii.gz, conditions.txt")


if __name__ == "__main__":
    from utils import cli

    cli.execute(main)
