"""A save in the background holds the step it was begun at, is one at a time, and never fails in silence."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import pipeline.train.checkpoint as checkpoint_module
from pipeline.train.background import Staging
from pipeline.train.checkpoint import Checkpoints
from pipeline.train.pieces import Pieces
from pipeline.train.restore import load_training
from pipeline.train.table_state import training_state
from schemas.errors import InputError
from tests.distributed.ranks import run_ranks
from tests.distributed.test_checkpoint import progress
from tests.distributed.training import build
from tests.logs import set_key, small_config


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    config = small_config(tmp_path / "log", tmp_path / "out")
    set_key(config, "tables.user.sharding", "row_wise")
    set_key(config, "tables.city.sharding", "data_parallel")
    return config


class Gate:
    """Holds every save before its first byte until it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self._real = checkpoint_module.dcp.save
        checkpoint_module.dcp.save = self._save  # type: ignore[assignment]

    def _save(self, *args: Any, **kwargs: Any) -> Any:
        assert self.opened.wait(30)
        return self._real(*args, **kwargs)


def values(model: Any, optimizers: Any) -> dict[tuple[str, tuple[int, ...]], Tensor]:
    state = training_state(model, optimizers.all)
    return {(name, at): part.clone() for name, pieces in state.items() for at, part in pieces.parts}


@torch.no_grad()
def stir(model: Any, optimizers: Any) -> None:
    """Changes every number in place, as training does."""
    for pieces in training_state(model, optimizers.all).values():
        for _, part in pieces.parts:
            part.add_(1)


def goes_on(rank: int, config: dict[str, Any], folder: str) -> list[str]:
    """Names whose saved values are not those of the moment of the save."""
    _, model, optimizers, _ = build(config, rank, 2)
    stir(model, optimizers)  # so that no state is zero
    gate = Gate()
    checkpoints = Checkpoints(folder, 2, 60, background=True)
    before = values(model, optimizers)
    checkpoints.save(model, optimizers.all, progress(10), {}, "data")
    assert not checkpoints.ready()
    stir(model, optimizers)  # the save has not begun to write
    assert checkpoints.newest() is None
    gate.opened.set()
    checkpoints.wait()
    (saved,) = checkpoints.told()
    assert saved.step == 10
    assert saved.blocked_seconds <= saved.written_seconds
    commit = checkpoints.newest()
    assert commit is not None
    load_training(commit, model, optimizers.all)
    after = values(model, optimizers)
    assert sorted(after) == sorted(before)
    # a replicated table's count of steps is not saved: it is the run's
    return [str(name) for name, value in before.items() if not torch.equal(after[name], value)]


def test_what_is_saved_is_the_step_although_training_goes_on(tmp_path: Path, config: dict[str, Any]) -> None:
    assert run_ranks(2, goes_on, config, str(tmp_path)) == [[], []]


def test_the_copy_shares_no_memory_and_is_used_again() -> None:
    live = torch.arange(6.0).reshape(2, 3)
    staging = Staging()
    state = {"a": Pieces((4, 3), [((2, 0), live)]), "none here": Pieces((4, 3), [])}
    first = staging.copy(state)
    live += 1
    assert first["a"].parts[0][1].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (first["a"].shape, first["a"].parts[0][0], first["none here"].parts) == ((4, 3), (2, 0), [])
    second = staging.copy(state)
    assert second["a"].parts[0][1].data_ptr() == first["a"].parts[0][1].data_ptr()
    assert second["a"].parts[0][1].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert staging.copy({"a": Pieces.whole(torch.ones(5))})["a"].parts[0][1].tolist() == [1] * 5


def one_at_a_time(rank: int, config: dict[str, Any], folder: str) -> list[int]:
    _, model, optimizers, _ = build(config, rank, 2)
    gate = Gate()
    checkpoints = Checkpoints(folder, 2, 60, background=True)
    checkpoints.save(model, optimizers.all, progress(10), {}, "data")
    threading.Timer(0.3, gate.opened.set).start()
    checkpoints.save(model, optimizers.all, progress(20), {}, "data")  # waits for the first
    commit = checkpoints.newest()
    assert commit is not None
    assert commit.progress.step >= 10
    checkpoints.wait()
    return [saved.step for saved in checkpoints.told()]


def test_one_at_a_time(tmp_path: Path, config: dict[str, Any]) -> None:
    assert run_ranks(2, one_at_a_time, config, str(tmp_path)) == [[10, 20], [10, 20]]


def stuck(rank: int, config: dict[str, Any], folder: str) -> str:
    _, model, optimizers, _ = build(config, rank, 1)
    gate = Gate()
    checkpoints = Checkpoints(folder, 2, 1, background=True)
    checkpoints.save(model, optimizers.all, progress(10), {}, "data")
    try:
        checkpoints.wait()
    except InputError as error:
        return str(error)
    finally:
        gate.opened.set()
    return "nothing"


def test_a_wait_has_an_end_and_says_for_what(tmp_path: Path, config: dict[str, Any]) -> None:
    (told,) = run_ranks(1, stuck, config, str(tmp_path))
    assert told.startswith("the checkpoint of step 10, written in the background, has not ended within 1 s")
