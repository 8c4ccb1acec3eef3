"""Batch: what one rank trains on in one step.

Shapes: B rows of this rank in this step, P >= B the padded count that all ranks share in it, F dense features,
K sparse features, T tasks. Only the sparse features are padded, with rows of no ids: row-wise sharding exchanges equal
shares, so the ranks' counts must agree. The model drops the padding as soon as the embeddings are pooled, and nothing
after it knows of it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable


@dataclasses.dataclass
class Batch(Pipelineable):
    """One rank's rows of one step; moves between devices as TorchRec's pipelines ask."""

    dense_BF: Tensor
    """float32 dense features."""
    sparse: KeyedJaggedTensor
    """K keys of stride P; the rows after B have no ids."""
    labels_BT: Tensor
    """float32 labels: 0 or 1, or the number of a regression task."""
    space_BT: Tensor
    """float32, 1 where the row lies in the task's conditional sample space."""
    broken_T: Tensor
    """int64, positive labels under a negative parent, by task: what policy drop or promote let through."""
    row_ids_B: Tensor
    """int64 global row ids."""
    unknown_K: Tensor
    """int64, ids of each sparse feature that went to the out-of-vocabulary row."""
    ids_K: Tensor
    """int64, ids of each sparse feature."""
    rows: int
    """B."""
    epoch: int
    """Pass over the training days, from 0."""
    end_row: int
    """Rows of the epoch done, over all ranks, once this step is; those left out are among them."""
    share_BT: Tensor | None = None
    """float32, the row's weight in the task's loss, 0 where it is not trained on; None = `space_BT`."""
    exposed_BT: Tensor | None = None
    """float32, 1 where the indicators up the task's chain are 1; None without indicators, where they all are."""
    left_out: tuple[Any, ...] = ()
    """Pieces of the log (pipeline/data/quarantine.py) that this rank's step leaves out."""
    unread: int = 0
    """Rows of this rank's step that the pass does not read (pipeline/data/holdout.py)."""
    lanes: tuple[tuple[int, int], ...] = ()
    """Each lane of this rank and how many of the rows are its own, in the order of the rows."""

    @property
    def trained_BT(self) -> Tensor:
        """The row's weight in the task's loss."""
        return self.space_BT if self.share_BT is None else self.share_BT

    def _each(self, apply: Any) -> Batch:
        changes = {
            f.name: apply(value)
            for f in dataclasses.fields(self)
            if isinstance(value := getattr(self, f.name), Tensor | KeyedJaggedTensor)
        }
        return dataclasses.replace(self, **changes)

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """The batch on another device."""
        return self._each(lambda x: x.to(device=device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory."""
        return self._each(lambda x: x.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        """Tells the allocator that the stream uses the batch."""
        self._each(lambda x: x.record_stream(stream))
