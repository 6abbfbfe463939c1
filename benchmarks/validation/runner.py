"""Runs the cells and keeps each in a file of its own, so that an interrupted validation goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.validation.claims import N_PERMUTATIONS, routes
from benchmarks.validation.grid import Cell
from utils.datasets.worlds import simulate
from utils.parallel.threads import available_cores

SEED = 20
# Outcomes of a cell by route: values of all runs.
Found = dict[str, dict[str, NDArray[np.float64]]]


def fingerprint(cell: Cell) -> str:
    """Identifies everything that a cell's outcomes depend on, but for the code."""
    text = repr((cell.table, cell.name, cell.world, cell.claim.__name__, cell.routes, cell.runs, N_PERMUTATIONS, SEED))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_cell(cell: Cell, runs: int | None = None) -> Found:
    """Outcomes of a cell; every run has random numbers of its own, which depend on the world but not on the claim.

    Parameters
    ----------
    cell : Cell
    runs : int, optional
        Fewer runs than the cell asks for.

    Returns
    -------
    dict of str to dict of str to ndarray, shape (n_runs,)
        By route and outcome.
    """
    start = int(hashlib.sha256(repr(cell.world).encode()).hexdigest()[:8], 16)
    found: dict[str, list[dict[str, float]]] = {route: [] for route in cell.routes}
    for run in range(cell.runs if runs is None else runs):
        study = simulate(np.random.default_rng([SEED, start, run]), cell.world)
        settings = routes(seed=run)
        for route in cell.routes:
            found[route].append(cell.claim(study, settings[route]))
    return {
        route: {name: np.array([float(outcome[name]) for outcome in outcomes]) for name in outcomes[0]}
        for route, outcomes in found.items()
    }


def _to_file(cell: Cell, path: Path) -> float:
    started = time.monotonic()
    found = run_cell(cell)
    taken = round(time.monotonic() - started, 1)
    content = {
        "table": cell.table,
        "name": cell.name,
        "world": repr(cell.world),
        "seconds": taken,
        "outcomes": {
            route: {name: [float(f"{v:.6g}") for v in values] for name, values in outcomes.items()}
            for route, outcomes in found.items()
        },
    }
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(content))
    partial.replace(path)
    return taken


def file_of(cell: Cell, folder: Path) -> Path:
    """Where a cell's outcomes are kept."""
    words = "".join(c if c.isalnum() else "_" for c in f"{cell.table}-{cell.name}")[:60]
    return folder / f"{words}-{fingerprint(cell)}.json"


def run_all(cells: Sequence[Cell], folder: Path) -> None:
    """Run all cells that are not finished, on all cores.

    Parameters
    ----------
    cells : sequence of Cell
    folder : Path
        One file per finished cell.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [cell for cell in cells if not file_of(cell, folder).exists()]
    print(f"{len(cells) - len(missing)} of {len(cells)} cells are finished in {folder}")
    cores = available_cores()
    # Inherited by the processes, each of which uses one core.
    os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    started = time.monotonic()
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(_to_file, cell, file_of(cell, folder)): cell for cell in missing}
        for done, job in enumerate(as_completed(jobs), start=1):
            cell, minutes = jobs[job], (time.monotonic() - started) / 60
            print(
                f"{done}/{len(missing)} {cell.table}: {cell.name} ({job.result():.0f} s; {minutes:.1f} min)", flush=True
            )


def load(cell: Cell, folder: Path) -> Found:
    """Outcomes of a finished cell."""
    outcomes = json.loads(file_of(cell, folder).read_text())["outcomes"]
    return {route: {name: np.array(values) for name, values in own.items()} for route, own in outcomes.items()}


def seconds(cells: Sequence[Cell], folder: Path) -> float:
    """Processor time of finished cells."""
    return sum(json.loads(file_of(cell, folder).read_text())["seconds"] for cell in cells)
