"""Days unlike the others: what is planted is named on its day, and nothing else is."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.profile.drift import Day, odd_days, odd_sizes, relative
from pipeline.profile.tables import warnings
from tests.logs import DAYS, small_job, write_log
from tests.unit.test_profile import ROWS, profile


def rates(days: list[str], shares: list[float], rows: int = 1000) -> list[Day]:
    return [Day(day, rows, rows * share, rows * share) for day, share in zip(days, shares, strict=True)]


def test_the_odd_day_alone_is_named() -> None:
    names = ["a", "b", "c", "d"]
    assert [o.day for o in odd_days("x", rates(names, [0.2, 0.4, 0.2, 0.21]), 5, relative(0.25))] == ["b"]
    assert [o.day for o in odd_days("x", rates(names[:3], [0.2, 0.4, 0.2]), 5, relative(0.25))] == ["b"]
    assert [o.day for o in odd_days("x", rates(names[:2], [0.2, 0.4]), 5, relative(0.25))] == ["b"]
    assert odd_days("x", rates(names, [0.2, 0.24, 0.2, 0.2], 10**6), 5, relative(0.25)) == [], "significant, and small"
    assert odd_days("x", rates(names, [0.2, 0.4, 0.2, 0.2], 20), 5, relative(0.25)) == [], "large, and chance"
    assert [o.day for o in odd_days("x", rates([*names, "e"], [0.2, 0.4, 0.2, 0.5, 0.2]), 5, relative(0.25))] == [
        "b",
        "d",
    ]
    (odd,) = odd_days("x", rates(names, [0.1, 0.1, 0.1, 0.2]), 5, relative(0.25))
    pooled = 0.125
    assert odd.z == pytest.approx(0.1 / math.sqrt(pooled * (1 - pooled) * (1 / 1000 + 1 / 3000)))
    assert [o.day for o in odd_days("x", rates(names, [0, 0, 1, 0]), 5, relative(0.25))] == ["c"]


def test_a_day_of_another_size_is_named(tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS[:2], ROWS)
    write_log(tmp_path / "log", DAYS[2:], ROWS // 2)
    whole = profile(small_job(tmp_path / "log"))
    assert warnings(whole) == [f"{DAYS[2]}: the number of rows is 750, the median of the other days 1,500"]
    assert odd_sizes({"a": 10, "b": 1000}, 2.0) == [], "of two days it cannot be told which"
    assert [odd.day for odd in odd_sizes({"a": 10, "b": 19, "c": 20, "d": 10, "e": 10}, 2.0)] == ["c"]


def test_a_mean_that_grows_from_day_to_day_is_one_finding(tmp_path: Path) -> None:
    days = [f"2026-01-0{n}" for n in range(1, 6)]
    grown = iter(range(len(days)))
    write_log(tmp_path / "log", days, ROWS, age=lambda old: pa.array(old.to_numpy() + 30 * next(grown)))
    job = small_job(tmp_path / "log", changes={"data.train.to": days[3], "data.eval": {"from": days[4], "to": days[4]}})
    whole = profile(job)
    assert len([odd for odd in whole.drift if odd.what == "mean of age"]) >= 3
    (told,) = warnings(whole)
    assert told.startswith(
        f"the mean of age is unlike on {len(whole.drift)} of 5 days; the furthest: {days[4]}: the mean"
    )


def test_planted_drift_is_named_by_day(tmp_path: Path) -> None:
    random = np.random.default_rng(2)

    def on(day: str, change: Any) -> Any:
        days = iter(DAYS)  # write_log asks once a day, in order
        return lambda old: change(old) if next(days) == day else old

    def kept(column: pa.Array) -> pa.Array:
        """Half of the favs."""
        return pa.array(column.to_numpy() * (random.random(ROWS) < 0.5).astype(np.int8))

    write_log(
        tmp_path / "log",
        DAYS,
        ROWS,
        fav=on(DAYS[1], kept),
        age=on(DAYS[2], lambda c: pa.array(c.to_numpy() + 30)),
        price=on(DAYS[0], lambda c: pa.array(c.to_numpy(), mask=random.random(ROWS) < 0.2)),
        user_id=on(DAYS[2], lambda c: pa.array(c.to_numpy() + 1000 * (random.random(ROWS) < 0.5))),
    )
    changes = {"features.price.missing": 0.0, "features.price_bucket.missing": 0.0}
    whole = profile(small_job(tmp_path / "log", changes=changes))
    named = {(o.what, o.day) for o in whole.drift}
    assert named == {
        ("rate of fav given click", DAYS[1]),
        ("mean of age", DAYS[2]),
        ("share of missing price", DAYS[0]),
        ("share of new user_id", DAYS[2]),
    }
    told = "\n".join(warnings(whole))
    assert f"{DAYS[1]}: the rate of fav given click is " in told
    assert f"{DAYS[2]}: the mean of age is " in told
    fresh = next(line for line in whole.fresh if line.column == "user_id")
    assert fresh.shares[DAYS[1]] == pytest.approx(0, abs=1e-9)
    assert fresh.shares[DAYS[2]] == pytest.approx(0.5, abs=0.05)
