"""The base of every configuration model: unknown keys are refused, and the nearest known key is named."""

import datetime
import difflib
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError


def nearest(word: str, known: list[str]) -> str:
    """`word`'s closest neighbour as a hint ("; did you mean ...?"), or the list of what is known."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def _leaves(annotation: Any) -> set[Any]:
    """The plain types an annotation is made of: int and str of `Annotated[int, ...] | dict[str, int]`."""
    arguments = get_args(annotation)
    return {annotation} if not arguments else {leaf for argument in arguments for leaf in _leaves(argument)}


def _bent(value: Any, leaves: set[Any]) -> str | None:
    """What is wrong with a value that pydantic would bend into the field's type: true into 1, "64" into 64.

    A string where a float belongs is left alone: YAML takes 1e-3 for one.
    """
    if isinstance(value, bool):
        return None if bool in leaves or not leaves & {int, float} else "takes a number, not true or false"
    if isinstance(value, str) and int in leaves and not leaves & {str, float} and value.strip().lstrip("+-").isdigit():
        return f"takes a whole number, not the string '{value}'"
    if leaves == {bool}:
        return f"takes true or false, not {value!r}"
    if isinstance(value, int | float) and datetime.date in leaves:
        return f"takes a day such as 2026-01-31, not {value}"
    return None


class Strict(BaseModel):
    """A frozen model that refuses keys it does not know, and values that would have to be bent into their type."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # a stack trace must not tell a value that may be a secret
    )

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, data: Any) -> Any:
        if isinstance(data, dict):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            unknown = [f"unknown key '{key}'; {nearest(str(key), known)}" for key in data if key not in known]
            if unknown:
                raise PydanticCustomError("unknown_key", "{keys}", {"keys": "; ".join(unknown)})
            for name, field in cls.model_fields.items():
                key = field.alias or name
                wrong = _bent(data[key], _leaves(field.annotation)) if key in data else None
                if wrong:
                    raise PydanticCustomError("bent", "'{key}' {wrong}", {"key": key, "wrong": wrong})
        return data
