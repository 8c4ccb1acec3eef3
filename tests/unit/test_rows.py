"""Rows: permuting, cutting and joining give what Arrow's take, slice and concat_batches give."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.data import rows as module
from pipeline.data.encode import ROW_ID, Encoder, Where, weight_key
from pipeline.data.rows import Layout, Rows
from tests.logs import small_job, small_table

WEIGHTS = weight_key("history")


def encoded(rows: int, seed: int = 0) -> pa.RecordBatch:
    """An encoded batch of the small log: two lists of unlike lengths, one of them with weights."""
    table = small_table(rows, seed).combine_chunks()
    return Encoder(small_job("log"))(table.to_batches()[0], np.arange(rows) + 1000 * seed, Where("part", 0, 0))


def assert_same(rows: Rows, batch: pa.RecordBatch) -> None:
    assert rows.num_rows == batch.num_rows
    for name in batch.schema.names:
        column = batch.column(name)
        if not pa.types.is_list(column.type):
            assert rows.column(name).tolist() == column.to_pylist()
            assert rows.column(name).dtype == column.type.to_pandas_dtype()
            continue
        owner = "history" if name == WEIGHTS else name
        assert rows.elements(owner, name).tolist() == column.flatten().to_pylist()
        assert rows.elements(owner, name).dtype == column.type.value_type.to_pandas_dtype()
        assert np.diff(rows.offsets[owner]).tolist() == [len(x) for x in column.to_pylist()]


def test_a_list_and_its_weights_share_their_offsets() -> None:
    layout = Layout(Encoder(small_job("log")).schema)
    assert layout.lists == {"history": ["history", WEIGHTS], "recent": ["recent"]}
    assert ROW_ID in layout.place
    assert not set(layout.place) & {"history", WEIGHTS, "recent"}


@pytest.mark.parametrize(("start", "length"), [(0, 40), (0, 7), (13, 9), (39, 1), (20, 0)])
def test_of_a_slice(start: int, length: int) -> None:
    batch = encoded(40).slice(start, length)
    assert_same(Rows.of(batch, Layout(batch.schema)), batch)


@pytest.mark.parametrize("piece", [1, 7, 1024])
def test_permuted(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE_ROWS", piece)
    batch = encoded(50).slice(5, 40)
    order = np.random.default_rng(0).permutation(40)
    for row_N in (order, order[11:], order[:0]):
        assert_same(Rows.permuted(batch, Layout(batch.schema), row_N), batch.take(pa.array(row_N)))


def test_slices_of_slices_joined() -> None:
    a, b = encoded(30, 1), encoded(20, 2)
    layout = Layout(a.schema)
    rows_a, rows_b = Rows.of(a, layout), Rows.permuted(b, layout, np.arange(20)[::-1])
    back = b.take(pa.array(np.arange(20)[::-1]))
    joined = Rows.joined(layout, [rows_a.slice(10, 15).slice(2, 4), rows_b.slice(3), rows_a.slice(7, 0), rows_a])
    assert_same(joined, pa.concat_batches([a.slice(12, 4), back.slice(3), a]))


def test_nothing_joined_keeps_every_column() -> None:
    schema = Encoder(small_job("log")).schema
    assert_same(Rows.joined(Layout(schema), []), pa.RecordBatch.from_pylist([], schema))
