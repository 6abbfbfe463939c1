"""The simulated example: the command `python -m utils.example`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from utils import InputError
from utils.datasets.simulated import DEFAULT_FOLDER, ensure_example


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: write the example, unless it is there."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.example",
        description="Write the simulated experiment with known truth (seconds, under 300 MB), unless it is there.",
    )
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_FOLDER, metavar="DIR", help="folder (default: data/example)"
    )
    options = parser.parse_args(arguments)
    from tqdm import tqdm

    try:
        with tqdm(desc="simulated example", unit="step", file=sys.stderr, disable=None) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            folder = ensure_example(options.out, show)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
