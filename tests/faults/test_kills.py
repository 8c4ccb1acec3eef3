"""A few points of the campaign in tests/faults/kills.py, which is run whole by hand: docs/LOG.md has its output."""

import signal
from pathlib import Path

import pytest

from tests.faults.kills import Campaign


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "SIGTERM"])
def test_a_job_struck_at_random_points_trains_every_row_once(tmp_path: Path, number: signal.Signals) -> None:
    run = Campaign(tmp_path, seed=5, number=number)
    run.job(points=2)
    assert run.tally.points == 2
    assert run.tally.resized == 1
