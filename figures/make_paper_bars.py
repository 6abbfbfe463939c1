"""Draw the paper's bars of Fig 2 and Fig 3b, to hold a run on the released data against.

python figures/make_paper_bars.py          writes figures/paper_bars.png

From utils/analysis/paper_fig2.tsv and paper_fig3b.tsv, which were read off the published figures.
"""

from pathlib import Path

import matplotlib as mpl
import pandas as pd

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from PIL import Image

from models.tasks import TASKS
from utils.analysis.paper import read

TARGET = Path(__file__).parent / "paper_bars.png"
COLORS = {"2D": "#0077BB", "3D": "#E69F00", "semantic": "#882255"}
INK = "#2B2B2B"
TASK = {task.key: task for task in TASKS}


def bars(ax: Axes, table: pd.DataFrame, groups: list[str], names: list[str]) -> None:
    """Three bars per ROI, in the colours of their groups, hatched where the paper has no star; names above if given."""
    rois = list(dict.fromkeys(table["roi"]))
    for row, (roi, unique, below, star, group, name) in enumerate(
        zip(table["roi"], table["paper_unique"], table["below"], table["paper_significant"], groups, names, strict=True)
    ):
        x = rois.index(roi) + 0.27 * (row % 3 - 1)
        if pd.isna(unique):  # hidden by the axis of the published figure
            ax.plot([x - 0.12, x + 0.12], [below, below], color=COLORS[group], linewidth=1.2)
            continue
        look = {} if star else {"hatch": "//////", "alpha": 0.65}
        ax.bar(x, unique, 0.25, color=COLORS[group], edgecolor="white" if look else "none", linewidth=0, **look)
        ax.text(x, unique + 0.003, name, rotation=90, fontsize=6.5, ha="center", va="bottom", color=INK)
    totals = table.groupby("roi")["paper_total_adjusted_r2"].first()
    ax.set_xticks(range(len(rois)), [f"{roi}\n{totals[roi]:.2f}".replace("0.", ".") for roi in rois])
    ax.set_xlim(-0.6, len(rois) - 0.4)
    ax.set_ylabel("unique variance (R²)", fontsize=8)
    ax.tick_params(labelsize=8, length=2)
    ax.spines[["top", "right"]].set_visible(False)


def main() -> None:
    fig2, fig3b = read("fig2"), read("fig3b")
    figure, (upper, lower) = plt.subplots(2, 1, figsize=(9.2, 5.4), layout="constrained")
    chosen = [TASK[key] for key in fig2["model"]]
    bars(upper, fig2.assign(below=None), [task.group for task in chosen], [task.label for task in chosen])
    bars(lower, fig3b.assign(below=fig3b["paper_unique_below"]), list(fig3b["model"]), [""] * len(fig3b))
    upper.set_ylim(0, 0.19)
    upper.set_title("Fig 2 of the paper: the three best networks of each ROI, in order", fontsize=9, loc="left")
    lower.set_title("Fig 3b of the paper: groups of networks", fontsize=9, loc="left")
    lower.text(
        -0.01,
        -0.25,
        "numbers below the names: total adjusted R²; lines: upper bounds of bars that are hidden by the axis",
        transform=lower.transAxes,
        fontsize=7.5,
        color=INK,
    )
    handles = [Patch(color=color, label=group) for group, color in COLORS.items()]
    handles.append(Patch(facecolor="#8A8A8A", edgecolor="white", hatch="//////", linewidth=0, label="not significant"))
    lower.legend(handles=handles, fontsize=8, frameon=False, ncols=4, loc="upper right")
    figure.savefig(TARGET, dpi=130)
    with Image.open(TARGET) as picture:
        picture.convert("RGB").quantize(128).save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
