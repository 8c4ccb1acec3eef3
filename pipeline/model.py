"""The ranking model: sharded embeddings -> architecture -> towers, and nothing else.

Shapes: B rows of this rank, P >= B padded rows, F dense features, D input width, T tasks.
"""

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedTensor

from pipeline.archs import ARCHS
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
