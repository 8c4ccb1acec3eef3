"""What a history keeps to: its memory, the same numbers under another policy of bad data, cheap checks first."""

import datetime
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.train import prepare
from pipeline.data import history
from pipeline.data.freeze import plan_from_bytes, plan_job
from pipeline.data.history import _entries, _held, _together, history_of, scoring_day
from pipeline.data.history_lists import RunningLists, times
from pipeline.data.history_lookup import Running, build_bytes, held_bytes
from pipeline.data.history_statistics import DayLists, DaySums
from pipeline.data.manifest import HISTORY
from schemas.errors import InputError
from tests.logs import set_key, small_config, write_config, write_log, write_parquet
from tests.unit.test_history import WEEK, batch_of, log
from tests.unit.test_history_days import CTR, ORDER, files_of, one
from tests.unit.test_history_files import BEFORE, encoded_of

__all__ = ["log"]
LENIENT = {"labels": "quarantine", "rows_per_day": 3}


# ---- memory


def peak_and_rest(build: Callable[[list[Any]], Any], days: Callable[[], list[Any]]) -> tuple[int, int]:
    """Bytes held at most while something is built of days, with these; and when it is built, without them."""
    tracemalloc.start()
    try:
        own = days()
        tracemalloc.reset_peak()
        built = build(own)
        peak = tracemalloc.get_traced_memory()[1]
        own.clear()
        rest = tracemalloc.get_traced_memory()[0]
        del built
        return peak, rest
    finally:
        tracemalloc.stop()


def sums(values: int, days: int, tasks: int) -> list[list[DaySums]]:
    return [
        [DaySums(np.arange(values) * 7919, np.ones(values, np.int64), np.zeros(values)) for _ in range(days)]
        for _ in range(tasks)
    ]


@pytest.mark.parametrize(("values", "days", "tasks"), [(2**18 + 1, 1, 1), (2**18 + 1, 1, 3), (30_000, 10, 2)])
def test_sums_take_no_more_than_is_told(values: int, days: int, tasks: int) -> None:
    peak, rest = peak_and_rest(
        lambda own: Running(range(days), dict(zip("abc", own, strict=False))), lambda: sums(values, days, tasks)
    )
    entries = values * days
    assert rest <= held_bytes(entries, tasks)
    assert peak <= held_bytes(entries, tasks) + build_bytes(entries, tasks)
    assert peak > (held_bytes(entries, tasks) + build_bytes(entries, tasks)) / 2


@pytest.mark.parametrize(("values", "days"), [(2**18 + 1, 1), (30_000, 10)])
def test_lists_take_no_more_than_is_told(values: int, days: int) -> None:
    peak, rest = peak_and_rest(
        lambda own: RunningLists(range(days), own, 20),
        lambda: [DayLists(np.arange(values) * 7919, np.arange(values)) for _ in range(days)],
    )
    assert rest <= held_bytes(values * days, 1)
    assert peak <= held_bytes(values * days, 1) + build_bytes(values * days, 1)


def test_tasks_that_share_no_row_are_added_up(log: Path) -> None:
    """The values of a task of all rows are all values; of two tasks with indicators each may have its own."""

    def entries(**changes: Any) -> tuple[int, list[int]]:
        job = one(log, CTR, {**ORDER, "column": "item_id"}, **changes)
        index = {s.name: {"2026-01-01": ["", "", n]} for s, n in zip(_together(job)[0], (100, 70), strict=True)}
        return _entries(job, index, _together(job)[0])

    assert entries() == 100
    assert entries(tasks__click__indicator="shown") == 170


def test_the_structure_of_training_goes_before_the_evaluations_comes(
    log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, held, build = one(log), [], history._running
    made = plan_job(job, None)
    monkeypatch.setattr(history, "_running", lambda job, index: held.append(len(_held)) or build(job, index))
    assert made.evaluation is not None
    for manifest in (made.training.manifest, made.training.manifest, made.evaluation):
        history_of(job, manifest.origin[HISTORY])
    assert held == [0, 0]


# ---- another policy of bad data


@pytest.mark.parametrize("gone", [False, True])
def test_a_resume_under_another_policy_keeps_the_statistics(log: Path, gone: bool) -> None:
    """The policy is free to change in a resume: the run may have met a bad label."""
    job = one(log, **BEFORE)
    made = plan_job(job, None)
    want = encoded_of(job, made)
    _held.clear()
    if gone:
        for path in files_of(job):
            path.unlink()
    lenient = one(log, data__bad=LENIENT, **BEFORE)
    again = plan_job(lenient, made.training.manifest.to_bytes())
    assert encoded_of(lenient, again).tobytes() == want.tobytes()


def test_a_file_without_a_column_of_another_feature_counts_at_scoring_and_in_training(log: Path) -> None:
    """Training leaves it out for that column; its labels are facts all the same, and scoring does not read `age`."""
    first = log / f"dt={WEEK[0]}"
    write_parquet(first / "part-00001.parquet", pq.read_table(first / "part-00000.parquet").drop_columns(["age"]), 64)
    bad = {"schema": "quarantine", "row_groups_per_day": 9}
    job = one(log, {**CTR, "transform": "none", "default": 0.5}, data__bad=bad)
    made = plan_from_bytes(plan_job(job, None).to_bytes(), job)
    day, batch = datetime.date.fromisoformat(WEEK[1]), batch_of(log, WEEK[1])
    trained = history_of(job, made.training.manifest.origin[HISTORY]).numbers(job.history, batch, day)
    scored = scoring_day(job, day).numbers(job.history, batch, day)
    assert trained[0].tobytes() == scored[0].tobytes()
    assert made.evaluation is not None
    names = {name for days in made.evaluation.origin[HISTORY].values() for name, *_ in days.values()}
    assert names == {str(path.relative_to(f"{job.output}/statistics")) for path in files_of(job)}


# ---- folders and checks


@pytest.mark.parametrize("written", ["{}", "{}/", "file://{}", "{}/../log"])
def test_statistics_do_not_lie_in_the_log(log: Path, written: str) -> None:
    """They would be its rows."""
    with pytest.raises(InputError, match="is the log itself"):
        one(log, data__history={"folder": written.format(log)})


def test_a_mistake_is_told_before_a_day_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path / "log", WEEK, 30)
    config = small_config(tmp_path / "log", tmp_path / "out", WEEK)
    config["features"].append(CTR)
    set_key(config, "model.norm", "batch")
    set_key(config, "train.batch_size", 1)
    with pytest.raises(InputError, match=r"train.batch_size: 120 rows in steps of 1 leave a step of one row"):
        prepare([str(write_config(tmp_path / "job.yaml", config))])
    (tmp_path / "file").write_text("")
    set_key(config, "model.norm", "layer")
    with pytest.raises(InputError, match=r"tracking.folder: '.*file' cannot be written"):
        prepare([str(write_config(tmp_path / "job.yaml", config)), f"tracking.folder={tmp_path / 'file'}"])
    assert "history of" not in capsys.readouterr().out


def test_times_of_unlike_units_compare() -> None:
    moments = pa.array([datetime.datetime(2026, 1, 1, 0, 0, 1), None, datetime.datetime(1969, 1, 1)])
    want = times(moments.cast(pa.timestamp("ns"))).tolist()
    assert want[1] < want[2] < want[0]
    for unit in ("s", "ms", "us"):
        assert times(moments.cast(pa.timestamp(unit))).tolist() == want
    days = pa.array([datetime.date(2026, 1, 1), None])
    assert (
        times(days).tolist() == times(days.cast(pa.date64())).tolist() == times(days.cast(pa.timestamp("s"))).tolist()
    )
    assert times(pa.array([5, None, -3], pa.int8())).tolist() == [5, -(2**63), -3]
    far = times(pa.array([2**62, 1], pa.int64()).cast(pa.timestamp("s")))
    assert far[0] > far[1]
