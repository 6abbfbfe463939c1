"""Fig 2: the three networks that best explain each region of interest, and what each explains uniquely.

For every ROI, networks are ranked by the adjusted R2 of their layers. The variance of the ROI's RDM is then partitioned
among the best three; bars show the unique variance of each. A panel compares what the three explain of single subjects'
RDMs with the noise ceiling. Results go to DIR/Fig2: report.html (open it in a browser), figure.png and .svg,
results.tsv, arrays.npz, run.json and, where there is an ROI atlas, brain_map.html and maps/.

  python Fig2_individualdnns_top3_ROIs.py                    the published data in data/, else a simulated example
  python Fig2_individualdnns_top3_ROIs.py --data my_study    your own data, in the layout of data/README.md
"""

import numpy as np
import pandas as pd

from utils.analysis.rois import fit_best_models
from utils.cli.run import FigureRun, figure_script
from utils.io.templates import in_words
from utils.plotting.brain_maps import roi_maps
from utils.plotting.roi_figure import roi_panels
from utils.reporting import notes
from utils.stats.noise_ceiling import ceiling_as_r2

N_BEST = 3
TITLE = f"Fig 2: unique variance of the {in_words(N_BEST)} networks that best explain each ROI"
MAP_TITLE = "Fig 2: the network that best explains each ROI"


@figure_script("Fig2", kind="roi", title=TITLE, help=__doc__)
def main(run: FigureRun) -> None:
    fit = fit_best_models(run.models, run.rois, N_BEST, run.settings, run.resources)
    table = run.save(fit, fit.table())
    first = fit.on_the_map(table)
    n_subjects = fit.summary()["n_subjects"]
    by_person = fit.models.by_person
    tested = notes.significance(run.settings, n_subjects, "ROIs", by_person=by_person)
    below = single_subjects(first)
    note = [notes.bars(run.settings, n_subjects, by_person=by_person), tested]
    if below is not None:
        note.append(notes.subjects_and_ceiling(run.settings, in_words(N_BEST)))
    # Every bar carries its name.
    run.draw_rois(roi_panels(fit, run.colors), " ".join(note), legend={}, ceiling=below)
    run.draw_roi_maps(lambda where: roi_maps(where, fit.models.models, run.colors, first), tested, MAP_TITLE)


def single_subjects(first: pd.DataFrame) -> pd.DataFrame | None:
    """What the best networks explain of the RDMs of single subjects, beside the noise ceiling; None without one."""
    if not np.isfinite(first["ceiling_lower"]).any():
        return None
    names = {"explained_r2": "explained", "explained_se": "error", "explained_chance": "chance"}
    if "ceiling_r2_lower" in first:
        names |= {"ceiling_r2_lower": "lower", "ceiling_r2_upper": "upper"}
        return first.set_index("roi")[list(names)].rename(columns=names)
    bounds = {name: ceiling_as_r2(first[f"ceiling_{name}"].to_numpy()) for name in ("lower", "upper")}
    return first.set_index("roi")[list(names)].rename(columns=names).assign(**bounds)


if __name__ == "__main__":
    main()
