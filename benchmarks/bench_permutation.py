"""The permutation test against the machine's limit and against the published procedure, all within one run.

  python benchmarks/bench_permutation.py [--searchlights 1000 10000 30000] [--permutations 500] [--repeats 3]

Prints one row per number of searchlights and kind of test: time per permutation, GFLOP/s of the product that the test
cannot do without, its share of the float32 product peak measured right before and after, and how many times as long the
published procedure takes. Random data: speed does not depend on the values.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from utils.inference import all_pairs
from utils.permutation import permutation_test
from utils.products import products
from utils.regression import Basis, LinearStatistic, orthonormal_basis, own_adjusted_r2, unique_adjusted_r2

N_PAIRS, N_MODELS, N_LAYERS = 1225, 19, 2


def product_peak(seconds: float = 1.0) -> float:
    """Best float32 rate, in GFLOP/s, of one large matrix product on all threads, by whichever library is fastest."""
    a, b = torch.randn(4096, 2048), torch.randn(4096, 2048)
    best = 0.0
    for product in products():
        until = time.perf_counter() + seconds / 2
        while time.perf_counter() < until:
            started = time.perf_counter()
            product(a, b)
            best = max(best, 2 * a.numel() * len(b) / (time.perf_counter() - started))
    return best / 1e9


def published_seconds(models: np.ndarray, brain: np.ndarray) -> float:
    """Seconds per permutation of the published procedure, taken literally.

    Entries of all brain RDMs are permuted; then every network is fitted to every searchlight by float32 normal
    equations in batches, and R2 is the ratio of the sums of squares.
    """
    responses = torch.from_numpy(brain.astype(np.float32))
    designs = [torch.from_numpy(np.vstack([np.ones(N_PAIRS), *m]).T.astype(np.float32)) for m in models]
    started = time.perf_counter()
    permuted = responses[:, torch.randperm(N_PAIRS)]
    for design in designs:
        x = design.expand(len(permuted), -1, -1)
        y = permuted[:, :, None]
        transposed = x.transpose(1, 2)
        weights = torch.linalg.solve(torch.bmm(transposed, x), torch.bmm(transposed, y))
        fitted = torch.bmm(x, weights)
        mean = y.mean(dim=1, keepdim=True)
        r2 = ((fitted - mean) ** 2).sum(dim=1) / ((y - mean) ** 2).sum(dim=1)
        _ = 1 - (1 - r2) * (N_PAIRS - 1) / (N_PAIRS - 3)
    return time.perf_counter() - started


def measure(name: str, models: np.ndarray, brain: np.ndarray, n_permutations: int, repeats: int) -> list[str]:
    """A row of the table."""
    basis = orthonormal_basis(list(models))
    pairs = all_pairs(len(models)) if name == "groups" else []
    statistic: LinearStatistic = own_adjusted_r2(basis) if name == "networks" else unique_adjusted_r2(basis)
    flop = 2 * basis.q.shape[1] * N_PAIRS * len(brain)
    permutation_test(basis, statistic, brain[:300], 5, pairs=pairs)  # compiles
    rates, shares = [], []
    for _ in range(repeats):
        before = product_peak()
        stamps = _stamps(basis, statistic, brain, n_permutations, pairs)
        # From the end of the first block to the end of the last: what is done once is no cost per permutation.
        done = n_permutations - _first_block(n_permutations, len(stamps))
        seconds = (stamps[-1] - stamps[0]) / done
        rates.append(seconds)
        shares.append(flop / seconds / 1e9 / max(before, product_peak()))
    seconds = statistics.median(rates)
    row = [
        f"{len(brain):,}",
        name,
        f"{1000 * seconds:.2f}",
        f"{flop / seconds / 1e9:.0f}",
        f"{statistics.median(shares):.0%}",
    ]
    if name == "networks":
        literal = statistics.median(published_seconds(models, brain) for _ in range(repeats))
        row += [f"{literal:.2f}", f"{literal / seconds:.0f}"]
    return [*row, *[""] * (7 - len(row))]


def _stamps(
    basis: Basis, statistic: LinearStatistic, brain: np.ndarray, n_permutations: int, pairs: list[tuple[int, int]]
) -> list[float]:
    """When each block of permutations was done."""
    stamps: list[float] = []

    def note(done: int, total: int) -> None:
        stamps.append(time.perf_counter())

    permutation_test(basis, statistic, brain, n_permutations, pairs=pairs, progress=note)
    return stamps


def _first_block(n_permutations: int, n_blocks: int) -> int:
    """Permutations of the first block; all blocks but the last are equal."""
    size = -(-n_permutations // n_blocks)
    while -(-n_permutations // size) < n_blocks:
        size -= 1
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searchlights", type=int, nargs="+", default=[1000, 10_000, 30_000])
    parser.add_argument("--permutations", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    models = rng.standard_normal((N_MODELS, N_LAYERS, N_PAIRS))
    groups = models[:3]
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{time.strftime('%Y-%m-%d')}, {machine}")
    print("searchlights | test | ms per permutation | GFLOP/s | share of peak | published, s | ratio")
    for n in options.searchlights:
        brain = rng.standard_normal((n, N_PAIRS))
        for name, predictors in (("networks", models), ("groups", groups)):
            print(" | ".join(measure(name, predictors, brain, options.permutations, options.repeats)), flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
