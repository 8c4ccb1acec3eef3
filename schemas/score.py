"""ScoreConfig: which models are scored, and what is written of it."""

from typing import Annotated

from pydantic import Field

from schemas.strict import Strict


class ScoreConfig(Strict):
    """Models to score on the rows of `data.eval`, each under the structure it was saved with."""

    models: Annotated[dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")], str], Field(min_length=1)]
    """Checkpoint by name: a committed checkpoint, or a run's output, of which its newest commit is taken."""
    out: Annotated[str, Field(min_length=1)]
    """Folder or fsspec URL: NAME.json for each model, and NAME/ with its predictions."""
    predictions: bool = True
    """Write each row's logits, labels and spaces, beside the metrics."""
