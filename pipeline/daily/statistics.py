"""One day as numbers that other days can be compared with: one pass, in bounded memory. No torch.

Rows are decoded and checked as training does it: what training refuses is an InputError here, what it leaves out is
left out and counted against the same budget. Held-out rows count: they are the day's rows too. Some tens of KB a day.
"""

import dataclasses
import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.daily.columns import ColumnDay, Edges, Sums, Watch, watch
from pipeline.daily.event_times import EventTimes, TimeDay
from pipeline.data.checks import Where
from pipeline.data.encode import Encoder
from pipeline.data.flags import Flags
from pipeline.data.manifest import Manifest
from pipeline.data.order import Stretch
from pipeline.data.quarantine import Piece, QuarantineLog, below_root, left_out
from pipeline.data.reader import Lost, read_stretches
from pipeline.data.rows import Layout, Rows
from pipeline.data.source import epoch_source
from pipeline.data.spaces import Spaces
from pipeline.profile.scan import columns_of, kinds_of, made_of
from schemas.daily import ChecksConfig
from schemas.errors import InputError
from schemas.events import RESERVED_COLUMNS, TIME_COLUMN, USER_COLUMN
from schemas.features import IdListFeature, LookingBack
from schemas.job import JobConfig

FORMAT = 1
TELL_SECONDS = 10.0
Key = tuple[str, str]
Mask = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class DayStatistics:
    """What a day is compared by."""

    day: str
    manifest: str
    """Fingerprint of the files."""
    rows: int
    """Those that training can read."""
    left_out: int
    """Rows and row groups under quarantine, not among `rows`."""
    tasks: dict[str, Sums]
    """Labels on each task's own space: the rate of a binary one."""
    indicators: dict[str, Sums]
    """Share of rows with a 1, by task."""
    columns: list[ColumnDay]
    unknown: dict[str, Sums]
    """Share of a feature's look-ups that are out of vocabulary, missing values apart."""
    event_time: TimeDay
    accepted: list[str] = dataclasses.field(default_factory=list)
    """Findings of the day that a person accepted, as --accept has them: its values are a new normal."""

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        out: dict[str, Any] = {"format": FORMAT, "day": self.day, "manifest": self.manifest}
        out |= {"rows": self.rows, "left_out": self.left_out, "accepted": self.accepted}
        for name in ("tasks", "indicators", "unknown"):
            out[name] = {key: dataclasses.asdict(sums) for key, sums in getattr(self, name).items()}
        out["event_time"] = dataclasses.asdict(self.event_time)
        return out | {"columns": [column.to_json() for column in self.columns]}

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> "DayStatistics":
        """What `to_json` wrote. Raises InputError for another version's."""
        if told.get("format") != FORMAT:
            raise InputError(
                f"statistics of {told.get('day', 'a day')}: format {told.get('format')}, this version reads {FORMAT}; "
                "go on with the version that wrote them"
            )
        sums = {
            name: {key: Sums(**value) for key, value in told[name].items()}
            for name in ("tasks", "indicators", "unknown")
        }
        return cls(
            day=told["day"],
            manifest=told["manifest"],
            rows=told["rows"],
            left_out=told["left_out"],
            columns=[ColumnDay.from_json(column) for column in told["columns"]],
            event_time=TimeDay(**told["event_time"]),
            accepted=list(told["accepted"]),
            **sums,
        )


def edges_of(recent: Sequence[DayStatistics]) -> dict[Key, Edges]:
    """Where the numbers' groups begin, as the latest of the days that has the column has them."""
    return {c.key: c.edges for day in sorted(recent, key=lambda d: d.day) for c in day.columns if c.edges}


def day_statistics(
    job: JobConfig,
    day: datetime.date,
    manifest: Manifest,
    tell: Callable[[str], None],
    edges: Mapping[Key, Edges] | None = None,
) -> DayStatistics:
    """The day's statistics; `edges` are those of the recent days (`edges_of`), so that numbers can be compared.

    Raises InputError for what training would refuse of the manifest's rows, for more bad rows than data.bad allows,
    and where event_time is no time.
    """
    return _Pass(job, day, edges or {}).run(manifest, tell)


class _Pass:
    """What one pass adds up."""

    def __init__(self, job: JobConfig, day: datetime.date, edges: Mapping[Key, Edges]) -> None:
        here = [f for f in job.features if not isinstance(f, LookingBack)]  # the others need earlier days' statistics
        data = job.data.model_copy(update={"holdout": None})  # every row is looked at
        self.job, self.day, self._edges = job.model_copy(update={"features": here, "data": data}), day, edges
        checks = job.daily.checks if job.daily else ChecksConfig()
        self._times = EventTimes(day, checks)
        self._flags = Flags(job.data)
        self._encode = Encoder(self.job, self._flags)
        self._layout, self._spaces = Layout(self.job), Spaces(self.job)
        self._watches: dict[Key, Watch] = {}
        self._declared = declared(job)
        self._free = made_of(job) | {USER_COLUMN: USER_COLUMN}
        self._labels = {task.name: [0, 0] for task in job.tasks if task.kind == "binary"}
        self._numbers = {task.name: Sums() for task in job.tasks if task.kind == "regression"}
        self._first = first_task(job)
        self._indicators = {name: [0, 0] for name in self._layout.indicators}
        self._unknown = {f.name: [0, 0] for f in self.job.valued}
        self._log = QuarantineLog("validation", job.data.bad)
        self._rows = self._read = 0

    def run(self, manifest: Manifest, tell: Callable[[str], None]) -> DayStatistics:
        began = told = time.monotonic()
        self._leave_out(left_out(manifest))
        for stretch, first, batch in self._batches(manifest):
            group = stretch.group
            if isinstance(batch, Lost):
                self._lost(stretch, first, batch.reason)
                continue
            where = Where(group.path, group.index, first)
            self.add(batch, group.first_row + first, where)
            now = time.monotonic()
            if now - told > TELL_SECONDS:
                told, speed = now, self._read / (now - began)
                tell(f"validating {self.day}: {self._read:,} of {manifest.rows:,} rows, {speed:,.0f} rows/s")
        if not self._rows:
            missed = self._log.pieces()[0]
            raise InputError(f"{self.job.data.path}: no row of {self.day} could be read; the first: {missed}")
        return self._found(manifest)

    def _batches(self, manifest: Manifest) -> Iterator[tuple[Stretch, int, pa.RecordBatch | Lost]]:
        """The decoded rows, with the columns that no feature declares a type for."""
        source = epoch_source(self.job, manifest, 0, shuffle=False)
        columns = dict.fromkeys([*source.columns, *RESERVED_COLUMNS, *self._free])
        source = dataclasses.replace(source, columns=list(columns))
        yield from read_stretches(source, [Stretch(group, 0, group.rows) for group in manifest.groups])

    def _lost(self, stretch: Stretch, first: int, reason: str) -> None:
        group = stretch.group
        piece = Piece(below_root(group.path), group.index, first, stretch.stop - first, "corrupt", "", reason)
        self._leave_out([piece])

    def _leave_out(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            self._log.add(piece)
        self._log.check_budget()

    def add(self, batch: pa.RecordBatch, first_row: int, where: Where) -> None:
        """Adds decoded rows, the first of this number in the manifest. Raises InputError."""
        self._read += batch.num_rows
        rows = self._encode(batch, np.arange(first_row, first_row + batch.num_rows), where)
        good_N = rows.row_id_N >= 0
        if rows.flagged:
            self._leave_out(self._flags.come_up(rows.row_id_N[~good_N]))
            batch = batch.filter(pa.array(good_N))
            where = dataclasses.replace(where, kept_N=np.flatnonzero(good_N))
        self._rows += batch.num_rows
        one_N = pa.array(self._count_labels(rows, good_N)[good_N])
        self._count_unknown(rows, good_N, batch)
        self._times.add(batch.column(TIME_COLUMN), where)
        for key, used_by in self._keys(batch.schema).items():
            if key not in self._watches:
                self._watches[key] = watch(*key, used_by, self._edges.get(key))
            self._watches[key].add(batch.column(key[0]), one_N)

    def _count_labels(self, rows: Rows, good_N: Mask) -> Mask:
        """Adds the labels; returns where the first task's is 1."""
        label_TN, indicator_JN = rows.label_TN.copy(), rows.indicator_JN
        exposed_TN = self._spaces.exposed(indicator_JN)
        self._spaces.funnel(label_TN, exposed_TN)
        own_TN = (self._spaces.own(label_TN, exposed_TN) != 0) & good_N
        for task, own_N, label_N in zip(self.job.tasks, own_TN, label_TN, strict=True):
            if task.kind == "binary":
                _count(self._labels[task.name], own_N, (label_N != 0) & own_N)
        for value, x_N in zip(self._layout.values, rows.value_VN, strict=True):
            if not value.weight:
                x_M, name = x_N[own_TN[value.task]].astype(np.float64), self.job.tasks[value.task].name
                if len(x_M):
                    self._numbers[name] = Sums.of([self._numbers[name], Sums(len(x_M), x_M.mean(), x_M.std())])
        for name, one_N in zip(self._layout.indicators, indicator_JN, strict=True):
            _count(self._indicators[name], good_N, (one_N != 0) & good_N)
        return (label_TN[self._first] != 0) & own_TN[self._first]

    def _count_unknown(self, rows: Rows, good_N: Mask, batch: pa.RecordBatch) -> None:
        for feature in self.job.valued:
            none = self.job.tables[feature.table_name].rows
            if isinstance(feature, IdListFeature):
                id_M, missing = rows.lists[feature.name].id_M, 0
            else:
                id_M = rows.id_IN[self._layout.ids.index(feature.name)]
                id_M = id_M[good_N] if rows.flagged else id_M
                missing = batch.column(feature.source).null_count
            counts = self._unknown[feature.name]
            counts[0] += len(id_M) - missing
            if feature.name in rows.unknown:
                counts[1] += int(np.count_nonzero(id_M == none)) - missing

    def _keys(self, schema: pa.Schema) -> dict[Key, str]:
        """The columns of a batch by how they are looked at."""
        named = {name for name, _ in self._declared}
        free = {
            (name, kind): used_by
            for name, used_by in self._free.items()
            if name not in named
            for kind in _kinds(schema.field(name).type)
        }
        return self._declared | free

    def _found(self, manifest: Manifest) -> DayStatistics:
        return DayStatistics(
            day=str(self.day),
            manifest=manifest.fingerprint,
            rows=self._rows,
            left_out=sum(self._log.totals),
            tasks={task.name: self._task(task.name) for task in self.job.tasks},
            indicators={name: Sums.share(*counts) for name, counts in self._indicators.items()},
            columns=[watched.day() for watched in self._watches.values()],
            unknown={name: Sums.share(*counts) for name, counts in self._unknown.items()},
            event_time=self._times.day(),
        )

    def _task(self, name: str) -> Sums:
        return self._numbers[name] if name in self._numbers else Sums.share(*self._labels[name])


def _count(counts: list[int], own_N: Mask, one_N: Mask) -> None:
    counts[0] += int(np.count_nonzero(own_N))
    counts[1] += int(np.count_nonzero(one_N))


def first_task(job: JobConfig) -> int:
    """The binary task whose positives are counted by value: the first root; of regression tasks alone none are."""
    roots = [n for n, task in enumerate(job.tasks) if task.kind == "binary" and job.parents[n] is None]
    return roots[0] if roots else 0


def declared(job: JobConfig) -> dict[Key, str]:
    """(column, kind) -> who reads it, of the columns whose kind the job says. Labels are looked at as labels."""
    out: dict[Key, str] = {}
    for (name, kind), used_by in columns_of(job).items():
        if kind == "list":
            out |= {(name, "elements"): used_by, (name, "length"): used_by}
        elif kind not in ("label", "target"):
            out[name, kind] = used_by
    for task in job.tasks:
        if task.sample_weight:
            out[task.sample_weight, "number"] = f"sample weight of {task.name}"
    return out


def _kinds(kind: pa.DataType) -> tuple[str, ...]:
    """How a column is looked at whose kind the job does not say."""
    found = kinds_of(kind)[:1]
    return ("elements", "length") if found == ("list",) else found or ("other",)
