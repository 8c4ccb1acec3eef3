"""A warm start: it predicts what the checkpoint predicted until training goes on, and takes its optimizer state."""

import copy
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from pipeline.train.agreement import first_rank
from pipeline.train.checkpoint_store import CheckpointStore
from pipeline.train.migrate import load_parent, opening_lines
from pipeline.train.migrate_structure import check_structure
from pipeline.train.table_state import training_state
from pipeline.train.warm_start import Lineage, Parent, find_parent
from schemas.errors import InputError
from tests.distributed.command import tensors
from tests.distributed.ranks import run_ranks
from tests.distributed.training import RankState, Shard, build, eval_logits, predict, save, whole
from tests.logs import DAYS, set_key, small_config, write_log

ROWS = 96
PLANS = {"user": "row_wise", "item": "table_wise", "session": "column_wise", "city": "data_parallel"}
OTHER_PLANS = {"user": "data_parallel", "item": "column_wise", "session": "row_wise", "city": "table_wise"}
WIDTHS = {"user": 8, "item": 16, "session": 8, "history": 16, "recent": 16, "city": 8, "price_bucket": 8}
INPUTS = [(f, i) for f, width in (WIDTHS | {"price": 1, "age": 1}).items() for i in range(width)]
"""The parent's network input, place by place."""
EXPERT = "dense/dense.arch.levels.0.task_experts.0.0.layers.0.weight"
GATE = "dense/dense.arch.levels.0.task_gates.0.weight"


@dataclasses.dataclass
class Run:
    """A run that has trained and committed."""

    config: dict[str, Any]
    checkpoints: str
    tensors: dict[str, Tensor]
    logits: dict[int, list[float]]
    """Of the evaluation's rows, by row id."""


@dataclasses.dataclass
class Warm:
    """A model right after its warm start."""

    tensors: dict[str, Tensor]
    logits: dict[int, list[float]]
    lines: list[str]


def train_parent(folder: Path, arch: str) -> Run:
    write_log(folder / "log", DAYS, ROWS, share=np.arange(ROWS) % 3 == 0)
    config = small_config(folder / "log", folder / "out")
    config["tables"]["user"]["rows"] = 40  # the log's users 40 .. 49 are out of vocabulary
    if arch == "cgc":
        config["model"] = {**config["model"], "arch": "cgc"}
        del config["model"]["levels"]
    if arch == "separate":
        config["model"] = {"arch": "single_task", "separate_embeddings": True, "bottom_layers": [8]}
    for table, sharding in PLANS.items():
        config["tables"][table]["sharding"] = sharding
    checkpoints = str(folder / "out" / "checkpoints")
    run_ranks(2, save, 2, config, checkpoints)
    ((logits,),) = run_ranks(1, predict, 1, [config], checkpoints)
    (path,) = (folder / "out" / "checkpoints").iterdir()
    return Run(config, checkpoints, {n.strip("/"): t for n, t in tensors(path).items()}, logits)


@pytest.fixture(scope="module")
def ple(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_parent(tmp_path_factory.mktemp("ple"), "ple")


@pytest.fixture(scope="module")
def cgc(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_parent(tmp_path_factory.mktemp("cgc"), "cgc")


@pytest.fixture(scope="module")
def separate(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_parent(tmp_path_factory.mktemp("separate"), "separate")


def child(parent: Run, *changes: str, optimizer: bool = True) -> dict[str, Any]:
    """The parent's job with another seed, to begin from its checkpoint with these differences."""
    config = copy.deepcopy(parent.config)
    config |= {"output": "unused", "seed": 5}
    config["warm_start"] = {"checkpoint": parent.checkpoints, "changes": list(changes), "optimizer": optimizer}
    return config


def begin(
    rank: int, world: int, configs: list[dict[str, Any]]
) -> list[tuple[RankState, dict[int, list[float]], list[str]]]:
    return [begin_one(rank, world, config) for config in configs]


def begin_one(rank: int, world: int, config: dict[str, Any]) -> tuple[RankState, dict[int, list[float]], list[str]]:
    job, model, optimizers, _ = build(config, rank, world)
    parent = first_rank(lambda: find_parent(job, {}))
    migration = load_parent(parent, job, model, optimizers.all)
    lines = opening_lines(parent, migration, job.warm_start.optimizer)
    shards = {
        name: [Shard(offsets, pieces.shape, values.clone()) for offsets, values in pieces.parts]
        for name, pieces in training_state(model, optimizers.all).items()
    }
    return RankState([], [], shards), eval_logits(job, model, rank, world), lines


def warm_all(configs: list[dict[str, Any]], world: int) -> list[Warm]:
    out = []
    for ranks in zip(*run_ranks(world, begin, world, configs), strict=True):
        logits = {row: values for _, part, _ in ranks for row, values in part.items()}
        out.append(Warm(whole([state for state, _, _ in ranks]), logits, ranks[0][2]))
    return out


def warm(config: dict[str, Any], world: int = 1) -> Warm:
    return warm_all([config], world)[0]


def assert_same_logits(parent: Run, child: Warm, tasks: list[int] | None = None) -> None:
    """The child's tasks predict what the parent's `tasks` did (default: all of them, in their order)."""
    assert parent.logits.keys() == child.logits.keys()
    assert len(parent.logits) == ROWS
    for row, values in parent.logits.items():
        expected = values if tasks is None else [values[task] for task in tasks]
        assert child.logits[row][: len(expected)] == pytest.approx(expected, abs=1e-6)


def test_a_parent_has_learnt_and_its_optimizer_state_is_not_zero(ple: Run) -> None:
    assert ple.tensors["tables/user/rowwise_adagrad/sum"].count_nonzero() > 20
    assert ple.tensors[f"{EXPERT}/exp_avg_sq"].count_nonzero() > 100
    assert ple.tensors[f"{EXPERT}/step"] > 3
    assert ple.tensors[EXPERT].shape[1] == len(INPUTS)


@pytest.mark.parametrize("world", [1, 3])
def test_the_same_job_begins_with_the_parents_tensors_under_any_plan(ple: Run, world: int) -> None:
    config = child(ple)
    for table, sharding in OTHER_PLANS.items():
        config["tables"][table]["sharding"] = sharding
    begun = warm(config, world)
    rowwise = "rowwise_adagrad/sum"
    assert begun.tensors.keys() == {name for name in ple.tensors if not name.startswith("window/")}
    for name, value in begun.tensors.items():
        expected = ple.tensors[name]
        if name.endswith(rowwise):  # a number a row and column shard: of equal mean under any plan
            value, expected = value.mean(1), expected.mean(1)
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)
    assert_same_logits(ple, begun)
    assert "0 resized, 0 new, 0 removed" in begun.lines[-1]


def add_feature_with_table(config: dict[str, Any]) -> list[str]:
    config["features"].insert(1, {"name": "age_band", "kind": "bucket", "column": "age", "boundaries": [30, 50]})
    config["tables"]["age_band"] = {"rows": 3, "dim": 4, "sharding": "row_wise"}
    return ["features.age_band", "tables.age_band"]


def add_feature_of_old_table(config: dict[str, Any]) -> list[str]:
    config["features"].append({"name": "again", "kind": "ids", "table": "item", "column": "recent", "pooling": "mean"})
    return ["features.again"]


def add_number(config: dict[str, Any]) -> list[str]:
    config["features"].insert(0, {"name": "cost", "kind": "float", "column": "price"})
    return ["features.cost"]


def more_rows(config: dict[str, Any]) -> list[str]:
    config["tables"]["item"]["rows"] = 64
    return ["tables.item.rows"]


def wider(config: dict[str, Any]) -> list[str]:
    config["tables"]["user"]["dim"] = 12
    config["tables"]["item"]["dim"] = 24
    config["tables"]["session"]["dim"] = 16
    config["tables"]["city"]["dim"] = 12
    return ["tables.user.dim", "tables.item.dim", "tables.session.dim", "tables.city.dim"]


def reorder(config: dict[str, Any]) -> list[str]:
    config["features"].reverse()
    return []


def rename_column(config: dict[str, Any]) -> list[str]:
    set_key(config, "features.user.missing", "unknown")
    return ["features.user.missing"]


SAME = (add_feature_with_table, add_feature_of_old_table, add_number, more_rows, wider, reorder, rename_column)
"""Changes of the inputs, none of which changes a prediction on this log."""


def test_each_change_of_the_inputs_alone_predicts_as_before(ple: Run) -> None:
    configs = [child(ple) for _ in SAME]
    for config, change in zip(configs, SAME, strict=True):
        config["warm_start"]["changes"] = change(config)
    for begun in warm_all(configs, 2):
        assert_same_logits(ple, begun)


def test_all_changes_of_the_inputs_together_predict_as_before(ple: Run) -> None:
    config = child(ple)
    for change in SAME:
        config["warm_start"]["changes"] += change(config)
    for table, sharding in OTHER_PLANS.items():
        config["tables"][table]["sharding"] = sharding
    assert_same_logits(ple, warm(config, 2))


def test_new_rows_start_from_the_seed_and_the_unknown_keep_theirs(ple: Run) -> None:
    config = child(ple, "tables.user.rows")
    config["tables"]["user"]["rows"] = 45
    begun = warm(config, 2)
    fresh = range(40, 45)
    users = pq.read_table(f"{ple.config['data']['path']}/dt={DAYS[2]}")["user_id"].to_pylist()
    moved = {row for row in begun.logits if users[row] in fresh}
    unknown = {row for row in begun.logits if users[row] >= 45}
    assert len(moved) > 3
    assert len(unknown) > 3
    for row, values in ple.logits.items():
        assert (begun.logits[row] == pytest.approx(values, abs=1e-6)) == (row not in moved), users[row]
    for name, blank in (("weight", None), ("rowwise_adagrad/sum", 0)):
        new, old = begun.tensors[f"tables/user/{name}"], ple.tensors[f"tables/user/{name}"]
        assert torch.equal(new[:40], old[:40])
        assert torch.equal(new[45], old[40])
        if blank is None:
            assert 0 < new[40:45].abs().max() <= 1 / 46**0.5
        else:
            assert (new[40:45] == blank).all()


def several(config: dict[str, Any]) -> list[str]:
    """Inputs and tasks come, go, grow and stand in another order, all at once."""
    changes = add_feature_with_table(config) + add_number(config) + wider(config)
    config["tables"]["user"]["rows"] = 64
    config["features"] = [f for f in config["features"] if f["name"] not in ("recent", "price_bucket")]
    del config["tables"]["price_bucket"]
    config["tasks"] = [{"name": "share"}, *(t for t in reversed(config["tasks"]) if t["name"] != "fav")]
    gone = ["features.recent", "features.price_bucket", "tables.price_bucket", "tasks.share", "tasks.fav"]
    return [*changes, "tables.user.rows", *gone]


def expected_columns(old: Tensor, new_inputs: list[tuple[str, int]]) -> Tensor:
    """The old columns where they belong, 0 where an input is new."""
    columns = [old[:, INPUTS.index(place)] if place in INPUTS else torch.zeros(len(old)) for place in new_inputs]
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize(("world", "plans"), [(1, PLANS), (2, OTHER_PLANS), (4, OTHER_PLANS)])
def test_several_changes_at_once_by_value(ple: Run, world: int, plans: dict[str, str]) -> None:
    config = child(ple)
    config["warm_start"]["changes"] = several(config)
    for table, sharding in plans.items():
        config["tables"][table]["sharding"] = sharding
    begun = warm(config, world)
    new, old = begun.tensors, ple.tensors
    # the input, in the order of the configuration: cost, user, age_band, item, session, history, city, price, age
    widths = {"user": 12, "age_band": 4, "item": 24, "session": 16, "history": 24, "city": 12}
    inputs = [(f, i) for f, width in (widths | {"cost": 1, "price": 1, "age": 1}).items() for i in range(width)]
    # tasks were click, cart, fav, order and are share, order, cart, click
    for after, before in ((1, 3), (2, 1), (3, 0)):
        for state in ("", "/exp_avg", "/exp_avg_sq"):
            for part in ("task_experts.{}.0.layers.0", "task_gates.{}"):
                name = f"dense/dense.arch.levels.0.{part}.weight{state}"
                assert torch.equal(new[name.format(after)], expected_columns(old[name.format(before)], inputs)), name
            name = "dense/dense.towers.outputs.{}.weight" + state
            assert torch.equal(new[name.format(after)], old[name.format(before)])
        name = "dense/dense.arch.levels.0.task_gates.{}.weight/step"
        assert new[name.format(after)] == old[name.format(before)] > 3
    for state in ("exp_avg", "exp_avg_sq", "step"):
        assert (new[f"{EXPERT}/{state}"] == 0).all()  # of share, which is new
    gate = "dense/dense.arch.levels.0.shared_gate.weight"
    order = expected_columns(old[gate], inputs)[[3, 1, 0, 4]]  # order, cart, click, shared
    assert torch.equal(new[gate][1:], order)
    assert 0 < new[gate][0].abs().max() < 1
    for table, (rows, dim) in {"user": (40, 8), "item": (40, 16), "session": (30, 8), "city": (20, 8)}.items():
        weight, before = new[f"tables/{table}/weight"], old[f"tables/{table}/weight"]
        assert torch.equal(weight[:rows, :dim], before[:rows])
        assert torch.equal(weight[-1, :dim], before[rows])
        assert weight[:, dim:].abs().min() > 0
        sums, was = (t[f"tables/{table}/rowwise_adagrad/sum"].mean(1) for t in (new, old))
        torch.testing.assert_close(sums[:rows], was[:rows], rtol=1e-6, atol=0)
        torch.testing.assert_close(sums[-1], was[rows], rtol=1e-6, atol=0)
        assert (sums[rows:-1] == 0).all()
    assert (new["tables/age_band/rowwise_adagrad/sum"] == 0).all()
    text = "\n".join(begun.lines)
    for line in (
        "new, from the seed: tables.age_band, arch.levels.0.task_experts.share, arch.levels.0.task_gates.share",
        "removed: tables.price_bucket, arch.levels.0.task_experts.fav",
        "begins changed, since a gate sees other experts, or a stitch other tasks: arch.levels.0.shared_gate.weight",
        "tables.user.rows: 40 -> 64",
        "with its optimizer state; steps and learning rate begin anew",
    ):
        assert line in text, text


def test_tasks_that_share_no_gate_come_and_go_unnoticed(cgc: Run) -> None:
    config = child(cgc, "tasks.share", "tasks.fav")
    config["tasks"] = [t for t in config["tasks"] if t["name"] != "fav"] + [{"name": "share"}]
    begun = warm(config, 2)
    assert_same_logits(cgc, begun, [0, 1, 3])
    assert "gate sees other experts" not in "\n".join(begun.lines)


@pytest.mark.parametrize("world", [1, 2])
def test_a_table_a_task_migrates_under_its_name(separate: Run, world: int) -> None:
    """Each copy grows with the declared table; a new task's copies start from the seed, a removed one's go."""
    names = {name.split("/")[1] for name in separate.tensors if name.startswith("tables/")}
    assert names == {
        f"{task}.{table}" for task in ("click", "cart", "fav", "order") for table in separate.config["tables"]
    }
    config = child(separate, "tables.item.rows", "tasks.share", "tasks.fav")
    config["tasks"] = [{"name": "share"}] + [t for t in config["tasks"] if t["name"] != "fav"]
    config["tables"]["item"]["rows"] = 64
    for table, sharding in OTHER_PLANS.items():
        config["tables"][table]["sharding"] = sharding
    begun = warm(config, world)
    for row, values in separate.logits.items():
        assert begun.logits[row][1:] == pytest.approx([values[k] for k in (0, 1, 3)], abs=1e-6)
    for task in ("click", "cart", "order"):
        old, new = separate.tensors[f"tables/{task}.item/weight"], begun.tensors[f"tables/{task}.item/weight"]
        assert torch.equal(new[:40], old[:40])
        assert torch.equal(new[-1], old[-1])
        old, new = (t[f"tables/{task}.item/rowwise_adagrad/sum"].mean(1) for t in (separate.tensors, begun.tensors))
        assert old.count_nonzero() > 10
        torch.testing.assert_close(new[:40], old[:40])
        assert (new[40:-1] == 0).all()
    assert (begun.tensors["tables/share.item/rowwise_adagrad/sum"] == 0).all()
    text = "\n".join(begun.lines)
    assert "new, from the seed: tables.share.user, tables.share.item" in text
    assert "removed: tables.fav.user" in text


def test_weights_alone(ple: Run) -> None:
    config = child(ple, optimizer=False)
    config["embedding_optimizer"] = {"name": "adagrad"}
    begun = warm(config, 2)
    assert_same_logits(ple, begun)
    state = [name for name in begun.tensors if name.endswith(("/exp_avg", "/exp_avg_sq", "/step", "adagrad/sum"))]
    assert len(state) > 20
    assert all((begun.tensors[name] == 0).all() for name in state)
    assert "the weights alone" in begun.lines[0]


def test_element_wise_state_of_a_wider_table_starts_from_zero_in_new_columns(tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS, ROWS)
    config = small_config(tmp_path / "log", tmp_path / "out") | {"embedding_optimizer": {"name": "adagrad"}}
    config["tables"]["city"]["sharding"] = "data_parallel"
    checkpoints = str(tmp_path / "out" / "checkpoints")
    run_ranks(2, save, 2, config, checkpoints)
    (path,) = (tmp_path / "out" / "checkpoints").iterdir()
    old = {n.strip("/"): t for n, t in tensors(path).items()}
    parent = Run(config, checkpoints, old, {})
    wide = child(parent, "tables.city.dim", "tables.item.dim", "tables.item.rows")
    set_key(wide, "tables.city.dim", 12)
    set_key(wide, "tables.item", {"rows": 50, "dim": 24, "sharding": "column_wise"})
    new = warm(wide, 2).tensors
    for table, (rows, dim) in {"city": (20, 8), "item": (40, 16)}.items():
        after, before = new[f"tables/{table}/adagrad/sum"], old[f"tables/{table}/adagrad/sum"]
        assert before.count_nonzero() > 20
        expected = torch.zeros_like(after)
        expected[:rows, :dim], expected[-1, :dim] = before[:-1], before[-1]
        assert torch.equal(after, expected)


def refuse(rank: int, world: int, cases: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    """What a start says of a checkpoint whose configuration claims something else than it holds, case by case."""
    out = []
    for config, claims in cases:
        job, model, optimizers, _ = build(config, rank, world)
        folder, name = config["warm_start"]["checkpoint"].rsplit("/", 1)
        commit = CheckpointStore(folder).at(name) or CheckpointStore(f"{folder}/{name}").newest()
        assert commit is not None
        commit = dataclasses.replace(commit, job=commit.job | claims)
        differences = check_structure(commit.job, job, {}, "it")  # by its configuration it fits
        try:
            load_parent(Parent(commit, differences, Lineage("it", 1, "", 1)), job, model, optimizers.all)
            out.append("nothing")
        except InputError as error:
            out.append(str(error))
    return out


def test_every_tensor_is_accounted_for_and_every_file_compared(ple: Run, tmp_path: Path) -> None:
    tasks, features, tables = (ple.config[key] for key in ("tasks", "features", "tables"))
    ghost = {"features": [*features, {"name": "z", "kind": "id"}], "tables": tables | {"z": {"rows": 4, "dim": 4}}}
    fewer = {"tasks": tasks[:3]}
    taller = {"tables": tables | {"item": tables["item"] | {"rows": 41}}}
    (commit,) = (path for path in Path(ple.checkpoints).iterdir() if path.is_dir())
    victim = shutil.copytree(commit, tmp_path / "copy") / "__1_0.distcp"
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    damaged = {"warm_start": {"checkpoint": str(victim.parent)}}
    cases = [(child(ple) | claims, claims) for claims in (ghost, fewer, taller)]
    ranks = run_ranks(2, refuse, 2, [*cases, (child(ple) | damaged, {})])
    assert ranks[0] == ranks[1]
    told = ranks[0]
    assert "tables/z/rowwise_adagrad/sum: not in the checkpoint; tables/z/weight: not in the checkpoint" in told[0]
    assert "task_experts.3.0.layers.0.bias: in the checkpoint alone" in told[1]
    assert "cannot be read" in told[2]
    assert "tables/item" in told[2]
    assert "__1_0.distcp: missing, cut short or changed" in told[3]
