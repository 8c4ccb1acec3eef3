"""Ali-CCP (Alibaba Click and Conversion Prediction): 85 million impressions, sampled and joined. No torch.

Two files a split: a skeleton with one line an impression, and the common features (of the user) that many lines share.
They meet by the common features' index: both are dealt to parts by its hash through the disk (`spill`), and joined a
part at a time. Memory is one part; the 10 GB of common features are never held.

No time is told, so the days are artificial: the training split is the first, the test split the second.
"""

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.data.value_counts import hash64
from pipeline.ingest.dataset import About, Dataset, Folder, Option, Options, Progress, whole_number
from pipeline.ingest.lines import Format, Rows, tables
from pipeline.ingest.sparse_features import SparseFeatures
from pipeline.ingest.spill import Spill
from pipeline.ingest.written_log import WrittenLog, by_column, ids, midnight_ms, required
from schemas.errors import InputError
from schemas.events import TIME_COLUMN, USER_COLUMN

TRAIN_DAY, TEST_DAY = datetime.date(2000, 1, 1), datetime.date(2000, 1, 2)
DAY_MS = 86_400_000
PART_BYTES = 128 << 20
"""Of text a part, both files together."""
ROWS_AT_ONCE = 1 << 16
LONGEST = 20
LABELS = ("click", "conversion")
USER_FIELDS = {
    USER_COLUMN: "101",
    "user_profile": "121",
    "user_group": "122",
    "user_gender": "124",
    "user_age": "125",
    "user_consumption_1": "126",
    "user_consumption_2": "127",
    "user_occupation": "128",
    "user_geography": "129",
}
USER_LISTS = {"user_categories": "109_14", "user_shops": "110_14", "user_brands": "127_14", "user_intentions": "150_14"}
ITEM_FIELDS = {"item_id": "205", "item_category": "206", "item_shop": "207", "item_brand": "216", "position": "301"}
ITEM_LISTS = {
    "item_intentions": "210",
    "user_item_categories": "508",
    "user_item_shops": "509",
    "user_item_brands": "702",
    "user_item_intentions": "853",
}
"""Column of the log -> the publishers' field."""
FIELDS = {*USER_FIELDS.values(), *USER_LISTS.values(), *ITEM_FIELDS.values(), *ITEM_LISTS.values()}
SKELETON = Format(
    "Ali-CCP's sample_skeleton_*.csv: sample, click, conversion, index of common features, their number, features",
    {
        "sample": pa.int64(),
        "click": pa.int64(),
        "conversion": pa.int64(),
        "common": pa.string(),
        "number": pa.int64(),
        "features": pa.string(),
    },
    header=False,
)
COMMON = Format(
    "Ali-CCP's common_features_*.csv: index, number of features, features",
    {"common": pa.string(), "number": pa.int64(), "features": pa.string()},
    header=False,
)
LINE = "line"
ABOUT = About(
    name="aliccp",
    title="Ali-CCP",
    source="https://tianchi.aliyun.com/dataset/408",
    licence="the terms of Tianchi, for research (read them there)",
    cite="Ma et al., Entire Space Multi-Task Model, SIGIR 2018, https://doi.org/10.1145/3209978.3210104",
    files="""\
sample_skeleton_train.csv, common_features_train.csv, sample_skeleton_test.csv, common_features_test.csv, out of
sample_train.tar.gz and sample_test.tar.gz, or each as .csv.gz""",
    rows="""\
A row is an impression. The training split becomes the day 2000-01-01, the test split 2000-01-02; both days are
artificial. Labels: click, conversion. Conversions without a click are kept, and told.""",
)


def _weights(name: str) -> pa.Field:
    return required(name, pa.list_(pa.field("element", pa.float32(), nullable=False)))


class AliCcp:
    """The four files."""

    labels = LABELS

    def __init__(self, folder: Folder, options: Options) -> None:
        self._fs, self._longest = folder.fs, options["longest"]
        self._lists = USER_LISTS if self._longest else {}
        self.schema = _schema(self._lists)
        self._splits = {}
        for day, name in ((TRAIN_DAY, "train"), (TEST_DAY, "test")):
            skeleton = folder.find(f"sample_skeleton_{name}.csv", what=f"impressions of the {name} split")
            common = folder.find(f"common_features_{name}.csv", what=f"common features of the {name} split")
            sizes = folder.identity(skeleton, common)
            size = sum(size * (4 if name.endswith(".gz") else 1) for name, size in sizes.items())
            self._splits[day] = (skeleton, common, 1 + size // PART_BYTES)
        paths = [path for skeleton, common, _ in self._splits.values() for path in (skeleton, common)]
        self.identity = {"files": folder.identity(*paths), "longest": self._longest}

    def write(self, log: WrittenLog, progress: Progress) -> list[str]:
        """Both splits into the log."""
        self._orphans = self._several = self._cut = 0
        for day, (skeleton, common, parts) in self._splits.items():
            with log.scratch() as folder:
                commons = Spill(folder, "common", parts)
                for rows in tables(self._fs, common, COMMON):
                    self._spill(rows, commons, USER_FIELDS, self._lists)
                    progress(common.rpartition("/")[2], 0)
                samples = Spill(folder, "samples", parts)
                for rows in tables(self._fs, skeleton, SKELETON):
                    self._spill(rows, samples, ITEM_FIELDS, ITEM_LISTS)
                    progress(skeleton.rpartition("/")[2], rows.table.num_rows)
                commons.finish()
                samples.finish()
                for number in range(parts):
                    progress(f"{day}, part {number + 1} of {parts}", 0)
                    for events in self._joined(samples.part(number), commons.part(number), day, skeleton, common):
                        log.add(day, events)
        told = {
            "conversions without a click, kept": self._orphans,
            "further ids of fields that have one, left out": self._several,
            f"ids of lists longer than {self._longest or LONGEST}, left out": self._cut,
        }
        said = [f"{number:,} {what}" for what, number in told.items() if number]
        if not self._lists:
            said.append(
                f"--longest 0: take the features {', '.join(USER_LISTS)} out of a copy of the job before training"
            )
        return said

    def _spill(self, rows: Rows, spill: Spill, one: dict[str, str], many: dict[str, str]) -> None:
        """A block's rows, taken apart, to their parts."""
        found = SparseFeatures(rows, "features")
        number = rows.table.column("number")
        rows.check(pc.equal(number, pa.array(found.counts())), "number", "is not the number of features that follow")
        singles, several = found.one(one)
        lists, cut = found.many(many, self._longest or LONGEST)
        self._several, self._cut = self._several + several, self._cut + cut
        columns: dict[str, Any] = {"common": rows.table.column("common").combine_chunks(), **singles, **lists}
        columns[LINE] = np.arange(rows.first, rows.first + rows.table.num_rows)
        if "click" in rows.table.column_names:
            for name in LABELS:
                column = rows.table.column(name)
                rows.check(pc.is_in(column, pa.array([0, 1])), name, "is neither 0 nor 1")
                columns[name] = column.cast(pa.int8()).combine_chunks()
            self._orphans += pc.sum(pc.greater(columns["conversion"], columns["click"])).as_py()
        else:
            rows.check(singles[USER_COLUMN].is_valid(), "common", "has no field 101, the user")
        spill.add(pa.table(columns), hash64(columns["common"]))

    def _joined(
        self, samples: pa.Table | None, commons: pa.Table | None, day: datetime.date, skeleton: str, common: str
    ) -> list[pa.Table]:
        """A part's impressions with their common features, those of one user side by side."""
        if samples is None:
            return []
        keys = commons.column("common").combine_chunks() if commons is not None else pa.array([], pa.string())
        counts = pc.value_counts(keys)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        if len(twice):
            raise InputError(f"{common}: the index '{twice[0]}' stands there several times; expected {COMMON.what}")
        index = pc.index_in(samples.column("common"), keys)
        if index.null_count:
            at = pc.index(index.is_null(), True).as_py()
            raise InputError(
                f"{skeleton}, line {samples.column(LINE)[at]}: its common features "
                f"'{samples.column('common')[at]}' are not in {common}; is it of the same split, and whole?"
            )
        assert commons is not None
        order = pc.sort_indices(index)  # a user's rows compress well where they lie together
        samples, index = samples.take(order), index.take(order)
        out = []
        for first in range(0, samples.num_rows, ROWS_AT_ONCE):
            some = samples.slice(first, ROWS_AT_ONCE)
            shared = commons.take(index.slice(first, ROWS_AT_ONCE))
            columns = {name: shared.column(name) for name in shared.column_names}
            columns |= {name: some.column(name) for name in some.column_names}
            time_N = midnight_ms(day) + some.column(LINE).to_numpy() % DAY_MS
            columns[TIME_COLUMN] = pa.array(time_N, pa.timestamp("ms", "UTC"))
            out.append(by_column(self.schema, columns))
        return out


def _schema(user_lists: dict[str, str]) -> pa.Schema:
    lists = [*user_lists, *ITEM_LISTS]
    return pa.schema(
        [
            required(USER_COLUMN, pa.int64()),
            required(TIME_COLUMN, pa.timestamp("ms", "UTC")),
            *(pa.field(name, pa.int64()) for name in (*USER_FIELDS, *ITEM_FIELDS) if name != USER_COLUMN),
            *(field for name in lists for field in (ids(name), _weights(f"{name}_weight"))),
            *(required(name, pa.int8()) for name in LABELS),
        ]
    )


ALICCP = Dataset(
    ABOUT,
    AliCcp,
    row_group_rows=65_536,
    options=(
        Option(
            "--longest",
            f"longest list, largest values first; 0 leaves the user's four lists out (default: {LONGEST})",
            LONGEST,
            whole_number,
            metavar="N",
        ),
    ),
)
