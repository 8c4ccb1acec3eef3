"""Held-out rows in real runs: what is trained and counted, whole or in two attempts, at any number of ranks."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.train.result import RESULT
from tests.distributed.command import run
from tests.distributed.ranks import run_ranks
from tests.distributed.training import RankState, train, train_part
from tests.logs import DAYS, set_key, small_config, write_config, write_log
from tests.unit.test_holdout import drawn, held_ids

ROWS, SHARE = 150, 0.3


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("holdout") / "log"
    write_log(path, DAYS, ROWS, row_group_rows=40)
    return path


def config_of(log: Path, **more: Any) -> dict[str, Any]:
    config = small_config(log, log.parent / "out")
    set_key(config, "data.holdout", {"share": SHARE})
    for key, value in more.items():
        set_key(config, key.replace("__", "."), value)
    return config


def without_held_rows(log: Path, to: Path) -> Path:
    """The log as pandas' filter leaves it: files and row groups cut to the rows that are kept."""
    shutil.copytree(log, to)
    for day in DAYS[:2]:
        part = to / f"dt={day}" / "part-00000.parquet"
        table = pq.read_table(part, partitioning=None)
        kept = [not drawn(user, day, SHARE) for user in table["user_id"].to_pylist()]
        pq.write_table(table.filter(pa.array(kept)), part, write_page_checksum=True)
    return to


def dense(state: RankState) -> dict[str, np.ndarray]:
    return {f"{name}/{s.offsets}": s.values.numpy() for name, shards in state.shards.items() for s in shards}


def test_a_step_over_all_rows_is_the_step_of_a_log_without_them(log: Path, tmp_path: Path) -> None:
    """The order of rows is another one, so the one step of all rows is what the two logs have in common."""
    bare = without_held_rows(log, tmp_path / "bare")
    whole = run_ranks(2, train, 2, config_of(log, train__batch_size=1000))
    cut = run_ranks(2, train, 2, config_of(bare, train__batch_size=1000, data__holdout=None))
    assert sum(len(step) for state in whole for step in state.row_ids) == 2 * ROWS - len(held_ids(log))
    assert whole[0].losses[0] == pytest.approx(cut[0].losses[0], rel=1e-5)
    one = run_ranks(1, train, 1, config_of(log, train__batch_size=1000))
    assert one[0].losses[0] == pytest.approx(cut[0].losses[0], rel=1e-5)


@pytest.mark.parametrize("world", [1, 2])
def test_whole_or_in_two_attempts_the_same_rows_train_the_same_weights(log: Path, tmp_path: Path, world: int) -> None:
    config = config_of(log, train__epochs=2)
    whole = run_ranks(world, train_part, world, config, str(tmp_path / "whole"), -1)
    run_ranks(world, train_part, world, {**config, "train": {**config["train"], "checkpoint_every": 4}}, *cut(tmp_path))
    parts = run_ranks(world, train_part, world, config, str(tmp_path / "cut"), -1)
    for one, two in zip(whole, parts, strict=True):
        left, right = dense(one), dense(two)
        assert left.keys() == right.keys()
        assert all(np.array_equal(left[name], right[name]) for name in left)
    last, again = whole[0].reports[-1], parts[0].reports[-1]
    held = len(held_ids(log))
    assert (last.progress, last.held_out) == (again.progress, again.held_out)
    assert last.progress.samples == 2 * (2 * ROWS - held)
    assert last.held_out == 2 * held
    assert last.gone_through == last.total_rows == 4 * ROWS
    assert last.seconds_left == 0


def cut(folder: Path) -> tuple[str, int]:
    return str(folder / "cut"), 4


def test_a_job_says_what_it_held_out(log: Path, tmp_path: Path) -> None:
    """Trained on a day and evaluated on the rows of it that were held out: counted in every place where rows are."""
    config = small_config(log, "out")
    set_key(config, "data.holdout", {"share": SHARE})
    set_key(config, "data.eval.from", DAYS[1])
    set_key(config, "data.eval.to", DAYS[1])
    printed = run(write_config(tmp_path / "job.yaml", config))
    result = json.loads((tmp_path / "out" / RESULT).read_text())
    held = held_ids(log)
    assert result["held_out"] == len(held)
    assert result["samples"] == 2 * ROWS - len(held)
    assert result["tasks"]["click"]["own"]["rows"] == len({row for row in held if row >= ROWS})
    assert f"held out: the rows of {100 * SHARE:.0f}% of each day's user_id" in printed
    assert f"{2 * ROWS:,} of {2 * ROWS:,} rows (100%)" in printed
    assert f"held out: {len(held):,}" in printed
    assert f"evaluating on the held-out rows of {ROWS:,} rows" in printed
    assert "flatter the model" not in printed
    # all rows of the day: of which most were trained on, as is said
    printed = run(tmp_path / "job.yaml", "data.holdout.eval=all", flags=("--nproc-per-node", "1"))
    assert json.loads((tmp_path / "out" / RESULT).read_text())["tasks"]["click"]["own"]["rows"] == ROWS
    assert "flatter the model" in printed
    assert f"evaluating on {ROWS:,} rows" in printed
