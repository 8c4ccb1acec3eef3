"""What is left out of a run: every kind of bad row by name, whatever the number of ranks, and nothing else."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.checks import Where
from pipeline.data.drift import Drift, drifted
from pipeline.data.encode import Encoder
from pipeline.data.files import plan
from pipeline.data.flags import Flags
from pipeline.data.freeze import frozen, late_files
from pipeline.data.loader import Loader
from pipeline.data.manifest import Manifest
from pipeline.data.quarantine import Piece, QuarantineLog, below_root, left_out, read, written
from pipeline.data.reader import FINE_ROWS
from pipeline.data.source import epoch_source
from pipeline.train.budget import Budget
from schemas.errors import InputError
from schemas.events import BadConfig
from schemas.job import JobConfig
from tests.logs import DAYS, Override, override, put, small_job, small_table, write_log

ROWS = 8
WHERE = Where("log/dt=2026-01-01/part-0.parquet", group=3, first=100)
ALL = {
    "data.bad": {
        "corrupt": "quarantine",
        "labels": "quarantine",
        "values": "quarantine",
        "rows_per_day": 1000,
        "row_groups_per_day": 100,
    },
    "data.funnel": "quarantine",
}
PLAIN_FLOAT = {"features.price.transform": "none"}


def lists(changed: dict[int, list | None]) -> Any:
    return lambda column: pa.array(
        [changed.get(row, value) for row, value in enumerate(column.to_pylist())], column.type
    )


def funnel(**values: Any) -> dict[str, Override]:
    """Columns in which row 2 has an order without a click."""
    return {
        "click": pa.array([0] * ROWS),
        "cart": pa.array([0] * ROWS),
        "fav": pa.array([0] * ROWS),
        "order": pa.array([row == 2 for row in range(ROWS)]),
    }


# name: (columns, bad rows, kind, column, reason of the first)
KINDS: dict[str, tuple[dict[str, Override], list[int], str, str, str]] = {
    "null id": ({"user_id": lambda c: put(c, 2, None)}, [2], "values", "user_id", "holds a null"),
    "null string": ({"city": lambda c: put(c, 0, None)}, [0], "values", "city", "holds a null"),
    "null number": ({"age": lambda c: put(c, 7, None)}, [7], "values", "age", "holds a null"),
    "nan": ({"age": lambda c: put(put(c, 2, math.nan), 5, math.nan)}, [2, 5], "values", "age", "holds nan"),
    "inf": ({"age": lambda c: put(c, 2, -math.inf)}, [2], "values", "age", "holds -inf"),
    "too large": ({"age": lambda c: put(c, 2, 1e300)}, [2], "values", "age", "holds 1e+300, too large for 32 bits"),
    "null list": ({"recent": lists({4: None})}, [4], "values", "recent", "holds a null"),
    "null in a list": ({"recent": lists({4: [1, None]})}, [4], "values", "recent", "holds a null"),
    "lengths": (
        {"history_weight": lists({3: [0.5] * 9}), "history": lists({3: [1, 2]})},
        [3],
        "values",
        "history_weight",
        "holds 9 weights for the 2 ids of 'history'",
    ),
    "nan weight": (
        {"history_weight": lists({3: [0.5, math.nan]}), "history": lists({3: [1, 2]})},
        [3],
        "values",
        "history_weight",
        "holds nan, no finite weight of 32 bits",
    ),
    "negative weight": (
        {"history_weight": lists({3: [0.5, -1.5]}), "history": lists({3: [1, 2]})},
        [3],
        "values",
        "history_weight",
        "holds -1.5, below 0 under pooling: mean",
    ),
    "null label": ({"cart": lambda c: put(c, 6, None)}, [6], "labels", "cart", "holds a null"),
    "label of 2": ({"cart": lambda c: put(c, 6, 2)}, [6], "labels", "cart", "holds 2, no label"),
    "label of -1": ({"cart": lambda c: put(put(c, 6, -1), 1, 3)}, [1, 6], "labels", "cart", "holds -1, no label"),
    "funnel": (funnel(), [2], "funnel", "order", "is 1 where 'click' is 0"),
}


def encode(job: JobConfig, columns: dict[str, Override], flags: Flags | None) -> Any:
    batch = override(small_table(ROWS), columns).combine_chunks().to_batches()[0]
    return Encoder(job, flags)(batch, np.arange(500, 500 + ROWS), WHERE)


@pytest.mark.parametrize("name", KINDS)
def test_a_bad_row_is_flagged_in_its_place(name: str) -> None:
    columns, bad, kind, column, reason = KINDS[name]
    job = small_job("log", changes=ALL)
    flags = Flags(job.data)
    rows = encode(job, columns, flags)
    whole = encode(small_job("log"), {}, None)
    ids = [-1 - row_id if n in bad else row_id for n, row_id in enumerate(range(500, 500 + ROWS))]
    assert rows.row_id_N.tolist() == ids
    assert rows.flagged
    pieces = flags.come_up(rows.row_id_N[rows.row_id_N < 0])
    assert [p.first for p in pieces] == [100 + n for n in bad]
    assert {(p.file, p.group, p.rows, p.kind, p.column) for p in pieces} == {
        ("dt=2026-01-01/part-0.parquet", 3, 1, kind, column)
    }
    assert reason in {p.reason for p in pieces}
    # the others are what they would have been
    good = [n for n in range(ROWS) if n not in bad]
    for field in ("id_IN", "number_FN"):
        assert np.array_equal(getattr(rows, field)[:, good], getattr(whole, field)[:, good])
    for feature, theirs in whole.lists.items():
        for n in good:
            mine = rows.lists[feature]
            assert mine.id_M[mine.span(n, n + 1)].tolist() == theirs.id_M[theirs.span(n, n + 1)].tolist()


@pytest.mark.parametrize("name", KINDS)
def test_under_error_the_same_row_ends_the_run(name: str) -> None:
    columns, _, kind, column, _ = KINDS[name]
    with pytest.raises(InputError, match=f"row group 3: .*'?{column}'?"):
        encode(small_job("log"), columns, None)
    other = (
        {"data.bad": {"labels": "quarantine", "rows_per_day": 9}}
        if kind != "labels"
        else {"data.bad": {"values": "quarantine", "rows_per_day": 9}}
    )
    job = small_job("log", changes=other)
    with pytest.raises(InputError, match="row group 3: "):  # another kind's quarantine does not cover it
        encode(job, columns, Flags(job.data))


def test_rows_bad_in_several_columns_have_one_reason_and_name_their_own_row() -> None:
    columns: dict[str, Override] = {
        "age": lambda c: put(put(c, 1, math.nan), 3, math.nan),
        "cart": lambda c: put(put(c, 3, 7), 6, 7),
        "user_id": lambda c: put(c, 0, None),
    }
    job = small_job("log", changes=ALL)
    flags = Flags(job.data)
    rows = encode(job, columns, flags)
    pieces = flags.come_up(rows.row_id_N[rows.row_id_N < 0])
    assert {(p.first, p.column) for p in pieces} == {(100, "user_id"), (101, "age"), (103, "age"), (106, "cart")}
    job = small_job("log", changes={"data.bad": {"values": "quarantine", "rows_per_day": 9}})
    with pytest.raises(InputError, match=r"label 'cart' holds 7 \(row 106\)"):
        encode(job, columns, Flags(job.data))


def test_a_batch_may_be_bad_to_its_last_row() -> None:
    job = small_job("log", changes=ALL)
    flags = Flags(job.data)
    rows = encode(job, {"age": pa.array([math.nan] * ROWS)}, flags)
    assert rows.row_id_N.tolist() == [-501 - n for n in range(ROWS)]
    assert len(flags.come_up(rows.row_id_N)) == ROWS


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"data.bad": {"values": "quarantine"}}, "data.bad.rows_per_day"),
        ({"data.bad": {"labels": "quarantine", "row_groups_per_day": 3}}, "data.bad.rows_per_day"),
        ({"data.funnel": "quarantine"}, "data.bad.rows_per_day"),
        ({"data.bad": {"corrupt": "quarantine", "rows_per_day": 3}}, "data.bad.row_groups_per_day"),
        ({"data.bad": {"schema": "quarantine"}}, "data.bad.row_groups_per_day"),
        ({"data.bad": {"drift": "quarantine"}}, "data.bad.row_groups_per_day"),
    ],
)
def test_quarantine_without_a_budget_is_refused(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(InputError, match=f"set {key}"):
        small_job("log", changes=changes)


def test_quarantine_beside_batch_normalisation_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.norm"):
        small_job("log", changes=ALL | {"model.norm": "batch"})


# the loader


def trained(job: JobConfig, world: int, done: int = 0) -> tuple[list[list[int]], set[Piece], list[int]]:
    """Row ids of each step over all ranks, the pieces left out, the rows done after each step."""
    source = epoch_source(job, plan(job, job.data.train), 0, shuffle=True)
    every = [list(Loader(job, source, rank, world, done).batches()) for rank in range(world)]
    steps = [sorted(i for b in batches for i in b.row_ids_B.tolist()) for batches in zip(*every, strict=True)]
    for batches in zip(*every, strict=True):
        for batch in batches:
            assert batch.rows == len(batch.row_ids_B) == len(batch.labels_BT) == len(batch.dense_BF)
            lengths_KP = batch.sparse.lengths().reshape(len(batch.sparse.keys()), -1)
            assert lengths_KP[:, batch.rows :].sum() == 0
            assert (lengths_KP[batch.sparse.keys().index("user"), : batch.rows] == 1).all()
    pieces = {piece for batches in every for batch in batches for piece in batch.left_out}
    return steps, pieces, [batch.end_row for batch in every[0]]


def flip_a_page(path: str, group: int, column: str) -> None:
    """The last bytes of a column chunk lost to zeros."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(group).column(file.schema_arrow.names.index(column))
    end = (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size
    whole = bytearray(Path(path).read_bytes())
    whole[end - 8 : end] = bytes(b ^ 0xFF for b in whole[end - 8 : end])
    Path(path).write_bytes(whole)


@pytest.mark.parametrize("shuffle_rows", [0, 40, 1000])
def test_all_rows_but_the_bad_ones_are_trained_at_any_number_of_ranks(tmp_path: Path, shuffle_rows: int) -> None:
    clean = tmp_path / "clean"
    write_log(clean, DAYS[:2], 100, row_group_rows=30)
    paths = write_log(
        tmp_path / "log",
        DAYS[:2],
        100,
        row_group_rows=30,
        age=lambda c: put(put(c, 7, math.nan), 8, math.nan),
        cart=lambda c: put(c, 99, 5),
    )
    flip_a_page(paths[1], 1, "user_id")
    bad = {7, 8, 99, 107, 108, 199} | set(range(130, 160))
    days: Any = {"data.train.to": DAYS[1], "data.eval": ..., "data.shuffle_rows": shuffle_rows}
    expected, _, ends = trained(small_job(clean, changes=days), 1)
    results = [trained(small_job(tmp_path / "log", changes=days | ALL), world) for world in (1, 2, 3)]
    for steps, pieces, done in results:
        # every step is what it is on the clean log, less its bad rows: nothing else moves
        assert steps == [[i for i in step if i not in bad] for step in expected]
        assert done == ends
        assert {(p.file, p.group) for p in pieces if p.kind == "corrupt"} == {(f"dt={DAYS[1]}/part-00000.parquet", 1)}
        assert sum(p.rows for p in pieces) == len(bad)
    half = ends[len(ends) // 2 - 1]
    for world in (1, 2):
        steps, pieces, _ = trained(small_job(tmp_path / "log", changes=days | ALL), world, half)
        assert steps == results[0][0][len(ends) // 2 :]


def test_a_file_that_vanished_loses_its_rows_and_no_others(tmp_path: Path) -> None:
    paths = write_log(tmp_path / "log", DAYS[:2], 100, row_group_rows=30)
    job = small_job(tmp_path / "log", changes={"data.train.to": DAYS[1], "data.eval": ...} | ALL)
    manifest = plan(job, job.data.train)
    Path(paths[0]).unlink()
    batches = list(Loader(job, epoch_source(job, manifest, 0, shuffle=True)).batches())
    assert sorted(i for b in batches for i in b.row_ids_B.tolist()) == list(range(100, 200))
    assert len(batches) == 7
    pieces = [piece for b in batches for piece in b.left_out]
    assert {(p.file, p.group, p.first, p.rows, p.reason) for p in pieces} == {
        (f"dt={DAYS[0]}/part-00000.parquet", group, 0, rows, "vanished since the run began")
        for group, rows in enumerate((30, 30, 30, 10))
    }


def test_a_file_that_may_not_be_read_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 says so of a key that has expired: every row group would be left out, and none is damaged."""

    def refused(*_: Any) -> Any:
        raise PermissionError("The provided token has expired.")

    write_log(tmp_path / "log", DAYS[:2], 100, row_group_rows=30)
    job = small_job(tmp_path / "log", changes={"data.train.to": DAYS[1], "data.eval": ...} | ALL)
    manifest = plan(job, job.data.train)
    for place, act in (
        (
            "pipeline.data.reader.fetch",
            lambda: list(Loader(job, epoch_source(job, manifest, 0, shuffle=True)).batches()),
        ),
        ("pipeline.data.files.read_footer", lambda: plan(job, job.data.train)),
    ):
        monkeypatch.setattr(place, refused)
        with pytest.raises(InputError, match=r"cannot be read \(The provided token"):
            act()
        monkeypatch.undo()


WRONG: dict[str, Any] = {"age": math.inf, "cart": 9, "user_id": None, "history_weight": [math.nan] * 7}


def test_a_row_group_is_lost_from_where_decoding_fails(tmp_path: Path) -> None:
    rows = 2 * FINE_ROWS + 100
    (path,) = write_log(tmp_path / "log", DAYS[:1], rows, row_group_rows=rows)
    flip_a_page(path, 0, "session")  # its last page
    changes = ALL | {"data.train.to": DAYS[0], "data.eval": ..., "train.batch_size": 2000, "data.shuffle_rows": 5000}
    results = [trained(small_job(tmp_path / "log", changes=changes), world) for world in (1, 2)]
    for steps, pieces, _ in results:
        kept = sorted(i for step in steps for i in step)
        assert kept in (list(range(n * FINE_ROWS)) for n in (1, 2))
        assert {p.first + p.rows for p in pieces} <= {rows * n // 4 for n in range(1, 5)}  # pieces of four lanes
        assert sum(p.rows for p in pieces) == rows - len(kept)
        log = QuarantineLog("train", BadConfig(), pieces)
        assert log.totals == (0, 1)
        assert [(p.first, p.rows) for p in log.pieces()] == [(len(kept), rows - len(kept))]
    assert results[0] == results[1]


@settings(max_examples=12, deadline=None)
@given(
    bad=st.dictionaries(
        st.integers(0, 119), st.sampled_from(["age", "cart", "user_id", "history_weight"]), max_size=40
    ),
    world=st.integers(1, 3),
    lanes=st.integers(3, 7),
    shuffle_rows=st.sampled_from([0, 13, 64, 500]),
    seed=st.integers(0, 3),
)
def test_random_bad_rows(bad: dict[int, str], world: int, lanes: int, shuffle_rows: int, seed: int) -> None:
    def spoilt(column: str) -> Any:
        def change(values: pa.Array) -> pa.Array:
            held = values.to_pylist()
            for row, where in bad.items():
                if where == column:
                    held[row] = WRONG[column]
            return pa.array(held, values.type)

        return change

    root = f"memory://random-bad-{seed}/log"
    write_log(root, DAYS[:1], 120, seed, row_group_rows=[50, 7, 40], **{name: spoilt(name) for name in WRONG})
    changes = {"data.train.to": DAYS[0], "data.eval": ..., "data.lanes": lanes, "data.shuffle_rows": shuffle_rows}
    steps, pieces, _ = trained(small_job(root, changes=changes | ALL), world)
    assert sorted(i for step in steps for i in step) == [i for i in range(120) if i not in bad]
    group_first = (0, 50, 57, 97)
    assert sorted((group_first[p.group] + p.first, p.column) for p in pieces) == sorted(bad.items())


# the log


def piece(row: int, day: str = DAYS[0], **changes: Any) -> Piece:
    made = Piece(f"dt={day}/part-0.parquet", 0, row, 1, "values", "age", "holds nan")
    return dataclasses.replace(made, **changes)


LOST = {"kind": "corrupt", "column": "", "reason": "cannot be decoded"}


def test_adjacent_rows_of_one_reason_are_one_piece_and_come_back_from_the_file() -> None:
    log = QuarantineLog("train", BadConfig(), [piece(5), piece(4), piece(7), piece(6, reason="holds inf"), piece(3)])
    assert [(p.first, p.rows, p.reason) for p in log.pieces()] == [
        (3, 3, "holds nan"),
        (6, 1, "holds inf"),
        (7, 1, "holds nan"),
    ]
    content = written([log, QuarantineLog("eval", BadConfig(), [piece(1, DAYS[2])])])
    again = QuarantineLog("train", BadConfig(), read(content, "train"))
    assert again.pieces() == log.pieces()
    assert again.rows_of == log.rows_of == {DAYS[0]: 5}
    assert again.knows(piece(4))
    assert not again.knows(piece(4, DAYS[1]))


def test_what_is_found_again_is_neither_counted_nor_written_twice() -> None:
    log = QuarantineLog("train", BadConfig())
    for _ in range(2):
        log.add(piece(5))
        log.add(piece(0, rows=30, **LOST))
        log.add(piece(10, rows=20, **LOST))  # part of what is known
        log.add(piece(30, rows=20, **LOST))  # another stretch of the same row group
        log.add(piece(0, group=-1, rows=-1, row_groups=4, kind="schema", file=f"dt={DAYS[0]}/x.parquet"))
    assert log.totals == (1, 5)
    assert [(p.group, p.first, p.rows, p.kind) for p in log.pieces()] == [
        (0, 0, 50, "corrupt"),
        (0, 5, 1, "values"),
        (-1, 0, -1, "schema"),
    ]


def test_a_files_own_name_does_not_name_the_day() -> None:
    assert below_root(f"bucket/dt=logs/dt={DAYS[0]}/part-dt=7.parquet") == f"dt={DAYS[0]}/part-dt=7.parquet"
    assert below_root(f"dt={DAYS[0]}/part-0.parquet") == f"dt={DAYS[0]}/part-0.parquet"


def test_the_budget_is_what_a_day_may_lose() -> None:
    log = QuarantineLog("train", BadConfig(labels="quarantine", rows_per_day=3), [piece(n) for n in range(3)])
    log.add(piece(0, DAYS[1]))
    log.check_budget("LOG")
    log.add(piece(9))
    with pytest.raises(InputError) as caught:
        log.check_budget("LOG")
    assert str(caught.value) == (
        f"day {DAYS[0]}: 4 rows under quarantine, the budget is 3. dt={DAYS[0]}/part-0.parquet, row group 0, "
        f"rows 0 to 2: column 'age' holds nan; dt={DAYS[0]}/part-0.parquet, row group 0, row 9: "
        "column 'age' holds nan. "
        "Every piece is in LOG; mend the log, or raise data.bad.rows_per_day"
    )
    log = QuarantineLog("train", BadConfig(corrupt="quarantine", row_groups_per_day=1), [piece(0, rows=30, **LOST)])
    log.check_budget("LOG")
    log.add(piece(0, group=1, rows=30, **LOST))
    with pytest.raises(InputError, match=r"2 row groups under quarantine, the budget is 1.*row_groups_per_day"):
        log.check_budget("LOG")


# planning


def planned(tmp_path: Path, bad: dict[str, Any], **changed: Override) -> Any:
    """The manifest of two days of three files, the second file of the first day written with columns changed."""
    paths = write_log(tmp_path / "log", DAYS[:2], 90, row_group_rows=10, files_per_day=3)
    (other,) = write_log(tmp_path / "other", DAYS[:1], 20, row_group_rows=10, **changed)
    Path(other).rename(paths[1])
    job = small_job(tmp_path / "log", changes={"data.bad": bad, "data.train.to": DAYS[1], "data.eval": ...})
    return plan(job, job.data.train)


SECOND = f"dt={DAYS[0]}/part-00001.parquet"
DRIFTS: dict[str, tuple[dict[str, Override], str]] = {
    "added": ({"extra": pa.array([1] * 20)}, "a column 'extra' more"),
    "retyped": ({"item_id": lambda c: c.cast(pa.int64())}, "'item_id' of type int64, not int32"),
}


@pytest.mark.parametrize("name", DRIFTS)
def test_a_drifted_file_is_told_refused_or_left_out(tmp_path: Path, name: str) -> None:
    changed, words = DRIFTS[name]
    manifest = planned(tmp_path / "report", {}, **changed)
    assert (manifest.rows, manifest.origin["drifted"]) == (170, 1)
    assert manifest.origin["drift"] == [f"{SECOND}: {words}"]
    with pytest.raises(InputError, match=f"part-00001.parquet: its schema is not that of most files: {words}"):
        planned(tmp_path / "error", {"drift": "error"}, **changed)
    manifest = planned(tmp_path / "out", {"drift": "quarantine", "row_groups_per_day": 2}, **changed)
    assert (manifest.rows, manifest.origin["drifted"]) == (150, 0)
    (piece,) = left_out(manifest)
    assert (piece.file, piece.group, piece.kind, piece.reason, piece.row_groups) == (SECOND, -1, "drift", words, 2)
    with pytest.raises(InputError, match=f"day {DAYS[0]}: 2 row groups under quarantine, the budget is 1"):
        planned(tmp_path / "over", {"drift": "quarantine", "row_groups_per_day": 1}, **changed)


def test_a_column_that_becomes_nullable_has_drifted() -> None:
    nullable, required = (
        pa.schema([pa.field("a", pa.int8(), nullable=yes), ("b", pa.int8())]) for yes in (True, False)
    )
    schemas = {"x": required, "y": nullable, "z": required}
    assert drifted(["x", "y", "z"], schemas) == [Drift("y", "a", "'a' nullable")]
    assert drifted(["y", "x", "z"], schemas) == [Drift("y", "a", "'a' nullable")]
    assert drifted(["x", "z"], schemas) == []
    dropped = pa.schema([("b", pa.int8())])
    assert drifted(["x", "z", "w"], schemas | {"w": dropped}) == [Drift("w", "a", "no column 'a'")]
    # a name that stands there twice, and that no feature reads
    twice = pa.schema([*required, pa.field("b", pa.int16())])
    assert drifted(["x", "z", "w"], schemas | {"w": twice}) == [Drift("w", "b", "'b' 2 times, not 1")]
    assert drifted(["w", "v", "x"], schemas | {"w": twice, "v": twice}) == [Drift("x", "b", "'b' 1 times, not 2")]
    # another order of columns is no other schema
    turned = pa.schema(list(required)[::-1])
    assert drifted(["x", "z", "w"], schemas | {"w": turned}) == []


@pytest.mark.parametrize("changed", [{"age": None}, {"age": pa.array(["old"] * 20)}], ids=["missing", "retyped"])
def test_a_file_that_does_not_fit_the_job_is_refused_or_left_out(tmp_path: Path, changed: dict[str, Override]) -> None:
    with pytest.raises(InputError, match=r"part-00001\.parquet: column 'age', feature 'age', "):
        planned(tmp_path / "error", {}, **changed)
    manifest = planned(tmp_path / "out", {"schema": "quarantine", "row_groups_per_day": 2}, **changed)
    assert manifest.rows == 150
    (piece,) = left_out(manifest)
    assert (piece.file, piece.kind, piece.column, piece.day) == (SECOND, "schema", "age", DAYS[0])


def test_a_file_without_a_footer_is_refused_or_left_out_and_is_not_late(tmp_path: Path) -> None:
    paths = write_log(tmp_path / "log", DAYS[:1], 90, files_per_day=3)
    Path(paths[1]).write_bytes(Path(paths[1]).read_bytes()[:-9])
    days: Any = {"data.train.to": DAYS[0], "data.eval": ...}
    job = small_job(tmp_path / "log", changes=days)
    with pytest.raises(InputError, match=r"part-00001\.parquet: not a whole Parquet file"):
        plan(job, job.data.train)
    bad = {"corrupt": "quarantine", "row_groups_per_day": 1}
    job = small_job(tmp_path / "log", changes=days | {"data.bad": bad})
    manifest = plan(job, job.data.train)
    (piece,) = left_out(manifest)
    assert (piece.file, piece.kind, piece.row_groups) == (SECOND, "corrupt", 1)
    again = frozen(job, job.data.train, manifest.to_bytes())
    assert again.late == ()
    assert left_out(again.manifest) == [piece]
    assert late_files(job, manifest) == ()
    # a file that vanishes later stays in the manifest, for its reader to lose
    Path(paths[2]).unlink()
    assert frozen(job, job.data.train, manifest.to_bytes()).manifest.rows == 60
    with pytest.raises(InputError, match="vanished since the run began"):
        frozen(small_job(tmp_path / "log", changes=days), job.data.train, manifest.to_bytes())


def test_a_log_that_was_begun_goes_on_although_quarantine_was_switched_off(tmp_path: Path) -> None:
    job = small_job(tmp_path / "log", tmp_path / "out")
    assert not job.data.quarantine
    budget = Budget(job, Manifest((), ""))
    assert not budget.active
    piece = Piece(f"dt={DAYS[0]}/part-00000.parquet", 0, 5, 1, "values", "age", "holds nan")
    log = QuarantineLog("train", job.data.bad, [piece])
    budget.restore(written([log]))
    assert budget.active
    assert budget.training.totals == (1, 0)
    assert b"holds nan" in budget.content()
