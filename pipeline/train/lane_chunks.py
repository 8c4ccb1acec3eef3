"""Rows of an evaluation brought together so that the dense network meets the same ones at any number of ranks.

A matrix product may round a row's numbers by how many rows there are and by where the row stands among them. A rank's
share of a step depends on how many ranks there are; the rows of a lane do not. So the rows of each lane are gathered
until there are ROWS of them, and the network runs over those. What is left at the end goes lane by lane.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.batch import Batch
from pipeline.model import RankingModel

ROWS = 512
"""Of a lane, that are evaluated together."""


@dataclasses.dataclass
class Evaluated:
    """Rows and what the model says of them."""

    logits_BT: Tensor
    labels_BT: Tensor
    space_BT: Tensor
    row_ids_B: Tensor
    exposed_BT: Tensor | None


class LaneChunks:
    """Batches in, evaluated rows out, to `take`."""

    def __init__(self, model: RankingModel, take: Callable[[Evaluated], None]) -> None:
        self._model, self._take = model, take
        self._waiting: dict[int, list[list[Tensor]]] = defaultdict(list)
        self._rows: dict[int, int] = defaultdict(int)

    def add(self, batch: Batch) -> None:
        """Takes in a rank's rows of a step. Every rank must call it: the embeddings are exchanged here."""
        columns = [self._model.inputs(batch), batch.labels_BT, batch.space_BT, batch.row_ids_B]
        columns += [] if batch.exposed_BT is None else [batch.exposed_BT]
        begin = 0
        for lane, rows in batch.lanes:
            self._add(lane, [column[begin : begin + rows] for column in columns], rows)
            begin += rows
        assert begin == batch.rows, "every row is of a lane"

    def _add(self, lane: int, columns: list[Tensor], rows: int) -> None:
        begin = 0
        while begin < rows:
            end = min(rows, begin + ROWS - self._rows[lane])
            self._waiting[lane].append([column[begin:end] for column in columns])
            self._rows[lane] += end - begin
            begin = end
            if self._rows[lane] == ROWS:
                self._evaluate(lane)

    def _evaluate(self, lane: int) -> None:
        # joined, they lie at the beginning of memory of their own, whatever they were cut from
        x, labels_BT, space_BT, row_ids_B, *exposed = map(torch.cat, zip(*self._waiting.pop(lane), strict=True))
        del self._rows[lane]
        logits_BT = self._model.dense.logits(x)
        self._take(Evaluated(logits_BT, labels_BT, space_BT, row_ids_B, exposed[0] if exposed else None))

    def finish(self) -> None:
        """Evaluates what is left."""
        for lane in sorted(self._waiting):
            self._evaluate(lane)
