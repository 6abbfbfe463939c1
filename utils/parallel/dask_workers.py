"""Work shared out to the processes of a Dask cluster, on this machine or on many.

Dask starts the processes, finds them, moves bytes between them, and notices when one is lost. Two things are decided
here. Which worker gets which task: each has one that it computes and one to go on with, so that none has a queue while
another is idle. And how workers come to this project's code: Dask sees only bytes and numpy arrays, which a worker
unpacks after it has put the project's folder on its path. So the scheduler needs nothing of this project, and workers
may join late.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import pickle
import re
import signal
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from multiprocessing import resource_tracker
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from utils import InputError
from utils.parallel.threads import available_cores, use_threads

if TYPE_CHECKING:
    from distributed import Client, Future

HOME = Path(__file__).resolve().parents[2]
_TASKS_EACH = 2  # one that a worker computes, and one to go on with while the result of the first travels
_POLL_SECONDS = 0.5  # between two looks at which workers there are
_CONNECT_SECONDS = 10  # in which a scheduler has to answer
_GATHER_SECONDS = 60  # in which a result has to come from its worker
_GRACE_SECONDS = 10  # without a worker before a warning: a lost one is replaced in less
_PATIENCE_SECONDS = 600  # without a worker before a run gives up
_NO_LOG = logging.CRITICAL + 1
_ALIGNMENT = 16  # bytes, as numpy allocates
_MAX_RESTARTS = 5  # of the cluster during one run
# Held by the one task that computes: numbers of threads are those of a whole process, numba's simplest pool of threads
# ends a process that uses it twice at a time, and tasks side by side would need the memory of all of them.
_COMPUTING = Lock()


class Cluster:
    """Workers that compute for this process; `connect` gives one.

    Attributes
    ----------
    n_workers : int
        The most workers that there were at a time.
    """

    def __init__(self, client: Client, address: str) -> None:
        self._client, self._address = client, address
        self.n_workers = 0

    def run(
        self, function: Callable[..., Any], shared: tuple, tasks: Sequence[tuple], done: Callable[[int, Any], None]
    ) -> None:
        """Call ``function(*shared, *task)`` on the workers for every task.

        A worker computes one task at a time, for which torch, numba and BLAS have as many threads as the worker. Tasks
        that a lost worker had not finished are computed again by others.

        Parameters
        ----------
        function : callable
            Must not change what is in `shared`, which later tasks find as it was left.
        shared : tuple
            First arguments of all tasks; they travel to each worker once.
        tasks : sequence of tuple
            Further arguments of each.
        done : callable
            Called as ``done(i, result)`` in this process as results arrive: in any order, once for every task.

        Raises
        ------
        InputError
            If the scheduler is lost, no worker is there for ten minutes, workers cannot use this project's code, or
            workers keep ending while they compute the same task.
        Exception
            Whatever a task raises; the others are given up then.
        """
        waiting = deque(range(len(tasks)))
        running: dict[Future, tuple[int, str]] = {}
        data, restarts = None, 0
        try:
            while waiting or running:
                workers = self._workers()
                if data is None:
                    data = self._send(function, shared)
                free = _free_places(workers, Counter(worker for _, worker in running.values()))
                for worker in free[: len(waiting)]:
                    number = waiting.popleft()
                    running[self._submit(data, tasks[number], worker)] = number, worker
                lost = []
                for future in self._ended(running):
                    number, _ = running.pop(future)
                    try:
                        result = self._result(future)
                    except _Lost:
                        lost.append(number)
                    else:
                        done(number, result)
                if lost:
                    waiting.extend(lost)
                    data, restarts = None, restarts + 1
                    if restarts > _MAX_RESTARTS:
                        raise InputError(
                            f"{self._name}: results got lost {restarts} times; look at the scheduler's log"
                        )
        finally:
            for future in running:
                future.release()

    @property
    def _name(self) -> str:
        return f"--dask {self._address}"

    def _send(self, function: Callable[..., Any], shared: tuple) -> Future:
        """Bring the function and what all tasks share to the cluster.

        It becomes the result of a task of its own, which the scheduler has computed again if all workers that hold it
        are lost. Contiguous arrays travel beside the pickle: copied neither here, nor on a worker for every task.
        """
        import cloudpickle
        import numpy as np

        buffers: list[pickle.PickleBuffer] = []
        head = cloudpickle.dumps((function, shared), protocol=5, buffer_callback=buffers.append)
        return self._client.submit(list, [head, *(np.asarray(buffer.raw()) for buffer in buffers)], pure=False)

    def _submit(self, data: Future, task: tuple, worker: str) -> Future:
        import cloudpickle

        # Other workers are allowed: they take over what this one leaves behind if it is lost.
        return self._client.submit(
            _entry(), data, cloudpickle.dumps(task), workers=[worker], allow_other_workers=True, pure=False
        )

    def _workers(self) -> list[str]:
        """Addresses of the workers that there are; if there is none, waits until there is one."""
        started, warned = time.monotonic(), False
        while True:
            try:
                workers = sorted(self._client.nthreads())
            except Exception as error:  # a client that has lost its scheduler fails in several ways
                raise InputError(
                    f"{self._name}: the scheduler is lost ({error}); start it again, then this command"
                ) from None
            self.n_workers = max(self.n_workers, len(workers))
            if workers:
                return workers
            seconds = time.monotonic() - started
            if seconds > _PATIENCE_SECONDS:
                raise InputError(
                    f"{self._name}: no worker for {_PATIENCE_SECONDS // 60} minutes; look at the workers' log (or the "
                    "queue of their jobs), then start again"
                )
            if seconds > _GRACE_SECONDS and not warned:
                warnings.warn(f"{self._name}: no worker is there; waiting for one", stacklevel=2)
                warned = True
            time.sleep(_POLL_SECONDS)

    def _ended(self, running: Iterable[Future]) -> list[Future]:
        """Futures that have ended, well or badly; waits a moment for one."""
        from distributed import wait

        with self._client.as_current(), suppress(TimeoutError, asyncio.CancelledError, futures.CancelledError):
            wait(list(running), timeout=_POLL_SECONDS, return_when="FIRST_COMPLETED")
        return [future for future in running if future.done()]

    def _result(self, future: Future) -> Any:
        """What a task returned, after which it is computed no more, even if its worker is lost."""
        from distributed import KilledWorker

        try:
            result, error = pickle.loads(future.result(timeout=_GATHER_SECONDS))
        except (OSError, asyncio.CancelledError, futures.CancelledError):  # a timeout is an OSError
            raise _Lost from None
        except KilledWorker as killed:
            raise InputError(
                f"{self._name}: {killed.allowed_failures + 1} workers ended while they computed the same task, "
                "probably because memory ran out; start fewer workers per machine, or give them more memory"
            ) from None
        except ImportError as missing:
            result, error = None, missing
        finally:
            future.release()
        if isinstance(error, ImportError):
            raise InputError(
                f"{self._name}: a worker cannot import what it needs ({error}); workers need the packages of "
                f"requirements.txt and this project in {HOME}, or on their PYTHONPATH"
            ) from None
        if error is not None:
            raise error
        return result


class _Lost(Exception):
    """A result that will not come, though nothing is wrong with its task."""


def _free_places(workers: Sequence[str], tasks_of: Counter[str]) -> list[str]:
    """Workers that can take a task, as often as they can; those with nothing to do come first."""
    return [worker for n in range(_TASKS_EACH) for worker in workers if tasks_of[worker] <= n]


def _entry() -> Callable[[list, bytes], bytes]:
    """What Dask calls on a worker.

    A function inside of a function is pickled as code, not by name: neither the scheduler nor a worker has to find this
    module before the function itself has put the project on the path.
    """
    home, digest = str(HOME), code_digest()

    def dnn2brain(data: list, task: bytes) -> bytes:
        import sys

        if home not in sys.path:
            sys.path.insert(0, home)

        return answer(data, task, digest)

    return dnn2brain


def answer(data: list, task: bytes, digest: str) -> bytes:
    """Compute a task on a worker.

    Parameters
    ----------
    data : list
        Pickle of the function and of what all tasks share, and the arrays that belong to it.
    task : bytes
        Pickle of the task's own arguments.
    digest : str
        `code_digest` of the process that asks.

    Returns
    -------
    bytes
        Pickle of (result, None) or (None, exception).
    """
    try:
        if code_digest() != digest:
            raise InputError(
                f"--dask: worker {_worker_name()} has loaded another version of this project's code than the process "
                "that asks it; start both again, from the same folder"
            )
        with _COMPUTING:
            use_threads(worker_threads())
            _align(data)
            function, shared = pickle.loads(data[0], buffers=data[1:])
            return pickle.dumps((function(*shared, *pickle.loads(task)), None))
    except Exception as error:
        return pickle.dumps((None, _portable(error)))


def _align(data: list) -> None:
    """Arrays arrive wherever they lie in a message; numpy and torch are slow where an address is odd.

    Dask keeps this very list for the tasks that follow, so that each array is copied once.
    """
    for place, array in enumerate(data[1:], start=1):
        if array.ctypes.data % _ALIGNMENT:
            data[place] = array.copy()


def _worker_name() -> str:
    """Address of the worker that this task runs on."""
    from distributed import get_worker

    return str(get_worker().address)


def worker_threads() -> int:
    """Threads of the worker that this task runs on, all of which are the task's."""
    from distributed import get_worker

    return int(get_worker().state.nthreads)


def _portable(error: Exception) -> Exception:
    """The exception itself if it can be pickled, else its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


@cache
def code_digest() -> str:
    """Digest of this project's modules as they were when this process first asked."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted([*HOME.glob("utils/*.py"), *HOME.glob("models/*.py")]):
        digest.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()


def local_workers(address: str) -> int:
    """Number of workers to start here, if that is what an address asks for.

    Parameters
    ----------
    address : str
        ``local:N``, or where a scheduler is: ``tcp://HOST:PORT``, or a scheduler file (.json).

    Returns
    -------
    int
        N, or 0 where a scheduler is meant.

    Raises
    ------
    InputError
        If it is none of these.
    """
    if found := re.fullmatch(r"local:([1-9]\d*)", address):
        return int(found[1])
    if re.fullmatch(r"([a-z+]+://)?[^:/\s]+:\d+|.+\.json", address) and not address.startswith("local:"):
        return 0
    raise InputError(f"'{address}', expected local:N, tcp://HOST:PORT, or a scheduler file (.json)")


@contextmanager
def connect(address: str, threads: int | None = None) -> Iterator[Cluster]:
    """Workers for the time of a `with` block.

    Parameters
    ----------
    address : str
        As for `local_workers`.
    threads : int, optional
        Threads of each worker that is started here (default: the cores of this process, divided by their number).
        Workers of a scheduler have theirs.

    Yields
    ------
    Cluster

    Raises
    ------
    InputError
        If Dask is not installed, the address is none, or no scheduler of the same version answers there.
    """
    n_workers = local_workers(address)
    try:
        import dask
        import distributed  # noqa: F401
    except ImportError:
        raise InputError("--dask needs the package distributed: pip install -r requirements-dask.txt") from None
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        stack.enter_context(dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 PB"}))
        if n_workers:
            scheduler = stack.enter_context(_local_scheduler(n_workers, threads or available_cores() // n_workers))
        else:
            scheduler = _scheduler_of(address)
        yield Cluster(stack.enter_context(_client(scheduler, address)), address)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's log off the terminal: what a user has to know is said in one line by this module."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client", "tornado.application")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(_NO_LOG)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _local_scheduler(n_workers: int, threads: int) -> Iterator[str]:
    """Address of a scheduler in this process, with workers in processes of their own."""
    from distributed import LocalCluster

    with ExitStack() as stack:
        with _without_ctrl_c():
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=n_workers,
                    threads_per_worker=max(1, threads),
                    memory_limit=None,
                    dashboard_address=None,
                    # Its web server there is all the same: let it take any port, and answer on this machine only.
                    scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                    silence_logs=_NO_LOG,
                )
            )
        yield cluster.scheduler_address


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C wait; threads and processes that are started meanwhile, and theirs, never get it.

    A terminal sends it to all processes. Workers are ended by this one, and have nothing to say about it.
    """
    resource_tracker.ensure_running()  # starting it, as the first process does otherwise, lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _scheduler_of(address: str) -> str:
    """Address of a scheduler, which a scheduler file may hold."""
    if not address.endswith(".json"):
        return address
    try:
        return str(json.loads(Path(address).read_text())["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--dask {address}: is no scheduler file ({error!r}); expected one that `dask scheduler --scheduler-file` "
            "wrote"
        ) from None


@contextmanager
def _client(scheduler: str, address: str) -> Iterator[Client]:
    from distributed import Client
    from distributed.versions import VersionMismatchWarning

    try:
        versions = asyncio.run(asyncio.wait_for(_versions(scheduler), _CONNECT_SECONDS))
        _check_versions(versions, address)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionMismatchWarning)  # about packages that do not matter here
            client = Client(scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
    except InputError:
        raise
    except Exception as error:  # whatever is there in place of a scheduler may answer anything
        raise InputError(
            f"--dask {address}: no Dask scheduler answers there ({str(error) or f'silence for {_CONNECT_SECONDS} s'}); "
            "check the address, and that the scheduler runs"
        ) from None
    with client:
        yield client


async def _versions(scheduler: str) -> dict[str, str]:
    """What the scheduler and each worker run.

    Asked before there is a client, which would wait for ever for somebody who listens and says nothing.
    """
    from distributed import Security
    from distributed.core import rpc

    async with rpc(scheduler, connection_args=Security().get_connection_args("client")) as there:
        found = {"the scheduler": await there.versions()}
        workers = await there.broadcast(msg={"op": "versions"}, on_error="ignore")
    found |= {f"worker {worker}": versions for worker, versions in workers.items()}
    return {who: _version_text(versions) for who, versions in found.items()}


def _check_versions(versions: Mapping[str, str], address: str) -> None:
    """What is sent can be read only by the same Python and Dask; with another numpy, digits might differ."""
    from distributed.versions import get_versions

    here = _version_text(get_versions())
    for who, there in versions.items():
        if there != here:
            raise InputError(
                f"--dask {address}: {who} runs {there}, and this process {here}; start the cluster with the Python and "
                "the packages of this process"
            )


def _version_text(versions: Mapping[str, Any]) -> str:
    packages = versions["packages"]
    python = ".".join(packages["python"].split(".")[:2])
    return f"Python {python} with distributed {packages['distributed']} and numpy {packages['numpy']}"
