"""TaskSpec and the task graph: which label a task predicts and on which rows it means something.

A task with `given: click` lives on the rows whose click label is 1: its conditional sample space. Tasks form a
forest; a task's space is the AND of all its ancestors' labels, and of the indicators up its chain.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from schemas.errors import InputError
from schemas.strict import Strict, nearest

Space = Literal["conditional", "entire", "naive"]
TAKEN = ("shared", "cosine")
"""Names that keys of gates and gradients have for themselves."""


class TaskSpec(Strict):
    """One task: a label, its kind, and the rows on which it is trained."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name of the task, as it appears in metrics and wandb keys."""
    kind: Literal["binary", "regression"] = "binary"
    """binary: a 0/1 label and the probability of a 1. regression: a number, trained with the squared error."""
    label: str = ""
    """Label column, 0/1 or a number; default: the task's name."""
    clip: tuple[float, float] | None = None
    """[low, high]: a regression label outside is moved to the nearer end; none = labels as they are."""
    given: str | None = None
    """Parent task whose positive label opens this task's space; none = every exposure. It must be binary."""
    indicator: Annotated[str, Field(min_length=1)] | None = None
    """0/1 column: where it is 0 the label means nothing, and the row is outside of the task's space."""
    space: Space | None = None
    """The job's `space` for this task alone; none = the job's."""
    sample_weight: Annotated[str, Field(min_length=1)] | None = None
    """Column of the rows' weights in this task's loss; none = 1 each. Metrics are not weighted."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Loss weight w0 at step 0."""
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """gamma: the weight after t units of `decay_per` is w0 * gamma^t."""
    decay_per: Literal["step", "epoch"] = "step"
    """Whether t counts training steps or epochs (the PLE paper says both)."""

    @property
    def source(self) -> str:
        """The label's column."""
        return self.label or self.name

    @model_validator(mode="after")
    def _consistent(self) -> "TaskSpec":
        if self.clip is not None:
            if self.kind != "regression":
                raise ValueError("'clip' belongs to a regression task; remove it, or set kind: regression")
            if self.clip[0] >= self.clip[1]:
                raise ValueError(f"clip {list(self.clip)} must rise; write [low, high]")
        if self.name in TAKEN:
            raise ValueError(f"'{self.name}' is a name that the keys of gates and gradients have already; name another")
        for key in ("indicator", "sample_weight"):
            if getattr(self, key) == self.source:
                raise ValueError(f"'{key}' is the task's own label, '{self.source}'; name another column")
        return self


def parents(tasks: list[TaskSpec]) -> list[int | None]:
    """Index of each task's parent, None for a root.

    Raises InputError for a duplicate name, a parent that is unknown or no binary task, or a cycle in `given`.
    """
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"tasks: '{name}' is declared {names.count(name)} times; rename one")
    index = {name: i for i, name in enumerate(names)}
    for task in tasks:
        if task.given is not None and task.given not in index:
            raise InputError(f"tasks.{task.name}.given: no task '{task.given}'; {nearest(task.given, names)}")
        if task.given is not None and tasks[index[task.given]].kind == "regression":
            raise InputError(
                f"tasks.{task.name}.given: '{task.given}' is a regression task, and a number opens no space; name a "
                "binary task, or a 0/1 column as the task's indicator"
            )
    out = [None if task.given is None else index[task.given] for task in tasks]
    for start in range(len(tasks)):
        path = [start]
        while (up := out[path[-1]]) is not None:
            path.append(up)
            if up == start:
                chain = " <- ".join(names[i] for i in reversed(path))
                raise InputError(f"tasks: 'given' runs in a circle: {chain}; let one of them live on every exposure")
            if len(path) > len(tasks):
                break  # a circle further up; it is named when its own member is the start
    return out
