"""Shared fixtures of the tests."""

from pathlib import Path

import numpy as np
import pytest
from helpers import N_CONDITIONS, gain_rdms, shared


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20210817)


@pytest.fixture(scope="session")
def published_sample() -> Path:
    return shared("reference/published_layout_sample")


@pytest.fixture(scope="session")
def published_outputs() -> dict[str, np.ndarray]:
    with np.load(shared("reference/published_code_outputs.npz")) as file:
        return dict(file)


@pytest.fixture(scope="session")
def algonauts() -> Path:
    return shared("real/algonauts78")


@pytest.fixture(scope="session")
def example(tmp_path_factory) -> Path:
    """The simulated example, built anew."""
    from utils.datasets.simulated import N_SUBJECTS, ensure_example

    steps = []
    folder = tmp_path_factory.mktemp("simulated") / "example"
    made = ensure_example(folder, lambda done, total: steps.append((done, total)))
    assert steps == [(done, N_SUBJECTS + 2) for done in range(N_SUBJECTS + 3)]
    return made


@pytest.fixture
def data(rng):
    """Four models of two layers, and five places of which some follow a model."""
    models = gain_rdms(rng, 8, N_CONDITIONS).reshape(4, 2, -1)
    places = gain_rdms(rng, 5, N_CONDITIONS)
    places[0] += 0.8 * models[1, 0]
    places[1] += 0.5 * models[2, 1]
    return models, places
