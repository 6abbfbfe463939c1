"""A quick, seeded version of the validation: each claim of the figures at its level, and the power that it has.

Bounds are binomial: a claim with exactly the stated probability would fail a test with probability 1e-4 in one draw of
the seeds, and the published test fails it, which is tested, too.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.validation import agreement, claims, page
from benchmarks.validation.grid import Cell, all_cells
from benchmarks.validation.page import rate, wilson
from benchmarks.validation.runner import _to_file, file_of, load, run_all, run_cell
from utils.datasets.worlds import World, simulate
from utils.rdm import expand
from utils.stats.jackknife import Jackknife
from utils.stats.regression import orthonormal_basis, own_r2

pytestmark = pytest.mark.slow

CELLS = {(cell.table, cell.name): cell for cell in all_cells()}
LEVEL, RISK = 0.05, 1e-4
NOT_RELATED = ("explained", "gains of their own, SD .8")
DEMEANED = ("beside", "brain demeaned, networks' gain .8")
NOISY = ("beside", "16 noisy people, gain .35")
TIE = ("ties", ".45 .45 0")
SECOND = ("ranks", "1 of 19 real (.5)")
LAYERS = ("contest", "the same, gain .35")


@pytest.fixture(autouse=True)
def fewer_permutations(monkeypatch):
    """Levels are exact with any number of permutations that .05 divides."""
    monkeypatch.setattr(claims, "N_PERMUTATIONS", 99)


def outcomes(key, runs, route="default"):
    return run_cell(replace(CELLS[key], routes=(route,)), runs)[route]


def at_most(probability, runs):
    """Largest proportion that this probability allows."""
    return binom.isf(RISK, runs, probability) / runs


def at_least(probability, runs):
    return binom.ppf(RISK, runs, probability) / runs


# Cell, outcome, number of runs, and a route whose rate is known to be far too high.
LEVELS = [
    (NOT_RELATED, "explained", 120, "published"),
    (DEMEANED, "star 2", 120, "published, conditions"),
    (NOISY, "star 2", 120, "published"),
    (TIE, "lead", 120, "published, conditions"),
    (SECOND, "rank 2", 60, "published"),
]


@pytest.mark.parametrize(("key", "outcome", "runs"), [level[:3] for level in LEVELS])
def test_a_wrong_claim_is_made_at_its_level(key, outcome, runs):
    made = outcomes(key, runs)[outcome].mean()
    assert made <= at_most(LEVEL, runs)
    if outcome != "lead":  # a lead of the larger of two is at most as frequent as its level
        assert made >= at_least(LEVEL, runs)


@pytest.mark.parametrize(("key", "outcome", "invalid"), [(level[0], level[1], level[3]) for level in LEVELS])
def test_the_bounds_would_notice_an_invalid_test(key, outcome, invalid):
    runs = 40
    assert outcomes(key, runs, invalid)[outcome].mean() > at_most(LEVEL, runs)


def test_a_wrong_star_in_plain_rdms():
    """Where permuting everything fails most: the default is spared by whitening, whatever is permuted."""
    made = outcomes(DEMEANED, 100, "plain")["star 2"].mean()
    assert made <= at_most(LEVEL, 100)


def test_power_beside_a_strong_group():
    found = outcomes(("power", "star: .05 beside .8"), 60)
    assert found["star 2"].mean() >= at_least(0.97, 60)


def test_power_of_one_network():
    found = outcomes(("power", "explained: .1 by one network, gain .35"), 100)
    assert found["explained"].mean() >= at_least(0.82, 100)


@pytest.mark.parametrize(("name", "power"), [("base", 0.97), ("weak", 0.85)])
def test_colours_of_maps(name, power):
    found = outcomes(("maps", name), 15)
    assert found["leads coloured right"].mean() >= power
    assert found["ties coloured"].mean() <= 0.1
    assert found["unrelated coloured"].mean() <= 0.01
    published = outcomes(("maps", name), 5, "published")
    assert published["ties coloured"].mean() > 0.1


def test_intervals_cover_where_people_and_images_vary():
    runs = 200
    own = outcomes(("coverage", "8 people vary"), runs)
    error = np.abs(own["difference"] - own["difference"].mean())
    assert at_least(0.92, runs) <= np.mean(error <= own["difference, both"])
    # Over images alone, the people are missing.
    assert np.mean(error <= own["difference, images"]) < at_least(0.95, runs)


def test_layers_do_not_win_contests():
    runs = 300
    won = outcomes(LAYERS, runs)["first wins"].mean()
    assert at_least(0.5, runs) <= won <= at_most(0.5, runs)
    assert outcomes(LAYERS, runs, "published")["first wins"].mean() > at_most(0.5, runs)


def test_shares_are_recovered():
    own = outcomes(("recovery", "share 0.5 noise 4"), 15)
    assert abs(np.mean(own["share"] - own["true"])) < 0.05
    assert np.mean(own["not divided"] - own["true"]) < -0.05


def test_worlds_are_what_they_say():
    rng = np.random.default_rng(0)
    world = World(kinds=((0.9, 0.0), (0.0, 0.9)), layers=(1, 3), copies=2, n_people=3, voxels=1000, noise=0.1)
    study = simulate(rng, world)
    assert [len(layers) for layers in study.models] == [1, 3]
    assert study.people.shape == (3, 4, 1225)
    assert study.kind.tolist() == [0, 0, 1, 1]
    similar = np.corrcoef([study.models[0][0], study.models[1][0], *study.mean])[:2, 2:]
    assert (similar[0, :2] > 0.6).all() and (similar[1, 2:] > 0.6).all()
    assert np.abs([similar[0, 2:], similar[1, :2]]).max() < 0.2
    # With a gain, the sums of an RDM's rows vary more than without.
    spread = [np.std(expand(simulate(rng, World(brain_gain=(gain,))).mean[0]).sum(axis=1)) for gain in (0.0, 1.0)]
    assert spread[1] > 1.5 * spread[0]


def test_finished_cells_are_kept_and_skipped(tmp_path, capsys):
    cell = Cell("contest", "a test", World(kinds=((0.0, 0.0),), layers=(2, 1)), claims.contest, ("plain",), 3)
    path = file_of(cell, tmp_path)
    _to_file(cell, path)
    before = path.read_text()
    run_all([cell], tmp_path)
    assert path.read_text() == before
    assert "1 of 1 cells are finished" in capsys.readouterr().out
    assert np.array_equal(load(cell, tmp_path)["plain"]["first wins"], run_cell(cell)["plain"]["first wins"])
    assert not file_of(replace(cell, runs=4), tmp_path).exists()


def test_wilson_intervals():
    from statsmodels.stats.proportion import proportion_confint

    values = np.r_[np.ones(7), np.zeros(93)]
    assert wilson(values) == pytest.approx((0.07, *proportion_confint(7, 100, method="wilson")))
    assert rate(values) == "7.0 [3.4, 13.7]"


def test_page_of_all_cells(tmp_path, monkeypatch):
    monkeypatch.setattr(agreement, "N_BOOTSTRAP", 20)
    monkeypatch.setattr(agreement, "N_RSATOOLBOX", 3)
    monkeypatch.setattr(agreement, "WORLDS", ("8 people vary",))
    monkeypatch.setattr(page, "WORLDS", ("8 people vary",))
    cells = [replace(cell, runs=2) for cell in all_cells()]
    for cell in cells:
        _to_file(cell, file_of(cell, tmp_path))
    agreement.run_agreement(tmp_path)
    page.write_page(cells, tmp_path, tmp_path)
    text = (tmp_path / "VALIDATION.md").read_text(encoding="utf-8")
    assert "{{" not in text
    for cell in cells:
        if not cell.table.startswith("curve"):
            assert f"| {cell.name}" in text, cell.name
    for figure in re.findall(r"\((_static/.*?)\)", text):
        assert (tmp_path / figure).stat().st_size > 10_000


def test_agreement_with_other_packages(monkeypatch):
    monkeypatch.setattr(agreement, "N_BOOTSTRAP", 300)
    assert max(agreement._regressions().values()) < 1e-10
    study = simulate(np.random.default_rng(1), CELLS["coverage", "8 people vary"].world)
    first = [layers[0] for layers in study.models[:2]]
    basis = orthonormal_basis(first)
    jackknife = Jackknife(basis, own_r2(basis), "plain", by_chance=False)
    closed = jackknife(study.mean, study.people, np.array([[1.0, -1.0]])).components.standard_error("both")[0, 0]
    found = agreement._own_bootstrap(first, study.people[:, 0])["R2 difference"]
    assert closed == pytest.approx(found, rel=0.25)
