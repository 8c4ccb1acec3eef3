"""One column under watch: what is missing, how its values are spread, and what they tell of the labels. No torch.

Shapes: N rows of a batch, R slots (pipeline/profile/tally.py).
"""

import dataclasses
from collections import Counter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.hashing import fnv1a, mix, nulls_apart, through_dictionary
from pipeline.profile import numbers
from pipeline.profile.tally import Halves, Tally

Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
LENGTHS = 4096
"""Lists of this length and more are one length to a tally and to quantiles."""
SEEN_BITS = 4
"""2^4 places a slot remember which values have been seen, on earlier days and today."""
FULL = 0.5
"""Share of the places in use beyond which nothing is said of new values."""


@dataclasses.dataclass
class DayColumn:
    """One column on one day."""

    day: str
    rows: int = 0
    missing: int = 0
    finite: int = 0
    total: float = 0.0
    """Sum of (x - centre) over finite numbers."""
    squares: float = 0.0
    fresh: int = 0
    """Values that have not been seen on an earlier day, each as often as it comes."""
    fresh_known: bool = True
    earlier: float = 0.0
    """Share of the places in use at the day's begin: so many new values look like old ones."""


class Column:
    """What all kinds have: places where a value is missing."""

    kind = "other"

    def __init__(self, name: str, used_by: str, tally: Tally | None = None) -> None:
        self.name, self.used_by, self.tally = name, used_by, tally
        self.days: list[DayColumn] = []
        self.counts: Counter[str] = Counter()
        """nulls, nan, infinite, empty; and rows."""

    def add(self, column: pa.Array, halves: Halves, day: str) -> None:
        """Counts one batch of the day."""
        if not self.days or self.days[-1].day != day:
            self._begin_day(day)
        self.days[-1].rows += len(column)
        self.counts["rows"] += len(column)
        self.counts["nulls"] += column.null_count
        self._add(column, halves)

    def _begin_day(self, day: str) -> None:
        self.days.append(DayColumn(day))

    def _add(self, column: pa.Array, halves: Halves) -> None:
        missing = column.null_count
        if pa.types.is_floating(column.type):
            x_N = column.fill_null(0).to_numpy() if missing else column.to_numpy()
            missing += self._not_finite(x_N)
        self.days[-1].missing += missing
        if self.tally is not None:
            self.tally.add(np.where(column.is_null().to_numpy(zero_copy_only=False), self.tally.missing, 0), halves)

    def _not_finite(self, x_M: npt.NDArray[np.floating]) -> int:
        """Counts NaN and infinities; returns how many are NaN."""
        if np.isfinite(x_M).all():
            return 0
        nan = int(np.count_nonzero(np.isnan(x_M)))
        self.counts["nan"] += nan
        self.counts["infinite"] += int(np.count_nonzero(np.isinf(x_M)))
        return nan


class NumberColumn(Column):
    """Numbers: quantiles, and a tally by size. Times are numbers of their unit."""

    kind = "number"

    def __init__(self, name: str, used_by: str, tally: Tally | None, bits: int) -> None:
        super().__init__(name, used_by, tally)
        self._bits = bits
        self.count_R = np.zeros(1 << bits, np.int64)
        self.centre: float | None = None
        self.low, self.high = np.inf, -np.inf

    def _add(self, column: pa.Array, halves: Halves) -> None:
        if pa.types.is_temporal(column.type):
            column = column.view(pa.int64() if column.type.bit_width == 64 else pa.int32())
        x_N = column.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy()
        finite_N = np.isfinite(x_N)
        some, today = not finite_N.all(), self.days[-1]
        good_M = x_N[finite_N] if some else x_N
        if self.centre is None:
            if not len(good_M):
                return self._all_missing(x_N, halves)
            self.centre = float(np.median(good_M))
        missing_N = None
        if some:
            missing_N = np.isnan(x_N)
            self.counts["nan"] += int(np.count_nonzero(missing_N)) - column.null_count
            self.counts["infinite"] += int(np.count_nonzero(np.isinf(x_N)))
            today.missing += int(np.count_nonzero(missing_N))
        if len(good_M):
            self.low, self.high = min(self.low, float(good_M.min())), max(self.high, float(good_M.max()))
            off_M = good_M - self.centre
            if max(-self.low, self.high) > numbers.FURTHEST:
                off_M = np.clip(off_M, -numbers.FURTHEST, numbers.FURTHEST)
            today.finite += len(good_M)
            today.total += float(off_M.sum())
            today.squares += float(off_M @ off_M)
        slot_N = numbers.bins(x_N if missing_N is None else np.where(missing_N, 0.0, x_N), self.centre, self._bits)
        np.add.at(self.count_R, slot_N[finite_N] if some else slot_N, 1)
        if self.tally is not None:
            if missing_N is not None:
                slot_N[missing_N] = self.tally.missing
            self.tally.add(slot_N, halves)

    def _all_missing(self, x_N: npt.NDArray[np.float64], halves: Halves) -> None:
        nan = int(np.count_nonzero(np.isnan(x_N)))
        self.days[-1].missing += nan
        self.counts["nan"] += nan
        self.counts["infinite"] += len(x_N) - nan
        if self.tally is not None:
            self.tally.add(np.full(len(x_N), self.tally.missing), halves)

    def quantiles(self, shares: list[float]) -> list[float]:
        """Numbers at these shares of the rows in rising order, each to the width of its bin; none without rows."""
        if self.centre is None or not self.count_R.any():
            return []
        found = numbers.values(numbers.quantile_bins(self.count_R, shares), self.centre, self._bits)
        return np.clip(found, self.low, self.high).tolist()


class ValueColumn(Column):
    """Ids or strings: a tally by hash, and the share of values that are new on a day."""

    kind = "id"

    def __init__(self, name: str, used_by: str, tally: Tally, bits: int) -> None:
        super().__init__(name, used_by, tally)
        self._bits = bits
        self._places = 1 << (bits + SEEN_BITS)
        self._earlier, self._today = np.zeros(self._places, np.bool_), np.zeros(self._places, np.bool_)

    @staticmethod
    def nbytes(bits: int) -> int:
        """Memory beside the tally."""
        return 2 << (bits + SEEN_BITS)

    def _begin_day(self, day: str) -> None:
        super()._begin_day(day)
        self._earlier |= self._today
        self._today[:] = False
        used = float(np.count_nonzero(self._earlier)) / self._places
        self.days[-1].earlier, self.days[-1].fresh_known = used, used < FULL

    def _add(self, column: pa.Array, halves: Halves) -> None:
        hash_N, missing_N = self._hashes(column)
        today = self.days[-1]
        place_N = hash_N & (self._places - 1)
        slot_N = hash_N >> (63 - self._bits)
        if missing_N is not None:
            today.missing += int(np.count_nonzero(missing_N))
            place_N = place_N[~missing_N]
            assert self.tally is not None
            slot_N[missing_N] = self.tally.missing
        if today.fresh_known:
            today.fresh += len(place_N) - int(np.count_nonzero(self._earlier[place_N]))
            self._today[place_N] = True
        assert self.tally is not None
        self.tally.add(slot_N, halves)

    def _hashes(self, column: pa.Array) -> tuple[Int64, Mask | None]:
        """63 bits of each value's hash, and which are missing."""
        missing_N = None
        if not pa.types.is_int64(column.type):
            column = column.cast(pa.int64(), safe=False)
        if column.null_count:
            missing_N = column.is_null().to_numpy(zero_copy_only=False)
            column = column.fill_null(0)
        return (mix(column.to_numpy().view(np.uint64)) >> np.uint64(1)).view(np.int64), missing_N


class TextColumn(ValueColumn):
    """Strings."""

    kind = "string"

    def _hashes(self, column: pa.Array) -> tuple[Int64, Mask | None]:
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
        empty_D = pc.equal(pc.binary_length(column.dictionary), 0)
        if pc.any(empty_D).as_py():
            self.counts["empty"] += pc.sum(empty_D.take(column.indices)).as_py() or 0
        hash_N = through_dictionary(column, _text_hashes)
        missing_N = hash_N < 0
        return hash_N, missing_N if missing_N.any() else None


def _text_hashes(strings: pa.Array) -> Int64:
    return nulls_apart(strings, lambda texts: (mix(fnv1a(texts)) >> np.uint64(1)).view(np.int64))


class ListColumn(Column):
    """Lists: their lengths, and a tally of them; of numbers, what is not finite."""

    kind = "list"

    def __init__(self, name: str, used_by: str, tally: Tally | None = None) -> None:
        super().__init__(name, used_by, tally)
        self.length_R = np.zeros(LENGTHS + 1, np.int64)
        self.elements = self.longest = 0

    def _add(self, column: pa.Array, halves: Halves) -> None:
        length_N = np.diff(column.offsets.to_numpy()).astype(np.int64)
        values = column.flatten()
        self.counts["nulls inside"] += values.null_count
        if pa.types.is_floating(values.type):
            self._not_finite((values.fill_null(0) if values.null_count else values).to_numpy())
        missing_N = None
        if column.null_count:
            missing_N = column.is_null().to_numpy(zero_copy_only=False)
            self.days[-1].missing += column.null_count
        there_M = length_N if missing_N is None else length_N[~missing_N]
        self.counts["empty"] += int(np.count_nonzero(there_M == 0))
        self.elements += int(there_M.sum())
        self.longest = max(self.longest, int(there_M.max(initial=0)))
        self.length_R += np.bincount(np.minimum(there_M, LENGTHS), minlength=LENGTHS + 1)
        if self.tally is not None:
            slot_N = np.minimum(length_N, LENGTHS)
            if missing_N is not None:
                slot_N[missing_N] = self.tally.missing
            self.tally.add(slot_N, halves)
