"""A run cut off anywhere goes on as if nothing had happened: bitwise on as many ranks, to 1e-5 on any other number."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pipeline.train.step
from schemas.tasks import TaskSpec
from tests.distributed.ranks import run_ranks
from tests.distributed.training import train_part, whole
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


@pytest.fixture(scope="module")
def uninterrupted(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return whole(run_ranks(2, train_part, 2, config, str(tmp_path_factory.mktemp("whole")), NEVER))


@pytest.mark.parametrize(
    ("stop", "world"),
    [(3, 2), (7, 2), (10, 2), (14, 2), (10, 1), (7, 3)],
    ids=["in epoch 1", "at an epoch's end", "in epoch 2", "at the next end", "on one rank", "on three ranks"],
)
def test_a_run_cut_off_goes_on(
    config: dict[str, Any], uninterrupted: dict[str, Tensor], tmp_path: Path, stop: int, world: int
) -> None:
    run_ranks(2, train_part, 2, config, str(tmp_path), stop)
    ended = whole(run_ranks(world, train_part, world, config, str(tmp_path), NEVER))
    assert sorted(ended) == sorted(uninterrupted)
    assert (tmp_path / f"step-{STEPS:08d}" / "manifest.json").exists()
    for name, value in uninterrupted.items():
        if world == 2:
            assert torch.equal(ended[name], value), name
        else:
            torch.testing.assert_close(ended[name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


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
    (seen,) = run_ranks(1, units_of_decay, config, str(tmp_path), 9)
    assert seen == [(step, step // 7) for step in range(STEPS)]
