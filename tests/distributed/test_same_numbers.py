"""One rank with batch 2B and two ranks with B train the same model: loss, weights, tables, optimizer state, rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.distributed.ranks import run_ranks
from tests.distributed.training import RankState, table_state, train, whole
from tests.logs import DAYS, set_key, small_config, write_log

TOLERANCE = 1e-5
EPS = 1e-3
STEPS = 20
BATCH = 24
ROWS = STEPS * BATCH - 7  # the last step is a partial one


def compare(log: Path, changes: dict[str, Any]) -> tuple[list[RankState], list[RankState]]:
    """Trains on one rank and on two and holds everything equal; returns both."""
    config = small_config(log, log / "unused", DAYS)
    changes = {"train.batch_size": BATCH, "data.shuffle_rows": 100} | changes
    for key, value in changes.items():
        set_key(config, key, value)
    # far above a gradient's rounding: one near 0 is else a whole step, up or down as the rounding has it
    config["dense_optimizer"] = {"eps": EPS} | config.get("dense_optimizer", {})
    config["embedding_optimizer"] = {"eps": EPS} | config.get("embedding_optimizer", {})
    one = run_ranks(1, train, 1, config)
    two = run_ranks(2, train, 2, config)
    assert len(one[0].losses) >= STEPS
    for rank in two:
        np.testing.assert_allclose(rank.losses, one[0].losses, rtol=TOLERANCE, atol=TOLERANCE)
    # the rows of each step are the same rows, each once
    for step, rows in enumerate(one[0].row_ids):
        assert sorted(rows) == sorted(two[0].row_ids[step] + two[1].row_ids[step])
    epochs = config["train"].get("epochs", 1)
    trained = sorted(row for step in one[0].row_ids for row in step)
    assert trained == sorted([*range(len(trained) // epochs)] * epochs), "every row once an epoch"
    a, b = whole(one), whole(two)
    models = [name for name in a if name.startswith("model/")]
    assert sorted(models) == sorted(n for n in b if n.startswith("model/"))
    for name in models:
        torch.testing.assert_close(b[name], a[name], rtol=TOLERANCE, atol=TOLERANCE, msg=lambda m, n=name: f"{n}: {m}")
    moments = [name for name in a if name.endswith(("exp_avg", "exp_avg_sq"))]
    assert len(moments) > 20
    for name in moments:  # Adam hardly feels a gradient of the wrong scale; its moments do
        near = min(TOLERANCE, 1e-4 * float(a[name].abs().max()))  # squares of gradients are far below 1e-5
        torch.testing.assert_close(b[name], a[name], rtol=1e-3, atol=near, msg=lambda m, n=name: f"{n}: {m}")
    for table in config["tables"]:
        if config.get("embedding_optimizer", {}).get("name") == "sgd":
            continue  # it keeps no state
        near = min(TOLERANCE, 1e-4 * float(table_state(a, table).max()))
        torch.testing.assert_close(table_state(b, table), table_state(a, table), rtol=TOLERANCE, atol=near)
        assert table_state(a, table).abs().sum() > 0, "the table was trained"
    return one, two


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_log(tmp_path / "log", DAYS[:1], ROWS, seed=3, row_group_rows=100)
    write_log(tmp_path / "log", DAYS[1:], 1)
    return tmp_path / "log"


def sharded(kind: str) -> dict[str, Any]:
    return {f"tables.{table}.sharding": kind for table in ("user", "item", "session", "city", "price_bucket")}


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "data_parallel"])
def test_rowwise_adagrad(log: Path, kind: str) -> None:
    compare(log, sharded(kind))


@pytest.mark.parametrize("kind", ["table_wise", "column_wise", "data_parallel"])
def test_adagrad(log: Path, kind: str) -> None:
    compare(log, sharded(kind) | {"embedding_optimizer": {"name": "adagrad"}})


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "column_wise", "data_parallel"])
def test_sgd(log: Path, kind: str) -> None:
    compare(log, sharded(kind) | {"embedding_optimizer": {"name": "sgd", "lr": 0.5}})


def test_ids_without_weights(log: Path) -> None:
    """No feature with a mean: the ids travel without weights."""
    changes = {"features.history.weights": ..., "features.history.pooling": "sum"}
    compare(log, sharded("row_wise") | changes)


def test_plans_agree_with_each_other(log: Path) -> None:
    """A data-parallel table trains by the rule of a sharded one, and so does a row-wise one."""
    mixed = sharded("table_wise") | {"tables.user.sharding": "row_wise", "tables.item.sharding": "data_parallel"}
    (_, two), (_, reference) = compare(log, mixed), compare(log, sharded("table_wise"))
    a, b = whole(reference), whole(two)
    for name in a:
        if name.startswith("model/"):
            torch.testing.assert_close(b[name], a[name], rtol=TOLERANCE, atol=TOLERANCE)
    for table in ("user", "item"):
        torch.testing.assert_close(table_state(b, table), table_state(a, table), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["table_wise", "row_wise"])
def test_a_space_that_is_empty_on_one_rank(tmp_path: Path, kind: str) -> None:
    """Every click lies in the first half of the log, which is rank 0's: rank 1 has no row for cart, fav and order."""
    half = np.arange(ROWS) < ROWS // 2

    def first_half(labels: pa.Array) -> np.ndarray:
        return labels.to_numpy(zero_copy_only=False).astype(np.int8) * half

    labels: dict[str, Any] = {name: first_half for name in ("click", "cart", "fav", "order")}
    write_log(tmp_path / "log", DAYS[:2], ROWS, seed=5, **labels)
    changes = {"data.lanes": 2, "data.shuffle_rows": 0, "data.train": {"from": DAYS[0], "to": DAYS[0]}}
    changes["data.eval"] = {"from": DAYS[1], "to": DAYS[1]}
    _, two = compare(tmp_path / "log", sharded(kind) | changes)
    first, second = (max(row for step in rank.row_ids for row in step) for rank in two)
    assert first <= ROWS // 2 < second


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "data_parallel"])
def test_a_batch_of_one_row(tmp_path: Path, kind: str) -> None:
    """Each step one rank holds the row and the other none."""
    write_log(tmp_path / "log", DAYS[:1], STEPS, seed=4)
    write_log(tmp_path / "log", DAYS[1:], 1)
    changes = {"train.batch_size": 1, "data.train": {"from": DAYS[0], "to": DAYS[0]}}
    _, two = compare(tmp_path / "log", sharded(kind) | changes)
    assert {len(step) for rank in two for step in rank.row_ids} == {0, 1}


@pytest.mark.parametrize("kind", ["table_wise", "row_wise", "data_parallel"])
def test_ranks_with_different_numbers_of_rows(tmp_path: Path, kind: str) -> None:
    """Three lanes on two ranks: one has two thirds of every step. The last step is partial as well."""
    write_log(tmp_path / "log", DAYS, ROWS, seed=3)
    changes = {"data.lanes": 3, "data.train": {"from": DAYS[0], "to": DAYS[0]}}  # one row group: three equal lanes
    _, two = compare(tmp_path / "log", sharded(kind) | changes)
    assert [len(rank.row_ids[0]) for rank in two] == [16, 8]


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_normalisation_and_two_epochs(log: Path, norm: str) -> None:
    """Batch statistics are those of the global batch; epochs do not share a step; the LR schedule is followed."""
    schedule = {"lr": 0.003, "warmup_steps": 3, "schedule": "cosine"}
    compare(log, {"model.norm": norm, "train.epochs": 2, "dense_optimizer": schedule, "tasks.cart.decay": 0.9})


def test_a_job_of_one_row(tmp_path: Path) -> None:
    """One step, one row, and a rank that never has any."""
    write_log(tmp_path / "log", DAYS, 1, click=lambda _: np.ones(1, np.int8))
    config = small_config(tmp_path / "log", tmp_path / "unused")
    set_key(config, "data.train", {"from": DAYS[0], "to": DAYS[0]})
    one, two = run_ranks(1, train, 1, config), run_ranks(2, train, 2, config)
    np.testing.assert_allclose([rank.losses for rank in two], [one[0].losses] * 2, rtol=TOLERANCE)
    assert [rank.row_ids for rank in two] == [[[0]], [[]]]


def test_names_that_torch_has_itself(tmp_path: Path) -> None:
    """Tables called `items` and `keys`, a feature called `row_id`."""
    write_log(tmp_path / "log", DAYS, 30)
    config = small_config(tmp_path / "log", tmp_path / "unused")
    config["tables"] |= {"items": config["tables"].pop("item"), "keys": config["tables"].pop("user")}
    for feature in config["features"]:
        if feature["name"] in ("item", "history", "recent"):
            feature["table"] = "items"
        if feature["name"] == "user":
            feature |= {"name": "row_id", "table": "keys"}
    (state,) = run_ranks(1, train, 1, config)
    assert sorted(row for step in state.row_ids for row in step) == list(range(60))
    tensors = whole([state])
    assert all(table_state(tensors, table).abs().sum() > 0 for table in config["tables"])


def test_bf16_is_near_fp32(log: Path) -> None:
    config = small_config(log, log / "unused")
    (fp32,) = run_ranks(1, train, 1, config)
    set_key(config, "train.precision", "bf16")
    (bf16,) = run_ranks(1, train, 1, config)
    np.testing.assert_allclose(bf16.losses, fp32.losses, rtol=0.02)
    assert bf16.losses != fp32.losses, "autocast was on"
