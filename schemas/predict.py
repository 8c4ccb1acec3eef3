"""PredictConfig: what `./launch.sh predict` reads, with which model, and what it writes."""

from typing import Annotated

from pydantic import Field, field_validator

from schemas.strict import Strict


class PredictConfig(Strict):
    """Every row of some Parquet files scored: an output file for each of them."""

    input: Annotated[str, Field(min_length=1)]
    """A Parquet file, or a folder or fsspec URL of them at any depth. Labels need not be there."""
    out: Annotated[str, Field(min_length=1)]
    """Folder or fsspec URL of what is written, under the inputs' own names."""
    checkpoint: Annotated[str, Field(min_length=1)] | None = None
    """A committed checkpoint, a run's output, of which its newest commit is taken, or OUTPUT@champion of a
    daily job; none = `output`/checkpoints."""
    keep: list[Annotated[str, Field(min_length=1)]] = []
    """Columns of the input that the output holds as well, such as user_id and item_id."""

    @field_validator("keep")
    @classmethod
    def _once(cls, keep: list[str]) -> list[str]:
        for name in keep:
            if keep.count(name) > 1:
                raise ValueError(f"'{name}' stands there {keep.count(name)} times; keep it once")
        return keep
