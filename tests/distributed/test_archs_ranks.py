"""Every architecture trains alike on one rank and two and goes on after a cut; a table a task; the penalty."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.archs import ARCHS
from pipeline.embedding.tables import TABLE_PREFIX
from pipeline.model import RankingModel
from tests.distributed.ranks import run_ranks
from tests.distributed.training import RankState, build, table_state, train, train_built, train_part, whole
from tests.logs import DAYS, set_key, small_config, small_job, write_log

STEPS, CUT = 5, 2
BATCH = 24
ROWS = STEPS * BATCH - 7
BOTTOMS = {"bottom_layers": [8, 6]}
EXPERTS = {"expert_layers": [8, 6]}
MODELS: dict[str, dict[str, Any]] = {
    "single_task": BOTTOMS,
    "separate": {"arch": "single_task", "separate_embeddings": True, "norm": "batch", **BOTTOMS},
    "shared_bottom": BOTTOMS,
    "asymmetric": {"reads": {"order": ["cart", "click"], "click": ["fav"]}, **BOTTOMS},
    "customized": {"dropout": 0.0, **BOTTOMS},
    "moe": {"experts": 3, **EXPERTS},
    "mmoe": {"experts": 3, "match_parameters": 5_100, **EXPERTS},
    "ml_mmoe": {"experts": 2, "levels": 3, **EXPERTS},
    "cgc": {"task_experts": {"click": 0, "cart": 1, "fav": 2, "order": 1}, **EXPERTS},
    "ple": {"task_experts": 1, "levels": 3, **EXPERTS},
    "cross_stitch": BOTTOMS,
    "sluice": {"bottom_layers": [8, 8], "orthogonality": 0.5},
}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("archs") / "log"
    write_log(root, DAYS[:1], ROWS, seed=3, row_group_rows=50)
    write_log(root, DAYS[1:], 1)
    return root


def config_of(log: Path, model: dict[str, Any], **changes: Any) -> dict[str, Any]:
    config = small_config(log, log / "unused", DAYS[:2])
    shardings = {"user": "row_wise", "item": "column_wise", "session": "data_parallel", "city": "row_wise"}
    keys = {"train.batch_size": BATCH, "train.log_every": STEPS, "model": {"tower_layers": [4], **model}}
    keys |= {f"tables.{table}.sharding": sharding for table, sharding in shardings.items()}
    keys |= {"embedding_optimizer": {"name": "adagrad"}}  # whose rule column shards do not change
    for key, value in (keys | changes).items():
        set_key(config, key, value)
    return config


def train_all(rank: int, world: int, configs: list[dict[str, Any]]) -> list[RankState]:
    return [train(rank, world, config) for config in configs]


def parts_of_all(rank: int, world: int, configs: list[dict[str, Any]], folder: str, stop: int) -> list[RankState]:
    return [train_part(rank, world, config, f"{folder}/{n}", stop) for n, config in enumerate(configs)]


def test_every_architecture_trains_alike_on_one_rank_and_two_and_goes_on_after_a_cut(log: Path, tmp_path: Path) -> None:
    configs = [config_of(log, {"arch": name, **model}) for name, model in MODELS.items()]
    assert {config["model"]["arch"] for config in configs} == set(ARCHS)
    one = run_ranks(1, train_all, 1, configs)
    two = run_ranks(2, train_all, 2, configs)
    run_ranks(2, parts_of_all, 2, configs, str(tmp_path), CUT)
    went_on = run_ranks(1, parts_of_all, 1, configs, str(tmp_path), STEPS + 1)
    for number, name in enumerate(MODELS):
        reference = one[0][number]
        assert len(reference.losses) == STEPS
        for rank in two:
            np.testing.assert_allclose(rank[number].losses, reference.losses, rtol=1e-5, atol=1e-5, err_msg=name)
        a = whole([reference])
        for other in (whole([rank[number] for rank in two]), whole([went_on[0][number]])):
            assert a.keys() == other.keys()
            for key, value in a.items():
                rtol = 1e-3 if "exp_avg" in key else 1e-5
                torch.testing.assert_close(
                    other[key], value, rtol=rtol, atol=1e-5, msg=lambda m, n=f"{name} {key}": f"{n}: {m}"
                )
    separate = whole([one[0][list(MODELS).index("separate")]])
    for table in configs[0]["tables"]:
        copies = [table_state(separate, f"{task}-{table}") for task in ("click", "cart", "fav", "order")]
        assert all(copy.abs().sum() > 0 for copy in copies)
        assert not any(torch.equal(copies[0], copy) for copy in copies[1:]), "each is trained by its own task"


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


def test_the_penalty_is_told(log: Path, tmp_path: Path) -> None:
    config = config_of(log, {"arch": "sluice", **MODELS["sluice"]})
    (one,) = run_ranks(1, train_part, 1, config, str(tmp_path), STEPS + 1)
    (plain,) = run_ranks(1, train_part, 1, config_of(log, {"arch": "moe"}), str(tmp_path / "moe"), STEPS + 1)
    assert [report.penalty for report in plain.reports] == [None]
    (report,) = one.reports
    assert report.penalty is not None
    assert report.penalty > 0


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
