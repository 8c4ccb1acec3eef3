"""DailyConfig: one day's unit of work, its limits and its tolerances."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.errors import InputError
from schemas.strict import Strict, nearest
from schemas.tasks import TaskSpec

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
ALL_ROWS = "all"
"""What the gate calls the held-out rows of every slice."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class WaitConfig(Strict):
    """When a day is there."""

    minutes: NotNegative = 0
    """How long to wait for the day's _SUCCESS marker and `min_rows`; then it is late."""
    poll_seconds: Positive = 60
    """Between two looks."""
    min_rows: Annotated[int, Field(ge=1)] = 1
    """Rows below which a day is not complete, whatever its marker says."""


class ChecksConfig(Strict):
    """The limits a day is held to before anything trains on it; most against the recent days that passed."""

    recent_days: Annotated[int, Field(ge=1)] = 7
    """Days to compare with: the latest that passed."""
    min_days: Annotated[int, Field(ge=1)] = 3
    """So many must have passed before a day is compared at all; what needs no other day is checked from the first."""
    z: NotNegative = 5.0
    """Standard errors from the recent days, their scatter included, below which nothing is odd, whatever its size."""
    rows_times: Annotated[float, Field(gt=1)] = 1.6
    """A day's rows over the median of the recent days', or the other way round."""
    label_change: Positive = 0.5
    """Relative change of a task's rate on its own space, or of a regression label's mean."""
    missing_change: Share = 0.05
    """Change of a column's share of missing values."""
    mean_change: Positive = 0.5
    """Change of a number's mean, in standard deviations of the recent days."""
    distance: Share = 0.25
    """Total variation distance of a column's values from those of the recent days (0 alike, 1 nothing in common),
    beyond that of a recent day from the others."""
    meaning: Share = 0.5
    """Fall of what a column's values tell of the first task's label, as a fraction of what they usually tell."""
    fresh_change: Share = 0.2
    """Rise of the share of a column's values that the recent days did not have, or of a feature's ids that are out of
    vocabulary."""
    outside: Share = 0.0
    """Share of rows whose event_time lies outside of their day."""
    clock_hours: Annotated[float, Field(ge=-14, le=14)] = 0.0
    """The log's days begin so many hours after midnight UTC; a time zone east of it is negative."""
    slack_minutes: NotNegative = 60
    """How far outside of its day an event_time may lie: clocks, and sessions over midnight."""
    auc_drop: Share = 0.05
    """Fall of the champion's AUC of a task on the new day, under its mean on the recent days."""


class Tolerance(Strict):
    """What a task may lose before it counts."""

    auc: NotNegative = 0.002
    """Fall of the AUC."""
    log_loss: NotNegative = 0.005
    """Rise of the log loss, as a fraction of the champion's."""
    calibration: NotNegative = 0.1
    """Rise of |ln(calibration)|: 0.1 is a ratio 10 % further from 1."""
    mse: NotNegative = 0.01
    """Rise of a regression task's mean squared error, as a fraction of the champion's."""


class SliceSpec(Strict):
    """Rows that are judged by themselves as well: give exactly one of `new_days`, `tail`, `values`."""

    name: Name
    """Of the slice."""
    column: str
    """Integer or string column of the log."""
    new_days: Annotated[int, Field(ge=1)] | None = None
    """Rows whose value did not occur in so many days before this one: new users."""
    tail: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Rows of the least exposed values that together make up this share of the day: tail items."""
    values: Annotated[int, Field(ge=1)] | None = None
    """A slice for each of the so many most frequent values: tenants."""

    @model_validator(mode="after")
    def _one_kind(self) -> "SliceSpec":
        if sum(kind is not None for kind in (self.new_days, self.tail, self.values)) != 1:
            raise ValueError(f"slice '{self.name}': give exactly one of new_days, tail, values")
        return self


class GateConfig(Strict):
    """Challenger against champion, on the same held-out rows: any task that pays blocks."""

    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """That a challenger which is worse nowhere is not refused by chance, over all comparisons together."""
    resamples: Annotated[int, Field(ge=100)] = 1000
    """Of the paired bootstrap, by user."""
    min_positives: Annotated[int, Field(ge=2)] = 50
    """A comparison on fewer positives, or fewer negatives, is told and does not judge."""
    tolerance: Tolerance = Tolerance()
    """Of every task."""
    tasks: dict[Name, Tolerance] = {}
    """Of single tasks, instead."""
    floors: dict[Name, Share] = {}
    """The least AUC of a task on its own space; all that a first champion is judged by."""
    slices: list[SliceSpec] = []
    """Rows judged by themselves as well."""
    unsure: Literal["pass", "refuse"] = "pass"
    """What becomes of a loss beyond tolerance that the rows are too few to tell from noise."""


def check_gate(gate: GateConfig, tasks: Sequence[TaskSpec]) -> None:
    """Raises InputError for a tolerance or floor of what is no task, and for a slice's name that is taken."""
    names = [task.name for task in tasks]
    binary = [task.name for task in tasks if task.kind == "binary"]
    for key, given, known in (("tasks", gate.tasks, names), ("floors", gate.floors, binary)):
        for name in given:
            if name not in known:
                kind = "task" if key == "tasks" else "binary task"
                raise InputError(f"daily.gate.{key}.{name}: no {kind} '{name}'; {nearest(name, known)}")
    slices = [spec.name for spec in gate.slices]
    for name in slices:
        if slices.count(name) > 1 or name == ALL_ROWS:
            raise InputError(
                f"daily.gate.slices: two slices are named '{name}' ('{ALL_ROWS}' is every held-out row); rename one"
            )


class RetentionConfig(Strict):
    """Whose weights are kept. Records are kept for ever."""

    champions: Annotated[int, Field(ge=1)] = 7
    """The latest champions, this one included: those one can roll back to."""
    challengers: Annotated[int, Field(ge=0)] = 3
    """The latest models that were never champion."""


class AlertsConfig(Strict):
    """Who is told of late data, a failed validation, a refused gate, a failed run."""

    wandb: bool = True
    """An alert of the day's wandb run."""
    webhook: Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]*$")] | None = None
    """Environment variable that holds a URL to which each alert is posted as JSON; the URL itself is often a secret."""


class VocabularyConfig(Strict):
    """How vocabularies grow, day by day, within their tables' rows."""

    min_count: Annotated[int, Field(ge=1)] = 5
    """Look-ups of a new value, on the days to be trained on together, that give it a row of its own."""


class DailyConfig(Strict):
    """Daily retraining: `./launch.sh daily CONFIG.yaml --date DAY`."""

    wait: WaitConfig = WaitConfig()
    checks: ChecksConfig = ChecksConfig()
    missing_days: Literal["refuse", "skip"] = "refuse"
    """A day between the champion's last one and this one that was not trained: refuse = this day is not begun;
    skip = it is left out, and the lineage says so."""
    refused_days: Literal["retrain", "leave_out"] = "retrain"
    """Days whose challenger was refused: whether the next challenger trains on them again."""
    late_files: Literal["report", "train", "refuse"] = "report"
    """Files that came after their day was frozen: report = left out and told; train = with the next day;
    refuse = the next day is not begun."""
    loss_weights: Literal["restart", "continue"] = "continue"
    """Whether w0 gamma^t begins anew each day or goes on from the champion's t."""
    optimizer: bool = True
    """Take the champion's optimizer state along."""
    changes: list[str] = []
    """Differences of structure that the next challenger may have, as `warm_start.changes`; those already made are
    passed over."""
    vocabulary: VocabularyConfig | None = None
    """Grow the vocabularies that features declare by each day's values; none = they stay."""
    gate: GateConfig = GateConfig()
    retention: RetentionConfig = RetentionConfig()
    lease_seconds: Annotated[int, Field(ge=5)] = 120
    """How long a holder that no longer answers is believed to be at work."""
    alerts: AlertsConfig = AlertsConfig()
