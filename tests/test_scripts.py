"""The four scripts from the shell: what they write, and what they say when something is wrong."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from browser import open_browser
from helpers import HOME, SCRIPTS, run_script, wait_for, write_study
from matplotlib.figure import Figure
from scipy.spatial.distance import squareform

from utils.cli.run import SIMULATED
from utils.datasets.layout import locate

SEARCHLIGHT = ("Fig1", "Fig3a")
PAGES = {"report.html", "brain_map.html", "brain_map_nilearn.html"}
FILES = PAGES | {"figure.png", "figure.svg", "results.tsv", "results.json", "arrays.npz", "run.json"}


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    return write_study(tmp_path_factory.mktemp("data") / "study", np.random.default_rng(3), n_conditions=12)


@pytest.fixture(scope="module")
def finished(study, tmp_path_factory) -> Path:
    """Results of all four scripts on the small study."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for figure in SCRIPTS:
            extra = ["--ceiling", -1] if figure in SEARCHLIGHT else []
            assert run_script(monkeypatch, figure, "--data", study, "--results", results, "-np", 199, *extra) == 0
    return results


# ----------------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("figure", SCRIPTS)
def test_writes_what_the_readme_promises(finished, figure):
    files = {path.name for path in (finished / figure).iterdir()}
    assert files == FILES | {"maps"}
    assert any(path.name.endswith("_dseg.nii.gz") for path in (finished / figure / "maps").iterdir())
    assert (finished / figure / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize("figure", SCRIPTS)
def test_arrays_and_tables_agree(finished, figure):
    table = pd.read_csv(finished / figure / "results.tsv", sep="\t", na_values="n/a")
    with np.load(finished / figure / "arrays.npz", allow_pickle=False) as file:
        arrays = dict(file)
    models = list(arrays["models"])
    if figure == "Fig1":
        assert list(table.columns) == [
            "searchlight", "x", "y", "z", "tested", "winner", "group", "adjusted_r2", "plain_adjusted_r2", "se",
            "share", "share_low", "share_high", "negative_share", "weights_sign", "p", "q", "p_lead", "q_lead",
            "explained", "candidates", "significant", "q_group_lead", "group_significant", "stability",
            "ceiling_lower", "reliability",
        ]  # fmt: skip
        winner = arrays["adjusted_r2"].argmax(axis=0)
        assert [models[w] for w in winner] == list(table["winner"])
        np.testing.assert_allclose(table["adjusted_r2"], arrays["adjusted_r2"].max(axis=0), rtol=1e-6)
    elif figure == "Fig3a":
        np.testing.assert_allclose(table["unique"], arrays["unique"].max(axis=0), rtol=1e-6)
        total = arrays["unique"].sum(axis=0) + arrays["shared"].sum(axis=0)
        np.testing.assert_allclose(total, arrays["total"], atol=1e-12)
    else:
        needed = (
            "roi model group rank adjusted_r2 unique se p q significant total_adjusted_r2 ceiling_lower ceiling_upper"
        )
        assert set(needed.split()) <= set(table.columns)
        assert list(dict.fromkeys(table["roi"])) == ["EVC", "IT"] == list(arrays["places"])
        np.testing.assert_allclose(table["unique"].to_numpy().reshape(2, -1).T, arrays["unique"], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(
            arrays["unique"].sum(axis=0) + arrays["shared"].sum(axis=0), arrays["total"], atol=1e-12
        )
        assert (arrays["se"] > 0).all()


def test_planted_model_is_found(finished):
    fig1 = pd.read_csv(finished / "Fig1" / "results.tsv", sep="\t")
    follows = fig1["searchlight"] % 2 == 1
    assert (fig1.loc[follows, "winner"] == "net").all()
    assert fig1.loc[follows, "explained"].all()
    fig3b = pd.read_csv(finished / "Fig3b" / "results.tsv", sep="\t").set_index(["roi", "model"])
    assert fig3b.loc[("EVC", "semantic"), "rank"] == 1
    assert fig3b.loc[("EVC", "semantic"), "significant"]


def test_label_volume_has_the_colours_of_the_table(finished):
    table = pd.read_csv(finished / "Fig1" / "results.tsv", sep="\t")
    maps = finished / "Fig1" / "maps"
    labels = pd.read_csv(maps / "space-MNI_desc-bestNetwork_dseg.tsv", sep="\t").set_index("index")["name"]
    image = nib.load(maps / "space-MNI_desc-bestNetwork_dseg.nii.gz")
    data = np.asarray(image.dataobj)
    names = {"net": "Net", "edges": "Edges", "edges_fine": "Fine edges"}
    for row in table.itertuples():
        voxel = np.round(np.linalg.inv(image.affine) @ [row.x, row.y, row.z, 1])[:3].astype(int)
        pale = f"{names[row.winner]} (lead not established)" if row.explained else "not significant"
        expected = names[row.winner] if row.significant else pale
        assert labels[data[tuple(voxel)]] == expected
    counts = pd.read_csv(maps / "space-MNI_desc-bestNetwork_dseg.tsv", sep="\t").set_index("name")["n_searchlights"]
    assert counts.sum() == len(table)
    assert counts["not significant"] == (~table["explained"]).sum()


@pytest.mark.parametrize(
    "figure, name, column",
    [
        ("Fig1", "adjustedR2", "adjusted_r2"),
        ("Fig1", "stability", "stability"),
        ("Fig3a", "total", "total_adjusted_r2"),
        ("Fig3a", "noiseCeiling", "ceiling_lower"),
    ],
)
def test_volumes_hold_the_values_of_the_table(finished, figure, name, column):
    table = pd.read_csv(finished / figure / "results.tsv", sep="\t", na_values="n/a")
    image = nib.load(finished / figure / "maps" / f"space-MNI_stat-{name}_statmap.nii.gz")
    voxels = np.round(nib.affines.apply_affine(np.linalg.inv(image.affine), table[["x", "y", "z"]] - 1e-6)).astype(int)
    np.testing.assert_allclose(np.asarray(image.dataobj)[tuple(voxels.T)], table[column], rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def larger(tmp_path_factory) -> Path:
    """A study with conditions enough for folds, and searchlights of which the first is the opposite of `edges`."""
    folder = write_study(tmp_path_factory.mktemp("data") / "study", np.random.default_rng(4), n_conditions=24)
    edges = np.load(folder / "dnn_rdms" / "edges_late.npy")[np.triu_indices(24, k=1)]
    for path in sorted((folder / "searchlight_rdms").glob("sub-*.npy")):
        rdms = np.load(path)
        rdms[0] = 2 - edges + 0.2 * rdms[0]
        np.save(path, rdms)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("figure", SCRIPTS)
def test_cross_validated_values_rank(larger, tmp_path, monkeypatch, figure):
    extra = ["--ceiling", -1] if figure in SEARCHLIGHT else []
    arguments = ["--data", larger, "--results", tmp_path, "-np", 99, "--cross-validate", 4, *extra]
    assert run_script(monkeypatch, figure, *arguments) == 0
    table = pd.read_csv(tmp_path / figure / "results.tsv", sep="\t", na_values="n/a", keep_default_na=False)
    with np.load(tmp_path / figure / "arrays.npz", allow_pickle=False) as file:
        arrays = dict(file)
    models = list(arrays["models"])
    name = "cv_r2" if figure in ("Fig1", "Fig2") else "cv_unique"
    if figure in SEARCHLIGHT:
        assert [models[k] for k in arrays[name].argmax(axis=0)] == list(table["winner"])
        np.testing.assert_allclose(table[name], arrays[name].max(axis=0), rtol=1e-6)
        np.testing.assert_allclose(table["cv_ceiling"], arrays["cv_ceiling"], rtol=1e-6)
        assert (table.loc[table["searchlight"] % 2 == 1, name] > 0.2).all()
    else:
        for _, roi in table.groupby("roi"):
            assert list(roi.sort_values("rank")[name]) == sorted(roi[name], reverse=True)
        np.testing.assert_allclose(table["cv_unique"].to_numpy().reshape(2, -1).T, arrays["cv_unique"], rtol=1e-6)
    if "cv_shared" in arrays:
        total = arrays["cv_unique"].sum(axis=0) + arrays["cv_shared"].sum(axis=0)
        np.testing.assert_allclose(arrays["cv_total"], total, atol=1e-12)
    described = json.loads((tmp_path / figure / "results.json").read_text())
    assert set(described) == set(table)
    maps = {path.name for path in (tmp_path / figure / "maps").iterdir()}
    assert {"space-MNI_stat-crossValidated_statmap.nii.gz", "space-MNI_stat-negativeWeights_statmap.nii.gz"} <= maps


@pytest.mark.slow
def test_opposite_rdms_are_named_and_explain_nothing_without_negative_weights(larger, tmp_path, monkeypatch, capsys):
    arguments = ["--data", larger, "-np", 99, "--ceiling", -1]
    assert run_script(monkeypatch, "Fig1", *arguments, "--results", tmp_path / "free") == 0
    warned = [line for line in capsys.readouterr().err.splitlines() if "correlate negatively" in line]
    assert len(warned) == 1
    table = pd.read_csv(tmp_path / "free" / "Fig1" / "results.tsv", sep="\t", na_values="n/a", keep_default_na=False)
    first, coloured = table.iloc[0], table[table["explained"]]
    assert first["winner"] == "edges" and first["explained"] and first["negative_share"] > 0.9
    n_opposite = (coloured["weights_sign"] == "-").sum()
    assert f"{n_opposite} of {len(coloured)} coloured searchlights" in warned[0] and n_opposite >= 1
    assert "--weights nonnegative excludes that" in warned[0]
    assert set(table["weights_sign"]) <= {"+", "mixed", "-"}

    given = [*arguments, "--weights", "nonnegative", "--results", tmp_path / "positive"]
    assert run_script(monkeypatch, "Fig1", *given) == 0
    assert "negatively" not in capsys.readouterr().err
    positive = pd.read_csv(tmp_path / "positive" / "Fig1" / "results.tsv", sep="\t", na_values="n/a")
    with np.load(tmp_path / "positive" / "Fig1" / "arrays.npz", allow_pickle=False) as file:
        assert file["r2"][list(file["models"]).index("edges"), 0] < 0.1
    assert not positive.loc[0, "explained"] and "weights_sign" not in positive
    follows = positive["searchlight"] % 2 == 1
    assert (positive.loc[follows, "winner"] == "net").all() and positive.loc[follows, "explained"].all()
    report = (tmp_path / "positive" / "Fig1" / "report.html").read_text()
    assert "non-negative least squares" in report


def test_index_links_all_figures(finished):
    index = (finished / "index.html").read_text()
    for figure in SCRIPTS:
        assert f"{figure}/report.html" in index


@pytest.mark.slow
def test_report_repeats_the_warnings_of_the_run(study, tmp_path, monkeypatch):
    def careless(*arguments, **named):
        warnings.warn("the scanner was switched off", stacklevel=2)
        return locate(*arguments, **named)

    monkeypatch.setattr("utils.cli.run.locate", careless)
    assert run_script(monkeypatch, "Fig3b", "--data", study, "--results", tmp_path, "-np", 9) == 0
    assert "the scanner was switched off" in (tmp_path / "Fig3b" / "report.html").read_text()


@pytest.mark.parametrize("figure", ["Fig1", "Fig2"])
def test_paper_style_is_another_picture_of_the_same_results(finished, study, tmp_path, monkeypatch, figure):
    extra = ["--ceiling", -1] if figure in SEARCHLIGHT else []
    arguments = ["--data", study, "--results", tmp_path, "-np", 199, "--style", "paper", *extra]
    assert run_script(monkeypatch, figure, *arguments) == 0
    assert (tmp_path / figure / "results.tsv").read_bytes() == (finished / figure / "results.tsv").read_bytes()
    assert (tmp_path / figure / "figure.svg").read_bytes() != (finished / figure / "figure.svg").read_bytes()


def test_record_says_what_was_done(finished):
    record = json.loads((finished / "Fig3b" / "run.json").read_text())
    assert record["options"]["n_permutations"] == 199
    assert record["options"]["permute"] == "conditions"
    assert record["data"]["simulated"] is False
    assert len(record["data"]["fingerprint"]) == 32
    assert {"numpy", "torch", "nilearn", "python", "dnn2brain"} <= set(record["versions"])
    assert record["seconds"] > 0
    assert "results.tsv" in record["files"]


def test_page_names_the_labels_and_the_test(finished):
    page = (finished / "Fig3a" / "brain_map.html").read_text()
    for text in ("2D", "semantic", "not significant", "199", "permutation of conditions", "noise ceiling"):
        assert text in page
    assert SIMULATED not in page


def test_same_results_again(finished, study, tmp_path, monkeypatch):
    assert run_script(monkeypatch, "Fig3b", "--data", study, "--results", tmp_path, "-np", 199) == 0
    for name in ("results.tsv", "figure.svg", "figure.png", "arrays.npz"):
        assert (tmp_path / "Fig3b" / name).read_bytes() == (finished / "Fig3b" / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("figure", SCRIPTS)
@pytest.mark.parametrize(
    "route", [["--as-published"], ["--stats", "t-test"], ["--correction", "max"], ["--permute", "entries"]], ids="".join
)
def test_every_route_ends_well(study, tmp_path, monkeypatch, figure, route):
    monkeypatch.setattr("utils.plotting.brain_maps.montage", lambda *_, **__: Figure())  # drawn in the other tests
    extra = ["--ceiling", -1] if figure in SEARCHLIGHT else []
    assert run_script(monkeypatch, figure, "--data", study, "--results", tmp_path, "-np", 20, *route, *extra) == 0
    table = pd.read_csv(tmp_path / figure / "results.tsv", sep="\t")
    assert table["p"].between(0, 1).all()
    assert (table["q"] >= table["p"] - 1e-12).all()


@pytest.mark.slow
@pytest.mark.parametrize("figure", SEARCHLIGHT)
def test_plain_values_beside_the_default_ones_are_those_of_the_paper(study, tmp_path, monkeypatch, figure):
    arrays = {}
    for name, route in (("default", []), ("published", ["--as-published"])):
        options = ["--data", study, "--results", tmp_path / name, "-np", 9, "--ceiling", -1, *route]
        assert run_script(monkeypatch, figure, *options) == 0
        with np.load(tmp_path / name / figure / "arrays.npz") as file:
            arrays[name] = dict(file)
    record = json.loads((tmp_path / "published" / figure / "run.json").read_text())
    assert record["options"]["permute"] == "entries"
    plain, published = arrays["default"]["plain_adjusted_r2"], arrays["published"]["adjusted_r2"]
    if figure == "Fig1":
        assert published.min() == 0 > plain.min()
        plain = np.clip(plain, 0, None)
    else:
        np.testing.assert_allclose(arrays["default"]["plain_unique"], arrays["published"]["unique"], atol=1e-12)
    np.testing.assert_allclose(plain, published, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("permute", ["conditions", "blocks"])
def test_blocks_of_conditions(study, tmp_path, monkeypatch, permute):
    blocks = tmp_path / "blocks.txt"
    blocks.write_text("\n".join(["tools", "faces", "places"] * 4))
    options = ["--data", study, "--results", tmp_path, "-np", 50, "--blocks", blocks, "--permute", permute]
    options += ["--alpha", 0.2]
    for figure in ("Fig1", "Fig2", "Fig3a", "Fig3b"):
        extra = ["--ceiling", -1] if figure in SEARCHLIGHT else []
        assert run_script(monkeypatch, figure, *options, *extra) == 0
        record = json.loads((tmp_path / figure / "run.json").read_text())
        assert record["data"]["n_blocks"] == 3
        page = (tmp_path / figure / "report.html").read_text()
        said = "exchanged in whole blocks" if permute == "blocks" else "were exchanged only within 3 blocks"
        assert said in " ".join(page.split())


@pytest.mark.slow
@pytest.mark.parametrize("figure", SCRIPTS)
def test_nuisance_rdms(study, tmp_path, monkeypatch, figure):
    """What follows a network is not explained beside the RDM of this network."""
    extra = ["--ceiling", -1] if figure in SEARCHLIGHT else []
    found = {}
    for name, nuisance in (("without", []), ("beside", ["--nuisance", study / "dnn_rdms" / "net_late.npy"])):
        options = ["--data", study, "--results", tmp_path / name, "-np", 100, "--models", "edges", "net", *extra]
        assert run_script(monkeypatch, figure, *options, *nuisance) == 0
        found[name] = pd.read_csv(tmp_path / name / figure / "results.tsv", sep="\t", na_values="n/a")
    of = found["without"]["group"] == "semantic"
    value = "adjusted_r2" if figure == "Fig1" else "unique"
    assert found["without"].loc[of, value].max() > 0.3
    same = found["beside"]["group"] == "semantic"
    assert not same.any() or found["beside"].loc[same, value].max() < 0.2
    folder = tmp_path / "beside" / figure
    assert json.loads((folder / "run.json").read_text())["data"]["n_nuisance"] == 1
    page = " ".join((folder / "report.html").read_text().split())
    assert "Every regression included one nuisance RDM" in page
    # It is a layer of the network, too.
    assert "collinear predictors: nuisance 1" in page
    assert "beside 1 nuisance RDM." in (folder / "figure.svg").read_text().replace("\n", " ") or figure in SEARCHLIGHT


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (["--as-published"], "--nuisance cannot be combined with --as-published, which knows none"),
        (["--stats", "t-test"], "--nuisance cannot be combined with --stats t-test"),
        (["--cross-validate"], "--nuisance cannot be combined with --cross-validate"),
        ([], "found 11 conditions where the model RDMs have 12"),
    ],
)
def test_nuisance_rdms_that_do_not_fit_are_one_line(study, tmp_path, monkeypatch, capsys, other, message):
    np.save(tmp_path / "contrast.npy", squareform(np.random.default_rng(0).random(55)))
    options = ["--data", study, "--results", tmp_path / "out", "--nuisance", tmp_path / "contrast.npy", *other]
    assert run_script(monkeypatch, "Fig3b", *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / "Fig3b").exists()


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (
            ["a", "b"] * 5,
            [],
            "--blocks gives the blocks of 10 conditions, expected one line for each of the 12",
        ),
        (["a"] * 5 + ["b"] * 7, ["--permute", "blocks"], "--permute is blocks: found blocks of 5 to 7 conditions"),
        (
            ["a", "b"] * 6,
            ["--permute", "blocks"],
            r"--blocks leaves 2 different permutation\(s\), so that no p value reaches",
        ),
        (["a", "", "b"], [], "line 2 is empty; expected the block of one condition per line"),
        (None, [], r"blocks.txt: is not a readable text file .*expected the block"),
        (None, ["--stats", "t-test"], "--blocks cannot be combined with --stats t-test; leave one out"),
    ],
)
def test_blocks_that_do_not_fit_are_one_line(study, tmp_path, monkeypatch, capsys, lines, options, message):
    blocks = tmp_path / "blocks.txt"
    if lines is not None:
        blocks.write_text("\n".join(lines))
    status = run_script(
        monkeypatch, "Fig3b", "--data", study, "--results", tmp_path / "out", "-np", 5, "--blocks", blocks, *options
    )
    assert status == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not (tmp_path / "out" / "Fig3b").exists()


@pytest.mark.slow
def test_published_flags_are_understood(study, tmp_path, monkeypatch):
    flags = ["--DNN_RDM_dir", study / "dnn_rdms", "--fMRI_RDMs_dir", study / "roi_rdms", "--results_dir", tmp_path]
    flags += [
        "--roi_labels",
        study / "roi_labels.csv",
        "--num_perm",
        9,
        "-stats",
        "permutation_labels",
        "-bs_ratio",
        0.8,
    ]
    assert run_script(monkeypatch, "Fig2", *flags) == 0
    options = json.loads((tmp_path / "Fig2" / "run.json").read_text())["options"]
    assert (options["n_permutations"], options["stats"], options["bootstrap_ratio"]) == (9, "permutation", 0.8)


def test_no_atlas_is_said_in_one_line(study, tmp_path, monkeypatch, capsys):
    parts = ["--dnn-rdms", study / "dnn_rdms", "--fmri-rdms", study / "roi_rdms"]
    arguments = [*parts, "--roi-labels", study / "roi_labels.csv", "--results", tmp_path, "-np", 9]
    assert run_script(monkeypatch, "Fig3b", *arguments) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("No brain map")]
    assert len(said) == 1
    assert "--atlas" in said[0]
    assert not (tmp_path / "Fig3b" / "brain_map.html").exists()


@pytest.mark.slow
def test_papers_numbers_stand_beside_those_of_the_release(published_sample, tmp_path, monkeypatch, capsys):
    assert run_script(monkeypatch, "Fig3b", "--data", published_sample, "--results", tmp_path, "-np", 9) == 0
    table = pd.read_csv(tmp_path / "Fig3b" / "results.tsv", sep="\t").set_index(["roi", "model"])
    assert table.loc[("V1v", "2D"), "paper_unique"] == 0.114
    assert table.loc[("V1v", "2D"), "paper_total_adjusted_r2"] == 0.58
    assert "paper_unique" in capsys.readouterr().out
    assert run_script(monkeypatch, "Fig2", "--data", published_sample, "--results", tmp_path, "-np", 9) == 0
    table = pd.read_csv(tmp_path / "Fig2" / "results.tsv", sep="\t").set_index(["roi", "rank"])
    assert table.loc[("hV4", 2), "paper_model"] == "denoise"
    assert table.loc[("hV4", 2), "paper_unique"] == 0.0261


def test_papers_numbers_are_silent_elsewhere(finished):
    table = pd.read_csv(finished / "Fig2" / "results.tsv", sep="\t")
    assert not [name for name in table.columns if name.startswith("paper")]


def test_papers_numbers_equal_the_reference(paper_reference):
    from utils.analysis.paper import read

    reference = paper_reference["rois"]
    for row in read("fig2").itertuples():
        facts = reference[row.roi]["fig2b"]["top3"][row.rank - 1]
        assert (row.model, row.paper_unique) == (facts["task"], facts["unique_variance"])
        assert row.paper_total_adjusted_r2 == reference[row.roi]["fig2b"]["total_R2"]
    for row in read("fig3b").itertuples():
        facts = reference[row.roi]["fig3b"]["groups"][row.model]
        assert row.paper_significant == facts["significant_vs_0"]
        assert row.paper_unique == facts["unique_variance"] or facts["unique_variance"] is None


# --------------------------------------------------------------------------------------------------------- real data


@pytest.mark.slow
def test_fifteen_subjects_and_two_groups(fifteen_subjects, tmp_path, monkeypatch):
    for figure in ("Fig2", "Fig3b"):
        assert run_script(monkeypatch, figure, "--data", fifteen_subjects, "--results", tmp_path, "-np", 499) == 0
    table = pd.read_csv(tmp_path / "Fig3b" / "results.tsv", sep="\t").set_index(["roi", "model"])
    assert set(table.index.get_level_values("model")) == {"2D", "semantic"}
    assert table.loc[("IT", "semantic"), "significant"]
    assert table.loc[("IT", "semantic"), "unique"] > table.loc[("IT", "2D"), "unique"]


# --------------------------------------------------------------------------------------------------------- bad input


def one_line(monkeypatch, capsys, figure, *arguments):
    """Run a script that must refuse; returns the line it says."""
    assert run_script(monkeypatch, figure, *arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert "Traceback" not in lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-np", "-5"], "--n-permutations is -5, expected 1 or more"),
        (["-np", "many"], "invalid int value: 'many'"),
        (["--alpha", "2"], "--alpha is 2.0"),
        (["--seed", "-1"], "--seed is -1"),
        (["--stats", "anova"], "invalid choice: 'anova'"),
        (["--correction", "max", "--as-published"], "--correction max cannot be combined with --as-published"),
        (["--correction", "max", "--stats", "t-test"], "--correction max cannot be combined with --stats t-test"),
        (["--perm", "9"], "unrecognized arguments: --perm"),
        (["--bootstrap-ratio", "1.5"], "--bootstrap-ratio is 1.5"),
        (["--bootstrap-ratio", "0.3", "--as-published"], "standard errors take refits to 4 of 12 conditions"),
        (["--minimum-effect", "1"], "--minimum-effect is 1.0, expected a value from 0 to below 1"),
        (["--cross-validate", "1"], "--cross-validate is 1, expected 2 or more folds"),
        (["--cross-validate", "-3"], "--cross-validate is -3, expected 2 or more folds"),
        (["--cross-validate", "--as-published"], "--as-published cannot be combined with --cross-validate"),
        (["--cross-validate"], "--cross-validate is 5: folds of 2 to 3 of 12 conditions: expected 4 or more in each"),
        (["--weights", "nonnegative"], "unrecognized arguments: --weights nonnegative"),
        (["--comparison", "whitened", "--as-published"], "--as-published compares RDMs as they are"),
        (["--condition-effects", "out", "--as-published"], "cannot be combined with --condition-effects out"),
        (["--models", "net", "vgg"], "unknown model(s) vgg"),
        (["--rois", "V1v"], "unknown ROI(s) V1v"),
        (["--layers", "fc7"], "no RDM file for 3 of 3"),
        (["--atlas", "nowhere.nii"], "nowhere.nii (given as --atlas)"),
        (["--data", "nowhere"], "data folder nowhere does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options(study, tmp_path, monkeypatch, capsys, arguments, message):
    given = ["--data", study] if "--data" not in arguments else []
    assert message in one_line(monkeypatch, capsys, "Fig2", *given, "--results", tmp_path, *arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--as-published"], "--as-published, which has free weights"),
        (["--stats", "t-test"], "--stats t-test"),
        (["--cross-validate", "3"], "--cross-validate"),
        (["--dask", "local:2"], "--dask"),
        (["--device", "cuda"], "--device cuda, as they are fitted on CPUs"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_nonnegative_weights_are_not_made_for(study, tmp_path, monkeypatch, capsys, arguments, message):
    given = ["--data", study, "--results", tmp_path, "--weights", "nonnegative", *arguments]
    assert f"--weights nonnegative cannot be combined with {message}; leave" in one_line(
        monkeypatch, capsys, "Fig1", *given
    )


def test_no_gpu(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = one_line(monkeypatch, capsys, "Fig1", "--data", study, "--results", tmp_path, "--device", "cuda")
    assert "no CUDA GPU" in line


def test_no_searchlight_above_the_ceiling(study, tmp_path, monkeypatch, capsys):
    line = one_line(monkeypatch, capsys, "Fig3a", "--data", study, "--results", tmp_path, "--ceiling", 0.999)
    assert "no searchlight has a lower noise ceiling of 0.999" in line


def test_too_few_conditions(tmp_path, monkeypatch, capsys):
    tiny = write_study(tmp_path / "tiny", np.random.default_rng(0), n_conditions=4)
    line = one_line(monkeypatch, capsys, "Fig1", "--data", tiny, "--results", tmp_path / "results")
    assert "4 conditions are too few: 6 predictors need at least 8 pairs" in line


def test_conditions_of_another_number(tmp_path, monkeypatch, capsys):
    study = write_study(tmp_path / "study", np.random.default_rng(0), n_conditions=12)
    (study / "conditions.txt").write_text("beach\nforest\n")
    line = one_line(monkeypatch, capsys, "Fig2", "--data", study, "--results", tmp_path / "results")
    assert "conditions.txt: names 2 conditions, but the model RDMs have 12" in line


def test_doubled_roi_files(tmp_path, monkeypatch, capsys):
    study = write_study(tmp_path / "study", np.random.default_rng(0), n_conditions=12)
    (study / "roi_rdms" / "IT.npy").write_bytes((study / "roi_rdms" / "EVC.npy").read_bytes())
    line = one_line(monkeypatch, capsys, "Fig2", "--data", study, "--results", tmp_path / "results")
    assert "IT .mat and IT.npy are of one ROI" in line


def test_unwritable_results(study, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    line = one_line(monkeypatch, capsys, "Fig3b", "--data", study, "--results", tmp_path / "file")
    assert "cannot be written (Not a directory)" in line


def test_refusal_leaves_earlier_results(finished, study, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    one_line(monkeypatch, capsys, "Fig2", "--data", study, "--results", finished, "--models", "vgg")
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_collinear_predictors_are_named_and_work_goes_on(tmp_path, monkeypatch, capsys):
    study = write_study(tmp_path / "study", np.random.default_rng(0), n_conditions=12)
    np.save(study / "dnn_rdms" / "net_late.npy", np.load(study / "dnn_rdms" / "net_early.npy"))
    assert run_script(monkeypatch, "Fig3b", "--data", study, "--results", tmp_path / "results", "-np", 9) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: collinear")]
    assert len(warnings) == 1
    assert "semantic late" in warnings[0]


@pytest.mark.slow
@pytest.mark.parametrize("figure", SCRIPTS)
def test_help_teaches_and_loads_nothing_heavy(figure):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{SCRIPTS[figure]}.py', '--help']\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n    print('loaded', *{'torch', 'nilearn', 'plotly', 'distributed', 'sklearn'} & {*sys.modules})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=HOME, check=True)
    for text in ("--data", "--n-permutations", "--as-published", "docs/METHODS.md", "brain_map.html", "--version"):
        assert text in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded"


# ------------------------------------------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def browser():
    with open_browser() as opened:
        yield opened


@pytest.mark.parametrize("figure", SCRIPTS)
def test_every_page_opens_from_disk_without_an_outside_request_or_an_error(finished, browser, figure):
    folder = finished / figure
    for name in sorted(PAGES):
        browser.open(folder / name)
        if name == "brain_map.html":
            browser.settle()
        elif name == "brain_map_nilearn.html":
            browser.settle_nilearn()
        requests = browser.requests()
        assert (folder / name).as_uri() in requests
        assert all(url.startswith(finished.as_uri()) for url in requests), name
        assert browser.errors() == [], name


def test_index_opens_every_report(finished, browser):
    browser.open(finished / "index.html")
    links = {link.get_attribute("href") for link in browser.find("a")}
    for figure in SCRIPTS:
        assert (finished / figure / "report.html").as_uri() in links
    assert browser.errors() == []


def run_in_process(study, tmp_path, figure="Fig3b", *more, **environment):
    """A figure script in a process of its own, as from a shell."""
    script = HOME / f"{SCRIPTS[figure]}.py"
    given = ["--data", study, "--results", tmp_path, "--n-permutations", "20", "--threads", "1", "--no-open", *more]
    return subprocess.run(
        [sys.executable, script, *map(str, given)], capture_output=True, env={**os.environ, **environment}, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["Fig1", "Fig3b"])
def test_the_backend_and_encoding_of_a_notebook_or_log_do_not_matter(study, tmp_path, figure):
    environment = {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline", "LC_ALL": "C", "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii",
    }  # fmt: skip
    done = run_in_process(study, tmp_path, figure, **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()


@pytest.mark.slow
def test_a_run_that_is_terminated_cleans_up_and_says_so(study, tmp_path):
    script = HOME / f"{SCRIPTS['Fig3b']}.py"
    given = ["--data", study, "--results", tmp_path, "--n-permutations", "1000000000", "--threads", "1", "--no-open"]
    process = subprocess.Popen([sys.executable, script, *map(str, given)], stderr=subprocess.PIPE)
    wait_for(tmp_path, ".Fig3b.unfinished/.lock")
    process.terminate()
    _, text = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    assert text.decode().strip() == (
        "terminated: earlier results are unchanged; run the same command again, which goes on from what is kept"
    )
    assert not (tmp_path / "Fig3b").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "command", ["-m", HOME / "Fig1_individualdnns_searchlight.py", "venv/bin/dnn2brain-fig1"], ids=str
)
def test_signals_while_packages_are_loaded_end_in_one_line(number, command):
    """What a command is started as, then the first thing that it imports, and a signal."""
    program = f"""
import os, signal, sys
signal.signal({number:d}, signal.SIG_DFL if {number:d} == signal.SIGTERM else signal.default_int_handler)
sys.argv, sys.modules["__main__"].__file__ = [{str(command)!r}], {str(command)!r}
import utils
os.kill(os.getpid(), {number:d})
signal.pause()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=HOME, capture_output=True, text=True, check=False)
    said = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert done.returncode == 128 + number
    assert (
        done.stderr
        == f"\n{said}: earlier results are unchanged; run the same command again, which goes on from what is kept\n"
    )


def test_other_programs_keep_their_signals():
    # What is started in the background has SIGINT ignored, which the programs that it starts inherit.
    program = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import utils
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=HOME, check=False).returncode == 0


def test_an_interrupt_in_code_that_a_package_runs_has_the_status_of_others(tmp_path):
    program = """
from utils.cli import command
def main():
    exec("raise KeyboardInterrupt")
command.execute(main, command.Parser())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=HOME, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (130, 2)


@pytest.mark.slow
def test_a_read_only_installation_without_a_home_folder(study, tmp_path):
    copy = tmp_path / "project"
    for name in ("utils", "models"):
        shutil.copytree(HOME / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for folder in {path.parent for path in (copy / name).rglob("*.py")}:
            (folder / "__pycache__").write_text("")  # a file: as good as a folder that cannot be written to
    shutil.copy(HOME / "pyproject.toml", copy)
    code = "import utils.stats.noise_ceiling as n, numpy; print(n.noise_ceiling(numpy.random.rand(3, 2, 10))[0].shape)"
    environment = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/x", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, cwd=copy, env={**os.environ, **environment}, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"(2,)\n")
    done = subprocess.run(
        [sys.executable, "-c", code.replace("; print", "; import os; print(os.environ['NUMBA_CACHE_DIR']); print")],
        capture_output=True, cwd=copy, env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    assert not Path(done.stdout.decode().splitlines()[0]).exists()
