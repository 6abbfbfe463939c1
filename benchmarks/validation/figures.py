"""Figures of docs/VALIDATION.md."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.validation.grid import BASE_CURVE, CURVE_VALUES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmarks.validation.page import Results

BLUE, ORANGE, GREY = "#0077BB", "#EE7733", "#999999"
LABELS = {
    "effect": "effect (share of variance)",
    "images": "images",
    "people": "people",
    "noise": "SD of noise / SD of signal",
}


def draw_all(results: Results, folder: Path) -> None:
    """Draw all figures into a folder."""
    import matplotlib

    matplotlib.use("Agg")
    folder.mkdir(exist_ok=True)
    _draw_levels(results, folder / "validation_levels.png")
    _draw_power(results, folder / "validation_power.png")
    _draw_recovery(results, folder / "validation_recovery.png")


def _save(path: Path) -> None:
    import matplotlib.pyplot as plt

    plt.tight_layout()
    plt.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close()


def _intervals(axes: Axes, at: NDArray, values: list[NDArray], color: str, label: str, horizontal: bool) -> None:
    """Proportions with their intervals."""
    from benchmarks.validation.page import wilson

    middle, low, high = np.array([wilson(v) for v in values]).T
    error = np.maximum(0, [middle - low, high - middle])
    if horizontal:
        axes.errorbar(middle, at, xerr=error, fmt="o", ms=4, color=color, label=label, lw=1.2)
    else:
        axes.errorbar(at, middle, yerr=error, fmt="o-", ms=4, color=color, label=label, lw=1.2)


def _draw_levels(results: Results, path: Path) -> None:
    """Levels of claims, of the default analysis and as published with conditions permuted."""
    import matplotlib.pyplot as plt

    outcomes = {"explained": "explained", "beside": "false star", "ties": "lead"}
    titles = {"explained": "Fig 1, explained", "beside": "Fig 3b, star", "ties": "Fig 3a, lead"}
    shown = [(cell, found) for cell, found in results if cell.table in outcomes]
    _, axes = plt.subplots(figsize=(8.5, 0.27 * len(shown) + 1))
    at = np.arange(len(shown))[::-1]
    routes = {"published, conditions": (ORANGE, "as published, conditions permuted"), "default": (BLUE, "default")}
    for route, (color, label) in routes.items():
        values = [found[route][outcomes[cell.table]] for cell, found in shown]
        _intervals(axes, at, values, color, label, horizontal=True)
    axes.axvspan(0.03, 0.07, color="0.9", zorder=0)
    axes.axvline(0.05, color=GREY, lw=1)
    axes.set_yticks(at, [f"{titles[cell.table]}: {cell.name}" for cell, _ in shown], fontsize=7)
    axes.set(xlabel="how often the claim is made (nominal level .05)", xlim=(-0.01, 1.01))
    axes.legend(fontsize=7, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
    _save(path)


def _draw_power(results: Results, path: Path) -> None:
    """Power of stars and leads against effect, images, people and noise."""
    import matplotlib.pyplot as plt

    found = {(cell.table, cell.name): own for cell, own in results if cell.table.startswith("curve")}
    _, rows = plt.subplots(2, 4, figsize=(10, 5), sharey=True)
    for axes_row, (table, outcome) in zip(rows, (("star", "star 2"), ("lead", "lead")), strict=True):
        for axes, (axis, points) in zip(axes_row, CURVE_VALUES.items(), strict=True):
            for route, color in (("default", BLUE), ("plain", ORANGE)):
                values = [_made(found[f"curve {table}", f"{axis} {v:g}"][route], outcome) for v in points]
                _intervals(axes, np.array(points), values, color, route, horizontal=False)
            axes.axvline(BASE_CURVE[axis], color=GREY, lw=0.8, ls=":")
            axes.set(xlabel=LABELS[axis], ylim=(-0.02, 1.02), xscale="log")
            axes.set_xticks(points, [f"{v:g}" for v in points])
            axes.minorticks_off()
        axes_row[0].set_ylabel(f"power: {table}")
    rows[0][0].legend(fontsize=8)
    _save(path)


def _made(outcomes: dict[str, NDArray[np.float64]], outcome: str) -> NDArray[np.float64]:
    """Whether a claim is made and right: a lead only of the first group."""
    return outcomes[outcome] * (outcomes["winner"] == 0) if outcome == "lead" else outcomes[outcome]


def _draw_recovery(results: Results, path: Path) -> None:
    """Estimated share of the explainable variance against the true one."""
    import matplotlib.pyplot as plt

    _, all_axes = plt.subplots(1, 2, figsize=(7.5, 3.6), sharey=True)
    shown = [(cell, found) for cell, found in results if cell.table == "recovery"]
    levels = sorted({cell.world.noise for cell, _ in shown})
    for axes, route in zip(all_axes, ("default", "plain"), strict=True):
        for noise, color in zip(levels, (BLUE, ORANGE, "#009988"), strict=True):
            own = [found[route] for cell, found in shown if cell.world.noise == noise]
            x, y, raw = (np.concatenate([values[key] for values in own]) for key in ("true", "share", "not divided"))
            axes.plot(x, y, "o", ms=3, color=color, alpha=0.35, label=f"noise {noise:g}")
            axes.plot(x, raw, "x", ms=3, color=color, alpha=0.35, mew=0.8, label="not divided")
        axes.plot([0, 1], [0, 1], color=GREY, lw=1)
        axes.set(title=route, xlabel="true share")
    all_axes[0].set_ylabel("estimated share")
    all_axes[1].legend(fontsize=7, markerscale=1.5, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    _save(path)
