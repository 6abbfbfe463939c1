"""Searchlight RDMs from beta maps: the command `python -m utils.searchlight`."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from utils import InputError
from utils.cli import command as cli
from utils.cli.options import BETAS, add_data_options, add_mesh_options, add_metric_options
from utils.rdms.searchlights import MIN_VOXELS

if TYPE_CHECKING:
    from utils.rdms.betas import Betas
    from utils.rdms.measure import Measure
    from utils.rdms.searchlight_rdms import SearchlightJob

_HELP = """Searchlight RDMs of every subject from beta maps, for Fig 1 and Fig 3a.

{BETAS}

Into DATA go searchlight_rdms/ (one .npy per subject, geometry.npz, noise_ceiling.npz for two or more subjects, the
number of voxels of each searchlight, subjects.tsv, run.json), mask.nii.gz and conditions.txt. Subjects that are
finished, after an interruption or from an earlier run on the same inputs, are not computed again.

examples:
  python -m utils.searchlight --betas sub-*/betas.nii.gz --mask mask.nii.gz --conditions conditions.txt --out my_study
  python -m utils.searchlight --betas sub-01 sub-02 sub-03 --mask mask.nii.gz --geometry spheres --radius-mm 9 \\
      --out my_study
  python -m utils.searchlight --betas surface/sub-* --conditions conditions.txt --geometry discs --radius-mm 10 \\
      --out my_study
  python -m utils.searchlight --betas derivatives/glm --mask mask.nii.gz --out my_study --dry-run
""".replace("{BETAS}", BETAS)
_MIN_VOXELS_OF_SPHERE = 5


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: RDMs of all searchlights and subjects into a data folder."""
    started = time.time()
    options = _options(argv)
    from utils.io.data_folder import DataFolder
    from utils.io.provenance import provenance
    from utils.rdms.betas import find_betas
    from utils.rdms.measure import find_measure
    from utils.rdms.searchlight_rdms import write_searchlight_rdms
    from utils.rdms.vertices import Vertices

    data = DataFolder(options.out)
    maps = find_betas(options.betas, options.conditions, data.conditions, drop_incomplete=options.drop_incomplete)
    measure = find_measure(options.metric, options.center, options.noise, maps)
    if options.dry_run or not options.quiet:
        print(maps, flush=True)
    if options.dry_run:
        return
    if isinstance(maps.grid, Vertices) != (options.geometry == "discs"):
        remedy = (
            "discs need one file per hemisphere (GIFTI, MGH) or CIFTI"
            if options.geometry == "discs"
            else "add --geometry discs"
        )
        raise InputError(f"{maps.files[0]}: holds {maps.grid}, not data for --geometry {options.geometry}; {remedy}")
    job = (_job_of_discs if options.geometry == "discs" else _job_of_volumes)(options, maps, measure)
    record = partial(provenance, "searchlight", vars(options), device="cpu", started=started)
    with cli.workers(options) as workers, cli.progress("searchlights", options) as advance:
        written = write_searchlight_rdms(
            job, data, record, threads=options.threads, progress=advance, fresh=options.fresh, workers=workers
        )
    if not options.quiet:
        print(f"{written}\n{len(written.files)} files are in {options.out}, after {time.time() - started:.1f} s")


def _job_of_volumes(options: argparse.Namespace, maps: Betas, measure: Measure) -> SearchlightJob:
    """Blocks or spheres in a brain mask."""
    from utils.io.spaces import read_space
    from utils.rdms.betas import read_mask
    from utils.rdms.searchlight_rdms import SearchlightJob
    from utils.rdms.searchlights import block_searchlights, sphere_searchlights

    mask, grid = read_mask(options.mask, maps)
    maps = maps.on(grid)
    space = options.space or read_space([*maps.files, options.mask])
    if options.geometry == "spheres":
        searchlights = sphere_searchlights(mask, grid.affine, options.radius_mm, options.min_voxels, space)
    else:
        searchlights = block_searchlights(mask, grid.affine, space)
    if uncovered := searchlights.uncovered(mask):
        why = (
            f"their spheres hold fewer than {options.min_voxels} voxels of the mask (--min-voxels)"
            if options.geometry == "spheres"
            else "blocks do not cover the outermost layer of the volume; pad it, or use --geometry spheres"
        )
        cli.warn(f"{options.mask}: {uncovered:,} of {mask.sum():,} voxels of the mask belong to no searchlight: {why}")
    exact = options.geometry == "blocks"
    return SearchlightJob(maps, mask, searchlights, measure, options.min_voxels, exact, options.memory)


def _job_of_discs(options: argparse.Namespace, maps: Betas, measure: Measure) -> SearchlightJob:
    """Discs on the cortical surface, around all vertices that have responses."""
    from utils.rdms.discs import measured_vertices, surface_discs
    from utils.rdms.searchlight_rdms import SearchlightJob
    from utils.rdms.vertices import Vertices, average_meshes, kept_meshes, read_meshes, space_of

    assert isinstance(maps.grid, Vertices)
    paths, vertices = options.surface_mesh, maps.grid
    kept = kept_meshes(vertices, paths, options.inflated_mesh)
    meshes = read_meshes(paths, vertices) if paths else average_meshes(vertices)
    measured, space = measured_vertices(maps), space_of(vertices, maps.files, options.space)
    discs = surface_discs(vertices, meshes, options.radius_mm, measured, options.min_voxels, space)
    if uncovered := discs.uncovered(measured):
        cli.warn(
            f"{maps.files[0]}: {uncovered:,} of {measured.sum():,} vertices have no disc, as it would hold fewer than "
            f"{options.min_voxels} vertices with data (--min-voxels)"
        )
    return SearchlightJob(maps, None, discs, measure, options.min_voxels, memory=options.memory, meshes=kept)


def _parser() -> cli.Parser:
    parser = cli.Parser(prog="python -m utils.searchlight", description=_HELP)
    add_data_options(parser, mask_required=False)
    shape = parser.add_argument_group("searchlights")
    shape.add_argument("--geometry", choices=("blocks", "spheres", "discs"), default="blocks",
                       help="the release's blocks (4 x 4 x 4 voxels for every 2 x 2 x 2), spheres, or discs on the "
                            "cortical surface, for data of vertices")  # fmt: skip
    shape.add_argument("--radius-mm", type=float, metavar="R",
                       help="radius of spheres or discs in mm, which they need")  # fmt: skip
    add_mesh_options(
        shape, "along which discs are measured (default: halfway between the pial and the white surface of fsaverage)"
    )
    shape.add_argument("--min-voxels", type=int, metavar="N",
                       help=f"searchlights with fewer voxels or vertices have no RDM; spheres and discs with fewer in "
                            f"all are left out (default: {_MIN_VOXELS_OF_SPHERE}, and {MIN_VOXELS} for blocks)"
                       )  # fmt: skip
    add_metric_options(shape)
    run = parser.add_argument_group("run")
    cli.add_threads_option(run, "--n-jobs")
    run.add_argument("--memory", type=cli.size, metavar="SIZE",
                     help="memory for the responses of subjects, such as 4GB; the next one is read ahead only if two "
                          "fit (default: no limit)")  # fmt: skip
    cli.add_dask_option(run)
    run.add_argument("--fresh", action="store_true", help="compute everything anew, and keep nothing of earlier runs")
    run.add_argument("-q", "--quiet", action="store_true", help="print nothing but warnings")
    return parser


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options, those that depend on others settled."""
    parser = _parser()
    options = parser.parse_args(argv)
    if options.geometry == "blocks" and options.radius_mm is not None:
        parser.error("--radius-mm is the radius of spheres, which blocks do not have; add --geometry spheres")
    if options.geometry != "discs" and options.mask is None:
        parser.error("the following arguments are required: --mask")
    if options.geometry != "discs" and (options.surface_mesh or options.inflated_mesh):
        parser.error("--surface-mesh and --inflated-mesh are for discs; add --geometry discs")
    if options.geometry == "discs" and options.mask is not None:
        parser.error("--mask is for volumes; of vertices, those that vary between conditions are used")
    if options.geometry != "blocks" and not (options.radius_mm and 0 < options.radius_mm < math.inf):
        usual = "three voxels are" if options.geometry == "spheres" else "10 is"
        parser.error(f"--geometry {options.geometry} needs --radius-mm, a positive number; {usual} usual")
    if options.min_voxels is None:
        options.min_voxels = MIN_VOXELS if options.geometry == "blocks" else _MIN_VOXELS_OF_SPHERE
    if options.min_voxels < MIN_VOXELS:
        parser.error(f"--min-voxels is {options.min_voxels}, expected {MIN_VOXELS} or more")
    return options


def command() -> None:
    """Run from the command line."""
    cli.execute(main, _parser())


if __name__ == "__main__":
    command()
