"""Castaldi et al. 2019: RDMs of twenty people, and the tables of another author, who computed with other programs.

The tables are those of the public repository AliPTehrani/Numerosity-in-Neural-Networks.
"""

import numpy as np
import pandas as pd
import pytest
from helpers import run_script
from samples import REAL
from scipy.io import loadmat
from scipy.stats import rankdata

from utils.datasets.layout import locate
from utils.datasets.models import load_models
from utils.datasets.rois import load_rois
from utils.rdm import condense
from utils.stats.noise_ceiling import noise_ceiling
from utils.stats.regression import orthonormal_basis, own_r2, project, standardise

CASTALDI = REAL / "castaldi2019"
pytestmark = pytest.mark.skipif(not CASTALDI.exists(), reason="these data are not beside the repository")
NETWORKS = ("VGG11_pretrained_results", "ResNet34_pretrained_results", "Alexnet_untrained_results")


def brain(roi: str) -> np.ndarray:
    """RDMs of a region, (20, n_pairs)."""
    square = loadmat(CASTALDI / f"RDM_allsub_taskBoth_{roi}.mat")["data"]
    return condense(np.moveaxis(square, -1, 0))


def rows_of(network: str, kind: str) -> list[tuple[pd.Series, np.ndarray, np.ndarray]]:
    """Rows of a table, each with the RDM of the network's layer and those of the people."""
    path = CASTALDI / "published_tables" / f"{network}__{kind}.xlsx"
    if not path.exists():
        return []
    table = pd.read_excel(path).rename(columns=str.strip)
    found = []
    for _, row in table.iterrows():
        layer = str(row["network layer"]).replace(" ", "_").replace("(", "_").replace(")", "_")
        file = CASTALDI / "networks" / f"{network}__{layer}.npz"
        if file.exists():
            with np.load(file) as arrays:
                found.append((row, condense(arrays[arrays.files[0]]), brain(row["ROI"])))
    return found


@pytest.mark.parametrize("network", NETWORKS)
def test_r2_and_correlations_equal_the_published_tables(network):
    squares, correlations = rows_of(network, "R2_squared_linear_regression"), rows_of(network, "R_Spearman")
    assert squares or correlations
    for row, layer, people in squares:
        basis = orthonormal_basis([layer[None]])
        assert abs(own_r2(basis)(project(basis, people)).mean() - row["R²"]) < 1e-9
    for row, layer, people in correlations:
        ranks = [standardise(rankdata(rdms, axis=-1)) for rdms in (layer, people)]
        assert abs((ranks[1] @ ranks[0]).mean() - row["R²"]) < 1e-9  # the column of correlations has this name, too
        lower, upper = noise_ceiling(people[:, None])
        assert abs(lower[0] - row["lower noise ceilling"]) < 1e-9
        assert abs(upper[0] - row["upper noise ceilling"]) < 1e-9


@pytest.mark.parametrize("study", ["study_networks", "study_predictors"])
def test_the_figures_run_on_both_studies(study, tmp_path, monkeypatch):
    sources = locate("roi", CASTALDI / study)
    models = load_models(sources)
    rois = load_rois(sources, models.n_conditions)
    assert (models.n_conditions, len(rois.names), {len(people) for people in rois.subjects}) == (18, 7, {20})
    for figure in ("Fig2", "Fig3b"):
        given = ["--data", CASTALDI / study, "--results", tmp_path, "-np", 99, "--no-open", "-q"]
        assert run_script(monkeypatch, figure, *given) == 0
        table = pd.read_csv(tmp_path / figure / "results.tsv", sep="\t")
        lower, upper = (table.groupby("roi")[f"ceiling_{bound}"].first() for bound in ("lower", "upper"))
        for name, people in zip(rois.names, rois.subjects, strict=True):
            expected = [float(bound[0]) for bound in noise_ceiling(people[:, None])]
            np.testing.assert_allclose([lower[name], upper[name]], expected, atol=1e-8)
