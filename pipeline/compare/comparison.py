"""The finished runs of a comparison put together: each task's metric by side, gains, who gained and who paid."""

import dataclasses
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import pyarrow as pa

from pipeline.compare.results import Records, results_table
from pipeline.compare.statistics import BySeed, Estimate, Gain, corrected, estimate, gain, pareto

UNLIKE_SIZES = 0.05
"""Dense networks whose sizes differ by more than this share are told of."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """A metric of a task."""

    task: str
    joint: bool
    """Of the joint probability over all exposures."""
    metric: str
    """As in the results' table: auc, mse, log_loss, ..."""

    @property
    def row(self) -> str:
        """Its task as the closing table of a run calls it."""
        return f"{self.task} (joint)" if self.joint else self.task

    @property
    def higher_is_better(self) -> bool:
        """Whether more of it is a gain."""
        return self.metric in ("auc", "r2")

    @property
    def form(self) -> str:
        """How its values are written."""
        return ".4g" if self.metric in ("mse", "mae") else ".3f" if self.metric == "calibration" else ".4f"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What may be said of a side against the baseline, by its tasks' own main metrics."""

    gained: list[str]
    paid: list[str]
    unseen: list[str]
    """Tasks on which no difference was seen."""
    alone: list[str] = dataclasses.field(default_factory=list)
    """Tasks of which the two share one seed."""

    @property
    def words(self) -> str:
        """In a phrase."""
        if self.gained and self.paid:
            return f"a seesaw: {', '.join(self.gained)} gained, {', '.join(self.paid)} paid"
        if self.gained:
            return f"{', '.join(self.gained)} gained, nobody paid"
        if self.paid:
            return f"{', '.join(self.paid)} paid, nobody gained"
        if self.unseen:
            return "no difference seen on any task"
        return "one seed: nothing can be said" if self.alone else "no seed that both have finished: nothing can be said"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Everything that the reports tell."""

    name: str
    sides: list[str]
    baseline: str
    seeds: list[int]
    records: Records
    missing: list[tuple[str, int, str]]
    """Side, seed, and why it is not there."""
    about: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """What was compared, in words."""

    @cached_property
    def table(self) -> pa.Table:
        """results.parquet."""
        return results_table(self.records)

    @cached_property
    def values(self) -> dict[tuple[str, Measure], BySeed]:
        """Every metric of every task by side and measure, but for infinite ones; tasks in the job's order."""
        out: dict[tuple[str, Measure], dict[int, float]] = {}
        for row in self.table.to_pylist():
            if row["task"] is not None and math.isfinite(row["value"]):
                measure = Measure(row["task"], row["joint"], row["metric"])
                out.setdefault((row["side"], measure), {})[row["seed"]] = row["value"]
        return dict(out)

    def by_seed(self, side: str, measure: Measure) -> BySeed:
        """Empty where the side has no such task, or nothing finished."""
        return self.values.get((side, measure), {})

    def mean(self, side: str, measure: Measure) -> Estimate | None:
        """Over the side's seeds."""
        values = self.by_seed(side, measure)
        return estimate(list(values.values())) if values else None

    def measures(self, joint: bool, metrics: Sequence[str]) -> list[Measure]:
        """Those of these metrics that any side has."""
        found = dict.fromkeys(measure for _, measure in self.values)
        return [m for m in found if m.joint == joint and m.metric in metrics]

    @cached_property
    def main(self) -> list[Measure]:
        """Each task's own: AUC, or MSE of a regression task."""
        return self.measures(False, ("auc", "mse"))

    @cached_property
    def main_joint(self) -> list[Measure]:
        """AUC of each joint probability."""
        return self.measures(True, ("auc",))

    @property
    def others(self) -> list[str]:
        """The sides that are held against the baseline."""
        return [side for side in self.sides if side != self.baseline]

    @cached_property
    def gains(self) -> dict[tuple[str, Measure], Gain]:
        """By side and measure, for `main` and `main_joint`, each corrected as a family."""
        out: dict[tuple[str, Measure], Gain] = {}
        for family in (self.main, self.main_joint):
            found = {
                (side, measure): one
                for side in self.others
                for measure in family
                if (one := self.gain(side, measure)) is not None
            }
            out |= dict(zip(found, corrected(list(found.values())), strict=True))
        return out

    def gain(self, side: str, measure: Measure) -> Gain | None:
        """Of any measure, not corrected."""
        return gain(self.by_seed(side, measure), self.by_seed(self.baseline, measure), measure.higher_is_better)

    def verdict(self, side: str) -> Verdict:
        """Over the tasks that the side and the baseline share."""
        said: dict[str, list[str]] = {"gained": [], "paid": [], "no difference seen": [], "one seed": []}
        for measure in self.main:
            one = self.gains.get((side, measure))
            if one is not None:
                said[one.word].append(measure.task)
        return Verdict(said["gained"], said["paid"], said["no difference seen"], said["one seed"])

    def pareto(self, with_speed: bool = False) -> set[str]:
        """Sides that no other beats on every task by the means, and on rows/s, of the sides that have them all."""
        points = {}
        for side in self.sides:
            means = [self.mean(side, measure) for measure in self.main]
            speed = self.of_runs(side, "rows_per_second")
            if any(mean is None for mean in means) or (with_speed and speed is None):
                continue
            signed = [m.mean * (1 if k.higher_is_better else -1) for k, m in zip(self.main, means, strict=True) if m]
            points[side] = signed + ([speed.mean] if with_speed and speed else [])
        return pareto(points) if self.main else set()

    def of_runs(self, side: str, key: str) -> Estimate | None:
        """The mean over the side's runs of something told of a run as a whole."""
        values = [r[key] for (name, _), r in self.records.items() if name == side and r[key] is not None]
        return estimate(values) if values else None

    def told(self, side: str) -> dict[str, Any] | None:
        """Any record of the side's, for what all of them share."""
        return next((dict(record) for (name, _), record in self.records.items() if name == side), None)

    def notes(self) -> list[str]:
        """What makes the sides less comparable than they look."""
        out = []
        records = {side: told for side in self.sides if (told := self.told(side)) is not None}
        sizes = {side: told["dense_parameters"] for side, told in records.items()}
        if sizes and max(sizes.values()) > (1 + UNLIKE_SIZES) * min(sizes.values()):
            least, most = min(sizes, key=lambda s: sizes[s]), max(sizes, key=lambda s: sizes[s])
            out.append(
                f"the dense networks differ in size: {least} has {sizes[least]:,} parameters, {most} "
                f"{sizes[most]:,}; --size gives all sides one"
            )
        kinds = {(r["precision"], r["device"], r["ranks"]) for r in self.records.values()}
        if len(kinds) > 1:
            told_kinds = ", ".join(f"{p} on {n} {d} ranks" for p, d, n in sorted(kinds))
            out.append(f"the runs were not trained alike: {told_kinds}")
        for measure in self.measures(False, ("rows", "positives")):
            if len({value for side in self.sides for value in self.by_seed(side, measure).values()}) > 1:
                out.append(f"task {measure.task}: the sides are evaluated on unlike numbers of {measure.metric}")
        if len({record["fingerprints"]["training"] for record in self.records.values()}) > 1:
            out.append("the sides are trained on unlike files")
        return out + self._undefined()

    def _undefined(self) -> list[str]:
        """Metrics that are no number, and of which runs: no table has them."""
        lost: dict[tuple[str, str, str], list[str]] = {}
        for (side, seed), record in self.records.items():
            for task, told in record["tasks"].items():
                main = "mse" if told["kind"] == "regression" else "auc"
                for part in ("own", "joint"):
                    for metric, value in told.get(part, {}).items():
                        if metric.endswith(("_low", "_high")):
                            continue
                        why = "no rows, or all of one label" if value is None else "it is infinite"
                        if (metric == main) if value is None else not math.isfinite(value):
                            key = Measure(task, part == "joint", metric).row, metric, why
                            lost.setdefault(key, []).append(f"{side} seed {seed}")
        out = []
        for (row, metric, why), runs in lost.items():
            whose = "any run" if len(runs) == len(self.records) else ", ".join(runs[:5]) + ", ..." * (len(runs) > 5)
            out.append(f"task {row}: {metric} is not defined for {whose} ({why}), and left out")
        return out
