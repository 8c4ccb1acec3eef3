"""How runs end: ranks with unlike shares of rows, and a stop in the middle that leaves no trace in what follows."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import pipeline.train.loop
import pipeline.train.step
from pipeline.data.files import plan
from pipeline.train.checkpoint import Checkpoints
from pipeline.train.loop import Training, total_steps
from pipeline.train.restore import load_training
from pipeline.train.run import START
from pipeline.train.step import TrainStep
from pipeline.train.stop import Stopped
from tests.distributed.ranks import run_ranks
from tests.distributed.training import RankState, _shards, build, whole
from tests.logs import DAYS, set_key, small_config, write_log


class Spy(TrainStep):
    """Notes what each step was given, and signals this process before one of them."""

    seen: list[dict[str, Any]] = []
    signal_before = -1

    def __call__(self, batches: Any, step: int) -> Any:
        if step == Spy.signal_before:
            os.kill(os.getpid(), signal.SIGTERM)
        output = super().__call__(batches, step)
        Spy.seen.append(
            {
                "step": step,
                "rows": output.batch.row_ids_B.tolist(),
                "lr": self._optimizers.dense_lr,
                "weights": pipeline.train.step.task_weights(self._job.tasks, step, output.batch.epoch),
            }
        )
        return output


def part(rank: int, world: int, config: dict[str, Any], folder: str, signalled: tuple[int, int] | None) -> Any:
    """Goes on from the folder's newest commit; `signalled` is the rank that gets SIGTERM, and before which step."""
    job, model, optimizers, ranks = build(config, rank, world)
    ranks.stop.install()
    pipeline.train.loop.TrainStep = Spy  # type: ignore[misc]
    Spy.seen, Spy.signal_before = [], signalled[1] if signalled is not None and signalled[0] == rank else -1
    checkpoints = Checkpoints(Path(folder), 2)
    training = Training(job, plan(job, job.data.train), model, optimizers, ranks, checkpoints, config)
    commit, start, line = checkpoints.newest(), START, ""
    if commit is not None:
        load_training(commit, model, optimizers.all)
        start = commit.progress
    try:
        training.run(start, lambda report: None)
    except Stopped as stopped:
        line = stopped.line
    state = RankState([], [], _shards({"model": model.state_dict(), "optimizer": optimizers.all.state_dict()}))
    return state, Spy.seen, line


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("endings")
    write_log(folder / "log", DAYS, 100, seed=6)
    config = small_config(folder / "log", folder / "out")
    changes = {
        "train.batch_size": 32,  # 7 steps an epoch, the last of 8 rows
        "train.epochs": 2,
        "train.checkpoint_every": 10**6,
        "model.dropout": 0.1,
        "tables.user.sharding": "row_wise",
        "tables.city.sharding": "data_parallel",
        "tasks.cart.decay": 0.9,
        "tasks.fav.decay": 0.5,
        "tasks.fav.decay_per": "epoch",
        "dense_optimizer": {"lr": 0.003, "warmup_steps": 3, "schedule": "cosine"},
    }
    for key, value in changes.items():
        set_key(config, key, value)
    return config


@pytest.mark.parametrize("world", [1, 2])
def test_stopped_at_k_and_resumed_is_as_never_stopped(config: dict[str, Any], tmp_path: Path, world: int) -> None:
    """Weights, optimizer state, next rows, learning rates and loss weights, bit for bit; in epoch 1 and at its end."""
    steps = 14
    never = run_ranks(world, part, world, config, str(tmp_path / "whole"), None)
    first = run_ranks(world, part, world, config, str(tmp_path / "cut"), (world - 1, 2))
    second = run_ranks(world, part, world, config, str(tmp_path / "cut"), (0, 6))
    third = run_ranks(world, part, world, config, str(tmp_path / "cut"), None)
    for rank in range(world):
        # the signal that one rank gets before a step stops all after it
        assert [len(run[rank][1]) for run in (first, second, third)] == [3, 4, steps - 7]
        assert first[rank][2] == "stopped by SIGTERM at step 3, committed; the same command goes on from there"
        assert third[rank][2] == ""
        assert first[rank][1] + second[rank][1] + third[rank][1] == never[rank][1]
    assert len({step["lr"] for step in never[0][1]}) > 10, "the rate moves"
    assert never[0][1][0]["weights"] != never[0][1][1]["weights"]
    expected, ended = (whole([rank[0] for rank in run]) for run in (never, third))
    assert sorted(ended) == sorted(expected)
    for name, value in expected.items():
        assert torch.equal(ended[name], value), name


@pytest.mark.parametrize(
    ("rows", "lanes", "epochs", "shares"),
    [(8, 3, 1, [5, 3]), (1, 2, 5, [5, 0])],
    ids=["5 and 3", "5 and 0"],
)
def test_ranks_with_unlike_shares_end_together(
    tmp_path: Path, rows: int, lanes: int, epochs: int, shares: list[int]
) -> None:
    """Steps of one row: a rank has rows in as many steps as it has rows, and takes part in the others with none."""
    write_log(tmp_path / "log", DAYS[:1], rows, seed=1)
    config = small_config(tmp_path / "log", tmp_path / "out", DAYS[:1])
    for key, value in {"train.batch_size": 1, "train.epochs": epochs, "data.lanes": lanes}.items():
        set_key(config, key, value)
    # the closing report and checkpoint included; a rank that waits for the other waits for the group's time-out, 60 s
    ranks = run_ranks(2, part, 2, config, str(tmp_path / "commits"), None, timeout=50)
    trained = [[row for step in seen for row in step["rows"]] for _, seen, _ in ranks]
    assert [len(mine) for mine in trained] == shares
    assert sorted(trained[0] + trained[1]) == sorted(list(range(rows)) * epochs), "every row, once an epoch"
    assert [len(seen) for _, seen, _ in ranks] == [rows * epochs] * 2
    assert total_steps_of(config) == rows * epochs


def total_steps_of(config: dict[str, Any]) -> int:
    from schemas.load import parse_job

    job = parse_job(config, "test")
    return total_steps(job, plan(job, job.data.train).rows)
