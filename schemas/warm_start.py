"""WarmStartConfig: which checkpoint a new run begins from, and every difference of structure by name."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from schemas.strict import Strict

Change = Annotated[str, Field(pattern=r"^(tables|features|tasks)\.[A-Za-z_][A-Za-z0-9_]*(\.[a-z_]+)?$")]


class WarmStartConfig(Strict):
    """Another run's checkpoint to begin from."""

    checkpoint: Annotated[str, Field(min_length=1)]
    """A committed checkpoint, or a run's output, of which its newest commit is taken; a path or fsspec URL."""
    changes: list[Change] = []
    """Every difference of structure between that run and this one, by name: features.country, tables.user.rows,
    tables.user.dim, tasks.fav, ... What is not named, or is named and did not change, is refused."""
    optimizer: bool = True
    """Take the optimizer state along; false takes the weights alone."""
    loss_weights: Literal["restart", "continue"] = "restart"
    """Whether the tasks' w0 gamma^t begins anew or goes on from the parent's t."""

    @field_validator("changes")
    @classmethod
    def _once(cls, changes: list[str]) -> list[str]:
        twice = sorted({name for name in changes if changes.count(name) > 1})
        if twice:
            raise ValueError(f"{', '.join(twice)} named twice; keep one")
        return changes
