"""Encoded rows -> Batch: ids, weights, padding, spaces and counts against values worked out by hand."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.batch import Batch
from pipeline.data.checks import Where
from pipeline.data.collate import Collator
from pipeline.data.encode import Encoder
from pipeline.data.rows import Part
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.logs import Override, override, set_key, small_config, small_job, small_table

KEYS = ["user", "item", "session", "city", "price_bucket", "history", "recent"]  # of the batch: lists come last
FEATURES = ["user", "item", "session", "history", "recent", "city", "price_bucket"]  # of the counts: as declared


def collate(job: JobConfig, rows: int = 4, padded: int | None = None, **columns: Override) -> Batch:
    """The batch of the small log's first rows with some columns replaced."""
    table = override(small_table(rows), columns).combine_chunks()
    encoded = Encoder(job)(table.to_batches()[0], np.arange(100, 100 + rows), Where("part", 0, 0))
    return Collator(job)([Part(encoded, 0, rows)], rows if padded is None else padded, 2, 777)


def lists(batch: Batch, key: str) -> list[list[int]]:
    """The ids of each row, padding rows included."""
    jagged = batch.sparse[key]
    return [part.tolist() for part in jagged.values().split(jagged.lengths().tolist())]


def weights(batch: Batch, key: str) -> list[list[float]]:
    jagged = batch.sparse[key]
    return [part.tolist() for part in jagged.weights().split(jagged.lengths().tolist())]


def test_shapes_types_and_bookkeeping() -> None:
    job = small_job("log")
    batch = collate(job, rows=5)
    assert (batch.rows, batch.epoch, batch.end_row) == (5, 2, 777)
    assert batch.row_ids_B.tolist() == [100, 101, 102, 103, 104]
    assert batch.sparse.keys() == KEYS
    assert batch.sparse.stride() == 5
    assert batch.sparse.values().dtype == torch.int64
    assert (batch.dense_BF.shape, batch.dense_BF.dtype) == ((5, 2), torch.float32)
    assert (batch.labels_BT.shape, batch.labels_BT.dtype) == ((5, 4), torch.float32)
    assert (batch.space_BT.shape, batch.space_BT.dtype) == ((5, 4), torch.float32)


def test_dense_columns_come_in_the_order_of_the_features() -> None:
    batch = collate(small_job("log"), price=pa.array([0.0, np.e - 1, -1, 0]), age=pa.array([45, 63, 27, 45]))
    torch.testing.assert_close(batch.dense_BF, torch.tensor([[0.0, 0], [1, 1], [0, -1], [0, 0]]))


def test_one_id_a_row_with_weight_one() -> None:
    batch = collate(small_job("log"), user_id=pa.array([3, 49, 0, 7]), price=pa.array([9.0, 10, 79, 80]))
    assert lists(batch, "user") == [[3], [49], [0], [7]]
    assert lists(batch, "price_bucket") == [[0], [1], [3], [4]]
    assert weights(batch, "user") == [[1], [1], [1], [1]]


HISTORY = pa.array([[1, 2], [], [3, 4, 5], [6]])


def test_a_weighted_mean_weighs_by_its_column() -> None:
    given = pa.array([[1, 3], [], [2, 1, 1], [5.0]])
    batch = collate(small_job("log"), history=HISTORY, history_weight=given)
    assert lists(batch, "history") == HISTORY.to_pylist()
    assert weights(batch, "history") == [[0.25, 0.75], [], [0.5, 0.25, 0.25], [1]]


def test_a_mean_weighs_one_over_the_length_and_a_sum_one() -> None:
    batch = collate(small_job("log", changes={"features.recent.pooling": "mean"}), recent=HISTORY)
    assert weights(batch, "recent") == [[0.5, 0.5], [], [pytest.approx(1 / 3)] * 3, [1]]
    batch = collate(small_job("log"), recent=HISTORY)
    assert lists(batch, "recent") == HISTORY.to_pylist()
    assert weights(batch, "recent") == [[1, 1], [], [1, 1, 1], [1]]


def test_a_job_without_means_or_weights_carries_no_weights() -> None:
    changes = {"features.history.pooling": "sum", "features.history.weights": ...}
    job = small_job("log", changes=changes)
    batch = collate(job, history=HISTORY)
    assert batch.sparse.weights_or_none() is None
    assert lists(batch, "history") == HISTORY.to_pylist()
    weighted = small_job("log", changes={"features.history.pooling": "sum"})
    given = pa.array([[1, -3], [], [2, 1, 1], [5.0]])
    assert weights(collate(weighted, history=HISTORY, history_weight=given), "history") == given.to_pylist()


def test_padding_rows_have_no_ids_and_no_place_elsewhere() -> None:
    bare, padded = (collate(small_job("log"), rows=3, padded=n) for n in (3, 8))
    assert padded.sparse.stride() == 8
    for key in KEYS:
        assert lists(padded, key) == lists(bare, key) + [[]] * 5
        assert weights(padded, key) == weights(bare, key) + [[]] * 5
    for name in ("dense_BF", "labels_BT", "space_BT", "row_ids_B", "unknown_K", "ids_K"):
        assert torch.equal(getattr(padded, name), getattr(bare, name)), name
    assert padded.rows == 3


def test_a_rank_without_rows_has_an_empty_batch() -> None:
    job = small_job("log")
    batch = Collator(job)([], 3, 0, 9)
    assert (batch.rows, batch.dense_BF.shape, batch.labels_BT.shape, batch.space_BT.shape) == (
        0,
        (0, 2),
        (0, 4),
        (0, 4),
    )
    assert [lists(batch, key) for key in KEYS] == [[[], [], []]] * 7
    assert (batch.unknown_K.tolist(), batch.ids_K.tolist()) == ([0] * 7, [0] * 7)


def test_unknown_ids_are_counted_by_feature() -> None:
    columns: dict[str, Any] = {
        "user_id": pa.array([49, 50, -1, 2**40]),
        "item_id": pa.array([39, 0, 40, 1]),
        "session": pa.array([-5, 2**62, 3, 4]),
        "history": pa.array([[40, 1], [], [-2, 41, 39], [0]]),
        "history_weight": pa.array([[1, 1], [], [1, 1, 1], [1.0]]),
        "recent": pa.array([[], [], [], [7]]),
        "city": pa.array(["a", None, "b", None]),
    }
    batch = collate(small_job("log", changes={"features.city.missing": "unknown"}), **columns)
    assert dict(zip(FEATURES, batch.unknown_K.tolist(), strict=True)) == {
        **{"user": 3, "item": 1, "session": 0, "history": 3, "recent": 0, "city": 2, "price_bucket": 0}
    }
    assert dict(zip(FEATURES, batch.ids_K.tolist(), strict=True)) == {
        **{"user": 4, "item": 4, "session": 4, "history": 6, "recent": 1, "city": 4, "price_bucket": 4}
    }
    assert lists(batch, "history") == [[40, 1], [], [40, 40, 39], [0]]  # the item table's own last row


# click -> cart -> order; share stands apart, return follows order and is declared before its ancestors
TASKS = [
    {"name": "return", "given": "order"},
    {"name": "order", "given": "cart"},
    {"name": "share"},
    {"name": "cart", "given": "click"},
    {"name": "click"},
]


def test_a_space_is_the_and_of_all_ancestors() -> None:
    config = small_config("log", "out")
    set_key(config, "tasks", TASKS)
    set_key(config, "data.funnel", "drop")
    labels = {
        "click": [1, 1, 1, 0, 0, 1],
        "cart": [1, 1, 0, 1, 0, 1],
        "order": [1, 0, 1, 1, 0, 1],
        "return": [1, 0, 0, 0, 0, 0],
        "share": [0, 1, 0, 1, 0, 1],
    }
    arrays: dict[str, Any] = {name: pa.array(values) for name, values in labels.items()}
    batch = collate(parse_job(config, "test"), rows=6, **arrays)
    assert {t["name"]: batch.labels_BT[:, i].tolist() for i, t in enumerate(TASKS)} == labels
    assert {t["name"]: batch.space_BT[:, i].tolist() for i, t in enumerate(TASKS)} == {
        "click": [1, 1, 1, 1, 1, 1],
        "share": [1, 1, 1, 1, 1, 1],
        "cart": [1, 1, 1, 0, 0, 1],
        "order": [1, 1, 0, 0, 0, 1],  # row 3 has a cart without a click
        "return": [1, 0, 0, 0, 0, 1],
    }


CHAIN = [{"name": "order", "given": "cart"}, {"name": "cart", "given": "click"}, {"name": "click"}]
CLICK, CART, ORDER = [1, 1, 0, 0, 0, 1], [1, 0, 1, 0, 0, 1], [1, 1, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("policy", "cart", "click", "broken"),
    [
        ("drop", CART, CLICK, [2, 1, 0]),  # order without cart in rows 1 and 3, cart without click in row 2
        # and the click that row 3's promoted cart brings with it
        ("promote", [1, 1, 1, 1, 0, 1], [1, 1, 1, 1, 0, 1], [2, 2, 0]),
    ],
)
def test_a_broken_funnel_is_counted_by_task_and_treated(
    policy: str, cart: list[int], click: list[int], broken: list[int]
) -> None:
    config = small_config("log", "out")
    set_key(config, "tasks", CHAIN)
    set_key(config, "data.funnel", policy)
    labels: dict[str, Any] = {"click": pa.array(CLICK), "cart": pa.array(CART), "order": pa.array(ORDER)}
    batch = collate(parse_job(config, "test"), rows=6, **labels)
    assert batch.broken_T.tolist() == broken
    assert batch.labels_BT.T.tolist() == [ORDER, cart, click]
    spaces = [[a * b for a, b in zip(cart, click, strict=True)], click, [1] * 6]
    assert batch.space_BT.T.tolist() == spaces


def test_parts_collate_like_their_rows_one_after_another() -> None:
    """Parts of several encoded batches, an empty one among them, against the rows collated in one piece."""
    job = small_job("log", changes={"features.recent.pooling": "mean"})
    encode, table = Encoder(job), small_table(20).combine_chunks()
    whole = Collator(job)([Part(encode(table.to_batches()[0], np.arange(20), Where("part", 0, 0)), 0, 20)], 20, 0, 0)
    halves = [encode(table.slice(n, 10).to_batches()[0], np.arange(n, n + 10), Where("part", 0, n)) for n in (0, 10)]
    part = Collator(job)([Part(halves[0], 5, 10), Part(halves[1], 3, 3), Part(halves[1], 0, 9)], 16, 0, 0)
    assert part.row_ids_B.tolist() == list(range(5, 19))
    for key in KEYS:
        assert lists(part, key) == [*lists(whole, key)[5:19], [], []]
        assert weights(part, key) == [*weights(whole, key)[5:19], [], []]
    for name in ("dense_BF", "labels_BT", "space_BT"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[5:19]), name
    assert part.ids_K.tolist() == [sum(map(len, lists(part, key))) for key in FEATURES]


def test_a_batch_moves_with_all_its_tensors() -> None:
    batch = collate(small_job("log"))
    moved = batch.to(torch.device("meta"))
    tensors = ("dense_BF", "labels_BT", "space_BT", "row_ids_B", "unknown_K", "ids_K")
    assert {getattr(moved, name).device.type for name in tensors} == {"meta"}
    assert moved.sparse.values().device.type == "meta"
    assert (moved.rows, moved.epoch, moved.end_row) == (4, 2, 777)
