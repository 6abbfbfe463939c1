"""Fig 3b: unique and shared variance of the groups of networks in each region of interest.

The networks of each group (2D, 3D, semantic) are averaged to one RDM per layer. For every ROI, the variance of the RDM
is partitioned among the groups; bars show the unique variance of each. Results go to DIR/Fig3b: report.html (open
it in a browser), figure.png and .svg, results.tsv, arrays.npz, run.json and, where there is an ROI atlas,
brain_map.html and maps/.

  python Fig3b_groupeddnns_ROIs.py                    the published data in data/, else a simulated example
  python Fig3b_groupeddnns_ROIs.py --data my_study    your own data, in the layout of data/README.md
"""

from utils.analysis.rois import fit_groups
from utils.cli.run import FigureRun
from utils.plotting.brain_maps import roi_maps
from utils.plotting.roi_figure import roi_panels
from utils.reporting import notes

FIGURE = "Fig3b"
TITLE = "Fig 3b: unique variance of the groups of networks in each ROI"
MAP_TITLE = "Fig 3b: the strongest group of networks in each ROI"
COLUMNS = (
    "roi", "model", "group", "rank", "adjusted_r2", "unique", "se", "p", "q", "significant", "stability",
    "total_adjusted_r2", "ceiling_lower", "ceiling_upper",
)  # fmt: skip


def main(run: FigureRun) -> None:
    groups, alpha = run.models.grouped(), run.settings.alpha
    fit = fit_groups(groups, run.rois, run.settings, run.resources)
    table = run.beside_paper(fit, fit.table(alpha)[list(COLUMNS)])
    run.save(fit, table)
    tested = notes.significance(run.settings, fit.summary()["n_subjects"], "ROIs")
    run.draw_rois(
        roi_panels(fit, run.colors, alpha),
        f"{notes.bars(run.settings)} {tested}",
        legend={group.label: run.colors[group.key] for group in groups.models},
    )
    # On the map, a ROI is coloured if its strongest group is above chance and above every other.
    first = table[table["rank"] == 1]
    strongest = first.assign(significant=first["significant"].to_numpy() & fit.winner_exceeds_others(run.settings))
    run.draw_roi_maps(lambda where: roi_maps(where, groups.models, run.colors, strongest), tested, MAP_TITLE)


def command() -> None:
    """Run from the command line."""
    FigureRun.execute(main, FIGURE, kind="roi", title=TITLE, help=__doc__)


if __name__ == "__main__":
    command()
