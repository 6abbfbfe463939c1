import numpy as np
import pytest
from helpers import gain_rdms

from utils.rdm import condense, expand
from utils.stats.comparison import compared
from utils.stats.cross_validation import CrossValidation, condition_folds
from utils.stats.regression import linear_statistic, orthonormal_basis, own_and_parts, own_r2, part_names

COMPARISONS = ["whitened", "plain", "without_condition_effects"]


def part_of(rdm, chosen):
    """The RDM of some conditions, condensed."""
    return condense(expand(rdm)[np.ix_(chosen, chosen)])


def literal_r2(predictors, subjects, folds, comparison):
    """Cross-validated R2 of some predictors for every subject, fold by fold with numpy's least squares."""

    def of(rdms, chosen):
        parts = compared(np.stack([part_of(rdm, chosen) for rdm in rdms]), comparison)
        return parts - parts.mean(axis=1, keepdims=True)

    scores = []
    for s in range(len(subjects)):
        others = np.delete(subjects, s, axis=0).mean(axis=0) if len(subjects) > 1 else subjects[0]
        error = variance = 0.0
        for f in range(folds.max() + 1):
            train, test = np.flatnonzero(folds != f), np.flatnonzero(folds == f)
            weights = np.linalg.lstsq(of(predictors, train).T, of(others[None], train)[0], rcond=None)[0]
            observed = of(subjects[s][None], test)[0]
            error += np.sum((observed - weights @ of(predictors, test)) ** 2)
            variance += np.sum(observed**2)
        scores.append(1 - error / variance)
    return np.array(scores)


def literal_ceiling(subjects, folds, comparison):
    """Squared correlation of each subject with the mean of the others, over the centred test pairs of all folds."""
    found = []
    for s in range(len(subjects)):
        pairs = []
        for f in range(folds.max() + 1):
            own = [part_of(rdm, np.flatnonzero(folds == f)) for rdm in subjects]
            own = compared(np.stack(own), comparison)
            own -= own.mean(axis=1, keepdims=True)
            pairs.append((own[s], np.delete(own, s, axis=0).mean(axis=0)))
        y, m = (np.concatenate(part) for part in zip(*pairs, strict=True))
        found.append(max(0.0, y @ m) ** 2 / (y @ y) / (m @ m))
    return np.mean(found)


@pytest.fixture
def world(rng):
    """Three models of two layers, and RDMs of five subjects in four places, of which the first follows two models."""
    models = gain_rdms(rng, 6, 23).reshape(3, 2, -1)
    subjects = gain_rdms(rng, 20, 23).reshape(5, 4, -1)
    subjects[:, 0] += models[0, 0] + 0.5 * models[1, 1]
    return models, subjects


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_equals_a_literal_loop(world, comparison):
    models, subjects = world
    basis, folds = orthonormal_basis(list(compared(models, comparison))), condition_folds(23, 5, 1)
    found = CrossValidation(basis, own_and_parts(basis), comparison, folds)(subjects.astype(np.float32))
    subjects = subjects.astype(np.float32).astype(np.float64)
    for place in range(4):
        own = [literal_r2(models[i], subjects[:, place], folds, comparison) for i in range(3)]
        whole = literal_r2(models.reshape(6, -1), subjects[:, place], folds, comparison)
        others = [
            literal_r2(np.delete(models, i, axis=0).reshape(4, -1), subjects[:, place], folds, comparison)
            for i in range(3)
        ]
        unique = [whole - without for without in others]
        expected = np.array([*own, *unique])
        np.testing.assert_allclose(found.values[:6, place], expected.mean(axis=1), atol=1e-10)
        np.testing.assert_allclose(found.se[:6, place], expected.std(axis=1, ddof=1) / np.sqrt(5), atol=1e-10)
        # What models 0 and 1 share, and no other: explained by 0 and 2, and 1 and 2, less all and 2.
        shared = others[1] + others[0] - whole - own[2]
        assert found.values[3 + part_names(3).index((0, 1)), place] == pytest.approx(shared.mean(), abs=1e-10)
        assert found.values[3:, place].sum() == pytest.approx(whole.mean(), abs=1e-10)
        assert found.ceiling[place] == pytest.approx(literal_ceiling(subjects[:, place], folds, comparison), abs=1e-10)


def test_a_single_subject_is_predicted_from_its_own_other_images(world):
    models, subjects = world
    basis, folds = orthonormal_basis(list(compared(models, "whitened"))), condition_folds(23, 4, 0)
    found = CrossValidation(basis, own_r2(basis), "whitened", folds)(subjects[:1])
    expected = [literal_r2(model, subjects[:1, 0], folds, "whitened")[0] for model in models]
    np.testing.assert_allclose(found.values[:, 0], expected, atol=1e-10)
    assert np.isnan(found.se).all() and np.isnan(found.ceiling).all()


def test_collinear_predictors_predict_as_one(world):
    models, subjects = world
    twice = np.concatenate([models[:1], models[:1] * 2 + 1], axis=1)
    alone, doubled = (orthonormal_basis(list(compared(sets, "plain"))) for sets in (models[:1], twice))
    folds = condition_folds(23, 5, 0)
    one, two = (CrossValidation(b, own_r2(b), "plain", folds)(subjects).values for b in (alone, doubled))
    np.testing.assert_allclose(one, two, atol=1e-10)


def test_does_not_depend_on_blocks(world, monkeypatch):
    models, subjects = world
    basis = orthonormal_basis(list(compared(models, "whitened")))
    validation = CrossValidation(basis, own_r2(basis), "whitened", condition_folds(23, 5, 0))
    whole = validation(subjects)
    monkeypatch.setattr("utils.stats.cross_validation._BLOCK_BYTES", 1)
    again = validation(subjects)
    for name, values in vars(whole).items():
        np.testing.assert_allclose(getattr(again, name), values, atol=1e-12)


def test_folds_are_balanced_and_seeded():
    folds = condition_folds(23, 5, 7)
    assert sorted(np.bincount(folds)) == [4, 4, 5, 5, 5]
    assert np.array_equal(folds, condition_folds(23, 5, 7))
    assert not np.array_equal(folds, condition_folds(23, 5, 8))


def test_too_small_folds_are_refused(world):
    basis = orthonormal_basis(list(world[0]))
    with pytest.raises(ValueError, match="folds of 3 to 4 of 23 conditions: expected 4 or more"):
        CrossValidation(basis, own_r2(basis), "plain", condition_folds(23, 6, 0))


def test_unrelated_layers_do_not_buy_rank_and_a_real_effect_is_found(rng):
    """Of unrelated networks, one with eight layers does not predict better than one with two; a related one does."""
    wins, found, n_runs = 0, [], 120
    for _ in range(n_runs):
        layers = gain_rdms(rng, 10, 30, spread=0.35)
        common = gain_rdms(rng, 1, 30, spread=0.35)
        subjects = (common + gain_rdms(rng, 6, 30, spread=0.35))[:, None]
        basis = orthonormal_basis([compared(layers[:2], "whitened"), compared(layers[2:], "whitened")])
        few, many = CrossValidation(basis, own_r2(basis), "whitened", condition_folds(30, 5, 0))(subjects).values[:, 0]
        wins += many > few
        related = orthonormal_basis([compared(np.vstack([common, layers[:1]]), "whitened")])
        own = CrossValidation(related, own_r2(related), "whitened", condition_folds(30, 5, 0))(subjects)
        found.append(own.values[0, 0])
        assert own.values[0, 0] > max(few, many)
    # Half of the runs by chance, and 4 standard errors of that.
    assert wins / n_runs < 0.5 + 4 * np.sqrt(0.25 / n_runs)
    assert np.mean(found) > 0.2


def test_weights_of_the_statistic_apply(world):
    models, subjects = world
    basis, folds = orthonormal_basis(list(compared(models, "plain"))), condition_folds(23, 5, 0)
    one = CrossValidation(basis, own_r2(basis), "plain", folds)(subjects).values
    difference = linear_statistic(basis, [[((0,), 1.0), ((1,), -1.0)]])
    both = CrossValidation(basis, difference, "plain", folds)(subjects).values
    np.testing.assert_allclose(both[0], one[0] - one[1], atol=1e-12)
