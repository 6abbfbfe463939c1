"""What the four figure scripts share at the shell: options, messages, progress, the way a run begins and ends."""

from __future__ import annotations

import argparse
import sys
import time
import warnings
import webbrowser
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from utils import InputError

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from utils.datasets.layout import Sources
    from utils.io.output import Outputs
    from utils.parallel.dask_workers import Cluster

HOME = Path(__file__).resolve().parents[2]
SIMULATED = "SIMULATED EXAMPLE - not measured data"
NO_ATLAS = (
    "No brain map of the ROIs: there is no atlas. Give one with --atlas FILE (a NIfTI volume whose labels are the ids "
    "of the ROI table); for the paper's ROIs, the probabilistic atlas of Wang et al. 2015."
)


def execute(main: Callable[[], None]) -> NoReturn:
    """Run a script: bad input ends in one line on stderr and status 2, an interruption in status 130."""
    warnings.showwarning = lambda message, *_, **__: warn(str(message))
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\ninterrupted: earlier results are as they were; the same command starts it again", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def find_data(options: argparse.Namespace) -> Sources:
    """Locate the data that the options ask for, building the example where they ask for none."""
    from utils.datasets.layout import holds_release, locate

    folder = options.data
    if folder is None:
        folder = HOME / "data"
        if not holds_release(folder) and not (options.dnn_rdms and options.fmri_rdms):
            folder = _example(options)
    sources = locate(
        options.kind,
        folder,
        dnn_rdms=options.dnn_rdms,
        fmri_rdms=options.fmri_rdms,
        mask=options.mask,
        roi_labels=options.roi_labels,
        atlas=options.atlas,
    )
    if sources.simulated:
        print(f"{SIMULATED}. Use --data DIR for real data (see data/README.md).", flush=True)
    return sources


def _example(options: argparse.Namespace) -> Path:
    from utils.datasets.simulated import ensure_example

    with progress("simulating the example (once)", options) as advance:
        return ensure_example(HOME / "data" / "example", advance)


def choose_device(options: argparse.Namespace) -> str:
    """The device to compute on; a CPU where workers of a cluster do it.

    Raises
    ------
    InputError
        If a GPU, or what only GPUs can do, is asked for and there is none.
    """
    import torch

    given = vars(options)  # other commands than the figures have neither --dask nor --tf32
    if options.device == "cpu" or given.get("dask"):
        device = "cpu"
    elif torch.cuda.is_available():
        device = "cuda"
    elif options.device == "cuda":
        raise InputError("--device cuda: torch finds no CUDA GPU on this machine; use --device cpu or auto")
    else:
        device = "cpu"
    if given.get("tf32") and device == "cpu":
        raise InputError("--tf32 is for GPUs, and this run computes on a CPU; leave it out")
    return device


@contextmanager
def workers(options: argparse.Namespace) -> Iterator[Cluster | None]:
    """Workers of --dask for the time of a `with` block; None without that option."""
    if options.dask is None:
        yield None
        return
    from utils.parallel.dask_workers import connect, local_workers

    n_local = local_workers(options.dask)
    with connect(options.dask, max(1, options.threads // n_local) if n_local else None) as cluster:
        yield cluster


@contextmanager
def progress(title: str, options: argparse.Namespace) -> Iterator[Callable[[int, int], None]]:
    """Progress bar on stderr while a person looks on; yields a function of (done, in all)."""
    from tqdm import tqdm

    bar = tqdm(desc=title, disable=True if options.quiet else None, leave=False, dynamic_ncols=True)

    def advance(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    with bar:
        yield advance


# Warnings of this run, for its report.
warned: list[str] = []


def warn(message: str) -> None:
    """One line on stderr."""
    warned.append(message)
    print(f"warning: {message}", file=sys.stderr, flush=True)


def report(labels: Iterable[str], unit: str, n_tested: int) -> None:
    """One line on what was found: how many places carry each of the significant labels."""
    counts = Counter(labels)
    found = ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
    print(f"{counts.total():,} of {n_tested:,} tested {unit} significant" + (f": {found}" if found else ""))


def publish(
    options: argparse.Namespace,
    outputs: Outputs,
    record: dict[str, Any],
    table: pd.DataFrame,
    *,
    title: str,
    banner: str | None,
    started: float,
) -> None:
    """Write the report, move all results into place, say which files there are, and open the report if wanted."""
    from utils.reporting import report

    report.write_report(outputs.path("report.html"), record, table, title=title, warnings=[*warned], banner=banner)
    written = outputs.publish(record)
    report.write_index(options.results)
    folder = options.results / options.figure
    names = [path.relative_to(folder) for path in written]
    print(f"{options.figure} took {time.time() - started:.1f} s and wrote")
    for name in names:
        if len(name.parts) == 1:
            print(f"  {folder / name}")
    n_maps = sum(len(name.parts) > 1 for name in names)
    if n_maps:
        print(f"  {folder / 'maps'}/ ({n_maps} files)")
    if options.open:
        webbrowser.open((folder / "report.html").resolve().as_uri())


def record(
    options: argparse.Namespace,
    sources: Sources,
    data: Mapping[str, Any],
    arrays: Sequence[NDArray],
    device: str,
    started: float,
    cluster: Cluster | None = None,
) -> dict[str, Any]:
    """Provenance of a run, for `run.json`: `data` is added to it, `arrays` are what the results were computed from."""
    from utils.io.provenance import fingerprint, provenance

    chosen = {name: value for name, value in vars(options).items() if name not in ("figure", "kind")}
    places = {name: str(path) for name, path in vars(sources).items() if isinstance(path, Path)}
    described = {"simulated": sources.simulated, **places, **data, "fingerprint": fingerprint(*arrays)}
    if cluster is not None:
        described["dask_workers"] = cluster.n_workers
    return provenance(options.figure, chosen, described, device, started)
