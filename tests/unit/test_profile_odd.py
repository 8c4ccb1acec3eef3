"""Profiles of odd logs: numbers of any size, labels far from zero or all alike, columns of any type."""

import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.profile.drift import odd_sizes
from pipeline.profile.lines import SHARES, Profile
from pipeline.profile.page import page
from pipeline.profile.tables import sections, text, warnings
from schemas.load import parse_job
from tests.logs import DAYS, small_config, small_job, small_table, write_log
from tests.unit.test_profile import profile

ROWS = 1500


def with_amount(log: Path, amount: np.ndarray, unused: bool = False, **columns: Any) -> Profile:
    """Of a log with a regression task on every row, the same labels every day."""
    write_log(log, DAYS, len(amount), amount=pa.array(amount), **columns)
    config = small_config(log, "unused")
    config["tasks"] = [{"name": "click"}, {"name": "amount", "kind": "regression"}]
    return profile(parse_job(config, "amount.yaml"), unused=unused)


def test_quantiles_are_of_finite_numbers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    age_N = np.where(random.random(ROWS) < 0.2, np.inf, random.integers(0, 100, ROWS))
    write_log(tmp_path, DAYS, ROWS, age=pa.array(age_N))
    line = next(line for line in profile(small_job(tmp_path)).numbers if line.name == "age")
    there_N = np.tile(age_N[np.isfinite(age_N)], 3)
    assert line.rows == len(there_N)
    np.testing.assert_allclose(line.quantiles, np.quantile(there_N, SHARES, method="lower"), atol=0.005 * 100)


@pytest.mark.parametrize("far", [1e200, -1e300, 1.7e308])
def test_numbers_of_any_size_end_nothing(tmp_path: Path, far: float) -> None:
    some_N = np.random.default_rng(0).random(ROWS) < 0.01
    found = with_amount(tmp_path, np.where(some_N, far, 1.0), age=pa.array(np.where(some_N, far, 5.0)))
    assert "e+" in text(sections(found))
    json.dumps(found.to_json(), allow_nan=False)
    line = next(line for line in found.numbers if line.name == "age")
    assert (line.low, line.high) == (min(5.0, far), max(5.0, far))
    assert [r.column for r in found.refused] == ["age", "amount"], "too large for 32 bits"


def test_a_leak_of_labels_far_from_zero_is_found_and_chance_is_not(tmp_path: Path) -> None:
    """Sums of squares of 10^18 have lost what the labels differ by."""
    random = np.random.default_rng(0)
    amount_N = 1.6e9 + random.normal(size=ROWS)
    nearly_N = amount_N + 0.01 * random.normal(size=ROWS)
    found = with_amount(tmp_path, amount_N, unused=True, nearly=pa.array(nearly_N), noise=pa.array(random.random(ROWS)))
    told = {t.column: t for t in found.told if t.task == "amount"}
    assert {column for column, t in told.items() if t.suspect} == {"nearly"}
    assert told["nearly"].score > 0.98
    assert all(t.score < 0.05 for column, t in told.items() if column != "nearly")


@pytest.mark.parametrize("value", [0.0, 0.1, 3.3, 1e9])
def test_labels_all_alike_have_nothing_to_tell(tmp_path: Path, value: float) -> None:
    found = with_amount(tmp_path, np.full(ROWS, value))
    assert not [t for t in found.told if t.task == "amount"]
    assert found.correlation[1] == [None, None]
    (line,) = found.regression
    assert (line.mean, line.deviation) == (value, 0.0)


def test_a_day_without_a_row_is_named(tmp_path: Path) -> None:
    paths = write_log(tmp_path, DAYS, 60)
    pq.write_table(pq.read_table(paths[1]).slice(0, 0), paths[1])
    found = profile(small_job(tmp_path))
    assert [(line.day, line.rows) for line in found.days] == list(zip(DAYS, (60, 0, 60), strict=True))
    assert warnings(found) == [f"{DAYS[1]}: the number of rows is 0, the median of the other days 60"]
    assert [cells[:3] for cells in sections(found)[2].tables[0].rows][1] == [DAYS[1], "0", ""]
    page(found)
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ((60, 0, 60), [1]),
        ((100, 1, 110), [1]),
        ((110, 1, 100), [1]),
        ((100, 100, 500), [2]),
        ((100, 190, 100), []),
        ((0, 0, 0), []),
        ((100, 1), []),
        ((100, 10, 100, 120, 5000, 90), [1, 4]),
    ],
)
def test_one_odd_number_of_rows_makes_no_other_odd(rows: tuple[int, ...], named: list[int]) -> None:
    assert [int(odd.day) for odd in odd_sizes({str(day): n for day, n in enumerate(rows)}, 2.0)] == named


OF_A_CLICK = {
    "timestamp": pa.scalar(datetime.datetime(2026, 1, 1, 12), pa.timestamp("us", "UTC")),
    "date": pa.scalar(datetime.date(2026, 1, 1)),
    "time": pa.scalar(datetime.time(12), pa.time32("s")),
    "duration": pa.scalar(datetime.timedelta(minutes=1), pa.duration("ms")),
    "decimal": pa.scalar(decimal.Decimal("1.50")),
    "binary": pa.scalar(b"x"),
    "fixed binary": pa.scalar(b"xx", pa.binary(2)),
    "boolean": pa.scalar(True),
}


def test_a_column_of_any_type_that_only_clicks_have_is_a_suspect(tmp_path: Path) -> None:
    """The time of the click is the classic: it is there where there was one."""
    click = small_table(ROWS)["click"]
    only = {
        name: pc.if_else(pc.equal(click, 1), value, pa.scalar(None, value.type)) for name, value in OF_A_CLICK.items()
    }
    always = {f"any {name}": pa.array([value.as_py()] * ROWS, value.type) for name, value in OF_A_CLICK.items()}
    write_log(tmp_path, DAYS[:1], ROWS, **only, **always)
    found = profile(small_job(tmp_path, days=DAYS[:1]), unused=True)
    assert {(t.column, t.task) for t in found.suspects} == {(name, "click") for name in OF_A_CLICK}
    assert len(warnings(found)) == len(OF_A_CLICK)
    missing = {line.column: line.nulls for line in found.missing}
    assert {missing[name] for name in OF_A_CLICK} == {ROWS - pc.sum(click).as_py()}
    assert {missing[f"any {name}"] for name in OF_A_CLICK} == {0}
