"""Trains a job on the ranks of a test and brings back everything that two runs could differ in, whole and by name."""

import contextlib
import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from pipeline.data.files import plan
from pipeline.data.history import attach
from pipeline.data.loader import Loader
from pipeline.data.manifest import Manifest
from pipeline.data.source import epoch_source
from pipeline.embedding.sharding import shard
from pipeline.metrics import Metrics
from pipeline.model import RankingModel
from pipeline.train.checkpoint import Checkpoints
from pipeline.train.dist import Ranks, quiet_libraries
from pipeline.train.evaluate import evaluate
from pipeline.train.loop import Training, total_steps, training_batches
from pipeline.train.optim import Optimizers
from pipeline.train.restore import load_model
from pipeline.train.run import START
from pipeline.train.step import TrainStep
from pipeline.train.window import Report
from schemas.load import parse_job


@dataclasses.dataclass
class Shard:
    """A piece of a tensor: where it begins, and its values."""

    offsets: tuple[int, ...]
    size: tuple[int, ...]
    values: Tensor


@dataclasses.dataclass
class RankState:
    """What one rank knows at the end."""

    losses: list[list[float]]
    """Each step's loss of each task, over the global batch."""
    row_ids: list[list[int]]
    """Each step's rows of this rank."""
    shards: dict[str, list[Shard]]
    """Model and optimizer state by name."""
    reports: list[Report] = dataclasses.field(default_factory=list)
    """On rank 0, what each progress line told."""


def build(config: dict[str, Any], rank: int, world: int) -> tuple[Any, Any, Optimizers, Ranks]:
    """The job, its sharded model and its optimizers on this rank."""
    quiet_libraries()
    job = parse_job(config, "test")
    ranks = Ranks(rank, world, torch.device("cpu"))
    model = shard(RankingModel(job), job, ranks.device)
    return job, model, Optimizers(model, job), ranks


def planned(job: Any) -> Manifest:
    """The training days, with the statistics of earlier days where the job needs them."""
    manifest = plan(job, job.data.train)
    attach(job, [(manifest, job.data.train)])
    return manifest


def train(rank: int, world: int, config: dict[str, Any]) -> RankState:
    """Trains the whole job on this rank."""
    return train_built(*build(config, rank, world))


def train_built(job: Any, model: Any, optimizers: Optimizers, ranks: Ranks) -> RankState:
    """Trains the whole job from the weights that the model has."""
    manifest = planned(job)
    steps = total_steps(job, manifest.rows)
    step = TrainStep(model, optimizers, job, ranks, steps)
    batches = training_batches(job, manifest, ranks, START)
    losses, row_ids = [], []
    model.train()
    for number in range(steps):
        output = step(batches, number)
        losses.append(output.sums.mean_T.tolist())
        row_ids.append(output.batch.row_ids_B.tolist())
    batches.close()
    step.detach()
    return RankState(losses, row_ids, _shards({"model": model.state_dict(), "optimizer": optimizers.all.state_dict()}))


class Stopped(Exception):  # noqa: N818 - an event of the test, not an error
    """The run was cut off right after a commit."""


class CutOff(Checkpoints):
    """Checkpoints that end the run at a step, on all ranks."""

    def __init__(self, folder: str, stop: int, background: bool) -> None:
        super().__init__(folder, 1, 60, background)
        self._stop = stop

    def save(self, model: Any, optimizer: Any, progress: Any, *rest: Any) -> None:
        super().save(model, optimizer, progress, *rest)
        if progress.step == self._stop:
            self.wait()
            raise Stopped


class OnlyAt(Checkpoints):
    """Checkpoints of one step alone: training goes on, and its end is not committed."""

    def __init__(self, folder: str, step: int) -> None:
        super().__init__(folder, 1)
        self._step = step

    def save(self, model: Any, optimizer: Any, progress: Any, *rest: Any) -> None:
        if progress.step == self._step:
            super().save(model, optimizer, progress, *rest)


def train_part(rank: int, world: int, config: dict[str, Any], folder: str, stop: int) -> RankState:
    """Goes on from the folder's newest checkpoint, or starts, through the real loop; cut off after step `stop`."""
    background = config["train"].get("async_checkpoint", False)
    return _train_through(rank, world, config, CutOff(folder, stop, background))


def train_saving(rank: int, world: int, config: dict[str, Any], folder: str, step: int) -> RankState:
    """The same to the end, with a commit after step `step` and no other."""
    return _train_through(rank, world, config, OnlyAt(folder, step))


def _train_through(rank: int, world: int, config: dict[str, Any], checkpoints: Checkpoints) -> RankState:
    job, model, optimizers, ranks = build(config, rank, world)
    training = Training(job, planned(job), model, optimizers, ranks, checkpoints, config)
    commit, start = checkpoints.newest(), START
    if commit is not None:
        training.load(commit)
        start = commit.progress
    reports: list[Report] = []
    with contextlib.suppress(Stopped):
        training.run(start, reports.append)
    tensors = {"model": model.state_dict(), "optimizer": optimizers.all.state_dict()}
    return RankState([], [], _shards(tensors), reports)


def save(rank: int, world: int, config: dict[str, Any], folder: str) -> None:
    """Trains the job and commits a checkpoint of its end."""
    job, model, optimizers, ranks = build(config, rank, world)
    manifest = plan(job, job.data.train)
    step = TrainStep(model, optimizers, job, ranks, total_steps(job, manifest.rows))
    batches = training_batches(job, manifest, ranks, START)
    for number in range(total_steps(job, manifest.rows)):
        step(batches, number)
    batches.close()
    Checkpoints(folder, 1).save(model, optimizers.all, dataclasses.replace(START, step=1), config, "none")


def predict(rank: int, world: int, configs: list[dict[str, Any]], folder: str) -> list[dict[int, list[float]]]:
    """Under each configuration's plan, the checkpoint's logits of this rank's evaluation rows, by row id."""
    out = []
    for config in configs:
        job, model, _, _ = build(config, rank, world)
        commit = Checkpoints(folder, 1).newest()
        assert commit is not None
        load_model(commit, model)
        out.append(eval_logits(job, model, rank, world))
    return out


def eval_logits(job: Any, model: Any, rank: int, world: int) -> dict[int, list[float]]:
    """The model's logits of this rank's evaluation rows, by row id."""
    model.eval()
    assert job.data.eval is not None
    source = epoch_source(job, plan(job, job.data.eval), epoch=0, shuffle=False)
    logits: dict[int, list[float]] = {}
    with Loader(job, source, rank, world) as loader, torch.no_grad():
        for batch in loader:
            logits |= dict(zip(batch.row_ids_B.tolist(), model(batch).tolist(), strict=True))
    return logits


def evaluation(rank: int, world: int, config: dict[str, Any], folder: str) -> Metrics | None:
    """The job's own evaluation of the checkpoint: on rank 0."""
    job, model, _, ranks = build(config, rank, world)
    commit = Checkpoints(folder, 1).newest()
    assert commit is not None
    load_model(commit, model)
    assert job.data.eval is not None
    return evaluate(job, plan(job, job.data.eval), model, ranks, lambda *_: None)


def _shards(state: Any, name: str = "") -> dict[str, list[Shard]]:
    """Every tensor of a nested state by dotted name, as the pieces this rank holds."""
    out: dict[str, list[Shard]] = {}
    if isinstance(state, dict):
        for key, value in state.items():
            out |= _shards(value, f"{name}/{key}" if name else str(key))
    elif isinstance(state, ShardedTensor):
        out[name] = [
            Shard(tuple(s.metadata.shard_offsets), tuple(state.size()), s.tensor.clone()) for s in state.local_shards()
        ]
    elif isinstance(state, Tensor):
        out[name] = [Shard((0,) * state.dim(), tuple(state.shape), state.detach().clone())]
    return out


def whole(states: list[RankState]) -> dict[str, Tensor]:
    """Every tensor put together from the pieces of all ranks."""
    out: dict[str, Tensor] = {}
    for state in states:
        for name, shards in state.shards.items():
            for piece in shards:
                if name not in out:
                    missing = float("nan") if piece.values.is_floating_point() else -1
                    out[name] = torch.full(piece.size, missing, dtype=piece.values.dtype)
                region = tuple(slice(o, o + n) for o, n in zip(piece.offsets, piece.values.shape, strict=True))
                out[name][region] = piece.values
    return out


def table_state(tensors: dict[str, Tensor], table: str) -> Tensor:
    """The optimizer's accumulated state of a table, one name for the fused and the replicated optimizer, flat."""
    names = [n for n in tensors if n.startswith("optimizer") and f"embedding_bags.table_{table}.weight" in n]
    found = [n for n in names if n.endswith((f"table_{table}.momentum1", "/sum"))]
    assert len(found) == 1, names
    return tensors[found[0]].flatten()
