"""The ranking model: sharded embeddings -> architecture -> towers, and nothing else.

Shapes: B rows of this rank, P >= B padded rows, F dense features, D input width, T tasks.
"""

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedTensor

from pipeline.archs import ARCHS
from pipeline.axes import Axes, Axis, under
from pipeline.batch import Batch
from pipeline.embedding.tables import embedding_tables, pooled_width
from pipeline.heads import Towers
from schemas.job import JobConfig


class DenseNetwork(nn.Module):
    """Pooled embeddings and dense features -> a logit a task.

    It contains no sharded module, so TorchRec's pipeline takes it as a leaf and does not trace into it.
    """

    def __init__(self, job: JobConfig) -> None:
        super().__init__()
        self._keys = [f.name for f in job.embedded]
        self._tasks = [task.name for task in job.tasks]
        places = [(f.name, place) for f in job.embedded for place in range(job.tables[f.table_name].dim)]
        self._inputs = Axis.of([*places, *((f.name, 0) for f in job.dense)], inputs=True)
        self._autocast = job.train.precision == "bf16"
        settings = job.model.model_dump(exclude={"arch", "tower_layers"}) | {"task_experts": job.task_experts()}
        width = pooled_width(job) + len(job.dense)
        arch = ARCHS[job.model.arch](in_dim=width, tasks=len(job.tasks), **settings)
        self.arch = arch
        self.towers = Towers(
            in_dim=arch.out_dim,
            tasks=len(job.tasks),
            layer_sizes=job.model.tower_layers,
            activation=job.model.activation,
            norm=job.model.norm,
            dropout=job.model.dropout,
        )

    def forward(self, pooled: KeyedTensor, dense_BF: Tensor, rows: int) -> Tensor:
        """logits_BT in float32 from embeddings pooled over P rows and dense features of B."""
        # by key: the order of the pooled columns changes with the sharding plan. And only now, after the exchange
        # that needed it, the padding goes: nothing below sees a row that is not in the log.
        by_key = pooled.to_dict()
        x_BD = torch.cat([*(by_key[key][:rows] for key in self._keys), dense_BF], dim=1)
        with torch.autocast(x_BD.device.type, torch.bfloat16, enabled=self._autocast):
            logits_BT = self.towers(self.arch(x_BD))
        return logits_BT.float()

    def axes(self) -> Axes:
        """Every tensor of the network by canonical name; the inputs are labelled by feature and place in it."""
        return under("arch", self.arch.axes(self._inputs, self._tasks)) | under("towers", self.towers.axes(self._tasks))


class RankingModel(nn.Module):
    """Batch -> logits_BT, each the log-odds of its task's label given that the row lies in the task's space."""

    def __init__(self, job: JobConfig) -> None:
        super().__init__()
        self.embeddings = embedding_tables(job)
        torch.manual_seed(job.seed)
        self.dense = DenseNetwork(job)

    def forward(self, batch: Batch) -> Tensor:
        """The batch's logits_BT."""
        return self.dense(self.embeddings(batch.sparse), batch.dense_BF, batch.rows)
