"""What one pass over the log reads, and in which order: the frozen input of the lanes. No torch."""

import dataclasses
from typing import Any

from pipeline.data.holdout import Holdout, Part
from pipeline.data.manifest import HISTORY, Manifest
from pipeline.data.order import Order, Stretch, deal, permuted_groups
from pipeline.data.shuffle import Shuffle
from pipeline.storage import filesystem
from schemas.events import StorageConfig
from schemas.features import StringFeature
from schemas.job import JobConfig


@dataclasses.dataclass(frozen=True)
class Source:
    """One epoch of a manifest."""

    fs: Any
    lanes: list[list[Stretch]]
    """What each lane reads, in this order."""
    columns: list[str]
    texts: list[str]
    """Those that hold strings: decoded as dictionaries, so that each distinct string is made and hashed once."""
    order: Order
    shuffle: Shuffle | None
    """None keeps each lane's order as it is."""
    epoch: int
    storage: StorageConfig = dataclasses.field(default_factory=StorageConfig)
    """How patiently it is read."""
    lenient: bool = False
    """Whether what cannot be decoded is left out."""
    history: dict[str, Any] | None = None
    """The statistics of earlier days, as history.py freezes them; None where the job needs none."""
    holdout: Holdout | None = None
    """Which rows are read; None = all."""


def epoch_source(job: JobConfig, manifest: Manifest, epoch: int, shuffle: bool, part: Part = "all") -> Source:
    """The epoch's source; without `shuffle` row groups are dealt in the log's own order.

    The rows that are no `part` of it keep their places in the order, and are left out of the batches.
    """
    config = job.data.holdout
    holdout = Holdout(config, part) if config and part != "all" else None
    columns = dict.fromkeys(job.columns + ([holdout.column] if holdout else []))
    texts = dict.fromkeys(f.source for f in job.features if isinstance(f, StringFeature))
    if holdout and not any(holdout.column in f.sources for f in job.features):
        texts[holdout.column] = None  # of a column of integers Arrow makes no dictionary
    shuffle_rows = job.data.shuffle_rows if shuffle else 0
    lanes = deal(permuted_groups(manifest, job.seed, epoch, shuffle_rows > 0), job.data.lanes)
    order = Order(tuple(sum(piece.rows for piece in lane) for lane in lanes), job.train.batch_size)
    return Source(
        fs=filesystem(job.data.path, job.data.storage)[0],
        lanes=lanes,
        columns=list(columns),
        texts=list(texts),
        order=order,
        shuffle=Shuffle(order, shuffle_rows, job.seed, epoch) if shuffle_rows else None,
        epoch=epoch,
        storage=job.data.storage,
        lenient=job.data.bad.corrupt == "quarantine",
        history=manifest.origin.get(HISTORY),
        holdout=holdout,
    )
