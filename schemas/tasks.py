"""TaskSpec and the task graph: which label a task predicts and on which rows it means something.

A task with `given: click` lives on the rows whose click label is 1: its conditional sample space. Tasks form a
forest; a task's space is the AND of all its ancestors' labels.
"""

from typing import Annotated, Literal

from pydantic import Field

from schemas.errors import InputError
from schemas.strict import Strict, nearest


class TaskSpec(Strict):
    """One task: a 0/1 label and its conditional sample space."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    """Name of the task, as it appears in metrics and wandb keys."""
    label: str = ""
    """Label column, 0/1; default: the task's name."""
    given: str | None = None
    """Parent task whose positive label opens this task's space; none = every exposure."""
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


def parents(tasks: list[TaskSpec]) -> list[int | None]:
    """Index of each task's parent, None for a root.

    Raises InputError for a duplicate name, an unknown parent or a cycle in `given`.
    """
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"tasks: '{name}' is declared {names.count(name)} times; rename one")
    index = {name: i for i, name in enumerate(names)}
    for task in tasks:
        if task.given is not None and task.given not in index:
            raise InputError(f"tasks.{task.name}.given: no task '{task.given}'; {nearest(task.given, names)}")
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
