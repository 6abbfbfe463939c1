"""Dask workers: same results as without them, whatever happens to them."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from helpers import wait_for

from utils import InputError, searchlight
from utils.cli import command as cli
from utils.cli.options import figure_parser, parse
from utils.parallel import dask_workers
from utils.rdms import searchlight_rdms

distributed = pytest.importorskip("distributed", reason="--dask needs requirements-dask.txt")
import psutil  # noqa: E402  (a requirement of distributed)

HOME = Path(__file__).resolve().parents[1]
ARRAY = np.arange(1000.0)


def scaled(array: np.ndarray, factor: int) -> np.ndarray:
    return array * factor


def counted(array: np.ndarray, _number: int) -> float:
    """How often a task found the array on this worker."""
    array[0] += 1
    return array[0]


def meet_another_process(folder: str, _number: int) -> int:
    """The process of a task that cannot end before one has begun in another process."""
    Path(folder, str(os.getpid())).touch()
    wait_for(Path(folder), "*", n=2)
    return os.getpid()


def deadly(array: np.ndarray, number: int, log: str, once: bool) -> float:
    """Ends its process at number 3: the first time, or always."""
    seen = Path(log).read_text().split() if Path(log).exists() else []
    with Path(log).open("a") as file:
        file.write(f"{number}\n")
    if number == 3 and (not once or "3" not in seen):
        os.kill(os.getpid(), signal.SIGKILL)
    return float(array.sum()) + number


def spans(_number: int) -> tuple[float, float, int]:
    from threadpoolctl import threadpool_info

    started = time.monotonic()
    time.sleep(0.1)
    (blas,) = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
    return started, time.monotonic(), blas


class Awkward(Exception):
    """Cannot be unpickled, as it is made from two arguments and keeps one."""

    def __init__(self, text: str, more: str) -> None:
        super().__init__(text + more)


def failing(kind: str) -> None:
    if kind == "input":
        raise InputError("sub-01: no such thing")
    if kind == "awkward":
        raise Awkward("one, ", "two")
    if kind == "import":
        raise ModuleNotFoundError("No module named 'torch'")
    raise ZeroDivisionError("by nothing")


def results(workers: dask_workers.Workers, function, shared: tuple, tasks: list[tuple]) -> list:
    """Results in the order of the tasks, each of which must arrive once."""
    found: dict = {}

    def keep(number: int, result: object) -> None:
        assert number not in found
        found[number] = result

    workers.run(function, shared, tasks, keep)
    return [found[number] for number in range(len(tasks))]


@pytest.fixture(scope="module", autouse=True)
def patience():
    """On a busy machine a scheduler may take longer to answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dask_workers, "_CONNECT_SECONDS", 300)
        yield


@pytest.fixture(scope="module")
def two():
    with dask_workers.connect("local:2", threads=1) as workers:
        yield workers


# --------------------------------------------------------------------------------------------------------- what they do


def test_results_are_those_of_one_machine(two):
    found = results(two, scaled, (ARRAY,), [(factor,) for factor in range(30)])
    np.testing.assert_array_equal(found, [ARRAY * factor for factor in range(30)])
    assert two.n_workers == 2
    assert results(two, scaled, (ARRAY,), []) == []


def test_workers_work_side_by_side(two, tmp_path):
    first, second = results(two, meet_another_process, (str(tmp_path),), [(1,), (2,)])
    assert len({first, second, os.getpid()}) == 3


def test_workers_get_arrays_once(two):
    shared = np.zeros(1000)
    found = results(two, counted, (shared,), [(number,) for number in range(60)])
    assert max(found) >= 30
    assert not shared.any()


def test_arrays_of_any_layout_arrive(two):
    for array in (
        np.asfortranarray(ARRAY.reshape(40, 25)),
        ARRAY.reshape(40, 25)[::3, 1::2],
        np.zeros((0, 3)),
        ARRAY > 9,
    ):
        (found,) = results(two, scaled, (array,), [(1,)])
        np.testing.assert_array_equal(found, array)


@pytest.mark.slow
def test_one_task_at_a_time_with_all_threads_of_the_worker():
    with dask_workers.connect("local:1", threads=3) as workers:
        found = sorted(results(workers, spans, (), [(number,) for number in range(5)]))
    assert all(end <= start for (_, end, _), (start, _, _) in pairwise(found))
    assert {blas for *_, blas in found} == {3}


def test_local_workers_listen_on_this_machine_only(two):
    workers = [child for child in psutil.Process().children() if "--multiprocessing-fork" in child.cmdline()]
    assert len(workers) >= 2
    for process in (psutil.Process(), *workers):
        assert {c.laddr.ip for c in process.net_connections("inet") if c.status == "LISTEN"} <= {"127.0.0.1"}


def test_nobody_else_can_give_local_workers_work(two):
    """Without the key of the run, which only its own processes have, nothing on this machine can connect to them."""
    from distributed import Client, Security
    from distributed.comm import connect

    scheduler = two._client.scheduler.address
    addresses = [scheduler, *two._client.nthreads()]
    assert all(address.startswith("tls://127.0.0.1:") for address in addresses)

    async def ask(address: str, security: Security) -> None:
        comm = await connect(address, timeout=3, **security.get_connection_args("client"))
        await comm.write({"op": "identity", "reply": True})
        await comm.read()

    for address in addresses:
        for stranger in (Security.temporary(), Security()):
            with pytest.raises((OSError, TypeError, RuntimeError)):
                asyncio.run(ask(address, stranger))
        with pytest.raises((OSError, TypeError, RuntimeError)):
            asyncio.run(ask(address.replace("tls", "tcp"), Security()))
    with pytest.raises((OSError, TypeError, RuntimeError)):
        Client(scheduler, security=Security.temporary(), timeout=3, set_as_default=False)


def test_local_workers_have_no_web_pages(two):
    for process in (psutil.Process(), *psutil.Process().children()):
        for listening in process.net_connections("inet"):
            if listening.status == "LISTEN":
                for page in (
                    "/status",
                    "/info/main/workers.html",
                    "/json/index.html",
                    "/metrics",
                    "/statics/css/base.css",
                ):
                    with pytest.raises(OSError):
                        urllib.request.urlopen(f"http://127.0.0.1:{listening.laddr.port}{page}", timeout=5)


# --------------------------------------------------------------------------------------------------- what may go wrong


@pytest.mark.slow
@pytest.mark.parametrize("n_workers", [1, 2])  # with one, what tasks share is lost too
def test_a_killed_worker_changes_nothing(tmp_path, n_workers, capfd):
    log = tmp_path / "log"
    with dask_workers.connect(f"local:{n_workers}") as workers:
        found = results(workers, deadly, (ARRAY,), [(number, str(log), True) for number in range(20)])
    assert found == [ARRAY.sum() + number for number in range(20)]
    computed = log.read_text().split()
    assert computed.count("3") == 2
    assert len(computed) <= 20 + 2 * n_workers  # no more than what workers had at the time
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_task_that_kills_every_worker_is_given_up(tmp_path, capfd):
    with (
        dask_workers.connect("local:2") as workers,
        pytest.raises(InputError, match=r"local:2: 4 workers died while they .* probably because memory ran out"),
    ):
        results(workers, deadly, (ARRAY,), [(number, str(tmp_path / "log"), False) for number in range(6)])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        ("other", ZeroDivisionError, "^by nothing$"),
        ("input", InputError, "^sub-01: no such thing$"),
        ("awkward", Exception, "one, two"),
        ("import", InputError, r"local:2: a worker cannot import what it needs \(No module named 'torch'\)"),
    ],
)
def test_what_a_task_raises_comes_out_here(two, kind, error, message, capfd):
    with pytest.raises(error, match=message):
        results(two, failing, (), [(kind,)] * 20)
    assert results(two, max, (3,), [(4,)]) == [4]
    assert capfd.readouterr() == ("", "")


def test_an_error_here_ends_the_run(two):
    def full(_number: int, _result: object) -> None:
        raise OSError("disk is full")

    with pytest.raises(OSError, match="disk is full"):
        two.run(max, (3,), [(4,)] * 20, full)
    assert results(two, max, (3,), [(4,)]) == [4]


def test_another_version_of_the_project_on_a_worker_is_refused(two, monkeypatch):
    monkeypatch.setattr(dask_workers, "__version__", "9.9")
    with pytest.raises(InputError, match=r"a Dask worker has loaded version .* and this process is version 9.9; start"):
        results(two, max, (3,), [(4,)])


# --------------------------------------------------------------------------------------------- a cluster that runs


@contextmanager
def scheduler():
    """A scheduler that was there before, without workers at first."""
    with distributed.LocalCluster(
        n_workers=0, threads_per_worker=1, dashboard_address=None, silence_logs=60,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
    ) as there:  # fmt: skip
        yield there


@pytest.mark.slow
def test_a_run_waits_for_its_first_worker_and_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(dask_workers, "_GRACE_SECONDS", 0.1)
    said = []

    def warn(message: str, **_: int) -> None:
        said.append(message)
        there.scale(1)

    with scheduler() as there:
        file = tmp_path / "scheduler.json"
        file.write_text(f'{{"address": "{there.scheduler_address}"}}')
        with dask_workers.connect(str(file)) as workers:
            monkeypatch.setattr(dask_workers, "warnings", SimpleNamespace(warn=warn))
            assert results(workers, max, (5,), [(number,) for number in range(12)]) == [max(5, n) for n in range(12)]
    assert said == [f"Dask at {file}: no workers yet; waiting for one"]


@pytest.mark.slow
def test_a_worker_that_comes_late_gets_work_at_once(tmp_path):
    def second_worker() -> None:
        wait_for(tmp_path, "*")
        there.scale(2)

    with scheduler() as there:
        there.scale(1)
        with dask_workers.connect(there.scheduler_address) as workers:
            thread = threading.Thread(target=second_worker)
            thread.start()
            # No task can end before one has begun on the second worker, whichever of them that is.
            pids = results(workers, meet_another_process, (str(tmp_path),), [(1,), (2,), (3,)])
            thread.join()
            assert len({*pids}) == 2 and workers.n_workers == 2


@pytest.mark.slow
def test_a_restarted_scheduler_is_one_line():
    def keep(_number: int, _result: int) -> None:
        with distributed.Client(there.scheduler_address, set_as_default=False) as other:
            other.restart(timeout=300, wait_for_workers=False)

    with scheduler() as there:
        there.scale(1)
        with (
            dask_workers.connect(there.scheduler_address) as workers,
            pytest.raises(InputError, match=r"^Dask at tcp://.*: lost the scheduler, or it was restarted \(.*again$"),
        ):
            workers.run(max, (5,), [(number,) for number in range(12)], keep)


@pytest.mark.slow
def test_a_cluster_without_workers_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(dask_workers, "_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(dask_workers, "_PATIENCE_SECONDS", 0.1)
    with (
        scheduler() as there,
        dask_workers.connect(there.scheduler_address) as workers,
        pytest.warns(UserWarning, match="no workers yet"),
        pytest.raises(InputError, match=r"tcp://.*: no worker for .* minutes; look at the workers' log"),
    ):
        results(workers, max, (5,), [(1,)])


@pytest.mark.slow
def test_a_worker_from_elsewhere_finds_the_project_or_says_so(monkeypatch, tmp_path):
    def grown(array: np.ndarray, number: int) -> tuple[float, str]:
        import utils

        return float(array.sum()) + number, str(utils.__file__)

    with scheduler() as there:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", there.scheduler_address]
        command += ["--nthreads", "1", "--no-nanny", "--no-dashboard"]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL) as process:
            try:
                with dask_workers.connect(there.scheduler_address) as workers:
                    monkeypatch.setattr(dask_workers, "HOME", tmp_path)
                    with pytest.raises(InputError, match=r"a worker cannot import .*'utils'.* or on their PYTHONPATH"):
                        results(workers, grown, (ARRAY,), [(1,)])
                    monkeypatch.undo()
                    found = results(workers, grown, (ARRAY,), [(1,), (2,)])
                    assert found == [(ARRAY.sum() + n, str(HOME / "utils" / "__init__.py")) for n in (1, 2)]
                monkeypatch.setattr(dask_workers, "_version_text", lambda versions: next(versions_seen))
                versions_seen = iter(["Dask 1", "Dask 1", "Dask 2"])  # of this process, the scheduler, the worker
                with (
                    pytest.raises(InputError, match=r"a worker runs Dask 2, and this process Dask 1; start"),
                    dask_workers.connect(there.scheduler_address),
                ):
                    pass
            finally:
                process.kill()


# ------------------------------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize("address", ["local:x", "local:0", "local", "node", "", "tcp://node", "local:2:3"])
def test_addresses_that_are_none(address, capsys):
    with pytest.raises(InputError, match="expected local:N, tcp://HOST:PORT, or a scheduler file"):
        dask_workers.local_workers(address)
    with pytest.raises(SystemExit) as ended:
        parse(figure_parser("Fig1", "searchlight", ""), ["--dask", address])
    text = capsys.readouterr().err
    assert (ended.value.code, text.count("\n")) == (2, 1) and "argument --dask" in text


@pytest.mark.slow
def test_addresses_where_nobody_answers(monkeypatch, tmp_path):
    monkeypatch.setattr(dask_workers, "_CONNECT_SECONDS", 1)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for address in ("tcp://127.0.0.1:9", f"127.0.0.1:{silent.getsockname()[1]}"):
            with (
                pytest.raises(InputError, match=rf"Dask at {address}: no scheduler answers \(silence for 1 s"),
                dask_workers.connect(address),
            ):
                pass
    (tmp_path / "bad.json").write_text("[]")
    for name in ("bad.json", "missing.json"):
        with (
            pytest.raises(InputError, match=f"{name} is not a scheduler file"),
            dask_workers.connect(str(tmp_path / name)),
        ):
            pass


def test_without_dask_there_is_a_word_on_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(
            InputError, match=r"^Dask workers need the package distributed: pip install -r requirements-dask.txt$"
        ),
        dask_workers.connect("local:2"),
    ):
        pass


# -------------------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--stats", "t-test"], "--dask cannot be combined with --stats t-test"),
        (["--device", "cuda"], "--dask cannot be combined with --device cuda"),
        (["--threads", "0"], "argument --threads: '0', expected a whole number from 1 on"),
    ],
)
def test_options_that_do_not_go_together(given, message, capsys):
    with pytest.raises(SystemExit):
        parse(figure_parser("Fig1", "searchlight", ""), ["--dask", "local:2", *given])
    text = capsys.readouterr().err
    assert message in text and text.count("\n") == 1


def test_local_workers_share_the_threads(monkeypatch):
    asked = []

    @contextmanager
    def connect(*given):
        asked.append(given)
        yield "workers"

    monkeypatch.setattr(dask_workers, "connect", connect)
    for given in (["--dask", "local:3", "--threads", "7"], ["--dask", "local:3", "--threads", "2"],
                  ["--dask", "tcp://node:8786"], []):  # fmt: skip
        options = parse(figure_parser("Fig3a", "searchlight", ""), given)
        with cli.workers(options) as workers:
            assert workers == ("workers" if given else None)
        assert cli.choose_device(options) == "cpu" or not given
    assert asked == [("local:3", 2), ("local:3", 1), ("tcp://node:8786", None)]
    with cli.workers(parse(figure_parser("Fig2", "roi", ""), [])) as workers:
        assert workers is None


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom utils.cli.options import figure_parser, parse\n"
        "try:\n    parse(figure_parser('Fig1', 'searchlight', ''), ['--help'])\n"
        "except SystemExit:\n    assert not {'torch', 'distributed', 'dask', 'numba'} & {*sys.modules}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=True)
    assert "--threads N" in done.stdout and "local:N starts N processes" in " ".join(done.stdout.split())


# --------------------------------------------------------------------------------------------------------- searchlights


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Beta maps of two subjects, 8 conditions, 210 searchlights."""
    root, rng = tmp_path_factory.mktemp("study"), np.random.default_rng(4)
    affine = np.diag([3.0, 3, 3, 1])
    for subject in (1, 2):
        data = rng.standard_normal((9, 8, 7, 8)).astype(np.float32)
        nib.save(nib.Nifti1Image(data, affine), root / f"sub-{subject:02d}.nii")
    mask = np.zeros((9, 8, 7), np.uint8)
    mask[1:8, 1:7, 1:6] = 1
    nib.save(nib.Nifti1Image(mask, affine), root / "mask.nii")
    (root / "conditions.txt").write_text("".join(f"image_{i}\n" for i in range(8)))
    return root


def arguments(study: Path, out: Path, *extra: str) -> list[str]:
    given = ["--betas", study / "sub-01.nii", study / "sub-02.nii", "--mask", study / "mask.nii"]
    given += ["--conditions", study / "conditions.txt", "--geometry", "spheres", "--radius-mm", 6, "--out", out, "-q"]
    return [*map(str, given), *extra]


def contents(out: Path) -> dict[str, bytes]:
    """All files of a run but its record, which holds the time."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != "run.json"}


@pytest.fixture(scope="module")
def expected(study, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("here") / "data"
    searchlight.main(arguments(study, out))
    return contents(out)


@pytest.mark.slow
def test_searchlight_files_are_the_same_although_a_worker_is_killed(study, tmp_path, expected, monkeypatch, capfd):
    monkeypatch.setattr(searchlight_rdms, "_PIECE_BYTES", 3000)
    run, killed = dask_workers.Workers.run, []

    def run_and_kill_one(self, function, shared, tasks, keep):
        def keep_and_kill(number, result):
            keep(number, result)
            if not killed:
                workers = [p for p in psutil.Process().children() if "--multiprocessing-fork" in p.cmdline()]
                killed.append(workers[-1])
                killed[0].kill()

        run(self, function, shared, tasks, keep_and_kill)

    monkeypatch.setattr(dask_workers.Workers, "run", run_and_kill_one)
    searchlight.main(arguments(study, tmp_path, "--dask", "local:2", "--threads", "3"))
    assert killed and contents(tmp_path) == expected
    assert '"dask_workers": 2' in (tmp_path / "searchlight_rdms" / "run.json").read_text()
    assert capfd.readouterr() == ("", "")


# ----------------------------------------------------------------------------------------------- interrupted runs

ENDLESS = """
import signal, sys, time
from pathlib import Path
from utils.cli import command as cli
from utils.parallel import dask_workers

def endless(number):
    Path(str(number)).touch()
    while True:
        time.sleep(0.1)

def main():
    with dask_workers.connect(sys.argv[1]) as workers:
        workers.run(endless, (), [(number,) for number in range(6)], print)

if __name__ == "__main__":
    print("begun", flush=True)
    # Where the tests run in the background of a shell, they and their children ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    dask_workers._CONNECT_SECONDS = 30  # also how long a lost scheduler is looked for
    cli.execute(main, cli.Parser())
"""


@contextmanager
def endless_run(folder: Path, address: str, n_tasks: int):
    """A run in a process of its own that never ends by itself, when some of its tasks are being computed."""
    (folder / "endless.py").write_text(ENDLESS)
    with subprocess.Popen(
        [sys.executable, "endless.py", address], cwd=folder, env={**os.environ, "PYTHONPATH": str(HOME)},
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            wait_for(folder, "[0-9]", n_tasks)
            assert process.poll() is None
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.slow
def test_an_interrupted_run_ends_its_workers(tmp_path):
    with endless_run(tmp_path, "local:2", 2) as process:
        workers = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
        out, err = process.communicate(timeout=300)
        assert process.returncode == 130
        assert out == "begun\n"  # once: workers import the script, and do not run it
        advice = "run the same command again, which goes on from what is kept"
        assert err == f"\ninterrupted: earlier results are unchanged; {advice}\n"
        assert psutil.wait_procs(workers, timeout=300)[1] == []


@pytest.mark.slow
def test_a_lost_scheduler_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where tasks leave their files
    with scheduler() as there:
        there.scale(1)
        with endless_run(tmp_path, there.scheduler_address, 1) as process:
            there.close()
            _, err = process.communicate(timeout=300)
    assert process.returncode == 2
    assert err.startswith("error: Dask at tcp://127.0.0.1:") and err.count("\n") == 1
    assert "lost the scheduler" in err
