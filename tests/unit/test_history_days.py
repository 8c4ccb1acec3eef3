"""Which earlier days count, and what is refused."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.data.files import plan
from pipeline.data.freeze import plan_job
from pipeline.data.history import scoring_day
from pipeline.data.history_files import HistoryFiles, name_of
from pipeline.data.history_keys import keys_of
from pipeline.data.history_lookup import Running
from pipeline.data.history_statistics import DaySums, statistics_of
from pipeline.data.history_sums import Sums
from pipeline.data.manifest import HISTORY
from pipeline.train.migrate_structure import differences
from schemas.errors import InputError
from schemas.events import DayRange
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.logs import put, set_key, small_config
from tests.unit.test_history import ROWS, WEEK, encoded, frames, log, looking_back, rewrite, write

__all__ = ["log"]
CTR = {"name": "item_ctr", "kind": "target_encoding", "column": "item_id", "task": "click", "smoothing": 5}
ORDER = {"name": "user_order", "kind": "target_encoding", "column": "user_id", "task": "order"}


def one(log: Path, *features: dict[str, Any], **changes: Any) -> JobConfig:
    return looking_back(log, list(features or [CTR]), **changes)


def files_of(job: JobConfig) -> dict[Path, bytes]:
    folder = Path(job.data.history.folder or f"{job.output}/statistics")
    return {path: path.read_bytes() for path in sorted(folder.rglob("*.parquet"))}


# ---- days


def test_every_day_is_counted_once_and_a_daily_run_counts_yesterday(
    log: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shared = {"folder": str(tmp_path / "statistics"), "from": WEEK[0]}
    monday = one(log, CTR, ORDER, data__history=shared, data__train__to=WEEK[2], data__eval=...)
    plan_job(monday, None)
    counted = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    assert counted == [f"{day}:" for day in WEEK[:2]]
    before = files_of(monday)
    assert len(before) == 2 * 2
    tuesday = one(log, CTR, ORDER, data__history=shared, data__train={"from": WEEK[2], "to": WEEK[3]})
    plan_job(tuesday, None)
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in told] == [f"{WEEK[2]}:", f"{WEEK[3]}:"]
    assert before.items() <= files_of(tuesday).items()
    plan_job(tuesday, None)
    assert capsys.readouterr().out == ""


def test_a_day_cut_out_of_a_manifest_is_the_day_planned_alone(log: Path) -> None:
    job = one(log)
    within = plan_job(job, None).training.manifest.origin[HISTORY]
    alone = plan(job, DayRange.model_validate({"from": WEEK[1], "to": WEEK[1]}))
    statistic = statistics_of(job)[0]
    assert within[statistic.name][WEEK[1]][0] == name_of(statistic, WEEK[1], alone.fingerprint)


def test_another_task_or_column_reuses_what_is_there(log: Path) -> None:
    plan_job(one(log, CTR), None)
    before = files_of(one(log))
    plan_job(one(log, {**CTR, "smoothing": 99, "name": "renamed", "days": 1}, ORDER), None)
    after = files_of(one(log))
    assert before.items() < after.items()
    assert len(after) == 2 * len(before)


@pytest.mark.parametrize(
    ("key", "value"),
    [("tasks.order.given", ...), ("data.funnel", "drop"), ("tasks.order.label", "fav2"), ("data.bad", {
        "labels": "quarantine", "rows_per_day": 3})],
)  # fmt: skip
def test_what_decides_the_numbers_names_the_file(key: str, value: Any) -> None:
    config = small_config("log", "out")
    config["features"].append(ORDER)
    before = statistics_of(parse_job(config, "test"))[0]
    set_key(config, key, value) if value is not ... or "given" in key else None
    assert statistics_of(parse_job(config, "test"))[0].declaration != before.declaration


def test_a_day_between_training_and_evaluation_counts(tmp_path: Path) -> None:
    write(tmp_path / "log")
    job = one(
        tmp_path / "log", data__train={"from": WEEK[0], "to": WEEK[1]}, data__eval={"from": WEEK[4], "to": WEEK[4]}
    )
    made = plan_job(job, None)
    name = statistics_of(job)[0].name
    assert made.evaluation is not None
    assert list(made.training.manifest.origin[HISTORY][name]) == [WEEK[0]]
    assert list(made.evaluation.origin[HISTORY][name]) == list(WEEK[:4])


def test_a_missing_day_of_the_history_is_refused(log: Path) -> None:
    with pytest.raises(InputError, match=r"2025-12-31.*is missing.*item_ctr looks back to 2025-12-31"):
        plan_job(one(log, data__history={"from": "2025-12-31"}), None)


def test_an_evaluation_before_the_history_knows_nothing(log: Path) -> None:
    job = one(log, data__train={"from": WEEK[3], "to": WEEK[3]}, data__eval={"from": WEEK[0], "to": WEEK[0]})
    assert (encoded(job)[WEEK[3]] == 0).all()
    assert (encoded(job, "eval")[WEEK[0]] == 0).all()


# ---- values


def test_keys_of_integers_strings_lists_and_crosses() -> None:
    least = -(2**63)
    batch = pa.record_batch(
        {
            "narrow": pa.array([5, None, -1], pa.int16()),
            "wide": pa.array([2**64 - 1, 0, None], pa.uint64()),
            "text": pa.array(["a", None, "a"]),
            "dictionary": pa.array(["a", None, "a"]).dictionary_encode(),
            "lists": pa.array([[1, None], None, []], pa.list_(pa.int32())),
        }
    )
    assert keys_of(batch, ("narrow",)).key_M.tolist() == [5, least, -1]
    assert keys_of(batch, ("wide",)).key_M.tolist() == [-1, 0, least]
    text = keys_of(batch, ("text",)).key_M
    assert text[0] == text[2] != text[1] == least
    assert keys_of(batch, ("dictionary",)).key_M.tolist() == text.tolist()
    lists = keys_of(batch, ("lists",))
    assert lists.key_M.tolist() == [1, least]
    assert lists.row_M is not None
    assert lists.row_M.tolist() == [0, 0]
    cross = keys_of(batch, ("narrow", "text")).key_M
    assert len(set(cross.tolist())) == 3
    turned = keys_of(batch, ("text", "narrow")).key_M
    assert [a == b for a, b in zip(cross, turned, strict=True)] == [False, True, False]  # (null, null) in the middle
    part = batch.slice(1)
    assert keys_of(part, ("narrow", "text")).key_M.tolist() == cross[1:].tolist()
    assert keys_of(batch.slice(0, 1), ("lists",)).key_M.tolist() == [1, least]


def test_a_null_list_over_elements_holds_none() -> None:
    spanning = pa.ListArray.from_arrays(pa.array([0, 2, 3]), pa.array([7, 8, 9]), mask=pa.array([True, False]))
    keys = keys_of(pa.record_batch({"x": spanning}), ("x",))
    assert keys.key_M.tolist() == [9]
    assert keys.row_M is not None
    assert keys.row_M.tolist() == [1]


def test_nulls_are_a_value_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "log", tag=pa.array([None if n % 3 else n % 2 for n in range(ROWS)], pa.int64()))
    feature = {"name": "tag_count", "kind": "count", "column": "tag", "transform": "none"}
    got = encoded(one(tmp_path / "log", feature))[WEEK[1]][:, 0]
    assert got[:6].tolist() == [25, 100, 100, 25, 100, 100]


def test_sums_merged_as_they_come_are_the_sums() -> None:
    random = np.random.default_rng(3)
    sums, keys, values = Sums(2), [], []
    for size in (0, 5, 70_000, 200_000, 1, 300_000):
        keys.append(random.integers(-(2**40), 2**40, size) // 2**24)
        values.append(random.integers(0, 9, (2, size)).astype(float))
        sums.add(keys[-1], values[-1])
    sums.merge()
    key_M, value_SM = np.concatenate(keys), np.concatenate(values, axis=1)
    want = {k: [0.0, 0.0] for k in np.unique(key_M).tolist()}
    for key, a, b in zip(key_M.tolist(), *value_SM.tolist(), strict=True):
        want[key][0] += a
        want[key][1] += b
    assert sums.key_K.tolist() == list(want)
    assert sums.sum_SK.T.tolist() == list(want.values())


@pytest.mark.parametrize("window", [None, 1, 3, 40])
def test_running_sums_are_those_of_the_days_before(window: int | None) -> None:
    random, ordinals = np.random.default_rng(4), [1, 2, 3, 5, 6, 7, 8, 11, 12]
    days = []
    for _ in ordinals:
        key_K = np.unique(random.integers(0, 30, random.integers(0, 25)))
        days.append(DaySums(key_K, random.integers(1, 9, len(key_K)), random.random(len(key_K))))
    running = Running(ordinals, {"click": days, None: days[::-1]})
    asked = np.arange(-2, 33)
    for day in range(15):
        for task, own in (("click", days), (None, days[::-1])):
            found = running.find(asked).before(task, day, window)
            inside = [
                d for o, d in zip(ordinals, own, strict=True) if o < day and (window is None or o >= day - window)
            ]
            count = [sum(int(d.count_K[d.key_K == key].sum()) for d in inside) for key in asked]
            total = [sum(float(d.sum_K[d.key_K == key].sum()) for d in inside) for key in asked]
            assert found.count_M.tolist() == count
            np.testing.assert_allclose(found.sum_M, total, atol=1e-12)
            assert found.count == sum(count)
            assert running.find(asked).days(day, window) == len(inside)


# ---- spaces, funnel, quarantine


def test_indicators_and_the_funnel_bound_a_space(tmp_path: Path) -> None:
    """An order without a click: dropped out of the space, or the click made good, in the click's own encoding too."""

    def orders(column: pa.Array) -> pa.Array:
        return pa.array((np.arange(ROWS) % 4 == 0).astype(bool))

    shown = pa.array((np.arange(ROWS) % 3 > 0).astype(np.int8))
    write(tmp_path / "log", order=orders, shown=shown)
    before = frames(tmp_path / "log", WEEK[:1])
    today = frames(tmp_path / "log", WEEK[1:2])
    features = [f | {"transform": "none", "default": 0.5} for f in (CTR, ORDER)]
    for funnel in ("drop", "promote"):
        job = one(tmp_path / "log", *features, data__funnel=funnel, tasks__order__indicator="shown")
        got = encoded(job)[WEEK[1]]
        past = before.copy()
        if funnel == "promote":
            past["click"] |= past.order.astype(int) & past.shown
        inside = past[(past.click == 1) & (past.shown == 1)]
        for n, (frame, key, label, m) in enumerate(((past, "item_id", "click", 5), (inside, "user_id", "order", 20))):
            prior, sums = frame[label].mean(), frame.groupby(key)[label].agg(["sum", "size"])
            found = sums.reindex(today[key]).fillna(0)
            want = (found["sum"] + m * prior) / (found["size"] + m)
            np.testing.assert_allclose(got[:, n], want, rtol=1e-6, err_msg=funnel)


def test_a_row_with_a_bad_label_is_left_out_of_its_own_tree_alone(tmp_path: Path) -> None:
    write(tmp_path / "log")
    rewrite(tmp_path / "log", WEEK[0], lambda t: t.set_column(
        t.schema.get_field_index("click"), "click", put(t["click"].combine_chunks(), 4, None)))  # fmt: skip
    rewrite(tmp_path / "log", WEEK[0], lambda t: t.set_column(
        t.schema.get_field_index("age"), "age", put(t["age"].combine_chunks(), 9, None)))  # fmt: skip
    bad = {"labels": "quarantine", "values": "quarantine", "rows_per_day": 2}
    count = {"name": "item_count", "kind": "count", "column": "item_id", "transform": "none"}
    job = one(tmp_path / "log", CTR, count, data__bad=bad)
    index = plan_job(job, None).training.manifest.origin[HISTORY]
    files = HistoryFiles(f"{job.output}/statistics", job.data.storage)
    ctr, counts = (files.read(index[s.name][WEEK[0]][0], s)[0] for s in statistics_of(job))
    past = frames(tmp_path / "log", WEEK[:1])
    good = past.drop(index=4)  # row 9, whose age is bad, has a good label
    assert int(ctr.count_K.sum()) == ROWS - 1
    assert (
        dict(zip(ctr.key_K.tolist(), ctr.sum_K.tolist(), strict=True)) == good.groupby("item_id").click.sum().to_dict()
    )
    assert (
        dict(zip(counts.key_K.tolist(), counts.count_K.tolist(), strict=True))
        == past.groupby("item_id").size().to_dict()
    )


def test_bad_labels_of_the_history_are_refused_or_counted_against_the_budget(tmp_path: Path) -> None:
    write(tmp_path / "log")
    for row in (4, 5):
        rewrite(tmp_path / "log", WEEK[0], lambda t, row=row: t.set_column(
            t.schema.get_field_index("click"), "click", put(t["click"].combine_chunks(), row, 7)))  # fmt: skip
    early = {"data__train": {"from": WEEK[1], "to": WEEK[2]}, "data__history": {"from": WEEK[0]}}
    with pytest.raises(InputError, match=r"dt=2026-01-01/part-00000.parquet, row group 0: label 'click' holds 7"):
        plan_job(one(tmp_path / "log", **early), None)
    bad = {"labels": "quarantine", "rows_per_day": 1}
    with pytest.raises(InputError, match=r"2026-01-01: 2 rows under quarantine, the budget is 1"):
        plan_job(one(tmp_path / "log", data__bad=bad, **early), None)


# ---- declarations


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        (
            {"kind": "target_encoding", "column": "item_id", "task": "clik"},
            "features.x.task: no task 'clik'; did you mean",
        ),
        (
            {"kind": "target_encoding", "column": "click", "task": "click"},
            "column 'click' is the label of task 'click'",
        ),
        ({"kind": "count", "columns": ["item_id", "order"]}, "column 'order' is the label of task 'order'"),
        ({"kind": "count", "column": "dt"}, "partition key"),
        ({"kind": "count", "column": "item_id", "columns": ["a", "b"]}, "two ways to name the value"),
        ({"kind": "count", "columns": ["item_id", "item_id"]}, "name one column twice"),
        ({"kind": "count", "columns": ["item_id"]}, "at least 2"),
        ({"kind": "count", "column": "item_id", "smoothing": 3}, "unknown key 'smoothing'"),
        ({"kind": "target_encoding", "column": "item_id", "task": "click", "smoothing": 0}, "greater than 0"),
        ({"kind": "target_encoding", "column": "item_id", "task": "click", "days": 0}, "greater than or equal to 1"),
        ({"kind": "target_encoding", "column": "item_id", "task": "click", "transform": "none"}, "needs 'default'"),
        ({"kind": "target_encoding", "column": "item_id", "task": "click", "default": 0.2}, "'default' belongs to"),
        (
            {"kind": "target_encoding", "column": "item_id", "task": "click", "transform": "logit", "default": 1},
            "is the mean of no 0/1 label",
        ),
        (
            {"kind": "target_encoding", "column": "item_id", "task": "watched", "transform": "logit", "default": 1},
            "'logit' is of a probability, and 'watched' is a regression task",
        ),
    ],
)
def test_a_declaration_that_makes_no_sense(feature: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        looking_back(Path("log"), [{"name": "x", **feature}])


def test_a_history_that_begins_after_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lies after the first training day"):
        one(tmp_path / "log", data__history={"from": WEEK[1]})


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        ({"kind": "count", "column": "price"}, "holds float where an integer or a string, or a list of them belongs"),
        ({"kind": "count", "columns": ["history", "city"]}, "where an integer or a string belongs"),
        ({"kind": "count", "column": "itm_id"}, "column 'itm_id', feature 'x', is missing; did you mean 'item_id'"),
    ],
)
def test_a_column_that_cannot_be_a_value(log: Path, feature: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        plan_job(looking_back(log, [{"name": "x", **feature}]), None)


def test_a_warm_start_names_what_changed() -> None:
    def found(**changes: Any) -> dict[str, bool]:
        old, new = one(Path("log")), one(Path("log"), {**CTR, **changes})
        return {d.name: bool(d.refused) for d in differences(old, new, {}, {})}

    assert found() == {}
    assert found(smoothing=7, days=3) == {"features.item_ctr.days": False, "features.item_ctr.smoothing": False}
    assert found(task="cart") == {"features.item_ctr.task": True}
    assert found(transform="none", default=0.1)["features.item_ctr.transform"]
    other = one(Path("log"), data__history={"from": "2025-12-01"})
    assert differences(one(Path("log")), other, {}, {}) == []


def test_scoring_reads_no_day_from_the_scored_one_on(log: Path) -> None:
    job, day = one(log), datetime.date.fromisoformat(WEEK[2])
    for later in WEEK[2:]:
        (log / f"dt={later}" / "_SUCCESS").unlink()
    scoring_day(job, day)
    assert {path.parent.name for path in files_of(job)} == {f"dt={d}" for d in WEEK[:2]}
