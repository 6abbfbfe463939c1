"""Threads: loops shared out to them, and how many numerical libraries use."""

import os
import threading

import pytest
from threadpoolctl import threadpool_info

from utils.parallel.threads import in_threads, use_threads


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (9, 1), (10, 2), (17, 3), (100, 3)])
def test_stretches_make_up_the_range(monkeypatch, n, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    calls = []
    in_threads(lambda first, last: calls.append((first, last)), n, least=5)
    assert len(calls) == expected
    assert [i for first, last in sorted(calls) for i in range(first, last)] == list(range(n))


def test_threads_do_not_start_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    calls = []

    def outer(first, last):
        in_threads(lambda first, last: calls.append((threading.get_ident(), first, last)), 100, 1)

    in_threads(outer, 3, 1)
    assert [call[1:] for call in calls] == [(0, 100)] * 3
    assert threading.get_ident() not in {call[0] for call in calls}


def test_errors_in_threads_come_out(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")

    def fail(first, last):
        raise ValueError(f"from {first}")

    with pytest.raises(ValueError, match="from 0"):
        in_threads(fail, 10, 1)


def test_threads_of_this_process(monkeypatch):
    import torch

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, "7")
    before = torch.get_num_threads()
    try:
        for n in (1, 2):
            use_threads(n)
            assert torch.get_num_threads() == n and os.environ["OMP_NUM_THREADS"] == str(n)
            assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {n}
    finally:
        use_threads(before)
