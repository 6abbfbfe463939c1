"""Castaldi et al. 2019: RDMs of twenty people, and the tables of another author, who computed with other programs.

The tables are those of the public repository AliPTehrani/Numerosity-in-Neural-Networks. They have a row per network,
layer and region: the mean over people of R2 or of Spearman's correlation, and noise ceilings in the same measure.
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
R2, SPEARMAN = "R2_squared_linear_regression", "R_Spearman"
ROWS = {R2: 720, SPEARMAN: 570}  # of the networks whose RDMs are there
BOUNDS = ["lower noise ceilling", "upper noise ceilling"]


def published(measure: str) -> pd.DataFrame:
    """All rows of a measure with RDMs of their layers: columns ROI, value, the two bounds, and `file` of the layer."""
    tables = []
    for path in sorted((CASTALDI / "published_tables").glob(f"*__{measure}.xlsx")):
        table = pd.read_excel(path).rename(columns=str.strip)
        table["value"] = table["R²"]  # tables of correlations call them so, too
        layers = table["network layer"].astype(str).str.replace("[ ()]", "_", regex=True)
        table["file"] = [CASTALDI / "networks" / f"{path.stem.removesuffix(measure)}{layer}.npz" for layer in layers]
        tables.append(table[["ROI", "value", *BOUNDS, "file"]])
    rows = pd.concat(tables)
    rows = rows[[file.exists() for file in rows["file"]]]
    assert len(rows) == ROWS[measure]
    return rows


def published_ceilings(measure: str) -> pd.DataFrame:
    """Lower and upper noise ceiling of each region; every table repeats them."""
    by_roi = published(measure).groupby("ROI")[BOUNDS]
    assert (by_roi.max() - by_roi.min()).max(axis=None) < 1e-15
    return by_roi.first()


def brain(roi: str) -> np.ndarray:
    """RDMs of a region, (20, n_pairs)."""
    return condense(np.moveaxis(loadmat(CASTALDI / f"RDM_allsub_taskBoth_{roi}.mat")["data"], -1, 0))


def mean_r2(model: np.ndarray, people: np.ndarray) -> float:
    basis = orthonormal_basis([model[None]])
    return own_r2(basis)(project(basis, people)).mean()


def mean_spearman(model: np.ndarray, people: np.ndarray) -> float:
    ranks = [standardise(rankdata(rdms, axis=-1)) for rdms in (people, model)]
    return (ranks[0] @ ranks[1]).mean()


@pytest.mark.parametrize(("measure", "computed"), [(R2, mean_r2), (SPEARMAN, mean_spearman)])
def test_r2_and_correlations_equal_the_published_tables(measure, computed):
    rows = published(measure)
    people = {roi: brain(roi) for roi in rows["ROI"].unique()}
    for file, layer in rows.groupby("file"):
        with np.load(file) as arrays:
            model = condense(arrays[arrays.files[0]])
        ours = [computed(model, people[roi]) for roi in layer["ROI"]]
        np.testing.assert_allclose(ours, layer["value"], rtol=0, atol=1e-9)


def test_noise_ceilings_equal_the_published_tables():
    table = published_ceilings(SPEARMAN)
    bounds = noise_ceiling(np.stack([brain(roi) for roi in table.index], axis=1))
    np.testing.assert_allclose(np.transpose(bounds), table, rtol=0, atol=1e-9)


def test_noise_ceilings_as_r2_equal_the_published_tables():
    """Means of squared correlations: what the mean RDM explains of each person."""
    for roi, bounds in published_ceilings(R2).iterrows():
        people = brain(roi)
        lower = np.mean([mean_r2(np.delete(people, i, 0).mean(0), people[[i]]) for i in range(len(people))])
        np.testing.assert_allclose([lower, mean_r2(people.mean(0), people)], bounds, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["Fig2", "Fig3b"])
@pytest.mark.parametrize("study", ["study_networks", "study_predictors"])
def test_the_figures_run_on_both_studies(study, figure, tmp_path, monkeypatch):
    sources = locate("roi", CASTALDI / study)
    models = load_models(sources)
    rois = load_rois(sources, models.n_conditions)
    assert (models.n_conditions, len(rois.names), {len(people) for people in rois.subjects}) == (18, 7, {20})
    given = ["--data", CASTALDI / study, "--results", tmp_path, "-np", 99, "--no-open", "-q"]
    assert run_script(monkeypatch, figure, *given) == 0
    table = pd.read_csv(tmp_path / figure / "results.tsv", sep="\t").groupby("roi")
    assert set(table.groups) == set(rois.names)
    ours = table[["ceiling_lower", "ceiling_upper"]].first()  # nine digits
    np.testing.assert_allclose(ours, published_ceilings(SPEARMAN).loc[ours.index], rtol=0, atol=1e-9)
