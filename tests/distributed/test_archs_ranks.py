"""What one architecture alone has, on ranks: the penalty of sluice, and a table a task."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.embedding.tables import TABLE_PREFIX
from pipeline.model import RankingModel
from tests.distributed.ranks import run_ranks
from tests.distributed.training import RankState, build, table_state, train, train_built, whole
from tests.logs import DAYS, set_key, small_config, small_job, write_log

STEPS, BATCH = 5, 24
ROWS = STEPS * BATCH - 7
BOTTOMS = {"bottom_layers": [8, 6]}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archs") / "log"
    write_log(root, DAYS[:1], ROWS, seed=3, row_group_rows=50)
    write_log(root, DAYS[1:], 1)
    return root


def config_of(log: Path, model: dict[str, Any], **changes: Any) -> dict[str, Any]:
    config = small_config(log, log / "unused", DAYS[:2])
    shardings = {"user": "row_wise", "item": "column_wise", "session": "data_parallel", "city": "row_wise"}
    keys = {"train.batch_size": BATCH, "model": {"tower_layers": [4], **model}}
    keys |= {f"tables.{table}.sharding": sharding for table, sharding in shardings.items()}
    keys |= {"embedding_optimizer": {"name": "adagrad"}}  # whose rule column shards do not change
    for key, value in (keys | changes).items():
        set_key(config, key, value)
    return config


def first_moments(config: dict[str, Any], world: int) -> dict[str, torch.Tensor]:
    """AdamW's first moments after one step, .1 of the gradient, by parameter of the dense network."""
    states = run_ranks(world, train, world, config)
    found = whole(states).items()
    return {key.split("dense.", 1)[1].removesuffix("/exp_avg"): v for key, v in found if key.endswith("/exp_avg")}


def test_the_penaltys_gradient_is_whole_on_one_rank_and_on_two(log: Path) -> None:
    """Where no task weighs anything, the penalty's is all the gradient there is."""
    tasks = [{"name": name, "weight": 0} for name in ("click", "cart", "fav", "order")]
    model = {"arch": "sluice", "bottom_layers": [6, 6], "subspaces": 3, "orthogonality": 0.7}
    config = config_of(log, model, tasks=tasks, **{"train.max_steps": 1})
    dense = RankingModel(small_job(log, changes={"model": {"tower_layers": [4], **model}, "tasks": tasks})).dense
    penalty = dense.penalty()
    assert penalty is not None
    penalty.backward()
    for world in (1, 2):
        moments = first_moments(config, world)
        assert moments.keys() == {name for name, _ in dense.named_parameters()}
        for name, parameter in dense.named_parameters():
            expected = torch.zeros_like(parameter) if parameter.grad is None else 0.1 * parameter.grad
            torch.testing.assert_close(moments[name], expected, rtol=1e-5, atol=1e-9, msg=f"{name} on {world}")
    assert dense.arch.levels[0][0].layers[0].weight.grad.abs().max() > 1e-3


TASKS = ("click", "cart", "order")


def apart_and_together(rank: int, config: dict[str, Any]) -> tuple[RankState, list[RankState]]:
    """The job with a table a task, and a job of each task alone that starts from the same weights."""
    job, model, optimizers, ranks = build(config, rank, 1)
    dense = {name: value.clone() for name, value in model.module.dense.state_dict().items()}
    together, apart = train_built(job, model, optimizers, ranks), []
    for number, task in enumerate(TASKS):
        alone = {**config, "tasks": [{"name": task}], "model": {**config["model"], "separate_embeddings": False}}
        job, model, optimizers, ranks = build(alone, rank, 1)
        own = {}
        for name in model.module.dense.state_dict():
            first, second, _, *rest = name.split(".")
            own[name] = dense[".".join([first, second, str(number), *rest])]
        model.module.dense.load_state_dict(own)
        apart.append(train_built(job, model, optimizers, ranks))
    return together, apart


def test_a_table_a_task_is_a_job_a_task(log: Path) -> None:
    """Losses, tables and their optimizer state: T tasks with separate tables are T jobs of one task."""
    model = {"arch": "single_task", "separate_embeddings": True, **BOTTOMS}
    config = config_of(log, model, tasks=[{"name": name} for name in TASKS])
    ((together, apart),) = run_ranks(1, apart_and_together, config)
    tensors = whole([together])
    for number, (task, alone) in enumerate(zip(TASKS, apart, strict=True)):
        np.testing.assert_allclose(
            [step[number] for step in together.losses], [step[0] for step in alone.losses], rtol=1e-6
        )
        own = whole([alone])
        for table in config["tables"]:
            mine = f"model/embeddings.embedding_bags.{TABLE_PREFIX}{task}-{table}.weight"
            torch.testing.assert_close(tensors[mine], own[mine.replace(f"{task}-", "")], rtol=1e-6, atol=1e-7)
            mine = table_state(tensors, f"{task}-{table}")
            torch.testing.assert_close(mine, table_state(own, table), rtol=1e-5, atol=1e-9)
        for name, value in own.items():
            if name.startswith("model/dense."):
                first, second, _, *rest = name.split(".")[1:]
                mine = ".".join(["model/dense", first, second, str(number), *rest])
                torch.testing.assert_close(
                    tensors[mine], value, rtol=1e-5, atol=1e-6, msg=lambda m, n=mine: f"{n}: {m}"
                )
