"""Tests that were interrupted: they go on from what was counted, and end as if nothing had happened."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import fields

import numpy as np
import pytest
from helpers import HOME, SCRIPTS, related_rdms, wait_for, write_study

from utils.io import interim
from utils.io.interim import Interim
from utils.parallel.resources import Resources
from utils.stats import nonnegative, permutation, stepwise
from utils.stats.exceedances import Permutations
from utils.stats.nonnegative import Nonnegative
from utils.stats.permutation import conditional_test, permutation_test
from utils.stats.regression import orthonormal_basis, own_adjusted_r2
from utils.stats.stepwise import stepwise_test

ORDER = Permutations(3000, seed=2)
# Runs a script in such a way that it keeps counts after every block.
OFTEN = """
import sys, runpy
from utils.io import interim
from utils.stats import permutation
interim.SECONDS, interim._SHARE, permutation._CPU_SECONDS = 0, float("inf"), 0
sys.argv[0] = {!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(autouse=True)
def always_kept(monkeypatch):
    monkeypatch.setattr(interim, "SECONDS", 0)
    monkeypatch.setattr(interim, "_SHARE", np.inf)
    monkeypatch.setattr(interim, "WORTH_SECONDS", 0)
    monkeypatch.setattr(permutation, "_CPU_SECONDS", 0)
    monkeypatch.setattr(permutation, "_GPU_FLOP", 1e6)
    monkeypatch.setattr(permutation, "_CHUNK_BYTES", 2000)
    monkeypatch.setattr(stepwise, "_BLOCK_BYTES", 2**20)
    monkeypatch.setattr(nonnegative, "_BLOCK_BYTES", 2**18)


@pytest.fixture
def study(rng):
    models, subjects = related_rdms(rng, 12)
    return orthonormal_basis(models), subjects.mean(axis=0)


def all_models(basis, rdms, **how):
    return permutation_test(basis, own_adjusted_r2(basis), rdms, ORDER, **how)


def each_beside_others(basis, rdms, **how):
    return conditional_test(basis, rdms, ORDER, **how)


def steps(basis, rdms, **how):
    return stepwise_test(basis, np.tile([[0], [1]], (1, len(rdms))), rdms, ORDER, **how)


def without_negative(basis, rdms, **how):
    return Nonnegative(basis).test(rdms, ORDER, **how)


TESTS = [all_models, each_beside_others, steps, without_negative]


class Stop(Exception):
    pass


def stop_at(share):
    def progress(done, total):
        if done >= share * total:
            raise Stop

    return progress


def same(a, b):
    for field in fields(a):
        np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name), err_msg=field.name)


@pytest.mark.parametrize("test", TESTS)
def test_goes_on_after_an_interruption(study, tmp_path, test):
    whole, said = test(*study), []
    for share in (0.3, 0.3, 0.7):
        with pytest.raises(Stop):
            test(*study, resources=Resources(interim=Interim(tmp_path, tell=said.append)), progress=stop_at(share))
    seen = []
    again = Resources(interim=Interim(tmp_path, tell=said.append))
    same(test(*study, resources=again, progress=lambda done, _: seen.append(done)), whole)
    assert len(said) == 3 and all(line.startswith("Going on from ") for line in said)
    assert seen[0] > 0.6 * ORDER.n and seen[-1] == ORDER.n
    # What has ended is not computed again.
    seen.clear()
    same(test(*study, resources=Resources(interim=Interim(tmp_path)), progress=lambda *_: seen.append(1)), whole)
    assert not seen


@pytest.mark.parametrize("devices", [("cpu", "meta"), ("meta", "cpu")])
def test_goes_on_with_another_device(study, tmp_path, monkeypatch, devices):
    from utils.stats import exceedances_gpu

    count = exceedances_gpu.count_on_gpu
    monkeypatch.setattr(exceedances_gpu, "count_on_gpu", lambda *a, device: count(*a, device="cpu"))
    whole = all_models(*study)
    with pytest.raises(Stop):
        all_models(*study, resources=Resources(devices[0], interim=Interim(tmp_path)), progress=stop_at(0.5))
    same(all_models(*study, resources=Resources(devices[1], interim=Interim(tmp_path))), whole)


class Unreliable:
    """Workers that return tasks in another order, and fail after some of them."""

    def __init__(self, n):
        self.n = n

    def run(self, function, shared, tasks, keep):
        for i in np.random.default_rng(1).permutation(len(tasks)):
            self.n -= 1
            if self.n < 0:
                raise Stop
            keep(i, function(*shared, *tasks[i]))


def test_goes_on_where_workers_have_left_gaps(study, tmp_path):
    whole = each_beside_others(*study)
    with pytest.raises(Stop):
        each_beside_others(*study, resources=Resources(workers=Unreliable(7), interim=Interim(tmp_path)))
    with np.load(tmp_path / "1.npz") as kept:
        assert 0 < (kept["done"] > 0).sum() < ORDER.n and (np.diff(kept["done"]) != 0).sum() > 1
    with pytest.raises(Stop):
        each_beside_others(*study, resources=Resources(workers=Unreliable(9), interim=Interim(tmp_path)))
    same(each_beside_others(*study, resources=Resources(interim=Interim(tmp_path))), whole)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda basis, rdms: (basis, rdms + np.linspace(0, 1, rdms.shape[1]) ** 2), "other brain RDMs"),
        (lambda basis, rdms: (basis, rdms[:2]), "other brain RDMs"),
        (lambda basis, rdms: (orthonormal_basis(np.sort(rdms)[:, None]), rdms), "other model RDMs"),
    ],
)
def test_counts_of_something_else_are_not_used(study, tmp_path, change, named):
    with pytest.raises(Stop):
        all_models(*study, resources=Resources(interim=Interim(tmp_path)), progress=stop_at(0.5))
    other, said = change(*study), []
    same(all_models(*other, resources=Resources(interim=Interim(tmp_path, tell=said.append))), all_models(*other))
    assert len(said) == 1 and named in said[0] and "not used" in said[0]


def test_other_settings_or_code_are_told(study, tmp_path, monkeypatch):
    resources = Resources(interim=Interim(tmp_path))
    with pytest.raises(Stop):
        all_models(*study, resources=resources, progress=stop_at(0.5))
    for order in (Permutations(3000, seed=3), Permutations(3000, "entries", seed=2), Permutations(2999, seed=2)):
        said = []
        how = {"resources": Resources(interim=Interim(tmp_path, tell=said.append)), "progress": stop_at(0)}
        with pytest.raises(Stop):
            permutation_test(study[0], own_adjusted_r2(study[0]), study[1], order, **how)
        assert said == [said[0]] and "other settings" in said[0]
        with pytest.raises(Stop):
            all_models(*study, resources=Resources(interim=Interim(tmp_path)), progress=stop_at(0.5))
    monkeypatch.setattr(interim, "_code", lambda: "newer")
    said = []
    all_models(*study, resources=Resources(interim=Interim(tmp_path, tell=said.append)))
    assert "other program code" in said[0]


@pytest.mark.parametrize("damage", [lambda b: b[:200], lambda b: b"", lambda b: b.replace(b"done", b"gone")])
def test_a_damaged_file_is_told_and_not_used(study, tmp_path, damage):
    with pytest.raises(Stop):
        all_models(*study, resources=Resources(interim=Interim(tmp_path)), progress=stop_at(0.5))
    path = tmp_path / "1.npz"
    path.write_bytes(damage(path.read_bytes()))
    said = []
    again = Resources(interim=Interim(tmp_path, tell=said.append))
    same(all_models(*study, resources=again), all_models(*study))
    assert len(said) == 1 and "begins anew" in said[0]


def test_fresh_removes_what_is_kept(study, tmp_path):
    with pytest.raises(Stop):
        all_models(*study, resources=Resources(interim=Interim(tmp_path)), progress=stop_at(0.5))
    said = []
    again = Resources(interim=Interim(tmp_path, fresh=True, tell=said.append))
    assert not tmp_path.exists()
    same(all_models(*study, resources=again), all_models(*study))
    assert not said


def test_goes_on_without_where_nothing_can_be_written(study, tmp_path):
    (tmp_path / "file").write_text("")
    said = []
    again = Resources(interim=Interim(tmp_path / "file", tell=said.append))
    same(all_models(*study, resources=again), all_models(*study))
    assert len(said) == 1 and "the test goes on" in said[0]


def test_short_tests_leave_nothing(study, tmp_path, monkeypatch):
    monkeypatch.setattr(interim, "SECONDS", 1e6)
    monkeypatch.setattr(interim, "WORTH_SECONDS", 1e6)
    all_models(*study, resources=Resources(interim=Interim(tmp_path)))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("test", TESTS)
def test_an_interruption_keeps_what_is_counted(study, tmp_path, monkeypatch, test):
    monkeypatch.setattr(interim, "SECONDS", 1e6)
    with pytest.raises(Stop):
        test(*study, resources=Resources(interim=Interim(tmp_path)), progress=stop_at(0.5))
    with np.load(tmp_path / "1.npz") as kept:
        assert kept["done"].sum() > 0


def test_an_interruption_amid_a_change_keeps_nothing(tmp_path):
    done = np.zeros(4)
    with pytest.raises(Stop), Interim(tmp_path).tally(dict, done=done) as tally, tally.changes():
        done[0] = 1
        raise Stop
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("figure", "number"),
    [("Fig1", signal.SIGTERM), ("Fig2", signal.SIGINT), ("Fig3a", signal.SIGKILL), ("Fig3b", signal.SIGTERM)],
)
def test_a_figure_that_is_killed_goes_on(tmp_path, rng, figure, number):
    study = write_study(tmp_path / "study", rng, n_conditions=12)
    extra = ["--ceiling", "none"] if figure in ("Fig1", "Fig3a") else []

    def start(results):
        options = ["--data", study, "--results", results, "-np", 60_000, "--threads", 1, "--no-open", "-q", *extra]
        command = [sys.executable, "-c", OFTEN.format(f"{SCRIPTS[figure]}.py"), *map(str, options)]
        return subprocess.Popen(command, cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def table(results):
        return (results / figure / "results.tsv").read_bytes()

    whole, killed = start(tmp_path / "whole"), start(tmp_path / "killed")
    kept = tmp_path / "killed" / figure / ".interim" / "1.npz"
    wait_for(kept.parent, "1.npz")
    os.kill(killed.pid, number)
    _, said = killed.communicate(timeout=60)
    assert killed.returncode == (-number if number == signal.SIGKILL else 128 + number)
    assert number == signal.SIGKILL or re.fullmatch(r"\n(interrupted|terminated): .* goes on from what is kept\n", said)
    assert kept.exists() and not (tmp_path / "killed" / figure / "results.tsv").exists()
    again = start(tmp_path / "killed")
    printed, errors = again.communicate(timeout=300)
    whole.communicate(timeout=300)
    assert (again.returncode, whole.returncode) == (0, 0), errors
    assert "Going on from" in printed
    assert table(tmp_path / "killed") == table(tmp_path / "whole")
    assert not kept.parent.exists()
