"""The generated event log: days of exposures drawn from the declared truth, written as a production log would be.

    OUT/_truth.json                     the settings, and the best attainable AUC of every task on every day
    OUT/dt=2026-01-01/part-00000.parquet ...
    OUT/dt=2026-01-01/_SUCCESS          empty, the last file of its day

Rows of a day come in the order of `event_time`. The recommended layout (`parquet_layout`), row groups near
`row_group_rows`, `GROUPS_A_FILE` of them a file. One row group is one chunk: drawn from its own random stream, written
and forgotten, so memory does not grow with the day (but for 20 bytes a row that the day's AUC needs).

The same settings give the same bytes on the same numpy, pyarrow and kind of CPU; across kinds a last-bit difference of
a float32 exponential may turn about one label in ten million.
"""

import dataclasses
import datetime as dt
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.data.declared_truth import CITIES, DEVICES, TASKS, Purpose, TruthSpec, stream
from pipeline.data.ground_truth import I8, I64, DayTruth, Exposures, GroundTruth, Probabilities, draw_labels, exact_auc
from pipeline.data.log_store import LogStore
from pipeline.data.parquet_layout import ROW_GROUP_ROWS, writer_options
from schemas.events import SUCCESS_MARKER, TIME_COLUMN, TRUTH_FILE, USER_COLUMN

GENERATOR = 1  # raised whenever the same settings would give other rows
HISTORY_LENGTH = 20
HISTORY_DECAY = 0.9  # weight of a click relative to the one after it
WARM_UP_EXPOSURES = 25  # a user, on average, before the first day; they fill histories and are not written
GROUPS_A_FILE = 4


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


SCHEMA = pa.schema(
    [
        _required("user_id", pa.int64()),
        _required("item_id", pa.int64()),
        _required("category_id", pa.int64()),
        _required("event_time", pa.timestamp("ms")),
        _required("city", pa.string()),
        _required("device", pa.string()),
        _required("age", pa.float32()),
        _required("price", pa.float32()),
        _required("hour", pa.int64()),
        _required("position", pa.int64()),
        _required("history", pa.list_(_required("element", pa.int64()))),
        _required("history_weight", pa.list_(_required("element", pa.float32()))),
        *(_required(task, pa.int8()) for task in TASKS),
    ]
)
# what `encodings` says of a day of the default settings
_SPLIT = (USER_COLUMN, TIME_COLUMN)
WRITER_OPTIONS = writer_options(
    dictionary=[f"{n}.list.element" if n.startswith("history") else n for n in SCHEMA.names if n not in _SPLIT],
    split=_SPLIT,
)


@dataclass(frozen=True)
class LogSpec:
    """Everything the content of a generated log depends on. `world` fixes users and items, the rest their traffic."""

    world: TruthSpec = field(default_factory=TruthSpec)
    days: int = 5
    rows_per_day: int = 280_000
    start: dt.date = dt.date(2026, 1, 1)
    row_group_rows: int = ROW_GROUP_ROWS

    def __post_init__(self) -> None:
        for name in ("days", "rows_per_day", "row_group_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.days > (dt.date.max - self.start).days:
            raise ValueError(f"{self.days} days from {self.start} pass the last date, {dt.date.max}; start earlier")

    def recorded(self) -> dict[str, Any]:
        """The flat, JSON-ready form that `_truth.json` holds and a later run compares with its own."""
        flat = {**dataclasses.asdict(self.world), **dataclasses.asdict(self), "start": self.start.isoformat()}
        del flat["world"]
        return {"generator": GENERATOR, **flat}

    def date(self, day: int) -> dt.date:
        """The calendar date of day `day`, 0 the first."""
        return self.start + dt.timedelta(days=day)

    def groups(self) -> list[int]:
        """First row of every row group of a day, and the row count at the end: near-equal groups, none a sliver."""
        count = -(-self.rows_per_day // self.row_group_rows)
        return [self.rows_per_day * g // count for g in range(count + 1)]


@dataclass(frozen=True)
class Progress:
    """One written file: what a caller may print."""

    date: dt.date
    day: int
    rows: int
    """Rows of this day written so far."""
    total: int
    """Rows of this day."""
    seconds: float
    """Since this run began, warm-up included."""
    written: int
    """Rows written by this run."""


@dataclass(frozen=True)
class LogSummary:
    """What `generate_log` did: 0 rows where the log was complete before."""

    rows: int
    seconds: float
    truth: dict[str, Any]
    """The content of `_truth.json`."""


class ClickHistory:
    """The last `HISTORY_LENGTH` clicked items of every user: a ring a user, [U, HISTORY_LENGTH]."""

    def __init__(self, users: int) -> None:
        self._ring = np.zeros((users, HISTORY_LENGTH), np.int64)
        self._clicks = np.zeros(users, np.int64)

    def add(self, user: I64, item: I64) -> None:
        """Append these clicks, given in time order, to their users' rings."""
        by_user = np.argsort(user, kind="stable")
        user, item = user[by_user], item[by_user]
        users, first, count = np.unique(user, return_index=True, return_counts=True)
        nth = np.arange(len(user)) - np.repeat(first, count)
        kept = nth >= np.repeat(count - HISTORY_LENGTH, count)  # two clicks must not meet in one slot
        user, item, nth = user[kept], item[kept], nth[kept]
        self._ring[user, (self._clicks[user] + nth) % HISTORY_LENGTH] = item
        self._clicks[users] += count

    def snapshot(self) -> tuple[pa.ListArray, pa.ListArray]:
        """Every user's clicked items, latest first, and their weights (HISTORY_DECAY ** age in clicks): lists [U]."""
        length = np.minimum(self._clicks, HISTORY_LENGTH)
        age = np.arange(HISTORY_LENGTH)
        there = age < length[:, None]
        latest_first = np.take_along_axis(self._ring, (self._clicks[:, None] - 1 - age) % HISTORY_LENGTH, axis=1)
        weight = np.broadcast_to((HISTORY_DECAY**age).astype(np.float32), there.shape)
        offsets = pa.array(np.concatenate([[0], np.cumsum(length)]).astype(np.int32))
        items, weights = (
            pa.ListArray.from_arrays(offsets, pa.array(values[there]), type=SCHEMA.field(name).type)
            for name, values in (("history", latest_first), ("history_weight", weight))
        )
        return items, weights


class _DayScores:
    """The probabilities and labels of a day, kept until its AUCs are counted: 20 bytes a row."""

    def __init__(self, rows: int) -> None:
        self._score = {task: np.empty(rows, np.float32) for task in TASKS}
        self._label = {task: np.empty(rows, np.int8) for task in TASKS}

    def put(self, first: int, p: Probabilities, labels: dict[str, I8]) -> None:
        for task in TASKS:
            self._score[task][first : first + len(p.click)] = getattr(p, task)
            self._label[task][first : first + len(p.click)] = labels[task]

    def attainable(self) -> dict[str, Any]:
        """Per task its AUC, rows and positives on its own space; under "joint" those of p_click * p_task everywhere."""
        click = self._label["click"] != 0
        found: dict[str, Any] = {"click": _attained(self._score["click"], self._label["click"])}
        for task in TASKS[1:]:
            found[task] = _attained(self._score[task][click], self._label[task][click])
        # The funnel is clean: a child's label is already the AND of the chain's.
        joint = {t: _attained(self._score["click"] * self._score[t], self._label[t]) for t in TASKS[1:]}
        return {**found, "joint": joint}


def _attained(score: npt.NDArray[np.float32], label: I8) -> dict[str, Any]:
    return {"auc": exact_auc(score, label), "rows": len(label), "positives": int(np.count_nonzero(label))}


@dataclass(frozen=True)
class Chunk:
    """One row group's worth of a day: rows [first, first + N) of it."""

    first: int
    shown: Exposures
    p: Probabilities
    labels: dict[str, I8]


def draw_chunks(spec: LogSpec, today: DayTruth, day: int) -> Iterator[Chunk]:
    """The rows of day `day` in time order, a row group at a time, each from its own random stream."""
    bounds = spec.groups()
    for g, (first, end) in enumerate(itertools.pairwise(bounds)):
        rng = stream(spec.world.seed, Purpose.ROWS, day, g)
        share = (first / spec.rows_per_day, end / spec.rows_per_day)
        shown = today.truth.draw_exposures(rng, end - first, *share)
        p = today.probabilities(shown.user, shown.item, shown.hour, shown.device, shown.position)
        yield Chunk(first, shown, p, draw_labels(rng, p))


def warm_up(truth: GroundTruth, history: ClickHistory) -> None:
    """Fill the histories with clicks drawn from the truth before the first day; rare users are left with none."""
    today, left, g = truth.day(0), WARM_UP_EXPOSURES * truth.spec.users, 0
    while left > 0:
        rng = stream(truth.spec.seed, Purpose.WARM_UP, g)
        shown = truth.draw_exposures(rng, min(left, 65_536))
        p = today.probabilities(shown.user, shown.item, shown.hour, shown.device, shown.position)
        clicked = draw_labels(rng, p)["click"] != 0
        history.add(shown.user[clicked], shown.item[clicked])
        left, g = left - 65_536, g + 1


def to_table(chunk: Chunk, today: DayTruth, date: dt.date, lists: tuple[pa.ListArray, pa.ListArray]) -> pa.Table:
    """A chunk as Arrow, with the `SCHEMA` of the log. `lists` are the day's opening histories, one a user."""
    shown, truth = chunk.shown, today.truth
    midnight = np.datetime64(date, "ms").astype(np.int64)
    user = pa.array(shown.user)
    columns = [
        user,
        pa.array(shown.item),
        pa.array(truth.item_category_I[shown.item]),
        pa.array(shown.time_ms + midnight, type=pa.timestamp("ms")),
        pa.array(CITIES).take(pa.array(truth.user_city_U[shown.user])),
        pa.array(DEVICES).take(pa.array(shown.device)),
        pa.array(truth.user_age_U[shown.user]),
        pa.array(today.price_I[shown.item]),
        pa.array(shown.hour),
        pa.array(shown.position),
        lists[0].take(user),
        lists[1].take(user),
        *(pa.array(chunk.labels[task]) for task in TASKS),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def truth_probabilities(truth: GroundTruth, day: int, rows: pa.Table) -> Probabilities:
    """The true probabilities of rows read back from the log of day `day` (0 the first): what a perfect model says.

    Needs the columns user_id, item_id, hour, device and position.
    """
    device = pc.index_in(rows["device"], value_set=pa.array(DEVICES)).to_numpy().astype(np.int64)
    user, item, hour, position = (rows[name].to_numpy() for name in ("user_id", "item_id", "hour", "position"))
    return truth.day(day).probabilities(user, item, hour, device, position)


def generate_log(out: str, spec: LogSpec, progress: Callable[[Progress], None] | None = None) -> LogSummary:
    """Write the log of `spec` below `out` (a path or any fsspec URL), and the truth beside it.

    A finished log of the same settings is left alone; an interrupted one is completed: finished days are drawn again,
    for the histories they leave behind, but not written again. Other content in `out` is a ValueError.
    """
    began = time.perf_counter()
    store = LogStore(out)
    record = store.read_truth(spec.recorded())
    dates = [f"{spec.date(day)}" for day in range(spec.days)]
    done = [d in record["days"] and store.fs.exists(store.path(f"dt={d}", SUCCESS_MARKER)) for d in dates]
    if all(done):
        return LogSummary(0, time.perf_counter() - began, record)
    _write_truth(store, record)
    truth = GroundTruth(spec.world)
    history = ClickHistory(spec.world.users)
    warm_up(truth, history)
    written = 0
    for day, date in enumerate(dates):
        today = truth.day(day)
        if done[day]:
            for chunk in draw_chunks(spec, today, day):
                _remember(history, chunk)
            continue
        for rows in _write_day(store, spec, today, day, history, record):
            if progress is not None:
                total = spec.rows_per_day
                progress(Progress(spec.date(day), day, rows, total, time.perf_counter() - began, written + rows))
        written += spec.rows_per_day
        _write_truth(store, record)
        store.write(lambda sink: None, f"dt={date}", SUCCESS_MARKER)
    return LogSummary(written, time.perf_counter() - began, record)


def _write_day(
    store: LogStore, spec: LogSpec, today: DayTruth, day: int, history: ClickHistory, record: dict[str, Any]
) -> Iterator[int]:
    """Write the files of one day, yielding the rows written after each; then put the day's AUCs into `record`."""
    date = spec.date(day)
    lists = history.snapshot()
    scores = _DayScores(spec.rows_per_day)
    chunks = draw_chunks(spec, today, day)
    groups = len(spec.groups()) - 1
    files = -(-groups // GROUPS_A_FILE)
    for part in range(files):
        here = groups * (part + 1) // files - groups * part // files

        def fill(sink: Any, here: int = here) -> None:
            with pq.ParquetWriter(sink, SCHEMA, **WRITER_OPTIONS) as writer:
                for _ in range(here):
                    chunk = next(chunks)
                    scores.put(chunk.first, chunk.p, chunk.labels)
                    writer.write_table(to_table(chunk, today, date, lists), row_group_size=len(chunk.p.click))
                    _remember(history, chunk)

        store.write(fill, f"dt={date}", f"part-{part:05d}.parquet")
        yield spec.groups()[groups * (part + 1) // files]
    record["days"][f"{date}"] = scores.attainable()


def _remember(history: ClickHistory, chunk: Chunk) -> None:
    clicked = chunk.labels["click"] != 0
    history.add(chunk.shown.user[clicked], chunk.shown.item[clicked])


def _write_truth(store: LogStore, record: dict[str, Any]) -> None:
    store.write(lambda sink: sink.write(json.dumps(record, indent=1).encode()), TRUTH_FILE)
