"""A day's statistics against pandas; what training refuses and leaves out; event_time."""

import datetime
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.daily import differences
from pipeline.daily.columns import ColumnDay, NumberWatch, ValueWatch
from pipeline.daily.event_times import EventTimes
from pipeline.daily.statistics import DayStatistics, day_statistics, edges_of
from pipeline.data.checks import Where
from pipeline.data.files import plan
from schemas.daily import ChecksConfig
from schemas.errors import InputError
from schemas.events import DayRange
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.logs import DAYS, override, put, small_config, small_job, small_table, write_log, write_parquet

DAY = datetime.date.fromisoformat(DAYS[0])
ROWS = 3000
MASK = (1 << 64) - 1


def statistics(job: JobConfig, day: str = DAYS[0], recent: list[DayStatistics] | None = None) -> DayStatistics:
    date = datetime.date.fromisoformat(day)
    manifest = plan(job, DayRange.model_validate({"from": date, "to": date}))
    return day_statistics(job, date, manifest, lambda text: None, edges_of(recent or []))


def column(found: DayStatistics, name: str, kind: str) -> ColumnDay:
    return next(c for c in found.columns if c.key == (name, kind))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("statistics") / "log"
    write_log(root, DAYS, ROWS, row_group_rows=[700, 0, 333], files_per_day=2)
    return root


def frame(log: Path, day: str = DAYS[0]) -> pd.DataFrame:
    return pd.concat([pq.read_table(path).to_pandas() for path in sorted(log.glob(f"dt={day}/*.parquet"))])


def fmix64(x: int) -> int:
    """MurmurHash3's finaliser, of one integer."""
    for multiplier in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        x = (x ^ (x >> 33)) * multiplier & MASK
    return x ^ (x >> 33)


def test_rows_rates_means_and_missing_shares_are_those_of_pandas(log: Path) -> None:
    found, df = statistics(small_job(log)), frame(log)
    clicked = df[df.click == 1]
    assert (found.rows, found.left_out, found.day) == (ROWS, 0, DAYS[0])
    assert found.tasks["click"].mean == pytest.approx(df.click.mean(), rel=1e-12)
    assert found.tasks["click"].rows == ROWS
    for task in ("cart", "fav", "order"):
        assert found.tasks[task].rows == len(clicked)
        assert found.tasks[task].mean == pytest.approx(clicked[task].astype(float).mean(), rel=1e-12)
    for name in ("price", "age"):
        assert column(found, name, "number").values.mean == pytest.approx(df[name].astype(float).mean(), rel=1e-9)
        assert column(found, name, "number").values.std == pytest.approx(df[name].astype(float).std(ddof=0), rel=1e-9)
    length = df.history.map(len)
    assert column(found, "history", "length").values.mean == pytest.approx(length.mean(), rel=1e-12)
    assert column(found, "history_weight", "weights").values.rows == length.sum()
    weights = np.concatenate(df.history_weight.to_list()).astype(np.float64)
    assert column(found, "history_weight", "weights").values.mean == pytest.approx(weights.mean(), rel=1e-9)
    assert all(c.missing.mean == 0 for c in found.columns)
    assert {c.key for c in found.columns} >= {("user_id", "id"), ("city", "string"), ("history", "elements")}


def test_the_histogram_of_values_is_that_of_their_hash_and_its_positives_the_first_tasks(log: Path) -> None:
    found, df = statistics(small_job(log)), frame(log)
    for name in ("user_id", "item_id"):
        slots = df[name].map(lambda x: fmix64(int(x)) & 255)
        np.testing.assert_array_equal(column(found, name, "id").count_R, np.bincount(slots, minlength=256))
        np.testing.assert_array_equal(column(found, name, "id").one_R, np.bincount(slots, df.click, 256).astype(int))
    elements = np.concatenate(df.history.to_list()).astype(int)
    expected = np.bincount([fmix64(int(x)) & 255 for x in elements], minlength=256)
    np.testing.assert_array_equal(column(found, "history", "elements").count_R, expected)


def test_numbers_are_counted_between_the_edges_of_the_first_day(log: Path) -> None:
    job = small_job(log)
    first = statistics(job)
    second = statistics(job, DAYS[1], [first])
    for name in ("price", "age"):
        one, two = column(first, name, "number"), column(second, name, "number")
        assert one.edges == two.edges
        assert one.count_R.sum() == two.count_R.sum() == ROWS
        assert one.count_R.max() < 3 * ROWS / len(one.count_R)  # near-equal groups
        # the distance of the two days, counted by pandas between the first day's quantiles
        a, b = frame(log)[name].astype(float), frame(log, DAYS[1])[name].astype(float)
        cuts = np.unique(np.quantile(a, np.linspace(0, 1, 65)[1:-1]))
        p, q = (np.bincount(np.searchsorted(cuts, x, side="right"), minlength=len(cuts) + 1) / ROWS for x in (a, b))
        told = differences.distance(two, [one], [one])
        assert told.here == pytest.approx(np.abs(p - q).sum() / 2, abs=0.02)
    whole = column(first, "age", "number")  # whole numbers: each has a group of its own where there are 65 of them
    assert len(whole.count_R) > 50


def test_a_day_is_the_same_however_it_is_cut_into_files(tmp_path: Path) -> None:
    write_log(tmp_path / "a", DAYS[:1], 500, row_group_rows=500)
    write_log(tmp_path / "b", DAYS[:1], 500, row_group_rows=[77, 13], files_per_day=3)
    one = statistics(small_job(tmp_path / "a"))
    two = statistics(small_job(tmp_path / "b"), DAYS[0], [one])
    for a, b in zip(one.columns, two.columns, strict=True):
        np.testing.assert_array_equal(a.count_R, b.count_R)
        np.testing.assert_array_equal(a.one_R, b.one_R)
        assert a.values.mean == pytest.approx(b.values.mean, rel=1e-12)
        if a.sample is not None and b.sample is not None:
            np.testing.assert_array_equal(a.sample.hash_K, b.sample.hash_K)
            np.testing.assert_array_equal(a.sample.count_K, b.sample.count_K)


def test_statistics_survive_json(log: Path) -> None:
    found = statistics(small_job(log))
    text = json.dumps(found.to_json(), allow_nan=False)
    assert len(text) < 40_000
    assert json.dumps(DayStatistics.from_json(json.loads(text)).to_json()) == text
    with pytest.raises(InputError, match="format 2, this version reads 1"):
        DayStatistics.from_json(json.loads(text) | {"format": 2})


def test_the_share_of_new_values_is_exact_of_few_and_near_of_many() -> None:
    random = np.random.default_rng(0)

    def day(values: np.ndarray) -> ColumnDay:
        watch = ValueWatch("user_id", "id", "user")
        for part in np.array_split(values, 3):
            watch.add(pa.array(part), pa.array(np.zeros(len(part), np.bool_)))
        return watch.day()

    few = [random.integers(0, 300, 4000), random.integers(100, 350, 4000)]
    expected = 1 - np.isin(few[1], few[0]).mean()
    assert differences.fresh(day(few[1]), [day(few[0])], [day(few[0])]).here == pytest.approx(expected, rel=1e-12)
    rare = [np.repeat([1, 2, 3], 1000), np.append(np.repeat([1, 2, 3], 1000), 4)]  # a quarter of the values
    assert differences.fresh(day(rare[1]), [day(rare[0])], [day(rare[0])]).here == pytest.approx(1 / 3001)
    off = []
    for seed in range(20):
        value_V = np.random.default_rng(seed).integers(0, 1 << 62, 13_000)
        told = differences.fresh(day(value_V[3000:]), [day(value_V[:10_000])], [])
        off.append((told.here - 0.3) / math.sqrt(0.3 * 0.7 / 400))  # some 450 sampled values are below both thresholds
        assert told.here / told.z == pytest.approx(math.sqrt(0.3 * 0.7 / 500), rel=0.2)
    assert abs(np.mean(off)) < 0.7
    assert 0.6 < np.std(off) < 1.5


def test_the_weights_of_very_long_lists_are_thinned_for_the_histogram_alone() -> None:
    watch = NumberWatch("w", "weights", "history", None)
    x_M = np.random.default_rng(0).normal(3, 2, 200_000)
    watch.add(
        pa.ListArray.from_arrays(pa.array([0, 100_000, 200_000], pa.int32()), pa.array(x_M)), pa.array([True] * 2)
    )
    found = watch.day()
    assert found.values.rows == 200_000
    assert found.values.mean == pytest.approx(x_M.mean(), rel=1e-12)
    assert found.values.std == pytest.approx(x_M.std(), rel=1e-9)
    assert found.count_R.sum() == 50_000
    assert not len(found.one_R)


# unknown ids, missing values, quarantine


def test_unknown_ids_and_missing_values_are_counted_apart(tmp_path: Path) -> None:
    item = pa.array([*range(40), 40, -1, None, None], pa.int32())  # two outside of the table's 40 rows, two missing
    city = pa.array(["Oslo"] * 40 + [None] * 4)
    age = pa.array([math.nan, None, *([30.0] * 42)])
    write_log(tmp_path, DAYS[:1], 44, item_id=item, city=city, age=age)
    changes = {"features.item.missing": "unknown", "features.city.missing": "unknown", "features.age.missing": 30}
    found = statistics(small_job(tmp_path, changes=changes))
    assert found.unknown["item"].rows == 42
    assert found.unknown["item"].mean == pytest.approx(2 / 42)
    assert column(found, "item_id", "id").missing.mean == pytest.approx(2 / 44)
    assert (found.unknown["city"].rows, found.unknown["city"].mean) == (40, 0.0)
    assert column(found, "city", "string").missing.mean == pytest.approx(4 / 44)
    assert column(found, "age", "number").missing.mean == pytest.approx(2 / 44)
    assert column(found, "age", "number").values.rows == 42


def test_what_training_refuses_is_refused_by_name(tmp_path: Path) -> None:
    paths = write_log(tmp_path, DAYS[:1], 60, row_group_rows=20, age=lambda c: put(c, 47, math.nan))
    with pytest.raises(InputError, match=r"part-00000.parquet, row group 2: column 'age' holds nan \(row 7\)"):
        statistics(small_job(tmp_path))
    write_parquet(paths[0], override(small_table(60), {"click": lambda c: put(c, 3, 2)}), 20)
    with pytest.raises(InputError, match=r"row group 0: label 'click' holds 2 \(row 3\)"):
        statistics(small_job(tmp_path))


def test_rows_under_quarantine_are_left_out_and_counted_against_the_budget(tmp_path: Path) -> None:
    write_log(tmp_path, DAYS[:1], 60, row_group_rows=20, age=lambda c: put(put(c, 47, math.nan), 3, math.inf))
    bad = {"values": "quarantine", "rows_per_day": 2}
    found = statistics(small_job(tmp_path, changes={"data.bad": bad}))
    df = frame(tmp_path).reset_index().drop(index=[3, 47])
    assert (found.rows, found.left_out) == (58, 2)
    assert found.tasks["click"].mean == pytest.approx(df.click.mean())
    assert column(found, "age", "number").values.mean == pytest.approx(df.age.mean())
    assert column(found, "user_id", "id").missing.rows == 58
    assert found.event_time.rows == 58
    with pytest.raises(InputError, match="2 rows under quarantine, the budget is 1"):
        statistics(small_job(tmp_path, changes={"data.bad": bad | {"rows_per_day": 1}}))


def test_a_row_group_that_cannot_be_decoded_is_left_out_or_ends_the_pass(tmp_path: Path) -> None:
    path = Path(write_log(tmp_path, DAYS[:1], 60, row_group_rows=20)[0])
    job = small_job(tmp_path, changes={"data.bad": {"corrupt": "quarantine", "row_groups_per_day": 1}})
    manifest = plan(job, DayRange.model_validate({"from": DAY, "to": DAY}))
    raw = bytearray(path.read_bytes())
    place = pq.ParquetFile(path).metadata.row_group(1).column(0)
    raw[place.data_page_offset + place.total_compressed_size - 3] ^= 255
    path.write_bytes(raw)
    found = day_statistics(job, DAY, manifest, lambda text: None)
    assert (found.rows, found.left_out) == (40, 1)
    with pytest.raises(InputError, match="row group 1"):
        statistics(small_job(tmp_path))


def test_indicators_regression_labels_and_features_of_earlier_days(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    seen, watch = random.integers(0, 2, 200), random.normal(50, 9, 200)
    write_log(tmp_path, DAYS[:1], 200, seen=pa.array(seen), watch=pa.array(watch))
    tasks: list[dict[str, Any]] = [
        {"name": "click", "indicator": "seen"},
        {"name": "watch", "kind": "regression", "given": "click", "clip": [40, 60]},
    ]
    config = small_config(tmp_path, "unused")
    config["features"].append({"name": "city_count", "kind": "count", "column": "city", "days": 1})
    found, df = statistics(parse_job(config | {"tasks": tasks}, "test")), frame(tmp_path).reset_index()
    own = df[df.seen == 1]
    assert found.indicators["click"].mean == pytest.approx(df.seen.mean())
    assert (found.tasks["click"].rows, found.tasks["click"].mean) == (len(own), pytest.approx(own.click.mean()))
    clipped = own[own.click == 1].watch.clip(40, 60)
    assert found.tasks["watch"].mean == pytest.approx(clipped.mean(), rel=1e-6)
    assert found.tasks["watch"].std == pytest.approx(clipped.std(ddof=0), rel=1e-6)
    assert column(found, "city", "string").one_R.sum() == own.click.sum()


# event_time

MIDNIGHT = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def times(offsets_minutes: list[float], kind: pa.DataType) -> pa.Array:
    stamps = [MIDNIGHT + datetime.timedelta(minutes=m) for m in offsets_minutes]
    return pa.array(stamps, pa.timestamp("us", "UTC")).cast(kind, safe=False)


@pytest.mark.parametrize("kind", [pa.timestamp(u, z) for u in ("ms", "us", "ns") for z in (None, "Asia/Tokyo")])
def test_rows_outside_of_their_day_are_counted_and_the_furthest_is_named(tmp_path: Path, kind: pa.DataType) -> None:
    column = times([-60, -61, 0, 720, 1500, 1499, 1440 * 400, 30], kind)
    write_log(tmp_path, DAYS[:1], 8, row_group_rows=3, event_time=column)
    found = statistics(small_job(tmp_path)).event_time
    assert (found.rows, found.outside, found.types) == (8, 3, [str(kind)])  # 1500 is the end of the slack: outside
    assert found.worst.startswith("dt=2026-01-01/part-00000.parquet, row group 2, row 0: 2027-02-05 ")


def test_clock_and_slack_move_the_days_ends(tmp_path: Path) -> None:
    write_log(tmp_path, DAYS[:1], 6, event_time=times([-480, -481, 959, 960, 0, 1], pa.timestamp("ms", "UTC")))
    daily = {"checks": {"clock_hours": -8, "slack_minutes": 0}}
    assert statistics(small_job(tmp_path, changes={"daily": daily})).event_time.outside == 2


def test_dates_are_days_and_a_missing_time_lies_outside(tmp_path: Path) -> None:
    days = [DAY, DAY + datetime.timedelta(1), None, DAY]
    for kind in (pa.date32(), pa.date64()):
        write_log(tmp_path / str(kind), DAYS[:1], 4, event_time=pa.array(days, kind))
        found = statistics(small_job(tmp_path / str(kind))).event_time
        assert found.outside == 2
        assert found.worst.endswith("row 1: 2026-01-02")
    write_log(tmp_path / "none", DAYS[:1], 2, event_time=pa.array([DAY, None], pa.date32()))
    assert statistics(small_job(tmp_path / "none")).event_time.worst.endswith("row 1: no time")


def test_a_missing_time_is_no_time_on_any_day() -> None:
    times = EventTimes(datetime.date(1970, 1, 1), ChecksConfig())
    times.add(pa.array([0, None, 1], pa.timestamp("s")), Where("log/dt=1970-01-01/a.parquet", 0, 0))
    assert (times.day().outside, times.day().worst) == (1, "dt=1970-01-01/a.parquet, row group 0, row 1: no time")


def test_rows_that_are_left_out_do_not_move_the_place_of_others(tmp_path: Path) -> None:
    def future(column: pa.Array) -> pa.Array:
        return put(column, 27, datetime.datetime(2031, 1, 1, tzinfo=datetime.UTC))

    write_log(tmp_path, DAYS[:1], 60, row_group_rows=20, age=lambda c: put(c, 23, math.nan), event_time=future)
    found = statistics(small_job(tmp_path, changes={"data.bad": {"values": "quarantine", "rows_per_day": 1}}))
    assert found.event_time.worst.startswith("dt=2026-01-01/part-00000.parquet, row group 1, row 7: 2031-01-01")


def test_a_time_beyond_all_calendars_is_told_as_a_number(tmp_path: Path) -> None:
    column = pa.array([2**62, 0], pa.int64()).view(pa.timestamp("ms"))
    write_log(tmp_path, DAYS[:1], 2, event_time=column)
    found = statistics(small_job(tmp_path)).event_time
    assert (found.outside, str(2**62) in found.worst) == (2, True)


def test_integers_are_no_time(tmp_path: Path) -> None:
    write_log(tmp_path, DAYS[:1], 2, event_time=pa.array([1, 2]))
    with pytest.raises(InputError, match=r"row group 0: column 'event_time' holds int64.*write it as a timestamp"):
        statistics(small_job(tmp_path))


def test_progress_is_told_now_and_then(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.daily.statistics.TELL_SECONDS", 0.0)
    told: list[str] = []
    job = small_job(log)
    day_statistics(job, DAY, plan(job, DayRange.model_validate({"from": DAY, "to": DAY})), told.append)
    assert told[-1].startswith(f"validating 2026-01-01: {ROWS:,} of {ROWS:,} rows, ")


def test_memory_does_not_grow_with_the_day(tmp_path: Path) -> None:
    peaks = []
    for groups in (2, 16):
        root = tmp_path / str(groups)
        write_log(root, DAYS[:1], 2000 * groups, row_group_rows=2000)
        job = small_job(root)
        statistics(job)  # what is made once
        tracemalloc.start()
        statistics(job)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
