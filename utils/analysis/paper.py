"""The paper's own numbers, to stand beside those of a run on the released data.

Read off the figures of Dwivedi et al. 2021; the two tables in this folder name source and reading error.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from models.tasks import TASKS
from utils.datasets.layout import Sources
from utils.datasets.models import ModelRdms
from utils.datasets.rois import PAPER_ROIS, RoiRdms

_FOLDER = Path(__file__).parent
_N_CONDITIONS = 50


def applies(sources: Sources, models: ModelRdms, rois: RoiRdms) -> bool:
    """Whether a run is on the released data: its layout, 50 conditions, all networks, some of the paper's ROIs."""
    known = {task.key for task in TASKS} | {task.group for task in TASKS}
    complete = len(models.models) in (len(TASKS), 3) and {model.key for model in models.models} <= known
    return (
        sources.published
        and not sources.simulated
        and complete
        and models.n_conditions == _N_CONDITIONS
        and models.pairs is None
        and bool(set(rois.names) & set(PAPER_ROIS))
    )


def read(figure: str) -> pd.DataFrame:
    """The paper's numbers for "fig2" (one row per ROI and rank) or "fig3b" (one row per ROI and group)."""
    return pd.read_csv(_FOLDER / f"paper_{figure}.tsv", sep="\t", comment="#", na_values="n/a")


def beside(figure: str, table: pd.DataFrame) -> pd.DataFrame:
    """Add the paper's columns to the table of a figure, ROI by ROI.

    Parameters
    ----------
    figure : {"Fig2", "Fig3b"}
    table : DataFrame
        One row per ROI and rank (Fig 2), or per ROI and group (Fig 3b).

    Returns
    -------
    DataFrame
        With further columns, whose names begin with `paper_`.
    """
    if figure == "Fig2":
        return table.merge(read("fig2").rename(columns={"model": "paper_model"}), on=["roi", "rank"], how="left")
    return table.merge(read("fig3b"), on=["roi", "model"], how="left")


def text(table: pd.DataFrame) -> str:
    """A table for the terminal: own numbers and the paper's side by side, for the ROIs that the paper shows."""
    columns = ["roi", "rank", "model", "paper_model", "unique", "paper_unique", "paper_unique_below"]
    columns += ["significant", "paper_significant", "total_adjusted_r2", "paper_total_adjusted_r2"]
    shown = table.loc[table["paper_total_adjusted_r2"].notna(), [name for name in columns if name in table]]
    heading = "Beside the numbers of the paper (Dwivedi et al. 2021; figures of the preprint, see utils/analysis):"
    return f"{heading}\n{shown.to_string(index=False, float_format=lambda value: f'{value:.4f}', na_rep='')}"
