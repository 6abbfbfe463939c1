"""The scripts on the simulated example, against its known truth."""

import pandas as pd
import pytest
from helpers import run_script

from utils.datasets.simulated import ensure_example, read_truth, score


@pytest.fixture(scope="module")
def results(example, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as monkeypatch:
        for figure in ("Fig1", "Fig3a", "Fig3b"):
            assert run_script(monkeypatch, figure, "--data", example, "--results", folder, "-np", 2000) == 0
    return folder


@pytest.fixture(scope="module")
def searchlights(example):
    truth = read_truth(example)
    return truth[truth["kind"] == "searchlight"].reset_index(drop=True)


def table(results, figure):
    return pd.read_csv(results / figure / "results.tsv", sep="\t", na_values="n/a", keep_default_na=False)


@pytest.mark.parametrize(("figure", "in_full_colour"), [("Fig1", 0.35), ("Fig3a", 0.95)])
def test_planted_searchlights_get_the_right_group(results, searchlights, figure, in_full_colour):
    """Which group it is can be established nearly everywhere, which of its networks only where one stands out."""
    found = table(results, figure)
    planted = found["tested"] & (searchlights["status"] == "planted")
    assert planted.sum() > 500
    right = found["group"] == searchlights["group"]
    assert (found["explained"] & right)[planted].mean() >= 0.95
    assert (found["significant"] & right)[planted].mean() >= in_full_colour
    assert (found["significant"] & ~right)[planted].mean() <= 0.01


def test_the_group_of_the_best_network_is_established_nearly_everywhere(results, searchlights):
    found = table(results, "Fig1")
    planted, nothing = (found["tested"] & (searchlights["status"] == status) for status in ("planted", "none"))
    right = found["group"] == searchlights["group"]
    assert (found["group_significant"] & right)[planted].mean() >= 0.95
    assert (found["group_significant"] & ~right)[planted].mean() <= 0.01
    assert found["group_significant"][nothing].mean() <= 0.01


@pytest.mark.parametrize("figure", ["Fig1", "Fig3a"])
def test_few_searchlights_are_coloured_where_nothing_is_planted(results, searchlights, figure):
    found = table(results, figure)
    nothing = found["tested"] & (searchlights["status"] == "none")
    assert nothing.sum() > 300
    assert found["explained"][nothing].mean() <= 0.05
    assert found["significant"][nothing].mean() <= 0.01


def test_planted_rois_get_the_right_group(results, example):
    truth = read_truth(example)
    planted = truth[(truth["kind"] == "roi") & (truth["status"] == "planted")].set_index("place")["group"]
    found = table(results, "Fig3b")
    first = found[found["rank"] == 1].set_index("roi")
    shown = [roi for roi in planted.index if roi in first.index]
    assert len(shown) == 15
    assert (first.loc[shown, "model"] == planted[shown]).all()
    assert first.loc[shown, "significant"].all()


def test_every_output_says_that_the_data_are_simulated(results):
    for figure in ("Fig1", "Fig3a", "Fig3b"):
        for name in ("report.html", "brain_map.html", "brain_map_nilearn.html", "figure.svg"):
            assert "SIMULATED EXAMPLE" in (results / figure / name).read_text()
        assert '"simulated": true' in (results / figure / "run.json").read_text()


@pytest.fixture(scope="module")
def scores(tmp_path_factory):
    """Of the harder example, by figure."""
    folder = tmp_path_factory.mktemp("hard")
    study, found = ensure_example(folder / "study", world="hard"), {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        # The pictures are those of other tests.
        monkeypatch.setattr("utils.cli.run.save_maps", lambda *_: None)
        monkeypatch.setattr("utils.cli.run.save_montage", lambda *_: None)
        for figure in ("Fig1", "Fig3a", "Fig3b"):
            assert run_script(monkeypatch, figure, "--data", study, "--results", folder, "-np", 2000) == 0
            found[figure] = score(table(folder, figure), read_truth(study))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["Fig1", "Fig3a"])
def test_harder_example_has_full_colour_where_a_group_leads_and_nowhere_else(scores, figure):
    """As published, 90 % of the ties and more are coloured, and most of what follows no group of its own."""
    found = scores[figure]
    assert found.loc[["lead", "tie", "common", "unrelated"], "tested"].min() > 50
    assert found.loc["lead", "right"] >= 0.9
    assert found.loc["lead", "wrong"] <= 0.01
    assert found.loc["tie", "wrong"] <= 0.05
    assert found.loc[["weak", "common", "unrelated"], "wrong"].max() <= 0.01
    assert found.loc[["weak", "tie", "common"], "grey"].max() <= 0.1


@pytest.mark.slow
def test_harder_example_has_filled_asterisks_for_what_rois_follow(scores):
    found = scores["Fig3b"].loc[["lead", "tie"]].sum()
    assert found["bars_followed"] == 20 == found["filled_followed"]
    assert found["bars_other"] > 20 and found["filled_other"] == 0
