"""Fig 1: which network best explains each searchlight?

For every searchlight, the brain's RDM is regressed on the RDMs of each network's layers. The searchlight has the colour
of the network with the largest adjusted R2 where that network leads every other one, and a pale colour where the
networks explain more than chance, but no lead is established. Results go to DIR/Fig1: report.html and brain_map.html
(open them in a browser), figure.png and .svg, results.tsv, arrays.npz, maps/ and run.json.

  python Fig1_individualdnns_searchlight.py                    the published data in data/, else a simulated example
  python Fig1_individualdnns_searchlight.py --data my_study    your own data, in the layout of data/README.md
"""

from utils.analysis.searchlights import fit_searchlights
from utils.cli.run import FigureRun, figure_script
from utils.plotting.brain_maps import network_maps
from utils.reporting.notes import searchlight_colours, searchlight_tests

TITLE = "Fig 1: the network that best explains each searchlight"


@figure_script("Fig1", kind="searchlight", title=TITLE, help=__doc__)
def main(run: FigureRun) -> None:
    fit = fit_searchlights(run.models, run.searchlights, run.settings, run.resources)
    table = run.save(fit, fit.winners())
    maps = network_maps(fit.brain.geometry, fit.models.models, run.colors, table)
    counted = fit.summary()
    colours = searchlight_colours("network", table, run.settings, counted)
    run.draw_searchlights(maps, [*colours, *searchlight_tests(run.settings, counted)])


if __name__ == "__main__":
    main()
