"""Budgets and the quarantine log on real ranks: what is trained, counted and written, whole or in two attempts."""

import contextlib
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.data.files import plan
from pipeline.train.budget import Budget
from pipeline.train.checkpoint import Checkpoints
from pipeline.train.evaluate import evaluate
from pipeline.train.loop import Training
from pipeline.train.run import START
from pipeline.train.step import TrainStep
from schemas.errors import InputError
from schemas.load import parse_job
from tests.distributed.ranks import run_ranks
from tests.distributed.training import CutOff, Stopped, build
from tests.logs import DAYS, put, set_key, small_config, write_log
from tests.unit.test_quarantine import flip_a_page

ROWS, GROUP = 96, 24
BAD = {"corrupt": "quarantine", "labels": "quarantine", "values": "quarantine"}
PLANTED = {5, 40, 41, ROWS + 5, ROWS + 40, ROWS + 41} | set(range(ROWS + GROUP, ROWS + 2 * GROUP))
"""Three bad rows a day, and the second row group of the second day, with two of them."""


@dataclasses.dataclass
class Ran:
    """What a rank saw."""

    row_ids: list[list[int]]
    lines: list[str]
    totals: tuple[int, int]
    told: list[tuple[int, int]]
    error: str = ""
    finite: bool = True


def bad_log(root: Path, **more: Any) -> Path:
    columns: Any = {
        "age": lambda c: put(c, 5, math.nan),
        "cart": lambda c: put(put(c, 40, 7), 41, 7),
    } | more
    paths = write_log(root, DAYS, ROWS, row_group_rows=GROUP, **columns)
    flip_a_page(paths[1], 1, "user_id")
    return root


def config_of(log: Path, out: Path, rows: int = 3, groups: int = 1, **more: Any) -> dict[str, Any]:
    config = small_config(log, out)
    set_key(config, "data.bad", BAD | {"rows_per_day": rows, "row_groups_per_day": groups})
    for key, value in more.items():
        set_key(config, key.replace("__", "."), value)
    return config


def attempt(rank: int, world: int, config: dict[str, Any], folder: str, stop: int) -> Ran:
    """Goes on from the folder's newest checkpoint, or starts; cut off after step `stop`; the rows of each step."""
    job, model, optimizers, ranks = build(config, rank, world)
    checkpoints = CutOff(folder, stop, False)
    manifest = plan(job, job.data.train)
    budget = Budget(job, manifest)
    training = Training(job, manifest, model, optimizers, ranks, checkpoints, config, budget)
    commit, start = checkpoints.newest(), START
    if commit is not None:
        training.load(commit)
        start = commit.progress
    ran = Ran([], [], (0, 0), [])
    window = training._window
    add = window.add
    window.add = lambda output: (ran.row_ids.append(output.batch.row_ids_B.tolist()), add(output))[1]  # type: ignore
    with contextlib.suppress(Stopped):
        try:
            training.run(start, lambda report: ran.told.append(report.left_out))
        except InputError as error:
            ran.error = str(error)
    ran.lines, ran.totals = budget.content().decode().splitlines(), budget.training.totals
    ran.finite = all(
        bool(torch.isfinite(s.tensor).all())
        for value in model.state_dict().values()
        if hasattr(value, "local_shards")
        for s in value.local_shards()
    )
    return ran


def rows_of(runs: list[Ran]) -> list[list[int]]:
    """The rows of each step, over all ranks."""
    return [sorted(i for part in parts for i in part) for parts in zip(*(run.row_ids for run in runs), strict=True)]


def run(world: int, config: dict[str, Any], folder: Path, stop: int = 0) -> list[Ran]:
    return run_ranks(world, attempt, world, config, str(folder), stop)


def test_a_resumed_run_leaves_out_counts_and_writes_what_a_whole_one_does(tmp_path: Path) -> None:
    log = bad_log(tmp_path / "log")
    whole = run(1, config_of(log, tmp_path / "whole"), tmp_path / "a")
    steps = rows_of(whole)
    assert sorted(i for step in steps for i in step) == [i for i in range(2 * ROWS) if i not in PLANTED]
    assert whole[0].totals == (4, 1)
    assert whole[0].told[-1] == (4, 1)
    assert whole[0].finite
    assert (tmp_path / "whole/quarantine.jsonl").read_text().splitlines() == whole[0].lines
    assert len(whole[0].lines) == 4  # rows 40 and 41 of the first day are one piece, of the second their group is lost
    first = run(2, config_of(log, tmp_path / "parts", train__checkpoint_every=3), tmp_path / "b", stop=3)
    written = (tmp_path / "parts/quarantine.jsonl").read_text().splitlines()
    assert written == first[0].lines == first[1].lines
    commit = Checkpoints(str(tmp_path / "b"), 1).newest()
    assert commit is not None
    assert commit.read("quarantine.jsonl").decode().splitlines() == written
    assert 0 < len(written) < len(whole[0].lines)
    rest = run(3, config_of(log, tmp_path / "parts"), tmp_path / "b")
    assert rows_of(first) + rows_of(rest) == steps
    assert [(ran.totals, ran.lines) for ran in rest] == [(whole[0].totals, whole[0].lines)] * 3


def test_a_second_epoch_counts_nothing_twice(tmp_path: Path) -> None:
    log = bad_log(tmp_path / "log")
    (ran,) = run(1, config_of(log, tmp_path / "out", train__epochs=2), tmp_path / "c")
    assert ran.error == ""
    assert ran.totals == (4, 1)
    assert len(rows_of([ran])) == 12


@pytest.mark.parametrize(
    ("rows", "groups", "said"),
    [
        (2, 1, "3 rows under quarantine, the budget is 2"),
        (3, 1, "row groups under quarantine, the budget is 1"),
    ],
)
def test_one_more_than_the_budget_ends_the_run_on_all_ranks_in_one_step(
    tmp_path: Path, rows: int, groups: int, said: str
) -> None:
    log = bad_log(tmp_path / "log")
    if rows == 3:  # a second row group of the second day
        flip_a_page(str(log / f"dt={DAYS[1]}/part-00000.parquet"), 2, "age")
    runs = run(2, config_of(log, tmp_path / "out", rows, groups), tmp_path / "c")
    assert runs[0].error == runs[1].error
    assert said in runs[0].error
    assert len(runs[0].row_ids) == len(runs[1].row_ids) < 6
    assert runs[0].lines == runs[1].lines == (tmp_path / "out/quarantine.jsonl").read_text().splitlines()
    (alone,) = run(1, config_of(log, tmp_path / "out1", rows, groups), tmp_path / "d")
    assert (alone.error.replace("out1", "out"), alone.lines) == (runs[0].error, runs[0].lines)
    assert rows_of(runs) == rows_of([alone])


def nothing_left(rank: int, world: int, config: dict[str, Any]) -> list[Any]:
    """Weights before and after a step all of whose rows are bad, on all ranks; the loss and the gradient's size."""
    job, model, optimizers, ranks = build(config, rank, world)
    manifest = plan(job, job.data.train)
    from pipeline.train.loop import training_batches

    batches = training_batches(job, manifest, ranks, START)
    step = TrainStep(model, optimizers, job, ranks, 6, Budget(job, manifest))
    model.train()
    before = {k: v.local_shards()[0].tensor.clone() for k, v in tables(model)}
    outputs = [step(batches, 0)]
    after = {k: v.local_shards()[0].tensor.clone() for k, v in tables(model)}
    batches.close()
    losses = outputs[0].sums.mean_T.tolist()
    same = all(torch.equal(before[k], after[k]) for k in before)
    dense = [p for p in model.parameters() if p.requires_grad and p.grad is not None]
    return [outputs[0].batch.rows, losses, same, all(bool(torch.isfinite(p).all()) for p in dense)]


def tables(model: Any) -> list[tuple[str, Any]]:
    return [(k, v) for k, v in model.state_dict().items() if hasattr(v, "local_shards") and v.local_shards()]


@pytest.mark.parametrize("world", [1, 2])
def test_a_step_that_loses_all_its_rows_trains_nothing(tmp_path: Path, world: int) -> None:
    write_log(tmp_path / "log", DAYS[:1], ROWS, row_group_rows=GROUP, age=lambda c: [math.nan] * ROWS)
    config = config_of(tmp_path / "log", tmp_path / "out", rows=ROWS)
    set_key(config, "data.train.to", DAYS[0])
    set_key(config, "data.eval", ...)
    for rows, losses, same, finite in run_ranks(world, nothing_left, world, config):
        assert (rows, losses, same, finite) == (0, [0.0] * 4, True, True)


def evaluated(rank: int, world: int, config: dict[str, Any]) -> tuple[int, tuple[int, int], str]:
    job, model, _, ranks = build(config, rank, world)
    manifest = plan(job, job.data.eval)
    budget = Budget(job, manifest, manifest)
    try:
        metrics = evaluate(job, manifest, model, ranks, lambda *_: None, budget)
    except InputError as error:
        return -1, budget.evaluation.totals, str(error)
    return metrics.own["click"].rows if metrics else 0, budget.evaluation.totals, ""


def test_evaluation_leaves_out_and_counts_on_its_own(tmp_path: Path) -> None:
    log = bad_log(tmp_path / "log")
    for world in (1, 2):
        results = run_ranks(world, evaluated, world, config_of(log, tmp_path / "out"))
        assert results == [(ROWS - 3, (3, 0), "")] + [(0, (3, 0), "")] * (world - 1)
    over = run_ranks(2, evaluated, 2, config_of(log, tmp_path / "out", rows=2))
    assert over[0] == over[1]
    assert f"day {DAYS[2]}: 3 rows under quarantine, the budget is 2" in over[0][2]


def test_a_lower_budget_or_another_policy_does_not_make_it_another_job(tmp_path: Path) -> None:
    from schemas.identity import changes, numeric

    job = parse_job(config_of(tmp_path, tmp_path), "a").model_dump(mode="json", by_alias=True)
    other = parse_job(config_of(tmp_path, tmp_path, rows=9), "b").model_dump(mode="json", by_alias=True)
    assert changes(numeric(job), numeric(other)) == []
