"""Shared fixtures of the tests."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import N_CONDITIONS, gain_rdms
from samples import DATA, REAL, write_fifteen_subjects, write_published_sample, write_runs


def kinds(name: str) -> list[str]:
    """Tests run on simulated data everywhere, and on real data too where these are beside the repository."""
    return ["simulated", "real"] if (REAL / name).exists() else ["simulated"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they are given: a page in a browser, the example, results of all scripts, Dask workers."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "browser" in fixtures:
            item.add_marker(pytest.mark.browser)
        if fixtures & {"example", "finished", "two"}:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20210817)


@pytest.fixture(scope="session")
def published_sample(tmp_path_factory) -> Path:
    """A small data set in the layout of the published release; see tests/data/README.md. Not to be changed."""
    return write_published_sample(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="session")
def published_outputs() -> dict[str, np.ndarray]:
    """What the published code computes from that sample."""
    with np.load(DATA / "published_outputs.npz") as file:
        return dict(file)


@pytest.fixture(scope="session")
def paper_reference() -> dict:
    """The numbers in the figures of the paper, and its tasks."""
    return json.loads((DATA / "paper_reference.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session", params=kinds("haxby25mm"))
def runs(request, tmp_path_factory) -> Path:
    """Beta maps of twelve runs: simulated ones and, where at hand, those of Haxby et al. (2001)."""
    return REAL / "haxby25mm" if request.param == "real" else write_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session", params=kinds("algonauts78"))
def fifteen_subjects(request, tmp_path_factory) -> Path:
    """RDMs of fifteen subjects for 78 images: simulated and, where at hand, of the Algonauts challenge 2019."""
    if request.param == "real":
        return REAL / "algonauts78"
    return write_fifteen_subjects(tmp_path_factory.mktemp("subjects"))


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
