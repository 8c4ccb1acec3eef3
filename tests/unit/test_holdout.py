"""Held-out rows against pandas and plain integers: who they are, that nobody trains on them, and that nothing moves."""

import datetime
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.data.checks import Where
from pipeline.data.encode import Encoder
from pipeline.data.files import plan
from pipeline.data.flags import Flags, bad_rows
from pipeline.data.holdout import Holdout, Part, drawn_words, held_out
from pipeline.data.loader import Loader
from pipeline.data.quarantine import Piece
from pipeline.data.source import epoch_source
from schemas.errors import InputError
from schemas.events import HoldoutConfig
from schemas.job import JobConfig
from tests.logs import DAYS, USERS, put, small_job, small_table, write_log

SHARE = 0.3
ROWS = 200
ALL_DAYS = {"data.eval": ..., "data.train.to": DAYS[1]}
MASK = (1 << 64) - 1


def mixed(x: int) -> int:
    """MurmurHash3's fmix64, one value."""
    x = (x ^ (x >> 33)) * 0xFF51AFD7ED558CCD & MASK
    x = (x ^ (x >> 33)) * 0xC4CEB9FE1A85EC53 & MASK
    return x ^ (x >> 33)


def drawn(value: Any, day: str, share: float) -> bool:
    """Whether the value's rows are held out, worked out value by value."""
    if isinstance(value, str):
        key = 0xCBF29CE484222325
        for byte in value.encode():
            key = (key ^ byte) * 0x100000001B3 & MASK
    else:
        key = value & MASK
    number = (mixed(key) + mixed(datetime.date.fromisoformat(day).toordinal())) & MASK
    return mixed(number) < math.floor(share * 2**64)


def job_of(log: Path | str, changes: dict[str, Any] | None = None, **holdout: Any) -> JobConfig:
    return small_job(log, changes={**ALL_DAYS, "data.holdout": {"share": SHARE, **holdout}, **(changes or {})})


def frame(log: Path) -> pd.DataFrame:
    """The log's two days by pandas, the row ids of a manifest as the index."""
    days = []
    for day in DAYS[:2]:
        for part in sorted((log / f"dt={day}").glob("*.parquet")):
            days.append(pd.read_parquet(part, columns=["user_id", "city", "click"]).assign(day=day))
    return pd.concat(days, ignore_index=True)


def held_ids(log: Path, column: str = "user_id", share: float = SHARE) -> set[int]:
    """The held-out rows by pandas."""
    log_by_row = frame(log)
    is_held = [drawn(v, d, share) for v, d in zip(log_by_row[column], log_by_row["day"], strict=True)]
    return set(log_by_row.index[is_held])


def steps_of(job: JobConfig, part: Part, world: int = 1, done: int = 0, epoch: int = 0) -> tuple[list[Any], list[int]]:
    """Row ids and rows left out of each step, over all ranks."""
    source = epoch_source(job, plan(job, job.data.train), epoch, shuffle=True, part=part)
    every = [list(Loader(job, source, rank, world, done).batches()) for rank in range(world)]
    together = list(zip(*every, strict=True))
    ids = [sorted(i for b in batches for i in b.row_ids_B.tolist()) for batches in together]
    return ids, [sum(b.unread for b in batches) for batches in together]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("holdout") / "log"
    write_log(path, DAYS[:2], ROWS, row_group_rows=[37, 0, 50], files_per_day=2)
    return path


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [32, 1000])
@pytest.mark.parametrize("shuffle_rows", [0, 64])
def test_kept_and_held_rows_are_the_days_each_row_once(
    log: Path, world: int, batch_size: int, shuffle_rows: int
) -> None:
    job = job_of(log, {"train.batch_size": batch_size, "data.shuffle_rows": shuffle_rows})
    held = held_ids(log)
    assert 0.15 * 2 * ROWS < len(held) < 0.45 * 2 * ROWS
    everything, none = steps_of(small_job(log, changes=ALL_DAYS | {"train.batch_size": batch_size}), "all")
    assert sorted(i for step in everything for i in step) == list(range(2 * ROWS))
    assert set(none) == {0}
    for part, wanted in (("kept", set(range(2 * ROWS)) - held), ("held", held)):
        steps, unread = steps_of(job, part, world)
        assert {i for step in steps for i in step} == wanted
        assert sum(map(len, steps)) == len(wanted)
        # a row left out leaves its place empty: no other row moves into another step
        whole, _ = steps_of(job, "all")
        assert steps == [[i for i in step if i in wanted] for step in whole]
        assert unread == [len(a) - len(b) for a, b in zip(whole, steps, strict=True)]


def test_they_are_a_matter_of_value_and_day_alone(log: Path, tmp_path: Path) -> None:
    held = held_ids(log)
    for changes in ({"seed": 7}, {"data.lanes": 1}, {"data.shuffle_rows": 0}, {"train.epochs": 2}):
        steps, _ = steps_of(job_of(log, changes), "held", epoch=len(changes))
        assert {i for step in steps for i in step} == held
    # other files and row groups, the same rows
    write_log(tmp_path / "again", DAYS[:2], ROWS, row_group_rows=11, files_per_day=3)
    steps, _ = steps_of(job_of(tmp_path / "again"), "held")
    assert {i for step in steps for i in step} == held


def test_a_pass_that_goes_on_leaves_the_same_rows_out(log: Path) -> None:
    whole, unread = steps_of(job_of(log), "kept", 2)
    later, unread_later = steps_of(job_of(log), "kept", 3, done=5 * 32)
    assert later == whole[5:]
    assert unread_later == unread[5:]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.int64(), pa.uint32(), pa.uint64()])
def test_an_integer_is_drawn_alike_in_any_width(kind: pa.DataType) -> None:
    day = datetime.date(2026, 1, 8)
    values = list(range(120))
    wanted = [drawn(v, str(day), SHARE) for v in values]
    assert held_out(pa.array(values, kind), day, SHARE).tolist() == wanted
    assert 15 < sum(wanted) < 60


def test_integers_beyond_63_bits_and_below_0() -> None:
    day = datetime.date(2026, 1, 8)
    for values, kind in (([-(2**63), -1, 2**63 - 1], pa.int64()), ([2**63, 2**64 - 1], pa.uint64())):
        for share in (0.2, 0.5, 0.8):
            wanted = [drawn(v, str(day), share) for v in values]
            assert held_out(pa.array(values, kind), day, share).tolist() == wanted


STRINGS = ["", "a", "Łódź", "人", "user-17", "user-18", "x" * 300] * 3 + [f"u{n}" for n in range(60)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(STRINGS),
        pa.array(STRINGS, pa.large_string()),
        pa.array(STRINGS).dictionary_encode(),
        pa.array([*STRINGS, "unused"]).dictionary_encode().slice(0, len(STRINGS)),
        pa.array(["before", *STRINGS]).slice(1),
    ],
)
def test_strings_however_they_are_encoded(column: pa.Array) -> None:
    day = datetime.date(2026, 1, 8)
    wanted = [drawn(v, str(day), SHARE) for v in STRINGS]
    assert held_out(column, day, SHARE).tolist() == wanted


def test_the_share_is_what_was_asked_for_and_days_are_independent() -> None:
    users, share = 100_000, 0.1
    column = pa.array(np.arange(users))
    days = [held_out(column, datetime.date(2026, 1, day), share) for day in (1, 2, 3, 4)]
    bound = 4 * math.sqrt(users * share * (1 - share))
    for held_N in days:
        assert abs(held_N.sum() - users * share) < bound
    # of two days together as many as of independent draws
    both = math.sqrt(users * share**2 * (1 - share**2)) * 4
    for other in days[1:]:
        assert abs((days[0] & other).sum() - users * share**2) < both


@pytest.mark.parametrize("column", ["city", "session"])
def test_another_column_is_read_though_no_feature_may_read_it(log: Path, column: str) -> None:
    features = {} if column == "city" else {"features.session": ..., "tables.session": ...}
    job = job_of(log, features, column=column)
    assert (column in job.columns) == (column == "city")
    steps, _ = steps_of(job, "held")
    assert {i for step in steps for i in step} == (
        held_ids(log, column) if column == "city" else session_ids(log) & set(range(2 * ROWS))
    )


def session_ids(log: Path) -> set[int]:
    parts = [pd.read_parquet(log / f"dt={day}").session.tolist() for day in DAYS[:2]]
    pairs = [(v, day) for values, day in zip(parts, DAYS, strict=False) for v in values]
    return {row for row, (value, day) in enumerate(pairs) if drawn(value, day, SHARE)}


def test_a_string_column_that_no_feature_reads(tmp_path: Path) -> None:
    tenants = pa.array([f"tenant-{n % 17}" for n in range(ROWS)])
    write_log(tmp_path / "log", DAYS[:2], ROWS, tenant=tenants)
    steps, _ = steps_of(job_of(tmp_path / "log", column="tenant"), "held")
    wanted = {
        row + at * ROWS
        for at, day in enumerate(DAYS[:2])
        for row, tenant in enumerate(tenants.to_pylist())
        if drawn(tenant, day, SHARE)
    }
    assert {i for step in steps for i in step} == wanted


def encoded(job: JobConfig, column: pa.Array | None = None, flags: Flags | None = None) -> Any:
    table = small_table(40)
    if column is not None:
        table = table.set_column(0, "user_id", column)
    holdout = Holdout(job.data.holdout or HoldoutConfig(), "kept")
    where = Where(f"log/dt={DAYS[0]}/part-0.parquet", 2, 100)
    return Encoder(job, flags, None, holdout)(table.combine_chunks().to_batches()[0], np.arange(500, 540), where)


def test_what_is_kept_is_encoded_as_if_nothing_else_were_there() -> None:
    job = job_of("log")
    rows = encoded(job)
    whole = Encoder(job)(small_table(40).combine_chunks().to_batches()[0], np.arange(500, 540), Where("p", 0, 0))
    kept_N = np.flatnonzero([not drawn(v, DAYS[0], SHARE) for v in small_table(40)["user_id"].to_pylist()])
    assert 0 < len(kept_N) < 40
    assert np.flatnonzero(rows.row_id_N >= 0).tolist() == kept_N.tolist()
    assert rows.row_id_N[kept_N].tolist() == (500 + kept_N).tolist()
    assert len(bad_rows(rows.row_id_N[rows.row_id_N < 0])) == 0
    for name in ("id_IN", "number_FN", "label_TN"):
        assert np.array_equal(getattr(rows, name)[:, kept_N], getattr(whole, name)[:, kept_N])
    for name, lists in whole.lists.items():
        for n in kept_N:
            assert np.array_equal(
                rows.lists[name].id_M[rows.lists[name].span(n, n + 1)], lists.id_M[lists.span(n, n + 1)]
            )


@pytest.mark.parametrize("user", range(2))
def test_a_batch_of_which_all_or_nothing_is_held_out(user: int) -> None:
    every = {drawn(u, DAYS[0], SHARE): u for u in range(USERS)}
    rows = encoded(job_of("log"), pa.array([every[bool(user)]] * 40))
    assert (rows.row_id_N < 0).all() == bool(user)
    assert rows.flagged == bool(user)


def test_nulls_are_refused_by_name() -> None:
    said = r"part-0\.parquet, row group 2: column 'user_id' holds nulls; data\.holdout draws its values"
    with pytest.raises(InputError, match=said):
        encoded(job_of("log", {"features.user": ..., "tables.user": ...}), put(small_table(40)["user_id"], 3, None))


def test_bad_rows_are_found_among_the_rows_that_are_read_alone() -> None:
    lenient = {"data.bad": {"values": "quarantine", "rows_per_day": 40}}
    job = job_of("log", lenient | {"features.user": ..., "tables.user": ...})
    user = small_table(40)["user_id"].to_pylist()
    held = [n for n, value in enumerate(user) if drawn(value, DAYS[0], SHARE)]
    kept = [n for n in range(40) if n not in held]
    table = small_table(40)
    table = table.set_column(0, "user_id", put(table["user_id"], kept[0], None))
    age = put(put(table["age"], held[0], math.nan), kept[1], math.inf)
    table = table.set_column(table.schema.get_field_index("age"), "age", age)
    flags = Flags(job.data)
    where = Where(f"log/dt={DAYS[0]}/part-0.parquet", 2, 100)
    holdout = Holdout(HoldoutConfig(share=SHARE), "kept")
    rows = Encoder(job, flags, None, holdout)(table.combine_chunks().to_batches()[0], np.arange(40), where)
    pieces: list[Piece] = flags.come_up(bad_rows(rows.row_id_N[rows.row_id_N < 0]))
    assert [(p.first - 100, p.column, p.kind) for p in pieces] == [
        (kept[0], "user_id", "values"),
        (kept[1], "age", "values"),
    ]
    assert np.flatnonzero(rows.row_id_N >= 0).tolist() == kept[2:]
    # and the evaluation of the held-out rows meets the other one
    strict = job_of("log", {"features.user": ..., "tables.user": ...})
    encode = Encoder(strict, None, None, Holdout(HoldoutConfig(share=SHARE), "held"))
    batch = table.set_column(0, "user_id", pa.array(user)).combine_chunks().to_batches()[0]
    with pytest.raises(InputError, match=rf"column 'age' holds nan \(row {100 + held[0]}\)"):
        encode(batch, np.arange(40), where)


def test_a_column_that_cannot_be_drawn_is_named_before_anything_is_read(log: Path) -> None:
    for column, said in (("nobody", "is missing"), ("price", "holds float where an integer or a string belongs")):
        job = job_of(log, column=column)
        with pytest.raises(InputError, match=f"column '{column}', by which rows are held out, {said}"):
            plan(job, job.data.train)


def test_batch_normalisation_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.norm: batch normalisation cannot train a step that data\.holdout"):
        job_of("log", {"model.norm": "batch"})


def test_words() -> None:
    assert drawn_words(HoldoutConfig(share=0.125, column="tenant")) == "the rows of 12.5% of each day's tenant"
