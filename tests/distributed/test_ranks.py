"""The rank helper itself: results in order, failures told, nothing left waiting."""

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from tests.distributed.ranks import RankFailureError, run_ranks


def _sum(rank: int, start: int) -> tuple[int, int, str]:
    total = torch.tensor([float(rank + start)])
    dist.all_reduce(total)
    return rank, int(total), os.environ["RANKS_TEST"]


def _raise_on_one(rank: int) -> None:
    if rank == 1:
        raise KeyError("a column that is not there")
    dist.barrier()  # would wait for the group's time-out


class _TwoArgumentsError(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} {b}")


def _raise_beside_a_sleeper(rank: int) -> None:
    if rank == 1:
        raise OSError("gone at once")
    time.sleep(60)


def _raise_unpicklable(rank: int) -> None:
    raise _TwoArgumentsError(1, 2)


def _killed(rank: int) -> None:
    if rank == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


def _hang(rank: int) -> None:
    if rank == 0:
        time.sleep(600)
    dist.barrier()


def _return_lambda(rank: int) -> object:
    return lambda: rank


def test_results_come_in_rank_order_with_the_parents_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKS_TEST", "set after the fork server may have started")
    results = run_ranks(3, _sum, 10)
    assert results == [(rank, 33, "set after the fork server may have started") for rank in range(3)]


def test_exception_of_a_rank_is_raised_here_with_its_traceback() -> None:
    with pytest.raises(KeyError, match="a column that is not there") as caught:
        run_ranks(2, _raise_on_one)
    assert "_raise_on_one" in "".join(caught.value.__notes__)
    assert "rank 1 of 2" in "".join(caught.value.__notes__)


def test_failure_does_not_wait_for_the_peer() -> None:
    start = time.monotonic()
    with pytest.raises(OSError, match="gone at once"):
        run_ranks(2, _raise_beside_a_sleeper)
    assert time.monotonic() - start < 40


def test_exception_that_does_not_survive_pickling_keeps_its_traceback() -> None:
    with pytest.raises(RankFailureError) as caught:
        run_ranks(1, _raise_unpicklable)
    assert "_TwoArgumentsError: 1 2" in "".join(caught.value.__notes__)


def test_killed_rank_is_named() -> None:
    with pytest.raises(RankFailureError, match="rank 0 ended with code -9"):
        run_ranks(2, _killed)


def test_hanging_rank_is_stopped_at_the_limit_with_its_stack() -> None:
    with pytest.raises(RankFailureError, match=r"still running after 3 s[\s\S]*in _hang"):
        run_ranks(2, _hang, timeout=3)


def test_result_that_does_not_pickle_is_an_error() -> None:
    with pytest.raises(Exception, match=r"(?i)pickle"):
        run_ranks(1, _return_lambda)


def test_no_ranks() -> None:
    with pytest.raises(ValueError, match="at least one rank"):
        run_ranks(0, _sum)
