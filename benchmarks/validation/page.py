"""docs/VALIDATION.md and its figures, from the outcomes of all cells."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.validation.agreement import WORLDS
from benchmarks.validation.figures import draw_all
from benchmarks.validation.grid import ALL_ROUTES, Cell
from benchmarks.validation.runner import Found, load, seconds
from utils.stats.jackknife import degrees_of_freedom

TEMPLATE = Path(__file__).with_name("page.md")
TITLES = {
    "default": "default",
    "default, images": "default, over images only",
    "plain": "`--comparison plain`",
    "without condition effects": "`--condition-effects out`",
    "published": "`--as-published`",
    "published, conditions": "`--as-published --permute conditions`",
}
Results = list[tuple[Cell, Found]]


def write_page(cells: Sequence[Cell], folder: Path, docs: Path) -> None:
    """Write the page and its figures.

    Parameters
    ----------
    cells : sequence of Cell
        All of them finished.
    folder : Path
        Of the finished cells.
    docs : Path
        Folder of the documentation.
    """
    results = [(cell, with_false_stars(cell, load(cell, folder))) for cell in cells]
    agreement = json.loads((folder / "agreement.json").read_text())
    fill: dict[str, Callable[[], str]] = {
        "explained": lambda: _rates(_of("explained", results), "explained"),
        "gains": lambda: _rates(_of("gains", results), "explained"),
        "beside": lambda: _rates(_of("beside", results), "false star"),
        "filled": lambda: _filled(_of("filled", results)),
        "ranks": lambda: _ranks(_of("ranks", results)),
        "ties": lambda: _rates(_of("ties", results), "lead"),
        "maps": lambda: _maps(_of("maps", results)),
        "coverage": lambda: _coverage(_of("coverage", results)),
        "contest": lambda: _rates(_of("contest", results), "first wins"),
        "people": lambda: _people(_of("people", results)),
        "power": lambda: _powers(_of("power", results)),
        "recovery": lambda: _recovery(_of("recovery", results)),
        "bootstraps": lambda: _bootstraps(agreement["bootstraps"]),
        "regressions": lambda: _table(
            ["quantity, package", "largest relative difference"],
            [[name, f"{value:.0e}"] for name, value in agreement["regressions"].items()],
        ),
        "outside": lambda: _outside(results),
        "date": lambda: f"{date.today():%-d %B %Y}",
        "minutes": lambda: f"{seconds(cells, folder) / 60:.0f}",
        "python": platform.python_version,
    }
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: fill[found[1]](), TEMPLATE.read_text(encoding="utf-8"))
    (docs / "VALIDATION.md").write_text(text, encoding="utf-8")
    draw_all(results, docs / "_static")


def _of(table: str, results: Results) -> Results:
    return [(cell, found) for cell, found in results if cell.table == table]


def with_false_stars(cell: Cell, found: Found) -> Found:
    """Add "false star" where groups are tested beside others: stars of all groups that the place does not follow."""
    if cell.table != "beside":
        return found
    unrelated = [f"star {k + 1}" for k, share in enumerate(cell.world.kinds[0]) if share == 0]
    return {
        route: own | {"false star": np.concatenate([own[name] for name in unrelated])} for route, own in found.items()
    }


def wilson(values: NDArray[np.float64]) -> tuple[float, float, float]:
    """Proportion of ones, with its 95 % Wilson interval."""
    from scipy.stats import binomtest

    n, k = len(values), int(values.sum())
    interval = binomtest(k, n).proportion_ci(0.95, method="wilson")
    return k / n, interval.low, interval.high


def rate(values: NDArray[np.float64]) -> str:
    """A proportion and its interval in per cent."""
    middle, low, high = (100 * value for value in wilson(values))
    return f"{middle:.1f} [{low:.1f}, {high:.1f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _rates(results: Results, outcome: str) -> str:
    """A row per world, a column per route."""
    routes = results[0][0].routes
    rows = [[cell.name, *(rate(found[route][outcome]) for route in routes), str(cell.runs)] for cell, found in results]
    return _table(["world", *(TITLES[route] for route in routes), "runs"], rows)


def _ranks(results: Results) -> str:
    """Stars of networks that the place does not follow, at the first rank where that may happen."""
    rows = []
    for cell, found in results:
        n_real = sum(share > 0 for share in cell.world.kinds[0])
        row = []
        for route in cell.routes:
            own = found[route]
            unrelated = own[f"network {n_real + 1}"] >= n_real
            row.append(rate(own[f"rank {n_real + 1}"][unrelated]))
        rows.append([cell.name, str(n_real + 1), *row, str(cell.runs)])
    return _table(["world", "rank", *(TITLES[route] for route in ALL_ROUTES), "runs"], rows)


def _filled(results: Results) -> str:
    rows = [
        [
            cell.name,
            TITLES[route],
            rate(found[route]["star"]),
            rate(found[route]["filled"]),
            _mean(found[route]["share"]),
        ]
        for cell, found in results
        for route in cell.routes
    ]
    return _table(["group 2 adds", "analysis", "a star", "a filled star", "share of the explainable variance"], rows)


def _outside(results: Results) -> str:
    """Levels of the default that are not near .05: outside .03 to .07 with intervals that exclude it; not low leads."""
    outcomes = {"explained": "explained", "beside": "false star", "ties": "lead"}
    found_so = []
    for cell, found in results:
        if cell.table in outcomes:
            values = found["default"][outcomes[cell.table]]
            middle, low, high = wilson(values)
            if (middle > 0.07 and low > 0.05) or (middle < 0.03 and high < 0.05 and cell.table != "ties"):
                found_so.append(f"- {cell.name}: {rate(values)}")
    return "\n".join(found_so) or "- none"


def _mean(values: NDArray[np.float64], digits: int = 3) -> str:
    """Mean over runs, plus or minus 1.96 standard errors."""
    return f"{values.mean():.{digits}f} ± {1.96 * values.std(ddof=1) / np.sqrt(len(values)):.{digits}f}"


def _maps(results: Results) -> str:
    names = {
        "false discovery proportion": "false discovery proportion",
        "unrelated coloured": "unrelated places coloured",
        "ties coloured": "ties coloured",
        "leads coloured right": "leads coloured right",
        "quarter of ties": "maps with more than a quarter of the ties coloured",
    }
    rows = [
        [cell.name, TITLES[route], *(_mean(found[route][name]) for name in names)]
        for cell, found in results
        for route in cell.routes
    ]
    return _table(["maps", "analysis", *names.values()], rows)


def _coverage(results: Results) -> str:
    from scipy.stats import t

    populations = ("images", "people", "both")
    names = {"unique": "one unique variance", "difference": "difference of two", "total share": "share of the total"}
    rows = []
    for cell, found in results:
        for route in cell.routes:
            for name, label in names.items():
                own = found[route]
                error = np.abs(own[name] - own[name].mean())
                covered = [rate((error <= own[f"{name}, {over}"]).astype(float)) for over in populations]
                df = degrees_of_freedom("both", cell.world.n_images, cell.world.n_people)
                se = np.sqrt(np.nanmean(np.square(own[f"{name}, both"]))) / t.isf(0.025, df)
                ratio = f"{se / own[name].std(ddof=1):.2f}"
                rows.append([cell.name, TITLES[route], label, *covered, ratio])
    head = ["world", "analysis", "interval of", "over images", "over people", "over both (default)", "SE / SD"]
    return _table(head, rows)


def _people(results: Results) -> str:
    of_route = {
        "default": "`--stats t-test`",
        "plain": "`--stats t-test --comparison plain`",
        "published": "`--stats t-test --as-published`",
    }
    names = {"one star": "star of one group, p", "any star": "any star, q", "any bracket": "any bracket, q"}
    rows = [
        [cell.name, of_route[route], *(rate(found[route][name]) for name in names)]
        for cell, found in results
        for route in cell.routes
    ]
    return _table(["world", "analysis", *names.values()], rows)


def _powers(results: Results) -> str:
    rows = []
    for cell, found in results:
        if cell.claim.__name__ == "maximum":
            for scale, label in (("studentised", "studentised, as in use"), ("as_is", "R² as it is")):
                right = [_mean(100 * found[route][f"{scale}: found"], 1) for route in cell.routes]
                wrong = [rate(found[route][f"{scale}: any false"]) for route in cell.routes]
                rows.append([f"{cell.name}: {label}", *right, "", "", str(cell.runs)])
                rows.append(["any false place in the map (level)", *wrong, "", "", str(cell.runs)])
            continue
        outcomes = {"explained": "explained", "stars": "star 2", "lead": "lead"}
        for rank in (1, 2, 3) if cell.claim.__name__ == "ranks" else (0,):
            name = f"rank {rank}" if rank else outcomes[cell.claim.__name__]
            row = []
            for route in ALL_ROUTES:
                row.append(rate(found[route][name]) if route in cell.routes else "")
            rows.append([cell.name + (f", rank {rank}" if rank else ""), *row, str(cell.runs)])
    return _table(["claim and world", *(TITLES[route] for route in ALL_ROUTES), "runs"], rows)


def _recovery(results: Results) -> str:
    rows = []
    for cell, found in results:
        own = found["default"]
        error = own["share"] - own["true"]
        rows.append(
            [cell.name, f"{own['true'].mean():.3f}", f"{own['share'].mean():.3f}", f"{own['not divided'].mean():.3f}",
             f"{np.sqrt(np.mean(error**2)):.3f}",
             f"{100 * np.mean(own['share'] > 1):.0f}"]
        )  # fmt: skip
    return _table(
        ["world", "true", "estimated share", "R² without division", "root mean square error", "above 1, %"], rows
    )


def _bootstraps(found: dict[str, dict[str, float]]) -> str:
    columns = (
        "correlation, rsatoolbox", "correlation, bootstrap", "correlation difference, rsatoolbox",
        "correlation difference, bootstrap", "R2, bootstrap", "R2, closed form", "R2 difference, bootstrap",
        "R2 difference, closed form",
    )  # fmt: skip
    rows = [
        [name, *(f"{found[name][c]:.4f}" for c in columns), f"{found[name]['rsatoolbox, s']:.0f} s",
         f"{1000 * found[name]['closed form, s']:.1f} ms"] for name in WORLDS
    ]  # fmt: skip
    head = [column.replace("R2", "R²") for column in columns]
    return _table(["world", *head, "time of rsatoolbox", "of the closed form"], rows)
