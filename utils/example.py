"""The simulated examples: the command `python -m utils.example`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils.cli import command as cli
from utils.datasets.simulated import ensure_example
from utils.io.data_folder import default_data

_FOLDERS = {"kind": "example", "hard": "example_hard"}


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: write the example, unless it is there."""
    options = _parser().parse_args(argv)
    with cli.progress("simulated example", options) as advance:
        folder = options.out or default_data() / _FOLDERS[options.world]
        print(ensure_example(folder, advance, world=options.world))


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m utils.example",
        description="Write a simulated experiment with known truth (seconds, under 300 MB), unless it is there.",
    )
    parser.add_argument("--world", choices=tuple(_FOLDERS), default="kind",
                        help="hard: with ties, weak areas, areas that follow what all networks share, smooth noise, "
                             "people who differ")  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="folder; by default data/example, or data/example_hard for the hard world")  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    return parser


def command() -> None:
    """Run from the command line."""
    cli.execute(main, _parser())


if __name__ == "__main__":
    command()
