"""An evaluation: exact metrics of every good row of some days."""

import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torchrec.distributed.model_parallel import DistributedModelParallel

from pipeline.data.files import Manifest
from pipeline.data.holdout import evaluation_part
from pipeline.data.loader import Loader
from pipeline.data.quarantine import Piece
from pipeline.data.source import epoch_source
from pipeline.metrics import Metrics
from pipeline.train.budget import Budget
from pipeline.train.dist import Ranks
from pipeline.train.lane_chunks import Evaluated, LaneChunks
from pipeline.train.stop import Stop, Stopped, farewell
from pipeline.train.window import metric_window
from schemas.job import JobConfig

STOP_EVERY = 8
"""Batches of an evaluation between looks at whether to stop: a collective, and a wait for the device, each."""


@torch.no_grad()
def evaluate(
    job: JobConfig,
    manifest: Manifest,
    model: DistributedModelParallel,
    ranks: Ranks,
    tell: Callable[[int, float], None],
    budget: Budget | None = None,
    write: Callable[[Evaluated], None] | None = None,
) -> Metrics | None:
    """Exact metrics of every good row of the manifest: on rank 0, None elsewhere. `tell` gets rows done and rows/s.

    Under `data.holdout`, of the held-out rows alone, if so declared. `write` gets what the metrics are of. On a CPU
    logits and metrics are the same bits at any number of ranks.

    Raises on every rank Stopped, once any of them was told to stop, and InputError over the budget of bad data.
    """
    ranks.stop.defer()
    budget = budget or Budget(job, manifest, manifest)
    left_out: list[Piece] = []
    window = metric_window(job, ranks, ordered=True)

    def take(rows: Evaluated) -> None:
        window.update(rows.logits_BT, rows.labels_BT, rows.space_BT, rows.exposed_BT, rows.row_ids_B)
        if write is not None:
            write(rows)

    model.eval()
    chunks = LaneChunks(model.module, take)
    source = epoch_source(job, manifest, epoch=0, shuffle=False, part=evaluation_part(job.data))
    began = told = time.perf_counter()
    with Loader(job, source, ranks.rank, ranks.world) as loader:
        for number, batch in enumerate(ranks.stop.waited(iter(loader))):
            if number % STOP_EVERY == 0:
                _look_round(ranks, budget, left_out)
                left_out = []
            left_out += batch.left_out
            batch = batch.to(ranks.device)
            chunks.add(batch)
            if ranks.first and time.perf_counter() - told > 10:
                told = time.perf_counter()
                tell(batch.end_row, batch.end_row / (told - began))
    chunks.finish()
    _look_round(ranks, budget, left_out)
    return window.compute()


def _look_round(ranks: Ranks, budget: Budget, left_out: list[Piece]) -> None:
    """Raises on all ranks alike where one was told to stop, or a day is over its budget; every rank must call it."""
    news = budget.news(budget.evaluation, left_out)
    counts = torch.tensor([*ranks.stop.signals(), float(len(news))], device=ranks.device)
    dist.all_reduce(counts)
    *stops, told = counts.tolist()
    if told:
        budget.agree(budget.evaluation, news)
    if why := Stop.agreed(stops):
        raise Stopped(why, farewell(why, "while evaluating"))
