"""Growth over days on real ranks: an extended vocabulary under a warm start, and loss weights that go on."""

import contextlib
import copy
import dataclasses
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

import pipeline.train.step
from pipeline.data.freeze import plan_job
from pipeline.data.vocabulary_lookup import fingerprints
from pipeline.train.agreement import first_rank
from pipeline.train.checkpoint_store import CheckpointStore
from pipeline.train.dist import Ranks, quiet_libraries
from pipeline.train.migrate import load_parent, opening_lines
from pipeline.train.run import run_job
from pipeline.train.table_state import training_state
from pipeline.train.warm_start import find_parent, lineage_of
from schemas.errors import InputError
from schemas.load import parse_job
from schemas.tasks import TaskSpec
from tests.distributed.command import tensors
from tests.distributed.ranks import run_ranks
from tests.distributed.training import RankState, Shard, build, eval_logits, whole
from tests.logs import CITIES, DAYS, ITEMS, USERS, set_key, small_config, write_log

ROWS = 96
PLANS = {"user": "row_wise", "item": "table_wise", "city": "data_parallel"}
OTHER_PLANS = {"user": "column_wise", "item": "row_wise", "city": "table_wise"}
KNOWN = {"user": 30, "item": 20, "city": 3}
LISTED = {"user": USERS, "item": 33, "city": 5}
"""Values listed after growing."""
ROWS_BEFORE = {"user": 40, "item": 40, "city": 20}
RULE = "rowwise_adagrad/sum"
VALUES = {"user": np.arange(USERS)[::-1], "item": np.random.default_rng(0).permutation(ITEMS), "city": CITIES}
FEATURES = {"user": ("user",), "item": ("item", "history", "recent"), "city": ("city",)}


@dataclasses.dataclass
class Ended:
    """What a run told and left."""

    told: str
    weights: list[list[float]]
    """Of the tasks, step by step."""


def whole_job(rank: int, world: int, config: dict[str, Any]) -> Ended:
    """The job as its launcher runs it, on this rank; an InputError is what it told."""
    quiet_libraries()
    seen: list[list[float]] = []
    real = pipeline.train.step.task_weights

    def spy(tasks: list[TaskSpec], step: int, epoch: int) -> list[float]:
        seen.append(real(tasks, step, epoch))
        return seen[-1]

    pipeline.train.step.task_weights = spy
    job, told = parse_job(config, "test"), io.StringIO()
    reads = plan_job(job, None)
    with contextlib.redirect_stdout(told):
        try:
            run_job(job, reads.training, reads.evaluation, Ranks(rank, world, torch.device("cpu")), {})
        except InputError as error:
            print(error)
    pipeline.train.step.task_weights = real
    return Ended(told.getvalue(), seen)


def listing(config: dict[str, Any], folder: Path, counts: dict[str, int]) -> dict[str, Any]:
    """The job with vocabularies of each table's first so many values."""
    folder.mkdir()
    for table, count in counts.items():
        path = folder / f"{table}.parquet"
        pq.write_table(pa.table({"value": VALUES[table][:count]}), path)
        for feature in FEATURES[table]:
            set_key(config, f"features.{feature}.vocabulary", str(path))
    return config


@dataclasses.dataclass
class Parent:
    """A run that has trained through vocabularies and committed."""

    config: dict[str, Any]
    tensors: dict[str, Tensor]
    logits: dict[int, list[float]]


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Parent:
    folder = tmp_path_factory.mktemp("growth")
    write_log(folder / "log", DAYS, ROWS)
    config = small_config(folder / "log", folder / "parent")
    for table, rows in ROWS_BEFORE.items():
        config["tables"][table] |= {"rows": rows, "sharding": PLANS[table]}
    config = listing(config, folder / "old", KNOWN)
    run_ranks(2, whole_job, 2, config)
    (path,) = (path for path in Path(config["output"], "checkpoints").iterdir() if path.is_dir())
    same = copy.deepcopy(config) | {"warm_start": {"checkpoint": str(path.parent)}}
    ((_, logits, _),) = run_ranks(1, begin, 1, same)
    return Parent(config, {n.strip("/"): t for n, t in tensors(path).items()}, logits)


def begin(rank: int, world: int, config: dict[str, Any]) -> tuple[RankState, dict[int, list[float]], list[str]]:
    """The model right after its warm start, and what it predicts of the evaluation's rows."""
    job, model, optimizers, _ = build(config, rank, world)
    found = first_rank(lambda: find_parent(job, fingerprints(job)))
    lines = opening_lines(found, load_parent(found, job, model, optimizers.all), job.warm_start.optimizer)
    shards = {
        name: [Shard(offsets, pieces.shape, values.clone()) for offsets, values in pieces.parts]
        for name, pieces in training_state(model, optimizers.all).items()
    }
    return RankState([], [], shards), eval_logits(job, model, rank, world), lines


def grown(parent: Parent, folder: Path, counts: dict[str, int] = LISTED) -> dict[str, Any]:
    """The parent's job on other ranks' terms, with another seed, more values and, for users, more rows."""
    config = listing(copy.deepcopy(parent.config), folder / "new", counts)
    config |= {"output": str(folder / "child"), "seed": 5}
    config["warm_start"] = {"checkpoint": f"{parent.config['output']}/checkpoints", "changes": ["tables.user.rows"]}
    config["tables"]["user"]["rows"] = 64
    return config


@pytest.mark.parametrize(("world", "plans"), [(1, PLANS), (2, OTHER_PLANS), (3, PLANS)])
def test_old_values_keep_their_rows_and_new_ones_begin_as_the_unknown(
    parent: Parent, tmp_path: Path, world: int, plans: dict[str, str]
) -> None:
    config = grown(parent, tmp_path)
    for table, sharding in plans.items():
        config["tables"][table]["sharding"] = sharding
    ranks = run_ranks(world, begin, world, config)
    new, old = whole([state for state, _, _ in ranks]), parent.tensors
    for table, before in ROWS_BEFORE.items():
        weight, was = new[f"tables/{table}/weight"], old[f"tables/{table}/weight"]
        sums, had = (tensor[f"tables/{table}/{RULE}"].mean(1) for tensor in (new, old))
        known, listed = KNOWN[table], LISTED[table]
        assert had[:known].count_nonzero() > 2
        assert had[-1] > 0, "the out-of-vocabulary row has learnt"
        assert torch.equal(weight[:known], was[:known])
        torch.testing.assert_close(sums[:known], had[:known], rtol=1e-6, atol=0)
        assert torch.equal(weight[known:listed], was[-1].expand(listed - known, -1)), table
        assert torch.equal(weight[-1], was[-1]), "and it lies at the end of the larger table"
        torch.testing.assert_close(sums[-1], had[-1], rtol=1e-6, atol=0)
        assert (sums[known:-1] == 0).all()
        if listed < before:  # neither trained nor listed
            assert (had[known:-1] == 0).all()
            assert torch.equal(weight[listed:before], was[listed:before])
    assert new["tables/user/weight"].shape[0] == 65
    logits = {row: values for _, part, _ in ranks for row, values in part.items()}
    assert len(logits) == ROWS
    for row, values in parent.logits.items():
        assert logits[row] == pytest.approx(values, abs=1e-6), "nothing is predicted otherwise before it is trained"
    text = "\n".join(ranks[0][2])
    assert "  features.user.vocabulary: extended by 20 values, 30 -> 50\n" in text
    assert "  features.recent.vocabulary: extended by 13 values, 20 -> 33\n" in text


def test_a_child_trains_the_new_rows_and_goes_on_with_its_own_values_alone(parent: Parent, tmp_path: Path) -> None:
    config = grown(parent, tmp_path)
    told = run_ranks(2, whole_job, 2, config)[0].told
    assert "features.city.vocabulary: extended by 2 values, 3 -> 5" in told
    commit = CheckpointStore(f"{tmp_path}/child/checkpoints").newest()
    assert commit is not None
    now = fingerprints(parse_job(config, "test"))
    assert commit.job["vocabularies"] == now
    assert now["user"].startswith("50:")
    state = {n.strip("/"): t for n, t in tensors(Path(commit.path)).items()}
    fresh = state["tables/user/weight"][KNOWN["user"] : LISTED["user"]]
    assert len(torch.unique(fresh, dim=0)) > 10, "equal at the start, each has learnt for itself"
    for name, count in {"more": 39, "fewer": 20}.items():
        other = listing(copy.deepcopy(config), tmp_path / name, LISTED | {"item": count})
        told = run_ranks(2, whole_job, 2, other)[0].told
        assert f"'{tmp_path}/{name}/item.parquet', the vocabulary of feature 'item', holds other values than" in told


def test_a_commit_of_an_older_version_goes_on_with_its_vocabulary(parent: Parent, tmp_path: Path) -> None:
    """Its configuration has a hash and no number of values."""
    output = shutil.copytree(parent.config["output"], tmp_path / "old")
    store = CheckpointStore(f"{output}/checkpoints")
    commit = store.newest()
    assert commit is not None
    bare = {feature: told.split(":")[1] for feature, told in commit.job["vocabularies"].items()}
    store.commit(commit.name, commit.progress, commit.job | {"vocabularies": bare}, commit.data, commit.files, 1.0)
    config = copy.deepcopy(parent.config) | {"output": str(output)}
    assert "trained to its end already" in run_ranks(1, whole_job, 1, config)[0].told
    child = config | {"output": str(tmp_path / "child"), "warm_start": {"checkpoint": store.url}}
    set_key(child, "train.max_steps", 1)
    assert "warm start from" in run_ranks(1, whole_job, 1, child)[0].told


DECAYS = {"click": (0.9, "step"), "cart": (0.5, "epoch"), "fav": (1.0, "step"), "order": (0.99, "step")}


def decaying(log: Path, output: Path, epochs: int) -> dict[str, Any]:
    config = small_config(log, output)
    for task, (decay, unit) in DECAYS.items():
        set_key(config, f"tasks.{task}.decay", decay)
        set_key(config, f"tasks.{task}.decay_per", unit)
        set_key(config, f"tasks.{task}.weight", 1.5)
    config["train"] |= {"epochs": epochs, "checkpoint_every": 5, "keep_last": 2}
    config["data"]["eval"] = None
    return config


def days_in_turn(rank: int, world: int, configs: list[dict[str, Any]]) -> list[Ended]:
    return [whole_job(rank, world, config) for config in configs]


@pytest.mark.parametrize("world", [1, 2])
def test_days_that_go_on_weigh_as_one_run_does(tmp_path: Path, world: int) -> None:
    log = tmp_path / "log"
    write_log(log, DAYS, 64)

    def day(name: str, epochs: int, before: str = "", loss_weights: str = "continue") -> dict[str, Any]:
        config = decaying(log, tmp_path / name, epochs)
        if before:
            config["warm_start"] = {"checkpoint": f"{tmp_path}/{before}/checkpoints", "loss_weights": loss_weights}
        return config

    days = [day("one", 4), day("first", 2), day("second", 2, "first"), day("anew", 2, "second", "restart")]
    ranks = run_ranks(world, days_in_turn, world, days)
    for ended in zip(*ranks, strict=True):
        assert all(each.weights == ended[0].weights for each in ended)
    one, first, second, anew = ranks[0]
    expected, steps = one.weights, len(one.weights) // 2
    assert steps > 4
    assert expected[3][0] == 1.5 * 0.9**3
    assert first.weights == expected[:steps]
    assert second.weights == expected[steps:]
    assert f"steps and learning rate begin anew; the tasks' weights go on from step {steps}, epoch 2" in second.told
    assert anew.weights == expected[:steps]
    assert "weights go on" not in anew.told

    # cut off, it goes on where its own weights stood
    store = CheckpointStore(f"{tmp_path}/second/checkpoints")
    end = store.newest()
    assert end is not None
    lineage = lineage_of(end)
    assert lineage is not None
    assert (lineage.weight_steps, lineage.weight_epochs) == (steps, 2)
    store.remove(end.name)
    left = store.newest()
    assert left is not None
    assert 0 < left.progress.step < steps
    again, since = run_ranks(world, days_in_turn, world, [days[2], day("since", 2, "anew")])[0]
    assert again.weights == expected[steps + left.progress.step :]
    assert since.weights == expected[steps:], "of the ancestors since one that restarted"
