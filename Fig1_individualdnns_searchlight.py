"""Fig 1: which network best explains each place in the brain?

For every searchlight, the brain's RDM is regressed on the RDMs of each network's layers. The searchlight is coloured by
the network with the largest adjusted R2, if that is more than the best of all networks reaches by chance. Results go to
DIR/Fig1: report.html and brain_map.html (open them in a browser), figure.png and .svg, results.tsv, arrays.npz, maps/
and run.json.

  python Fig1_individualdnns_searchlight.py                    the published data in data/, else a simulated example
  python Fig1_individualdnns_searchlight.py --data my_study    your own, in the layout of data/README.md
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
from utils.stats.refits import winner_stability
from utils.stats.regression import own_adjusted_r2, own_r2, project

FIGURE = "Fig1"
TITLE = "Fig 1: the network that best explains each searchlight"


def main() -> None:
    started = time.time()
    options = cli.parse(FIGURE, "searchlight", __doc__)
    with results.Outputs(options.results / FIGURE) as outputs:
        sources = cli.find_data(options)
        device = cli.choose_device(options)
        models = load_models(sources, options.layers, options.models)
        with cli.progress("reading searchlights", options) as advance:
            brain = load_searchlights(sources, models.n_conditions, advance)
        tested = analysis.tested_searchlights(options, brain)

        basis = analysis.fit_basis(models)
        statistic = own_adjusted_r2(basis)
        projected = project(basis, brain.mean[brain.usable])
        adjusted_r2 = spread(statistic(projected), brain.usable)
        if options.as_published:
            adjusted_r2 = np.clip(adjusted_r2, 0, None)
        with cli.workers(options) as cluster, cli.progress("testing searchlights", options) as advance:
            outcome = analysis.test_searchlights(
                options, basis, statistic, brain, tested, device=device, cluster=cluster, progress=advance
            )
        with cli.progress("refitting to subsets of the conditions", options) as advance:
            stability = winner_stability(
                models.rdms, own_adjusted_r2, brain.mean[tested], seed=options.seed, progress=advance
            )
        arrays: dict[str, ArrayLike] = {
            "models": [model.key for model in models.models],
            "places": np.arange(len(tested)),
            "r2": spread(own_r2(basis)(projected), brain.usable),
            "adjusted_r2": adjusted_r2,
            "p": spread(outcome.p, tested),
            "q": spread(outcome.q, tested),
            "p_best": spread(outcome.p_best, tested),
            "q_best": spread(outcome.q_best, tested),
            "stability": spread(stability, tested),
            "ceiling_lower": brain.ceiling_lower,
            "ceiling_upper": brain.ceiling_upper,
        }
        table = tidy(options, models, brain, tested, arrays)
        results.write_arrays(outputs.path("arrays.npz"), **arrays)
        results.write_table(outputs.path("results.tsv"), table)
        banner = cli.SIMULATED if sources.simulated else None
        draw(options, outputs, models, brain, table, load_atlas(sources), banner)
        data = {
            "n_searchlights": len(tested),
            "n_tested": int(tested.sum()),
            "n_subjects": brain.n_subjects,
            "n_conditions": models.n_conditions,
            "networks": dict(Counter(model.group for model in models.models)),
            "layers": models.layers,
        }
        record = cli.record(
            options, sources, data, [models.rdms, brain.mean], device=device, started=started, cluster=cluster
        )
        cli.report(table["group"][table["significant"]], "searchlights", int(tested.sum()))
        cli.publish(options, outputs, record, table, title=TITLE, banner=banner, started=started)


def tidy(
    options: argparse.Namespace, models: ModelRdms, brain: SearchlightRdms, tested: np.ndarray, arrays: dict
) -> pd.DataFrame:
    """One row per searchlight: its best network, and whether that is significant."""
    places = np.arange(len(tested))
    winner = np.nan_to_num(arrays["adjusted_r2"], nan=-np.inf).argmax(axis=0)
    position = brain.geometry.centers_mm()
    return pd.DataFrame(
        {
            "searchlight": places,
            "x": position[:, 0],
            "y": position[:, 1],
            "z": position[:, 2],
            "tested": tested,
            "winner": [models.models[w].key if ok else None for w, ok in zip(winner, brain.usable, strict=True)],
            "group": [models.models[w].group if ok else None for w, ok in zip(winner, brain.usable, strict=True)],
            "adjusted_r2": arrays["adjusted_r2"][winner, places],
            "p": arrays["p_best"],
            "q": arrays["q_best"],
            "significant": arrays["q_best"] <= options.alpha,
            "stability": arrays["stability"],
            "ceiling_lower": brain.ceiling_lower,
        }
    )


def draw(
    options: argparse.Namespace,
    outputs: results.Outputs,
    models: ModelRdms,
    brain: SearchlightRdms,
    table: pd.DataFrame,
    atlas: Atlas | None,
    banner: str | None,
) -> None:
    """The functional map: page, still picture, and files for other programs."""
    maps = drawing.network_maps(brain.geometry, models.models, study_colors(models.table), table)
    notes = [
        "Each searchlight has the colour of the network that explains its RDM best (adjusted R²), if that is more than "
        + ("by chance." if options.as_published else "the best of all networks does by chance."),
        analysis.describe(options, brain.n_subjects),
        f"Tested: {table['tested'].sum():,} of {len(table):,} searchlights, lower noise ceiling ≥ {options.ceiling:g}.",
    ]
    look = Look(TITLE, banner, options.surface, options.style)
    drawing.save_maps(outputs, maps, look, notes, atlas)
    drawing.save_montage(outputs, maps, look, notes)


if __name__ == "__main__":
    cli.execute(main)
