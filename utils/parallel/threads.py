"""Threads: how many this process may use, and loops shared out to them."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def in_threads(work: Callable[[int, int], None], n: int, least: int) -> None:
    """Call ``work(first, last)`` on stretches that make up ``range(n)``, one for each thread that this process may use.

    It is a single call within a thread of any pool, since the cores are busy then.

    Parameters
    ----------
    work : callable
        Releases Python's global lock for most of its time, and writes only what no other stretch writes.
    n : int
        Length of the range.
    least : int
        Length of the shortest stretch that is worth a thread.

    Raises
    ------
    Exception
        Whatever `work` raises, of the first stretch that fails.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    n_threads = int(given) if given.isdigit() and int(given) > 0 else available_cores()
    n_stretches = min(n_threads, n // least) if threading.current_thread() is threading.main_thread() else 1
    if n_stretches < 2:
        work(0, n)
        return
    cuts = [n * i // n_stretches for i in range(n_stretches + 1)]
    with ThreadPoolExecutor(n_stretches) as pool:
        list(pool.map(work, cuts[:-1], cuts[1:]))


def available_cores() -> int:
    """Cores that this process may use.

    Returns
    -------
    int
        Those of its CPU affinity, or fewer if SLURM_CPUS_PER_TASK or OMP_NUM_THREADS grant fewer.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    granted = [os.environ.get(name, "") for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS")]
    return min([cores, *(int(number) for number in granted if number.isdigit() and int(number) > 0)])


def use_threads(n: int) -> None:
    """Make numpy and torch use `n` threads, whether they are loaded already or not.

    Numba follows: `utils.stats.exceedances_cpu` takes torch's number, since numba keeps one per calling thread.

    Parameters
    ----------
    n : int
        Number of threads, 1 or more.
    """
    from threadpoolctl import threadpool_limits

    # Read by libraries when they are loaded; importing torch here would cost those seconds who do not need it.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(n)
    threadpool_limits(n)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(n)
