"""Labels, indicators and weights -> what each task is trained on: by hand, in every space and funnel policy."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline.batch import Batch
from pipeline.data.checks import Where
from pipeline.data.collate import Collator
from pipeline.data.contract import SchemaError, check_schema
from pipeline.data.encode import Encoder
from pipeline.data.flags import Flags
from pipeline.data.permute import permuted, unflagged
from pipeline.data.rows import Part
from schemas.errors import InputError
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.logs import Override, override, set_key, small_config, small_table

CHAIN: list[dict[str, Any]] = [
    {"name": "order", "given": "cart"},
    {"name": "cart", "given": "click"},
    {"name": "click"},
]
# row 3: an order without a cart; row 4: a cart without a click, and an order on top of it
CLICK, CART, ORDER = [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0], [1, 0, 0, 1, 1, 0]
LABELS: dict[str, Override] = {"click": pa.array(CLICK), "cart": pa.array(CART), "order": pa.array(ORDER)}
CLEAN: dict[str, Override] = {"order": pa.array([1, 0, 0, 0, 0, 0]), "cart": pa.array([1, 1, 0, 0, 0, 0])}
CLEAN = LABELS | CLEAN


def chain_job(**changes: Any) -> JobConfig:
    """order <- cart <- click, with changed keys (`__` for a dot)."""
    config = small_config("log", "out")
    set_key(config, "tasks", [dict(task) for task in CHAIN])
    for key, value in changes.items():
        set_key(config, key.replace("__", "."), value)
    return parse_job(config, "test")


def watch_job(**changes: Any) -> JobConfig:
    """click, and watch given click: a number between 0 and 2."""
    config = small_config("log", "out")
    set_key(config, "tasks", [{"name": "click"}, {"name": "watch", "kind": "regression", "given": "click"}])
    for key, value in changes.items():
        set_key(config, key.replace("__", "."), value)
    return parse_job(config, "test")


def batch_of(job: JobConfig, flags: Flags | None = None, **columns: Override) -> Batch:
    """Six rows through the encoder, the shuffle and the collator."""
    encode = Encoder(job, flags)
    table = override(small_table(6), columns).combine_chunks()
    rows = encode(table.to_batches()[0], np.arange(6), Where("dt=2026-01-01/part-0.parquet", 0, 0))
    shuffled = permuted(encode.layout, [Part(rows, 0, 4), Part(rows, 4, 6)], np.array([5, 0, 1, 4, 3, 2]))
    back = permuted(encode.layout, [Part(shuffled, 0, 6)], np.array([1, 2, 5, 4, 3, 0]))
    parts, _ = unflagged(encode.layout, [Part(back, 0, 3), Part(back, 3, 6)])
    return Collator(job)(parts, 8, 0, 6)


def columns_of(tensor: torch.Tensor) -> dict[str, list[float]]:
    return dict(zip(("order", "cart", "click"), tensor.T.tolist(), strict=True))


ALL = [1.0] * 6
CART_OWN, ORDER_OWN = [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("space", "order", "cart"),
    [
        ("conditional", ORDER_OWN, CART_OWN),
        ("entire", [1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 0, 1]),
        ("naive", [1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 0, 1]),
    ],
)
def test_drop_leaves_broken_positives_out_of_every_space(space: str, order: list[int], cart: list[int]) -> None:
    """Rows 3 and 4 hold orders whose chain is broken, row 4 such a cart; row 3's own cart is a whole negative."""
    batch = batch_of(chain_job(space=space, data__funnel="drop"), **LABELS)
    assert columns_of(batch.trained_BT) == {"order": order, "cart": cart, "click": ALL}
    assert columns_of(batch.space_BT) == {"order": ORDER_OWN, "cart": CART_OWN, "click": ALL}
    assert columns_of(batch.labels_BT) == {"order": ORDER, "cart": CART, "click": CLICK}
    assert batch.broken_T.tolist() == [1, 1, 0]


@pytest.mark.parametrize("space", ["conditional", "entire", "naive"])
def test_promote_makes_the_chain_whole_in_every_space(space: str) -> None:
    batch = batch_of(chain_job(space=space, data__funnel="promote"), **LABELS)
    click, cart = [1, 1, 1, 1, 1, 0], [1, 1, 0, 1, 1, 0]
    assert columns_of(batch.labels_BT) == {"order": ORDER, "cart": cart, "click": click}
    assert columns_of(batch.space_BT) == {"order": cart, "cart": click, "click": ALL}
    trained = {"order": cart, "cart": click, "click": ALL} if space == "conditional" else dict.fromkeys(LABELS, ALL)
    assert columns_of(batch.trained_BT) == trained
    assert batch.broken_T.tolist() == [1, 1, 0]


@pytest.mark.parametrize("space", ["conditional", "entire", "naive"])
def test_error_refuses_and_quarantine_leaves_out_in_every_space(space: str) -> None:
    with pytest.raises(InputError, match="'order' = 1 and 'cart' = 0"):
        batch_of(chain_job(space=space), **LABELS)
    job = chain_job(space=space, data__funnel="quarantine", data__bad={"rows_per_day": 9})
    batch = batch_of(job, Flags(job.data), **LABELS)
    assert batch.row_ids_B.tolist() == [0, 1, 2, 5]
    expected = {"order": [1, 1, 0, 0], "cart": [1, 1, 1, 0], "click": [1] * 4}
    assert columns_of(batch.space_BT) == expected
    assert columns_of(batch.trained_BT) == (expected if space == "conditional" else dict.fromkeys(LABELS, [1] * 4))


def test_a_task_may_have_a_space_of_its_own_and_a_root_has_one_alone() -> None:
    job = chain_job(space="entire", tasks__cart__space="naive", tasks__click__space="naive")
    assert job.spaces == ["entire", "naive", "conditional"]
    assert job.links == [1, None, None], "cart's probability is that of any exposure already"
    assert chain_job(space="entire").links == chain_job().links == [1, 2, None]
    plain = batch_of(chain_job(), **CLEAN)
    assert plain.share_BT is None, "a job like before carries nothing more"
    assert plain.exposed_BT is None
    assert plain.trained_BT is plain.space_BT


SEEN, CARTED = [1, 1, 1, 0, 1, 0], [1, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("space", "order", "cart"),
    [
        ("conditional", [1, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0]),
        ("entire", [1, 0, 1, 0, 1, 0], [1, 0, 1, 0, 1, 0]),
        ("naive", ALL, CARTED),
    ],
)
def test_an_indicator_and_the_chain_of_given_bound_a_space(space: str, order: list[int], cart: list[int]) -> None:
    """click is known where `seen`, cart where `carted`; order lives below both. naive looks at its own alone."""
    job = chain_job(space=space, tasks__click__indicator="seen", tasks__cart__indicator="carted")
    batch = batch_of(job, **CLEAN, seen=pa.array(SEEN), carted=pa.array([bool(x) for x in CARTED]))
    both = [a * b for a, b in zip(SEEN, CARTED, strict=True)]
    assert columns_of(batch.trained_BT) == {"order": order, "cart": cart, "click": SEEN}
    assert columns_of(batch.space_BT) == {"order": [1, 0, 0, 0, 0, 0], "cart": [1, 0, 1, 0, 0, 0], "click": SEEN}
    assert batch.exposed_BT is not None
    assert columns_of(batch.exposed_BT) == {"order": both, "cart": both, "click": SEEN}


def test_a_label_outside_of_its_indicator_breaks_no_funnel_and_promotes_nothing() -> None:
    """Rows 3 and 4 hold broken orders and carts, where the indicator says that they mean nothing."""
    known = {"known": pa.array([1, 1, 1, 0, 0, 1])}
    for policy in ("error", "promote"):
        job = chain_job(data__funnel=policy, tasks__click__indicator="known")
        batch = batch_of(job, **LABELS, **known)
        assert batch.broken_T.tolist() == [0, 0, 0]
        assert columns_of(batch.labels_BT)["click"] == CLICK


def test_drop_keeps_a_naive_positive_whose_chain_is_not_known() -> None:
    """Click is known on the first three rows alone: the orders of rows 3 and 4 break nothing that is known."""
    known = pa.array([1, 1, 1, 0, 0, 0])
    job = chain_job(space="naive", data__funnel="drop", tasks__click__indicator="known")
    batch = batch_of(job, **LABELS, known=known)
    assert columns_of(batch.trained_BT) == {"order": ALL, "cart": ALL, "click": [1, 1, 1, 0, 0, 0]}
    assert batch.broken_T.tolist() == [0, 0, 0]


def test_indicators_are_checked_like_labels() -> None:
    job = chain_job(tasks__cart__indicator="seen")
    with pytest.raises(InputError, match=r"indicator 'seen' holds 2 \(row 1\); an indicator is 0 or 1"):
        batch_of(job, **CLEAN, seen=pa.array([0, 2, 0, 0, 0, 0]))
    with pytest.raises(InputError, match="'seen' holds nulls; an indicator is 0 or 1 on every row"):
        batch_of(job, **CLEAN, seen=pa.array([0, None, 0, 0, 0, 0]))
    job = chain_job(tasks__cart__indicator="seen", data__bad={"labels": "quarantine", "rows_per_day": 1})
    batch = batch_of(job, Flags(job.data), **CLEAN, seen=pa.array([1, 2, 1, 0, 1, 0]))
    assert batch.row_ids_B.tolist() == [0, 2, 3, 4, 5]
    assert columns_of(batch.trained_BT)["cart"] == [1, 1, 0, 0, 0]


CLICKED: dict[str, Override] = {"click": pa.array([1, 1, 1, 0, 0, 1])}


def test_regression_labels_are_clipped_and_looked_at_on_their_own_rows_alone() -> None:
    job = watch_job(tasks__watch__clip=[0, 1])
    watch = pa.array([0.5, 7.0, -3.0, None, math.inf, 0.1])
    batch = batch_of(job, **CLICKED, watch=watch)
    assert batch.labels_BT[:, 1].tolist() == [0.5, 1, 0, 0, 0, pytest.approx(0.1)]
    assert batch.labels_BT[:, 0].tolist() == batch.space_BT[:, 1].tolist() == [1, 1, 1, 0, 0, 1]
    whole = batch_of(watch_job(), **CLICKED, watch=pa.array([1, 2, 3, 4, 5, 2**40]))
    assert whole.labels_BT[:, 1].tolist() == [1, 2, 3, 0, 0, 2**40], "integers are numbers"
    naive = batch_of(watch_job(tasks__watch__space="naive"), **CLICKED, watch=pa.array([1, 2, 3, 4, 5, 6.0]))
    assert naive.labels_BT[:, 1].tolist() == [1, 2, 3, 4, 5, 6]
    assert naive.trained_BT[:, 1].tolist() == ALL
    assert naive.space_BT[:, 1].tolist() == [1, 1, 1, 0, 0, 1], "its metrics stay comparable"


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (None, "column 'watch' holds nulls; the label of a regression task is a finite number on every row that task"),
        (math.nan, r"label 'watch' holds nan \(row 1\); the label of a regression task is a finite number"),
        (-math.inf, r"label 'watch' holds -inf \(row 1\)"),
        (1e300, r"column 'watch' holds 1e\+300 \(row 1\), too large for 32 bits; mend the log, or set the task's clip"),
    ],
)
def test_bad_regression_labels_are_refused_or_left_out(bad: float | None, said: str) -> None:
    watch = pa.array([0.5, bad, 1.0, 0.0, 0.0, 0.1])
    with pytest.raises(InputError, match=said):
        batch_of(watch_job(), **CLICKED, watch=watch)
    job = watch_job(data__bad={"labels": "quarantine", "rows_per_day": 1})
    batch = batch_of(job, Flags(job.data), **CLICKED, watch=watch)
    assert batch.row_ids_B.tolist() == [0, 2, 3, 4, 5]
    assert batch.labels_BT[:, 1].tolist() == [0.5, 1, 0, 0, pytest.approx(0.1)]


def test_a_label_that_a_promotion_brings_into_its_space_is_looked_at() -> None:
    """The collator promotes row 3's click, for its cart; so row 3's null watch counts."""
    tasks = [{"name": "click"}, {"name": "cart", "given": "click"}]
    tasks.append({"name": "watch", "kind": "regression", "given": "click"})
    carts: dict[str, Override] = CLICKED | {"cart": pa.array([0, 0, 0, 1, 0, 0])}
    job = watch_job(tasks=tasks, data__funnel="promote")
    with pytest.raises(InputError, match="column 'watch' holds nulls"):
        batch_of(job, **carts, watch=pa.array([1.0, 1, 1, None, None, 1]))
    batch = batch_of(job, **carts, watch=pa.array([1.0, 1, 1, 9, None, 1]))
    assert batch.labels_BT.T.tolist() == [[1, 1, 1, 1, 0, 1], [0, 0, 0, 1, 0, 0], [1, 1, 1, 9, 0, 1]]
    dropped = watch_job(tasks=tasks, data__funnel="drop")
    assert batch_of(dropped, **carts, watch=pa.array([1.0, 1, 1, None, None, 1])).broken_T.tolist() == [0, 1, 0]


def test_sample_weights_stand_on_the_rows_that_are_trained() -> None:
    job = chain_job(tasks__cart__sample_weight="w", tasks__click__sample_weight="v")
    w, v = pa.array([0.25, 0, 3, 1, None, math.nan]), pa.array([1, 2, 3, 4, 5, 6])
    batch = batch_of(job, **CLEAN, w=w, v=v)
    assert columns_of(batch.trained_BT) == {
        "order": [1, 1, 0, 0, 0, 0],
        "cart": [0.25, 0, 3, 1, 0, 0],
        "click": v.to_pylist(),
    }
    assert columns_of(batch.space_BT)["cart"] == [1, 1, 1, 1, 0, 0], "metrics count rows alike"
    with pytest.raises(InputError, match="column 'w' holds nulls; a sample weight is a finite number, 0 or more, on"):
        batch_of(chain_job(space="entire", tasks__cart__sample_weight="w"), **CLEAN, w=w)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, 1e30, 1e-30])
def test_what_is_no_weight_is_refused_or_left_out(bad: float) -> None:
    w = pa.array([1.0, bad, 1, 1, 1, 1])
    with pytest.raises(InputError, match=r"column 'w' holds \S+ \(row 1\); a sample weight is 0, or lies between"):
        batch_of(chain_job(tasks__cart__sample_weight="w"), **CLEAN, w=w)
    job = chain_job(tasks__cart__sample_weight="w", data__bad={"values": "quarantine", "rows_per_day": 1})
    assert batch_of(job, Flags(job.data), **CLEAN, w=w).row_ids_B.tolist() == [0, 2, 3, 4, 5]


def test_the_columns_of_a_job_and_their_types() -> None:
    job = watch_job(tasks__watch__indicator="played", tasks__click__sample_weight="price")
    assert job.columns[-3:] == ["click", "watch", "played"]
    assert job.columns.count("price") == 1
    assert watch_job(tasks__click__sample_weight="w").columns[-3:] == ["click", "watch", "w"]
    table = small_table(2).append_column("watch", pa.array([1.0, 2])).append_column("played", pa.array([True, False]))
    check_schema(job, table.schema, "file")
    for column, wrong, words in (
        ("watch", pa.array(["a", "b"]), "the label of task 'watch', holds string where a number belongs"),
        ("watch", pa.array([True, False]), "holds bool where a number belongs"),
        ("played", pa.array([1.0, 0.0]), "the indicator of task 'watch', holds double where an integer or boolean"),
        ("price", pa.array(["a", "b"]), "holds string where a number belongs"),
    ):
        with pytest.raises(SchemaError, match=words):
            check_schema(job, override(table, {column: wrong}).schema, "file")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"tasks.cart.kind": "regression"},
            "tasks.order.given: 'cart' is a regression task, and a number opens no space",
        ),
        ({"tasks.order.kind": "regression", "space": "entire"}, "tasks.order.space: 'entire' is a product of probabil"),
        ({"tasks.order.kind": "regression", "tasks.order.space": "entire"}, "set tasks.order.space to conditional"),
        ({"tasks.order.clip": [0, 1]}, "tasks.order: 'clip' belongs to a regression task"),
        ({"tasks.order.kind": "regression", "tasks.order.clip": [1, 1]}, r"clip \[1.0, 1.0\] must rise"),
        ({"tasks.order.indicator": "order"}, "'indicator' is the task's own label, 'order'"),
        ({"tasks.order.sample_weight": "order"}, "'sample_weight' is the task's own label"),
        ({"tasks.order.indicator": "age"}, "features.age: column 'age' is the indicator of task 'order'"),
        ({"tasks.order.label": "age", "tasks.order.kind": "regression"}, "column 'age' is the label of task 'order'"),
        ({"tasks.order.space": "global"}, "tasks.order.space: Input should be 'conditional', 'entire' or 'naive'"),
        ({"tasks.order.clip": [0, math.inf], "tasks.order.kind": "regression"}, "finite"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        chain_job(**{key.replace(".", "__"): value for key, value in changes.items()})
