"""FuseConfig: what the weights of a fused score are tuned for, and on which days."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.errors import InputError
from schemas.events import USER_COLUMN, DayRange
from schemas.strict import Strict, nearest
from schemas.tasks import TaskSpec


class Objective(Strict):
    """What is to be as large as possible: how well the fused score orders each user's list by a task's label."""

    task: str
    """A binary task; its label is that of the whole chain, on every exposure."""
    measure: Literal["ndcg", "gauc"] = "ndcg"
    """ndcg = NDCG@k, the mean over lists with a positive label; gauc = AUC within each list, weighted by its rows, the
    mean over lists that have both classes."""
    k: Annotated[int, Field(ge=1)] = 10
    """How much of a list NDCG sees."""


class Floor(Strict):
    """What another task may not fall below, in the objective's own measure."""

    at_least: Annotated[float, Field(ge=0, le=1)] | None = None
    """The least value."""
    at_most_below: Annotated[float, Field(ge=0, le=1)] | None = None
    """How far it may lie below what equal weights reach."""

    @model_validator(mode="after")
    def _one(self) -> "Floor":
        if (self.at_least is None) == (self.at_most_below is None):
            raise ValueError("give one of at_least and at_most_below")
        return self


class FuseConfig(Strict):
    """Weights of the fused score tuned on held-out days, the Pareto front told, the best written as YAML."""

    out: Annotated[str, Field(min_length=1)]
    """Folder: fusion.yaml, fuse.json, fuse.html, and the rows' predictions, which a later call tunes on anew."""
    objective: Objective
    checkpoint: Annotated[str, Field(min_length=1)] | None = None
    """A committed checkpoint, a run's output, of which its newest commit is taken, or OUTPUT@champion of a
    daily job; none = `output`/checkpoints."""
    days: DayRange | None = None
    """Days tuned on; none = `data.eval`."""
    check: DayRange | None = None
    """Later days, on which the tuned weights and equal ones are compared; none = they are not."""
    floors: dict[str, Floor] = {}
    """By task: what the others keep."""
    by: Annotated[str, Field(min_length=1)] = USER_COLUMN
    """Integer or string column whose values make the lists."""
    trials: Annotated[int, Field(ge=8, le=1_000_000)] = 512
    """Weights that are looked at, before the best are refined."""

    def check_tasks(self, tasks: list[TaskSpec]) -> None:
        """Raises InputError where it names a task that is not there or has no lists' measure."""
        kinds = {task.name: task.kind for task in tasks}
        for key, name in [("objective.task", self.objective.task), *((f"floors.{name}", name) for name in self.floors)]:
            if name not in kinds:
                raise InputError(f"fuse.{key}: no task '{name}'; {nearest(name, list(kinds))}")
            if kinds[name] != "binary":
                raise InputError(
                    f"fuse.{key}: '{name}' is a regression task, and lists are measured by 0/1 labels; name another"
                )
        if self.objective.task in self.floors:
            raise InputError(f"fuse.floors.{self.objective.task}: it is the objective itself; remove the floor")
