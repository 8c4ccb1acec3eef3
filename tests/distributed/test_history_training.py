"""Training on counts and encodings of earlier days: alike on any number of ranks, the same after a resume."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.distributed.command import run
from tests.distributed.ranks import run_ranks
from tests.distributed.training import train, train_part, whole
from tests.logs import DAYS, set_key, small_config, write_config, write_log, write_parquet

ROWS = 150
NEVER = 10**6
FEATURES: list[dict[str, Any]] = [
    {"name": "item_count", "kind": "count", "column": "item_id"},
    {"name": "user_click", "kind": "target_encoding", "column": "user_id", "task": "click", "smoothing": 5},
    {"name": "city_order", "kind": "target_encoding", "column": "city", "task": "order", "days": 1},
    {"name": "list_cart", "kind": "target_encoding", "column": "history", "task": "cart"},
    {"name": "clicked", "kind": "history", "by": "user_id", "column": "item_id", "task": "click", "table": "item"},
]


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """Trains on the second day, from the statistics of the first; two epochs of five steps."""
    write_log(tmp_path / "log", DAYS, ROWS, row_group_rows=40)
    config = small_config(tmp_path / "log", tmp_path / "out")
    config["features"] += FEATURES
    for key, value in {
        "data.train.from": DAYS[1],
        "data.history": {"from": DAYS[0]},
        "train.epochs": 2,
        "train.checkpoint_every": 1,
        "dense_optimizer": {"eps": 1e-3},  # far above a gradient's rounding
        "embedding_optimizer": {"eps": 1e-3},
    }.items():
        set_key(config, key, value)
    return config


def test_one_rank_and_two_train_alike_and_a_run_cut_off_goes_on_bitwise(config: dict[str, Any], tmp_path: Path) -> None:
    one = run_ranks(1, train, 1, config)
    two = run_ranks(2, train, 2, config)
    for state in two:
        np.testing.assert_allclose(state.losses, one[0].losses, rtol=1e-5, atol=1e-5)
    uninterrupted = whole(run_ranks(2, train_part, 2, config, str(tmp_path / "whole"), NEVER))
    run_ranks(2, train_part, 2, config, str(tmp_path / "cut"), 7)
    for path in (tmp_path / "out" / "statistics").rglob("*.parquet"):
        path.unlink()  # counted again, bit for bit
    resumed = whole(run_ranks(2, train_part, 2, config, str(tmp_path / "cut"), NEVER))
    assert len(resumed) > 20
    assert all(torch.equal(resumed[name], uninterrupted[name]) for name in uninterrupted)


def test_the_job_keeps_the_statistics_it_began_with(config: dict[str, Any], tmp_path: Path) -> None:
    """From the launcher to the closing table, which stays the same though a day of the history changes."""
    path = write_config(tmp_path / "job.yaml", config)
    first = run(path)
    assert re.search(rf"history of {DAYS[0]}: {ROWS}/{ROWS} rows", first)
    day = tmp_path / "log" / f"dt={DAYS[0]}" / "part-00000.parquet"
    table = pq.read_table(day)
    write_parquet(day, table.set_column(0, "user_id", table["user_id"].take(list(range(ROWS))[::-1])), 40)
    again = run(path)
    assert "trained to its end already" in again
    assert "history of" not in again

    def closing(told: str) -> str:
        return told[told.index("task  ") : told.index("checkpoint  ")]

    assert closing(again) == closing(first)
    other = run(path, f"output={tmp_path / 'other'}")
    assert closing(other) != closing(first)
