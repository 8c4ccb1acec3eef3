"""What a run has cost, by a clock of the test's own."""

import json

import pytest

from pipeline.train import pace
from pipeline.train.pace import START_STEPS, Pace


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace.time, "perf_counter", clock)
    return clock


def train(told: Pace, clock: Clock, start: int, steps: int, seconds: float) -> None:
    """Steps of 10 rows; each is followed by 5 seconds aside."""
    told.begin(start)
    for step in range(1, steps + 1):
        clock.now += seconds
        told.step(start + 10 * step)
        with told.aside():
            clock.now += 5


def test_the_start_and_what_is_aside_are_not_timed(clock: Clock) -> None:
    told = Pace()
    train(told, clock, 0, START_STEPS, 60)
    assert told.rows_per_second is None
    clock.now += 5
    train(told, clock, 50, START_STEPS + 20, 0.5)
    assert (told.timed_rows, told.timed_seconds) == (200, pytest.approx(10))
    assert told.rows_per_second == pytest.approx(20)


def test_a_run_that_goes_on_counts_its_earlier_attempts(clock: Clock) -> None:
    first = Pace(rss_bytes=70, cuda_bytes=0)
    train(first, clock, 0, START_STEPS + 10, 1)
    kept = first.encoded()
    assert json.loads(kept)["seconds"] == pytest.approx(6 * (START_STEPS + 10))
    train(first, clock, 0, 100, 9)  # lost with the attempt

    second = Pace(rss_bytes=50, cuda_bytes=3)
    second.restore(kept)
    train(second, clock, 10 * (START_STEPS + 10), START_STEPS + 10, 3)
    assert second.rows_per_second == pytest.approx((100 + 100) / (10 + 30))
    values = second.values()
    assert (values["rss_bytes"], values["cuda_bytes"]) == (70, 3)
    assert values["seconds"] == pytest.approx(6 * (START_STEPS + 10) + 8 * (START_STEPS + 10))
    assert second.values()["seconds"] == values["seconds"], "told twice, counted once"


def test_a_run_that_had_ended_keeps_its_rate(clock: Clock) -> None:
    first = Pace()
    train(first, clock, 0, START_STEPS + 10, 1)
    again = Pace()
    again.restore(first.encoded())
    assert again.rows_per_second == pytest.approx(10)
