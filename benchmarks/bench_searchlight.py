"""RDMs of all spheres of a whole brain: time and memory, and other packages on the same spheres, all within one run.

  python benchmarks/bench_searchlight.py [--repeats 3] [--subset 3000] [--n-jobs 2]

One subject, 50 conditions, MNI152 brain mask at 3 mm, spheres of 9 mm (three voxels, up to 123 of them): about 70,000.

- "command" is `python -m utils.searchlight` from start to end in a process of its own: start of Python, reading the
  compressed beta maps, geometry, RDMs, and 342 MB of results written. Its memory is the largest resident set.
- "computation alone" has beta maps in memory and drops the RDMs.
- Other packages get every k-th sphere, so that those at the edge and those inside are in proportion, and their time is
  multiplied by k. The search for neighbours is not in their time; here it is. mne-rsa and BrainIAK get as many
  processes as there are jobs, rsatoolbox has no such option. What they compute is compared with the RDMs here.
- BrainIAK has no RDM of its own: numpy's corrcoef is its kernel. Its mask is that of the centres, since it visits
  every voxel of it; the brain mask goes in as a second volume.

Packages that are not installed are named. rsatoolbox and mne-rsa come with requirements-dev.txt; BrainIAK does not.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from functools import partial
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nibabel as nib
import numpy as np
from threadpoolctl import threadpool_limits

from utils.parallel.threads import available_cores
from utils.rdms.cross_validated import deviations
from utils.rdms.measure import PEARSON, Measure, Responses
from utils.rdms.searchlights import Searchlights, member_rdms, sphere_searchlights

HOME = Path(__file__).resolve().parent.parent
N_CONDITIONS, RADIUS_MM, STRETCH = 50, 9.0, 1700
N_RUNS, N_RESIDUALS = 8, 1000


def write_study(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Write mask, names and beta maps; returns mask, affine and patterns (n_voxels, n_conditions)."""
    from nilearn.datasets import load_mni152_brain_mask

    image = load_mni152_brain_mask(resolution=3)
    mask = np.asarray(image.dataobj) > 0
    patterns = (2 + np.random.default_rng(0).standard_normal((mask.sum(), N_CONDITIONS))).astype(np.float32)
    betas = np.zeros((*mask.shape, N_CONDITIONS), dtype=np.float32)
    betas[mask] = patterns
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), image.affine), folder / "mask.nii.gz")
    nib.save(nib.Nifti1Image(betas, image.affine), folder / "sub-01.nii.gz")
    names = [f"condition {i}" for i in range(N_CONDITIONS)]
    (folder / "conditions.txt").write_text("\n".join(names) + "\n")
    return mask, np.asarray(image.affine), patterns


def seconds_of(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def run_command(folder: Path, n_jobs: int) -> tuple[float, float]:
    """Seconds and largest resident set (MB) of the command line."""
    out = folder / "data"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "utils.searchlight", "--betas", folder / "sub-01.nii.gz"]
    command += ["--mask", folder / "mask.nii.gz", "--conditions", folder / "conditions.txt", "--out", out]
    command += ["--geometry", "spheres", "--radius-mm", RADIUS_MM, "--n-jobs", n_jobs, "-q"]
    started = time.perf_counter()
    with subprocess.Popen([str(word) for word in command], cwd=HOME, stderr=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"the command ended with status {process.returncode}")
    return time.perf_counter() - started, used.ru_maxrss / 1024


def compute_all(
    searchlights: Searchlights, patterns: np.ndarray, n_jobs: int, measure: Measure = PEARSON, noise: Noise = (None, 0)
) -> None:
    lookup = searchlights.lookup(np.ones(len(patterns), dtype=bool))
    present = np.ones(patterns.shape[1:], dtype=bool)
    compute = partial(member_rdms, Responses(patterns, present, *noise))
    parts = [slice(start, start + STRETCH) for start in range(0, len(searchlights), STRETCH)]
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_jobs) as pool:
        for _ in pool.map(lambda part: compute(searchlights.members(lookup, part), measure).shape, parts):
            pass


def write_stream(folder: Path, n_bytes: int) -> float:
    """Seconds to write as much as the results take, and no more: what the disk alone costs now."""
    block = np.ones(8 * 2**20, dtype=np.uint8).data

    def write() -> None:
        with (folder / "stream").open("wb") as file:
            for _ in range(n_bytes // len(block)):
                file.write(block)

    seconds = seconds_of(write)
    (folder / "stream").unlink()
    return seconds


# ---------------------------------------------------------------------------------------------- cross-validated metrics

Noise = tuple[np.ndarray | None, float]


def compare_metrics(whole: Searchlights, patterns: np.ndarray, options: argparse.Namespace) -> None:
    """Time cross-validated RDMs of the same spheres in turns with Pearson RDMs, and rsatoolbox on some of them."""
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((len(patterns), N_RUNS, N_CONDITIONS)).astype(np.float32)
    runs = patterns[:, None] + patterns.std() * noise
    own = partial(compute_all, whole, n_jobs=options.n_jobs)
    residuals = rng.standard_normal((len(patterns), N_RESIDUALS)).astype(np.float32)
    kinds: dict[str, tuple[str, Noise]] = {
        "crossnobis, no noise": ("crossnobis", (None, 0)),
        "crossnobis, noise of runs": ("crossnobis", deviations(runs)),
        f"crossnobis, {N_RESIDUALS} residuals": ("crossnobis", (residuals, N_RESIDUALS - 1)),
        "cross-validated correlation": ("cross-validated-correlation", (None, 0)),
    }
    print(f"cross-validated RDMs of the same spheres, {N_RUNS} runs; ratio to Pearson RDMs of their mean, in turns:")
    for name, (metric, given) in kinds.items():
        times, ratios = [], []
        for _ in range(options.repeats):
            pearson = seconds_of(partial(own, patterns))
            times.append(seconds_of(partial(own, runs, measure=Measure(metric), noise=given)))
            ratios.append(times[-1] / pearson)
        print(f"  {name:28} {spread(times)}, {statistics.median(ratios):.1f} times as long")
    seconds, factor = time_crossnobis_of_rsatoolbox(whole, runs)
    print(f"  rsatoolbox, no noise, on {int(len(whole) / factor)} spheres, multiplied by {factor:.0f}: {seconds:.0f} s")


def time_crossnobis_of_rsatoolbox(whole: Searchlights, runs: np.ndarray, n: int = 100) -> tuple[float, float]:
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm

    step = max(1, len(whole) // n)
    members = whole.members(whole.lookup(np.ones(len(runs), dtype=bool)), slice(None))[::step]
    run, condition = np.indices(runs.shape[1:]).reshape(2, -1)
    started = time.perf_counter()
    for row in members:
        values = runs[row[row >= 0]].reshape(-1, len(run)).T.astype(np.float64)
        data = Dataset(values, obs_descriptors={"run": run, "condition": condition})
        calc_rdm(data, method="crossnobis", descriptor="condition", cv_descriptor="run")
    factor = len(whole) / len(members)
    return factor * (time.perf_counter() - started), factor


# ------------------------------------------------------------------------------------------------------ other packages


class Subset:
    """Every k-th sphere, in the forms that other packages take."""

    def __init__(self, mask: np.ndarray, affine: np.ndarray, patterns: np.ndarray, whole: Searchlights, n: int) -> None:
        self.mask, self.affine, self.patterns = mask, affine, patterns
        self.step = max(1, len(whole) // n)
        self.centers = whole.geometry.voxels[:: self.step]
        self.factor = len(whole) / len(self.centers)
        members = whole.members(whole.lookup(np.ones(len(patterns), dtype=bool)), slice(None))[:: self.step]
        self.rows = [row[row >= 0] for row in members]
        self.rdms = member_rdms(Responses(patterns), members)

    def difference(self, rdms: np.ndarray) -> float:
        return float(np.abs(rdms - self.rdms).max())


def time_rsatoolbox(subset: Subset, _n_jobs: int) -> tuple[float, np.ndarray]:
    from rsatoolbox.util.searchlight import get_searchlight_RDMs

    data, events = np.ascontiguousarray(subset.patterns.T), np.arange(N_CONDITIONS)
    started = time.perf_counter()
    rdms = get_searchlight_RDMs(data, subset.centers, subset.rows, events, verbose=False)
    return time.perf_counter() - started, rdms.dissimilarities


def time_mne_rsa(subset: Subset, n_jobs: int) -> tuple[float, np.ndarray]:
    from mne_rsa import rdm_array, searchlight
    from sklearn.neighbors import NearestNeighbors

    data = np.ascontiguousarray(subset.patterns.T)
    position = np.argwhere(subset.mask) @ subset.affine[:3, :3].T
    radius = RADIUS_MM * (1 + 1e-5)
    distances = NearestNeighbors(radius=radius).fit(position).radius_neighbors_graph(mode="distance")
    series = np.searchsorted(np.flatnonzero(subset.mask), subset.centers)
    started = time.perf_counter()
    patches = searchlight(data.shape, dist=distances, spatial_radius=radius, sel_series=series)
    rdms = np.stack(list(rdm_array(data, patches, dist_metric="correlation", n_jobs=n_jobs)))
    return time.perf_counter() - started, rdms


def correlation_kernel(data: list[np.ndarray], ball: np.ndarray, _radius: int, upper: tuple) -> np.ndarray:
    """What a user of BrainIAK would write; the second volume is the brain mask, as the first mask is of the centres."""
    patterns = data[0][ball & data[1][..., 0]]
    return (1 - np.corrcoef(patterns.T))[upper]


def time_brainiak(subset: Subset, n_jobs: int) -> tuple[float, np.ndarray]:
    import brainiak.searchlight.searchlight as brainiak

    betas = np.zeros((*subset.mask.shape, N_CONDITIONS), dtype=np.float32)
    betas[subset.mask] = subset.patterns
    margin = [(3, 3)] * 3  # it leaves out centres whose cube reaches outside the volume
    centers = np.zeros(subset.mask.size, dtype=bool)
    centers[subset.centers] = True
    centers = np.pad(centers.reshape(subset.mask.shape), margin)
    engine = brainiak.Searchlight(sl_rad=3, shape=_WholeBall)
    volumes = [np.pad(betas, [*margin, (0, 0)]), np.pad(subset.mask, margin)[..., None]]
    started = time.perf_counter()
    engine.distribute(volumes, centers)
    engine.broadcast(np.triu_indices(N_CONDITIONS, k=1))
    values = engine.run_searchlight(correlation_kernel, pool_size=n_jobs)
    seconds = time.perf_counter() - started
    return seconds, np.stack(list(values[centers]))


class _WholeBall:
    """BrainIAK multiplies shape and mask; the mask holds centres only, hence a shape that puts the ball back."""

    def __init__(self, radius: int) -> None:
        edge = np.arange(-radius, radius + 1) ** 2
        self.mask_ = _Unmasked(edge[:, None, None] + edge[:, None] + edge <= radius**2)


class _Unmasked(np.ndarray):
    """Boolean array that ignores what it is multiplied with."""

    def __new__(cls, array: np.ndarray) -> _Unmasked:
        return np.asarray(array).view(cls)

    def __rmul__(self, _other: object) -> np.ndarray:
        return self.view(np.ndarray)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: object, **options: object) -> object:
        if ufunc is np.multiply:
            return self.view(np.ndarray)
        plain = [i.view(np.ndarray) if isinstance(i, _Unmasked) else i for i in inputs]
        return getattr(ufunc, method)(*plain, **options)


PACKAGES: dict[str, Callable[[Subset, int], tuple[float, np.ndarray]]] = {
    "rsatoolbox": time_rsatoolbox,
    "mne-rsa": time_mne_rsa,
    "brainiak": time_brainiak,
}


# --------------------------------------------------------------------------------------------------------------- main


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):6.2f} s (median of {len(values)}, {min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--subset", type=int, default=3000, help="spheres that other packages get (3000)")
    parser.add_argument("--n-jobs", type=int, default=available_cores(), help="threads or processes (all cores)")
    options = parser.parse_args()
    print(f"{datetime.date.today()}, {processor()}, {options.n_jobs} of {os.cpu_count()} cores, load before "
          f"{os.getloadavg()[0]:.1f}, Python {platform.python_version()}, numpy {np.__version__}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        mask, affine, patterns = write_study(Path(folder))
        whole = sphere_searchlights(mask, affine, RADIUS_MM, 2)
        print(f"{len(whole):,} spheres of {RADIUS_MM:g} mm, {N_CONDITIONS} conditions")
        runs = [run_command(Path(folder), options.n_jobs) for _ in range(options.repeats)]
        stream = write_stream(Path(folder), 4 * len(whole) * N_CONDITIONS * (N_CONDITIONS - 1) // 2)
    print(f"command, reading and writing included  {spread([seconds for seconds, _ in runs])}, "
          f"{max(memory for _, memory in runs):.0f} MB; as many bytes written, no more: {stream:.2f} s")  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def compute() -> None:
        compute_all(whole, patterns, options.n_jobs)

    own = [seconds_of(compute) for _ in range(options.repeats)]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    print(f"computation alone                      {spread(own)}, {grown:.0f} MB more than before")
    compare_metrics(whole, patterns, options)
    subset = Subset(mask, affine, patterns, whole, options.subset)
    print(f"other packages on {len(subset.centers):,} spheres (every {subset.step}th), time multiplied by "
          f"{subset.factor:.1f}; ratio to the computation alone, in turns with it:")  # fmt: skip
    for name, package in PACKAGES.items():
        compare(name, package, subset, compute, options)


def compare(
    name: str,
    package: Callable[[Subset, int], tuple[float, np.ndarray]],
    subset: Subset,
    own: Callable[[], None],
    options: argparse.Namespace,
) -> None:
    """Time a package on the subset in turns with the computation here, and print how they compare."""
    runs, ours = [], []
    try:
        for _ in range(options.repeats):
            ours.append(seconds_of(own))
            with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing):  # they log there
                runs.append(package(subset, options.n_jobs))
    except (ImportError, RuntimeError) as error:
        print(f"  {name:11} not installed ({error})")
        return
    seconds = [subset.factor * taken for taken, _ in runs]
    ratios = sorted(theirs / mine for theirs, mine in zip(seconds, ours, strict=True))
    difference = subset.difference(runs[0][1].reshape(len(subset.centers), -1))
    print(f"  {name:11} {metadata.version(name):7} {spread(seconds)}, {statistics.median(ratios):.1f} times as long "
          f"({ratios[0]:.1f} to {ratios[-1]:.1f}); largest difference of an RDM {difference:.1e}")  # fmt: skip


if __name__ == "__main__":
    main()
