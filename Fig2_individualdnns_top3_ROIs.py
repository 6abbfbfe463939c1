"""Fig 2: the three networks that best explain each region of interest, and what each explains alone.

For every ROI, networks are ranked by the adjusted R2 of their layers. The variance of the ROI's RDM is then partitioned
among the best three; bars show the unique variance of each. A panel compares what the three explain of single subjects'
RDMs with the noise ceiling. Results go to DIR/Fig2: report.html (open it in a browser), figure.png and .svg,
results.tsv, arrays.npz, run.json and, where there is an ROI atlas, brain_map.html and maps/.

  python Fig2_individualdnns_top3_ROIs.py                    the published data in data/, else a simulated example
  python Fig2_individualdnns_top3_ROIs.py --data my_study    your own, in the layout of data/README.md
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
from utils.plotting.roi_figure import CeilingPanel, roi_figure, roi_panels
from utils.stats.inference import all_pairs
from utils.stats.noise_ceiling import ceiling_as_r2
from utils.stats.permutation import TopModels
from utils.stats.refits import winner_stability
from utils.stats.regression import own_adjusted_r2, own_r2, part_names, project

FIGURE = "Fig2"
TITLE = "Fig 2: unique variance of the three networks that best explain each ROI"
MAP_TITLE = "Fig 2: the network that best explains each ROI"
N_TOP = 3


def main() -> None:
    started = time.time()
    options = cli.parse(FIGURE, "roi", __doc__)
    with results.Outputs(options.results / FIGURE) as outputs:
        sources = cli.find_data(options)
        device = cli.choose_device(options)
        models = load_models(sources, options.layers, options.models)
        rois = load_rois(sources, models.n_conditions, options.rois)
        n_top = min(N_TOP, len(models.models))

        basis = analysis.fit_basis(models)
        projected = project(basis, rois.mean())
        adjusted_r2 = own_adjusted_r2(basis)(projected)
        if options.as_published:
            adjusted_r2 = np.clip(adjusted_r2, 0, None)
        top = np.argsort(-adjusted_r2, axis=0, kind="stable")[:n_top]
        with cli.progress("partitioning variance", options) as advance:
            partition = analysis.partition_rois(options, models, rois, top, advance)
        pairs = all_pairs(n_top)
        if options.stats == "t-test":
            outcome = analysis.test_rois_over_subjects(options, partition, pairs)
        else:
            statistic = TopModels(basis, n_top, fixed=top if options.as_published else None, device=device)
            with cli.progress("testing ROIs", options) as advance:
                outcome = analysis.test_by_permutation(
                    options,
                    basis,
                    statistic,
                    rois.mean(),
                    pairs=pairs,
                    se_difference=partition.se_difference,
                    device=device,
                    progress=advance,
                )
        stability = winner_stability(models.rdms, own_adjusted_r2, rois.mean(), seed=options.seed)
        lower, upper = rois.ceilings()
        ranks = [f"rank {k}" for k in range(1, n_top + 1)]
        arrays = {
            "models": [model.key for model in models.models],
            "places": rois.names,
            "r2": own_r2(basis)(projected),
            "adjusted_r2": adjusted_r2,
            "top": top,
            "unique": partition.unique,
            "se": partition.se,
            "se_difference": partition.se_difference,
            "shared": partition.parts[n_top:],
            "shared_names": [" & ".join(ranks[i] for i in part) for part in part_names(n_top)[n_top:]],
            "total": partition.total,
            "p": outcome.p,
            "q": outcome.q,
            "p_difference": outcome.p_difference,
            "q_difference": outcome.q_difference,
            "difference_names": [f"{ranks[i]} - {ranks[j]}" for i, j in pairs],
            "stability": stability,
            "ceiling_lower": lower,
            "ceiling_upper": upper,
        }
        table = tidy(options, models, rois, partition, outcome, arrays)
        if paper.applies(sources, models, rois):
            table = paper.beside_fig2(table)
            print(paper.text(table))
        results.write_arrays(outputs.path("arrays.npz"), **arrays)
        results.write_table(outputs.path("results.tsv"), table)
        banner = cli.SIMULATED if sources.simulated else None
        draw(options, outputs, models, rois, partition, outcome, table, banner)
        first = table[table["rank"] == 1]
        atlas = load_atlas(sources)
        if atlas is None:
            print(cli.NO_ATLAS)
        else:
            locations = RoiLocations(atlas, rois.ids)
            maps = drawing.roi_maps(locations, models.models, study_colors(models.table), first)
            notes = [maps[0].note, analysis.describe(options, analysis.subject_range(rois))]
            drawing.save_maps(outputs, maps, Look(MAP_TITLE, banner, options.surface), notes, atlas)
        data = {
            "n_rois": len(rois.names),
            "n_subjects": analysis.subject_range(rois),
            "n_conditions": models.n_conditions,
            "networks": dict(Counter(model.group for model in models.models)),
            "layers": models.layers,
        }
        record = cli.record(options, sources, data, [models.rdms, *rois.subjects], device=device, started=started)
        cli.publish(options, outputs, record, table, title=TITLE, banner=banner, started=started)


def tidy(
    options: argparse.Namespace,
    models: ModelRdms,
    rois: RoiRdms,
    partition: Partition,
    outcome: Outcome,
    arrays: dict,
) -> pd.DataFrame:
    """One row per ROI and network among its best."""
    rows = [
        {
            "roi": roi,
            "model": models.models[chosen].key,
            "label": models.models[chosen].label,
            "group": models.models[chosen].group,
            "rank": k + 1,
            "adjusted_r2": arrays["adjusted_r2"][chosen, place],
            "unique": partition.unique[k, place],
            "se": partition.se[k, place],
            "p": outcome.p[k, place],
            "q": outcome.q[k, place],
            "significant": outcome.q[k, place] <= options.alpha,
            "stability": arrays["stability"][place] if k == 0 else np.nan,
            "total_adjusted_r2": partition.total[place],
            "explained_r2": partition.explained[place][0].mean(),
            "explained_se": analysis.standard_error(partition.explained[place][0]),
            "explained_chance": partition.explained[place][1].mean(),
            "ceiling_lower": arrays["ceiling_lower"][place],
            "ceiling_upper": arrays["ceiling_upper"][place],
        }
        for place, roi in enumerate(rois.names)
        for k, chosen in enumerate(partition.sets[:, place])
    ]
    return pd.DataFrame(rows)


def draw(
    options: argparse.Namespace,
    outputs: results.Outputs,
    models: ModelRdms,
    rois: RoiRdms,
    partition: Partition,
    outcome: Outcome,
    table: pd.DataFrame,
    banner: str | None,
) -> None:
    """Bars and Venn diagrams of every ROI, and explained variance against the noise ceiling."""
    per_roi = table[table["rank"] == 1]
    ceiling = CeilingPanel(
        rois=rois.names,
        explained=per_roi["explained_r2"].to_numpy(),
        error=per_roi["explained_se"].to_numpy(),
        lower=ceiling_as_r2(per_roi["ceiling_lower"].to_numpy()),
        upper=ceiling_as_r2(per_roi["ceiling_upper"].to_numpy()),
        chance=per_roi["explained_chance"].to_numpy(),
    )
    note = (
        f"{analysis.describe_bars(options)} {analysis.describe(options, analysis.subject_range(rois))} "
        "Bottom: adjusted R² of the three networks, fitted to single subjects' RDMs (mean and standard error over "
        "subjects), what unrelated networks would reach (exact mean over permutations of conditions), and the noise "
        "ceiling (squared mean Spearman correlation, lower to upper)."
    )
    colors = study_colors(models.table)
    figure = roi_figure(
        roi_panels(rois.names, models.models, colors, partition, outcome, options.alpha),
        Look(TITLE, banner, options.surface, options.style),
        note,
        legend={},  # every bar carries its name
        ceiling=ceiling if np.isfinite(ceiling.lower).any() else None,
        figure=FIGURE,
    )
    save_figure(figure, outputs.path("figure.svg"), outputs.path("figure.png"))


if __name__ == "__main__":
    cli.execute(main)
