"""The statistics of earlier days: which days a job looks back on, counted where they are not yet, frozen with its log.

A day's statistics are sums, so a daily retraining counts yesterday alone (history_files.py). What a run uses is written
into its manifest, digest by digest, with which every checkpoint comes: a resume encodes with the same numbers, bit for
bit, or is refused. No torch.

    attach       manifest -> the same with the index of its statistics, counted where they are missing
    history_of   index -> the features of any of its days (history_lookup.py)
    scoring_day  the features of a day of which no label is known yet, as training on it would see them
"""

import datetime
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import pyarrow.compute as pc

from pipeline.data.files import plan
from pipeline.data.history_files import HistoryFiles, entries_of, name_of
from pipeline.data.history_lists import RunningLists
from pipeline.data.history_lookup import History, Running, build_bytes, held_bytes
from pipeline.data.history_statistics import DayLists, DayStatistic, DaySums, Statistic, labels_alone, statistics_of
from pipeline.data.history_sums import DayCount
from pipeline.data.manifest import HISTORY, Manifest, manifest_of
from pipeline.data.quarantine import left_out
from pipeline.storage import filesystem
from schemas.errors import InputError
from schemas.events import PARTITION_KEY, DayRange
from schemas.job import JobConfig

SECONDS_BETWEEN_LINES = 5.0
OF_A_SCHEMA = ("schema", "drift")
"""Kinds of pieces that depend on the columns a job reads, or on other days."""
Index = dict[str, dict[str, list[Any]]]
"""By statistic and day: [file below the folder, digest of its numbers, its values]."""


def files_of(job: JobConfig) -> HistoryFiles:
    """Where the days' statistics lie."""
    folder, storage = job.data.history.folder, job.data.storage
    if folder is not None:
        return HistoryFiles(folder, storage)
    return HistoryFiles(f"{job.output.rstrip('/')}/statistics", storage, "output")


def _say(line: str) -> None:
    print(line, flush=True)


def attach(job: JobConfig, manifests: Sequence[tuple[Manifest, DayRange]], tell: Callable[[str], None] = _say) -> None:
    """Writes into each manifest's origin the statistics that its days are encoded with, counted where they are not yet.

    A manifest that has them already, from a checkpoint, keeps them. Raises InputError, naming the feature, where such
    statistics are gone and the log does not give them again.
    """
    if not job.history:
        return
    found = _Days(job, manifests, tell)
    for manifest, _ in manifests:
        if HISTORY in manifest.origin:
            found.keep(manifest.origin[HISTORY])
    for manifest, own in manifests:
        if HISTORY not in manifest.origin:
            manifest.origin[HISTORY] = found.index(own.last)
        _check_memory(job, manifest.origin[HISTORY])


def scoring_day(job: JobConfig, day: datetime.date, tell: Callable[[str], None] = _say) -> History:
    """The features of a day's rows as training on that day would see them; the day itself is not looked at."""
    return history_of(job, index_before(job, day, tell))


def index_before(job: JobConfig, day: datetime.date, tell: Callable[[str], None] = _say) -> Index:
    """The statistics of all days of the history before `day`, counted where they are not yet."""
    index = _Days(job, [], tell).index(day)
    _check_memory(job, index)
    return index


def history_of(job: JobConfig, index: Index | None) -> History:
    """What encodes rows with the statistics of an index. Raises InputError where they are gone or damaged."""
    assert index is not None, "manifests of a job that looks back are made by plan_job, or go through `attach`"
    names = tuple(statistic.name for statistic in statistics_of(job))
    key = (files_of(job).folder, names, json.dumps(index))
    if key not in _held:
        _held.clear()  # before the next is built: the evaluation's takes the place of the training's
        _held[key] = _running(job, index)
    return History(job, *_held[key])


_held: dict[tuple[Any, ...], tuple[dict[tuple[str, ...], Running], dict[str, RunningLists]]] = {}
"""What `_running` built last: one for all epochs of a process, then the evaluation's."""


def _running(job: JobConfig, index: Index) -> tuple[dict[tuple[str, ...], Running], dict[str, RunningLists]]:
    """Sums by columns, lists by statistic's name; one after another, as `_check_memory` counts them."""
    files = files_of(job)
    sums: dict[tuple[str, ...], Running] = {}
    lists: dict[str, RunningLists] = {}
    for own in _together(job):
        tasks: dict[str | None, list[DaySums]] = {}
        days: list[int] = []
        for statistic in own:
            entries = sorted(index[statistic.name].items())
            days = [datetime.date.fromisoformat(day).toordinal() for day, _ in entries]
            found = [_read(files, statistic, day, *entry) for day, entry in entries]
            if statistic.values:
                lists[statistic.name] = RunningLists(days, cast(list[DayLists], found), statistic.values[1])
            else:
                tasks[statistic.task] = cast(list[DaySums], found)
            del found
        if tasks:
            sums[own[0].columns] = Running(days, tasks)
    return sums, lists


def _together(job: JobConfig) -> list[list[Statistic]]:
    """The statistics, those side by side that lie in one structure."""
    out: dict[tuple[str, ...], list[Statistic]] = {}
    for statistic in statistics_of(job):
        out.setdefault((statistic.name,) if statistic.values else statistic.columns, []).append(statistic)
    return list(out.values())


def _read(files: HistoryFiles, statistic: Statistic, day: str, name: str, digest: str, entries: int) -> DayStatistic:
    numbers, found = files.read(name, statistic, frozen=True)
    if found != digest:
        raise InputError(_other(statistic, day, f"{files.folder}/{name} holds other numbers"))
    return numbers


def _other(statistic: Statistic, day: str, what: str) -> str:
    return (
        f"features.{statistic.feature}: the statistics of {day} are not those that the run began with ({what}); "
        "restore the day to go on, or name another output to start anew"
    )


class _Days:
    """The days that a job may look back on, each counted once."""

    def __init__(
        self, job: JobConfig, manifests: Sequence[tuple[Manifest, DayRange]], tell: Callable[[str], None]
    ) -> None:
        self._job, self._tell = job, tell
        self._statistics = statistics_of(job)
        self._known = [(manifest, own.days()) for manifest, own in manifests]
        self._files = files_of(job)
        self._found: dict[str, dict[str, list[Any]]] = {}

    def index(self, last: datetime.date) -> Index:
        """The statistics of all days of the history before `last`, counted where they are not yet."""
        first = self._job.data.history_from
        days = [first + datetime.timedelta(n) for n in range((last - first).days)]
        by_day = {str(day): self._of(day) for day in days}
        return {s.name: {day: found[s.name] for day, found in by_day.items()} for s in self._statistics}

    def keep(self, frozen: Index) -> None:
        """Goes on with the statistics that a run began with, for the days of its evaluation too.

        Raises InputError where one is gone, and the log does not give it again.
        """
        for statistic in self._statistics:
            for day, entry in frozen.get(statistic.name, {}).items():
                name, digest, _ = entry
                if not self._files.exists(name):
                    again = self._count(datetime.date.fromisoformat(day))[statistic.name]
                    if again[1] != digest:
                        raise InputError(_other(statistic, day, "its file is gone, and the log's day has changed"))
                    entry[:] = again  # the name is another under another policy of bad data
        for day in {day for days in frozen.values() for day in days}:
            found = {name: days[day] for name, days in frozen.items() if day in days}
            if all(statistic.name in found for statistic in self._statistics):
                self._found[day] = found

    def _of(self, day: datetime.date) -> dict[str, list[Any]]:
        if str(day) not in self._found:
            self._found[str(day)] = self._count(day)
        return self._found[str(day)]

    def _count(self, day: datetime.date) -> dict[str, list[Any]]:
        """By statistic, the day's file, digest and number of values."""
        manifest, out = self._manifest(day), {}
        missing = []
        for statistic in self._statistics:
            name = name_of(statistic, str(day), manifest.fingerprint)
            if self._files.exists(name):
                found, digest = self._files.read(name, statistic)
                out[statistic.name] = [name, digest, entries_of(found)]
            else:
                missing.append((statistic, name))
        if missing:
            counted = DayCount(self._job, [s for s, _ in missing], str(day))
            for (statistic, found), (_, name) in zip(
                counted.count(manifest, self._progress(day, manifest.rows)).items(), missing, strict=True
            ):
                out[statistic.name] = [name, self._files.write(name, statistic, found), entries_of(found)]
        return out

    def _manifest(self, day: datetime.date) -> Manifest:
        """The day's own: cut out of the run's, or planned.

        Planned too where the run leaves out files of the day: what it finds in a column that the history does not read
        would make the day another than at scoring.
        """
        for manifest, days in self._known:
            if day in days and not any(p.day == str(day) and p.kind in OF_A_SCHEMA for p in left_out(manifest)):
                inside = pc.starts_with(manifest.files.column("path"), f"{PARTITION_KEY}={day}/")
                root = filesystem(self._job.data.path, self._job.data.storage)[1]
                return manifest_of(manifest.files.filter(inside).combine_chunks(), root, {})
        names = {s.task for s in self._statistics}
        alone = self._job.model_copy(update={"features": self._job.history, "tasks": _with_trees(self._job, names)})
        try:
            return plan(alone, DayRange.model_validate({"from": day, "to": day}))
        except InputError as error:
            raise InputError(
                f"{error} (a day of the history: features.{self._statistics[0].feature} looks back to "
                f"{self._job.data.history_from}, data.history.from)"
            ) from error

    def _progress(self, day: datetime.date, total: int) -> Callable[[int], None]:
        began, last, rows = time.perf_counter(), time.perf_counter(), 0

        def tell(more: int) -> None:
            nonlocal last, rows
            rows += more
            now = time.perf_counter()
            if rows >= total or now - last >= SECONDS_BETWEEN_LINES:
                last = now
                speed = rows / max(now - began, 1e-9)
                self._tell(f"history of {day}: {rows:,}/{total:,} rows  {speed:,.0f} rows/s")

        return tell


def _with_trees(job: JobConfig, names: set[str | None]) -> list[Any]:
    """The tasks that the statistics of these are made of, in the job's order."""
    kept = {t.name for name in names if name is not None for t in labels_alone(job, name).tasks}
    return [task for task in job.tasks if task.name in kept]


def _check_memory(job: JobConfig, index: Index) -> None:
    """Raises InputError where a rank would not hold the statistics."""
    together = _together(job)
    entries = [_entries(job, index, own) for own in together]
    sizes = [(number, len(own)) for own, number in zip(together, entries, strict=True)]
    taken = [held_bytes(*size) for size in sizes]
    limit, total = job.data.history.memory_mib, sum(taken) + max(build_bytes(*size) for size in sizes)
    if total > limit << 20:
        most = taken.index(max(taken))
        of = " x ".join(together[most][0].columns)
        raise InputError(
            f"features.{together[most][0].feature}: the statistics of the earlier days take {total / 2**20:,.0f} MiB "
            f"of each rank while they are built, {taken[most] / 2**20:,.0f} remain for the {entries[most]:,} values of "
            f"{of}, and data.history.memory_mib is {limit:,}; raise it, begin data.history.from later, or remove the "
            "feature"
        )


def _entries(job: JobConfig, index: Index, own: list[Statistic]) -> int:
    """At most so many values and days lie in the structure of these."""
    each = [sum(entry[2] for entry in index.get(statistic.name, {}).values()) for statistic in own]
    spec = {task.name: task for task in job.tasks}
    whole = [s.task is None or not (spec[s.task].given or spec[s.task].indicator) for s in own]
    return max(each) if any(whole) else sum(each)  # of tasks that may share no row
