import numpy as np
import pytest

from utils.analysis.settings import Settings
from utils.analysis.significance import (
    difference_p_values,
    lead_of,
    lead_p_values,
    warn_of_negative_weights,
    weights_sign,
)
from utils.stats.jackknife import Components


def test_a_winner_that_explains_less_than_another_does_not_lead():
    """As where a cross-validated value chose it: a large difference in the other direction is no lead."""
    estimates, nothing = np.array([[0.0, 0.0], [0.3, -0.3]]), np.zeros((2, 2))
    components, settings = Components(np.full((2, 2), 0.01), nothing, nothing, 40, 1), Settings()
    two_sided = difference_p_values(estimates, components, settings)
    assert two_sided[1, 0] == two_sided[1, 1] < 0.01
    p = lead_p_values(estimates, components, settings)
    assert p[1, 0] == two_sided[1, 0] and p[1, 1] == 1
    lead = lead_of(p, np.zeros((2, 2, 40)), np.array([0, 0]), settings)
    assert lead.p_lead[0] < 0.01 and lead.p_lead[1] == 1
    assert lead.candidates[:, 1].all()


def test_signs_and_the_warning_count_winners():
    sign = weights_sign(np.array([0.0, 0.4, 1.0, 1.0 - 1e-12, np.nan]))
    assert list(sign) == ["+", "mixed", "-", "-", ""]
    coloured = np.array([True, True, True, False, False])
    with pytest.warns(UserWarning, match="^1 of 3 places: .*correlate negatively.*in 1 more.*are negative; stop$"):
        warn_of_negative_weights(sign, coloured, "places", "; stop")


@pytest.mark.filterwarnings("error")
def test_no_warning_without_opposites():
    warn_of_negative_weights(np.array(["+", "mixed", "-"]), np.array([True, True, False]), "places")
