"""Each kind of feature and label against values worked out by hand, and everything a log may break by name."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.checks import Where
from pipeline.data.encode import Encoder, over_their_sum
from pipeline.data.hashing import bucket_integers, bucket_strings
from pipeline.data.rows import Rows
from schemas.errors import InputError
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.logs import TASKS, Override, override, set_key, small_config, small_job, small_table

ROWS = 6
WHERE = Where("dt=2026-01-01/part-0.parquet", group=3, first=100)
CHAIN = [{"name": "click"}, {"name": "cart", "given": "click"}, {"name": "order", "given": "cart"}]


def encoder(changes: dict[str, Any] | None = None) -> Encoder:
    return Encoder(small_job("log", changes=changes))


def encode(encode: Encoder, **columns: Override) -> dict[str, list]:
    """The encoded columns of six rows with some columns replaced."""
    batch = override(small_table(ROWS), columns).combine_chunks().to_batches()[0]
    return by_name(encode, encode(batch, np.arange(500, 500 + ROWS), WHERE))


def by_name(encode: Encoder, rows: Rows) -> dict[str, list]:
    """Each column's values; of a list feature a list a row, and its weights beside it."""
    layout = encode.layout
    out: dict[str, list] = {"row/id": rows.row_id_N.tolist()}
    out |= dict(zip(layout.ids, rows.id_IN.tolist(), strict=True))
    out |= dict(zip(layout.numbers, rows.number_FN.tolist(), strict=True))
    out |= {f"label/{task}": x for task, x in zip(layout.labels, rows.label_TN.tolist(), strict=True)}
    for name, lists in rows.lists.items():
        out[name] = [x.tolist() for x in np.split(lists.id_M, lists.offset_N[1:-1])]
        if lists.weight_M is not None:
            out[f"{name}/weight"] = [x.tolist() for x in np.split(lists.weight_M, lists.offset_N[1:-1])]
    return out


def refusal(changes: dict[str, Any] | None = None, **columns: Override) -> str:
    with pytest.raises(InputError) as caught:
        encode(encoder(changes), **columns)
    place, _, said = str(caught.value).partition(": ")
    assert place == "dt=2026-01-01/part-0.parquet, row group 3"
    return said


def funnel_job(policy: str) -> JobConfig:
    """click -> cart -> order, each given the one before."""
    config = small_config("log", "out")
    set_key(config, "tasks", CHAIN)
    set_key(config, "data.funnel", policy)
    return parse_job(config, "test")


def test_rows_keep_their_ids_and_every_column_has_its_place_and_type() -> None:
    make = encoder()
    out = encode(make)
    assert out["row/id"] == [500, 501, 502, 503, 504, 505]
    features = {"user", "item", "session", "city", "price_bucket", "price", "age", "history", "recent"}
    assert set(out) == {"row/id", "history/weight"} | features | {f"label/{t}" for t in TASKS}
    assert {len(x) for x in out.values()} == {ROWS}
    rows = make(small_table(ROWS).combine_chunks().to_batches()[0], np.arange(ROWS), WHERE)
    assert (rows.row_id_N.dtype, rows.id_IN.dtype, rows.number_FN.dtype) == (np.int64, np.int32, np.float32)
    assert rows.label_TN.dtype == np.int8
    assert all((x.offset_N.dtype, x.id_M.dtype) == (np.int32, np.int32) for x in rows.lists.values())


def test_features_with_ids_out_of_vocabulary_are_named_and_no_others() -> None:
    def unknown(changes: dict[str, Any], **columns: Override) -> set[str]:
        batch = override(small_table(ROWS), columns).combine_chunks().to_batches()[0]
        return set(encoder(changes)(batch, np.arange(ROWS), WHERE).unknown)

    assert unknown({}) == set()
    assert unknown({}, user_id=pa.array([0, 49, 50, 3, 3, 3]), session=pa.array([2**62] * 6)) == {"user"}
    assert unknown({}, recent=pa.array([[1], [], [-1], [], [], []])) == {"recent"}
    nulls = {"features.city.missing": "unknown", "features.item.missing": "unknown"}
    city = pa.array(["a", None, "b", "c", "d", "e"])
    for column in (city, city.dictionary_encode()):
        assert unknown(nulls, city=column, item_id=pa.array([1, 2, None, 4, 5, 6])) == {"city", "item"}


def test_encoded_rows_keep_nothing_of_the_decoded_batch() -> None:
    """They wait in the shuffle: a view would hold the whole batch in memory."""
    batch = small_table(ROWS).combine_chunks().to_batches()[0]
    rows = encoder({"features.history.pooling": "sum"})(batch, np.arange(ROWS), WHERE)
    arrow = [np.frombuffer(b, np.uint8) for column in batch.columns for b in column.buffers() if b]
    found = [rows.row_id_N, rows.id_IN, rows.number_FN, rows.label_TN]
    found += [x for lists in rows.lists.values() for x in (lists.offset_N, lists.id_M, lists.weight_M) if x is not None]
    assert len(found) == 9
    assert not any(np.shares_memory(x, y) for x in found for y in arrow)


# ids


@pytest.mark.parametrize(
    "column",
    [
        pa.array([0, 49, 50, -1, 2**63 - 1, -(2**63)]),
        pa.array([0, 49, 50, 2**63, 2**64 - 1, 2**64 - 2], pa.uint64()),
        pa.array([0, 49, 50, -1, 127, -128], pa.int8()),
        pa.array([0, 49, 50, 51, 255, 254], pa.uint8()),
    ],
)
def test_ids_outside_the_table_go_to_its_own_last_row(column: pa.Array) -> None:
    assert encode(encoder(), user_id=column)["user"] == [0, 49, 50, 50, 50, 50]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64()])
def test_a_negative_id_of_a_narrow_type_is_no_row_of_a_wide_table(kind: pa.DataType) -> None:
    column = pa.array([0, 1, -1, -128, 127, 5], kind)
    out = encode(encoder({"tables.user.rows": 100_000}), user_id=column)["user"]
    assert out == [0, 1, 100_000, 100_000, 127, 5]


def test_hashed_ids_are_never_unknown_and_do_not_depend_on_the_integer_type() -> None:
    ids = [0, 49, 50, 7, 2**31 - 1, 1]
    expected = bucket_integers(np.array(ids, np.int64), 30).tolist()
    for kind in (pa.int64(), pa.uint64(), pa.int32()):
        assert encode(encoder(), session=pa.array(ids, kind))["session"] == expected
    wide = encode(encoder(), session=pa.array([2**64 - 1, 2**63, 0, 0, 0, 0], pa.uint64()))["session"]
    assert wide[:2] == bucket_integers(np.array([-1, -(2**63)], np.int64), 30).tolist()
    assert max(wide) < 30


def test_a_null_id_is_refused_or_unknown() -> None:
    column = pa.array([3, None, 5, 0, 1, 2])
    assert refusal(user_id=column).startswith("column 'user_id' holds nulls; write it without nulls, or set")
    assert encode(encoder({"features.user.missing": "unknown"}), user_id=column)["user"] == [3, 50, 5, 0, 1, 2]
    hashed = encode(encoder({"features.session.missing": "unknown"}), session=column)["session"]
    assert hashed[1] == 30
    assert max(hashed[:1] + hashed[2:]) < 30


# lists of ids


LISTS = pa.array([[1, 2], [], [39, 40, -1], [0], [], [5, 5]])


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.large_list(pa.int32()), pa.list_(pa.int8())])
def test_lists_keep_their_lengths_and_unknown_ids(kind: pa.DataType) -> None:
    assert encode(encoder(), recent=LISTS.cast(kind))["recent"] == [[1, 2], [], [39, 40, 40], [0], [], [5, 5]]


def test_uint64_ids_of_a_list_wrap_into_the_unknown_row() -> None:
    lists = pa.array([[2**64 - 1], [2**63], [3], [], [], []], pa.list_(pa.uint64()))
    assert encode(encoder(), recent=lists)["recent"] == [[40], [40], [3], [], [], []]


def test_lists_may_be_hashed() -> None:
    out = encode(encoder({"features.recent.hash": True}), recent=LISTS)["recent"]
    assert [len(ids) for ids in out] == [2, 0, 3, 1, 0, 2]
    assert out[0] == bucket_integers(np.array([1, 2]), 40).tolist()


def test_weights_of_a_mean_are_divided_by_their_sum() -> None:
    weights = [[1, 3], [], [2, 0, 2], [7], [], [0, 0]]  # weights of 0 pool to zeros
    out = encode(encoder(), history=LISTS, history_weight=pa.array(weights, pa.list_(pa.float64())))
    assert out["history"] == [[1, 2], [], [39, 40, 40], [0], [], [5, 5]]
    assert out["history/weight"] == [[0.25, 0.75], [], [0.5, 0.0, 0.5], [1.0], [], [0.0, 0.0]]


def test_weights_of_a_sum_stay_as_they_are() -> None:
    weights = pa.array([[1, -3], [], [2, 0, 2], [7], [], [1, 1]])
    out = encode(encoder({"features.history.pooling": "sum"}), history=LISTS, history_weight=weights)
    assert out["history/weight"] == [[1, -3], [], [2, 0, 2], [7], [], [1, 1]]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"recent": pa.array([[1], None, [2], [], [], []])}, "column 'recent' holds nulls; write an empty list"),
        ({"recent": pa.array([[1], [2, None], [], [], [], []])}, "column 'recent' holds nulls; write an empty list"),
        (
            {"history": LISTS, "history_weight": pa.array([[1.0, 2.0], [], [1.0, 1.0], [1.0], [], [1.0, 1.0]])},
            "row 102 has lists of unlike lengths in 'history' and 'history_weight'; write one weight an id",
        ),
        (
            {"history": pa.array([[1]] + [[]] * 5), "history_weight": pa.array([[], [1.0]] + [[]] * 4)},
            "row 100 has lists of unlike lengths in 'history' and 'history_weight'; write one weight an id",
        ),
        (
            {"history": LISTS, "history_weight": pa.array([[1, 3], [], [2, -1, 2], [7], [], [1, 1]])},
            "column 'history_weight' holds negative weights; pooling: mean needs weights >= 0",
        ),
        (
            {"history": LISTS, "history_weight": pa.array([[1, 3], [], [2, 1, math.nan], [7], [], [1, 1]])},
            "column 'history_weight' holds nan (row 102); write finite weights",
        ),
        (
            {"history": LISTS, "history_weight": pa.array([[1, 3], [], [2, 1, 1], [1e39], [], [1, 1]])},
            "column 'history_weight' holds 1e+39 (row 103); write finite weights that fit 32 bits",
        ),
        (
            {"history": LISTS, "history_weight": pa.array([[1, 3], [], [2, None, 1], [1.0], [], [1, 1]])},
            "column 'history_weight' holds nulls; write an empty list",
        ),
    ],
)
def test_broken_lists_are_named(columns: dict[str, pa.Array], said: str) -> None:
    assert refusal(**columns).startswith(said)


# strings


def test_strings_are_hashed_into_the_table() -> None:
    cities = pa.array(["Oslo", "", "Łódź", "Oslo", "東京", "Lima"])
    expected = bucket_strings(cities, 20).tolist()
    assert expected[0] == expected[3]
    for column in (cities, cities.dictionary_encode(), cities.cast(pa.large_string())):
        assert encode(encoder(), city=column)["city"] == expected


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["a", None, "b", "c", "d", "e"]),
        pa.array(["a", None, "b", "c", "d", "e"]).dictionary_encode(),
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 3, 4, 5]), pa.array(["a", None, "b", "c", "d", "e"])),
        pa.array([None] * 6, pa.string()),
    ],
)
def test_a_null_string_is_refused_or_unknown(column: pa.Array) -> None:
    assert refusal(city=column).startswith("column 'city' holds nulls; write it without nulls, or set")
    out = encode(encoder({"features.city.missing": "unknown"}), city=column)["city"]
    assert [row == 20 for row in out] == [text is None for text in column.to_pylist()]


# numbers


def test_log1p_of_what_is_below_zero_is_zero() -> None:
    out = encode(encoder(), price=pa.array([0.0, -5.0, math.e - 1, 1e300, 99.0, -0.5]))["price"]
    assert out == pytest.approx([0, 0, 1, 690.7755279, 4.6051702, 0], rel=1e-6)


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.float16(), pa.int64(), pa.int8(), pa.uint8()])
def test_standardize(kind: pa.DataType) -> None:
    out = encode(encoder(), age=pa.array([45, 63, 27, 0, 90, 45]).cast(kind))["age"]
    assert out == pytest.approx([0, 1, -1, -2.5, 2.5, 0])


def test_a_number_may_be_an_integer_of_any_size() -> None:
    column = pa.array([2**53 + 1, 2**64 - 1, 0, 0, 0, 0], pa.uint64())
    out = encode(encoder({"features.price.transform": "none"}), price=column)["price"]
    assert out[:2] == pytest.approx([2.0**53, 2.0**64])


@pytest.mark.parametrize("missing", [-1.0, 0.0])
@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.float16()])
def test_missing_stands_for_null_and_nan_before_the_transform(missing: float, kind: pa.DataType) -> None:
    column = pa.array(np.array([45, math.nan, 63, 1, 1, 1], np.float64)).cast(kind)
    column = pa.array([*column.to_pylist()[:5], None], kind)
    out = encode(encoder({"features.age.missing": missing}), age=column)["age"]
    assert out[:3] == pytest.approx([0, (missing - 45) / 18, 1])
    assert out[5] == out[1]


def test_missing_works_on_integers_and_buckets() -> None:
    ages = pa.array([45, None, 63, 45, 45, 45], pa.int32())
    assert encode(encoder({"features.age.missing": 27}), age=ages)["age"][:3] == pytest.approx([0, -1, 1])
    prices = pa.array([5.0, None, math.nan, 15.0, 100.0, 20.0])
    changes = {"features.price_bucket.missing": 79, "features.price.missing": 0}
    assert encode(encoder(changes), price=prices)["price_bucket"] == [0, 3, 3, 1, 4, 2]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named_to_the_row(bad: float) -> None:
    said = refusal(age=pa.array([1.0, 2.0, 3.0, bad, 4.0, bad]))
    assert said == f"column 'age' holds {bad} (row 103); write finite numbers, or say what NaN stands for with the " + (
        "feature's missing: NUMBER"
    )


def test_a_number_too_large_for_the_network_is_named_to_the_row() -> None:
    said = refusal(age=pa.array([1.0, 1e39 * 18, 3, 4, 5, 6]))
    assert said.startswith("column 'age' holds 1.8e+40 (row 101), too large for 32 bits; mend the log")


def test_nulls_without_missing_are_refused() -> None:
    for column in (pa.array([1.0, None, 3, 4, 5, 6]), pa.array([1, None, 3, 4, 5, 6])):
        assert refusal(age=column).startswith("column 'age' holds nulls; write it without nulls, or set the feature's")


def test_a_bucket_begins_at_its_boundary() -> None:
    below = math.nextafter(20.0, 0)
    out = encode(encoder(), price=pa.array([-1e9, 10.0, below, 20.0, 80.0, 1e9]))
    assert out["price_bucket"] == [0, 1, 1, 2, 4, 4]
    assert encode(encoder(), price=pa.array([9, 10, 19, 20, 40, 80]))["price_bucket"] == [0, 1, 1, 2, 3, 4]


# labels


@pytest.mark.parametrize("kind", [pa.bool_(), pa.int8(), pa.uint8(), pa.int64(), pa.uint64()])
def test_labels_of_any_integer_type(kind: pa.DataType) -> None:
    labels = [1, 0, 1, 1, 0, 0]
    column = pa.array([bool(x) for x in labels]).cast(kind)
    assert encode(encoder(), click=column, cart=column, fav=column, order=column)["label/order"] == labels


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array([0, 1, 2, 0, 0, 2]), "label 'fav' holds 2 (row 102); a label is 0 or 1, mend the log"),
        (pa.array([0, -1, 0, 0, 0, 0]), "label 'fav' holds -1 (row 101); a label is 0 or 1, mend the log"),
        (pa.array([0, -1, 3, 0, 0, 0]), "label 'fav' holds 3 (row 102); a label is 0 or 1, mend the log"),
        (pa.array([2**64 - 1, 0, 0, 0, 0, 0], pa.uint64()), "label 'fav' holds 18446744073709551615 (row 100)"),
        (pa.array([0, None, 0, 0, 0, 0]), "column 'fav' holds nulls; a label is 0 or 1 on every row"),
        (pa.array([True, None, True, True, True, True]), "column 'fav' holds nulls; a label is 0 or 1 on every row"),
    ],
)
def test_a_label_is_zero_or_one(column: pa.Array, said: str) -> None:
    assert refusal(fav=column, click=pa.array([1] * 6)).startswith(said)


# the funnel, over a chain of three

CLICK, CART, ORDER = [1, 1, 0, 0, 0, 1], [1, 0, 1, 0, 0, 1], [1, 1, 0, 1, 0, 0]
BROKEN = {"click": pa.array(CLICK), "cart": pa.array(CART), "order": pa.array(ORDER)}


def test_a_broken_funnel_is_refused_and_counted_in_the_message() -> None:
    with pytest.raises(InputError) as caught:
        encode(Encoder(funnel_job("error")), **BROKEN)
    assert str(caught.value) == (
        "dt=2026-01-01/part-0.parquet, row group 3: 1 row has 'cart' = 1 and 'click' = 0, the first is row 102; "
        "mend the log, or set data.funnel to drop or promote"
    )


@pytest.mark.parametrize("policy", ["drop", "promote"])
def test_other_policies_leave_the_labels_to_the_collator(policy: str) -> None:
    out = encode(Encoder(funnel_job(policy)), **BROKEN)
    assert [out["label/click"], out["label/cart"], out["label/order"]] == [CLICK, CART, ORDER]


def test_a_slice_of_a_batch_is_encoded_like_its_rows() -> None:
    """A resume cuts the first decoded batch: offsets into buffers must not leak."""
    batch = small_table(40).combine_chunks().to_batches()[0]
    make = encoder()
    whole = by_name(make, make(batch, np.arange(40), WHERE))
    part = by_name(make, make(batch.slice(7, 25), np.arange(7, 32), WHERE))
    assert part == {name: x[7:32] for name, x in whole.items()}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.floats(0, 1e6, width=32), max_size=5), min_size=1, max_size=8))
def test_weights_over_their_sum(lists: list[list[float]]) -> None:
    """Against the plain loop; what a list becomes does not depend on its neighbours."""
    offset_N = np.cumsum([0, *map(len, lists)]).astype(np.int32)
    found = over_their_sum(np.array([x for row in lists for x in row], np.float32), offset_N)
    expected = np.array([x / (math.fsum(row) or 1) for row in lists for x in row], np.float32)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=2e-45)  # a unit in the last place
    alone = [over_their_sum(np.array(row, np.float32), np.array([0, len(row)], np.int32)) for row in lists]
    assert found.tolist() == np.concatenate(alone).tolist()


@pytest.mark.parametrize("boundaries", [3, 24, 25, 60])
def test_few_boundaries_and_many_give_the_same_buckets(boundaries: int) -> None:
    edges = [float(x) for x in range(10, 10 + boundaries)]
    changes = {"features.price_bucket.boundaries": edges, "tables.price_bucket.rows": boundaries + 1}
    x = [9.5, 10, 11.5, 12, 9 + boundaries, 1e6]
    assert encode(encoder(changes), price=pa.array(x))["price_bucket"] == [sum(v >= e for e in edges) for v in x]
