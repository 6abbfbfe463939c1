"""ROI figures, standard errors and noise ceilings against the published procedures taken literally, within one run.

  python benchmarks/bench_rois.py [--rois 25] [--searchlights 1000] [--repeats 3]

- Tests and standard errors: 10,000 permutations, and for the published procedure 10,000 subsets of 45 of the 50
  conditions. It fits each of the 7 unions of three sets of predictors to every ROI anew, in every permutation of the
  RDM's entries and every subset, by normal equations; it is timed on some and multiplied. In Fig 2 it permutes for the
  three networks that are best once; here, each is compared with the largest F of all candidates among 19. Standard
  errors are those of the exact jackknife over images and people.
- Noise ceilings: of 16 subjects, per searchlight. "published" is a loop of scipy.stats.spearmanr; rsatoolbox (which
  comes with requirements-dev.txt) has bounds of its own for the same purpose: its means are of ranks.

16 subjects, 50 conditions, two layers per network. Random data: speed does not depend on the values.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from scipy.stats import spearmanr

from models.tasks import Model
from utils.analysis.rois import partition_rois
from utils.analysis.settings import Settings
from utils.datasets.models import ModelRdms
from utils.datasets.rois import RoiRdms
from utils.parallel.resources import Resources
from utils.rdm import condense, expand, n_pairs_of
from utils.stats.noise_ceiling import noise_ceiling
from utils.stats.permutation import Permutations, conditional_test
from utils.stats.regression import orthonormal_basis, own_adjusted_r2, project
from utils.stats.stepwise import stepwise_test

N_SUBJECTS, N_CONDITIONS, N_MODELS, N_LAYERS, N_SETS = 16, 50, 19, 2, 3
N_PAIRS = n_pairs_of(N_CONDITIONS)
N_PERMUTATIONS, N_SUBSETS, N_KEPT = 10_000, 10_000, 45
# How many fits of all unions, and how many searchlights, the published procedures are timed on.
N_FITS, N_CEILINGS, N_CEILINGS_OF_RSATOOLBOX = 300, 30, 5


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def fit_all_unions(sets: Sequence[np.ndarray], response: np.ndarray) -> list[float]:
    """Adjusted R2 of every union of sets of predictors, each by its normal equations."""
    values = []
    for size in range(1, len(sets) + 1):
        for union in combinations(sets, size):
            x = np.column_stack([np.ones(len(response)), *(predictor for members in union for predictor in members)])
            fitted = x @ np.linalg.solve(x.T @ x, x.T @ response)
            r2 = np.square(fitted - fitted.mean()).sum() / np.square(response - response.mean()).sum()
            values.append(1 - (1 - r2) * (len(response) - 1) / (len(response) - x.shape[1]))
    return values


def published_permutations(sets: np.ndarray, response: np.ndarray, rng: np.random.Generator) -> None:
    for _ in range(N_FITS):
        fit_all_unions(sets, rng.permutation(response))


def published_subsets(sets: np.ndarray, response: np.ndarray, rng: np.random.Generator) -> None:
    squares, square = expand(sets), expand(response)
    for _ in range(N_FITS):
        kept = rng.choice(N_CONDITIONS, N_KEPT, replace=False)
        fit_all_unions(condense(squares[:, :, kept][:, :, :, kept]), condense(square[np.ix_(kept, kept)]))


def published_ceiling(rdms: np.ndarray) -> tuple[float, float]:
    mean = rdms.mean(axis=0)
    lower = [spearmanr(rdm, np.delete(rdms, s, axis=0).mean(axis=0))[0] for s, rdm in enumerate(rdms)]
    return float(np.mean(lower)), float(np.mean([spearmanr(rdm, mean)[0] for rdm in rdms]))


def show_regressions(options: argparse.Namespace, rng: np.random.Generator) -> None:
    """Tests and standard errors of the ROI figures."""
    names = [Model(str(i), str(i), str(i), "#000000") for i in range(N_MODELS)]
    models = ModelRdms(names, ["early", "late"], rng.random((N_MODELS, N_LAYERS, N_PAIRS)))
    numbers = list(range(options.rois))
    rois = RoiRdms([str(i) for i in numbers], numbers, [rng.random((N_SUBJECTS, N_PAIRS)) for _ in numbers])
    basis, basis_of_sets = orthonormal_basis(models.rdms), orthonormal_basis(models.rdms[:N_SETS])
    own = np.argsort(-own_adjusted_r2(basis)(project(basis, rois.mean())), axis=0)[:N_SETS]
    shared = np.repeat(np.arange(N_SETS)[:, None], options.rois, axis=1)
    settings = Settings()
    n_rois = f"{options.rois} ROIs"
    sets, response = models.rdms[:N_SETS], rois.mean()[0]

    def errors(own_sets: np.ndarray) -> Callable[[], object]:
        return partial(partition_rois, models, rois, own_sets, settings, Resources())

    def permute() -> None:
        published_permutations(sets, response, rng)

    def refit() -> None:
        published_subsets(sets, response, rng)

    def groups() -> None:
        conditional_test(basis_of_sets, rois.mean(), Permutations(N_PERMUTATIONS))

    def networks() -> None:
        stepwise_test(basis, own, rois.mean(), Permutations(N_PERMUTATIONS))

    jobs = [
        (f"Fig 3b, test of {n_rois}", groups, permute, N_PERMUTATIONS * options.rois),
        (f"Fig 2, test of {n_rois}", networks, permute, N_PERMUTATIONS * options.rois),
        (f"Fig 3b, standard errors of {n_rois}", errors(shared), refit, N_SUBSETS * options.rois),
        (f"Fig 2, standard errors of {n_rois}", errors(own), refit, N_SUBSETS * options.rois),
    ]  # fmt: skip
    print("what | s | published, s | ratio")
    for name, ours, published, n_fits in jobs:
        ours()  # compiles
        times = [(seconds(ours), seconds(published) * n_fits / N_FITS) for _ in range(options.repeats)]
        here, there = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{name} | {here:.2f} | {there:,.0f} | {there / here:,.0f}", flush=True)
    print(f"  (published: {N_FITS} fits of all unions, time multiplied)")


def show_ceilings(options: argparse.Namespace, rng: np.random.Generator) -> None:
    """Noise ceilings per searchlight."""
    subjects = rng.random((N_SUBJECTS, options.searchlights, N_PAIRS))
    noise_ceiling(subjects[:, :1])  # compiles
    n = subjects.shape[1]
    ways: dict[str, Callable[[], float]] = {
        "here": lambda: seconds(lambda: noise_ceiling(subjects)) / n,
        "published": lambda: (
            seconds(lambda: [published_ceiling(subjects[:, i]) for i in range(N_CEILINGS)]) / N_CEILINGS
        ),
    }
    try:
        from rsatoolbox.inference import boot_noise_ceiling
        from rsatoolbox.rdm import RDMs
    except ImportError:
        print("  (rsatoolbox is not installed)")
    else:
        stacks = [RDMs(subjects[:, i]) for i in range(N_CEILINGS_OF_RSATOOLBOX)]
        ways["rsatoolbox"] = lambda: seconds(lambda: [boot_noise_ceiling(s, "spearman") for s in stacks]) / len(stacks)
    np.testing.assert_allclose(np.array(noise_ceiling(subjects[:, :1]))[:, 0], published_ceiling(subjects[:, 0]))
    times = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            times[name].append(way())
    here = statistics.median(times["here"])
    print("\nnoise ceiling by | ms per searchlight | ratio")
    for name, found in times.items():
        print(f"{name} | {1000 * statistics.median(found):.2f} | {statistics.median(found) / here:.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rois", type=int, default=25)
    parser.add_argument("--searchlights", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, numpy {np.__version__}")
    show_regressions(options, rng)
    show_ceilings(options, rng)


if __name__ == "__main__":
    main()
