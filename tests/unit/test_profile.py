"""A log's profile against pandas and the training encoder; the job as a person runs it."""

import itertools
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

from pipeline.data.files import plan
from pipeline.data.manifest import RowGroup
from pipeline.profile import numbers
from pipeline.profile.drift import Rules
from pipeline.profile.lines import SHARES, Profile
from pipeline.profile.page import page
from pipeline.profile.result import result
from pipeline.profile.scan import Scan
from pipeline.profile.tables import sections, text, warnings
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.logs import DAYS, override, put, set_key, small_config, small_job, small_table, write_log

ROOT = Path(__file__).parents[2]
ROWS = 1500
MEMORY = 1 << 30
TASKS = ("click", "cart", "fav", "order")


def profile(job: JobConfig, memory: int = MEMORY, unused: bool = False, rules: Rules | None = None) -> Profile:
    """Of the days DAYS."""
    days = job.data.train.model_copy(update={"last": job.data.eval.last}) if job.data.eval else job.data.train
    manifest = plan(job, days)
    scan = Scan(job, memory)
    scan.run(manifest, lambda progress: None, unused)
    return result(scan, job, days, manifest, rules or Rules())


def frame(log: Path) -> pd.DataFrame:
    """All rows in the log's order, with their day; labels as numbers."""
    parts = []
    for path in sorted(log.glob("dt=*/*.parquet")):
        part = pq.read_table(path).to_pandas()
        part["day"] = path.parent.name[3:]
        parts.append(part)
    whole = pd.concat(parts, ignore_index=True)
    return whole.astype({task: float for task in TASKS if task in whole})


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "log"
    write_log(path, DAYS, ROWS, row_group_rows=[400, 0, 77], files_per_day=2)
    return path


@pytest.fixture(scope="module")
def found(log: Path) -> Profile:
    return profile(small_job(log))


# rates, correlations, funnel


def test_rates_correlations_and_conditional_rates_are_those_of_pandas(log: Path, found: Profile) -> None:
    df = frame(log)
    assert found.rows == len(df) == ROWS * len(DAYS)
    np.testing.assert_allclose(found.correlation, df[list(TASKS)].corr().to_numpy(), rtol=1e-12)
    for a, b in itertools.product(range(4), range(4)):
        assert found.conditional[a][b] == pytest.approx(df[df[TASKS[a]] == 1][TASKS[b]].mean(), rel=1e-12)
    clicked = df[df.click == 1]
    for line in found.tasks:
        own = df if line.given is None else clicked
        assert (line.positives, line.own_positives) == (df[line.name].sum(), own[line.name].sum())
        assert (line.rows, line.own_rows) == (len(df), len(own))
        assert line.rate == pytest.approx(df[line.name].mean(), rel=1e-12)
        assert line.own_rate == pytest.approx(own[line.name].mean(), rel=1e-12)
    for line in found.days:
        day = df[df.day == line.day]
        assert line.rows == len(day)
        for task in TASKS:
            own = day if task == "click" else day[day.click == 1]
            assert line.rate[task] == pytest.approx(day[task].mean(), rel=1e-12)
            assert line.own_rate[task] == pytest.approx(own[task].mean(), rel=1e-12)


def test_ids_are_counted_exactly(log: Path, found: Profile) -> None:
    df = frame(log)
    lines = {line.name: line for line in found.values}
    for name, column in (("user", "user_id"), ("item", "item_id"), ("session", "session"), ("city", "city")):
        counts = df[column].value_counts()
        line = lines[name]
        assert (line.distinct, line.exact, line.lookups) == (len(counts), True, len(df))
        assert line.top == pytest.approx(counts.head(10).sum() / len(df))
        assert line.once == pytest.approx((counts == 1).mean())
    assert lines["session"].shared_values == 1.0, "4,500 sessions on 30 rows"
    history = df.history.explode().dropna()
    assert (lines["history"].distinct, lines["history"].lookups) == (history.nunique(), len(history))


def test_numbers_and_lists_are_those_of_numpy(log: Path, found: Profile) -> None:
    df = frame(log)
    lines = {line.name: line for line in found.numbers}
    for name in ("price", "age"):
        line, x = lines[name], df[name].astype(float)
        assert (line.rows, line.low, line.high) == (len(df), x.min(), x.max())
        assert (line.mean, line.deviation) == (pytest.approx(x.mean()), pytest.approx(x.std(ddof=0)))
        exact = np.quantile(x, SHARES, method="lower")
        centre = float(np.median(x))
        np.testing.assert_allclose(line.quantiles, exact, atol=0.005 * np.abs(exact - centre).max())
    assert lines["age"].quantiles == np.quantile(df.age, SHARES, method="lower").tolist(), "whole numbers are exact"
    assert len(lines["price"].boundaries) == 7
    np.testing.assert_allclose(
        np.diff([0, *(np.mean(df.price < b) for b in lines["price"].boundaries), 1]), 1 / 8, atol=0.01
    )
    (history, recent) = found.lists
    length = df.history.map(len)
    assert (history.empty, history.longest, history.mean) == ((length == 0).sum(), length.max(), length.mean())
    assert history.quantiles == np.quantile(length, SHARES, method="lower").tolist()
    assert recent.column == "recent"


def test_the_files_and_row_groups_do_not_matter(log: Path, found: Profile, tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS, ROWS)
    whole = profile(small_job(tmp_path / "log"))
    for name in ("rows", "tasks", "days", "correlation", "conditional", "values", "missing", "lists"):
        assert getattr(whole, name) == getattr(found, name), name


def test_an_ordinary_log_names_nothing(found: Profile) -> None:
    assert warnings(found) == []
    assert "nothing that asks for a look" in text(sections(found))


def test_columns_that_features_of_earlier_days_are_made_of_are_looked_at(log: Path, found: Profile) -> None:
    config = small_config(log, "out")
    config["features"] += [
        {"name": "of_city", "kind": "target_encoding", "columns": ["city", "user_id"], "task": "click"},
        {"name": "of_item", "kind": "count", "column": "item_id"},
        {"name": "liked", "kind": "history", "by": "user_id", "column": "item_id", "last": 3, "table": "item"},
    ]
    read = {f["name"] for f in config["features"]}
    config["features"] = [f for f in config["features"] if f.get("column", f["name"]) != "city"]
    assert {f["name"] for f in config["features"]} < read, "the city is read by the encoding alone"
    del config["tables"]["city"]
    again = profile(parse_job(config, "test"))
    told = {(line.column, line.kind): line.used_by for line in again.missing}
    assert told.keys() == {(line.column, line.kind) for line in found.missing}
    assert told["city", "string"] == "of_city"


def test_broken_funnels_are_counted_and_the_first_is_named(log: Path, tmp_path: Path) -> None:
    df = frame(log)
    day = df[df.day == DAYS[0]]
    rows = day.index[day.click == 0][[5, 300]].tolist()

    def broken(column: pa.Array) -> pa.Array:
        for row in rows:
            column = put(column, row, 1)
        return column

    write_log(tmp_path / "log", DAYS[:1], ROWS, row_group_rows=100, cart=broken)
    whole = profile(small_job(tmp_path / "log", days=DAYS[:1]))
    counted = {b.child: b for b in whole.funnel}
    assert [counted[name].rows for name in ("cart", "fav", "order")] == [2, 0, 0]
    place = f"dt={DAYS[0]}/part-00000.parquet, row group {rows[0] // 100}, row {rows[0] % 100}"
    assert counted["cart"].first == place
    assert [w for w in warnings(whole) if "'cart' without a 'click'" in w and place in w]


def test_rows_are_named_by_their_place_in_the_row_group(tmp_path: Path) -> None:
    scan = Scan(small_job(tmp_path), 64 << 20)
    table = small_table(100)
    click = table["click"].to_pylist().index(0)
    columns = {"cart": lambda c: put(c, click, 1), "age": lambda c: put(c, 3, None)}
    batch = override(table, columns).combine_chunks().to_batches()[0]
    scan.add(RowGroup(f"log/dt={DAYS[0]}/a.parquet", 2, 70_000, 500), 65_536, batch)
    assert scan.sums.broken[0].first == f"dt={DAYS[0]}/a.parquet, row group 2, row {65_536 + click}"
    assert scan.refusals.found[0].first.startswith(f"dt={DAYS[0]}/a.parquet, row group 2, row {65_536 + 3}: ")


def forest(log: Path) -> dict[str, Any]:
    config = small_config(log, "unused")
    set_key(config, "data.funnel", "drop")
    config["tasks"] = [
        {"name": "click"},
        {"name": "cart", "given": "click", "indicator": "seen"},
        {"name": "fav"},
        {"name": "watch", "kind": "regression", "given": "click"},
        {"name": "order", "given": "cart", "space": "entire"},
    ]
    return config


def alone(log: Path) -> dict[str, Any]:
    """Of one number, on every exposure."""
    config = forest(log)
    config["tasks"] = [{"name": "watch", "kind": "regression"}]
    return config


def test_forests_indicators_and_numbers(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    seen, watch = random.random(ROWS) < 0.6, random.gamma(2.0, 3.0, ROWS) + 1000
    watch[::7] = np.nan
    write_log(tmp_path / "log", DAYS, ROWS, row_group_rows=333, seen=pa.array(seen), watch=pa.array(watch))
    whole = profile(parse_job(forest(tmp_path / "log"), "forest"))
    df = frame(tmp_path / "log")
    own = {
        "click": df,
        "cart": df[(df.click == 1) & df.seen],
        "fav": df,
        "watch": df[(df.click == 1) & df.watch.notna()],
        "order": df[(df.click == 1) & df.seen & (df.cart == 1)],
    }
    for line in whole.tasks:
        assert line.own_rows == len(own[line.name]), line.name
        assert line.own_rate == pytest.approx(own[line.name][line.name].mean(), rel=1e-12)
    names = [line.name for line in whole.tasks]
    known = df.assign(watch=df.watch.where(df.click == 1))
    for name in ("cart", "order"):
        known[name] = known[name].where(df.seen)
    for a, b in itertools.combinations(range(5), 2):
        both = known[[names[a], names[b]]].dropna()
        expected = both.iloc[:, 0].corr(both.iloc[:, 1])
        value = whole.correlation[a][b]
        assert (value is None) if math.isnan(expected) else value == pytest.approx(expected, rel=1e-12, abs=1e-12)
    (line,) = whole.regression
    x = own["watch"].watch
    assert (line.rows, line.mean, line.deviation) == (len(x), pytest.approx(x.mean()), pytest.approx(x.std(ddof=0)))
    assert line.outside == ((df.click == 0) & df.watch.notna()).sum()
    np.testing.assert_allclose(line.quantiles, np.quantile(x, SHARES, method="lower"), atol=0.2)
    for jobs_profile in (whole, profile(parse_job(alone(tmp_path / "log"), "alone"))):
        assert "</html>" in page(jobs_profile).html()
        json.dumps(jobs_profile.to_json(), allow_nan=False)
    assert len([r for r in whole.refused if r.column == "watch"]) == 1, "the NaN where it is trained"
    assert sum(r.rows for r in whole.refused) == ((df.click == 1) & df.watch.isna()).sum()


# numbers


def test_bins_rise_with_the_numbers_and_keep_them() -> None:
    random = np.random.default_rng(0)
    x_N = np.sort(
        np.concatenate([random.normal(0, 1, 5000), random.lognormal(0, 5, 5000), [-np.inf, np.inf, 0.0, -0.0]])
    )
    bin_N = numbers.bins(x_N, 0.25)
    assert (np.diff(bin_N) >= 0).all()
    assert bin_N.min() >= 0
    assert bin_N.max() < 1 << numbers.BITS
    inside_N = np.isfinite(x_N)
    back_N = numbers.values(bin_N[inside_N], 0.25)
    np.testing.assert_array_less(np.abs(back_N - x_N[inside_N]), 0.004 * np.abs(x_N[inside_N] - 0.25) + 1e-30)
    whole_N = np.arange(-200.0, 201.0)
    np.testing.assert_array_equal(numbers.values(numbers.bins(whole_N, 0.0), 0.0), whole_N)


# memory


def test_memory_does_not_grow_with_the_row_groups(tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS[:1], 12_000, row_group_rows=200)
    job = small_job(tmp_path / "log", days=DAYS[:1], changes={"data.train": {"from": DAYS[0], "to": DAYS[0]}})
    manifest, scan, held = plan(job, job.data.train), Scan(job, 64 << 20), []
    tracemalloc.start()
    try:
        scan.run(manifest, lambda p: held.append(tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes()))
    finally:
        tracemalloc.stop()
    assert len(held) == 60
    # what grows are the counts of 12,000 sessions that never come again
    assert held[-1] - held[9] < 1 << 20


def test_beyond_the_memory_values_are_estimated_and_tallies_have_fewer_slots(tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS[:1], 30_000, row_group_rows=5000)
    whole = profile(small_job(tmp_path / "log", days=DAYS[:1]), memory=4 << 20)
    session = next(line for line in whole.values if line.name == "session")
    assert not session.exact
    assert session.top is None
    assert session.distinct == pytest.approx(30_000, rel=0.2)
    assert "~ estimated" in text(sections(whole))
    assert whole.suspects == []
    assert (
        Scan(small_job(tmp_path / "log", days=DAYS[:1]), 4 << 20).bits < Scan(small_job(tmp_path / "log"), 1 << 30).bits
    )
