"""One NaN on one rank of two: refused on both before anything is trained, by the names of the tasks it reached."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from pipeline.batch import Batch
from pipeline.data.files import plan
from pipeline.train.loop import training_batches
from pipeline.train.run import START
from pipeline.train.step import TrainStep
from schemas.errors import InputError
from tests.distributed.ranks import run_ranks
from tests.distributed.training import RankState, _shards, build, whole
from tests.logs import DAYS, set_key, small_config, write_log

GOOD = 3
"""Steps trained before the NaN."""


def in_a_label(batch: Batch) -> Batch:
    """Of the first row that lies in the space of `cart`, the second task: a NaN outside a space is no matter."""
    labels_BT = batch.labels_BT.clone()
    labels_BT[int(batch.space_BT[:, 1].argmax()), 1] = float("nan")
    return dataclasses.replace(batch, labels_BT=labels_BT)


def in_a_feature(batch: Batch) -> Batch:
    dense_BF = batch.dense_BF.clone()
    dense_BF[0, 0] = float("nan")
    return dataclasses.replace(batch, dense_BF=dense_BF)


def infinite(batch: Batch) -> Batch:
    return dataclasses.replace(batch, dense_BF=torch.full_like(batch.dense_BF, float("inf")))


def untouched(batch: Batch) -> Batch:
    return batch


def planted(batches: Iterator[Batch], plant: Callable[[Batch], Batch]) -> Iterator[Batch]:
    for number, batch in enumerate(batches):
        yield plant(batch) if number == GOOD else batch


def guarded(rank: int, config: dict[str, Any], plant: Callable[[Batch], Batch], in_weight: bool) -> tuple[Any, ...]:
    """The state before and after the step with the NaN on rank 1, and what it said."""
    job, model, optimizers, ranks = build(config, rank, 2)
    step = TrainStep(model, optimizers, job, ranks, 10)
    real = training_batches(job, plan(job, job.data.train), ranks, START)
    batches = planted(real, plant if rank == 1 else untouched)
    model.train()
    for number in range(GOOD):
        step(batches, number)
    if in_weight and rank == 1:
        tower = next(p for name, p in model.named_parameters() if "dense" in name and "tower" in name and p.dim() == 2)
        with torch.no_grad():
            tower[0, 0] = float("nan")

    def state() -> RankState:
        return RankState([], [], _shards({"model": model.state_dict(), "optimizer": optimizers.all.state_dict()}))

    before, said = state(), "nothing"
    try:
        step(batches, GOOD)
    except InputError as error:
        said = str(error)
    after = state()
    real.close()
    return before, after, said


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("guard")
    write_log(folder / "log", DAYS, 200, seed=8)
    config = small_config(folder / "log", folder / "out")
    for key, value in {"tables.user.sharding": "row_wise", "tables.city.sharding": "data_parallel"}.items():
        set_key(config, key, value)
    return config


@pytest.mark.parametrize(
    ("plant", "in_weight", "tasks"),
    [
        (in_a_label, False, ["cart"]),
        (in_a_feature, False, ["click"]),
        (infinite, False, ["click", "cart", "fav", "order"]),
        (untouched, True, ["click"]),
    ],
    ids=["a label", "a feature", "an infinite feature", "a weight"],
)
def test_what_is_not_finite_trains_nothing_on_any_rank(
    config: dict[str, Any], plant: Callable[[Batch], Batch], in_weight: bool, tasks: list[str]
) -> None:
    results = run_ranks(2, guarded, config, plant, in_weight)
    told = [said for *_, said in results]
    assert told[0] == told[1]
    assert "nothing was trained on it" in told[0]
    for task in tasks:
        assert f"'{task}' (" in told[0]
    if tasks == ["cart"]:
        assert all(f"'{other}'" not in told[0] for other in ("click", "fav", "order"))
    before, after = (whole([result[i] for result in results]) for i in (0, 1))
    assert len(after) > 20
    for name, value in before.items():
        assert torch.equal(after[name].nan_to_num(123.0), value.nan_to_num(123.0)), name
    tables = [value for name, value in after.items() if "embedding_bags" in name]
    assert len(tables) > 4
    assert all(torch.isfinite(table).all() for table in tables), "no row of a table is not finite"


def test_without_the_nan_the_same_step_trains(config: dict[str, Any]) -> None:
    results = run_ranks(2, guarded, config, untouched, False)
    assert [said for *_, said in results] == ["nothing", "nothing"]
    before, after = (whole([result[i] for result in results]) for i in (0, 1))
    changed = [name for name, value in before.items() if not torch.equal(after[name], value)]
    assert any("embedding_bags" in name for name in changed)
