"""ROI RDMs from beta maps and an atlas: the command `python -m utils.rois`."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from utils import InputError
from utils.cli import command as cli
from utils.cli.options import BETAS, add_data_options, add_mesh_options, add_metric_options

if TYPE_CHECKING:
    from utils.rdms.atlas import Atlas
    from utils.rdms.betas import Betas
    from utils.rdms.surface_labels import SurfaceLabels
    from utils.rdms.vertices import Vertices

_HELP = """ROI RDMs of every subject from beta maps and an atlas, for Fig 2 and Fig 3b.

{BETAS}

An atlas is one of
  - a volume of whole numbers, with --labels, the atlas's own table of numbers and names (CSV or TSV with columns id and
    roi, dseg.tsv of BIDS, lines of a number and a name, XML of FSL, colour tables of FreeSurfer and others);
  - two such volumes, one per hemisphere, with lh and rh (or left and right) in their names, such as
    maxprob_vol_lh.nii.gz and maxprob_vol_rh.nii.gz of Wang et al. 2015, whose names are built in;
  - with --threshold, probability maps: one 4-D file in the order of the ids, or one file per ROI with its id in the
    name, such as perc_VTPM_vol_roi1_lh.nii.gz. A voxel goes to the ROI of the largest value.
  - for data of vertices, labels of the same vertices, one file per hemisphere: .annot, label.gii or .mgz.
Where the atlas is on another grid than the beta maps, the nearest voxel counts.

Into DATA go roi_rdms/ (one .npy per ROI, roi_voxels.tsv, run.json), roi_labels.csv, atlas.nii.gz and conditions.txt.

examples:
  python -m utils.rois --betas sub-*/betas.nii.gz --conditions conditions.txt --out my_study \\
      --atlas maxprob_vol_lh.nii.gz maxprob_vol_rh.nii.gz
  python -m utils.rois --betas sub-01 sub-02 --atlas atlas.nii.gz --labels labels.csv --mask mask.nii.gz --out my_study
""".replace("{BETAS}", BETAS)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: RDMs of all ROIs and subjects into a data folder."""
    started = time.time()
    parser = _parser()
    options = parser.parse_args(argv)
    if options.threshold is not None and not 0 < options.threshold < math.inf:
        parser.error(f"--threshold is {options.threshold:g}, expected a positive number in the unit of the maps")
    from utils.io.data_folder import DataFolder
    from utils.io.provenance import provenance
    from utils.rdms.betas import find_betas, read_mask
    from utils.rdms.measure import find_measure
    from utils.rdms.roi_rdms import subject_rdms, write_roi_rdms
    from utils.rdms.vertices import Vertices, kept_meshes

    data = DataFolder(options.out)
    maps = find_betas(options.betas, options.conditions, data.conditions, drop_incomplete=options.drop_incomplete)
    measure = find_measure(options.metric, options.center, options.noise, maps)
    if options.dry_run or not options.quiet:
        print(maps, flush=True)
    if options.dry_run:
        return
    inside, meshes = None, None
    atlas: Atlas | SurfaceLabels
    if isinstance(maps.grid, Vertices):
        atlas = _labels_of_vertices(options, maps.grid)
        meshes = kept_meshes(maps.grid, options.surface_mesh, options.inflated_mesh)
    else:
        if options.surface_mesh or options.inflated_mesh:
            raise InputError("`surface_mesh` is for data of vertices, but the beta maps are volumes; leave it out")
        if options.mask is not None:
            inside, grid = read_mask(options.mask, maps)
            maps = maps.on(grid)
        elif not maps.grid.has_place:
            raise InputError(f"{maps.subjects[0].files[0]}: does not say where its voxels lie; give their `mask`")
        atlas = _atlas_of_voxels(options, maps)
    with cli.progress("ROIs", options) as advance:
        rdms, counts = subject_rdms(maps, atlas, inside, measure=measure, progress=advance)
    record = partial(provenance, "rois", vars(options), device="cpu", started=started)
    files = write_roi_rdms(maps, atlas, data, record, rdms, counts, meshes)
    if not options.quiet:
        print(f"{len(rdms)} ROI(s) of {len(maps.subjects)} subject(s)")
        print(f"{len(files)} files are in {options.out}, after {time.time() - started:.1f} s")


def _labels_of_vertices(options: argparse.Namespace, vertices: Vertices) -> SurfaceLabels:
    """Labels of the vertices that the beta maps have."""
    from utils.io.roi_tables import read_roi_table
    from utils.rdms.surface_labels import read_surface_labels

    if options.threshold is not None or options.mask is not None:
        raise InputError("`threshold` and `mask` are for volumes, but the beta maps are of vertices; leave them out")
    names = None if options.roi_labels is None else read_roi_table(options.roi_labels)
    return read_surface_labels(options.atlas, names, options.hemisphere, vertices)


def _atlas_of_voxels(options: argparse.Namespace, maps: Betas) -> Atlas:
    """The atlas on the grid and in the space of the beta maps, with a warning if it seems to be in another."""
    from utils.io.spaces import is_mni, read_space
    from utils.rdms.atlas import read_atlas
    from utils.rdms.vertices import Vertices

    assert not isinstance(maps.grid, Vertices)
    atlas = read_atlas(options.atlas, maps.grid, options.roi_labels, options.hemisphere, options.threshold)
    in_mni, masks = is_mni(atlas.space), [] if options.mask is None else [options.mask]
    atlas = replace(atlas, space=options.space or read_space([*maps.files, *masks]))
    if in_mni and not is_mni(atlas.space):
        cli.warn(
            f"{atlas.source}: is in MNI space, but the beta maps do not say that they are; if they are, say so with "
            "--space MNI152NLin2009cAsym, otherwise bring the atlas to their space first"
        )
    return atlas


def _parser() -> cli.Parser:
    parser = cli.Parser(prog="python -m utils.rois", description=_HELP)
    add_data_options(parser, mask_required=False)
    group = parser.add_argument_group("ROIs")
    group.add_argument("--atlas", type=Path, nargs="+", required=True, metavar="FILE",
                       help="NIfTI volume(s), as explained above; for beta maps of vertices, the labels of both "
                            "hemispheres (.annot, label.gii, .mgz)")  # fmt: skip
    group.add_argument("--labels", "--roi-labels", dest="roi_labels", type=Path, metavar="TABLE",
                       help="ids and names of the ROIs")  # fmt: skip
    group.add_argument("--hemisphere", choices=("left", "right", "both", "separate"), default="both",
                       help="one hemisphere, both together, or both as ROIs of their own (V1v_lh, V1v_rh)")  # fmt: skip
    group.add_argument("--threshold", type=float, metavar="P",
                       help="volumes are probability maps; take voxels of P or more, in the unit of the maps"
                       )  # fmt: skip
    add_mesh_options(group, "which brain maps are drawn on")
    add_metric_options(group)
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but warnings")
    return parser


def command() -> None:
    """Run from the command line."""
    cli.execute(main, _parser())


if __name__ == "__main__":
    command()
