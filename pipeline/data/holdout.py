"""Which rows of a day are held out: a pure function of a column's value and the day. No torch.

A row of day D is held out where a 64-bit hash of (value, D) falls below share * 2^64. Neither seed nor ranks, files or
plan have a say, so training, evaluation and any later look at the log agree; and another day draws other values.

    integers   mix(mix(value as 64 bits) + mix(D))
    strings    mix(mix(FNV-1a of the UTF-8 bytes) + mix(D))

with `mix` of hashing.py and D in days since 0001-01-01, which is 1. An integer is hashed alike in any width.
"""

import datetime
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.data import checks
from pipeline.data.checks import Finding
from pipeline.data.hashing import fnv1a, mix, through_dictionary
from schemas.events import DataConfig, HoldoutConfig

Mask = npt.NDArray[np.bool_]
Part = Literal["all", "kept", "held"]
"""Which rows of a log a pass reads: all of them, those that are not held out, or those alone."""
REMEDY = "data.holdout draws its values, so every row needs one: write it without nulls, or name another column"


def training_part(data: DataConfig) -> Part:
    """What training reads."""
    return "kept" if data.holdout else "all"


def evaluation_part(data: DataConfig) -> Part:
    """What the evaluation reads."""
    return "held" if data.holdout and data.holdout.eval == "held" else "all"


def held_out(column: pa.Array, day: datetime.date, share: float) -> Mask:
    """Which rows of the day are held out, [N], by their integers or strings; no value is null."""
    if pa.types.is_integer(column.type):
        value_N = mix(column.to_numpy().astype(np.int64).view(np.uint64))
    else:
        value_N = through_dictionary(column, lambda strings: mix(fnv1a(strings)).view(np.int64)).view(np.uint64)
    day_1 = mix(np.array([day.toordinal()], np.uint64))
    return mix(value_N + day_1) < np.uint64(int(share * 2**64))


class Holdout:
    """Picks the rows that one pass reads."""

    def __init__(self, config: HoldoutConfig, part: Part) -> None:
        assert part != "all", "a pass over all rows draws none"
        self.column, self._share, self._held = config.column, config.share, part == "held"

    def nulls(self, batch: pa.RecordBatch) -> Finding | None:
        """Rows without a value to draw."""
        return checks.nulls(batch.column(self.column), self.column, REMEDY)

    def read(self, batch: pa.RecordBatch, day: datetime.date) -> Mask:
        """Which rows of the batch are read, [N]."""
        held_N = held_out(batch.column(self.column), day, self._share)
        return held_N if self._held else ~held_N


def drawn_words(config: HoldoutConfig) -> str:
    """As `the rows of 10% of each day's user_id`."""
    return f"the rows of {100 * config.share:.4g}% of each day's {config.column}"
