"""Notes at the foot of figures and pages: what is shown, and how it was tested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from utils.analysis.settings import Settings


def best_network(settings: Settings) -> str:
    """What the colours of Fig 1 mean."""
    chance = "chance" if settings.correction == "within_location" else "the best of all networks does by chance"
    return (
        "Each searchlight has the colour of the network that explains its RDM best (adjusted R²), if it explains more "
        f"than {chance}."
    )


def strongest_group(table: pd.DataFrame, settings: Settings) -> list[str]:
    """What the colours of Fig 3a mean, and in how many searchlights the margin is also established by the jackknife.

    Parameters
    ----------
    table : DataFrame
        One row per searchlight, with columns significant and q_lead_in_refits.
    settings : Settings
    """
    coloured = table[table["significant"]]
    held = (coloured["q_lead_in_refits"] <= settings.alpha).sum()
    return [
        "Each searchlight has the colour of the group with the largest unique variance, if this is above chance and "
        "exceeds that of every other group.",
        f"In {held:,} of {len(coloured):,} the margin also exceeds its standard error (jackknife over conditions).",
    ]


def searchlight_tests(settings: Settings, summary: Mapping[str, Any]) -> list[str]:
    """How searchlights were tested, and how many of them."""
    return [
        significance(settings, summary["n_subjects"], "searchlights"),
        f"Tested: {summary['n_tested']:,} of {summary['n_searchlights']:,} searchlights, lower noise ceiling "
        f"≥ {settings.ceiling:g}.",
    ]


def significance(settings: Settings, n_subjects: int | str, locations: str) -> str:
    """One sentence on how significance was assessed.

    Parameters
    ----------
    settings : Settings
    n_subjects : int or str
    locations : {"searchlights", "ROIs"}
    """
    if settings.stats == "t-test":
        against = "chance level" if settings.chance_level else "0"
        test = f"t-test over {n_subjects} participants against {against}"
    else:
        times = f"{settings.n_permutations:,} times"
        test = f"permutation of {settings.permute}, {times}, mean RDM of {n_subjects} participants"
    searchlights = locations == "searchlights"
    corrected = {
        "max": "family-wise by the maximum statistic",
        "fdr": f"FDR over all {'searchlights' if searchlights else 'tests'}",
        "within_location": f"FDR within each {locations[:-1]}" + (", then over searchlights" if searchlights else ""),
    }[settings.correction]
    return f"Significance: {test}; {corrected}, level {settings.alpha:g}."


def bars(settings: Settings) -> str:
    """What bars, error bars, stars and brackets of the ROI figures mean."""
    subsets = f"{settings.bootstrap_ratio:.0%} of the conditions"
    error = f"standard error (jackknife, {subsets})" if settings.scaled_errors else f"SD over subsets of {subsets}"
    return f"Bars: unique variance ± {error}; asterisk: above chance; bracket: the two differ."


def subjects_and_ceiling(how_many: str) -> str:
    """What the lower panel of Fig 2 shows; `how_many` networks, in words."""
    return (
        f"Bottom: adjusted R² of the {how_many} networks, fitted to the RDMs of single participants (mean and standard "
        "error over participants); what unrelated networks would reach (exact mean over permutations of conditions); "
        "and the noise ceiling (squared mean Spearman correlation, lower to upper)."
    )
