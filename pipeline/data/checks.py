"""What a log may break, found a column at a time. No torch, and nothing is encoded here.

Each check takes a whole column, costs one pass where nothing is wrong, and otherwise returns a Finding: which rows, and
how to say so of one of them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.errors import InputError

Mask = npt.NDArray[np.bool_]
WEIGHTS = (1e-20, 1e20)
"""Sample weights other than 0: sums of them, and one over a sum, fit 32 bits."""


@dataclasses.dataclass(frozen=True)
class Where:
    """A place in the log, for error messages."""

    path: str
    group: int
    first: int
    """Row of the row group at which the batch begins."""
    kept_N: npt.NDArray[np.int64] | None = None
    """Places of the rows that are left of the batch; None = all."""

    def __str__(self) -> str:
        return f"{self.path}, row group {self.group}"

    def number(self, index: int) -> int:
        """The row group's row that stands at `index` of what is left of the batch."""
        return self.first + (index if self.kept_N is None else int(self.kept_N[index]))

    def row(self, index: int) -> str:
        """That row, for a message."""
        return f"row {self.number(index)}"


@dataclasses.dataclass(frozen=True)
class Finding:
    """Rows that must not be trained."""

    bad_N: Mask
    say: Callable[[int, Where], str]
    """What is wrong with row n, and the remedy."""
    column: str
    reason: Callable[[int], str]
    """What is wrong with row n, in short, the value shown."""
    kind: str = "values"
    """As quarantine.ROW_KINDS."""

    def refuse(self, where: Where) -> None:
        """Raises InputError for the first of the rows."""
        raise InputError(f"{where}: {self.say(int(np.argmax(self.bad_N)), where)}")


def _nulls(bad_N: Mask, name: str, remedy: str, kind: str = "values") -> Finding:
    return Finding(
        bad_N, lambda row, where: f"column '{name}' holds nulls; {remedy}", name, lambda row: "holds a null", kind
    )


def null_strings(bad_N: Mask, name: str, remedy: str) -> Finding:
    """Rows found null on the way."""
    return _nulls(bad_N, name, remedy)


def nulls(
    column: pa.Array, name: str, remedy: str, kind: str = "values", where_N: Mask | None = None
) -> Finding | None:
    """Rows that are null; `where_N` leaves the others out."""
    if not column.null_count:
        return None
    bad_N = column.is_null().to_numpy(zero_copy_only=False)
    if where_N is not None:
        bad_N = bad_N & where_N
        if not bad_N.any():
            return None
    return _nulls(bad_N, name, remedy, kind)


def null_lists(column: pa.Array, name: str) -> Finding | None:
    """Rows whose list is null or holds a null."""
    values = column.flatten()
    if not column.null_count and not values.null_count:
        return None
    bad_N = column.is_null().to_numpy(zero_copy_only=False)
    if not column.null_count:
        offset_N = _offsets(column)
        bad_N = _rows_of(values.is_null().to_numpy(zero_copy_only=False), offset_N)
    return _nulls(bad_N, name, "write an empty list for a row without ids, and no null inside a list")


def not_finite(x_N: npt.NDArray[np.floating], name: str) -> Finding | None:
    """NaN and infinities."""
    finite_N = np.isfinite(x_N)
    if finite_N.all():
        return None
    return Finding(
        ~finite_N,
        lambda row, where: (
            f"column '{name}' holds {x_N[row]} ({where.row(row)}); "
            "write finite numbers, or say what NaN stands for with the feature's missing: NUMBER"
        ),
        name,
        lambda row: f"holds {x_N[row]}",
    )


def too_large(
    dense_N: npt.NDArray[np.float32],
    x_N: npt.NDArray[np.floating],
    name: str,
    remedy: str = "choose a transform that brings it into range",
    kind: str = "values",
) -> Finding | None:
    """Finite numbers `x_N` whose transform `dense_N` does not fit 32 bits."""
    finite_N = np.isfinite(dense_N)
    if finite_N.all():
        return None
    return Finding(
        ~finite_N,
        lambda row, where: (
            f"column '{name}' holds {x_N[row]} ({where.row(row)}), too large for 32 bits; mend the log, or {remedy}"
        ),
        name,
        lambda row: f"holds {x_N[row]}, too large for 32 bits",
        kind,
    )


def not_targets(x_N: npt.NDArray[np.floating], where_N: Mask, name: str) -> Finding | None:
    """Regression labels that are NaN or infinite, of the rows `where_N`."""
    bad_N = ~np.isfinite(x_N) & where_N
    if not bad_N.any():
        return None
    return Finding(
        bad_N,
        lambda row, where: (
            f"label '{name}' holds {x_N[row]} ({where.row(row)}); the label of a regression task is a finite number, "
            "mend the log"
        ),
        name,
        lambda row: f"holds {x_N[row]}, no label",
        "labels",
    )


def not_weights(x_N: npt.NDArray[np.floating], where_N: Mask, name: str) -> Finding | None:
    """Sample weights of the rows `where_N` that are neither 0 nor within WEIGHTS."""
    low, high = WEIGHTS
    bad_N = ~((x_N == 0) | ((x_N >= low) & (x_N <= high))) & where_N
    if not bad_N.any():
        return None
    return Finding(
        bad_N,
        lambda row, where: (
            f"column '{name}' holds {x_N[row]} ({where.row(row)}); a sample weight is 0, or lies between {low:g} and "
            f"{high:g}; mend the log"
        ),
        name,
        lambda row: f"holds {x_N[row]}, no sample weight",
    )


def not_labels(label_N: npt.NDArray[np.integer], name: str, what: str = "label") -> Finding | None:
    """Labels, or indicators, other than 0 and 1."""
    # unsigned, a negative label is a large one as well
    if not label_N.size or label_N.view(f"u{label_N.itemsize}").max() <= 1:
        return None
    above_N = label_N > 1
    bad_N = above_N if above_N.any() else label_N < 0
    return Finding(
        bad_N,
        lambda row, where: (
            f"{what} '{name}' holds {label_N[row]} ({where.row(row)}); a{'n' * (what[0] == 'i')} {what} is 0 or 1, "
            "mend the log"
        ),
        name,
        lambda row: f"holds {label_N[row]}, no {what}",
        "labels",
    )


def broken_funnel(
    child_N: npt.NDArray[np.int8], parent_N: npt.NDArray[np.int8], child: str, parent: str
) -> Finding | None:
    """Positive labels under a negative parent."""
    broken_N = child_N > parent_N
    count = int(np.count_nonzero(broken_N))
    if not count:
        return None
    have = "row has" if count == 1 else "rows have"
    return Finding(
        broken_N,
        lambda row, where: (
            f"{count} {have} '{child}' = 1 and '{parent}' = 0, the first is {where.row(row)}; "
            "mend the log, or set data.funnel to drop or promote"
        ),
        child,
        lambda row: f"is 1 where '{parent}' is 0",
        "funnel",
    )


def unlike_lengths(
    offset_N: npt.NDArray[np.int32], weight_offset_N: npt.NDArray[np.int32], names: tuple[str, str]
) -> Finding | None:
    """Lists of ids and of weights that do not match."""
    if np.array_equal(offset_N, weight_offset_N):
        return None
    return Finding(
        np.diff(offset_N) != np.diff(weight_offset_N),
        lambda row, where: (
            f"{where.row(row)} has lists of unlike lengths in '{names[0]}' and '{names[1]}'; write one weight an id"
        ),
        names[1],
        lambda row: (
            f"holds {weight_offset_N[row + 1] - weight_offset_N[row]} weights for the "
            f"{offset_N[row + 1] - offset_N[row]} ids of '{names[0]}'"
        ),
    )


def unfit_weights(
    weight_M: npt.NDArray[np.float32], exact: pa.Array, offset_N: npt.NDArray[np.int32], name: str
) -> Finding | None:
    """Weights that are not finite in 32 bits; `exact` is what the log holds."""
    finite_M = np.isfinite(weight_M)
    if finite_M.all():
        return None

    def value(row: int) -> Any:
        element = offset_N[row] + int(np.argmin(finite_M[offset_N[row] : offset_N[row + 1]]))
        return exact[int(element)].as_py()

    return Finding(
        _rows_of(~finite_M, offset_N),
        lambda row, where: (
            f"column '{name}' holds {value(row)} ({where.row(row)}); write finite weights that fit 32 bits"
        ),
        name,
        lambda row: f"holds {value(row)}, no finite weight of 32 bits",
    )


def negative_weights(weight_M: npt.NDArray[np.float32], offset_N: npt.NDArray[np.int32], name: str) -> Finding | None:
    """Weights of a mean below zero."""
    if not weight_M.size or weight_M.min() >= 0:
        return None
    said = f"column '{name}' holds negative weights; pooling: mean needs weights >= 0"
    return Finding(
        _rows_of(weight_M < 0, offset_N),
        lambda row, where: said,
        name,
        lambda row: f"holds {weight_M[offset_N[row] : offset_N[row + 1]].min()}, below 0 under pooling: mean",
    )


def _offsets(column: pa.Array) -> npt.NDArray[np.int32]:
    offset_N = column.offsets.to_numpy()
    return (offset_N - offset_N[0]).astype(np.int32, copy=False)


def _rows_of(bad_M: Mask, offset_N: npt.NDArray[np.int32]) -> Mask:
    """The rows that hold a bad element."""
    bad_N = np.zeros(len(offset_N) - 1, np.bool_)
    bad_N[np.searchsorted(offset_N, np.flatnonzero(bad_M), side="right") - 1] = True
    return bad_N
