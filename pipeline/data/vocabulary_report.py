"""What a survey found, as text. No torch."""

from collections.abc import Sequence

from pipeline.data.value_counts import rows_for
from pipeline.data.vocabulary import Line, Written

HEADER = (
    "feature",
    "rows found by",
    "look-ups",
    "distinct",
    "table rows",
    "shared values",
    "uniform hash",
    "shared look-ups",
    "unknown",
)


def report(lines: Sequence[Line], target: float) -> str:
    """The table of all lines, and a recommendation where a line calls for one."""
    cells = [HEADER, *(_cells(line) for line in lines)]
    width = [max(len(row[c]) for row in cells) for c in range(len(HEADER))]
    cells.insert(1, tuple("-" * w for w in width))
    out = ["  ".join(_aligned(row, width)).rstrip() for row in cells]
    if not all(line.exact for line in lines):
        out.append("~ estimated from a sample of the values: they did not all fit into --memory")
    advice = [f"{line.name}: {text}" for line in lines if (text := advise(line, target))]
    return "\n".join([*out, "", *(advice or [f"nothing to change for less than {target:.1%} of shared values"])])


def advise(line: Line, target: float) -> str:
    """What to change for less than `target` of the values on shared rows and none out of vocabulary; or nothing."""
    if line.hashed and line.shared_values > target:
        return (
            f"{line.shared_values:.1%} of the values share a row; rows: {rows_for(line.distinct, target):,} for less "
            f"than {target:.1%}, or a vocabulary of {line.distinct:,} rows for none"
        )
    if line.encoding == "vocabulary" and line.unknown:
        return f"{line.unknown / line.lookups:.1%} of the look-ups are out of vocabulary; --extend it if that is many"
    if line.largest is not None and not line.hashed and line.unknown:
        dense = line.largest < 2 * line.distinct
        rows = f"rows: {line.largest + 1:,} for none" if dense else f"a vocabulary of {line.distinct:,} rows for none"
        return f"ids go up to {line.largest:,}, {line.unknown / line.lookups:.1%} of the look-ups have no row; {rows}"
    return ""


def written(files: Sequence[Written], left_out: Sequence[str], extended: str | None) -> str:
    """A line a vocabulary file."""
    out = []
    for file in files:
        kept = f", {file.kept:,} of them at their old rows" if file.kept is not None else ""
        if extended and file.kept is None:
            kept = f" (begun anew: none in {extended})"
        out.append(
            f"{file.path}: {file.entries:,} entries{kept}, of {file.values:,} values; "
            f"{file.unknown:.2%} of the look-ups out of vocabulary"
        )
    if left_out:
        out.append(f"no vocabulary for {', '.join(left_out)}: the features of the table have no values in common")
    return "\n".join(out)


def _cells(line: Line) -> tuple[str, ...]:
    values = f"{'' if line.exact else '~'}{line.distinct:,}"
    shares = [f"{line.shared_values:.2%}", f"{line.uniform:.2%}", f"{line.shared_lookups:.2%}"]
    unknown = f"{line.unknown / max(line.lookups, 1):.2%}"
    at = shares if line.hashed else ["", "", ""]
    return line.name, line.encoding, f"{line.lookups:,}", values, f"{line.rows:,}", *at, unknown


def _aligned(row: Sequence[str], width: Sequence[int]) -> list[str]:
    """Words to the left, numbers to the right."""
    return [cell.ljust(w) if c < 2 else cell.rjust(w) for c, (cell, w) in enumerate(zip(row, width, strict=True))]
