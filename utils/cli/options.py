"""Options of the four figure scripts: from the command line to `Settings`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils import InputError
from utils.analysis.settings import Settings
from utils.cli.command import Parser, add_dask_option, add_threads_option
from utils.datasets.layout import Kind
from utils.io.readers import read_blocks
from utils.io.spaces import space_name
from utils.plotting.page_layout import STYLES
from utils.plotting.surface import DEFAULT_SURFACE, SURFACES

NO_SURFACE = "none"


def figure_parser(figure: str, kind: Kind, description: str) -> Parser:
    """Parser for the command line of a figure script.

    Parameters
    ----------
    figure : str
        Name of the figure, which is also that of its result folder.
    kind : {"searchlight", "roi"}
        What the figure is drawn from.
    description : str
        Docstring of the script, shown by --help.

    Returns
    -------
    Parser
    """
    parser = Parser(description=description)
    _add_data_options(parser, kind)
    _add_statistics_options(parser, kind, figure)
    _add_run_options(parser, kind, figure)
    _add_drawing_options(parser)
    return parser


def _add_data_options(parser: Parser, kind: Kind) -> None:
    group = parser.add_argument_group(
        "data",
        "Without any of these, the published release in data/ is used if it is there, else a simulated example.",
    )
    brain = "searchlight" if kind == "searchlight" else "ROI"

    def path(*names: str, text: str) -> None:
        group.add_argument(*names, type=Path, metavar="PATH", help=text)

    path("--data", text="data folder, in the layout of data/README.md")
    path("--dnn-rdms", "--DNN_RDM_dir", text="folder of network RDMs, if not in the data folder")
    path("--fmri-rdms", "--fMRI_RDMs_dir", text=f"folder of {brain} RDMs, if not in the data folder")
    if kind == "searchlight":
        path("--mask", text="brain mask (NIfTI) that the searchlights were computed in")
    path("--roi-labels", "--roi_labels", text="table of ROIs: CSV with columns id and roi, or as an atlas brings it")
    purpose = "outlines and names of ROIs on the map" if kind == "searchlight" else "the brain map"
    group.add_argument("--atlas", type=Path, nargs="+", metavar="FILE",
                       help=f"where the ROIs lie, for {purpose}: a volume (NIfTI with the ids of the table), or one "
                            "file per hemisphere (lh and rh in the names): volumes, or labels of the vertices of "
                            "fsaverage (.annot, label.gii, .mgz)")  # fmt: skip
    if kind == "roi":
        group.add_argument("--rois", nargs="+", metavar="ROI",
                           help="ROIs to show, in this order (default: the paper's 15 where they exist, else "
                                "all)")  # fmt: skip
    add_space_option(group, "mask and searchlights" if kind == "searchlight" else "atlas")
    group.add_argument("--nuisance", type=Path, nargs="+", default=[], metavar="FILE",
                       help="RDMs of no interest, such as those of low-level image properties (NumPy or MATLAB files "
                            "as for networks): all values and tests are of what networks explain beside "
                            "them")  # fmt: skip
    path("--pairs", text="NumPy file that says which pairs of conditions count: True or False, (n, n) or condensed; "
                         "False for pairs within a run, for example (default: pairs.npy of the data folder, else all "
                         "pairs)")  # fmt: skip
    group.add_argument("--models", nargs="+", metavar="KEY", help="networks to use (default: all in the table)")
    group.add_argument("--layers", nargs="+", metavar="LAYER",
                       help="layers of every network to use (default: all)")  # fmt: skip


def _add_statistics_options(parser: Parser, kind: Kind, figure: str) -> None:
    group = parser.add_argument_group("statistics", "docs/METHODS.md explains each choice.")
    routes = ("permutation", "permutation_labels", "t-test")
    group.add_argument("--stats", "-stats", choices=routes, default="permutation",
                       help="what is above chance: by a permutation test on the RDM averaged over subjects, or by a "
                            "t-test over subjects (permutation_labels is the published name of permutation)"
                       )  # fmt: skip
    group.add_argument("--comparison", choices=("whitened", "plain"),
                       help="how RDMs are compared: whitened (generalised least squares, as linear CKA), which has far "
                            "more power, or plain, as in the paper (default: whitened; plain with --as-published)"
                       )  # fmt: skip
    group.add_argument("--condition-effects", choices=("in", "out"), default="in",
                       help="out: compare RDMs without the effects of single conditions, such as their gains"
                       )  # fmt: skip
    group.add_argument("--n-permutations", "-np", "--num_perm", type=int, default=10_000, metavar="N",
                       help="number of permutations")  # fmt: skip
    group.add_argument("--permute", choices=("conditions", "blocks", "entries"),
                       help="what is permuted: conditions (within the blocks of --blocks, if given), these blocks as "
                            "wholes, or entries of the RDM, which is invalid where conditions differ in gain (default: "
                            "conditions; entries with --as-published)")  # fmt: skip
    group.add_argument("--blocks", type=Path, metavar="FILE",
                       help="text file with the block of every condition, one per line in the order of the conditions: "
                            "categories, runs or scenes between which conditions cannot be exchanged")  # fmt: skip
    group.add_argument("--correction", choices=("fdr", "max"), default="fdr",
                       help="for multiple tests: false discovery rate, or family-wise by the maximum "
                            "statistic")  # fmt: skip
    group.add_argument("--alpha", type=float, default=0.05,
                       help="significance level, after correction; intervals have the level 1 - alpha")  # fmt: skip
    group.add_argument("--generalise", choices=("both", "images", "people"), default="both",
                       help="over what error bars, intervals and leads speak: other images, other people, or both"
                       )  # fmt: skip
    group.add_argument("--cross-validate", type=int, nargs="?", const=5, metavar="FOLDS",
                       help="also predict every person's RDM of new images from other people and other images, with "
                            "FOLDS folds of the images (5 unless given), and rank by what is predicted")  # fmt: skip
    if figure == "Fig1":
        group.add_argument("--weights", choices=("free", "nonnegative"), default="free",
                           help="nonnegative: no layer has a negative weight, so that a network that is the opposite "
                                "of the brain explains nothing; for up to 4 layers, computed on the CPU")  # fmt: skip
    if kind == "roi":
        group.add_argument("--minimum-effect", type=float, default=0.01, metavar="X",
                           help="a star is filled if the interval of its bar lies above this share of the explainable "
                                "variance, and hollow if the bar is only above chance")  # fmt: skip
    group.add_argument("--as-published", action="store_true",
                       help="the statistics of the published code: plain comparison, permute entries, one-sided "
                            "differences, correction within each searchlight or ROI first, select once, negative R2 "
                            "set to 0, unscaled error bars")  # fmt: skip
    ratio = "share of the conditions in each subset for the error bars of --as-published"
    if kind == "searchlight":
        group.add_argument("--ceiling", type=_ceiling, default=0.033, metavar="X",
                           help="test searchlights whose lower noise ceiling (mean Spearman correlation) is at least "
                                "X; none: test all that have RDMs, as always for the data of one person, which have no "
                                "ceiling")  # fmt: skip
        ratio = "accepted as in the published scripts; this figure shows no standard errors, so it has no effect"
    group.add_argument("--bootstrap-ratio", "-bs_ratio", "--bootstrap_ratio", type=float, default=0.9, metavar="X",
                       help=ratio)  # fmt: skip


def _ceiling(text: str) -> float | None:
    try:
        return None if text == "none" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}', expected a number or none") from None


def _add_run_options(parser: Parser, kind: Kind, figure: str) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--results", "--results_dir", type=Path, default=Path("results"), metavar="DIR",
                       help=f"results go to DIR/{figure}/")  # fmt: skip
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                       help="where to compute; auto uses a GPU if there is one")  # fmt: skip
    add_threads_option(group)
    if kind == "searchlight":
        add_dask_option(group)
    else:
        parser.set_defaults(dask=None)
    group.add_argument("--fresh", action="store_true",
                       help="start permutation tests anew, in place of going on from what an interrupted run of the "
                            "same command has counted")  # fmt: skip
    group.add_argument("--seed", type=int, default=0, help="seed of permutations and subsets")
    group.add_argument("--open", action=argparse.BooleanOptionalAction, default=_is_interactive(),
                       help="open the report, with the brain map, in a browser at the end")  # fmt: skip
    group.add_argument("-q", "--quiet", action="store_true", help="no progress bars")


def _add_drawing_options(parser: Parser) -> None:
    group = parser.add_argument_group("drawing")
    group.add_argument("--surface", choices=(*SURFACES, NO_SURFACE),
                       help="average brain of the pages and GIFTI files, with 10, 41 or 164 thousand vertices per "
                            f"hemisphere; all but the first are downloaded once (default: {DEFAULT_SURFACE}; data of "
                            "vertices are drawn on their own mesh). none: slices of the volume, as always for volumes "
                            "that are not in MNI space")  # fmt: skip
    group.add_argument("--style", choices=STYLES, default=STYLES[0],
                       help="paper: figure.svg and figure.png with the colours, axes and order of the paper, for "
                            "comparison")  # fmt: skip


def _is_interactive() -> bool:
    """Whether a person sits at a terminal with a display; not in a batch job."""
    display = sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    return display and sys.stdout.isatty() and "CI" not in os.environ


def parse(parser: Parser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line of a figure, refuse what does not go together, and fill in what depends on other options.

    Parameters
    ----------
    parser : Parser
        Of `figure_parser`; it ends the process with one line if there is something to refuse.
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    Namespace
        Options by their long names.
    """
    options = parser.parse_args(arguments)
    if options.n_permutations < 1:
        parser.error(f"--n-permutations is {options.n_permutations}, expected 1 or more")
    if not 0 < options.alpha < 1:
        parser.error(f"--alpha is {options.alpha}, expected a value between 0 and 1")
    if options.seed < 0:
        parser.error(f"--seed is {options.seed}, expected 0 or more")
    if not 0 < options.bootstrap_ratio < 1:
        parser.error(f"--bootstrap-ratio is {options.bootstrap_ratio}, expected a value between 0 and 1")
    if options.as_published and (options.comparison == "whitened" or options.condition_effects == "out"):
        other = "--comparison whitened" if options.comparison == "whitened" else "--condition-effects out"
        parser.error(f"--as-published compares RDMs as they are and cannot be combined with {other}; leave one out")
    options.cross_validate = options.cross_validate or 0
    if options.cross_validate and options.cross_validate < 2:
        parser.error(f"--cross-validate is {options.cross_validate}, expected 2 or more folds")
    if options.as_published:
        _refuse(parser, "--as-published", {"--cross-validate, which ranks anew": options.cross_validate})
    nonnegative = getattr(options, "weights", "free") == "nonnegative"
    if nonnegative:
        _refuse(parser, "--weights nonnegative", {
            "--as-published, which has free weights": options.as_published,
            "--stats t-test": options.stats == "t-test",
            "--cross-validate": options.cross_validate,
            "--dask": options.dask,
            "--device cuda, as they are fitted on CPUs": options.device == "cuda",
        })  # fmt: skip
        options.device = "cpu"
    if "minimum_effect" in options and not 0 <= options.minimum_effect < 1:
        parser.error(f"--minimum-effect is {options.minimum_effect}, expected a value from 0 to below 1")
    if options.dask:
        _refuse(parser, "--dask", {
            "--stats t-test, which is quick": options.stats == "t-test",
            "--device cuda, as workers use CPUs": options.device == "cuda",
        })  # fmt: skip
    if options.stats == "permutation_labels":
        options.stats = "permutation"
    if options.correction == "max" and (options.as_published or options.stats == "t-test"):
        other = "--as-published" if options.as_published else "--stats t-test"
        parser.error(f"--correction max cannot be combined with {other}, which has no maximum statistic; leave one out")
    options.permute = options.permute or ("entries" if options.as_published else "conditions")
    options.comparison = options.comparison or ("plain" if options.as_published else "whitened")
    if options.blocks:
        _refuse(parser, "--blocks", {
            "--stats t-test": options.stats == "t-test",
            "permutations of entries": options.permute == "entries",
        })  # fmt: skip
    if options.nuisance:
        _refuse(parser, "--nuisance", {
            "--as-published, which knows none": options.as_published,
            "--stats t-test": options.stats == "t-test",
            "--cross-validate": options.cross_validate,
            "--weights nonnegative": nonnegative,
        })  # fmt: skip
    if options.permute == "blocks" and not options.blocks:
        parser.error("--permute blocks needs --blocks FILE, which says which condition is in which block")
    return options


def _refuse(parser: Parser, option: str, others: dict[str, Any]) -> None:
    """Refuse an option beside others: their text by whether they were given."""
    for other, given in others.items():
        if given:
            parser.error(f"{option} cannot be combined with {other}; leave one out")


def settings_of(options: argparse.Namespace) -> Settings:
    """The settings that the options of a figure stand for."""
    names = ["stats", "n_permutations", "permute", "alpha", "seed", "bootstrap_ratio", "generalise", "comparison"]
    names += ["cross_validate"]
    names += [] if options.as_published else ["correction"]
    names += [name for name in ("ceiling", "minimum_effect", "weights") if name in options]
    given = {name: getattr(options, name) for name in names}
    if options.condition_effects == "out":
        given["comparison"] = "without_condition_effects"
    if options.blocks:
        blocks = read_blocks(options.blocks)
        numbers = {name: number for number, name in enumerate(sorted({*blocks}))}
        given["blocks"] = tuple(numbers[name] for name in blocks)
    return (Settings.published if options.as_published else Settings)(**given)


BETAS = """PATHs of --betas are files or folders:
  - a 4-D NIfTI file has one volume per condition, named by --conditions (one name per line, in the order of volumes) or
    by conditions.txt of DATA; several such files of a subject are runs;
  - 3-D files are named after their conditions: face.nii.gz, or sub-01_run-2_face.nii.gz;
  - folders of SPM (beta_*.nii with SPM.mat), FSL (*.feat with design.con), nilearn and BIDS (contrast-..., stat-effect)
    and GLMsingle (TYPED_FITHRF_GLMDENOISE_RR with DESIGNINFO) are searched as they are: what is no response (masks,
    variances, t maps, contrasts of conditions, movement) is left out, and said so;
  - data of vertices are one GIFTI or MGH file per hemisphere, with lh or rh (hemi-L or hemi-R) in its name, or CIFTI
    (.dscalar.nii, .dtseries.nii); meshes other than fsaverage, fsaverage6 and fsaverage5 are given by --surface-mesh;
  - anything else is named by a table, --conditions names.tsv: tab-separated, with a column condition, and file (end of
    a path), index (volume, from 0), run, subject as needed; n/a leaves a map out.
Maps with the same sub-... in their names or folders are of one subject; otherwise every PATH is one. All maps of a
condition are averaged: runs, and trials within them. Conditions take the order of conditions.txt in DATA, by name.
--dry-run prints how the files are understood, and stops."""


def add_space_option(group: argparse._ArgumentGroup, what: str) -> None:
    """`--space`: what the millimetres of volumes are coordinates of."""
    group.add_argument("--space", type=_space, metavar="NAME",
                       help=f"space of the {what}: MNI152NLin2009cAsym or another MNI template, or any other name, "
                            "such as T1w (default: as file names with space-NAME and headers say)")  # fmt: skip


def _space(text: str) -> str:
    try:
        return space_name(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_data_options(parser: argparse.ArgumentParser, *, mask_required: bool = True) -> None:
    """Options of the commands that turn beta maps into RDMs: where the maps come from, and where the RDMs go.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    mask_required : bool
        Whether there is no RDM without a brain mask.
    """
    group = parser.add_argument_group("data")
    group.add_argument("--betas", type=Path, nargs="+", required=True, metavar="PATH",
                       help="beta maps: NIfTI files or folders, as explained above")  # fmt: skip
    group.add_argument("--mask", type=Path, required=mask_required, metavar="FILE",
                       help="brain mask (NIfTI, inside where > 0) on the grid of the beta maps")  # fmt: skip
    add_space_option(group, "beta maps")
    group.add_argument("--conditions", type=Path, metavar="FILE",
                       help="names of the conditions in the order of volumes, one per line, or a table (default: "
                            "conditions.txt of DATA, or file names)")  # fmt: skip
    group.add_argument("--drop-incomplete", action="store_true",
                       help="leave conditions that some subject never saw out for all subjects")  # fmt: skip
    group.add_argument("--dry-run", action="store_true",
                       help="print how files are understood (subjects, runs, conditions), and stop")  # fmt: skip
    group.add_argument("--out", type=Path, required=True, metavar="DATA",
                       help="data folder, in the layout of data/README.md; made if needed")  # fmt: skip


def add_mesh_options(group: argparse._ArgumentGroup, use: str) -> None:
    """Options of the same commands for data of vertices: the meshes that these are of, and what they are used for."""
    group.add_argument("--surface-mesh", type=Path, nargs="+", default=[], metavar="FILE",
                       help="meshes of the vertices, one per hemisphere, named as the data (lh.white rh.white, "
                            f"*.surf.gii), {use}; needed for data that are not on fsaverage")  # fmt: skip
    group.add_argument("--inflated-mesh", type=Path, nargs="+", default=[], metavar="FILE",
                       help="the same vertices in the shape that maps are drawn on (default: the meshes themselves, or "
                            "the inflated fsaverage5)")  # fmt: skip


def add_metric_options(group: argparse._ArgumentGroup) -> None:
    """Options of the same commands: how dissimilarities are measured."""
    from utils.rdms.measure import ALL_METRICS

    group.add_argument("--metric", choices=ALL_METRICS, default="correlation",
                       help="correlation is 1 - Pearson; crossnobis and cross-validated-correlation compare runs with "
                            "each other, so that noise does not bias them, and need two runs or more")  # fmt: skip
    group.add_argument("--noise", nargs="+", metavar="FILE",
                       help="what crossnobis distances are in units of: 4-D files with the residuals of every subject, "
                            "runs (how runs deviate from each other; the default) or none")  # fmt: skip
    group.add_argument("--center", action="store_true",
                       help="subtract the mean over conditions from every voxel first; for correlation and cosine"
                       )  # fmt: skip
