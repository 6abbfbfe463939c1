"""Run the validation, and write docs/VALIDATION.md with its figures: `make validate`.

  python -m benchmarks.validation                     everything that is not finished, then the page
  python -m benchmarks.validation --only explained    some of the tables; the page is not written
  python -m benchmarks.validation --page              the page from finished cells

Finished parts are kept in results/validation and skipped; remove that folder to begin anew, after a change of the code.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.validation.agreement import run_agreement
from benchmarks.validation.grid import all_cells
from benchmarks.validation.page import write_page
from benchmarks.validation.runner import run_all

HOME = Path(__file__).resolve().parents[2]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.validation", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="TABLE", help="some of the tables")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--folder", type=Path, default=HOME / "results" / "validation", help="finished parts")
    arguments = parser.parse_args()
    cells = all_cells()
    if arguments.only:
        tables = {cell.table for cell in cells}
        if unknown := set(arguments.only) - tables:
            parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(sorted(tables))}")
        run_all([cell for cell in cells if cell.table in arguments.only], arguments.folder)
        return
    if not arguments.page:
        run_all(cells, arguments.folder)
        run_agreement(arguments.folder)
    write_page(cells, arguments.folder, HOME / "docs")


if __name__ == "__main__":
    main()
