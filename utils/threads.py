"""How many threads numerical libraries take."""

from __future__ import annotations

import os
import sys


def available_cores() -> int:
    """Cores that this process may use: its CPU affinity, or fewer if SLURM or OMP_NUM_THREADS grant fewer."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = [os.environ.get(name, "") for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS")]
    return min([cores, *(int(number) for number in granted if number.isdigit() and int(number) > 0)])


def use_threads(n: int) -> None:
    """Make numpy and torch use `n` threads, whether they are loaded already or not.

    So does numba: `utils.exceedances` takes torch's number, since numba has one for each thread that calls it.
    """
    from threadpoolctl import threadpool_limits

    # Read by libraries when they are loaded; importing torch here would cost those seconds who do not need it.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(n)
    threadpool_limits(n)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(n)
