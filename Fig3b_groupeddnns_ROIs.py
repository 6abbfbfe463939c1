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


@figure_script("Fig3b", kind="roi", title=TITLE, help=__doc__)
def main(run: FigureRun) -> None:
    settings, groups = run.settings, run.models.grouped()
    fit = fit_groups(groups, run.rois, settings, run.resources)
    table = run.save(fit, fit.table())
    panels = roi_panels(fit, run.colors)
    n_subjects, by_person = fit.summary()["n_subjects"], groups.by_person
    test = notes.significance(settings, n_subjects, "ROIs", by_person=by_person)
    legend = {group.label: run.colors[group.key] for group in groups.models}
    run.draw_rois(panels, f"{notes.bars(settings, n_subjects, by_person=by_person)} {test}", legend=legend)
    strongest = fit.on_the_map(table)
    run.draw_roi_maps(lambda where: roi_maps(where, groups.models, run.colors, strongest), test, MAP_TITLE)


if __name__ == "__main__":
    main()
