"""The permutation test against the machine's limit, the published procedure and other packages, all within one run.

  python benchmarks/bench_permutation.py                          everything, about eight minutes on two cores
  python benchmarks/bench_permutation.py --only test growth       some of its parts

- test: time per permutation, GFLOP/s of the product that the test cannot do without, its share of the float32 product
  peak measured right before and after, peak memory, and how many times as long the published procedure takes.
- complete: 10,000 searchlights, 19 networks and 10,000 permutations from the call to the p values; on a GPU, too, if
  there is one.
- growth: how time grows with each of searchlights, conditions, networks and permutations.
- packages: R2 of 19 networks at every searchlight, once, by other packages, which is what one permutation costs there.
- errors: the delete-one jackknife over images and people of every difference from the winner, which leads rest on.
- workers: the same test shared out to Dask workers on this machine.
- nsd: what these rates would mean for the Natural Scenes Dataset. An estimate, and nothing else here is one.

Every row is measured in a process of its own, whose largest resident set is the memory. Random data: speed does not
depend on the values.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from utils.analysis.significance import winner_contrasts
from utils.parallel.resources import Progress, Resources
from utils.rdm import n_pairs_of
from utils.stats.jackknife import Jackknife
from utils.stats.matmul import available_matmuls
from utils.stats.permutation import Permutations, conditional_test, permutation_test
from utils.stats.regression import (
    Basis,
    orthonormal_basis,
    own_adjusted_r2,
    own_r2,
    project,
    unique_and_total,
)

N_CONDITIONS, N_MODELS, N_GROUPS, N_LAYERS = 50, 19, 3, 2


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call in a new process, so that its memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def product_peak(seconds: float = 1.0, device: str = "cpu") -> float:
    """Best float32 rate, in GFLOP/s, of one large matrix product, by whichever library is fastest."""
    size = (4096, 2048) if device == "cpu" else (16384, 16384)
    a, b = torch.randn(size, device=device), torch.randn(size, device=device)
    ways = available_matmuls() if device == "cpu" else [lambda a, b: a @ b.T]
    best = 0.0
    for product in ways:
        until = time.perf_counter() + seconds / len(ways)
        while time.perf_counter() < until:
            started = time.perf_counter()
            product(a, b)
            if device != "cpu":
                torch.cuda.synchronize()
            best = max(best, 2 * a.numel() * len(b) / (time.perf_counter() - started))
    return best / 1e9


def random_study(n_places: int, n_conditions: int = N_CONDITIONS, n_models: int = N_MODELS) -> tuple[Basis, np.ndarray]:
    rng = np.random.default_rng(0)
    n_pairs = n_pairs_of(n_conditions)
    basis = orthonormal_basis(list(rng.standard_normal((n_models, N_LAYERS, n_pairs))))
    return basis, rng.standard_normal((n_places, n_pairs))


def run_test(kind: str, basis: Basis, brain: np.ndarray, n_permutations: int, progress: Progress) -> None:
    """The test of Fig 1 (networks, each by itself and the best) or of Fig 3a (groups, each beside the others)."""
    if kind == "networks":
        permutation_test(basis, own_r2(basis), brain, Permutations(n_permutations), progress=progress)
    else:
        conditional_test(basis, brain, Permutations(n_permutations), progress=progress)


def flop_per_permutation(basis: Basis, n_places: int, kind: str = "networks") -> float:
    """Of the product; for groups, of the parts of their own and of all predictors."""
    return 2.0 * basis.q.size * n_places * (1 if kind == "networks" else 2)


def seconds_per_permutation(basis: Basis, kind: str, brain: np.ndarray, n_permutations: int) -> float:
    """From the end of the first block of permutations to the end of the last: what is done once is left out."""
    run_test(kind, basis, brain[:300], 5, lambda *_: None)  # compiles
    stamps: list[tuple[float, int]] = []

    def note(done: int, _total: int) -> None:
        stamps.append((time.perf_counter(), done))

    run_test(kind, basis, brain, n_permutations, note)
    (first, before), (last, after) = stamps[0], stamps[-1]
    return (last - first) / (after - before)


def published_seconds(models: np.ndarray, brain: np.ndarray) -> float:
    """Seconds per permutation of the published procedure, taken literally.

    Entries of all brain RDMs are permuted; then every network is fitted to every searchlight by float32 normal
    equations in batches, and R2 is the ratio of the sums of squares.
    """
    n_pairs = brain.shape[1]
    responses = torch.from_numpy(brain.astype(np.float32))
    designs = [torch.from_numpy(np.vstack([np.ones(n_pairs), *m]).T.astype(np.float32)) for m in models]
    started = time.perf_counter()
    permuted = responses[:, torch.randperm(n_pairs)]
    for design in designs:
        x = design.expand(len(permuted), -1, -1)
        y = permuted[:, :, None]
        transposed = x.transpose(1, 2)
        weights = torch.linalg.solve(torch.bmm(transposed, x), torch.bmm(transposed, y))
        fitted = torch.bmm(x, weights)
        mean = y.mean(dim=1, keepdim=True)
        r2 = ((fitted - mean) ** 2).sum(dim=1) / ((y - mean) ** 2).sum(dim=1)
        _ = 1 - (1 - r2) * (n_pairs - 1) / (n_pairs - 3)
    return time.perf_counter() - started


# --------------------------------------------------------------------------------------------------------------- parts


def test_row(kind: str, n_places: int, n_permutations: int, repeats: int) -> list[str]:
    basis, brain = random_study(n_places, n_models=N_MODELS if kind == "networks" else N_GROUPS)
    flop = flop_per_permutation(basis, n_places, kind)
    times, shares = [], []
    for _ in range(repeats):
        before = product_peak()
        times.append(seconds_per_permutation(basis, kind, brain, n_permutations))
        shares.append(flop / times[-1] / 1e9 / max(before, product_peak()))
    seconds, memory = statistics.median(times), gigabytes()
    row = [f"{n_places:,}", kind, f"{1000 * seconds:.2f}", f"{flop / seconds / 1e9:.0f}"]
    row += [f"{statistics.median(shares):.0%}", f"{memory:.2f}"]
    if kind == "networks":
        models = np.random.default_rng(0).standard_normal((N_MODELS, N_LAYERS, brain.shape[1]))
        literal = statistics.median(published_seconds(models, brain) for _ in range(repeats))
        row += [f"{literal:.2f}", f"{literal / seconds:.0f}"]
    return row


def show_test(options: argparse.Namespace) -> None:
    table("searchlights | test | ms per permutation | GFLOP/s | share of peak | GB | published procedure, s | ratio")
    for n in options.searchlights:
        for kind in ("networks", "groups"):
            row(*alone(test_row, kind, n, options.permutations, options.repeats))


def complete_row(device: str, repeats: int) -> list[str]:
    n, resources = 10_000, Resources(device)
    basis, brain = random_study(n)
    statistic = own_adjusted_r2(basis)
    permutation_test(basis, statistic, brain[:300], Permutations(5), resources=resources)
    times, shares = [], []
    for _ in range(repeats):
        before = product_peak(device=device)
        started = time.perf_counter()
        permutation_test(basis, statistic, brain, Permutations(n), resources=resources)
        times.append(time.perf_counter() - started)
        rate = flop_per_permutation(basis, n) * n / times[-1] / 1e9
        shares.append(rate / max(before, product_peak(device=device)))
    seconds = statistics.median(times)
    rate = flop_per_permutation(basis, n) * n / seconds / 1e9
    name = "CPU" if device == "cpu" else torch.cuda.get_device_name()
    return [name, f"{seconds:.1f}", f"{rate:.0f}", f"{statistics.median(shares):.0%}", f"{gigabytes():.2f}"]


def show_complete(options: argparse.Namespace) -> None:
    table("10,000 x 10,000 on | s from call to p values | GFLOP/s | share of its float32 peak | GB of the host")
    row(*alone(complete_row, "cpu", options.repeats))
    if torch.cuda.is_available():
        row(*alone(complete_row, "cuda", options.repeats))
    else:
        print("  (no GPU on this machine: not measured)")


def growth_seconds(n_places: int, n_conditions: int, n_models: int, n_permutations: int) -> tuple[float, float]:
    """Seconds of the whole test, and gigabytes."""
    basis, brain = random_study(n_places, n_conditions, n_models)
    statistic = own_adjusted_r2(basis)
    permutation_test(basis, statistic, brain[:300], Permutations(5))
    started = time.perf_counter()
    permutation_test(basis, statistic, brain, Permutations(n_permutations))
    return time.perf_counter() - started, gigabytes()


def show_growth(options: argparse.Namespace) -> None:
    base = {"searchlights": 4000, "conditions": 50, "networks": 19, "permutations": 1000}
    steps = {
        "searchlights": (4000, 8000, 16_000, 32_000),
        "conditions": (50, 71, 100, 141),
        "networks": (10, 20, 40, 80),
        "permutations": (1000, 2000, 4000, 8000),
    }
    table("what grows | from, to | s | GB | time grows with the power")
    for name, values in steps.items():
        found = [
            [alone(growth_seconds, *{**base, name: value}.values()) for _ in range(options.repeats)] for value in values
        ]
        seconds = [statistics.median(s for s, _ in runs) for runs in found]
        memory = [max(gb for _, gb in runs) for runs in found]
        # Conditions count through their pairs, which is what the product is over.
        sizes = [n_pairs_of(v) if name == "conditions" else v for v in values]
        power = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
        row(
            "pairs of conditions" if name == "conditions" else name,
            ", ".join(f"{size:,}" for size in sizes),
            ", ".join(f"{s:.2f}" for s in seconds),
            ", ".join(f"{gb:.2f}" for gb in memory),
            f"{power:.2f}",
        )


def by_mne_rsa(models: np.ndarray, brain: np.ndarray) -> np.ndarray:
    import mne_rsa

    centred = brain - brain.mean(axis=1, keepdims=True)
    found = []
    for layers in models:
        weights = np.asarray(mne_rsa.rsa(list(brain), list(layers), metric="regression"))
        fitted = weights @ (layers - layers.mean(axis=1, keepdims=True))
        found.append(np.square(fitted).sum(axis=1) / np.square(centred).sum(axis=1))
    return np.array(found)


def by_rsatoolbox(models: np.ndarray, brain: np.ndarray) -> np.ndarray:
    from rsatoolbox.model import ModelWeighted
    from rsatoolbox.model.fitter import fit_regress
    from rsatoolbox.rdm import RDMs, compare

    weighted = [ModelWeighted(str(i), RDMs(layers)) for i, layers in enumerate(models)]
    found = np.empty((len(models), len(brain)))
    for place, rdm in enumerate(brain):
        data = RDMs(rdm[None])
        for i, model in enumerate(weighted):
            fitted = model.predict_rdm(fit_regress(model, data, method="corr"))
            found[i, place] = compare(fitted, data, method="corr")[0, 0] ** 2
    return found


def show_packages(options: argparse.Namespace) -> None:
    n, some = 10_000, 100
    rng = np.random.default_rng(0)
    models, brain = rng.random((N_MODELS, N_LAYERS, n_pairs_of(N_CONDITIONS))), rng.random((some, 1225))
    basis = orthonormal_basis(list(models))
    ours = own_r2(basis)(project(basis, brain))
    own = statistics.median(alone(seconds_of_networks, n, options.permutations) for _ in range(options.repeats))
    table(f"19 networks at {n:,} searchlights once | s | ratio to one permutation here | largest difference of an R2")
    row("here, one permutation", f"{own:.4f}", "1", "")
    for name, package in (("mne-rsa", by_mne_rsa), ("rsatoolbox", by_rsatoolbox)):
        try:
            times = []
            for _ in range(options.repeats):
                started = time.perf_counter()
                theirs = package(models, brain)
                times.append(time.perf_counter() - started)
        except ImportError:
            print(f"  ({name} is not installed)")
            continue
        seconds = statistics.median(times) * n / some
        difference = np.abs(theirs - ours).max()
        row(f"{name} {metadata.version(name)}", f"{seconds:.1f}", f"{seconds / own:,.0f}", f"{difference:.0e}")
    print(f"  (other packages: on {some} searchlights, one process, time multiplied by {n // some})")


def seconds_of_networks(n_places: int, n_permutations: int) -> float:
    basis, brain = random_study(n_places)
    return seconds_per_permutation(basis, "networks", brain, n_permutations)


def errors_row(kind: str, n_places: int, n_people: int, repeats: int) -> list[str]:
    """Time of the jackknife, subjects' RDMs in memory; for groups, the total is among the statistics, as in Fig 3a."""
    n_models = N_MODELS if kind == "networks" else N_GROUPS
    basis, _ = random_study(1, n_models=n_models)
    rng = np.random.default_rng(0)
    statistic = own_adjusted_r2(basis) if kind == "networks" else unique_and_total(basis)
    n = len(statistic.subset_weights)
    times, block = [], 500
    for _ in range(repeats):
        spent = 0.0
        sampler = Jackknife(basis, statistic, "whitened")
        for start in range(0, n_places, block):
            people = rng.standard_normal((n_people, min(block, n_places - start), basis.n_pairs))
            mean = people.mean(axis=0)
            contrasts = winner_contrasts(rng.integers(n_models, size=len(mean)), n_models, n - n_models)
            if start == 0:
                sampler(mean[:2], people[:, :2], contrasts[:2])  # compiles
            started = time.perf_counter()
            sampler(mean, people, contrasts)
            spent += time.perf_counter() - started
        times.append(spent)
    return [f"{n_places:,}", kind, f"{n_people}", f"{statistics.median(times):.2f}", f"{gigabytes():.2f}"]


def show_errors(options: argparse.Namespace) -> None:
    table("searchlights | differences from the winner | people | s | GB")
    for kind in ("networks", "groups"):
        for n_people in (1, 16):
            row(*alone(errors_row, kind, 10_000, n_people, options.repeats))


def workers_seconds(address: str | None, n_permutations: int) -> float:
    from contextlib import nullcontext

    from utils.parallel.dask_workers import connect

    basis, brain = random_study(10_000)
    statistic = own_adjusted_r2(basis)
    with connect(address) if address else nullcontext() as workers:
        resources = Resources(workers=workers)
        permutation_test(basis, statistic, brain[:300], Permutations(200), resources=resources)
        started = time.perf_counter()
        permutation_test(basis, statistic, brain, Permutations(n_permutations), resources=resources)
        return time.perf_counter() - started


def show_workers(options: argparse.Namespace) -> None:
    table("10,000 searchlights, 19 networks, 5,000 permutations | s | ratio")
    times = {
        address: statistics.median(alone(workers_seconds, address, 5000) for _ in range(options.repeats))
        for address in (None, "local:1", "local:2")
    }
    for address, seconds in times.items():
        row(f"--dask {address}" if address else "this process", f"{seconds:.1f}", f"{seconds / times[None]:.2f}")


def show_nsd(options: argparse.Namespace) -> None:
    """Arithmetic from the rate measured here."""
    n_people, n_conditions, n_places, n_permutations = 8, 515, 220_000, 10_000
    n_pairs, rank = n_pairs_of(n_conditions), N_MODELS * N_LAYERS
    flop = 2.0 * rank * n_pairs * n_places * n_permutations
    basis, _ = random_study(1)
    seconds = alone(seconds_of_networks, 10_000, options.permutations)
    rate = flop_per_permutation(basis, 10_000) / seconds
    cores = torch.get_num_threads()
    table(f"{n_people} people, {n_conditions} images, {n_places:,} voxels, {N_MODELS} networks: an ESTIMATE | value")
    row("RDMs of one person, float32", f"{4e-9 * n_pairs * n_places:,.0f} GB")
    row(f"RDMs of {n_people} people, read once at 1 GB/s", f"{4e-9 * n_pairs * n_places * n_people / 60:.0f} min")
    row("product of the permutation test", f"{flop / 1e15:.0f} PFLOP")
    row(f"these {cores} cores at {rate / 1e9:.0f} GFLOP/s", f"{flop / rate / 3600:.0f} h")
    row("one GPU at 30 TFLOP/s (60 % of 50)", f"{flop / 30e12 / 60:.0f} min")
    nodes, per_node = 16, 64
    clustered = rate / cores * nodes * per_node * 0.7
    row(f"cluster of {nodes} nodes of {per_node} such cores, 70 % of their sum", f"{flop / clustered / 60:.0f} min")
    row("memory of the host: mean RDMs in float64, and a standardised copy", f"{16e-9 * n_pairs * n_places:,.0f} GB")


def table(heading: str) -> None:
    print(f"\n{heading}", flush=True)


def row(*cells: str) -> None:
    print(" | ".join(cells), flush=True)


PARTS = {
    "test": show_test,
    "complete": show_complete,
    "growth": show_growth,
    "packages": show_packages,
    "errors": show_errors,
    "workers": show_workers,
    "nsd": show_nsd,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(PARTS), nargs="+", default=list(PARTS))
    parser.add_argument("--searchlights", type=int, nargs="+", default=[1000, 10_000, 30_000])
    parser.add_argument("--permutations", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    print(f"{time.strftime('%Y-%m-%d')}, {machine}, float32 product peak {product_peak():.0f} GFLOP/s")
    for part in options.only:
        PARTS[part](options)


if __name__ == "__main__":
    main()
