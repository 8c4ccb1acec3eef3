"""The base of every configuration model: unknown keys are refused, and the nearest known key is named."""

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


def nearest(word: str, known: list[str]) -> str:
    """`word`'s closest neighbour as a hint ("; did you mean ...?"), or the list of what is known."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


class Strict(BaseModel):
    """A frozen model that refuses keys it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, data: Any) -> Any:
        if isinstance(data, dict):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            unknown = [f"unknown key '{key}'; {nearest(str(key), known)}" for key in data if key not in known]
            if unknown:
                raise PydanticCustomError("unknown_key", "{keys}", {"keys": "; ".join(unknown)})
        return data
