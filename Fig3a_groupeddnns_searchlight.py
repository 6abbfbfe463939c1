"""Fig 3a: which group of networks explains variance of its own at each place in the brain?

The networks of each group (2D, 3D, semantic) are averaged to one RDM per layer. For every searchlight, the variance of
the brain's RDM is partitioned among the groups; it is coloured by the group with the largest unique variance, if that
is significant and exceeds the unique variance of every other group. Results go to DIR/Fig3a: report.html and
brain_map.html (open them in a browser), figure.png and .svg, results.tsv, arrays.npz, maps/ and run.json.

  python Fig3a_groupeddnns_searchlight.py                    the published data in data/, else a simulated example
  python Fig3a_groupeddnns_searchlight.py --data my_study    your own, in the layout of data/README.md
"""

import argparse
import time
from collections import Counter

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from utils import analysis, cli
from utils.analysis.searchlights import spread
from utils.datasets.models import ModelRdms, load_models
from utils.datasets.rois import Atlas, load_atlas
from utils.datasets.searchlights import SearchlightRdms, load_searchlights
from utils.io import output as results
from utils.plotting import brain_maps as drawing
from utils.plotting.colors import study_colors
from utils.plotting.page_layout import Look
from utils.stats.inference import all_pairs
from utils.stats.refits import winner_stability
from utils.stats.regression import (
    own_adjusted_r2,
    own_r2,
    part_names,
    project,
    total_adjusted_r2,
    unique_adjusted_r2,
    variance_parts,
)

FIGURE = "Fig3a"
TITLE = "Fig 3a: the group of networks that explains unique variance of each searchlight"


def main() -> None:
    started = time.time()
    options = cli.parse(FIGURE, "searchlight", __doc__)
    with results.Outputs(options.results / FIGURE) as outputs:
        sources = cli.find_data(options)
        device = cli.choose_device(options)
        models = load_models(sources, options.layers, options.models)
        groups = models.grouped()
        with cli.progress("reading searchlights", options) as advance:
            brain = load_searchlights(sources, groups.n_conditions, advance)
        tested = analysis.tested_searchlights(options, brain)

        basis = analysis.fit_basis(groups)
        statistic = unique_adjusted_r2(basis)
        projected = project(basis, brain.mean[brain.usable])
        pairs = all_pairs(len(groups.models))
        with cli.workers(options) as cluster, cli.progress("testing searchlights", options) as advance:
            outcome = analysis.test_searchlights(
                options, basis, statistic, brain, tested, pairs=pairs, device=device, cluster=cluster, progress=advance
            )
        winner = statistic(projected)[:, tested[brain.usable]].argmax(axis=0)
        p_exceeds, q_exceeds = analysis.winner_exceeds_others(options, winner, outcome)
        p_lead, q_lead = analysis.lead_in_refits(options, basis, brain.mean[tested], pairs)
        with cli.progress("refitting to subsets of the conditions", options) as advance:
            stability = winner_stability(
                groups.rdms, unique_adjusted_r2, brain.mean[tested], seed=options.seed, progress=advance
            )
        parts = variance_parts(basis)(projected)
        names = [model.key for model in groups.models]
        arrays: dict[str, ArrayLike] = {
            "models": names,
            "places": np.arange(len(tested)),
            "r2": spread(own_r2(basis)(projected), brain.usable),
            "adjusted_r2": spread(own_adjusted_r2(basis)(projected), brain.usable),
            "unique": spread(parts[: len(names)], brain.usable),
            "shared": spread(parts[len(names) :], brain.usable),
            "shared_names": [" & ".join(names[i] for i in part) for part in part_names(len(names))[len(names) :]],
            "total": spread(total_adjusted_r2(basis)(projected)[0], brain.usable),
            "p": spread(outcome.p, tested),
            "q": spread(outcome.q, tested),
            "p_best": spread(outcome.p_best, tested),
            "q_best": spread(outcome.q_best, tested),
            "p_difference": spread(outcome.p_difference, tested),
            "difference_names": [f"{names[i]} - {names[j]}" for i, j in pairs],
            "p_exceeds_others": spread(p_exceeds, tested),
            "q_exceeds_others": spread(q_exceeds, tested),
            "p_lead_in_refits": spread(p_lead, tested),
            "q_lead_in_refits": spread(q_lead, tested),
            "stability": spread(stability, tested),
            "ceiling_lower": brain.ceiling_lower,
            "ceiling_upper": brain.ceiling_upper,
        }
        table = tidy(options, groups, brain, tested, arrays)
        results.write_arrays(outputs.path("arrays.npz"), **arrays)
        results.write_table(outputs.path("results.tsv"), table)
        banner = cli.SIMULATED if sources.simulated else None
        draw(
            options,
            outputs,
            groups,
            brain,
            table,
            arrays,
            load_atlas(sources),
            cli.SIMULATED if sources.simulated else None,
        )
        data = {
            "n_searchlights": len(tested),
            "n_tested": int(tested.sum()),
            "n_subjects": brain.n_subjects,
            "n_conditions": groups.n_conditions,
            "networks": dict(Counter(model.group for model in models.models)),
            "layers": models.layers,
        }
        record = cli.record(
            options, sources, data, [groups.rdms, brain.mean], device=device, started=started, cluster=cluster
        )
        cli.report(table["winner"][table["significant"]], "searchlights", int(tested.sum()))
        cli.publish(options, outputs, record, table, title=TITLE, banner=banner, started=started)


def tidy(
    options: argparse.Namespace, groups: ModelRdms, brain: SearchlightRdms, tested: np.ndarray, arrays: dict
) -> pd.DataFrame:
    """One row per searchlight: the group with the largest unique variance, and whether it stands out."""
    places = np.arange(len(tested))
    winner = np.nan_to_num(arrays["unique"], nan=-np.inf).argmax(axis=0)
    position = brain.geometry.centers_mm()
    names = [groups.models[w].key if ok else None for w, ok in zip(winner, brain.usable, strict=True)]
    return pd.DataFrame(
        {
            "searchlight": places,
            "x": position[:, 0],
            "y": position[:, 1],
            "z": position[:, 2],
            "tested": tested,
            "winner": names,
            "group": names,
            "unique": arrays["unique"][winner, places],
            "p": arrays["p_best"],
            "q": arrays["q_best"],
            "p_exceeds_others": arrays["p_exceeds_others"],
            "q_exceeds_others": arrays["q_exceeds_others"],
            "q_lead_in_refits": arrays["q_lead_in_refits"],
            "significant": (arrays["q_best"] <= options.alpha) & (arrays["q_exceeds_others"] <= options.alpha),
            "stability": arrays["stability"],
            "total_adjusted_r2": arrays["total"],
            "ceiling_lower": brain.ceiling_lower,
        }
    )


def draw(
    options: argparse.Namespace,
    outputs: results.Outputs,
    groups: ModelRdms,
    brain: SearchlightRdms,
    table: pd.DataFrame,
    arrays: dict,
    atlas: Atlas | None,
    banner: str | None,
) -> None:
    """The functional map: page, still picture, and files for other programs."""
    coloured = table[table["significant"]]
    held = (coloured["q_lead_in_refits"] <= options.alpha).sum()
    maps = drawing.group_maps(
        brain.geometry, groups.models, study_colors(groups.table), table, arrays["unique"], arrays["shared"]
    )
    notes = [
        "Each searchlight has the colour of the group with the largest unique variance, if that is above chance and "
        "exceeds every other group's.",
        f"In {held:,} of {len(coloured):,} the lead is also beyond its standard error (jackknife over conditions).",
        analysis.describe(options, brain.n_subjects),
        f"Tested: {table['tested'].sum():,} of {len(table):,} searchlights, lower noise ceiling ≥ {options.ceiling:g}.",
    ]
    look = Look(TITLE, banner, options.surface, options.style)
    drawing.save_maps(outputs, maps, look, notes, atlas)
    drawing.save_montage(outputs, maps, look, notes)


if __name__ == "__main__":
    cli.execute(main)
