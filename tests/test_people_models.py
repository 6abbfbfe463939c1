"""Models that differ between people: every number against loops over people, permutations and conditions."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from helpers import gain_rdms, run_script, write_study
from scipy import stats

from models.tasks import Model
from utils import InputError
from utils.analysis.assumptions import check_assumptions
from utils.analysis.predictors import averaged, bases_of, check_people, fit_bases
from utils.analysis.settings import Settings
from utils.analysis.significance import best_of_all, jackknife_of, values_of_people
from utils.datasets.layout import locate
from utils.datasets.models import ModelRdms, load_models
from utils.datasets.pilot import read_pilot
from utils.datasets.rois import load_rois
from utils.datasets.searchlights import load_searchlights
from utils.parallel.resources import Resources
from utils.rdm import Pairs, condense, expand
from utils.stats import exceedances_gpu, permutation
from utils.stats.comparison import compared
from utils.stats.cross_validation import CrossValidated, CrossValidation, condition_folds
from utils.stats.exceedances import Permutations
from utils.stats.inference import above_chance, chance_adjusted_r2, chance_r2
from utils.stats.jackknife import Jackknife, Sampled
from utils.stats.nonnegative import negative_share
from utils.stats.permutation import conditional_test, permutation_test
from utils.stats.refits import condition_subsets, own_in_subsets, unique_in_subsets, winner_stability
from utils.stats.regression import (
    each_person,
    linear_statistic,
    orthonormal_basis,
    own_adjusted_r2,
    own_r2,
    project,
    standardise,
    unique_adjusted_r2,
    unique_and_total,
)
from utils.stats.stepwise import stepwise_test

N, PEOPLE, PLACES = 12, 4, 3


@pytest.fixture
def own(rng):
    """Models (4, 2, people, n_pairs) and RDMs (people, places, n_pairs): the first place follows each one's model 1.

    The fourth model is the same for everyone, and one layer of one person repeats another, so that ranks differ.
    """
    models = gain_rdms(rng, 8 * PEOPLE, N).reshape(4, 2, PEOPLE, -1)
    models[3] = models[3, :, :1]
    models[2, 1, 2] = models[2, 0, 2]
    brains = gain_rdms(rng, PEOPLE * PLACES, N, spread=0.4).reshape(PEOPLE, PLACES, -1)
    brains[:, 0] += models[1, 0]
    brains[:, 1] += 0.3 * models[0, 1] + 0.2 * models[3, 0]
    return models, brains


def bases(models, n_given=0):
    return [orthonormal_basis(list(one), n_given) for one in np.moveaxis(models, 2, 0)]


def r2(predictors, response):
    """By numpy's least squares; 0 without predictors."""
    x = np.column_stack([np.ones(len(response)), *predictors])
    residual = response - x @ np.linalg.lstsq(x, response, rcond=None)[0]
    return 1 - residual @ residual / np.square(response - response.mean()).sum()


def moved(rdm, order):
    return condense(expand(rdm)[order][:, order])


AS_IT_IS = np.arange(N)


def mean_r2(models, brains, sets, order=AS_IT_IS):
    """Mean over people of each one's R2 of some models, whose conditions are permuted."""
    return np.mean(
        [r2([moved(x, order) for i in sets for x in models[i, :, s]], brains[s]) for s in range(len(brains))]
    )


# ---------------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_permutations_of_everyone_alike_against_a_loop(own, device, monkeypatch):
    models, brains = own
    if device == "gpu":
        monkeypatch.setattr(permutation, "count_on_cpu", partial(exceedances_gpu.count_on_gpu, device="cpu"))
    draws = Permutations(40, seed=3)
    mine = bases(models)
    chance = np.mean([chance_r2(b, own_r2(b), y) for b, y in zip(mine, brains, strict=True)], axis=0)
    test = permutation_test(mine, [own_r2(b) for b in mine], brains, draws, chance=chance)
    observed = np.array([[mean_r2(models, brains[:, place], [i]) for place in range(PLACES)] for i in range(4)])
    null = np.array(
        [
            [[mean_r2(models, brains[:, place], [i], order) for place in range(PLACES)] for i in range(4)]
            for order in draws.orders(brains.shape[2], 0, 40)
        ]
    )
    np.testing.assert_allclose(test.observed, observed, atol=1e-12)
    np.testing.assert_array_equal(test.p, (1 + (null >= observed).sum(axis=0)) / 41)
    adjusted, highest = 1 - (1 - observed) / (1 - chance), (1 - (1 - null) / (1 - chance)).max(axis=1)
    np.testing.assert_array_equal(test.p_best, (1 + (highest >= adjusted.max(axis=0)).sum(axis=0)) / 41)
    largest = highest.max(axis=1)
    np.testing.assert_array_equal(test.p_max, (1 + (largest[:, None, None] >= adjusted).sum(axis=0)) / 41)
    assert test.p[1, 0] == 1 / 41


def semi_partial(models, brains, own_sets, others, order):
    """What the permuted part of some sets outside of others adds to these, and what the others leave: of one person."""
    y = brains - brains.mean()
    y = y / np.linalg.norm(y)
    centred = [x - x.mean() for i in own_sets for x in models[i]]
    given = [x - x.mean() for i in others for x in models[i]]
    given = np.array(given).T if given else np.zeros((len(y), 0))
    outside = np.array(centred).T
    outside = outside - given @ np.linalg.lstsq(given, outside, rcond=None)[0]
    permuted = np.array([moved(x, order) for x in outside.T])

    def explained(x):
        return np.square(y).sum() - np.square(y - x @ np.linalg.lstsq(x, y, rcond=1e-9)[0]).sum()

    return explained(np.hstack([given, permuted.T])) - explained(given)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("n_given", [0, 1])
def test_what_sets_add_in_permutations_of_everyone_alike(own, n_given, device, monkeypatch):
    models, brains = own
    if device == "gpu":
        monkeypatch.setattr(permutation, "count_on_cpu", partial(exceedances_gpu.count_on_gpu, device="cpu"))
    draws, n = Permutations(25, seed=5), 4 - n_given
    test = conditional_test(bases(models, n_given), brains, draws, each_alone=n_given == 1)

    def added(i, place, order):
        others = [3] if n_given else [j for j in range(4) if j != i]
        parts = [semi_partial(models[:, :, s], brains[s, place], [i], others, order) for s in range(PEOPLE)]
        return np.mean(parts)

    observed = np.array([[added(i, place, np.arange(N)) for place in range(PLACES)] for i in range(n)])
    orders = draws.orders(brains.shape[2], 0, 25)
    null = np.array([[[added(i, place, order) for place in range(PLACES)] for i in range(n)] for order in orders])
    np.testing.assert_allclose(test.observed, observed, atol=1e-12)
    np.testing.assert_array_equal(test.p, (1 + (null >= observed - 1e-11).sum(axis=0)) / 26)
    if not n_given:
        total = np.array([mean_r2(models, brains[:, place], range(4)) for place in range(PLACES)])
        totals = np.array([[mean_r2(models, brains[:, k], range(4), order) for k in range(PLACES)] for order in orders])
        np.testing.assert_array_equal(test.p_total, (1 + (totals >= total - 1e-11).sum(axis=0)) / 26)
    left = np.array(
        [
            [1 - mean_r2(models, brains[:, k], [3] if n_given else [j for j in range(4) if j != i]) for k in range(3)]
            for i in range(n)
        ]
    )
    by_chance = 0.0
    if n_given:  # one person has a layer less of model 2, and model 3 has two layers
        n_own = np.array([2 * PEOPLE, 2 * PEOPLE, 2 * PEOPLE - 1])[:, None]
        by_chance = n_own / (PEOPLE * (brains.shape[2] - 1 - 2))
    value, values = (1 - (1 - x / left) / (1 - by_chance) for x in (observed, null))
    largest = values.max(axis=(1, 2))
    np.testing.assert_array_equal(test.p_max, (1 + (largest[:, None, None] >= value - 1e-11).sum(axis=0)) / 26)
    best = values.max(axis=1)
    np.testing.assert_array_equal(test.p_best, (1 + (best >= value.max(axis=0) - 1e-11).sum(axis=0)) / 26)


def test_maximum_in_standard_deviations_uses_further_permutations_of_everyone(own):
    models, brains = own
    mine, draws = bases(models), Permutations(30, seed=2)
    test = permutation_test(mine, [own_r2(b) for b in mine], brains, draws, largest="studentised")
    orders = draws.orders(brains.shape[2], 0, 230)
    null = np.array(
        [
            [[mean_r2(models, brains[:, place], [i], order) for place in range(PLACES)] for i in range(4)]
            for order in orders
        ]
    )
    mean, deviation = null[30:].mean(axis=0), null[30:].std(axis=0, ddof=1)
    largest = ((null[:30] - mean) / deviation).max(axis=(1, 2))
    expected = (1 + (largest[:, None, None] >= (test.observed - mean) / deviation).sum(axis=0)) / 31
    # Scales are rounded to three digits.
    assert np.abs(test.p_max - expected).max() <= 1 / 31


def test_chosen_models_are_tested_by_the_f_of_all_people(own):
    models, brains = own
    models, draws = models[:3], Permutations(20, seed=6)
    chosen = np.array([[1, 0, 2], [0, 2, 0]])
    test = stepwise_test(bases(models), chosen, brains, draws)
    orders = draws.orders(brains.shape[2], 0, 20)
    rank = np.array([[2, 2, 2]] * PEOPLE)
    rank[2, 2] = 1

    def f(place, k, candidate, order):
        other, added, rest, n_own, n_left = chosen[1 - k, place], 0.0, 0.0, 0, 0
        for s in range(PEOPLE):
            y = standardise(brains[s, place])
            given = np.column_stack([np.ones(len(y)), *models[other, :, s]])
            residual = y - given @ np.linalg.lstsq(given, y, rcond=None)[0]
            residual = moved(residual, np.argsort(order))  # the basis is permuted instead
            both = np.column_stack([given, *models[candidate, :, s]])
            without = np.square(residual - given @ np.linalg.lstsq(given, residual, rcond=None)[0]).sum()
            within = np.square(residual - both @ np.linalg.lstsq(both, residual, rcond=1e-9)[0]).sum()
            added, rest = added + without - within, rest + within
            n_own += rank[s, candidate]
            n_left += len(y) - 1 - rank[s, other] - rank[s, candidate]
        return added / n_own / (rest / n_left)

    for place in range(PLACES):
        for k in range(2):
            observed = f(place, k, chosen[k, place], np.arange(N))
            candidates = [j for j in range(3) if j != chosen[1 - k, place]]
            null = np.array([max(f(place, k, j, order) for j in candidates) for order in orders])
            np.testing.assert_allclose(test.f[k, place], observed, rtol=1e-9)
            assert test.p[k, place] == (1 + (null >= observed * (1 - 1e-9)).sum()) / 21


# ---------------------------------------------------------------------------------------------- values and their errors


@pytest.mark.parametrize("comparison", ["whitened", "plain"])
def test_standard_errors_are_those_of_refits_to_each_person(own, comparison):
    models, brains = own
    contrasts = np.vstack([np.eye(5), [[1, -1, 0, 0, 0]]])

    def estimates(kept):
        x, y = (condense(expand(rdms)[..., kept, :][..., kept]) for rdms in (models, brains))
        values = []
        for s in range(PEOPLE):
            basis = orthonormal_basis(list(compared(x[:, :, s], comparison)))
            values.append(contrasts @ above_chance(basis, unique_and_total(basis), compared(y[s], comparison)))
        return np.array(values)

    own_bases = [orthonormal_basis(list(compared(one, comparison))) for one in np.moveaxis(models, 2, 0)]
    found = jackknife_of(own_bases, unique_and_total, comparison, by_person=True)(None, brains, contrasts)
    whole = estimates(np.arange(N))
    without = np.array([estimates(np.delete(np.arange(N), i)) for i in range(N)])
    np.testing.assert_allclose(found.estimates, whole.mean(axis=0), atol=1e-10)
    of_images = (N - 1) / N * np.square(without.mean(axis=1) - without.mean(axis=(0, 1))).sum(axis=0)
    np.testing.assert_allclose(found.components.images, of_images, rtol=1e-7)
    np.testing.assert_allclose(found.components.people, stats.sem(whole, axis=0) ** 2, rtol=1e-9)
    # The jackknife variance of how far each person is from the mean over people, averaged, of a mean over people.
    deviation = without - without.mean(axis=1, keepdims=True)
    variance = (N - 1) / N * np.square(deviation - deviation.mean(axis=0)).sum(axis=0)
    of_both = variance.sum(axis=0) / (PEOPLE - 1) / PEOPLE
    np.testing.assert_allclose(found.components.interaction, of_both, rtol=1e-7)
    assert (found.components.n_subjects, found.components.n_conditions) == (PEOPLE, N)
    assert np.isnan(found.shares).all() and np.isnan(found.reliability).all()


def test_components_of_independent_people_do_not_count_twice(rng):
    """Where people share nothing, the variance over images is all interaction, and that over people is the total."""
    ratios = []
    for _ in range(40):
        models, brains = gain_rdms(rng, 6, 16)[:, None], gain_rdms(rng, 6, 16)[:, None]
        mine = [orthonormal_basis([one]) for one in models]
        components = jackknife_of(mine, own_adjusted_r2, "plain", by_person=True)(None, brains, np.eye(1)).components
        ratios.append([components.images[0, 0], components.interaction[0, 0]])
    images, interaction = np.mean(ratios, axis=0)
    assert interaction / images == pytest.approx(1, abs=0.1)


def test_values_of_each_person_for_the_t_test_come_from_own_models(own):
    models, brains = own
    values, chance = values_of_people(bases(models), own_adjusted_r2, brains)
    for s, basis in enumerate(bases(models)):
        np.testing.assert_array_equal(values[:, s], own_adjusted_r2(basis)(project(basis, brains[s])))
        np.testing.assert_array_equal(chance[:, s], chance_adjusted_r2(basis, own_adjusted_r2(basis), brains[s]))


def test_stability_counts_the_largest_mean_over_people(own):
    models, brains = own
    winner, subsets = np.array([1, 0, 3]), condition_subsets(N, 11, 12, 0)
    for statistic, refit in ((own_adjusted_r2, own_in_subsets), (unique_adjusted_r2, unique_in_subsets)):
        everyone = zip(bases(models[[0, 1, 3]]), standardise(brains), strict=True)
        values = np.mean([refit(basis, y, subsets) for basis, y in everyone], axis=0)
        expected = (values.argmax(axis=1) == winner % 3).mean(axis=0)
        found = winner_stability(bases(models[[0, 1, 3]]), statistic, brains, winner % 3, n_subsets=12)
        np.testing.assert_array_equal(found, expected)


def test_negative_share_is_of_means_over_people(own):
    models, brains = own
    mine = bases(models[:2])
    projected = [project(basis, y) for basis, y in zip(mine, brains, strict=True)]
    free = np.mean([own_r2(basis)(c) for basis, c in zip(mine, projected, strict=True)], axis=0)
    kept = np.mean(
        [(1 - negative_share(basis, c)) * own_r2(basis)(c) for basis, c in zip(mine, projected, strict=True)], axis=0
    )
    np.testing.assert_allclose(negative_share(mine, projected), 1 - kept / free, atol=1e-12)


def test_cross_validation_predicts_each_person_from_the_own_other_images(own):
    models, brains = own
    folds = condition_folds(N, 3, 0)
    parts = [
        CrossValidation(basis, own_r2(basis), "plain", folds)(y[None])
        for basis, y in zip(bases(models[:2, :1]), brains, strict=True)
    ]
    found = CrossValidated.over_people(parts)
    for place in range(PLACES):
        for i in range(2):
            of_people = []
            for s in range(PEOPLE):
                error, total = 0.0, 0.0
                for f in range(3):
                    inside, outside = np.flatnonzero(folds == f), np.flatnonzero(folds != f)
                    (x, y), (u, v) = (
                        [condense(expand(z)[kept][:, kept]) for z in (models[i, 0, s], brains[s, place])]
                        for kept in (outside, inside)
                    )
                    slope = np.polyfit(x, y, 1)[0]
                    error += np.square((v - v.mean()) - slope * (u - u.mean())).sum()
                    total += np.square(v - v.mean()).sum()
                of_people.append(1 - error / total)
            np.testing.assert_allclose(found.values[i, place], np.mean(of_people), atol=1e-10)
            np.testing.assert_allclose(found.se[i, place], stats.sem(of_people), atol=1e-10)
    assert np.isnan(found.ceiling).all()


# -------------------------------------------------------------------------------------------------------- special cases


def test_one_person_with_own_models_is_one_person(own):
    models, brains = own
    basis, y, draws, chosen = bases(models)[0], brains[0], Permutations(30), np.array([[0, 1, 2]])
    for one, mine in (
        (permutation_test(basis, own_r2(basis), y, draws), permutation_test([basis], [own_r2(basis)], y[None], draws)),
        (conditional_test(basis, y, draws), conditional_test([basis], y[None], draws)),
        (stepwise_test(basis, chosen, y, draws), stepwise_test([basis], chosen, y[None], draws)),
    ):  # fmt: skip
        for name, value in vars(one).items():
            np.testing.assert_array_equal(getattr(mine, name), value, err_msg=name)
    alone = Jackknife(basis, own_r2(basis), "plain")(y)
    assert Sampled.over_people([alone]) is alone


def test_equal_models_of_everyone_give_the_mean_over_people(own):
    models, brains = own
    shared = models[:, :, 0]
    copies = np.repeat(shared[:, :, None], PEOPLE, axis=2)
    study = ModelRdms([Model(str(i), str(i), "2D") for i in range(4)], ["a", "b"], copies)
    assert study.by_person and study.n_people == PEOPLE and len(study.of_people()) == PEOPLE
    basis = orthonormal_basis(list(compared(shared, "whitened")))
    responses = compared(brains, "whitened")
    single = [above_chance(basis, unique_and_total(basis), y) for y in responses]
    found = averaged(lambda b, y: above_chance(b, unique_and_total(b), y), bases_of(study, "whitened"), responses)
    np.testing.assert_allclose(found, np.mean(single, axis=0), atol=1e-12)
    parts = [Jackknife(basis, unique_and_total(basis), "whitened")(y) for y in brains]
    np.testing.assert_allclose(Sampled.over_people(parts).estimates, np.mean(single, axis=0), atol=1e-10)


def test_groups_average_each_persons_networks(own):
    models, _ = own
    study = ModelRdms(
        [Model(k, k, g) for k, g in zip("abcd", ["2D", "3D", "3D", "2D"], strict=True)], ["x", "y"], models
    )
    groups = study.grouped()
    assert groups.n_people == PEOPLE
    np.testing.assert_allclose(groups.rdms[0], (models[0] + models[3]) / 2)
    np.testing.assert_allclose(groups.of_people()[2].rdms[1], (models[1, :, 2] + models[2, :, 2]) / 2)


def test_level_of_the_permutation_test_where_nothing_is_related(rng):
    """Images have gains that everyone's brain shares, and that everyone's models share; these are unrelated."""
    p = []
    for _ in range(150):
        models, brains = (gain_rdms(rng, 1, N)[0] + gain_rdms(rng, 3, N, spread=0.3)[:, None] for _ in range(2))
        mine = [orthonormal_basis([one]) for one in models]
        p.append(best_of_all(mine, brains, Settings(n_permutations=39), Resources()).p_explained[0])
    assert stats.binomtest(int((np.array(p) <= 0.05).sum()), len(p), 0.05).pvalue > 0.01


def test_images_gain_is_only_warned_of_if_people_share_nothing_else(rng, recwarn):
    """Networks and brain share gains on average; each person's model and brain share all the rest, too."""
    effects = rng.random(20)
    gains = 0.3 * condense(effects[:, None] + effects)
    own = gain_rdms(rng, 6, 20, spread=0.1)
    models, brains = (gains + own)[None, None], (gains + own)[:, None]
    check_assumptions(models, brains, Settings())
    assert not [w for w in recwarn if "share effects of single conditions" in str(w.message)]
    other = gain_rdms(rng, 6, 20, spread=0.1)
    with pytest.warns(UserWarning, match="share effects of single conditions"):
        check_assumptions(models, (gains + other)[:, None], Settings())


# ----------------------------------------------------------------------------------------------------- data and scripts


def people_study(root, rng, n_people=6, shift=0, shared=None):
    """A study in which the first ROI and half of the searchlights follow each person's own `net`, unrelated to others'.

    `shift` gives people the models of others; `shared` gives everyone the models of somebody else.
    """
    n = 14
    write_study(root, rng, n_conditions=n)
    nets = {layer: gain_rdms(rng, n_people, n, spread=0.3) for layer in ("early", "late")}
    for layer, rdms in nets.items():
        models = expand(np.roll(rdms, shift, axis=0)) if shared is None else expand(gain_rdms(shared, 1, n, 0.3)[0])
        np.save(root / "dnn_rdms" / f"net_{layer}.npy", models)
    own = standardise(nets["early"]) + standardise(nets["late"])
    noise = standardise(gain_rdms(rng, 2 * n_people, n)).reshape(2, n_people, -1)
    np.save(root / "roi_rdms" / "EVC.npy", expand(own + 0.5 * noise[0]))
    (root / "roi_rdms" / "IT .mat").unlink()
    np.save(root / "roi_rdms" / "IT.npy", expand(noise[1]))
    n_searchlights = len(np.load(root / "searchlight_rdms" / "sub-01.npy"))
    follows = np.arange(n_searchlights)[:, None] % 2
    for s in range(n_people):
        other = standardise(gain_rdms(rng, n_searchlights, n))
        rdms = follows * (own[s] + 0.5 * other) + (1 - follows) * other
        np.save(root / "searchlight_rdms" / f"sub-{s + 1:02d}.npy", rdms.astype(np.float32))
    return root


def results(folder, figure):
    return pd.read_csv(folder / figure / "results.tsv", sep="\t"), np.load(folder / figure / "arrays.npz")


OPTIONS = ("--n-permutations", "199", "-q", "--surface", "none")


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory):
    return people_study(tmp_path_factory.mktemp("people") / "study", np.random.default_rng(7))


@pytest.mark.slow
@pytest.mark.parametrize("figure", ["Fig1", "Fig2", "Fig3a", "Fig3b"])
def test_figures_find_what_each_person_shares_with_the_own_model(tmp_path, study_folder, monkeypatch, figure):
    assert run_script(monkeypatch, figure, "--data", study_folder, "--results", tmp_path, *OPTIONS) in (0, None)
    table, arrays = results(tmp_path, figure)
    models = load_models(locate("roi", study_folder))
    models = models.grouped() if figure.startswith("Fig3") else models
    keys = [model.key for model in models.models]
    if figure in ("Fig1", "Fig3a"):
        follows = table["searchlight"] % 2 == 1
        assert table["tested"].all() and np.isnan(table["share"]).all() and np.isnan(table["reliability"]).all()
        assert (table["group"][follows] == "semantic").all() and table["significant"][follows].all()
        assert table["significant"][~follows].mean() < 0.1
        brain = load_searchlights(locate("searchlight", study_folder), 14)
        brains = np.concatenate([rdms for _, rdms in brain.blocks()], axis=1)[:, :3]
    else:
        semantic = table[(table["roi"] == "EVC") & (table["group"] == "semantic")]
        assert (semantic["star"] == "filled").all()
        assert not table["significant"][table["roi"] == "IT"].any()
        # Without a reliability, shares are of the whole variance.
        assert np.isnan(table["reliability"]).all()
        np.testing.assert_allclose(table["share"], table["unique"])
        brains = load_rois(locate("roi", study_folder), 14).fitted(True)
    expected = np.mean(
        [
            above_chance(basis, own_adjusted_r2(basis), compared(y, "whitened"))
            for basis, y in zip(bases_of(models, "whitened"), brains, strict=True)
        ],
        axis=0,
    )
    np.testing.assert_array_equal(arrays["models"], keys)
    np.testing.assert_allclose(arrays["adjusted_r2"][:, : brains.shape[1]], expected, atol=1e-9)
    report = (tmp_path / figure / "report.html").read_text(encoding="utf-8")
    assert "Network RDMs differed between participants" in report
    assert "reliability of the mean RDM" not in report and "mean RDM, with" not in report


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["models of others", "one model for everyone"])
def test_models_of_somebody_else_explain_nothing(tmp_path, monkeypatch, wrong):
    wrongly = {"shift": 1} if wrong == "models of others" else {"shared": np.random.default_rng(1)}
    folder = people_study(tmp_path / "study", np.random.default_rng(7), **wrongly)
    assert run_script(monkeypatch, "Fig3b", "--data", folder, "--results", tmp_path, *OPTIONS) in (0, None)
    table, _ = results(tmp_path, "Fig3b")
    assert not table["significant"].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ("Fig1", "--cross-validate", "2"),
        ("Fig2", "--cross-validate", "2"),
        ("Fig1", "--stats", "t-test"),
        ("Fig3b", "--stats", "t-test"),
        ("Fig3a", "--correction", "max"),
        ("Fig2", "--correction", "max"),
        ("Fig1", "--nuisance", "nuisance"),
        ("Fig3b", "--blocks", "blocks"),
        ("Fig2", "--pairs", "pairs"),
        ("Fig3a", "--pairs", "pairs"),
        ("Fig1", "--permute", "entries"),
    ],
    ids=" ".join,
)
def test_other_options(tmp_path, study_folder, monkeypatch, rng, options):
    files = {name: tmp_path / f"{name}.npy" for name in ("nuisance", "pairs")} | {"blocks": tmp_path / "blocks.txt"}
    np.save(files["nuisance"], expand(gain_rdms(rng, 1, 14)[0]))
    run = np.repeat([0, 1, 2], [5, 5, 4])
    np.save(files["pairs"], run[:, None] != run)
    files["blocks"].write_text("\n".join("aaaaaaabbbbbbb"))
    figure, name, value = options
    given = (name, files.get(value, value), "--data", study_folder, "--results", tmp_path, *OPTIONS)
    assert run_script(monkeypatch, figure, *given) in (0, None)
    table, _ = results(tmp_path, figure)
    if figure in ("Fig1", "Fig3a"):
        follows = table["searchlight"] % 2 == 1
        assert (table["group"][follows] == "semantic").mean() > 0.9 and table["explained"][follows].mean() > 0.9
    else:
        assert table["significant"][(table["roi"] == "EVC") & (table["group"] == "semantic")].all()
    if name == "--cross-validate":
        assert table["cv_r2"].notna().all() and table["cv_ceiling"].isna().all()


def refusal(monkeypatch, capsys, figure, *options):
    capsys.readouterr()
    assert run_script(monkeypatch, figure, *options) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


def test_what_does_not_fit_is_refused_in_one_line(tmp_path, study_folder, monkeypatch, capsys):
    def refused(figure, *options):
        return refusal(monkeypatch, capsys, figure, "--data", study_folder, "--results", tmp_path, "-q", *options)

    assert (
        "--as-published fits the mean RDM, but model RDMs are stacks with one for each of 6 people; leave"
        in refused("Fig3b", "--as-published")
    )
    assert "--weights nonnegative are fitted to the mean RDM, but model RDMs are stacks" in refused(
        "Fig1", "--weights", "nonnegative"
    )
    assert not [*tmp_path.iterdir()]


def test_numbers_of_people_have_to_agree(tmp_path, monkeypatch, capsys):
    folder = people_study(tmp_path / "study", np.random.default_rng(7))

    def refused(figure):
        return refusal(monkeypatch, capsys, figure, "--data", folder, "--results", tmp_path / "results", "-q")

    rdms = np.load(folder / "roi_rdms" / "IT.npy")
    np.save(folder / "roi_rdms" / "IT.npy", rdms[:5])
    assert "IT.npy: found RDMs of 5 people, expected 6, since there are model RDMs of 6 people; give" in refused("Fig2")
    (folder / "searchlight_rdms" / "sub-03.npy").unlink()
    assert "searchlight_rdms: found RDMs of 5 people, expected 6, since there" in refused("Fig1")
    early = np.load(folder / "dnn_rdms" / "net_early.npy")
    np.save(folder / "dnn_rdms" / "net_early.npy", early[:4])
    expected = "net_late.npy: found RDMs of 6 people, expected 4 as in net_early.npy: one for every person in the order"
    assert expected in refused("Fig3b")
    with pytest.raises(InputError, match="differ between people cannot be a pilot"):
        np.save(folder / "dnn_rdms" / "net_early.npy", early)
        read_pilot(folder, "whitened")


def test_one_matrix_stands_for_everyone_beside_stacks(tmp_path):
    folder = people_study(tmp_path / "study", np.random.default_rng(7))
    models = load_models(locate("roi", folder))
    assert models.rdms.shape == (3, 2, 6, 91) and models.n_conditions == 14
    edges = condense(np.load(folder / "dnn_rdms" / "edges_late.npy"))
    np.testing.assert_array_equal(models.rdms[0, 1], np.tile(edges, (6, 1)))
    net = condense(np.load(folder / "dnn_rdms" / "net_late.npy"))
    np.testing.assert_array_equal(models.rdms[2, 1], net)
    shared = load_models(locate("roi", folder), keys=["edges", "edges_fine"])
    assert not shared.by_person and shared.rdms.shape == (2, 2, 91)


def test_collinear_models_are_named_with_the_number_of_people(own):
    models, _ = own
    study = ModelRdms([Model(str(i), str(i), "2D") for i in range(4)], ["a", "b"], models)
    with pytest.warns(UserWarning, match=r"collinear predictors: 2 b of 1 of 4 people \(model, layer\)"):
        found = fit_bases(study, Settings())
    assert [basis.q.shape[1] for basis in found] == [8, 8, 7, 8]
    with pytest.raises(InputError, match="`as_published` fits the mean RDM"):
        check_people(study, Settings.published())
    with pytest.raises(ValueError, match="expected those of 4 people, one for each basis"):
        each_person(found, np.zeros((3, 2, 66)))


@pytest.mark.parametrize("comparison", ["whitened", "plain"])
def test_errors_and_tests_where_pairs_are_left_out(own, comparison):
    """The jackknife against refits to each person, with pairs within runs of three left out."""
    models, brains = own
    run = np.arange(N) // 3
    pairs = Pairs.where(run[:, None] != run)
    study = ModelRdms([Model(str(i), str(i), "2D") for i in range(3)], ["a", "b"], pairs.of(models[:3]), pairs=pairs)
    mine = bases_of(study, comparison)
    found = jackknife_of(mine, own_adjusted_r2, comparison, by_person=True)(None, pairs.of(brains), np.eye(3))

    def estimates(kept):
        inside, left = pairs.among(kept)
        values = []
        for s in range(PEOPLE):
            x, y = (compared(pairs.of(rdms)[..., inside], comparison, left) for rdms in (models[:3, :, s], brains[s]))
            basis = orthonormal_basis(list(x), pairs=left)
            values.append(above_chance(basis, own_adjusted_r2(basis), y))
        return np.array(values)

    np.testing.assert_allclose(found.estimates, estimates(np.ones(N, bool)).mean(axis=0), atol=1e-10)
    without = np.array([estimates(np.arange(N) != i).mean(axis=0) for i in range(N)])
    expected = (N - 1) / N * np.square(without - without.mean(axis=0)).sum(axis=0)
    np.testing.assert_allclose(found.components.images, expected, rtol=1e-7)
    statistics = [linear_statistic(basis, [[((0,), 1.0)]], adjusted=False) for basis in mine]
    draws = Permutations(20, pairs=pairs)
    test = permutation_test(mine, statistics, compared(pairs.of(brains), comparison, pairs), draws)
    responses = standardise(compared(pairs.of(brains), comparison, pairs))
    null = []
    for index in [np.arange(pairs.n_kept), *draws.indices(pairs.n_kept, 0, 20)]:
        parts = []
        for s, basis in enumerate(mine):
            parts.append(np.square((basis.q @ basis.subset([0]))[index].T @ responses[s].T).sum(axis=0))
        null.append(np.mean(parts, axis=0))
    expected = (1 + (np.array(null[1:]) >= null[0] - 1e-11).sum(axis=0)) / 21
    np.testing.assert_array_equal(test.p[0], expected)
