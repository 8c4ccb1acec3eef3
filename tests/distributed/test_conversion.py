"""Weights and optimizer state from any plan and number of ranks onto any other, held to the saved whole tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.data.files import plan
from pipeline.train.checkpoint import Checkpoints, Progress
from pipeline.train.loop import total_steps, training_batches
from pipeline.train.restore import load_training
from pipeline.train.run import START
from pipeline.train.step import TrainStep
from pipeline.train.table_state import _table_optimizer
from tests.distributed.ranks import run_ranks
from tests.distributed.training import RankState, _shards, build, table_state, whole
from tests.logs import DAYS, set_key, small_config, write_log

PLANS = ("table_wise", "row_wise", "column_wise", "data_parallel")
TABLES = {"user": 8, "item": 16, "session": 8, "city": 8, "price_bucket": 8}
BATCH, BEFORE, AFTER = 32, 3, 2
TRAINED_ON = ("column_wise", "data_parallel")
"""The plans whose checkpoints training goes on from: those that are named or shaped otherwise than the rest."""
TOLERANCE = 1e-5
ALL = tuple((before, now) for before in PLANS for now in PLANS)
SOME = (
    ("table_wise", "row_wise"),
    ("row_wise", "column_wise"),
    ("row_wise", "data_parallel"),
    ("column_wise", "table_wise"),
    ("column_wise", "data_parallel"),
    ("data_parallel", "table_wise"),
    ("data_parallel", "column_wise"),
)
"""Each plan left and each reached, and every pair of state shapes: a number a row, a column shard, an element."""


def config_of(log: Path, kind: str, optimizer: str) -> dict[str, Any]:
    config = small_config(log, log / "unused")
    for table in TABLES:
        set_key(config, f"tables.{table}.sharding", kind)
    config["embedding_optimizer"] = {"name": optimizer, "lr": 0.1}
    return config


def go_on(rank: int, world: int, built: tuple[Any, ...], start: Progress, steps: int) -> list[list[float]]:
    """Trains some steps; each step's loss of each task."""
    job, model, optimizers, ranks = built
    manifest = plan(job, job.data.train)
    step = TrainStep(model, optimizers, job, ranks, total_steps(job, manifest.rows))
    batches = training_batches(job, manifest, ranks, start)
    model.train()
    losses = [step(batches, start.step + n).sums.mean_T.tolist() for n in range(steps)]
    batches.close()
    step.detach()
    return losses


def state_of(built: tuple[Any, ...], losses: list[list[float]]) -> RankState:
    _, model, optimizers, _ = built
    return RankState(losses, [], _shards({"model": model.state_dict(), "optimizer": optimizers.all.state_dict()}))


def saved(rank: int, world: int, configs: list[dict[str, Any]], folder: str) -> list[RankState]:
    """Under each plan: trains, commits, and trains on; the state committed and the losses after it."""
    out = []
    progress = Progress(BEFORE, 0, BEFORE * BATCH, BEFORE * BATCH)
    for config in configs:
        built = build(config, rank, world)
        go_on(rank, world, built, START, BEFORE)
        kind = config["tables"]["user"]["sharding"]
        Checkpoints(f"{folder}/{kind}", 1).save(built[1], built[2].all, progress, config, "data")
        state = state_of(built, [])
        state.losses = go_on(rank, world, built, progress, AFTER)
        out.append(state)
    return out


def restored(
    rank: int, world: int, configs: list[dict[str, Any]], folder: str, directions: tuple[tuple[str, str], ...]
) -> dict[tuple[str, str], tuple[RankState, list[str]]]:
    """One plan's checkpoint under another: the state loaded, the losses after it, what was converted."""
    out = {}
    for before, now in directions:
        commit = Checkpoints(f"{folder}/{before}", 1).newest()
        assert commit is not None
        built = build(configs[PLANS.index(now)], rank, world)
        lines = load_training(commit, built[1], built[2].all)
        state = state_of(built, [])
        if before in TRAINED_ON:
            state.losses = go_on(rank, world, built, commit.progress, AFTER)
        out[before, now] = state, lines
    return out


def by_column(state: Tensor, table: str) -> Tensor:
    """Row-wise state as rows x columns: each column with the number of its column shard."""
    rows = {"user": 50, "item": 40, "session": 30, "city": 20, "price_bucket": 5}[table] + 1
    state_RS = state.reshape(-1, rows).T
    return state_RS.repeat_interleave(TABLES[table] // state_RS.shape[1], dim=1)


@pytest.mark.parametrize(
    ("optimizer", "world", "after", "directions"),
    [
        ("rowwise_adagrad", 2, 3, SOME),
        ("adagrad", 3, 1, SOME),
        ("sgd", 1, 2, SOME),
        *(
            pytest.param(*case, ALL, marks=pytest.mark.long)
            for case in (("rowwise_adagrad", 2, 3), ("rowwise_adagrad", 4, 2), ("adagrad", 3, 1), ("sgd", 1, 4))
        ),
    ],
    ids=lambda value: f"{len(value)} directions" if isinstance(value, tuple) else None,
)
def test_any_plan_loads_under_any_other(
    tmp_path: Path, optimizer: str, world: int, after: int, directions: tuple[tuple[str, str], ...]
) -> None:
    write_log(tmp_path / "log", DAYS, 150, seed=8)
    configs = [config_of(tmp_path / "log", kind, optimizer) for kind in PLANS]
    first = run_ranks(world, saved, world, configs, str(tmp_path), timeout=300)
    second = run_ranks(after, restored, after, configs, str(tmp_path), directions, timeout=300)
    losses: dict[tuple[str, str], np.ndarray] = {}
    tolds = {before: whole([rank[number] for rank in first]) for number, before in enumerate(PLANS)}
    for before, now in directions:
        told, found = tolds[before], whole([rank[before, now][0] for rank in second])
        lines = second[0][before, now][1]
        losses[before, now] = np.array(second[0][before, now][0].losses)
        same = [name for name in told if name.startswith("model/") or "/dense." in name]
        assert len(same) > 100
        for name in same:
            assert torch.equal(found[name], told[name]), (before, now, name)
        if optimizer == "sgd":
            assert lines == []
            continue
        expected_lines = []
        for table in TABLES:
            there, here = table_state(told, table), table_state(found, table)
            assert there.abs().sum() > 0
            if optimizer == "rowwise_adagrad" and len(there) != len(here):
                expected_lines.append(table)
                # independent of the code: every column carries its shard's number, a shard is its columns' mean
                shards = len(here) // len(by_column(here, table))
                columns = by_column(there, table).double()
                there = torch.cat([part.mean(1) for part in columns.chunk(shards, dim=1)]).float()
                torch.testing.assert_close(here, there, rtol=1e-6, atol=0)
            else:
                assert torch.equal(here, there), (before, now, table)
        assert [line.split(":")[0] for line in lines] == sorted(expected_lines), (before, now)
    agree = [kind for kind in PLANS if kind != "column_wise" or optimizer != "rowwise_adagrad"]
    trained_on = [(before, now) for before, now in directions if before in TRAINED_ON and now in agree]
    assert {before for before, _ in trained_on} == set(TRAINED_ON)
    for before, now in trained_on:
        assert losses[before, now].shape == (AFTER, 4)
        np.testing.assert_allclose(losses[before, now], losses[before, agree[0]], rtol=TOLERANCE, atol=TOLERANCE)
        if before in agree:
            expected = first[0][PLANS.index(before)].losses
            np.testing.assert_allclose(losses[before, now], expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_the_names_of_a_state_are_one_for_every_optimizer_that_may_hold_it() -> None:
    """As TorchRec's fused kernels and torch's own optimizers name them; adam's kernel runs on CUDA alone."""
    wide, narrow, step = torch.ones(5, 8), torch.ones(5, 1), torch.ones(())
    for values, names in [
        ({"table_a.momentum1": wide, "table_a.exp_avg_sq": wide}, ["adam/exp_avg", "adam/exp_avg_sq"]),
        ({"table_a.momentum1": wide}, ["adagrad/sum"]),
        ({"sum": wide, "step": step}, ["adagrad/sum"]),
        ({"sum": narrow, "step": step}, ["rowwise_adagrad/sum"]),
        ({}, []),
    ]:
        assert sorted(_table_optimizer(values, 5)) == names


def unlike(rank: int, config: dict[str, Any], folder: str) -> str:
    built = build(config, rank, 1)
    commit = Checkpoints(folder, 1).newest()
    assert commit is not None
    try:
        load_training(commit, built[1], built[2].all)
    except Exception as error:
        return str(error)
    return "nothing"


def test_another_optimizers_state_is_refused_under_every_plan(tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS, 100, seed=8)
    run_ranks(1, saved, 1, [config_of(tmp_path / "log", "data_parallel", "adagrad")], str(tmp_path))
    config = config_of(tmp_path / "log", "column_wise", "rowwise_adagrad")
    (told,) = run_ranks(1, unlike, config, str(tmp_path / "data_parallel"))
    assert "tables/city/rowwise_adagrad/sum: not in the checkpoint" in told
