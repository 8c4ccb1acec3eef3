"""Which earlier days count, how their statistics are kept, and what is refused."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.files import plan
from pipeline.data.freeze import plan_from_bytes, plan_job
from pipeline.data.history import _held, scoring_day
from pipeline.data.history_files import HistoryFiles, name_of
from pipeline.data.history_keys import keys_of
from pipeline.data.history_lookup import Running
from pipeline.data.history_statistics import DaySums, statistics_of
from pipeline.data.history_sums import Sums
from pipeline.data.manifest import HISTORY
from pipeline.train.migrate_structure import differences
from schemas.errors import InputError
from schemas.events import DayRange
from schemas.identity import changes, numeric
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.logs import put, set_key, small_config
from tests.unit.test_history import ROWS, WEEK, encoded, flipped, frames, log, looking_back, rewrite, write

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


# ---- files: damaged, gone, changed


def stored(job: JobConfig) -> bytes:
    return plan_job(job, None).training.manifest.to_bytes()


def again(job: JobConfig, manifest: bytes) -> bytes:
    _held.clear()
    made = plan_job(job, manifest)
    got = encoded_of(job, made)
    assert made.training.manifest.to_bytes() == manifest
    return got.tobytes()


def encoded_of(job: JobConfig, made: Any) -> np.ndarray:
    from pipeline.data.loader import Loader
    from pipeline.data.source import epoch_source

    made = plan_from_bytes(made.to_bytes(), job)
    batches = list(Loader(job, epoch_source(job, made.training.manifest, 0, shuffle=True)).batches())
    return np.concatenate([b.dense_BF.numpy() for b in batches])


BEFORE = {"data__train": {"from": WEEK[1], "to": WEEK[2]}, "data__history": {"from": WEEK[0]}}


def test_a_resume_uses_the_statistics_it_began_with(log: Path) -> None:
    """Though the day before training has changed meanwhile, and a new run would be made of the new one."""
    job = one(log, **BEFORE)
    manifest = stored(job)
    was = again(job, manifest)
    rewrite(log, WEEK[0], flipped)
    assert again(job, manifest) == was
    assert encoded_of(job, plan_job(job, None)).tobytes() != was


def test_a_manifest_that_is_looked_at_again_keeps_its_statistics(log: Path) -> None:
    """As where a later version reads its columns otherwise."""
    job = one(log, **BEFORE)
    manifest = plan_job(job, None).training.manifest
    was = manifest.origin[HISTORY]
    manifest.origin["columns"] = []
    rewrite(log, WEEK[0], flipped)
    assert plan_job(job, manifest.to_bytes()).training.manifest.origin[HISTORY] == was


def test_statistics_that_are_gone_are_counted_again_or_refused_by_name(log: Path) -> None:
    job = one(log, **BEFORE)
    manifest = stored(job)
    was = again(job, manifest)
    for path in files_of(job):
        path.unlink()
    assert again(job, manifest) == was
    for path in files_of(job):
        path.unlink()
    rewrite(log, WEEK[0], flipped)
    with pytest.raises(InputError, match=r"features.item_ctr: the statistics of 2026-01-01 are not those that the run"):
        again(job, manifest)


def test_a_damaged_file_of_statistics_is_refused(log: Path) -> None:
    job = one(log)
    plan_job(job, None)
    path, content = next(iter(files_of(job).items()))
    path.write_bytes(content[:-7])
    with pytest.raises(InputError, match=r"no whole file of statistics .*; remove it, and it is counted anew"):
        plan_job(job, None)
    table = pq.read_table(pa.BufferReader(content))
    other = table.set_column(1, table.schema.field(1), pa.array(table["count"].to_numpy() + 1))
    pq.write_table(other, path)
    with pytest.raises(InputError, match="its numbers are not those that were written"):
        plan_job(job, None)
    path.unlink()
    plan_job(job, None)
    assert path.read_bytes() == content


def test_statistics_exchanged_under_a_run_are_refused(log: Path) -> None:
    job = one(log, **BEFORE)
    manifest = stored(job)
    path = next(iter(files_of(job)))
    files = HistoryFiles(f"{job.output}/statistics", job.data.storage)
    statistic = statistics_of(job)[0]
    name = str(path.relative_to(f"{job.output}/statistics"))
    sums, _ = files.read(name, statistic)
    files.write(name, statistic, DaySums(sums.key_K, sums.count_K + 1, sums.sum_K))
    with pytest.raises(InputError, match=r"features.item_ctr: .* holds other numbers"):
        again(job, manifest)


def test_a_folder_that_cannot_be_written_is_told(log: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"data.history.folder: .* cannot be written"):
        plan_job(one(log, data__history={"folder": str(tmp_path / "file")}), None)
    with pytest.raises(InputError, match=r"^output: '.*/file/statistics' cannot be written .*; name another folder"):
        plan_job(one(log, output=str(tmp_path / "file")), None)


def test_where_the_statistics_lie_may_change_and_their_first_day_may_not() -> None:
    def settings(**history: Any) -> dict[str, Any]:
        return numeric(one(Path("log"), data__history=history).model_dump(mode="json", by_alias=True))

    assert settings() == settings(folder="elsewhere", memory_mib=99) == settings(**{"from": WEEK[0]})
    assert changes(settings(), settings(**{"from": "2025-12-31"})) == ["data.history.from"]


def test_statistics_in_an_object_store(log: Path) -> None:
    want = encoded(one(log))
    got = encoded(one(log, data__history={"folder": "memory://statistics"}))
    assert all(got[day].tobytes() == want[day].tobytes() for day in want)


def test_memory_is_bounded_and_the_feature_named(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = one(log, data__history={"memory_mib": 16})
    plan_job(job, None)
    monkeypatch.setattr("pipeline.data.history.held_bytes", lambda entries, tasks: entries * tasks << 20)
    with pytest.raises(InputError, match=r"features.item_ctr: .*for the \d+ values of item_id.*memory_mib is 16"):
        plan_job(job, None)
    monkeypatch.setattr(Sums, "bytes", 17 << 20)
    with pytest.raises(InputError, match=r"features.user_order: the values of user_id on 2026-01-01 do not fit"):
        plan_job(one(log, ORDER, data__history={"memory_mib": 16}), None)


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
