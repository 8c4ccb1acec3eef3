"""Which statistics of each day a job's features need, and what decides their numbers. No torch."""

import dataclasses
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.features import CountFeature, HistoryListFeature, LookingBack
from schemas.job import JobConfig
from schemas.tasks import TaskSpec

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Statistic:
    """What is kept of each day: the rows of each value, a task's rows and the sum of its label, or the last values."""

    columns: tuple[str, ...]
    task: str | None
    """None takes all rows."""
    declaration: str = dataclasses.field(compare=False)
    """All settings that decide its numbers, as JSON."""
    feature: str = dataclasses.field(compare=False)
    """The first feature that asks for it, for messages."""
    values: tuple[str, int] | None = None
    """The column whose last values are kept for each key, and how many; None keeps sums."""

    @property
    def name(self) -> str:
        """As the index of a run lists it."""
        return json.dumps([list(self.columns), self.task, *(self.values or ())])


@dataclasses.dataclass(frozen=True)
class DaySums:
    """One statistic of one day, by key rising."""

    key_K: Int64
    count_K: Int64
    sum_K: Float64
    """Of the labels; zeros where rows are counted alone."""


@dataclasses.dataclass(frozen=True)
class DayLists:
    """The last values of each key on one day, by key and time rising."""

    key_M: Int64
    value_M: Int64


DayStatistic = DaySums | DayLists


def statistics_of(job: JobConfig) -> list[Statistic]:
    """What the job's features need of each day."""
    out: dict[Statistic, None] = {}
    for feature in job.history:
        out.setdefault(statistic_of(job, feature))
    return list(out)


def statistic_of(job: JobConfig, feature: LookingBack) -> Statistic:
    """What one of them needs."""
    columns, values = tuple(feature.sources), None
    if isinstance(feature, HistoryListFeature):
        columns, values = (feature.by,), (feature.source, feature.last)
    task = None if isinstance(feature, CountFeature) else feature.task
    settings: dict[str, Any] = {"columns": columns, "values": values, "corrupt": job.data.bad.corrupt}
    if task is not None:
        tree = labels_alone(job, task)
        names = [t.name for t in tree.tasks]
        told = [
            {"label": t.source, "kind": t.kind, "clip": t.clip, "indicator": t.indicator}
            | {"given": None if t.given is None else names.index(t.given)}
            for t in tree.tasks
        ]
        settings |= {"task": names.index(task), "tasks": told}
        settings |= {"funnel": job.data.funnel, "labels": job.data.bad.labels}
    return Statistic(columns, task, json.dumps(settings, sort_keys=True), feature.name, values)


def labels_alone(job: JobConfig, task: str) -> JobConfig:
    """The job with the labels alone that decide the task's space and label: the binary tasks of its tree, and itself.

    All of the tree: a child's positive may promote the parent's label, or put the row into quarantine.
    """
    by_name = {t.name: t for t in job.tasks}

    def root(spec: TaskSpec) -> str:
        while spec.given is not None:
            spec = by_name[spec.given]
        return spec.name

    own = root(by_name[task])
    plain: dict[str, Any] = {"space": None, "sample_weight": None}
    tasks = [t for t in job.tasks if t.name == task or (t.kind == "binary" and root(t) == own)]
    alone = {"features": [], "space": "conditional", "tasks": [t.model_copy(update=plain) for t in tasks]}
    return job.model_copy(update=alone)
