"""Share work out to Dask workers, on this machine or on the nodes of a computing cluster.

Dask starts the processes, moves arrays between them, and repeats the tasks of a worker that is lost. All it sees are
bytes and arrays, which a worker unpacks once this project is on its path: the scheduler does not need the project.
"""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import re
import signal
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from utils import InputError, __version__
from utils.parallel.threads import available_cores, use_threads

if TYPE_CHECKING:
    from distributed import Client, Future, Security

HOME = Path(__file__).resolve().parents[2]
_TASKS_EACH = 2  # one that a worker computes, and one to go on with while the result of the first travels
_POLL_SECONDS = 0.5  # between two looks at which workers there are
_CONNECT_SECONDS = 10  # in which a scheduler has to answer
_GRACE_SECONDS = 10  # without a worker before a warning: a lost one is replaced in less
_PATIENCE_SECONDS = 600  # without a worker before a run gives up
_NO_LOG = logging.CRITICAL + 1
_CANCELLED = (asyncio.CancelledError, futures.CancelledError)
# Held by the task that computes: it has all threads and the memory of its worker, and numba's simplest pool of threads
# ends a process that uses it twice at a time.
_COMPUTING = Lock()


class Workers:
    """Dask workers that compute for this process; `connect` yields one.

    Attributes
    ----------
    n_workers : int
        The largest number of workers seen at one time.
    """

    def __init__(self, client: Client, name: str) -> None:
        self._client, self._name = client, name
        self.n_workers = 0

    def run(
        self, function: Callable[..., Any], shared: tuple, tasks: Sequence[tuple], keep: Callable[[int, Any], None]
    ) -> None:
        """Call ``function(*shared, *task)`` on the workers for every task.

        A worker computes one task at a time, with all its threads. Workers may join at any time; tasks of a lost worker
        are repeated by the others.

        Parameters
        ----------
        function : callable
            Must not modify `shared`, which all tasks of a worker use.
        shared : tuple
            First arguments of every task. Its arrays travel to each worker once.
        tasks : sequence of tuple
            Further arguments of each task, of built-in types.
        keep : callable
            Called as ``keep(i, result)`` in this process as results arrive, in any order, once for every task.

        Raises
        ------
        InputError
            If the scheduler is lost, there is no worker for ten minutes, a worker cannot import this project or has
            another version of it, or several workers die while they compute the same task.
        Exception
            Whatever `function` or `keep` raises; the remaining tasks are then dropped.
        """
        from distributed import wait

        waiting, data = deque(range(len(tasks))), None
        running: dict[Future, tuple[int, str]] = {}
        try:
            while waiting or running:
                workers = self._present()
                data = data or self._send(function, shared)
                # Left alone, Dask prefers the workers that hold the data, and those that join late stay idle.
                for worker in _free_places(workers, Counter(worker for _, worker in running.values()))[: len(waiting)]:
                    i = waiting.popleft()
                    options = {"workers": [worker], "allow_other_workers": True, "priority": -i, "pure": False}
                    running[self._client.submit(_entry(), data, tasks[i], **options)] = i, worker
                with self._client.as_current(), suppress(TimeoutError, *_CANCELLED):
                    wait([*running], timeout=_POLL_SECONDS, return_when="FIRST_COMPLETED")
                for future in [future for future in running if future.done()]:
                    i, _ = running.pop(future)
                    keep(i, self._result(future))
        finally:
            for future in running:
                future.release()

    def _present(self) -> list[str]:
        """Addresses of the workers; waits for one if there is none."""
        try:
            while not (workers := sorted(self._client.nthreads())):
                self._wait_for_a_worker()
        except InputError:
            raise
        except Exception as error:  # a client that has lost its scheduler fails in several ways
            raise self._lost(error) from None
        self.n_workers = max(self.n_workers, len(workers))
        return workers

    def _wait_for_a_worker(self) -> None:
        with suppress(TimeoutError):
            return self._client.wait_for_workers(1, timeout=_GRACE_SECONDS)
        warnings.warn(f"{self._name}: no workers yet; waiting for one", stacklevel=2)
        with suppress(TimeoutError):
            return self._client.wait_for_workers(1, timeout=_PATIENCE_SECONDS)
        raise InputError(
            f"{self._name}: no worker for {_PATIENCE_SECONDS // 60} minutes; look at the workers' log, or at the queue "
            "of their jobs, then start again"
        )

    def _send(self, function: Callable[..., Any], shared: tuple) -> Future:
        """Bring what all tasks share to the workers.

        The result of a task, which Dask computes again if all workers that hold it are lost; scattered data would be
        gone. Arrays travel beside the pickle, so that a worker copies them for no task.
        """
        import cloudpickle
        import numpy as np

        buffers: list[pickle.PickleBuffer] = []
        head = cloudpickle.dumps((function, shared), protocol=5, buffer_callback=buffers.append)
        return self._client.submit(list, [head, *(np.asarray(buffer.raw()) for buffer in buffers)], pure=False)

    def _result(self, future: Future) -> Any:
        from distributed import KilledWorker

        try:
            return future.result()
        except _CANCELLED as error:
            raise self._lost(error) from None
        except KilledWorker as killed:
            raise InputError(
                f"{self._name}: {killed.allowed_failures + 1} workers died while they computed the same task, probably "
                "because memory ran out; start fewer workers per machine, or give them more memory"
            ) from None
        except ImportError as missing:
            raise InputError(
                f"{self._name}: a worker cannot import what it needs ({missing}); workers need the packages of "
                f"requirements.txt, and this project in {HOME} or on their PYTHONPATH"
            ) from None
        finally:
            future.release()

    def _lost(self, error: BaseException) -> InputError:
        reason = str(error).partition("\n")[0]
        return InputError(f"{self._name}: lost the scheduler, or it was restarted ({reason}); run this command again")


def _free_places(workers: Sequence[str], tasks_of: Counter[str]) -> list[str]:
    """Workers that can take a task, as often as they can; those with nothing to do come first."""
    return [worker for n in range(_TASKS_EACH) for worker in workers if tasks_of[worker] <= n]


def _entry() -> Callable[[list, tuple], Any]:
    """What Dask calls on a worker.

    A function inside a function is pickled as code, not by name: a worker can unpack it before it finds this project.
    """
    home, version = str(HOME), __version__

    def dnn2brain(data: list, task: tuple) -> Any:
        import sys

        if home not in sys.path:
            sys.path.insert(0, home)
        from utils.parallel import dask_workers

        return dask_workers._answer(data, task, version)

    return dnn2brain


def _answer(data: list, task: tuple, version: str) -> Any:
    """Compute a task on a worker, for a process with some version of this project."""
    if __version__ != version:
        raise InputError(
            f"a Dask worker has loaded version {__version__} of this project from {HOME}, and this process is "
            f"version {version}; start the workers again, with the same code"
        )
    with _COMPUTING:
        function, shared = pickle.loads(data[0], buffers=data[1:])
        use_threads(worker_threads())  # of the libraries too that the function has just loaded
        return function(*shared, *task)


def worker_threads() -> int:
    """Threads that a task may use.

    Returns
    -------
    int
        All threads of the worker that this task runs on.
    """
    from distributed import get_worker

    return int(get_worker().state.nthreads)


def local_workers(text: str) -> int:
    """Number of workers to start on this machine.

    Parameters
    ----------
    text : str
        ``local:N``, or where a scheduler is: ``tcp://HOST:PORT``, or a scheduler file (.json).

    Returns
    -------
    int
        N, or 0 for a scheduler.

    Raises
    ------
    InputError
        If the text is none of these.
    """
    if found := re.fullmatch(r"local:([1-9]\d*)", text):
        return int(found[1])
    if re.fullmatch(r"([a-z+]+://)?[^:/\s]+:\d+|.+\.json", text) and not text.startswith("local:"):
        return 0
    raise InputError(f"'{text}', expected local:N, tcp://HOST:PORT, or a scheduler file (.json)")


@contextmanager
def connect(address: str, threads: int | None = None) -> Iterator[Workers]:
    """Workers for the duration of a `with` block.

    Parameters
    ----------
    address : str
        As for `local_workers`.
    threads : int, optional
        Threads of each worker that is started here (default: the cores of this process divided by the number of
        workers). Workers of a running scheduler have their own number.

    Yields
    ------
    Workers

    Raises
    ------
    InputError
        If Dask is not installed, or no scheduler with the versions of this process answers at the address.
    """
    n_workers, name = local_workers(address), f"Dask at {address}"
    try:
        import dask
        from distributed import Security
        from distributed import utils as dask_utils
    except ImportError:
        raise InputError("Dask workers need the package distributed: pip install -r requirements-dask.txt") from None
    with ExitStack() as stack:
        stack.enter_context(dask_utils.silence_logging_cmgr(_NO_LOG))
        settings = {
            "distributed.admin.large-graph-warning-threshold": "1 PB",
            # It would remove the copies of shared data from workers between two tasks, and they would be sent again.
            "distributed.scheduler.active-memory-manager.start": False,
        }
        if n_workers:  # whose web servers, which anybody on this machine can ask, have no pages
            settings |= {f"distributed.{part}.http.routes": [] for part in ("scheduler", "worker")}
        stack.enter_context(dask.config.set(settings))
        if n_workers:
            security = _key_of_this_run()
            cluster = _local_cluster(n_workers, threads or available_cores() // n_workers, security)
            scheduler = stack.enter_context(cluster).scheduler_address
        else:
            security, scheduler = Security(), _scheduler_of(address)
        yield Workers(stack.enter_context(_client(scheduler, name, security)), name)


def _key_of_this_run() -> Security:
    """A key that only this process and its workers have: whoever connects to them could have them run any code."""
    from distributed import Security

    try:
        return Security.temporary()
    except ImportError:
        raise InputError(
            "workers on this machine need the package cryptography, so that no other user can give them work: pip "
            "install -r requirements-dask.txt"
        ) from None


def _local_cluster(n_workers: int, threads: int, security: Security) -> Any:
    """A scheduler in this process and workers in processes of their own, reachable from this machine only."""
    from distributed import LocalCluster

    # A terminal sends Ctrl-C to all processes. Threads and processes that start meanwhile, and theirs, never get it:
    # this process ends the workers.
    resource_tracker.ensure_running()  # starting it, as the first process does otherwise, lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return LocalCluster(
            host="127.0.0.1",
            security=security,
            n_workers=n_workers,
            threads_per_worker=max(1, threads),
            memory_limit=None,
            dashboard_address=None,
            scheduler_kwargs={
                "dashboard_address": "127.0.0.1:0",
                "dashboard": False,
            },  # its web server is there even so
            silence_logs=_NO_LOG,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _scheduler_of(address: str) -> str:
    """Address of a scheduler, perhaps from a scheduler file."""
    if not address.endswith(".json"):
        return address
    try:
        return str(json.loads(Path(address).read_text())["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{address} is not a scheduler file ({error!r}); expected one written by `dask scheduler --scheduler-file`"
        ) from None


@contextmanager
def _client(scheduler: str, name: str, security: Security) -> Iterator[Client]:
    """A client of a scheduler that answers, and that has the versions of this process, as have its workers."""
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    try:
        asyncio.run(asyncio.wait_for(_greet(scheduler, security), _CONNECT_SECONDS))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionMismatchWarning)  # a table, and of packages that do not matter here
            client = Client(scheduler, security=security, timeout=_CONNECT_SECONDS, set_as_default=False)
    except Exception as error:  # whatever is there in place of a scheduler may answer anything
        raise InputError(
            f"{name}: no scheduler answers ({str(error) or f'silence for {_CONNECT_SECONDS} s'}); check the address, "
            "and that the scheduler is running"
        ) from None
    with client:
        versions: Any = client.get_versions()
        here = _version_text(versions["client"])
        there = {_version_text(each) for each in (versions["scheduler"], *versions["workers"].values())} - {here}
        if there:
            raise InputError(
                f"{name}: its scheduler or a worker runs {there.pop()}, and this process {here}; start them with the "
                "Python and the packages of this process"
            )
        yield client


async def _greet(scheduler: str, security: Security) -> None:
    """Shake hands with a scheduler; a client would wait for ever for a port that says nothing."""
    from distributed.comm import connect

    comm = await connect(scheduler, **security.get_connection_args("client"))
    await comm.close()


def _version_text(versions: dict[str, Any]) -> str:
    """Only the same Python and Dask can read what is sent; with another numpy, digits may differ."""
    packages = versions["packages"]
    python = ".".join(packages["python"].split(".")[:2])
    return f"Python {python} with distributed {packages['distributed']} and numpy {packages['numpy']}"
