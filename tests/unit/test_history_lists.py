"""The last values of earlier days: as pandas has them, blind to the row's own day, the same when scored."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.data.freeze import plan_from_bytes, plan_job
from pipeline.data.history import scoring_day
from pipeline.data.history_lists import LastValues, RunningLists
from pipeline.data.history_statistics import DayLists
from pipeline.data.loader import Loader
from pipeline.data.source import epoch_source
from pipeline.data.vocabulary import Survey
from pipeline.train.migrate_structure import differences
from schemas.errors import InputError
from schemas.features import HistoryListFeature
from schemas.job import JobConfig
from tests.logs import put
from tests.unit.test_history import ROWS, WEEK, batch_of, flipped, frames, log, looking_back, rewrite, write

__all__ = ["log"]
ITEMS = {"kind": "history", "column": "item_id", "table": "item"}
LISTS: list[dict[str, Any]] = [
    {**ITEMS, "name": "clicked", "by": "user_id", "task": "click", "last": 3},
    {**ITEMS, "name": "ordered", "by": "user_id", "task": "order", "days": 2, "pooling": "sum"},
    {**ITEMS, "name": "seen", "by": "city", "last": 7},
]


def lists_of(job: JobConfig, split: str = "train") -> dict[str, dict[str, list[list[int]]]]:
    """By day and feature, each row's list as it reaches the model, rows in the log's order."""
    made = plan_from_bytes(plan_job(job, None).to_bytes(), job)
    manifest = made.training.manifest if split == "train" else made.evaluation
    assert manifest is not None
    out: dict[str, dict[int, list[int]]] = {f["name"]: {} for f in LISTS}
    for batch in Loader(job, epoch_source(job, manifest, 0, shuffle=True)).batches():
        for name, by_row in out.items():
            jagged = batch.sparse[name]
            parts = np.split(jagged.values().numpy(), np.cumsum(jagged.lengths().numpy())[:-1])
            by_row |= dict(zip(batch.row_ids_B.tolist(), [part.tolist() for part in parts], strict=False))
    days = [str(day) for day in getattr(job.data, split).days()]
    return {
        day: {name: [rows[i] for i in range(n * ROWS, (n + 1) * ROWS)] for name, rows in out.items()}
        for n, day in enumerate(days)
    }


def by_pandas(path: Path, day: str) -> dict[str, list[list[int]]]:
    every = frames(path, WEEK)
    today, before = every[every.day == day], every[every.day < day]
    before = before.sort_values(["day", "event_time"], kind="stable")
    recent = before[before.day >= str(datetime.date.fromisoformat(day) - datetime.timedelta(2))]
    chosen = {
        "clicked": (before[before.click == 1], "user_id", 3),
        "ordered": (recent[(recent.click == 1) & recent.order], "user_id", 20),
        "seen": (before, "city", 7),
    }
    out = {}
    for name, (rows, by, last) in chosen.items():
        found = {key: items.tolist()[-last:] for key, items in rows.groupby(by).item_id}
        out[name] = [found.get(key, []) for key in today[by]]
    return out


def test_equals_pandas(log: Path) -> None:
    job = looking_back(log, LISTS)
    found = lists_of(job) | lists_of(job, "eval")
    for day in WEEK:
        assert found[day] == by_pandas(log, day), day
    assert max(map(len, found[WEEK[4]]["clicked"])) == 3
    assert {len(items) for items in found[WEEK[0]]["seen"]} == {0}


def test_lists_that_differ_in_one_setting_are_kept_apart(log: Path) -> None:
    one = {**ITEMS, "name": "seen", "by": "user_id", "last": 2}
    others = [{**one, "name": "clicked", "last": 50}, {**one, "name": "ordered", "column": "user_id", "table": "user"}]
    found = lists_of(looking_back(log, [one, *others]))[WEEK[3]]
    assert found["seen"] == [items[-2:] for items in found["clicked"]] != found["clicked"]
    users = frames(log, WEEK[3:4]).user_id
    assert all(set(items) <= {user} for items, user in zip(found["ordered"], users, strict=True))


def changed_by(log: Path, day: str, changed: str) -> set[str]:
    split = "train" if day != WEEK[-1] else "eval"
    job = looking_back(log, LISTS)
    was = lists_of(job, split)[day]
    rewrite(log, changed, flipped)
    now = lists_of(job, split)[day]
    return {name for name in was if was[name] != now[name]}


@pytest.mark.parametrize("day", [WEEK[0], WEEK[2], WEEK[4]])
def test_the_rows_own_day_changes_nothing(log: Path, day: str) -> None:
    assert changed_by(log, day, day) == set()


def test_an_earlier_day_changes_what_is_of_its_labels(log: Path) -> None:
    assert changed_by(log, WEEK[2], WEEK[1]) == {"clicked", "ordered"}


def test_a_list_that_sees_its_own_day_is_found(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = RunningLists.before
    monkeypatch.setattr(RunningLists, "before", lambda self, key_N, day, window: before(self, key_N, day + 1, window))
    assert changed_by(log, WEEK[1], WEEK[1]) == {"clicked", "ordered"}


def test_a_scoring_day_gets_the_lists_of_training(log: Path) -> None:
    job, day = looking_back(log, LISTS), datetime.date.fromisoformat(WEEK[3])
    want = lists_of(job)[WEEK[3]]
    history = scoring_day(job, day)
    for batch in (
        batch_of(log, WEEK[3], flipped),
        batch_of(log, WEEK[3], lambda t: t.drop_columns(["click", "order"])),
    ):
        for feature in job.history:
            assert isinstance(feature, HistoryListFeature)
            offset_N, value_M = history.lists(feature, batch, day)
            assert [part.tolist() for part in np.split(value_M, offset_N[1:-1])] == want[feature.name]


def test_nulls_and_rows_of_one_time(tmp_path: Path) -> None:
    """A null value is passed over, a null key is a key; rows of one time stay in the log's order."""
    write(
        tmp_path / "log",
        event_time=pa.array(np.arange(ROWS) // 10),
        item_id=lambda c: put(c, 1, None, pa.int64()),
        user_id=lambda c: pa.array([None, None, None, *c.to_pylist()[3:]]),
    )
    hashed = {"features__item__missing": "unknown", "features__user__missing": "unknown"}
    every = {"name": "clicked", "kind": "history", "by": "user_id", "column": "item_id", "table": "item", "last": 50}
    others = [{**every, "name": name} for name in ("ordered", "seen")]
    got = lists_of(looking_back(tmp_path / "log", [every, *others], **hashed))[WEEK[1]]["clicked"]
    past = frames(tmp_path / "log", WEEK[:1])
    assert got[0] == past.item_id[past.user_id.isna() & past.item_id.notna()].astype(int).tolist()
    user = frames(tmp_path / "log", WEEK[1:2]).user_id[7]
    assert got[7] == past.item_id[(past.user_id == user) & past.item_id.notna()].astype(int).tolist()


def test_last_values_merged_as_they_come() -> None:
    random, last = np.random.default_rng(0), LastValues(4)
    parts = [random.integers(0, 50, (3, size)) for size in (10, 0, 100_000, 200_000, 7, 300_000)]
    for key_N, time_N, value_N in parts:
        last.add(key_N, time_N // 5, value_N)
    every = pd.DataFrame(np.concatenate(parts, axis=1).T, columns=["key", "time", "value"])
    every["time"] //= 5
    want = every.sort_values(["key", "time"], kind="stable").groupby("key").tail(4)
    found = last.day()
    assert found.key_M.tolist() == want.key.tolist()
    assert found.value_M.tolist() == want.value.tolist()


@pytest.mark.parametrize("window", [None, 1, 3, 40])
def test_running_lists_are_those_of_the_days_before(window: int | None) -> None:
    random, ordinals = np.random.default_rng(4), [1, 2, 3, 5, 6, 7, 8, 11, 12]
    days = []
    for _ in ordinals:
        key_M = np.sort(random.integers(0, 12, random.integers(0, 25)))
        days.append(DayLists(key_M, random.integers(0, 99, len(key_M))))
    running, asked = RunningLists(ordinals, days, 5), np.arange(-1, 14)
    for day in range(15):
        offset_N, value_M = running.before(asked, day, window)
        inside = [d for o, d in zip(ordinals, days, strict=True) if o < day and (window is None or o >= day - window)]
        want = [[v for d in inside for v in d.value_M[d.key_M == key].tolist()][-5:] for key in asked]
        assert [part.tolist() for part in np.split(value_M, offset_N[1:-1])] == want


def test_a_vocabulary_counts_the_columns_values(log: Path) -> None:
    job = looking_back(log, LISTS)
    survey = Survey(job, 1 << 26)
    survey.count(plan_job(job, None).training.manifest, lambda progress: None)
    lines = {line.name: line for line in survey.lines()}
    assert lines["clicked"].lookups == 4 * ROWS
    assert lines["clicked"].distinct == lines["item"].distinct


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "clik"}, "features.clicked.task: no task 'clik'; did you mean 'click'"),
        ({"task": "watched"}, "'watched' is a regression task, whose label is never just 1"),
        ({"by": "click"}, "column 'click' is the label of task 'click'"),
        ({"column": "fav"}, "column 'fav' is the label of task 'fav'"),
        ({"last": 0}, "greater than or equal to 1"),
        ({"weights": "history_weight"}, "unknown key 'weights'"),
        ({"table": "items"}, "no table 'items'"),
    ],
)
def test_a_declaration_that_makes_no_sense(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        looking_back(Path("log"), [LISTS[0] | change])


@pytest.mark.parametrize(
    ("change", "columns", "said"),
    [
        ({"column": "city"}, {}, "column 'city', feature 'clicked', holds string where an integer belongs"),
        ({"by": "price"}, {}, "column 'price', feature 'clicked', holds float where an integer or a string belongs"),
        (
            {},
            {"event_time": pa.array(["noon"] * ROWS)},
            "'event_time', feature 'clicked', holds string where a time or",
        ),
    ],
)
def test_a_column_that_does_not_fit(tmp_path: Path, change: Any, columns: Any, said: str) -> None:
    write(tmp_path / "log", **columns)
    with pytest.raises(InputError, match=said):
        plan_job(looking_back(tmp_path / "log", [LISTS[0] | change]), None)


def test_a_warm_start_names_what_changed() -> None:
    def found(**changes: Any) -> dict[str, bool]:
        old, new = looking_back(Path("log"), LISTS[:1]), looking_back(Path("log"), [LISTS[0] | changes])
        return {d.name: bool(d.refused) for d in differences(old, new, {}, {})}

    assert found() == {}
    assert found(last=9, by="city") == {"features.clicked.by": False, "features.clicked.last": False}
    assert found(task="cart") == {"features.clicked.task": True}
