"""FusionConfig: one score of a row from the probabilities of its tasks, and its tasks as a score knows them.

score = prod_k p_k^w_k * f(v)^w: the products of probabilities, conditional or joint, of the mapped values of regression
tasks, and of a mapped column such as a price. The arithmetic is that of pipeline/fusion.py.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from schemas.errors import InputError
from schemas.strict import Strict, nearest
from schemas.tasks import TaskSpec

Map = Literal["identity", "log1p", "sqrt", "sigmoid"]
Weight = Annotated[float, Field(ge=-1000, le=1000)]


class _Mapped(Strict):
    """A number made into a factor that is never below 0."""

    center: float = 0.0
    """Of a sigmoid: the number that becomes 1/2."""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """Of a sigmoid: how far from the centre it reaches 0.73."""

    def _check_map(self, map_: Map | None) -> None:
        # by value: a saved configuration spells its defaults out
        if map_ != "sigmoid" and (self.center, self.scale) != (0.0, 1.0):
            raise ValueError("'center' and 'scale' belong to map: sigmoid; remove them, or set it")


class FusionTerm(_Mapped):
    """One task's factor of the score."""

    task: str
    """Name of the task."""
    weight: Weight = 1.0
    """Its exponent; 0 leaves the task out, below 0 a more probable task lowers the score."""
    probability: Literal["conditional", "joint"] | None = None
    """Of a binary task: conditional = given its parents' labels; joint = the product up its chain, on any exposure.
    None = conditional."""
    map: Map | None = None
    """Of a regression task, whose value is clipped as its label is: identity = max(v, 0); log1p = log(1 + max(v, 0));
    sqrt = of max(v, 0); sigmoid = 1 / (1 + exp(-(v - center) / scale))."""

    @model_validator(mode="after")
    def _consistent(self) -> "FusionTerm":
        self._check_map(self.map)
        return self


class FusionFactor(_Mapped):
    """A column's factor of the score."""

    column: Annotated[str, Field(min_length=1)]
    """A column of numbers of the log."""
    map: Map
    """As that of a regression task."""
    weight: Weight = 1.0
    """Its exponent."""
    missing: float | None = None
    """The number that null and NaN stand for; none = such a row is a bad one, as data.bad.values has it."""

    @model_validator(mode="after")
    def _consistent(self) -> "FusionFactor":
        self._check_map(self.map)
        return self


class FusionConfig(Strict):
    """The fused score: prod_k p_k^w_k * f(column)^w."""

    terms: Annotated[list[FusionTerm], Field(min_length=1)]
    """A factor a task."""
    factor: FusionFactor | None = None
    """A factor of a column."""

    def check(self, tasks: list[TaskSpec]) -> None:
        """Raises InputError where it does not fit the tasks."""
        kinds = {task.name: task.kind for task in tasks}
        named = [term.task for term in self.terms]
        for at, term in enumerate(self.terms):
            where = f"fusion.terms.{at}"
            if term.task not in kinds:
                raise InputError(f"{where}.task: no task '{term.task}'; {nearest(term.task, list(kinds))}")
            if named.count(term.task) > 1:
                raise InputError(
                    f"{where}.task: '{term.task}' is named {named.count(term.task)} times; a task has one factor, so "
                    "keep one of them"
                )
            if kinds[term.task] == "regression":
                if term.map is None:
                    raise InputError(
                        f"{where}.map: missing, and '{term.task}' is a regression task, whose value may be below 0; "
                        "name identity, log1p, sqrt or sigmoid"
                    )
                if term.probability is not None:
                    raise InputError(
                        f"{where}.probability: '{term.task}' is a regression task and has none; remove it, and map "
                        "its value"
                    )
            elif term.map is not None:
                raise InputError(
                    f"{where}.map: belongs to a regression task, and '{term.task}' is a binary one, whose probability "
                    "is its factor; remove it"
                )


def task_outputs(tasks: list[TaskSpec], links: list[int | None]) -> list[dict[str, Any]]:
    """What a score needs to know of each task, in plain data: `name`, `kind`, `link` and `clip`.

    `link` is the index of the task with whose joint probability its own is multiplied (JobConfig.links); None for none.
    """
    return [
        {"name": task.name, "kind": task.kind, "link": link, "clip": None if task.clip is None else list(task.clip)}
        for task, link in zip(tasks, links, strict=True)
    ]
