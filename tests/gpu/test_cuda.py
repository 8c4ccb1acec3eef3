"""What changes on a GPU: nccl, CUDA kernels, bf16 autocast, torch.compile. Skipped by name where there is none."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.files import plan
from pipeline.embedding.sharding import shard
from pipeline.model import RankingModel
from pipeline.train.checkpoint import Checkpoints
from pipeline.train.dist import Ranks, process_group, quiet_libraries
from pipeline.train.evaluate import evaluate
from pipeline.train.loop import Training, total_steps, training_batches
from pipeline.train.optim import Optimizers
from pipeline.train.restore import load_training
from pipeline.train.run import START
from pipeline.train.step import TrainStep
from pipeline.train.window import Report
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.golden.test_golden_losses import golden_config, recorded_losses
from tests.logs import DAYS, set_key, small_job, write_log

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture(scope="module")
def ranks() -> Any:
    for name in ("RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)
    quiet_libraries()
    with process_group(60) as ranks:
        yield ranks


def on_device(job: JobConfig, device: torch.device) -> list[list[float]]:
    """Each step's losses of the job, on a group of one."""
    ranks = Ranks(0, 1, device)
    model = RankingModel(job)
    sharded = shard(model, job, device)
    if job.train.compile:
        model.dense.compile(dynamic=True)
    manifest = plan(job, job.data.train)
    step = TrainStep(sharded, Optimizers(sharded, job), job, ranks, total_steps(job, manifest.rows))
    batches = training_batches(job, manifest, ranks, START)
    sharded.train()
    return [step(batches, n).sums.mean_T.tolist() for n in range(total_steps(job, manifest.rows))]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = tmp_path_factory.mktemp("gpu") / "log"
    write_log(log, DAYS, 300, seed=9)
    return log


def job(log: Path, **changes: Any) -> JobConfig:
    return small_job(log, log / "out", {key.replace("__", "."): value for key, value in changes.items()})


@pytest.mark.parametrize("changes", [{}, {"train.compile": True}])
def test_the_gpu_trains_what_the_recorded_cpu_losses_say(ranks: Ranks, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = golden_config("ple", tmp_path)
    for key, value in changes.items():
        set_key(config, key, value)
    found = on_device(parse_job(config, "golden"), ranks.device)
    np.testing.assert_allclose(found, recorded_losses("ple"), rtol=2e-3)


def test_bf16_stays_near_fp32(ranks: Ranks, log: Path) -> None:
    fp32, bf16 = (on_device(job(log, train__precision=precision), ranks.device) for precision in ("fp32", "bf16"))
    np.testing.assert_allclose(bf16, fp32, rtol=0.05)
    assert bf16 != fp32, "autocast was on"


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "column_wise", "data_parallel"])
def test_plans_agree(ranks: Ranks, log: Path, sharding: str) -> None:
    tables = {f"tables__{t}__sharding": sharding for t in ("user", "item", "session", "city", "price_bucket")}
    adagrad = {"embedding_optimizer": {"name": "adagrad"}}
    np.testing.assert_allclose(
        on_device(job(log, **tables, **adagrad), ranks.device), on_device(job(log, **adagrad), ranks.device), rtol=1e-4
    )


def test_adam_trains(ranks: Ranks, log: Path) -> None:
    losses = on_device(job(log, embedding_optimizer={"name": "adam", "lr": 0.01}), ranks.device)
    assert losses[-1][0] < losses[0][0]


def test_the_loop_reports_saves_and_resumes(ranks: Ranks, log: Path, tmp_path: Path) -> None:
    small = job(log, train__checkpoint_every=5)
    manifest = plan(small, small.data.train)
    sharded = shard(RankingModel(small), small, ranks.device)
    optimizers = Optimizers(sharded, small)
    checkpoints = Checkpoints(tmp_path, 2)
    reports: list[Report] = []
    training = Training(small, manifest, sharded, optimizers, ranks, checkpoints, {})
    end = training.run(START, reports.append)
    assert reports[-1].progress == end
    commit = checkpoints.newest()
    assert commit is not None
    assert commit.progress == end
    assert small.data.eval is not None
    evaluation = plan(small, small.data.eval)
    before = evaluate(small, evaluation, sharded, ranks, lambda *_: None)
    again = shard(RankingModel(small), small, ranks.device)
    load_training(commit, again, Optimizers(again, small).all)
    assert evaluate(small, evaluation, again, ranks, lambda *_: None) == before
