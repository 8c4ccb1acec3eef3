"""Compaction: the same rows in the same order under the recommended layout, whatever the schema."""

import datetime
import itertools
import uuid
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.compact import main
from pipeline.data.column_digest import ColumnDigests
from pipeline.data.compaction import Compaction, Settings
from pipeline.data.files import plan
from pipeline.data.loader import Loader
from pipeline.data.parquet_layout import encodings, leaf_paths
from pipeline.data.source import epoch_source
from pipeline.data.source_day import SourceDay, source_day
from tests.logs import DAYS, small_config, small_job, small_table, write_config, write_log

DAY = datetime.date(2026, 1, 1)
MS = pa.timestamp("ms")


def rewrite(source: Any, out: Any, columns: list[str] | None = None, **changes: int) -> SourceDay:
    """The first day compacted into row groups of 10 rows, unless `changes` says otherwise."""
    compaction = Compaction(str(source), str(out), Settings(**{"row_group_rows": 10, "threads": 2, **changes}))
    day = source_day(compaction.fs, compaction.root, DAY, columns)
    return compaction.rewrite(day, lambda rows: None)


def read(root: Any) -> pa.Table:
    """The first day as plain pyarrow reads it."""
    fs, base = fsspec.core.url_to_fs(str(root))
    tables = []
    for path in sorted(fs.glob(f"{base}/dt={DAY}/*.parquet")):
        with fs.open(path, "rb") as file:
            tables.append(pq.ParquetFile(file).read())
    return pa.concat_tables(tables, promote_options="permissive")


def put_files(root: Any, tables: list[pa.Table], groups: list[int], **options: Any) -> None:
    """One file a table as the first day; `groups` are the sizes of the row groups in turn, 0 an empty one."""
    fs, base = fsspec.core.url_to_fs(str(root))
    folder = f"{base}/dt={DAY}"
    fs.makedirs(folder, exist_ok=True)
    for number, table in enumerate(tables):
        with (
            fs.open(f"{folder}/part-{number}.parquet", "wb") as file,
            pq.ParquetWriter(file, table.schema, **options) as writer,
        ):
            done = turn = 0
            while done < table.num_rows:
                size = groups[turn % len(groups)] or (0 if turn < len(groups) else 1)
                writer.write_table(table.slice(done, size), row_group_size=max(size, 1))
                done, turn = done + size, turn + 1
    fs.touch(f"{folder}/_SUCCESS")


# ---- any schema

DIGIT, WORD = st.integers(0, 9), st.text(max_size=2)
FLOAT = st.floats(width=32, allow_nan=False)
SECOND = st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2100, 1, 1)).map(
    lambda t: t.replace(microsecond=0)
)
INNER = pa.struct([pa.field("a", pa.int64()), pa.field("b", pa.list_(pa.string()))])
INNERS = st.builds(dict, a=st.none() | DIGIT, b=st.none() | st.lists(st.none() | WORD, max_size=2))
KINDS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.int8(), st.integers(0, 1)),
    (pa.uint32(), st.integers(0, 5)),
    (pa.float32(), FLOAT),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.bool_(), st.booleans()),
    (pa.string(), WORD),
    (pa.large_string(), WORD),
    (pa.binary(), st.binary(max_size=4)),
    (pa.binary(3), st.binary(min_size=3, max_size=3)),
    (pa.decimal128(9, 2), st.decimals(-1000, 1000, places=2)),
    (pa.date32(), st.dates()),
    (MS, SECOND),
    (pa.dictionary(pa.int32(), pa.string()), st.sampled_from(["x", "y", "zz"])),
    (pa.list_(pa.int64()), st.lists(st.none() | DIGIT, max_size=3)),
    (pa.large_list(pa.float32()), st.lists(FLOAT, max_size=3)),
    (pa.list_(pa.int32(), 2), st.lists(st.none() | DIGIT, min_size=2, max_size=2)),
    (pa.list_(INNER), st.lists(st.none() | INNERS, max_size=2)),
    (INNER, INNERS),
    (pa.map_(pa.string(), pa.int64()), st.lists(st.tuples(WORD, st.none() | DIGIT), max_size=2)),
    (pa.null(), st.none()),
]


@st.composite
def logs(draw: st.DrawFn) -> pa.Table:
    """Cells are drawn from a few values: the draws are what takes the time."""
    rows = draw(st.integers(0, 40))
    turns = np.random.default_rng(draw(st.integers(0, 99)))
    columns: dict[str, pa.Array] = {
        "user_id": pa.array(range(rows), pa.int64()),
        "event_time": pa.array(range(rows), MS),
    }
    for number, (kind, values) in enumerate(draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4))):
        cells = draw(st.lists(values, min_size=1, max_size=4)) + draw(st.sampled_from([[], [None]]))
        columns[f"c{number}"] = pa.array([cells[turn] for turn in turns.integers(0, len(cells), rows)], kind)
    return pa.table(columns)


def places_of_nulls(name: str, kind: pa.DataType, values: list[Any]) -> set[str]:
    """By plain Python: which fields of lists and structs hold a null."""
    found = {name} if any(value is None for value in values) else set()
    there = [value for value in values if value is not None]
    if pa.types.is_struct(kind):
        for field in kind:
            inner = [None if value is None else value[field.name] for value in values]
            found |= places_of_nulls(f"{name}.{field.name}", field.type, inner)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        found |= places_of_nulls(f"{name}.element", kind.value_type, [x for value in there for x in value])
    return found


@settings(max_examples=40, deadline=None)
@given(
    table=logs(),
    groups=st.lists(st.integers(0, 15), min_size=1, max_size=3),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    statistics=st.booleans(),
    memory=st.booleans(),
)
def test_any_log_keeps_its_rows_their_order_and_its_types(
    tmp_path_factory: pytest.TempPathFactory,
    table: pa.Table,
    groups: list[int],
    cuts: list[int],
    statistics: bool,
    memory: bool,
) -> None:
    root = f"memory://{uuid.uuid4()}" if memory else str(tmp_path_factory.mktemp("log"))
    edges = [0, *sorted(min(cut, table.num_rows) for cut in cuts), table.num_rows]
    files = [table.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    put_files(f"{root}/in", files, groups, write_statistics=statistics)
    day = rewrite(f"{root}/in", f"{root}/out", row_group_rows=7, file_bytes=500)
    found, source = read(f"{root}/out"), read(f"{root}/in")
    assert found.to_pylist() == source.to_pylist() == table.to_pylist()
    assert found.schema.names == source.schema.names
    for name in table.schema.names:
        assert found.cast(source.schema)[name].equals(source[name])
    values = {name: table[name].to_pylist() for name in table.schema.names}
    nulls = set().union(*(places_of_nulls(f.name, f.type, values[f.name]) for f in table.schema))
    nulls |= {f.name for f in table.schema if pa.types.is_null(f.type)}
    assert day.nullable == nulls


def test_a_digest_does_not_depend_on_batches_and_sees_every_change() -> None:
    table = pa.table(
        {
            "n": pa.array([1, None, 3, None, 5]),
            "s": pa.array(["a", "bc", None, "", "d"]),
            "l": pa.array([[1], [], None, [2, None], [3]]),
            "f": pa.array([1.0, -0.0, 0.0, float("nan"), 2.0]),
            "b": pa.array([True, False, None, True, True]),
        }
    )

    def digest(rows: pa.Table, size: int) -> ColumnDigests:
        out = ColumnDigests()
        for batch in rows.to_batches(size):
            out.update(batch)
        return out

    whole = digest(table, 5)
    assert all(whole.unlike(digest(table, size)) == [] for size in (1, 2, 3))
    encoded = table.set_column(1, "s", table["s"].dictionary_encode())
    assert whole.unlike(digest(encoded, 2)) == []
    for name, other in {
        "n": [1, 3, None, None, 5],
        "s": ["ab", "c", None, "", "d"],
        "l": [[1], None, [], [2, None], [3]],
        "f": [1.0, 0.0, 0.0, float("nan"), 2.0],
        "b": [True, False, True, None, True],
    }.items():
        index = table.schema.get_field_index(name)
        changed = table.set_column(index, name, pa.array(other, table.schema.field(name).type))
        assert whole.unlike(digest(changed, 2)) == [name]
    backwards = table.take(list(reversed(range(5))))
    assert set(whole.unlike(digest(backwards, 5))) == {"n", "s", "l", "f", "b"}


# ---- the layout


def test_small_files_are_joined_and_large_ones_cut(tmp_path: Path) -> None:
    write_log(tmp_path / "in", rows_per_day=1000, row_group_rows=13, files_per_day=30)
    day = rewrite(tmp_path / "in", tmp_path / "one", row_group_rows=96)
    assert len(day.files) == 1
    assert day.files[0].groups == tuple([90, 91, 91, 91, 91, 91, 91, 91, 91, 91, 91])
    size = sum(p.stat().st_size for p in (tmp_path / f"one/dt={DAY}").glob("*.parquet"))
    many = rewrite(tmp_path / "one", tmp_path / "many", row_group_rows=50, file_bytes=size // 4)
    assert 3 <= len(many.files) <= 6
    assert {rows for file in many.files for rows in file.groups} == {50}
    assert read(tmp_path / "many").equals(read(tmp_path / "one"))


def test_the_layout_is_the_recommended_one(tmp_path: Path) -> None:
    nulls = [None if n % 7 == 0 else 1.0 for n in range(400)]
    write_log(tmp_path / "in", rows_per_day=400, age=pa.array(nulls))
    rewrite(tmp_path / "in", tmp_path / "out", row_group_rows=200)
    path = tmp_path / f"out/dt={DAY}/part-00000.parquet"
    metadata = pq.read_metadata(path)
    chunks = {metadata.row_group(0).column(i).path_in_schema: metadata.row_group(0).column(i) for i in range(14)}
    assert {chunk.compression for chunk in chunks.values()} == {"LZ4"}
    assert not any(chunk.is_stats_set for chunk in chunks.values())
    assert "BYTE_STREAM_SPLIT" in chunks["session"].encodings
    assert "RLE_DICTIONARY" in chunks["city"].encodings
    assert "RLE_DICTIONARY" in chunks["click"].encodings
    schema = pq.read_schema(path)
    assert [field.name for field in schema if field.nullable] == ["age"]
    assert not schema.field("history").type.value_field.nullable
    raw = bytearray(path.read_bytes())
    raw[chunks["session"].data_page_offset + 900] ^= 1
    path.write_bytes(raw)
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(path, page_checksum_verification=True).read()


def test_encodings_follow_how_often_values_repeat() -> None:
    rng = np.random.default_rng(0)
    table = pa.table(
        {
            "text": pa.array([f"{n}" for n in range(800)]),
            "few": pa.array(rng.integers(0, 90, 800)),
            "many": pa.array(rng.integers(0, 2**60, 800)),
            "time": pa.array(range(800), MS),
            "wide": pa.array(rng.standard_normal(800)),
            "narrow": pa.array(rng.standard_normal(800).astype(np.float32)),
            "list": pa.array([[n % 5, n % 7] for n in range(800)]),
            "long": pa.array([[n * 2, n * 2 + 1] for n in range(800)]),
            "struct": pa.array([{"a": n % 3, "b": [n]} for n in range(800)]),
            "map": pa.array([[("k", n)] for n in range(800)], pa.map_(pa.string(), pa.int64())),
        }
    )
    dictionary, split = encodings(table)
    assert dictionary == ["text", "few", "list.list.element", "struct.a", "map.key_value.key"]
    assert split == ["many", "time", "wide", "long.list.element", "struct.b.list.element", "map.key_value.value"]
    assert set(leaf_paths(table.schema)) - {*dictionary, *split} == {"narrow"}


def test_memory_does_not_grow_with_the_day(tmp_path: Path) -> None:
    peaks = []
    for rows in (40_000, 320_000):
        root = tmp_path / str(rows)
        table = pa.table({"user_id": pa.array(np.arange(rows)), "event_time": pa.array(np.arange(rows), MS)})
        table = table.append_column("x", pa.array(np.random.default_rng(0).random(rows)))
        put_files(root / "in", [table], [10_000])
        del table
        before, seen = pa.total_allocated_bytes(), []
        compaction = Compaction(str(root / "in"), str(root / "out"), Settings(10_000, 2**30, 1))
        day = source_day(compaction.fs, compaction.root, DAY)
        compaction.rewrite(day, lambda rows, seen=seen, before=before: seen.append(pa.total_allocated_bytes() - before))
        assert len(seen) >= rows // 10_000
        peaks.append(max(seen))
    assert peaks[1] < 1.5 * peaks[0]


# ---- what a person runs


def test_training_meets_the_same_rows_in_the_same_order(tmp_path: Path) -> None:
    write_log(tmp_path / "in", rows_per_day=150, row_group_rows=40, files_per_day=2)
    main(["--from", f"{tmp_path}/in", "--out", f"{tmp_path}/out", "--row-group-rows", "32", "--threads", "2"])

    def batches(log: str) -> list[dict[str, Any]]:
        job = small_job(tmp_path / log, changes={"data.shuffle_rows": 0, "data.lanes": 1})
        source = epoch_source(job, plan(job, job.data.train), 0, shuffle=True)
        found = []
        for b in Loader(job, source).batches():
            dense = [b.row_ids_B, b.dense_BF, b.labels_BT, b.space_BT, b.sparse.values(), b.sparse.lengths()]
            found.append([tensor.tolist() for tensor in [*dense, b.sparse.weights()]])
        return found

    before = batches("in")
    assert len(before) == 10
    assert batches("out") == before


def test_the_job_keeps_the_columns_that_a_configuration_reads_and_says_what_it_gained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, out = f"memory://{uuid.uuid4()}/in", f"memory://{uuid.uuid4()}/out"
    write_log(log, rows_per_day=90, files_per_day=3, age=lambda c: pa.array([None, *c.to_pylist()[1:]]))
    config = write_config(tmp_path / "job.yaml", small_config("unused", "unused"))
    main(["--from", log, "--out", out, "--days", *DAYS[:2], "--config", str(config)])
    said = capsys.readouterr().out
    assert "wrote and verified 180 rows" in said
    line = next(line for line in said.splitlines() if line.startswith(DAYS[1])).split()
    assert line[1:8] == ["90", "3", "->", "1", "3", "->", "1"]
    assert line[11:14] == ["14", "->", "1"]
    assert line[-1] == "x"
    assert float(line[-2]) > 0
    assert "column 'age' holds nulls on 2 of 2 days and stays nullable there" in said
    expected = {"event_time", *small_job("unused").columns}
    assert set(read(out).schema.names) == expected
    assert read(out).to_pylist() == read(log).select(read(out).schema.names).to_pylist()
    main(["--from", log, "--out", out, "--days", *DAYS[:2], "--config", str(config)])
    assert f"{DAYS[0]}  day 1/2  already compacted: left alone" in capsys.readouterr().out


def test_columns_by_name_keep_the_reserved_ones(tmp_path: Path) -> None:
    write_log(tmp_path / "in", rows_per_day=20)
    assert rewrite(tmp_path / "in", tmp_path / "out", ["price", "click"]).schema.names == [
        "user_id",
        "event_time",
        "price",
        "click",
    ]
    assert read(tmp_path / "out")["price"].equals(small_table(20)["price"])
