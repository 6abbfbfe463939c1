"""Fig 3a: which group of networks explains unique variance in each searchlight?

For each group of networks (2D, 3D, semantic), RDMs are averaged to one per layer. For every searchlight, the variance
of the brain's RDM is partitioned among the groups; it is coloured by the group with the largest unique variance, if
that is significant and exceeds the unique variance of every other group. Results go to DIR/Fig3a: report.html and
brain_map.html (open them in a browser), figure.png and .svg, results.tsv, arrays.npz, maps/ and run.json.

  python Fig3a_groupeddnns_searchlight.py                    the published data in data/, else a simulated example
  python Fig3a_groupeddnns_searchlight.py --data my_study    your own data, in the layout of data/README.md
"""

import pandas as pd

from utils.analysis.searchlights import SearchlightPartition, partition_searchlights
from utils.cli.run import FigureRun, figure_script
from utils.plotting.brain_maps import group_maps
from utils.reporting import notes

TITLE = "Fig 3a: the group of networks that explains unique variance of each searchlight"


@figure_script("Fig3a", kind="searchlight", title=TITLE, help=__doc__)
def main(run: FigureRun) -> None:
    settings, groups = run.settings, run.models.grouped()
    fit = partition_searchlights(groups, run.searchlights, settings, run.resources)
    table = strongest_groups(fit, settings.alpha)
    run.save(fit, table)
    maps = group_maps(fit.brain.geometry, groups.models, run.colors, table, fit.unique, fit.shared)
    tested = notes.searchlight_tests(settings, fit.summary())
    run.draw_searchlights(maps, [*notes.strongest_group(table, settings), *tested])


def strongest_groups(fit: SearchlightPartition, alpha: float) -> pd.DataFrame:
    """One row per searchlight: the group with the largest unique variance, and whether it stands out."""
    above_chance, above_others = fit.q_best <= alpha, fit.q_exceeds_others <= alpha
    return fit.winners().assign(
        p_exceeds_others=fit.p_exceeds_others,
        q_exceeds_others=fit.q_exceeds_others,
        q_lead_in_refits=fit.q_lead_in_refits,
        significant=above_chance & above_others,
        stability=fit.stability,
        total_adjusted_r2=fit.total,
        ceiling_lower=fit.brain.ceiling_lower,
    )


if __name__ == "__main__":
    main()
