"""Fig 3a: which group of networks explains unique variance in each searchlight?

For each group of networks (2D, 3D, semantic), RDMs are averaged to one per layer. For every searchlight, the variance
of the brain's RDM is partitioned among the groups. The searchlight has the colour of the group with the largest unique
variance where that group leads every other one, and a pale colour where the groups explain more than chance, but no
lead is established. Results go to DIR/Fig3a: report.html and brain_map.html (open them in a browser), figure.png and
.svg, results.tsv, arrays.npz, maps/ and run.json.

  python Fig3a_groupeddnns_searchlight.py                    the published data in data/, else a simulated example
  python Fig3a_groupeddnns_searchlight.py --data my_study    your own data, in the layout of data/README.md
"""

from utils.analysis.searchlights import partition_searchlights
from utils.cli.run import FigureRun, figure_script
from utils.plotting.brain_maps import group_maps
from utils.reporting.notes import searchlight_colours, searchlight_tests

TITLE = "Fig 3a: the group of networks that explains unique variance of each searchlight"


@figure_script("Fig3a", kind="searchlight", title=TITLE, help=__doc__)
def main(run: FigureRun) -> None:
    groups = run.models.grouped()
    fit = partition_searchlights(groups, run.searchlights, run.settings, run.resources)
    table = run.save(fit, fit.winners())
    maps = group_maps(fit.brain.geometry, groups.models, run.colors, table, fit.unique, fit.shared)
    counted = fit.summary()
    colours = searchlight_colours("group", table, run.settings, counted)
    run.draw_searchlights(maps, [*colours, *searchlight_tests(run.settings, counted)])


if __name__ == "__main__":
    main()
