"""Fig 1: which network best explains each searchlight?

For every searchlight, the brain's RDM is regressed on the RDMs of each network's layers. The searchlight is coloured by
the network with the largest adjusted R2, if that is more than the best of all networks reaches by chance. Results go to
DIR/Fig1: report.html and brain_map.html (open them in a browser), figure.png and .svg, results.tsv, arrays.npz, maps/
and run.json.

  python Fig1_individualdnns_searchlight.py                    the published data in data/, else a simulated example
  python Fig1_individualdnns_searchlight.py --data my_study    your own data, in the layout of data/README.md
"""

import pandas as pd

from utils.analysis.searchlights import SearchlightFit, fit_searchlights
from utils.cli.run import FigureRun
from utils.plotting.brain_maps import network_maps
from utils.reporting import notes

FIGURE = "Fig1"
TITLE = "Fig 1: the network that best explains each searchlight"


def main(run: FigureRun) -> None:
    fit = fit_searchlights(run.models, run.searchlights, run.settings, run.resources)
    table = best_networks(fit, run.settings.alpha)
    run.save(fit, table)
    maps = network_maps(fit.brain.geometry, fit.models.models, run.colors, table)
    explanation = [notes.best_network(run.settings), *notes.searchlight_tests(run.settings, fit.summary())]
    run.draw_maps(maps, explanation)
    run.draw_montage(maps, explanation)


def best_networks(fit: SearchlightFit, alpha: float) -> pd.DataFrame:
    """One row per searchlight: its best network, and whether that is significant."""
    return fit.locations().assign(
        winner=fit.winners("key"),
        group=fit.winners("group"),
        adjusted_r2=fit.of_winner,
        p=fit.p_best,
        q=fit.q_best,
        significant=fit.q_best <= alpha,
        stability=fit.stability,
        ceiling_lower=fit.brain.ceiling_lower,
    )


def command() -> None:
    """Run from the command line."""
    FigureRun.execute(main, FIGURE, kind="searchlight", title=TITLE, help=__doc__)


if __name__ == "__main__":
    command()
