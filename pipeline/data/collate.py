"""Stage 4: the lanes' shares of a step, as one encoded Arrow batch -> Batch. No Python per row."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from pipeline.batch import Batch
from pipeline.data.encode import ROW_ID, label_key, weight_key
from schemas.features import EmbeddedFeature, IdListFeature
from schemas.job import JobConfig


class Collator:
    """Turns encoded Arrow batches into Batches of the job's features and tasks."""

    def __init__(self, job: JobConfig) -> None:
        self._embedded = job.embedded
        self._dense = [f.name for f in job.dense]
        self._labels = [label_key(task.name) for task in job.tasks]
        self._parents = job.parents
        self._rows = [job.tables[f.table_name].rows for f in job.embedded]
        self._weighted = job.weighted_ids
        self._promote = job.data.funnel == "promote"

    def __call__(self, batch: pa.RecordBatch, padded: int, epoch: int, end_row: int) -> Batch:
        """The Batch of the encoded rows, its sparse part padded to `padded` rows."""
        rows = batch.num_rows
        labels_BT = self._stack(batch, self._labels)
        broken_T = self._funnel(labels_BT)
        values, lengths, weights = [], np.zeros((len(self._embedded), padded), np.int32), []
        for k, feature in enumerate(self._embedded):
            value_M, length_B, weight_M = self._sparse(feature, batch)
            values.append(value_M)
            lengths[k, :rows] = length_B
            weights.append(weight_M)
        return Batch(
            dense_BF=self._stack(batch, self._dense),
            sparse=KeyedJaggedTensor(
                keys=[f.name for f in self._embedded],
                values=torch.from_numpy(np.concatenate(values)),
                lengths=torch.from_numpy(lengths.reshape(-1)),
                weights=torch.from_numpy(np.concatenate(weights)) if self._weighted else None,
                stride=padded,
            ),
            labels_BT=labels_BT,
            space_BT=self._space(labels_BT),
            broken_T=broken_T,
            row_ids_B=torch.from_numpy(_numpy(batch.column(ROW_ID)).copy()),
            # the encoder put out-of-vocabulary ids on row `rows`, and nothing else lies there
            unknown_K=torch.tensor([np.count_nonzero(v == rows) for v, rows in zip(values, self._rows, strict=True)]),
            ids_K=torch.tensor([len(v) for v in values]),
            rows=rows,
            epoch=epoch,
            end_row=end_row,
        )

    def _stack(self, batch: pa.RecordBatch, names: list[str]) -> Tensor:
        out = np.empty((batch.num_rows, len(names)), np.float32)
        for i, name in enumerate(names):
            out[:, i] = _numpy(batch.column(name))
        return torch.from_numpy(out)

    def _sparse(
        self, feature: EmbeddedFeature, batch: pa.RecordBatch
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32] | int, npt.NDArray[np.float32]]:
        """Flat ids, ids a row, and their weights (empty if the job has none)."""
        column = batch.column(feature.name)
        if not isinstance(feature, IdListFeature):
            return _numpy(column), 1, np.ones(len(column) if self._weighted else 0, np.float32)
        value_M = _numpy(column.flatten())
        length_B = np.diff(_numpy(column.offsets))
        if feature.weights:
            weight_M = _numpy(batch.column(weight_key(feature.name)).flatten())
        elif feature.pooling == "mean":
            weight_M = np.repeat(1.0 / np.maximum(length_B, 1).astype(np.float32), length_B)
        else:
            weight_M = np.ones(len(value_M) if self._weighted else 0, np.float32)
        return value_M, length_B, weight_M

    def _funnel(self, labels_BT: Tensor) -> Tensor:
        """Counts each task's positive labels under a negative parent; policy `promote` sets the parent to 1.

        Here and not in the encoder, which sees some rows twice (a row group shared by two lanes).
        """
        broken_T = torch.zeros(len(self._parents), dtype=torch.int64)
        # children before parents, so that a promotion climbs the whole chain
        for child in sorted(range(len(self._parents)), key=self._depth, reverse=True):
            parent = self._parents[child]
            if parent is not None:
                broken_B = labels_BT[:, child] > labels_BT[:, parent]
                broken_T[child] = broken_B.sum()
                if self._promote:
                    labels_BT[:, parent] += broken_B
        return broken_T

    def _depth(self, task: int) -> int:
        parent = self._parents[task]
        return 0 if parent is None else 1 + self._depth(parent)

    def _space(self, labels_BT: Tensor) -> Tensor:
        """1 where every ancestor's label is 1."""
        columns: dict[int, Tensor] = {}

        def space(task: int) -> Tensor:
            if task not in columns:
                parent = self._parents[task]
                everywhere = torch.ones(len(labels_BT))
                columns[task] = everywhere if parent is None else space(parent) * labels_BT[:, parent]
            return columns[task]

        return torch.stack([space(task) for task in range(len(self._parents))], dim=1)


def _numpy(column: pa.Array) -> npt.NDArray:
    """The column's memory itself; a missed null would raise here."""
    return column.to_numpy(zero_copy_only=True)
