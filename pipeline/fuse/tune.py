"""Trials, floors and the choice: what the weights came to on the days tuned on, and on later ones.

Shapes: K factors, T tasks, P trials.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.fuse.day import Day, Difference, difference
from pipeline.fuse.search import Trials, best_of, equal_weights, pareto, search
from schemas.errors import InputError
from schemas.fuse import FuseConfig
from schemas.fusion import FusionConfig

Float64 = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Line:
    """One task under the tuned weights and under equal ones, on the same days."""

    task: str
    equal: float | None
    tuned: float | None
    difference: Difference | None
    """Tuned less equal."""
    lists: int
    """Lists that measure it."""
    floor: float | None
    """The least value it may have; of one that goes by equal weights, on these days."""


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What came of it."""

    config: FuseConfig
    fusion: FusionConfig
    """With the chosen weights."""
    names: list[str]
    """Of the factors, in the order of the weights."""
    tasks: list[str]
    trials: Trials
    chosen: int
    front: list[int]
    """Trials, the largest objective first."""
    tune: list[Line]
    check: list[Line]
    """Empty without days to check on."""
    days: list[str]
    """What is known of either days, in words."""

    @property
    def weight_K(self) -> Float64:
        """The chosen weights."""
        return self.trials.weight_PK[self.chosen]

    @property
    def measure(self) -> str:
        """As NDCG@10."""
        objective = self.config.objective
        return f"NDCG@{objective.k}" if objective.measure == "ndcg" else "GAUC"


def tune(
    fusion: FusionConfig,
    config: FuseConfig,
    seed: int,
    day: Day,
    later: Day | None,
    tell: Callable[[int], None] = lambda looked_at: None,
) -> Tuned:
    """Searches the weights on one day. Raises InputError where none keeps the floors."""
    tasks, factor = day.tasks, fusion.factor is not None
    terms, objective = len(fusion.terms), tasks.index(config.objective.task)
    equal_T = day.values(equal_weights(terms, factor))
    floor_T = _floors(config, tasks, equal_T)

    def violation(value_T: Float64) -> float:
        return float(np.maximum(np.where(np.isnan(floor_T), 0.0, floor_T - value_T), 0.0).sum())

    trials = search(day.values, violation, objective, terms, factor, config.trials, seed, tell)
    chosen = best_of(trials, violation, objective)
    if chosen is None:
        raise InputError(_unreached(tasks, floor_T, trials, violation))
    measured = [at for at in range(len(tasks)) if not np.isnan(equal_T[at])]
    weight_K = trials.weight_PK[chosen]
    return Tuned(
        config,
        with_weights(fusion, weight_K),
        names(fusion),
        tasks,
        trials,
        chosen,
        pareto(trials, measured, objective),
        _lines(day, config, weight_K, terms, factor),
        [] if later is None else _lines(later, config, weight_K, terms, factor),
        [_words(each) for each in (day, later) if each is not None],
    )


def names(fusion: FusionConfig) -> list[str]:
    """Of the factors, in their order."""
    out = []
    for term in fusion.terms:
        how = f"{term.map} of value" if term.map else "joint" if term.probability == "joint" else "p"
        out.append(f"{how} {term.task}" if term.map else f"{how}.{term.task}")
    return out + ([f"{fusion.factor.map} of {fusion.factor.column}"] if fusion.factor is not None else [])


def with_weights(fusion: FusionConfig, weight_K: Float64) -> FusionConfig:
    """The same factors under other weights."""
    weights = weight_K.tolist()
    terms = [term.model_copy(update={"weight": w}) for term, w in zip(fusion.terms, weights, strict=False)]
    factor = fusion.factor
    if factor is not None:
        factor = factor.model_copy(update={"weight": weights[-1]})
    return fusion.model_copy(update={"terms": terms, "factor": factor})


def _floors(config: FuseConfig, tasks: list[str], equal_T: Float64) -> Float64:
    return np.array([_floor(config, task, float(equal)) for task, equal in zip(tasks, equal_T, strict=True)])


def _floor(config: FuseConfig, task: str, equal: float) -> float:
    floor = config.floors.get(task)
    if floor is None:
        return float("nan")
    if floor.at_least is not None:
        return floor.at_least
    assert floor.at_most_below is not None
    return equal - floor.at_most_below


def _unreached(tasks: list[str], floor_T: Float64, trials: Trials, violation: Any) -> str:
    nearest = int(np.argmin([violation(value_T) for value_T in trials.value_PT]))
    short = [
        f"{task} {trials.value_PT[nearest, at]:.4f} of {floor_T[at]:.4f} (its best {trials.value_PT[:, at].max():.4f})"
        for at, task in enumerate(tasks)
        if trials.value_PT[nearest, at] < floor_T[at]
    ]
    return (
        f"fuse.floors: none of {len(trials):,} weights keeps them all; the nearest has {', '.join(short)}. Lower the "
        "floors, or raise fuse.trials"
    )


def _lines(day: Day, config: FuseConfig, weight_K: Float64, terms: int, factor: bool) -> list[Line]:
    even_K = equal_weights(terms, factor)
    equal, tuned = day.measured(even_K), day.measured(weight_K)
    floor_T = _floors(config, day.tasks, day.values(even_K))
    return [
        Line(
            task,
            equal[task].value,
            tuned[task].value,
            difference(tuned[task], equal[task]),
            equal[task].lists,
            None if np.isnan(floor) else float(floor),
        )
        for task, floor in zip(day.tasks, floor_T, strict=True)
    ]


def _words(day: Day) -> str:
    first, last = day.days.first, day.days.last
    span = str(first) if first == last else f"{first} to {last}"
    return f"{span}: {day.rows:,} rows, {day.lists:,} lists"
