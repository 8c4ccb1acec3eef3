"""One training step: TorchRec's pipeline over the sharded model, the loss, the optimizers."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from pipeline.batch import Batch
from pipeline.loss import LossSums, conditional_loss, task_weights
from pipeline.train.budget import Budget
from pipeline.train.dist import Ranks
from pipeline.train.optim import Optimizers
from schemas.job import JobConfig


@dataclasses.dataclass(frozen=True)
class StepOutput:
    """What a step leaves for metrics and progress."""

    logits_BT: Tensor
    batch: Batch
    sums: LossSums
    stop: str | None
    """Why all ranks stop after this step, None to go on: `Stop.agreed`."""


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
    ) -> None:
        self._budget = budget
        self._model, self._optimizers, self._job, self._ranks, self._steps = model, optimizers, job, ranks, steps
        self._step = 0
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

    def _forward(self, batch: Batch | None) -> tuple[Tensor, StepOutput]:
        assert batch is not None
        logits_BT = self._model(batch)
        weights = task_weights(self._job.tasks, self._step, batch.epoch)
        stop, budget = self._ranks.stop, self._budget
        news = budget.news(budget.training, batch.left_out) if budget else []
        loss, sums = conditional_loss(
            logits_BT,
            batch.labels_BT,
            batch.space_BT,
            weights,
            [task.name for task in self._job.tasks],
            [*stop.signals(), float(len(news))],
        )
        *stops, told = sums.signals
        if budget and told:
            budget.agree(budget.training, news)  # before backward: over budget nothing is trained
        return loss, StepOutput(logits_BT.detach(), batch, sums, stop.agreed(stops))
