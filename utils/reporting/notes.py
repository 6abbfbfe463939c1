"""Notes at the foot of figures and pages: what is shown, and how it was tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from utils.analysis.settings import Settings

# The share of the explainable variance by which the paper counts regions.
_WELL_EXPLAINED = 0.6


def searchlight_colours(what: str, table: pd.DataFrame, settings: Settings, summary: Mapping[str, Any]) -> list[str]:
    """What the colours of Fig 1 and Fig 3a mean, and how many searchlights have them.

    Parameters
    ----------
    what : {"network", "group"}
    table : DataFrame
        One row per searchlight, with columns significant and explained.
    settings : Settings
    summary : mapping
        Has `n_subjects`.
    """
    winner = {
        "network": "the network that explains its RDM best (adjusted R²)",
        "group": "the group with the largest unique variance",
    }[what]
    if settings.cross_validate:
        winner = {
            "network": "the network that predicts its RDM best (cross-validated R²)",
            "group": "the group with the largest cross-validated unique variance",
        }[what]
    if settings.as_published:
        others = " and exceeds that of every other group" if what == "group" else ""
        return [f"Each searchlight has the colour of {winner}, if this is above chance{others}."]
    solid, explained = int(table["significant"].sum()), int(table["explained"].sum())
    corrected = "FDR over searchlights" if settings.correction == "fdr" else "family-wise by sign flips"
    return [
        f"Full colour ({solid:,} searchlights): {winner}, where it leads every other {what}.",
        f"Pale ({explained - solid:,}): more is explained than by chance, but no {what} leads every other.",
        f"Leads: {errors(settings, summary['n_subjects'])}; {corrected}, level {settings.alpha:g}.",
    ]


def errors(settings: Settings, n_subjects: int | str) -> str:
    """How standard errors were found."""
    population = "images" if _is_one(n_subjects) else settings.generalise
    over = {"both": "images and participants", "images": "images", "people": "participants"}[population]
    return f"jackknife over {over}"


def _is_one(n_subjects: int | str) -> bool:
    return str(n_subjects) == "1"


def one_person(n_subjects: int | str, before: str = "") -> str:
    """What results of a single participant do not say, with something before it; empty for several."""
    if not _is_one(n_subjects):
        return ""
    return (
        f"{before}One participant: results are about other images, not about other people, and what is explained has "
        "no noise ceiling to be compared with."
    )


def searchlight_tests(settings: Settings, summary: Mapping[str, Any]) -> list[str]:
    """How searchlights were tested, and how many of them."""
    ceiling, by_person = summary["ceiling"], summary.get("models_by_person", False)
    threshold = ", all that have RDMs" if ceiling is None else f", lower noise ceiling ≥ {ceiling:g}"
    return [
        significance(settings, summary["n_subjects"], "searchlights", by_person=by_person),
        f"Tested: {summary['n_tested']:,} of {summary['n_searchlights']:,} searchlights{threshold}.",
        *filter(None, [one_person(summary["n_subjects"]), own_models() if by_person else ""]),
    ]


def own_models() -> str:
    """What values mean where models differ between people."""
    return (
        "Models differ between participants: each participant's RDM is fitted by this participant's own models, and "
        "values are means over participants. How alike participants are (noise ceiling) does not bound such models."
    )


def significance(settings: Settings, n_subjects: int | str, locations: str, *, by_person: bool = False) -> str:
    """One sentence on how significance was assessed.

    Parameters
    ----------
    settings : Settings
    n_subjects : int or str
    locations : {"searchlights", "ROIs"}
    by_person : bool
        Whether models differ between people.
    """
    if settings.stats == "t-test":
        against = "0" if settings.as_published else "chance level"
        test = f"t-test over {n_subjects} participants against {against}"
    else:
        times = f"{settings.n_permutations:,} times"
        people = f"RDMs of {n_subjects} participants alike" if by_person else f"mean RDM of {n_subjects} participants"
        whose = "RDM of one participant" if _is_one(n_subjects) else people
        what = settings.permute + (" within blocks" if settings.blocks and settings.permute == "conditions" else "")
        test = f"permutation of {what}, {times}, {whose}"
    searchlights = locations == "searchlights"
    corrected = {
        "max": "family-wise by the maximum statistic",
        "fdr": f"FDR over all {'searchlights' if searchlights else 'tests'}",
        "within_location": f"FDR within each {locations[:-1]}" + (", then over searchlights" if searchlights else ""),
    }[settings.correction]
    return f"Significance: {test}; {corrected}, level {settings.alpha:g}."


def bars(settings: Settings, n_subjects: int | str, *, by_person: bool = False) -> str:
    """What bars, error bars, stars and brackets of the ROI figures mean; whether models differ between people."""
    if settings.as_published:
        subsets = f"{settings.bootstrap_ratio:.0%} of the conditions"
        return f"Bars: unique variance ± SD over subsets of {subsets}; asterisk: above chance; bracket: the two differ."
    variance = "variance" if _is_one(n_subjects) or by_person else "explainable variance"
    own = f" {own_models()}" if by_person and not _is_one(n_subjects) else ""
    ranked = " Ranked by cross-validated values." if settings.cross_validate else ""
    return (
        f"Bars: unique variance ± standard error ({errors(settings, n_subjects)}); filled asterisk: above chance and "
        f"more than {settings.minimum_effect:.2g} of the {variance}; hollow: above chance; bracket: the two differ."
        f"{ranked}{one_person(n_subjects, ' ')}{own}"
    )


def found(table: pd.DataFrame) -> str:
    """What a run found, in one line.

    For ROIs, this includes the paper's measure: how many regions are explained to more than 60 %.

    Parameters
    ----------
    table : DataFrame
        What results.tsv holds.
    """
    significant = table["significant"].to_numpy(dtype=bool)
    if "searchlight" not in table:
        line = f"{significant.sum():,} of {len(table):,} unique variances significant"
        if "total_share" not in table:
            return line
        share, reliable = (table.groupby("roi", sort=False)[name].first() for name in ("total_share", "reliability"))
        of = "" if reliable.isna().all() else "explainable "
        return f"{line}; {(share > _WELL_EXPLAINED).sum()} of {len(share)} regions above 60 % of the {of}variance"
    counts = Counter(table["group"][significant])
    of_groups = f" ({', '.join(f'{name} {count:,}' for name, count in counts.most_common())})" if counts else ""
    tested = f"{int(table['tested'].sum()):,} tested searchlights"
    if "explained" not in table:
        return f"{significant.sum():,} of {tested} significant{of_groups}"
    pale = int((table["explained"].to_numpy(dtype=bool) & ~significant).sum())
    group = (
        f"; the group is established in {table['group_significant'].sum():,}" if "group_significant" in table else ""
    )
    return f"{significant.sum():,} of {tested} in full colour{of_groups}, {pale:,} in a pale one{group}"


def subjects_and_ceiling(settings: Settings, how_many: str) -> str:
    """What the lower panel of Fig 2 shows; `how_many` networks, in words."""
    ceiling = (
        "the noise ceiling (squared mean Spearman correlation, lower to upper)"
        if settings.as_published
        else "what could be explained of them (R²: from the others' mean RDM to the most that as many predictors could)"
    )
    return (
        f"Bottom: adjusted R² of the {how_many} networks, fitted to the RDMs of single participants (mean and standard "
        "error over participants); what unrelated networks would reach (mean over permutations of conditions); "
        f"and {ceiling}."
    )
