"""A run cut off anywhere goes on as if nothing had happened: bitwise on as many ranks, to 1e-5 on any other number."""

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pipeline.train.step
from pipeline.data.cursor import CURSOR, cursor
from pipeline.data.files import plan
from pipeline.data.source import epoch_source
from pipeline.metrics import flatten
from pipeline.train.checkpoint import Checkpoints
from pipeline.train.loop import Training
from pipeline.train.run import START
from pipeline.train.window import Report
from schemas.errors import InputError
from schemas.load import parse_job
from schemas.tasks import TaskSpec
from tests.distributed.ranks import run_ranks
from tests.distributed.training import RankState, build, train_part, whole
from tests.logs import DAYS, set_key, small_config, write_log

ROWS, BATCH, EPOCHS = 200, 32, 3  # 7 steps an epoch, the last of 8 rows
STEPS = 7 * EPOCHS
NEVER = 10**6


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("resume")
    write_log(folder / "log", DAYS, ROWS // 2, seed=6)
    config = small_config(folder / "log", folder / "out")
    changes = {
        "train.batch_size": BATCH,
        "train.epochs": EPOCHS,
        "train.checkpoint_every": 1,
        "model.norm": "batch",
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


def rarely(config: dict[str, Any], every: int) -> dict[str, Any]:
    """The job with fewer commits: what is shown of one, a commit at each step would not show better."""
    set_key(config := copy.deepcopy(config), "train.checkpoint_every", every)
    return config


@pytest.fixture(scope="module")
def uninterrupted(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[RankState]:
    return run_ranks(2, train_part, 2, config, str(tmp_path_factory.mktemp("whole")), NEVER)


@pytest.mark.parametrize(
    ("stop", "world"),
    [(3, 2), (7, 2), (10, 2), (14, 2), (10, 1), (7, 3)],
    ids=["in epoch 1", "at an epoch's end", "in epoch 2", "at the next end", "on one rank", "on three ranks"],
)
def test_a_run_cut_off_goes_on(
    config: dict[str, Any], uninterrupted: list[RankState], tmp_path: Path, stop: int, world: int
) -> None:
    """Weights, optimizer state, and every progress line from there on: a window that was open at the cut is whole."""
    config = rarely(config, stop)  # the uninterrupted run commits at every step
    run_ranks(2, train_part, 2, config, str(tmp_path), stop)
    states = run_ranks(world, train_part, world, config, str(tmp_path), NEVER)
    ended, expected = whole(states), whole(uninterrupted)
    assert sorted(ended) == sorted(expected)
    commit = Checkpoints(tmp_path, 1).newest()
    assert commit is not None
    assert commit.progress.step == STEPS
    for name, value in expected.items():
        if world == 2:
            assert torch.equal(ended[name], value), name
        else:
            torch.testing.assert_close(ended[name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    told = [report for report in uninterrupted[0].reports if report.progress.step > stop]
    assert len(told) == len(states[0].reports) > 0
    for one, other in zip(states[0].reports, told, strict=True):
        assert_same_report(one, other, bitwise=world == 2)


def assert_same_report(one: Report, other: Report, bitwise: bool) -> None:
    """All but the speed."""
    assert (one.progress, one.unknown, one.broken, one.dense_lr) == (
        other.progress,
        other.unknown,
        other.broken,
        other.dense_lr,
    )
    metrics, expected = flatten(one.metrics), flatten(other.metrics)
    assert sorted(metrics) == sorted(expected)
    if bitwise:
        assert metrics == expected
        assert one.losses == other.losses
    for key, value in expected.items():
        np.testing.assert_allclose(metrics[key], value, rtol=1e-4, atol=1e-4, err_msg=key)
    np.testing.assert_allclose(list(one.losses.values()), list(other.losses.values()), rtol=1e-4)


def restored_window(rank: int, world: int, config: dict[str, Any], folder: str) -> list[Report]:
    """The line that a window open at the cut would give, without another step."""
    job, model, optimizers, ranks = build(config, rank, world)
    training = Training(job, plan(job, job.data.train), model, optimizers, ranks, Checkpoints(folder, 1), config)
    commit = training.checkpoints.newest()
    assert commit is not None
    training.load(commit)
    training._window.begin(START)
    report = training._window.close(commit.progress, training.optimizers.dense_lr, training.budget.training.totals)
    return [] if report is None else [report]


def test_an_open_window_is_the_same_rows_on_any_number_of_ranks(config: dict[str, Any], tmp_path: Path) -> None:
    set_key(config := rarely(config, 5), "train.log_every", 1000)
    set_key(config, "data.lanes", 6)
    run_ranks(2, train_part, 2, config, str(tmp_path), 5)
    told = [run_ranks(world, restored_window, world, config, str(tmp_path))[0] for world in (1, 2, 3)]
    for (report,) in told:
        assert report.metrics.own["click"].rows == 5 * BATCH
        assert_same_report(report, told[0][0], bitwise=False)
        for task, values in report.metrics.own.items():
            assert values.auc == told[0][0].metrics.own[task].auc, "exact: it counts rows"


def stirred(rank: int, world: int, config: dict[str, Any], folder: str, stop: int, seed: int) -> RankState:
    """Trains after the global generators were left anywhere."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return train_part(rank, world, config, folder, stop)


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("background", [False, True], ids=["sync", "async"])
def test_nothing_random_is_outside_seed_step_and_rank(
    config: dict[str, Any], tmp_path: Path, world: int, background: bool
) -> None:
    """With dropout, cut and gone on, from other states of all global generators: bit for bit the same."""
    config = rarely(config, 4)
    set_key(config, "model.dropout", 0.3)
    set_key(config, "train.max_steps", 9)
    set_key(config, "train.async_checkpoint", background)
    expected = whole(run_ranks(world, stirred, world, config, str(tmp_path / "a"), NEVER, 1))
    run_ranks(world, stirred, world, config, str(tmp_path / "b"), 4, 2)
    ended = whole(run_ranks(world, stirred, world, config, str(tmp_path / "b"), NEVER, 3))
    assert sorted(ended) == sorted(expected)
    for name, value in expected.items():
        assert torch.equal(ended[name], value), name


def units_of_decay(rank: int, config: dict[str, Any], folder: str, stop: int) -> list[tuple[int, int]]:
    """The (step, epoch) that the loss weights were asked for, after a cut at `stop`."""
    seen: list[tuple[int, int]] = []
    real = pipeline.train.step.task_weights

    def spy(tasks: list[TaskSpec], step: int, epoch: int) -> list[float]:
        seen.append((step, epoch))
        return real(tasks, step, epoch)

    pipeline.train.step.task_weights = spy
    train_part(rank, 1, config, folder, stop)
    train_part(rank, 1, config, folder, NEVER)
    return seen


def test_the_weights_decay_with_the_steps_and_epochs_of_the_whole_run(config: dict[str, Any], tmp_path: Path) -> None:
    (seen,) = run_ranks(1, units_of_decay, rarely(config, 9), str(tmp_path), 9)
    assert seen == [(step, step // 7) for step in range(STEPS)]


def test_a_place_that_this_program_would_not_find_again_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    """Every commit holds its place in files and row groups; another order of rows does not go on from it unnoticed."""
    config = rarely(config, 10)
    run_ranks(2, train_part, 2, config, str(tmp_path), 10)
    commit, job = Checkpoints(tmp_path, 1).newest(), parse_job(config, "test")
    assert commit is not None
    source = epoch_source(job, plan(job, job.data.train), 1, shuffle=True)
    assert commit.read(CURSOR) == cursor(source, 3 * BATCH)
    with pytest.raises(InputError, match=r"step-00000010-.*: its place in the log, in files and row groups, is not"):
        run_ranks(2, train_part, 2, config | {"seed": 1}, str(tmp_path), NEVER)
