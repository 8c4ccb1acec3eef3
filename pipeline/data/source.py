"""What one pass over the log reads, and in which order: the frozen input of the lanes. No torch."""

import dataclasses
from typing import Any

from pipeline.data.files import Manifest, filesystem
from pipeline.data.order import Order, RowGroup, permuted_groups
from schemas.job import JobConfig


@dataclasses.dataclass(frozen=True)
class Source:
    """One epoch of a manifest."""

    fs: Any
    groups: list[RowGroup]
    columns: list[str]
    order: Order
    seed: int
    epoch: int
    shuffle_rows: int


def epoch_source(job: JobConfig, manifest: Manifest, epoch: int, shuffle: bool) -> Source:
    """The epoch's source; without `shuffle` the log's own order."""
    return Source(
        fs=filesystem(job.data.path)[0],
        groups=permuted_groups(manifest, job.seed, epoch, shuffle and job.data.shuffle_rows > 0),
        columns=job.columns,
        order=Order(manifest.rows, job.data.lanes, job.train.batch_size),
        seed=job.seed,
        epoch=epoch,
        shuffle_rows=job.data.shuffle_rows if shuffle else 0,
    )
