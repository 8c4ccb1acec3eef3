"""Rows: streams cut and blocks permuted give what plain lists give."""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.checks import Where
from pipeline.data.encode import Encoder
from pipeline.data.permute import permuted
from pipeline.data.rows import Layout, Part, Rows, Stream
from tests.logs import small_job, small_table

JOB = small_job("log")
LAYOUT = Layout(JOB)


@functools.cache
def encoded(rows: int, seed: int = 0) -> Rows:
    """Encoded rows of the small log: two lists of unlike lengths, one of them with weights."""
    batch = small_table(rows + 1, seed).combine_chunks().to_batches()[0].slice(0, rows)
    return Encoder(JOB)(batch, np.arange(rows) + 1000 * seed, Where("part", 0, 0))


def plain(parts: list[Part]) -> list[tuple]:
    """A tuple a row of everything it holds."""
    out = []
    for rows, begin, end in parts:
        for n in range(begin, end):
            lists: list[list] = []
            for name in ("history", "recent"):
                x = rows.lists[name]
                span = slice(x.offset_N[n], x.offset_N[n + 1])
                lists += [x.id_M[span].tolist(), [] if x.weight_M is None else x.weight_M[span].tolist()]
            columns = rows.id_IN[:, n].tolist(), rows.number_FN[:, n].tolist(), rows.label_TN[:, n].tolist()
            out.append((int(rows.row_id_N[n]), *columns, *lists))
    return out


def whole(rows: Rows) -> list[tuple]:
    return plain([Part(rows, 0, rows.num_rows)])


def test_the_layout_names_every_column_once() -> None:
    assert LAYOUT.lists == {"history": True, "recent": False}
    assert LAYOUT.ids == ["user", "item", "session", "city", "price_bucket"]
    assert LAYOUT.numbers == ["price", "age"]
    assert LAYOUT.labels == ["click", "cart", "fav", "order"]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.data())
def test_a_stream_hands_out_the_same_rows_in_any_sizes(pieces: list[int], data: st.DataObject) -> None:
    rows = [encoded(size, seed) for seed, size in enumerate(pieces)]
    stream, left, taken = Stream(iter(rows)), sum(pieces), []
    while left:
        assert stream.take(0) == []
        size = data.draw(st.integers(1, left))
        parts = stream.take(size)
        assert sum(part.num_rows for part in parts) == size
        assert all(any(part.rows is x for x in rows) for part in parts), "nothing is copied"
        taken += plain(parts)
        left -= size
    assert taken == [row for x in rows for row in whole(x)]
    with pytest.raises(StopIteration):
        stream.take(1)


def test_a_stream_asks_for_no_piece_before_it_needs_it() -> None:
    asked = []

    def pieces() -> Iterator[Rows]:
        for seed in range(3):
            asked.append(seed)
            yield encoded(4, seed)

    stream = Stream(pieces())
    assert stream.take(0) == []
    assert asked == []
    stream.take(4)
    assert asked == [0]
    stream.take(5)
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("cuts", [[(50, 5, 45)], [(50, 0, 50)], [(30, 10, 30), (20, 0, 7), (9, 3, 3), (40, 0, 40)]])
def test_permuted(cuts: list[tuple[int, int, int]]) -> None:
    parts = [Part(encoded(rows, seed), begin, end) for seed, (rows, begin, end) in enumerate(cuts)]
    before = plain(parts)
    order = np.random.default_rng(0).permutation(len(before))
    for row_n in (order, order[11:], order[:1]):
        found = permuted(LAYOUT, parts, row_n)
        assert whole(found) == [before[n] for n in row_n]
        assert found.id_IN.dtype == np.int32
        assert found.lists["history"].offset_N[0] == 0
    assert plain(parts) == before, "the parts are left as they were"


def test_permuted_rows_name_the_unknown_of_all_parts() -> None:
    a, b, c = (dataclasses.replace(encoded(3, n), unknown=frozenset(x)) for n, x in enumerate(["u", "v", ""]))
    found = permuted(LAYOUT, [Part(x, 0, 3) for x in (a, b, c)], np.arange(9))
    assert found.unknown == {"u", "v"}
