"""Command-line options of the figure scripts and commands."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from utils import InputError
from utils.parallel.threads import available_cores, use_threads

if TYPE_CHECKING:
    from utils.datasets.layout import Kind
from utils.cli.run import warned


class Parser(argparse.ArgumentParser):
    """Argument parser whose errors take one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {message} (see --help)", file=sys.stderr)
        sys.exit(2)


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and keeps the line breaks of the description."""


def parse(figure: str, kind: Kind, description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line of a figure script, and let numerical libraries use the threads that it grants.

    Parameters
    ----------
    figure : str
        Name of the figure, which is also that of its result folder.
    kind : {"searchlight", "roi"}
        What the figure is drawn from.
    description : str
        Docstring of the script, shown by --help.
    argv : sequence of str, optional
        Arguments; by default those of the process.

    Returns
    -------
    argparse.Namespace
        Options by their long names, with those that depend on others settled, and `figure` and `kind`.
    """
    parser = Parser(description=description, formatter_class=Help, allow_abbrev=False, add_help=False)
    _add_data_options(parser, kind)
    _add_statistics_options(parser, kind)
    run = parser.add_argument_group("run")
    run.add_argument("--results", "--results_dir", type=Path, default=Path("results"), metavar="DIR",
                     help=f"results go to DIR/{figure}/")  # fmt: skip
    run.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto",
                     help="where to compute; auto takes a GPU if there is one")  # fmt: skip
    if kind == "searchlight":
        run.add_argument("--tf32", action="store_true",
                         help="let a GPU multiply numbers of 11 bits: faster, and p values come out somewhat too large "
                              "(the run says by how much at most)")  # fmt: skip
    add_threads_option(run)
    if kind == "searchlight":
        add_dask_option(run)
    run.add_argument("--seed", type=int, default=0, help="seed of permutations and subsets")
    run.add_argument("--open", action=argparse.BooleanOptionalAction, default=_someone_watches(),
                     help="open the report, with the brain map, in a browser at the end")  # fmt: skip
    run.add_argument("-q", "--quiet", action="store_true", help="no progress bars")
    run.add_argument("-h", "--help", action="help", help="show this text and exit")
    _add_drawing_options(parser)
    options = parser.parse_args(argv)
    options.figure, options.kind = figure, kind
    warned.clear()
    _settle(parser, options)
    use_threads(options.threads)
    return options


def add_threads_option(group: argparse._ArgumentGroup, *other_spellings: str) -> None:
    """`--threads`: how much of this machine to use."""
    group.add_argument("--threads", *other_spellings, type=_positive, metavar="N", default=available_cores(),
                       help="cores of this machine to use, in all; SLURM or OMP_NUM_THREADS may grant fewer than there "
                            "are")  # fmt: skip


def add_dask_option(group: argparse._ArgumentGroup) -> None:
    """`--dask`: which workers to use, see `workers`."""
    group.add_argument("--dask", type=_cluster, metavar="ADDRESS", default=argparse.SUPPRESS,
                       help="let workers of a Dask cluster compute: local:N starts N processes on this machine, "
                            "tcp://HOST:PORT is a scheduler that runs, and so is the file that `dask scheduler "
                            "--scheduler-file` wrote; see the README, On a cluster")  # fmt: skip


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}', expected a whole number from 1 on")
    return int(text)


def _cluster(text: str) -> str:
    from utils.parallel.dask_workers import local_workers

    try:
        local_workers(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def size(text: str) -> int:
    """Bytes from a text such as 500MB (10^6 bytes each) or 2GiB (2^30 bytes each), for parsers."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?", text.strip().lower())
    base = 1024 if found and found[3] else 1000
    if not found or (n := int(float(found[1]) * base ** " kmgt".index(found[2] or " "))) < 10**7:
        raise argparse.ArgumentTypeError(f"'{text}', expected a size from 10MB on, such as 500MB or 2GiB")
    return n


def _add_drawing_options(parser: argparse.ArgumentParser) -> None:
    from utils.plotting.page_layout import STYLES
    from utils.plotting.surface import DEFAULT_SURFACE, SURFACES

    group = parser.add_argument_group("drawing")
    group.add_argument("--surface", choices=SURFACES, default=DEFAULT_SURFACE,
                       help="average brain of the pages and GIFTI files, with 10, 41 or 164 thousand vertices per "
                            "hemisphere; all but the first are downloaded once")  # fmt: skip
    group.add_argument("--style", choices=STYLES, default=STYLES[0],
                       help="paper: figure.svg and .png in the colours, axes and order of the paper, to lay side by "
                            "side")  # fmt: skip


def _add_data_options(parser: argparse.ArgumentParser, kind: Kind) -> None:
    group = parser.add_argument_group(
        "data",
        "Without any of these, the published release in data/ is used if it lies there, else a simulated example.",
    )
    brain = "searchlight" if kind == "searchlight" else "ROI"

    def path(*names: str, text: str) -> None:
        group.add_argument(*names, type=Path, metavar="PATH", default=argparse.SUPPRESS, help=text)

    path("--data", text="data folder, in the layout of data/README.md")
    path("--dnn-rdms", "--DNN_RDM_dir", text="folder of model RDMs, if not in the data folder")
    path("--fmri-rdms", "--fMRI_RDMs_dir", text=f"folder of {brain} RDMs, if not in the data folder")
    if kind == "searchlight":
        path("--mask", text="brain mask (NIfTI) that the searchlights were computed in")
    else:
        path("--roi-labels", "--roi_labels", text="table of ROIs: CSV with columns id and roi")
        path("--atlas", text="ROI volume (NIfTI with the ids of the table); without one there is no brain map")
        group.add_argument("--rois", nargs="+", metavar="ROI", default=argparse.SUPPRESS,
                           help="ROIs to show, in this order (the paper's 15 where they exist, else all)")  # fmt: skip
    group.add_argument("--models", nargs="+", metavar="KEY", default=argparse.SUPPRESS,
                       help="networks to use (all of the table)")  # fmt: skip
    group.add_argument("--layers", nargs="+", metavar="LAYER", default=argparse.SUPPRESS,
                       help="layers of every network to use (all there are)")  # fmt: skip


def _add_statistics_options(parser: argparse.ArgumentParser, kind: Kind) -> None:
    group = parser.add_argument_group("statistics", "docs/METHODS.md explains each choice.")
    routes = ("permutation", "permutation_labels", "t-test")
    group.add_argument("--stats", "-stats", choices=routes, default="permutation",
                       help="permutation test on the mean RDM over subjects, or t-test over subjects "
                            "(permutation_labels is the published name of permutation)")  # fmt: skip
    group.add_argument("--n-permutations", "-np", "--num_perm", type=int, default=10_000, metavar="N",
                       help="number of permutations")  # fmt: skip
    group.add_argument("--permute", choices=("conditions", "entries"), default=argparse.SUPPRESS,
                       help="what is exchanged: conditions, or entries of the RDM, which is invalid where conditions "
                            "differ in gain (default: conditions; entries with --as-published)")  # fmt: skip
    group.add_argument("--correction", choices=("fdr", "max"), default="fdr",
                       help="for many tests: false discovery rate, or family-wise by maximum statistic")  # fmt: skip
    group.add_argument("--alpha", type=float, default=0.05, help="level of significance, after correction")
    group.add_argument("--as-published", action="store_true",
                       help="every choice of the published code: permute entries, one-sided differences, correction "
                            "within a place first, select once, negative R2 to 0, unscaled error bars")  # fmt: skip
    if kind == "searchlight":
        group.add_argument("--ceiling", type=float, default=0.033, metavar="X",
                           help="test searchlights whose lower noise ceiling (mean Spearman) is X or more")  # fmt: skip
    else:
        group.add_argument("--bootstrap-ratio", "-bs_ratio", "--bootstrap_ratio", type=float, default=0.9, metavar="X",
                           help="share of the conditions in each subset for the standard errors")  # fmt: skip


def _settle(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Check what single options cannot, and fill in what depends on others."""
    for name in ("data", "dnn_rdms", "fmri_rdms", "mask", "roi_labels", "atlas", "rois", "models", "layers", "dask"):
        options.__dict__.setdefault(name, None)
    options.__dict__.setdefault("tf32", False)
    if options.n_permutations < 1:
        parser.error(f"--n-permutations is {options.n_permutations}, expected 1 or more")
    if not 0 < options.alpha < 1:
        parser.error(f"--alpha is {options.alpha}, expected a value between 0 and 1")
    if options.seed < 0:
        parser.error(f"--seed is {options.seed}, expected 0 or more")
    if not 0 < getattr(options, "bootstrap_ratio", 0.5) < 1:
        parser.error(f"--bootstrap-ratio is {options.bootstrap_ratio}, expected a value between 0 and 1")
    if options.dask and (options.stats == "t-test" or options.device == "cuda"):
        other = "--stats t-test, which is quick" if options.stats == "t-test" else "--device cuda, as workers use CPUs"
        parser.error(f"--dask does not go with {other}; leave one out")
    if options.stats == "permutation_labels":
        options.stats = "permutation"
    if options.correction == "max" and (options.as_published or options.stats == "t-test"):
        other = "--as-published" if options.as_published else "--stats t-test"
        parser.error(f"--correction max does not go with {other}, which has no maximum statistic; leave one out")
    options.__dict__.setdefault("permute", "entries" if options.as_published else "conditions")


def _someone_watches() -> bool:
    """A person at a terminal with a display, not a batch job."""
    display = sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    return display and sys.stdout.isatty() and "CI" not in os.environ


def add_data_options(parser: argparse.ArgumentParser, *, mask_required: bool = True) -> None:
    """Options of the commands that turn beta maps into RDMs: where the maps come from, and where the RDMs go.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    mask_required : bool
        Whether there is no RDM without a brain mask.
    """
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
