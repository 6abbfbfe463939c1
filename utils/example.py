"""The simulated example: the command `python -m utils.example`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils.cli import command as cli
from utils.datasets.simulated import ensure_example
from utils.io.data_folder import default_data


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: write the example, unless it is there."""
    options = _parser().parse_args(argv)
    with cli.progress("simulated example", options) as advance:
        print(ensure_example(options.out, advance))


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m utils.example",
        description="Write the simulated experiment with known truth (seconds, under 300 MB), unless it is there.",
    )
    parser.add_argument("--out", type=Path, default=default_data() / "example", metavar="DIR", help="folder")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    return parser


def command() -> None:
    """Run from the command line."""
    cli.execute(main, _parser())


if __name__ == "__main__":
    command()
