"""Stage 5: the lanes' shares of a step -> Batch. No Python per row.

The batch's keys are the features of one id, then the lists: the ids of the first lie in one matrix, [I, B], into which
each lane's share is copied whole. The model takes embeddings by name. Counts follow the order of `job.embedded`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from pipeline.batch import Batch
from pipeline.data.rows import Float32, Int8, Int32, Int64, Layout, Part
from pipeline.data.spaces import Spaces
from schemas.features import ListFeature
from schemas.job import JobConfig


class Collator:
    """Joins encoded rows into Batches of the job's features and tasks."""

    def __init__(self, job: JobConfig) -> None:
        self._layout = Layout(job)
        self._lists = {f.name: f for f in job.features if isinstance(f, ListFeature)}
        self.keys = [*self._layout.ids, *self._lists]
        """The keys of the batches."""
        self._place = [self.keys.index(f.name) for f in job.embedded]
        tables = {f.name: job.tables[f.table_name].rows for f in job.embedded}
        self._rows = [tables[key] for key in self.keys]
        self._spaces = Spaces(job)
        values = list(enumerate(self._layout.values))
        self._targets = {v.task: place for place, v in values if not v.weight}
        self._weights = {v.task: place for place, v in values if v.weight}
        self._weighted = job.weighted_ids

    def __call__(self, parts: Sequence[Part], padded: int, epoch: int, end_row: int) -> Batch:
        """The Batch of all rows of the parts, its sparse part padded to `padded` rows."""
        rows = sum(part.num_rows for part in parts)
        label_TB = np.empty((len(self._layout.labels), rows), np.int8)
        indicator_JB = np.empty((len(self._layout.indicators), rows), np.int8)
        value_VB = np.empty((len(self._layout.values), rows), np.float32)
        number_FB = np.empty((len(self._layout.numbers), rows), np.float32)
        row_id_B = np.empty(rows, np.int64)
        singles = len(self._layout.ids)
        spans = {name: [p.rows.lists[name].span(p.begin, p.end) for p in parts] for name in self._lists}
        sizes = [rows] * singles + [sum(x.stop - x.start for x in span) for span in spans.values()]
        value_M = np.empty(sum(sizes), np.int64)
        id_IB = value_M[: singles * rows].reshape(singles, rows)
        length_KP = np.empty((len(self.keys), padded), np.int32)
        length_KP[:singles, :rows] = 1
        length_KP[:, rows:] = 0
        end = 0
        for part in parts:
            begin, end = end, end + part.num_rows
            id_IB[:, begin:end] = part.rows.id_IN[:, part.begin : part.end]
            number_FB[:, begin:end] = part.rows.number_FN[:, part.begin : part.end]
            label_TB[:, begin:end] = part.rows.label_TN[:, part.begin : part.end]
            indicator_JB[:, begin:end] = part.rows.indicator_JN[:, part.begin : part.end]
            value_VB[:, begin:end] = part.rows.value_VN[:, part.begin : part.end]
            row_id_B[begin:end] = part.rows.row_id_N[part.begin : part.end]
        weight_M = np.ones(len(value_M), np.float32) if self._weighted else None
        end = singles * rows
        for (name, span), length_P in zip(spans.items(), length_KP[singles:], strict=True):
            begin, end = end, end + sum(x.stop - x.start for x in span)
            weights = None if weight_M is None else weight_M[begin:end]
            self._join_lists(name, parts, span, value_M[begin:end], weights, length_P[:rows])
        return Batch(
            dense_BF=_rows_first(number_FB),
            sparse=KeyedJaggedTensor(
                keys=self.keys,
                values=torch.from_numpy(value_M),
                lengths=torch.from_numpy(length_KP.reshape(-1)),
                weights=None if weight_M is None else torch.from_numpy(weight_M),
                stride=padded,
            ),
            **self._supervision(label_TB, indicator_JB, value_VB),
            row_ids_B=torch.from_numpy(row_id_B),
            unknown_K=_counts(self._unknown(parts, value_M, sizes)),
            ids_K=_counts([sizes[place] for place in self._place]),
            rows=rows,
            epoch=epoch,
            end_row=end_row,
        )

    def _join_lists(
        self,
        name: str,
        parts: Sequence[Part],
        spans: Sequence[slice],
        value_M: Int64,
        weight_M: Float32 | None,
        length_B: Int32,
    ) -> None:
        """Fills in the lists' elements end to end, their weights and their lengths."""
        row = element = 0
        for part, span in zip(parts, spans, strict=True):
            lists, rows, size = part.rows.lists[name], part.num_rows, span.stop - span.start
            edge_N = lists.offset_N[part.begin : part.end + 1]
            np.subtract(edge_N[1:], edge_N[:-1], out=length_B[row : row + rows])
            value_M[element : element + size] = lists.id_M[span]
            if weight_M is not None and lists.weight_M is not None:
                weight_M[element : element + size] = lists.weight_M[span]
            row, element = row + rows, element + size
        feature = self._lists[name]
        if weight_M is not None and not feature.weights and feature.pooling == "mean":
            weight_M[:] = np.repeat(1.0 / np.maximum(length_B, 1).astype(np.float32), length_B)

    def _unknown(self, parts: Sequence[Part], value_M: Int64, sizes: list[int]) -> list[int]:
        """Ids of each feature out of vocabulary; counted only where the encoder saw one."""
        out = dict.fromkeys(self.keys, 0)
        for key in frozenset[str]().union(*(part.rows.unknown for part in parts)):
            place = self.keys.index(key)
            begin = sum(sizes[:place])
            # the encoder put them on row `rows`, and nothing else lies there
            out[key] = int(np.count_nonzero(value_M[begin : begin + sizes[place]] == self._rows[place]))
        return [out[self.keys[place]] for place in self._place]

    def _supervision(self, label_TB: Int8, indicator_JB: Int8, value_VB: Float32) -> dict[str, Any]:
        """The batch's labels, the rows they are of, and the funnel's counts.

        Here and not in the encoder, which runs ahead of the training and decodes a block anew on resume.
        """
        exposed_TB = self._spaces.exposed(indicator_JB)
        broken_T = self._spaces.funnel(label_TB, exposed_TB)
        own_TB = self._spaces.own(label_TB, exposed_TB)
        trained_TB = self._spaces.trained(label_TB, indicator_JB, exposed_TB, own_TB)
        shares = [
            trained_B * value_VB[self._weights[task]] if task in self._weights else trained_B
            for task, trained_B in enumerate(trained_TB)
        ]
        targets = [
            value_VB[self._targets[task]] if task in self._targets else label_B for task, label_B in enumerate(label_TB)
        ]
        return {
            "labels_BT": _rows_first(targets),
            "space_BT": _rows_first(own_TB),
            "share_BT": _rows_first(shares) if self._weights or trained_TB is not own_TB else None,
            "exposed_BT": None if exposed_TB is None else _rows_first(exposed_TB),
            "broken_T": _counts(broken_T),
        }


def _rows_first(x_XB: npt.NDArray | Sequence[npt.NDArray]) -> Tensor:
    """The transpose in float32, rows lying one after another."""
    rows = x_XB.shape[1] if isinstance(x_XB, np.ndarray) else len(x_XB[0])
    out_BX = np.empty((rows, len(x_XB)), np.float32)
    for column, x_B in enumerate(x_XB):  # several times quicker than numpy's or torch's own copy of a transpose
        out_BX[:, column] = x_B
    return torch.from_numpy(out_BX)


def _counts(numbers: list[int]) -> Tensor:
    return torch.from_numpy(np.array(numbers, np.int64))
