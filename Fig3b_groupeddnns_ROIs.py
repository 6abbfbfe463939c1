"""Fig 3b: unique and shared variance of the groups of networks in each region of interest.

The networks of each group (2D, 3D, semantic) are averaged to one RDM per layer. For every ROI, the variance of the RDM
is partitioned among the groups; bars show the unique variance of each. Results go to DIR/Fig3b: report.html (open
it in a browser), figure.png and .svg, results.tsv, arrays.npz, run.json and, where there is an ROI atlas, maps/ and
brain_map.html.

  python Fig3b_groupeddnns_ROIs.py                    the published data in data/, else a simulated example
  python Fig3b_groupeddnns_ROIs.py --data my_study    your own data, in the layout of data/README.md
"""

from utils.analysis.rois import fit_groups
from utils.cli.run import FigureRun, figure_script
from utils.plotting.brain_maps import roi_maps
from utils.plotting.roi_figure import roi_panels
from utils.reporting import notes

TITLE = "Fig 3b: unique variance of the groups of networks in each ROI"
MAP_TITLE = "Fig 3b: the strongest group of networks in each ROI"
COLUMNS = (
    "roi", "model", "group", "rank", "adjusted_r2", "unique", "se", "p", "q", "significant", "stability",
    "total_adjusted_r2", "ceiling_lower", "ceiling_upper",
)  # fmt: skip


@figure_script("Fig3b", kind="roi", title=TITLE, help=__doc__)
def main(run: FigureRun) -> None:
    settings, groups = run.settings, run.models.grouped()
    fit = fit_groups(groups, run.rois, settings, run.resources)
    table = run.save(fit, fit.table(settings.alpha)[list(COLUMNS)])
    panels = roi_panels(fit, run.colors, settings.alpha)
    test = notes.significance(settings, fit.summary()["n_subjects"], "ROIs")
    legend = {group.label: run.colors[group.key] for group in groups.models}
    run.draw_rois(panels, f"{notes.bars(settings)} {test}", legend=legend)
    # On the map, a ROI is coloured if its strongest group is above chance and above every other.
    strongest = table[table["rank"] == 1]
    stands_out = strongest["significant"].to_numpy() & fit.winner_exceeds_others(settings)
    strongest = strongest.assign(significant=stands_out)
    run.draw_roi_maps(lambda where: roi_maps(where, groups.models, run.colors, strongest), test, MAP_TITLE)


if __name__ == "__main__":
    main()
