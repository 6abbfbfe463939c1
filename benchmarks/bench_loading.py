"""Loading released searchlight RDMs against plain reading of the file, and the four scripts from start to end.

  python benchmarks/bench_loading.py [--gigabytes 1] [--folder /tmp] [--repeats 3]

- A file in the shape of the release, (16 subjects, searchlights, 50, 50) in float64, is written to a temporary folder
  and read in turn: plainly, into one small buffer; with its noise ceilings stored beside it, as the release has them;
  and with noise ceilings to be computed, which happens once. "cold" is after the system was asked to forget the file
  (Linux), so that it comes from the disk; "warm" comes from memory. The best of the repeats.
- The scripts run on the built-in example, each in a process of its own with default settings; medians. Their memory is
  the largest resident set. Fig 1 runs on 10,000 random searchlights of 16 people, too, all of which are tested: what it
  takes beyond the permutation test (bench_permutation.py, "complete") is everything else, pages included.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from utils.datasets.layout import Sources
from utils.datasets.searchlights import load_searchlights
from utils.datasets.simulated import ensure_example
from utils.rdms.searchlights import Geometry

HOME = Path(__file__).resolve().parent.parent
N_SUBJECTS, N_CONDITIONS = 16, 50
SCRIPTS = (
    "Fig1_individualdnns_searchlight.py",
    "Fig2_individualdnns_top3_ROIs.py",
    "Fig3a_groupeddnns_searchlight.py",
    "Fig3b_groupeddnns_ROIs.py",
)


def write_release(folder: Path, gigabytes: float) -> tuple[Path, int]:
    """Write RDMs and their geometry; returns the file of RDMs and how many searchlights it holds."""
    n = round(gigabytes * 1e9 / (8 * N_SUBJECTS * N_CONDITIONS**2))
    rng, path = np.random.default_rng(0), folder / "all_sub_slrdms.npy"
    header = {"descr": "<f8", "fortran_order": False, "shape": (N_SUBJECTS, n, N_CONDITIONS, N_CONDITIONS)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(N_SUBJECTS):
            for start in range(0, n, 500):
                half = rng.random((min(500, n - start), N_CONDITIONS, N_CONDITIONS))
                (half + half.transpose(0, 2, 1)).tofile(file)
        os.fsync(file.fileno())
    Geometry((n, 2, 2), np.eye(4), 4 * np.arange(n + 1), np.arange(4 * n)).save(folder / "geometry.npz")
    return path, n


def read_plainly(path: Path) -> None:
    buffer = bytearray(2**20)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def forget(path: Path) -> None:
    """Ask the system to drop the file from its memory."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def show_loading(options: argparse.Namespace, folder: Path) -> None:
    path, n = write_release(folder, options.gigabytes)
    sources = Sources(folder, folder, None, None, None, (), None, None, published=True, simulated=True)
    kept = folder / "noise_ceiling.npz"

    def load() -> None:
        load_searchlights(sources, N_CONDITIONS)

    def load_and_compute() -> None:
        kept.unlink(missing_ok=True)
        load()

    ways = {
        "plain reading": lambda: read_plainly(path),
        "noise ceilings stored": load,
        "noise ceilings computed": load_and_compute,
    }
    load_and_compute()  # compiles
    warm = {name: min(seconds(way) for _ in range(options.repeats)) for name, way in ways.items()}
    cold: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats if hasattr(os, "posix_fadvise") else 0):
        for name, way in ways.items():
            forget(path)
            cold[name].append(seconds(way))
    print(f"{path.stat().st_size / 1e9:.1f} GB, {n:,} searchlights | warm, s | ratio | cold, s | ratio")
    for name in ways:
        cells = [f"{warm[name]:.2f}", f"{warm[name] / warm['plain reading']:.1f}"]
        if cold[name]:
            cells += [f"{min(cold[name]):.2f}", f"{min(cold[name]) / min(cold['plain reading']):.1f}"]
        print(" | ".join([name, *cells]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"  (peak memory of this process {peak:.2f} GB)", flush=True)


def write_whole_brain(folder: Path, n: int = 10_000) -> Path:
    """Searchlight RDMs of 16 people in the generic layout; returns their folder."""
    rdms = folder / "searchlight_rdms"
    rdms.mkdir()
    rng = np.random.default_rng(0)
    alike = rng.random((n, N_CONDITIONS * (N_CONDITIONS - 1) // 2), dtype=np.float32)
    for subject in range(1, N_SUBJECTS + 1):
        np.save(rdms / f"sub-{subject:02}.npy", alike + rng.random(alike.shape, dtype=np.float32))
    # Every second voxel of each axis, behind the middle of the brain.
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -81, -117, -72
    voxels = np.ravel_multi_index(np.indices((25, 20, 20)).reshape(3, -1) * 2, (55, 64, 55))[:n]
    Geometry((55, 64, 55), affine, np.arange(n + 1), voxels).save(rdms / "geometry.npz")
    return rdms


def run(script: str, folder: Path, *arguments: str) -> tuple[float, float]:
    """Wall-clock seconds and peak memory, in GB, of a script."""
    command = [sys.executable, str(HOME / script), "--no-open", "--quiet", "--results", str(folder), *arguments]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{script} ended with status {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss / 1e6


def show_scripts(options: argparse.Namespace, folder: Path) -> None:
    ensure_example(HOME / "data" / "example")
    print("\nscript | s | peak memory, GB")
    for script in SCRIPTS:
        times, memory = zip(*(run(script, folder) for _ in range(options.repeats)), strict=True)
        print(f"{script} | {statistics.median(times):.1f} | {statistics.median(memory):.2f}", flush=True)
    models = HOME / "data" / "example" / "dnn_rdms"
    arguments = ["--dnn-rdms", str(models), "--fmri-rdms", str(write_whole_brain(folder))]
    run(SCRIPTS[0], folder, *arguments, "--n-permutations", "10")  # noise ceilings are computed once, and kept
    times, memory = zip(*(run(SCRIPTS[0], folder, *arguments) for _ in range(options.repeats)), strict=True)
    print(
        f"the first, 10,000 searchlights | {statistics.median(times):.1f} | {statistics.median(memory):.2f}", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, help="where the temporary files go (the system's temporary folder)")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, numpy {np.__version__}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        show_loading(options, Path(folder))
        show_scripts(options, Path(folder))


if __name__ == "__main__":
    main()
