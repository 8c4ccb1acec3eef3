"""Values as they come -> columns: checked against the schema, in numpy.

    integer      int64, those of 2^63 to 2^64 - 1 as the negative number of the same bits; null or not
    number       float64; null or not, NaN is null
    string       UTF-8 bytes, each distinct one once where the source knows; null or not
    list         offsets and elements of one of the three

Shapes: N rows, M elements of all N lists, D distinct strings.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import FieldError

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
LIST = "list of "
KINDS = {"integer": "an integer", "number": "a number", "string": "a string"}
MOST_SHOWN = 40


@dataclasses.dataclass(frozen=True)
class Column:
    """N values of one kind."""

    kind: str
    """integer, number or string."""
    values: Any
    """int64 or float64 of N rows; or D strings as bytes."""
    null_N: Mask
    at_N: Int64 | None = None
    """Of strings, which of the D each row has; None where row n has the n-th."""
    large_N: Mask | None = None
    """Of integers, those of 2^63 and more, where there are any."""

    def __len__(self) -> int:
        return len(self.null_N)

    def first_null(self) -> int | None:
        """The first row without a value."""
        return int(np.argmax(self.null_N)) if self.null_N.any() else None


@dataclasses.dataclass(frozen=True)
class Lists:
    """N lists of one kind; a null list has no element."""

    offset_N: Int64
    """[N + 1], from 0."""
    elements: Column
    null_N: Mask

    def __len__(self) -> int:
        return len(self.null_N)

    def row_of(self, element: int) -> int:
        """The row that an element belongs to."""
        return int(np.searchsorted(self.offset_N, element, side="right")) - 1


Columns = Mapping[str, Column | Lists]


def by_field(rows: Sequence[Mapping[str, Any]], fields: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as mappings -> the values of each field. Raises FieldError for a row of unknown fields, or that is none."""
    known = {field["name"] for field in fields}
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise FieldError("rows", number, f"is {_shown(row)}; a row is an object of fields")
        if not row.keys() <= known:
            other = sorted(str(name) for name in row.keys() - known)[0]
            raise FieldError(other, number, f"the model has no such field; it reads {', '.join(sorted(known))}")
    return {field["name"]: [row.get(field["name"]) for row in rows] for field in fields}


def columns_of(values: Mapping[str, Any], fields: Sequence[Mapping[str, Any]]) -> dict[str, Column | Lists]:
    """Each field's values, lists or numpy arrays of one length -> columns. Raises FieldError."""
    out: dict[str, Column | Lists] = {}
    for field in fields:
        name = field["name"]
        if name not in values:
            raise FieldError(name, None, f"is missing; the model reads it as {told(field['type'])}")
        out[name] = column_of(name, field["type"], values[name])
    return checked(out, fields)


def checked(columns: dict[str, Column | Lists], fields: Sequence[Mapping[str, Any]]) -> dict[str, Column | Lists]:
    """The columns, of one length and without a null where there may be none. Raises FieldError."""
    lengths = {name: len(column) for name, column in columns.items()}
    for name, length in lengths.items():
        first = next(iter(lengths))
        if length != lengths[first]:
            raise FieldError(name, None, f"has {length} values where {first} has {lengths[first]}")
    for field in fields:
        name, column = field["name"], columns[field["name"]]
        if not field["null"] and column.null_N.any():
            raise FieldError(
                name, int(np.argmax(column.null_N)), f"is null or missing; it must be {told(field['type'])}"
            )
        if isinstance(column, Lists) and not field["null"] and (element := column.elements.first_null()) is not None:
            raise FieldError(name, column.row_of(element), "holds a null inside its list; leave it out")
    return columns


def told(kind: str) -> str:
    """A kind in words."""
    return f"a list of {kind.removeprefix(LIST)}s" if kind.startswith(LIST) else KINDS[kind]


def column_of(name: str, kind: str, values: Any) -> Column | Lists:
    """One field's values. Raises FieldError for the first that is of another kind."""
    if not isinstance(values, list | tuple | np.ndarray) or getattr(values, "ndim", 1) != 1:
        raise FieldError(name, None, f"is {_shown(values)}; a column is a list, or a numpy array of one dimension")
    if isinstance(values, np.ma.MaskedArray):
        values = values.tolist()  # None where it is masked
    if isinstance(values, np.ndarray) and values.dtype.kind in "mM":
        raise FieldError(name, None, f"is of type {values.dtype}; it must be {told(kind)}")
    if kind.startswith(LIST):
        null_N = np.fromiter((value is None for value in values), np.bool_, len(values))
        for row, value in enumerate(values):
            if value is not None and (
                not isinstance(value, list | tuple | np.ndarray) or getattr(value, "ndim", 1) != 1
            ):
                raise FieldError(name, row, f"is {_shown(value)}; it must be {told(kind)}")
        filled = [
            () if value is None else value.tolist() if isinstance(value, np.ndarray) else value for value in values
        ]
        offset_N = np.zeros(len(filled) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, filled), np.int64, len(filled)), out=offset_N[1:])
        try:
            elements = _plain(name, kind.removeprefix(LIST), list(chain.from_iterable(filled)))
        except FieldError as error:
            row = int(np.searchsorted(offset_N, error.row or 0, side="right")) - 1
            raise FieldError(name, row, f"its list {error.reason}") from None
        return Lists(offset_N, elements, null_N)
    return _plain(name, kind, values)


def _plain(name: str, kind: str, values: Any) -> Column:
    if isinstance(values, np.ndarray) and values.ndim == 1 and kind != "string":
        found = values.dtype.kind
        if found in "iu":
            null_N = np.zeros(len(values), np.bool_)
            if kind == "number":
                return Column(kind, values.astype(np.float64), null_N)
            return Column(kind, values.astype(np.int64), null_N, large_N=large(values))
        if found == "f" and kind == "number":
            x_N = values.astype(np.float64)
            return Column(kind, x_N, np.isnan(x_N))
    if isinstance(values, np.ndarray):
        values = values.tolist()
    types = set(map(type, values))
    fitting: dict[str, set[type]] = {"integer": {int}, "number": {int, float}, "string": {str}}
    fits = fitting[kind]  # bool is none of them
    if not types <= fits | {type(None)}:
        row = next(n for n, value in enumerate(values) if value is not None and type(value) not in fits)
        raise FieldError(name, row, f"is {_shown(values[row])}; it must be {KINDS[kind]}")
    null_N = np.zeros(len(values), np.bool_)
    if type(None) in types:
        null_N = np.fromiter((value is None for value in values), np.bool_, len(values))
        values = [("" if kind == "string" else 0) if value is None else value for value in values]
    if kind == "string":
        return Column(kind, _encoded(name, values), null_N)
    if kind == "integer":
        bits_N, large_N = _integers(name, values)
        return Column(kind, bits_N, null_N, large_N=large_N)
    try:
        x_N = np.array(values, np.float64)
    except OverflowError:
        row = next(n for n, value in enumerate(values) if isinstance(value, int) and abs(value) >= 2**1023)
        raise FieldError(name, row, "is too large for 64 bits") from None
    return Column(kind, x_N, null_N | np.isnan(x_N))


def _encoded(name: str, values: list[str]) -> list[bytes]:
    try:
        return list(map(str.encode, values))
    except UnicodeEncodeError:
        for row, value in enumerate(values):
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise FieldError(name, row, f"is no text that UTF-8 can hold ({error.reason})") from None
        raise


def _integers(name: str, values: list[int]) -> tuple[Int64, Mask | None]:
    """In 64 bits, and which of them are 2^63 or more."""
    try:
        return np.array(values, np.int64), None
    except OverflowError:
        for row, value in enumerate(values):
            if not -(2**63) <= value < 2**64:
                raise FieldError(name, row, f"is {_shown(value)}, an integer of more than 64 bits") from None
        bits_N = np.array([value % 2**64 for value in values], np.uint64).view(np.int64)
        return bits_N, np.array([value >= 2**63 for value in values])


def large(x_N: npt.NDArray[Any]) -> Mask | None:
    """Which are 2^63 or more, of unsigned numbers of 64 bits; None where there are none."""
    if x_N.dtype != np.uint64:
        return None
    large_N = x_N >= np.uint64(2**63)
    return large_N if large_N.any() else None


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    text = repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
