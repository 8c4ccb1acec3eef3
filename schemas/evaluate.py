"""EvaluateConfig: what `./launch.sh evaluate` measures of a checkpoint, on which days and of which slices."""

from typing import Annotated

from pydantic import Field

from schemas.events import USER_COLUMN, DayRange
from schemas.strict import Strict


class EvaluateConfig(Strict):
    """A checkpoint's metrics on some days, and on slices of their rows."""

    out: Annotated[str, Field(min_length=1)]
    """Folder or fsspec URL: evaluation.json, and the rows' predictions, which a later call measures anew."""
    checkpoint: Annotated[str, Field(min_length=1)] | None = None
    """A committed checkpoint, a run's output, of which its newest commit is taken, or OUTPUT@champion of a
    daily job; none = `output`/checkpoints."""
    days: DayRange | None = None
    """Days evaluated on; none = `data.eval`."""
    user: Annotated[str, Field(min_length=1)] = USER_COLUMN
    """Integer or string column whose values make the lists of which GAUC is the mean."""
    slices: list[Annotated[str, Field(min_length=1)]] = []
    """Integer or string columns: the metrics once more on the rows of each of their values."""
    slice_values: Annotated[int, Field(ge=1, le=1000)] = 20
    """The most frequent values of such a column that are told apart; the rows of the others come together."""
