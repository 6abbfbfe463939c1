import numpy as np
import pytest
from scipy.stats import false_discovery_control

from utils.analysis.settings import Settings
from utils.analysis.significance import (
    difference_p_values,
    lead_of,
    lead_p_values,
    warn_of_negative_weights,
    weights_sign,
)
from utils.stats.inference import sign_flip_p
from utils.stats.jackknife import Components


def test_a_winner_that_explains_less_than_another_does_not_lead():
    """As where a cross-validated value chose it: a large difference in the other direction is no lead."""
    estimates, nothing = np.array([[0.0, 0.0], [0.3, -0.3]]), np.zeros((2, 2))
    components, settings = Components(np.full((2, 2), 0.01), nothing, nothing, 40, 1), Settings()
    two_sided = difference_p_values(estimates, components, settings)
    assert two_sided[1, 0] == two_sided[1, 1] < 0.01
    p = lead_p_values(estimates, components, settings)
    assert p[1, 0] == two_sided[1, 0] and p[1, 1] == 1
    lead = lead_of(p, np.zeros((2, 2, 40)), np.array([0, 0]), ["2D", "3D"], settings)
    assert lead.p_lead[0] < 0.01 and lead.p_lead[1] == 1
    assert lead.candidates[:, 1].all()


def test_a_group_may_lead_where_none_of_its_networks_does():
    p = np.array([[1.0, 0.001, 1.0], [0.6, 0.0001, 0.6], [0.0001, 0.0005, 0.3], [0.002, 1.0, 0.001]])
    lead = lead_of(p, np.zeros((4, 3, 40)), np.array([0, 3, 0]), ["2D", "2D", "3D", "3D"], Settings())
    np.testing.assert_allclose(lead.p_lead, [0.6, 0.001, 0.6])
    np.testing.assert_allclose(lead.q_group_lead, false_discovery_control([0.002, 0.001, 0.3]))
    # The closest one is named even where it is told apart.
    assert lead.candidates.T.astype(int).tolist() == [[1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 1, 0]]


def test_family_wise_leads_of_groups_are_the_largest_corrected_differences(rng):
    influence = rng.standard_normal((3, 2, 30))
    p, winner = np.array([[1.0, 1e-6], [0.5, 1e-9], [1e-9, 1.0]]), np.array([0, 2])
    settings = Settings(correction="max", n_permutations=300)
    lead = lead_of(p, influence, winner, ["2D", "2D", "3D"], settings)
    corrected = sign_flip_p(p, influence, 300, settings.seed)
    np.testing.assert_array_equal(lead.q_lead, [corrected[1, 0], max(corrected[:2, 1])])
    np.testing.assert_array_equal(lead.q_group_lead, [corrected[2, 0], max(corrected[:2, 1])])


def test_signs_and_the_warning_count_winners():
    sign = weights_sign(np.array([0.0, 0.4, 1.0, 1.0 - 1e-12, np.nan]))
    assert list(sign) == ["+", "mixed", "-", "-", ""]
    coloured = np.array([True, True, True, False, False])
    with pytest.warns(UserWarning, match="^1 of 3 places: .*correlate negatively.*in 1 more.*are negative; stop$"):
        warn_of_negative_weights(sign, coloured, "places", "; stop")


@pytest.mark.filterwarnings("error")
def test_no_warning_without_opposites():
    warn_of_negative_weights(np.array(["+", "mixed", "-"]), np.array([True, True, False]), "places")
