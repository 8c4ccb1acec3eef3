"""Stage 5: the lanes' shares of a step, joined -> Batch. No Python per row."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from pipeline.batch import Batch
from pipeline.data.encode import ROW_ID, label_key, weight_key
from pipeline.data.rows import Rows
from schemas.features import EmbeddedFeature, IdListFeature
from schemas.job import JobConfig

Int64 = npt.NDArray[np.int64]
Labels = npt.NDArray[np.int8]


class Collator:
    """Turns encoded rows into Batches of the job's features and tasks."""

    def __init__(self, job: JobConfig) -> None:
        self._embedded = job.embedded
        self._dense = [f.name for f in job.dense]
        self._labels = [label_key(task.name) for task in job.tasks]
        self._parents = job.parents
        self._parents_first = sorted(range(len(job.tasks)), key=self._depth)
        self._rows = [job.tables[f.table_name].rows for f in job.embedded]
        self._weighted = job.weighted_ids
        self._promote = job.data.funnel == "promote"

    def __call__(self, rows: Rows, padded: int, epoch: int, end_row: int) -> Batch:
        """The Batch of the encoded rows, its sparse part padded to `padded` rows."""
        label_TB = np.stack([rows.column(name) for name in self._labels])
        broken_T = self._funnel(label_TB)
        ids = [self._ids(feature, rows) for feature in self._embedded]
        dense_FB = [rows.column(name) for name in self._dense]
        return Batch(
            dense_BF=_rows_first(np.stack(dense_FB) if dense_FB else np.empty((0, rows.num_rows))),
            sparse=KeyedJaggedTensor(
                keys=[f.name for f in self._embedded],
                values=torch.from_numpy(np.concatenate(ids)),
                lengths=torch.from_numpy(self._lengths(rows, padded)),
                weights=torch.from_numpy(self._weights(rows, ids)) if self._weighted else None,
                stride=padded,
            ),
            labels_BT=_rows_first(label_TB),
            space_BT=_rows_first(self._space(label_TB)),
            broken_T=torch.tensor(broken_T),
            row_ids_B=torch.from_numpy(rows.column(ROW_ID).copy()),
            # the encoder put out-of-vocabulary ids on row `rows`, and nothing else lies there
            unknown_K=torch.tensor([np.count_nonzero(v == last) for v, last in zip(ids, self._rows, strict=True)]),
            ids_K=torch.tensor([len(v) for v in ids]),
            rows=rows.num_rows,
            epoch=epoch,
            end_row=end_row,
        )

    def _ids(self, feature: EmbeddedFeature, rows: Rows) -> Int64:
        """The feature's ids, end to end."""
        if isinstance(feature, IdListFeature):
            return rows.elements(feature.name, feature.name)
        return rows.column(feature.name)

    def _lengths(self, rows: Rows, padded: int) -> npt.NDArray[np.int32]:
        """Ids a row, feature after feature; 0 in the padding."""
        length_KP = np.zeros((len(self._embedded), padded), np.int32)
        for length_P, feature in zip(length_KP, self._embedded, strict=True):
            one_each = not isinstance(feature, IdListFeature)
            length_P[: rows.num_rows] = 1 if one_each else np.diff(rows.offsets[feature.name])
        return length_KP.reshape(-1)

    def _weights(self, rows: Rows, ids: list[Int64]) -> npt.NDArray[np.float32]:
        """A weight an id, in the order of the ids."""
        weight_M = np.ones(sum(map(len, ids)), np.float32)
        end = 0
        for feature, id_M in zip(self._embedded, ids, strict=True):
            begin, end = end, end + len(id_M)
            if isinstance(feature, IdListFeature) and feature.weights:
                weight_M[begin:end] = rows.elements(feature.name, weight_key(feature.name))
            elif isinstance(feature, IdListFeature) and feature.pooling == "mean":
                length_B = np.diff(rows.offsets[feature.name])
                weight_M[begin:end] = np.repeat(1.0 / np.maximum(length_B, 1).astype(np.float32), length_B)
        return weight_M

    def _funnel(self, label_TB: Labels) -> list[int]:
        """Counts each task's positive labels under a negative parent; policy `promote` sets the parent to 1.

        Here and not in the encoder, which runs ahead of the training and decodes a block anew on resume.
        """
        broken_T = [0] * len(self._parents)
        # children before parents, so that a promotion climbs the whole chain
        for child in reversed(self._parents_first):
            parent = self._parents[child]
            if parent is not None:
                broken_T[child] = int(np.count_nonzero(label_TB[child] > label_TB[parent]))
                if self._promote:
                    label_TB[parent] |= label_TB[child]
        return broken_T

    def _depth(self, task: int) -> int:
        parent = self._parents[task]
        return 0 if parent is None else 1 + self._depth(parent)

    def _space(self, label_TB: Labels) -> Labels:
        """1 where every ancestor's label is 1."""
        space_TB = np.ones_like(label_TB)
        for task in self._parents_first:
            parent = self._parents[task]
            if parent is not None:
                np.multiply(space_TB[parent], label_TB[parent], out=space_TB[task])
        return space_TB


def _rows_first(x_XB: npt.NDArray) -> Tensor:
    """The transpose in float32, rows lying one after another."""
    return torch.from_numpy(np.ascontiguousarray(x_XB.T, np.float32))
