"""Followers of a day on several nodes: what they take for the leader's word."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.daily import nodes
from pipeline.daily.lease import Lease
from pipeline.daily.nodes import Leader, follow
from pipeline.daily.process import Runner


class Ran(Runner):
    """Starts nothing, and remembers what it was to start."""

    def __init__(self) -> None:
        super().__init__([])
        self.kinds: list[str] = []

    def run(self, kind: str, job_yaml: bytes, meeting: Any = ()) -> int:
        self.kinds.append(kind)
        return 0


def followed(root: str, monkeypatch: pytest.MonkeyPatch, *acts: Callable[[], Any]) -> tuple[int, list[str]]:
    """The follower's exit code and what it ran; one of the acts is done at each of its pauses."""
    left, runner = list(acts), Ran()
    monkeypatch.setattr(nodes.time, "sleep", lambda seconds: left.pop(0)())
    code = follow(root, runner, 60, print)
    assert not left, "it left early"
    return code, runner.kinds


def test_a_leader_at_work_is_not_taken_for_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(tmp_path)
    with Lease(root, 60, "2026-01-07") as lease:
        Leader(root, lease.term).end(3)  # yesterday's
    with Lease(root, 60, "2026-01-08") as lease:
        leader = Leader(root, lease.term)
        acts = (lambda: None, lambda: leader.announce("train", b"job"), lambda: leader.end(0))
        assert followed(root, monkeypatch, *acts) == (0, ["train"])


def test_a_step_that_was_announced_already_is_joined_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Lease(str(tmp_path), 60, "2026-01-08") as lease:
        leader = Leader(str(tmp_path), lease.term)
        leader.announce("score", b"job")
        acts = (lambda: None, lambda: leader.end(5))
        assert followed(str(tmp_path), monkeypatch, *acts) == (5, ["score"])
