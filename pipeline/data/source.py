"""What one pass over the log reads, and in which order: the frozen input of the lanes. No torch."""

import dataclasses
from typing import Any

from pipeline.data.files import Manifest, filesystem
from pipeline.data.order import Order, RowGroup, permuted_groups
from schemas.features import StringFeature
from schemas.job import JobConfig


@dataclasses.dataclass(frozen=True)
class Source:
    """One epoch of a manifest."""

    fs: Any
    groups: list[RowGroup]
    columns: list[str]
    texts: list[str]
    """Those that hold strings: decoded as dictionaries, so that each distinct string is made and hashed once."""
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
        texts=[f.source for f in job.features if isinstance(f, StringFeature)],
        order=Order(manifest.rows, job.data.lanes, job.train.batch_size),
        seed=job.seed,
        epoch=epoch,
        shuffle_rows=job.data.shuffle_rows if shuffle else 0,
    )
