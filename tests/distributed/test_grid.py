"""Every architecture in every space on real ranks: the same numbers on one and on two, committed, and resumed bitwise.

All combinations go through one process group a number of ranks: trained on one rank, trained on two with a commit on
the way, and gone on from that commit by two new processes.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.archs import ARCHS
from pipeline.train.checkpoint import Checkpoints
from schemas.tasks import Space
from tests.distributed.ranks import run_ranks
from tests.distributed.test_resume import assert_same_report
from tests.distributed.training import RankState, table_state, train_saving, whole
from tests.logs import DAYS, set_key, small_config, small_table, write_log

STEPS, CUT, NEVER = 4, 2, 10**6
EPS = 1e-2
LIMIT = 400.0
"""Seconds for one group of ranks, on a machine that is busy with other things."""
BATCH = 24
ROWS = STEPS * BATCH - 7
SPACES = get_args(Space)
TASKS = [
    {"name": "click"},
    {"name": "fav", "given": "click"},
    {"name": "cart", "given": "click"},
    {"name": "order", "given": "cart"},
]
"""A chain of three, and a sibling."""
BOTTOMS = {"bottom_layers": [8, 6]}
EXPERTS = {"expert_layers": [8, 6]}
MODELS: dict[str, dict[str, Any]] = {
    "single_task": BOTTOMS,
    "separate": {"arch": "single_task", "separate_embeddings": True, "norm": "batch", **BOTTOMS},
    "shared_bottom": BOTTOMS,
    "asymmetric": {"reads": {"order": ["cart", "click"], "click": ["fav"]}, **BOTTOMS},
    "customized": BOTTOMS,
    "moe": {"experts": 3, **EXPERTS},
    "mmoe": {"experts": 3, "match_parameters": 2_400, **EXPERTS},
    "ml_mmoe": {"experts": 2, "levels": 3, **EXPERTS},
    "cgc": {"task_experts": {"click": 0, "cart": 1, "fav": 2, "order": 1}, "shared_experts": 2, **EXPERTS},
    "ple": {"task_experts": 1, "levels": 3, **EXPERTS},
    "cross_stitch": BOTTOMS,
    "sluice": {"bottom_layers": [8, 8], "orthogonality": 0.5},
}
GRID = list(itertools.product(MODELS, SPACES))


def config_of(log: Path, model: str, space: str) -> dict[str, Any]:
    """Tables in every way; `eps` is far above a gradient's rounding, else one near 0 is a whole step up or down."""
    config = small_config(log, log / "unused", DAYS[:2])
    shardings = {"user": "row_wise", "item": "column_wise", "session": "data_parallel", "city": "row_wise"}
    keys: dict[str, Any] = {f"tables.{table}.sharding": sharding for table, sharding in shardings.items()}
    keys |= {
        "space": space,
        "tasks": TASKS,
        # without dead units, so that whatever has a way to a loss has a gradient
        "model": {"arch": model, "tower_layers": [4], "activation": "tanh"} | MODELS[model],
        "embedding_optimizer": {"name": "adagrad", "eps": EPS},  # whose rule column shards do not change
        "dense_optimizer": {"lr": 0.02, "eps": EPS},
        "train.batch_size": BATCH,
        "train.log_every": 1,
        "train.checkpoint_every": 1,
        # a look at the last step, in one of the spaces: it begins with as many walks of the network as that has tensors
        "tracking": {"telemetry": {"every": 200 if space == "entire" else 0}},
    }
    for key, value in keys.items():
        set_key(config, key, value)
    return config


def train_all(rank: int, world: int, configs: list[dict[str, Any]], folder: str, commit_at: int) -> list[RankState]:
    return [train_saving(rank, world, config, f"{folder}/{n}", commit_at) for n, config in enumerate(configs)]


@dataclasses.dataclass
class Run:
    """One combination: what each rank knew at the end."""

    one: list[RankState]
    """On one rank."""
    two: list[RankState]
    """On two, not interrupted."""
    resumed: list[RankState]
    """On two, from the commit of the run before."""
    resumed_on_one: list[RankState]
    """From the same commit on one rank; in one of the spaces."""
    commits: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Run]:
    folder = tmp_path_factory.mktemp("grid")
    for days, rows in ((DAYS[:1], ROWS), (DAYS[1:], 1)):
        table = small_table(rows, 3, days[0])
        order = np.minimum(table["order"].to_numpy(), table["cart"].to_numpy())  # none without a cart
        write_log(folder / "log", days, rows, seed=3, row_group_rows=50, order=order)
    configs = [config_of(folder / "log", model, space) for model, space in GRID]
    some = [n for n, (_, space) in enumerate(GRID) if space == "entire"]
    commits = str(folder / "commits")
    one = run_ranks(1, train_all, 1, configs, str(folder / "none"), NEVER, timeout=LIMIT)
    two = run_ranks(2, train_all, 2, configs, commits, CUT, timeout=LIMIT)
    resumed = run_ranks(2, train_all, 2, configs, commits, NEVER, timeout=LIMIT)
    on_one = run_ranks(1, resume_some, configs, commits, some, timeout=LIMIT)
    return {
        combination: Run(
            [rank[n] for rank in one],
            [rank[n] for rank in two],
            [rank[n] for rank in resumed],
            [rank[some.index(n)] for rank in on_one] if n in some else [],
            folder / "commits" / str(n),
        )
        for n, combination in enumerate(GRID)
    }


def resume_some(rank: int, configs: list[dict[str, Any]], folder: str, some: list[int]) -> list[RankState]:
    return [train_saving(rank, 1, configs[n], f"{folder}/{n}", NEVER) for n in some]


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        rtol, atol = 1e-5, 1e-5
        if name.startswith("optimizer/state"):  # squares of gradients are far below 1e-5: against the largest of them
            rtol, atol = 1e-3, 1e-4 * float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


every_combination = pytest.mark.parametrize(("model", "space"), GRID, ids=["-".join(each) for each in GRID])


def test_the_grid_is_every_architecture_in_every_space() -> None:
    found = {(MODELS[model].get("arch", model), space) for model, space in GRID}
    assert found == set(itertools.product(ARCHS, ("conditional", "entire", "naive")))


@every_combination
def test_one_rank_and_two_train_the_same_model(runs: dict[tuple[str, str], Run], model: str, space: str) -> None:
    """Every step's losses, and at the end weights, tables, moments and fused state; all of it was trained."""
    run = runs[model, space]
    told, expected = run.two[0].reports, run.one[0].reports
    assert [report.progress for report in told] == [report.progress for report in expected]
    assert [report.progress.step for report in told] == [*range(1, STEPS + 1)]
    for one, other in zip(told, expected, strict=True):
        assert list(one.losses) == [task["name"] for task in TASKS]
        np.testing.assert_allclose(list(one.losses.values()), list(other.losses.values()), rtol=1e-5, atol=1e-5)
        if model == "sluice":
            assert one.penalty == pytest.approx(other.penalty, rel=1e-5)
            assert one.penalty > 0
        else:
            assert one.penalty is other.penalty is None
    tensors = whole(run.one)
    assert_close(whole(run.two), tensors)
    for name, value in tensors.items():
        if name.endswith("/exp_avg"):
            assert value.abs().max() > 0, f"{name}: no loss reached it"
    tasks = [f"{task['name']}-" for task in TASKS] if model == "separate" else [""]
    for table in ("user", "item", "session", "city", "price_bucket"):
        copies = [table_state(tensors, f"{task}{table}") for task in tasks]
        assert all(copy.abs().sum() > 0 for copy in copies)
        assert not any(torch.equal(a, b) for a, b in itertools.combinations(copies, 2)), "each by its own task"


@every_combination
def test_its_state_is_committed_and_goes_on_bitwise(runs: dict[tuple[str, str], Run], model: str, space: str) -> None:
    """N steps are k, a commit, and N - k in other processes; on one rank from the commit of two, to 1e-5."""
    run = runs[model, space]
    (commit,) = Checkpoints(run.commits, 1).store.commits()
    newest = Checkpoints(run.commits, 1).newest()
    assert newest is not None
    assert newest.progress.step == CUT, commit
    ended, expected = whole(run.resumed), whole(run.two)
    assert ended.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(ended[name], value), name
    told = run.two[0].reports[CUT:]
    assert len(run.resumed[0].reports) == len(told) == STEPS - CUT
    for one, other in zip(run.resumed[0].reports, told, strict=True):
        assert_same_report(one, other, bitwise=True)
        assert one.penalty == other.penalty
    if run.resumed_on_one:
        assert_close(whole(run.resumed_on_one), expected)


@pytest.mark.parametrize("model", MODELS)
def test_the_spaces_are_three_losses_and_three_models(runs: dict[tuple[str, str], Run], model: str) -> None:
    """At the first step the weights are the same, and a root knows one space alone."""
    first = [runs[model, space].one[0].reports[0].losses for space in SPACES]
    ended = [whole(runs[model, space].one) for space in SPACES]
    for one, other in itertools.combinations(first, 2):
        assert one["click"] == other["click"]
        assert all(one[task] != other[task] for task in ("fav", "cart", "order"))
    for a, b in itertools.combinations(ended, 2):
        outputs = [f"model/dense.towers.outputs.{task}.weight" for task in range(1, len(TASKS))]
        assert not any(torch.equal(a[name], b[name]) for name in outputs)


def test_the_architectures_are_other_models(runs: dict[tuple[str, str], Run]) -> None:
    for one, other in itertools.combinations(MODELS, 2):
        a, b = (runs[name, "entire"].one[0].reports[-1].losses for name in (one, other))
        assert a != b, (one, other)
