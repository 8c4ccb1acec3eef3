"""Taobao's UserBehavior: 100 million page views, carts, favourites and purchases -> exposures a day. No torch.

The file has no exposures, but what users did. An exposure is a user, an item and a day on which the user opened the
item's page (`pv`), at the day's first such view. Its labels say whether the user put the item into the cart, marked it
as a favourite, or bought it at that moment or later on the same day. What was done to an item without a view before it
on that day is no label of any exposure; it is counted and told. Days are Beijing's.

Lines may come in any order: they are dealt to parts by user through the disk (`spill`), and a part is sorted in memory.
"""

import datetime
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.hashing import mix
from pipeline.ingest.dataset import About, Dataset, Folder, Option, Options, Progress, whole_number
from pipeline.ingest.lines import Format, Rows, tables
from pipeline.ingest.spill import Spill
from pipeline.ingest.written_log import WrittenLog, by_column, ids, required
from schemas.events import TIME_COLUMN, USER_COLUMN

I64 = npt.NDArray[np.int64]
FIRST_DAY, LAST_DAY = datetime.date(2017, 11, 25), datetime.date(2017, 12, 3)
DAY, BEIJING = 86_400, 8 * 3_600
"""Seconds."""
PART_BYTES = 32 << 20
"""Of text a part: some million rows, a few hundred MB while they are sorted."""
ROWS_AT_ONCE = 1 << 16
HISTORY = 20
VIEW = 0
BEHAVIOURS = ("pv", "cart", "fav", "buy")
LABELS = ("cart", "fav", "order")
FORM = Format(
    "Taobao's UserBehavior.csv: user, item, category, behaviour (pv, cart, fav, buy), timestamp; no header",
    {
        USER_COLUMN: pa.int64(),
        "item_id": pa.int64(),
        "category_id": pa.int64(),
        "behaviour": pa.string(),
        "seconds": pa.int64(),
    },
    header=False,
)
SCHEMA = pa.schema(
    [
        required(USER_COLUMN, pa.int64()),
        required(TIME_COLUMN, pa.timestamp("ms", "UTC")),
        required("item_id", pa.int64()),
        required("category_id", pa.int64()),
        required("hour", pa.int64()),
        ids("view_history"),
        *(required(name, pa.int8()) for name in LABELS),
    ]
)
ABOUT = About(
    name="taobao",
    title="Taobao UserBehavior",
    source="https://tianchi.aliyun.com/dataset/649",
    licence="the terms of Tianchi, for research (read them there)",
    cite="Zhu et al., Learning Tree-based Deep Model for Recommender Systems, KDD 2018, "
    "https://doi.org/10.1145/3219819.3219826",
    files="UserBehavior.csv, out of UserBehavior.csv.zip, or as .csv.gz",
    rows="""\
A row is a user, an item and a day (Beijing's) with a page view. Labels: cart, fav, order: whether it followed on the
same day. Days 2017-11-25 to 2017-12-03; lines outside, and behaviours without a view before them, are counted.""",
)


class Taobao:
    """UserBehavior.csv."""

    schema, labels = SCHEMA, LABELS

    def __init__(self, folder: Folder, options: Options) -> None:
        self._fs, self._length = folder.fs, options["history"]
        self._path = folder.find("UserBehavior.csv", what="the file of all behaviours")
        self.identity = {"files": folder.identity(self._path), "history": self._length}
        size = next(iter(self.identity["files"].values())) * (1 if self._path.endswith(".csv") else 4)
        self._parts = 1 + size // PART_BYTES

    def write(self, log: WrittenLog, progress: Progress) -> list[str]:
        """Every exposure into the log."""
        outside = total = exposures = 0
        without = np.zeros(len(BEHAVIOURS), np.int64)
        with log.scratch() as folder:
            spill = Spill(folder, "behaviours", self._parts)
            for rows in tables(self._fs, self._path, FORM):
                inside = _checked(rows)
                spill.add(inside, mix(inside.column(USER_COLUMN).to_numpy().view(np.uint64)))
                total += rows.table.num_rows
                outside += rows.table.num_rows - inside.num_rows
                progress("reading", rows.table.num_rows)
            spill.finish()
            for number in range(self._parts):
                progress(f"part {number + 1} of {self._parts}", 0)
                if (part := spill.part(number)) is not None:
                    found = _Exposures(part)
                    without += found.without
                    exposures += len(found.user_E)
                    for days, events in found.tables(self._length):
                        log.add_by_day(days, events)
        behind = ", ".join(f"{n:,} {name}" for name, n in zip(BEHAVIOURS[1:], without[1:].tolist(), strict=True))
        return [
            f"{total:,} lines; {outside:,} outside of {FIRST_DAY} to {LAST_DAY} left out; {exposures:,} exposures",
            f"without a view before them on their day, and so no label: {behind}",
        ]


def _checked(rows: Rows) -> pa.Table:
    """The lines within the days, behaviours as codes. Raises InputError for an unknown one."""
    code = pc.index_in(rows.table.column("behaviour"), pa.array(BEHAVIOURS))
    rows.check(code.is_valid(), "behaviour", f"is none of {', '.join(BEHAVIOURS)}")
    rows.check(pc.less(pc.abs(rows.table.column("seconds")), 1 << 40), "seconds", "is no time in seconds")
    table = rows.table.set_column(3, "behaviour", code.cast(pa.int8()))
    begin, end = (int(datetime.datetime(d.year, d.month, d.day, tzinfo=datetime.UTC).timestamp()) - BEIJING
                  for d in (FIRST_DAY, LAST_DAY + datetime.timedelta(1)))  # fmt: skip
    seconds = table.column("seconds")
    return table.filter(pc.and_(pc.greater_equal(seconds, begin), pc.less(seconds, end)))


class _Exposures:
    """The exposures of all users of a part. [E]: exposures, in the order of user, day, time."""

    def __init__(self, part: pa.Table) -> None:
        user_N, item_N, category_N, seconds_N = (
            part.column(name).to_numpy() for name in (USER_COLUMN, "item_id", "category_id", "seconds")
        )
        code_N = part.column("behaviour").to_numpy()
        day_N = (seconds_N + BEIJING) // DAY
        order = np.lexsort((code_N, seconds_N, item_N, day_N, user_N))
        user_N, item_N, category_N, seconds_N, code_N, day_N = (
            column[order] for column in (user_N, item_N, category_N, seconds_N, code_N, day_N)
        )
        begins_N = np.ones(len(order), bool)
        begins_N[1:] = (np.diff(user_N) != 0) | (np.diff(day_N) != 0) | (np.diff(item_N) != 0)
        first_G = np.flatnonzero(begins_N)  # [G]: a user, a day and an item
        group_N = np.cumsum(begins_N) - 1
        never = np.iinfo(np.int64).max
        viewed_G = np.minimum.reduceat(np.where(code_N == VIEW, seconds_N, never), first_G)
        follows_N = seconds_N >= viewed_G[group_N]
        self.without = np.bincount(code_N[~follows_N], minlength=len(BEHAVIOURS)).astype(np.int64)
        shown_G = viewed_G != never
        by_time = np.lexsort((viewed_G[shown_G], day_N[first_G][shown_G], user_N[first_G][shown_G]))
        kept_E = first_G[shown_G][by_time]
        self.user_E, self.item_E, self.category_E = user_N[kept_E], item_N[kept_E], category_N[kept_E]
        self.day_E, self.seconds_E = day_N[kept_E], viewed_G[shown_G][by_time]
        self.label_E = {}
        for code, label in enumerate(LABELS, 1):
            done_G = np.bincount(group_N[(code_N == code) & follows_N], minlength=len(first_G)) > 0
            self.label_E[label] = done_G[shown_G][by_time].astype(np.int8)

    def tables(self, length: int) -> Iterator[tuple[pa.Array, pa.Table]]:
        """The days and the rows, in the order of time, some at a time, each with its user's views on earlier days."""
        if not len(self.user_E):
            return
        new_user_E = np.append(True, np.diff(self.user_E) != 0)
        new_day_E = new_user_E | np.append(True, np.diff(self.day_E) != 0)
        row_E = np.arange(len(self.user_E))
        user_begins_E = np.maximum.accumulate(np.where(new_user_E, row_E, 0))
        day_begins_E = np.maximum.accumulate(np.where(new_day_E, row_E, 0))
        known_E = np.minimum(day_begins_E - user_begins_E, length)
        by_time_E = np.argsort(self.seconds_E, kind="stable")
        for first in range(0, len(by_time_E), ROWS_AT_ONCE):
            row_N = by_time_E[first : first + ROWS_AT_ONCE]
            known_N = known_E[row_N]
            offsets = np.concatenate([[0], np.cumsum(known_N)])
            age_N = np.arange(offsets[-1]) - np.repeat(offsets[:-1], known_N)
            viewed = self.item_E[np.repeat(day_begins_E[row_N], known_N) - 1 - age_N]
            columns: dict[str, Any] = {
                USER_COLUMN: self.user_E[row_N],
                TIME_COLUMN: pa.array(self.seconds_E[row_N] * 1000, pa.timestamp("ms", "UTC")),
                "item_id": self.item_E[row_N],
                "category_id": self.category_E[row_N],
                "hour": (self.seconds_E[row_N] + BEIJING) % DAY // 3600,
                "view_history": pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(viewed)),
                **{label: values_E[row_N] for label, values_E in self.label_E.items()},
            }
            yield pa.array(self.day_E[row_N].astype(np.int32), pa.int32()).cast(pa.date32()), by_column(SCHEMA, columns)


TAOBAO = Dataset(
    ABOUT,
    Taobao,
    row_group_rows=65_536,
    options=(
        Option(
            "--history",
            f"items viewed on earlier days, latest first, at most (default: {HISTORY})",
            HISTORY,
            whole_number,
            metavar="N",
        ),
    ),
)
