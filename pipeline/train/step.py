"""One training step: TorchRec's pipeline over the sharded model, the loss, the optimizers."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from pipeline.batch import Batch
from pipeline.loss import LossSums, Objective, task_losses, task_weights
from pipeline.train.balancing import balancing
from pipeline.train.budget import Budget
from pipeline.train.dist import Ranks
from pipeline.train.optim import Optimizers
from pipeline.train.telemetry import Telemetry
from schemas.job import JobConfig


@dataclasses.dataclass(frozen=True)
class StepOutput:
    """What a step leaves for metrics and progress."""

    logits_BT: Tensor
    batch: Batch
    sums: LossSums
    stop: str | None
    """Why all ranks stop after this step, None to go on: `Stop.agreed`."""
    unread: int
    """Rows of the step, over all ranks, that are held out and were not trained on."""
    weights: list[float]
    """Of each task's loss, in what the shared dense parameters were trained on."""
    cosine: float | None = None
    """The least cosine between the gradients of two tasks, where balancing took them."""
    penalty: Tensor | None = None
    """What the weights added to the loss; None for an architecture that adds nothing."""
    telemetry: dict[str, float] | None = None
    """What a look at the step's rows told; None of a step that is not looked at."""


class TrainStep:
    """Trains on one batch after another; input exchange of the next overlaps the present one."""

    def __init__(
        self,
        model: DistributedModelParallel,
        optimizers: Optimizers,
        job: JobConfig,
        ranks: Ranks,
        steps: int,
        budget: Budget | None = None,
        weights_from: tuple[int, int] = (0, 0),
    ) -> None:
        """`weights_from`: steps and epochs before this run that t of the tasks' w0 gamma^t goes on from."""
        self._weights_from = weights_from
        self._budget = budget
        self._model, self._optimizers, self._job, self._ranks, self._steps = model, optimizers, job, ranks, steps
        self._step = 0
        self._objective = Objective(job)
        self._balancing = balancing(job, model.module.dense, self._objective.of_logits)
        self._telemetry = Telemetry(job, model.module.dense, self._objective, steps)
        self._pipeline = TrainPipelineSparseDist(
            model, optimizers.all, ranks.device, execute_all_batches=True, custom_model_fwd=self._forward
        )

    def __call__(self, batches: Iterator[Batch], step: int) -> StepOutput:
        """Trains step `step`, counted from 0, on the next of `batches`; StopIteration at their end."""
        self._step = step
        self._optimizers.set_dense_lr(step, self._steps)
        # of the step and the rank alone, so that a resumed run draws the same dropout
        torch.manual_seed((self._job.seed << 32) + (step << 12) + self._ranks.rank)
        return self._pipeline.progress(batches)

    def detach(self) -> None:
        """Gives the model its own forward back, for evaluation."""
        self._pipeline.detach()
        self._balancing.detach()

    def _forward(self, batch: Batch | None) -> tuple[Tensor, StepOutput]:
        assert batch is not None
        ranking = self._model.module
        ranking.watch = self._telemetry.due(self._step)
        logits_BT = self._model(batch)
        # before the loss is balanced, whose hooks on the parameters must not see it
        told = self._telemetry(self._telemetry.sample(ranking.watched, batch)) if ranking.watch else None
        ranking.watched = None
        stop, budget = self._ranks.stop, self._budget
        news = budget.news(budget.training, batch.left_out) if budget else []
        signals = [*stop.signals(), float(len(news)), float(batch.unread)]
        part_T, sums = task_losses(self._objective, logits_BT, batch.labels_BT, batch.trained_BT, signals)
        *stops, over, unread = sums.signals
        if budget and over:
            budget.agree(budget.training, news)  # before backward: over budget nothing is trained
        steps, epochs = self._weights_from
        weights = task_weights(self._job.tasks, steps + self._step, epochs + batch.epoch)
        penalty = self._model.module.dense.penalty()
        balanced = self._balancing(part_T, sums, weights, self._step, penalty)
        loss = balanced.loss
        if penalty is not None:
            loss = loss + penalty  # of the weights, equal on all ranks: averaged over them it is itself
        return loss, StepOutput(
            logits_BT.detach(),
            batch,
            sums,
            stop.agreed(stops),
            int(unread),
            balanced.weights,
            balanced.cosine,
            None if penalty is None else penalty.detach(),
            told,
        )
