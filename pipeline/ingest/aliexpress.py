"""AliExpress search (NL, ES, FR, US, RU): impressions of search pages, clicked and bought. No torch.

Two forms. The published one (Tianchi) has two files a split, neither with a header: CC_user_train.csv with 33 columns,
one line a search page, and CC_item_train.csv with 49, one line an impression; both begin with the page, and the last
column of the second is 0, 1 (clicked) or 2 (bought). The prepared one (MTReclib) is train.csv and test.csv with a
header: search_id, categorical_1 .. 16, numerical_1 .. 63, click, conversion. Both become the same columns.

No user and no time is told: `user_id` is the page, and the days are artificial, the training split the first.
"""

import datetime
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.dataset import About, Dataset, Folder, Options, Progress
from pipeline.ingest.lines import Format, Rows, tables
from pipeline.ingest.published import whole
from pipeline.ingest.written_log import WrittenLog, by_column, midnight_ms, required
from schemas.errors import InputError
from schemas.events import TIME_COLUMN, USER_COLUMN

TRAIN_DAY, TEST_DAY = datetime.date(2000, 1, 1), datetime.date(2000, 1, 2)
DAY_MS = 86_400_000
LABELS = ("click", "conversion")
CATEGORICAL = [f"categorical_{n}" for n in range(1, 17)]
NUMERICAL = [f"numerical_{n}" for n in range(1, 64)]
_ITEM_CATEGORICAL = (19, 34, 35, 36, 40, 41, 42)
_PAGE = [f"user_{n}" for n in (*range(2, 9), 32, 33)]
OWN = dict(
    zip(
        [*CATEGORICAL, *NUMERICAL],
        [
            *(*_PAGE, *(f"item_{n}" for n in _ITEM_CATEGORICAL)),
            *(f"user_{n}" for n in range(9, 32)),
            *(f"item_{n}" for n in range(2, 49) if n not in _ITEM_CATEGORICAL),
        ],
        strict=True,
    )
)
"""Column of the log -> column n of the published file of pages or of impressions, as MTReclib's preparation has it."""
_WHOLE = {*(OWN[name] for name in CATEGORICAL), "user_1", "item_1", "item_49"}


def _kind(name: str) -> pa.DataType:
    return pa.int64() if name in _WHOLE else pa.float32()


PAGES = Format(
    "AliExpress's search pages (CC_user_*.csv), 33 columns without a header",
    {name: _kind(name) for name in (f"user_{n}" for n in range(1, 34))},
    header=False,
)
ITEMS = Format(
    "AliExpress's impressions (CC_item_*.csv), 49 columns without a header",
    {name: _kind(name) for name in (f"item_{n}" for n in range(1, 50))},
    header=False,
)
PREPARED = Format(
    "AliExpress as MTReclib prepares it (train.csv, test.csv)",
    {
        **dict.fromkeys(["search_id", *CATEGORICAL], pa.int64()),
        **dict.fromkeys(NUMERICAL, pa.float32()),
        **dict.fromkeys(LABELS, pa.int64()),
    },
)
SCHEMA = pa.schema(
    [
        required(USER_COLUMN, pa.int64()),
        required(TIME_COLUMN, pa.timestamp("ms", "UTC")),
        *(required(name, pa.int64()) for name in CATEGORICAL),
        *(required(name, pa.float32()) for name in NUMERICAL),
        *(required(name, pa.int8()) for name in LABELS),
    ]
)
ABOUT = About(
    name="aliexpress",
    title="AliExpress Searching System",
    source="https://tianchi.aliyun.com/dataset/74690; prepared: https://github.com/easezyc/Multitask-Recommendation-Library",
    licence="the terms of Tianchi, for research (read them there)",
    cite="Li et al., Improving Multi-Scenario Learning to Rank in E-commerce by Exploiting Task Relationships in the "
    "Label Space, CIKM 2020, https://doi.org/10.1145/3340531.3412713",
    files="""\
of one country, CC_user_train.csv, CC_item_train.csv, CC_user_test.csv, CC_item_test.csv, out of the .zip files in
aliexpress_CC_datasets.zip; or MTReclib's train.csv and test.csv; each also as .csv.gz""",
    rows="""\
A row is an impression on a search page; user_id is the page, since no user is published. The training split becomes
the day 2000-01-01, the test split 2000-01-02; both days are artificial. Labels: click, conversion.""",
)


class AliExpress:
    """The files of one country."""

    schema, labels = SCHEMA, LABELS

    def __init__(self, folder: Folder, options: Options) -> None:
        self._fs = folder.fs
        self._splits: dict[datetime.date, tuple[str, str]] = {}
        countries = {re.sub(r"^.*/(\w\w)_item_train.*$", r"\1", p) for p in folder.matching(r"\w\w_item_train\.csv")}
        if len(countries) > 1:
            raise InputError(f"--from: '{folder.path}' holds several countries ({', '.join(sorted(countries))}); "
                             "give each a folder of its own")  # fmt: skip
        for day, name in ((TRAIN_DAY, "train"), (TEST_DAY, "test")):
            if countries:
                country = next(iter(countries))
                pages = folder.find(f"{country}_user_{name}.csv", what=f"search pages of the {name} split")
                items = folder.find(f"{country}_item_{name}.csv", what=f"impressions of the {name} split")
                self._splits[day] = pages, items
            else:
                what = f"the {name} split; or the published CC_user_{name}.csv and CC_item_{name}.csv"
                self._splits[day] = "", folder.find(f"{name}.csv", what=what)
        self.identity = {"files": folder.identity(*(path for paths in self._splits.values() for path in paths))}

    def write(self, log: WrittenLog, progress: Progress) -> list[str]:
        """Both splits into the log."""
        orphans = 0
        for day, (pages, items) in self._splits.items():
            done = 0
            for rows, columns in self._published(pages, items) if pages else self._prepared(items):
                number_N = done + np.arange(rows.table.num_rows)
                columns[TIME_COLUMN] = pa.array(midnight_ms(day) + number_N % DAY_MS, pa.timestamp("ms", "UTC"))
                events = by_column(SCHEMA, columns)
                orphans += pc.sum(pc.greater(events.column("conversion"), events.column("click"))).as_py()
                log.add(day, events)
                done += rows.table.num_rows
                progress(items.rpartition("/")[2], rows.table.num_rows)
        return [f"{orphans:,} conversions without a click, kept"] if orphans else []

    def _prepared(self, path: str) -> Iterator[tuple[Rows, dict[str, Any]]]:
        for rows in tables(self._fs, path, PREPARED):
            for name in LABELS:
                rows.check(pc.is_in(rows.table.column(name), pa.array([0, 1])), name, "is neither 0 nor 1")
            columns = {name: rows.table.column(name) for name in rows.table.column_names}
            yield rows, columns | {USER_COLUMN: columns["search_id"]}

    def _published(self, pages: str, items: str) -> Iterator[tuple[Rows, dict[str, Any]]]:
        """The impressions with their pages; the pages are held: 210 bytes each."""
        page = whole(self._fs, pages, PAGES).table
        keys = page.column("user_1").combine_chunks()
        if pc.count_distinct(keys).as_py() != len(keys):
            raise InputError(f"{pages}: a search page stands there several times; expected {PAGES.what}")
        for rows in tables(self._fs, items, ITEMS):
            feedback = rows.table.column("item_49")
            rows.check(
                pc.is_in(feedback, pa.array([0, 1, 2])), "item_49", "is none of 0 (shown), 1 (clicked), 2 (bought)"
            )
            index = pc.index_in(rows.table.column("item_1"), keys)
            rows.check(index.is_valid(), "item_1", f"is no search page of {pages}")
            of_page = page.take(index)
            both = {n: t.column(n) for t in (of_page, rows.table) for n in t.column_names}
            columns = {name: both[own] for name, own in OWN.items()}
            columns |= {
                USER_COLUMN: both["item_1"],
                "click": pc.greater(feedback, 0),
                "conversion": pc.equal(feedback, 2),
            }
            yield rows, columns


ALIEXPRESS = Dataset(ABOUT, AliExpress, row_group_rows=65_536)
