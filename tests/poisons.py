"""Ways in which a day of the generated log goes bad, and the findings that each must make.

POISONS["price in another currency"].spoil(table)     # a day's table, spoilt
POISONS["price in another currency"].words            # {"mean:price", "distance:price", "meaning:price"}
"""

import dataclasses
import datetime
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tests.logs import override, put

FUTURE = datetime.datetime(2031, 3, 4, 5, 6)
FUTURE_ROW = 5077


@dataclasses.dataclass(frozen=True)
class Poison:
    """One way."""

    words: set[str]
    """Of the findings, and no other."""
    columns: dict[str, Callable[[pa.Array], Any]] = dataclasses.field(default_factory=dict)
    take: Callable[[int], np.ndarray] | None = None
    """Which rows stay of so many."""

    def spoil(self, table: pa.Table) -> pa.Table:
        """The table, spoilt."""
        table = override(table, self.columns)
        return table if self.take is None else table.take(pa.array(self.take(table.num_rows)))


def tripled(column: pa.Array) -> pa.Array:
    """Of a label of one in four: as many positives again twice, anywhere."""
    one_N = column.to_numpy() != 0
    return pa.array((one_N | (np.random.default_rng(1).random(len(one_N)) < 2 / 3)).astype(np.int8))


def exchanged(column: pa.Array) -> pa.Array:
    """Ids from 0 on, exchanged among themselves."""
    return pa.array(np.random.default_rng(1).permutation(int(pc.max(column).as_py()) + 1)[column.to_numpy()])


def reversed_order(column: pa.Array) -> pa.Array:
    """Numbers from 0 on, the last first."""
    return pc.subtract(pc.max(column), column)


def rotated(column: pa.Array) -> pa.Array:
    """Strings, each for the next."""
    names = sorted(pc.unique(column).to_pylist())
    return pa.array(names[1:] + names[:1]).take(pc.index_in(column, pa.array(names)))


def times(factor: float) -> Callable[[pa.Array], pa.Array]:
    """Another unit."""
    return lambda column: pc.multiply(column, pa.scalar(factor, column.type))


POISONS = {
    "half of the volume gone": Poison({"volume"}, take=lambda rows: np.arange(0, rows, 2)),
    "a label rate tripled": Poison({f"label_rate:{t}" for t in ("click", "cart", "fav", "order")}, {"click": tripled}),
    "positives of a child gone": Poison({"label_rate:order"}, {"order": lambda c: np.zeros(len(c), np.int8)}),
    "age in months": Poison({"mean:age", "distance:age"}, {"age": times(12)}),
    "price in another currency": Poison({"mean:price", "distance:price", "meaning:price"}, {"price": times(7)}),
    "item ids exchanged among themselves": Poison({"distance:item_id", "meaning:item_id"}, {"item_id": exchanged}),
    "cities exchanged among themselves": Poison({"meaning:city"}, {"city": rotated}),
    "positions counted from the bottom": Poison(
        {"distance:position", "meaning:position"}, {"position": reversed_order}
    ),
    "item ids all new": Poison(
        {"distance:item_id", "meaning:item_id", "fresh_ids:item_id", "unknown:item"},
        {"item_id": lambda c: pc.add(c, int(pc.max(c).as_py()) + 1)},
    ),
    "strings all missing": Poison({"missing:city"}, {"city": lambda c: pa.nulls(len(c), pa.string())}),
    "numbers all missing": Poison({"missing:age"}, {"age": lambda c: pa.nulls(len(c), pa.float32())}),
    "a timestamp of the future": Poison({"event_time"}, {"event_time": lambda c: put(c, FUTURE_ROW, FUTURE)}),
}
