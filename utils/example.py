"""The simulated examples: the command `python -m utils.example`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utils import InputError
from utils.cli import command as cli
from utils.datasets.simulated import ensure_example, read_truth, score
from utils.io.data_folder import default_data

_FOLDERS = {"kind": "example", "hard": "example_hard"}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: write the example, unless it is there."""
    options = _parser().parse_args(argv)
    if options.score:
        _show_score(options.score, _folder(options))
        return
    with cli.progress("simulated example", options) as advance:
        print(ensure_example(_folder(options), advance, world=options.world, surface=options.surface))


def _folder(options: argparse.Namespace) -> Path:
    name = _FOLDERS[options.world] + "_surface" * options.surface
    return options.out or default_data() / name


def _show_score(results: Path, folder: Path) -> None:
    """Print how results of Fig 1, 3a and 3b compare with what was planted."""
    import pandas as pd

    truth = read_truth(folder)
    found = [results / figure / "results.tsv" for figure in ("Fig1", "Fig3a", "Fig3b")]
    found = [path for path in found if path.is_file()]
    if not found:
        raise InputError(f"{results}: there are no results of Fig1, Fig3a or Fig3b; run these on {folder} first")
    for path in found:
        table = pd.read_csv(path, sep="\t", na_values="n/a", keep_default_na=False)
        print(f"{path.parent.name}\n{score(table, truth).to_string(float_format='{:.3f}'.format)}\n")


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m utils.example",
        description="Write a simulated experiment with known truth (seconds, under 300 MB), unless it is there; or "
        "compare results with this truth.",
    )
    parser.add_argument("--world", choices=tuple(_FOLDERS), default="kind",
                        help="hard: with ties, weak areas, areas that follow what all networks share, smooth noise, "
                             "people who differ")  # fmt: skip
    parser.add_argument("--surface", action="store_true",
                        help="the kind world on the vertices of fsaverage5: searchlights are discs, ROIs labels of "
                             "vertices")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="folder; by default data/example, data/example_hard or data/example_surface")  # fmt: skip
    parser.add_argument("--score", type=Path, metavar="RESULTS",
                        help="write nothing; show how results of Fig 1, 3a and 3b in this folder compare with the "
                             "truth: searchlights in full colour of the right or a wrong group, pale and grey ones, "
                             "and the asterisks of ROIs")  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    return parser


def command() -> None:
    """Run from the command line."""
    cli.execute(main, _parser())


if __name__ == "__main__":
    command()
