"""Fig 3b: unique and shared variance of the groups of networks in each region of interest.

The networks of each group (2D, 3D, semantic) are averaged to one RDM per layer. For every ROI, the variance of the RDM
is partitioned among the groups; bars show the unique variance of each. Results go to DIR/Fig3b: report.html (open
it in a browser), figure.png and .svg, results.tsv, arrays.npz, run.json and, where there is an ROI atlas,
brain_map.html and maps/.

  python Fig3b_groupeddnns_ROIs.py                    the published data in data/, else a simulated example
  python Fig3b_groupeddnns_ROIs.py --data my_study    your own, in the layout of data/README.md
"""

import argparse
import time
from collections import Counter

import numpy as np
import pandas as pd

from utils import analysis, cli
from utils.analysis import paper
from utils.analysis.rois import Partition
from utils.analysis.significance import Outcome
from utils.datasets.models import ModelRdms, load_models
from utils.datasets.rois import RoiRdms, load_atlas, load_rois
from utils.io import output as results
from utils.plotting import brain_maps as drawing
from utils.plotting.colors import study_colors
from utils.plotting.label_maps import RoiLocations
from utils.plotting.page_layout import Look, save_figure
from utils.plotting.roi_figure import roi_figure, roi_panels
from utils.stats.inference import all_pairs
from utils.stats.refits import winner_stability
from utils.stats.regression import own_adjusted_r2, own_r2, part_names, project, unique_adjusted_r2

FIGURE = "Fig3b"
TITLE = "Fig 3b: unique variance of the groups of networks in each ROI"
MAP_TITLE = "Fig 3b: the strongest group of networks in each ROI"


def main() -> None:
    started = time.time()
    options = cli.parse(FIGURE, "roi", __doc__)
    with results.Outputs(options.results / FIGURE) as outputs:
        sources = cli.find_data(options)
        device = cli.choose_device(options)
        models = load_models(sources, options.layers, options.models)
        groups = models.grouped()
        rois = load_rois(sources, groups.n_conditions, options.rois)
        names = [model.key for model in groups.models]

        basis = analysis.fit_basis(groups)
        projected = project(basis, rois.mean())
        every_group = np.repeat(np.arange(len(names))[:, None], len(rois.names), axis=1)
        with cli.progress("partitioning variance", options) as advance:
            partition = analysis.partition_rois(options, groups, rois, every_group, advance)
        pairs = all_pairs(len(names))
        if options.stats == "t-test":
            outcome = analysis.test_rois_over_subjects(options, partition, pairs)
        else:
            with cli.progress("testing ROIs", options) as advance:
                outcome = analysis.test_by_permutation(
                    options,
                    basis,
                    unique_adjusted_r2(basis),
                    rois.mean(),
                    pairs=pairs,
                    se_difference=partition.se_difference,
                    device=device,
                    progress=advance,
                )
        stability = winner_stability(groups.rdms, unique_adjusted_r2, rois.mean(), seed=options.seed)
        lower, upper = rois.ceilings()
        arrays = {
            "models": names,
            "places": rois.names,
            "r2": own_r2(basis)(projected),
            "adjusted_r2": own_adjusted_r2(basis)(projected),
            "unique": partition.unique,
            "se": partition.se,
            "se_difference": partition.se_difference,
            "shared": partition.parts[len(names) :],
            "shared_names": [" & ".join(names[i] for i in part) for part in part_names(len(names))[len(names) :]],
            "total": partition.total,
            "p": outcome.p,
            "q": outcome.q,
            "p_difference": outcome.p_difference,
            "q_difference": outcome.q_difference,
            "difference_names": [f"{names[i]} - {names[j]}" for i, j in pairs],
            "stability": stability,
            "ceiling_lower": lower,
            "ceiling_upper": upper,
        }
        table = tidy(options, groups, rois, partition, outcome, arrays)
        if paper.applies(sources, groups, rois):
            table = paper.beside_fig3b(table)
            print(paper.text(table))
        results.write_arrays(outputs.path("arrays.npz"), **arrays)
        results.write_table(outputs.path("results.tsv"), table)
        banner = cli.SIMULATED if sources.simulated else None
        draw(options, outputs, groups, rois, partition, outcome, banner)
        first = strongest(options, table, outcome)
        atlas = load_atlas(sources)
        if atlas is None:
            print(cli.NO_ATLAS)
        else:
            locations = RoiLocations(atlas, rois.ids)
            maps = drawing.roi_maps(locations, groups.models, study_colors(groups.table), first)
            notes = [maps[0].note, analysis.describe(options, analysis.subject_range(rois))]
            drawing.save_maps(outputs, maps, Look(MAP_TITLE, banner, options.surface), notes, atlas)
        data = {
            "n_rois": len(rois.names),
            "n_subjects": analysis.subject_range(rois),
            "n_conditions": groups.n_conditions,
            "networks": dict(Counter(model.group for model in models.models)),
            "layers": models.layers,
        }
        record = cli.record(options, sources, data, [groups.rdms, *rois.subjects], device=device, started=started)
        cli.publish(options, outputs, record, table, title=TITLE, banner=banner, started=started)


def tidy(
    options: argparse.Namespace,
    groups: ModelRdms,
    rois: RoiRdms,
    partition: Partition,
    outcome: Outcome,
    arrays: dict,
) -> pd.DataFrame:
    """One row per ROI and group; rank is by unique variance."""
    rank = np.argsort(np.argsort(-partition.unique, axis=0, kind="stable"), axis=0) + 1
    rows = [
        {
            "roi": roi,
            "model": group.key,
            "group": group.group,
            "rank": rank[k, place],
            "adjusted_r2": arrays["adjusted_r2"][k, place],
            "unique": partition.unique[k, place],
            "se": partition.se[k, place],
            "p": outcome.p[k, place],
            "q": outcome.q[k, place],
            "significant": outcome.q[k, place] <= options.alpha,
            "stability": arrays["stability"][place] if rank[k, place] == 1 else np.nan,
            "total_adjusted_r2": partition.total[place],
            "ceiling_lower": arrays["ceiling_lower"][place],
            "ceiling_upper": arrays["ceiling_upper"][place],
        }
        for place, roi in enumerate(rois.names)
        for k, group in enumerate(groups.models)
    ]
    return pd.DataFrame(rows)


def strongest(options: argparse.Namespace, table: pd.DataFrame, outcome: Outcome) -> pd.DataFrame:
    """The group with the largest unique variance in each ROI; significant if above chance and above all others."""
    winner = table["rank"].to_numpy().reshape(-1, outcome.p.shape[0]).argmin(axis=1)
    _, q_exceeds = analysis.winner_exceeds_others(options, winner, outcome)
    first = table[table["rank"] == 1]
    return first.assign(significant=first["significant"].to_numpy() & (q_exceeds <= options.alpha))


def draw(
    options: argparse.Namespace,
    outputs: results.Outputs,
    groups: ModelRdms,
    rois: RoiRdms,
    partition: Partition,
    outcome: Outcome,
    banner: str | None,
) -> None:
    """Bars and Venn diagrams of every ROI."""
    colors = study_colors(groups.table)
    figure = roi_figure(
        roi_panels(rois.names, groups.models, colors, partition, outcome, options.alpha),
        Look(TITLE, banner, options.surface, options.style),
        f"{analysis.describe_bars(options)} {analysis.describe(options, analysis.subject_range(rois))}",
        legend={model.label: colors[model.key] for model in groups.models},
        figure=FIGURE,
    )
    save_figure(figure, outputs.path("figure.svg"), outputs.path("figure.png"))


if __name__ == "__main__":
    cli.execute(main)
