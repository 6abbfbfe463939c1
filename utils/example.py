"""The simulated example: the command `python -m utils.example`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from utils import cli
from utils.datasets.simulated import DEFAULT_FOLDER, ensure_example


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
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help="folder (default: data/example)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    cli.execute(main, _parser())
