"""Bad rows of the inputs: counted by day against the budget of data.bad, and told. No torch.

A bad row keeps its place in the output, with nothing but nulls for its numbers. Of a row group that cannot be decoded
the kept columns are null too. A file that is no Parquet file, or lacks a column, has no output.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence

from pipeline.data.quarantine import ROW_KINDS, Piece
from pipeline.predict.inputs import InputFile, LeftOut
from schemas.errors import InputError
from schemas.events import BadConfig

NO_DAY = "the input"
"""Day of files that lie in no partition: all of them share one budget."""
NAMED = 3


class BadRows:
    """What the run has found so far, alike on every rank."""

    def __init__(self, bad: BadConfig, files: Sequence[InputFile], left_out: Sequence[LeftOut]) -> None:
        self._bad = bad
        self._day = {file.name: str(file.day or NO_DAY) for file in files}
        self._day |= {each.name: _day_of(each.name) for each in left_out}
        self._pieces: set[Piece] = set()
        self.add([Piece(each.name, -1, 0, -1, each.kind, "", each.reason, 1) for each in left_out])

    def add(self, pieces: Iterable[Piece]) -> None:
        """Takes them in; the same again counts once."""
        self._pieces.update(pieces)

    @property
    def rows(self) -> int:
        """Rows without numbers in the output, those of row groups that cannot be decoded included."""
        return sum(piece.rows for piece in self._pieces if piece.rows > 0)

    @property
    def files(self) -> int:
        """Files without an output."""
        return sum(piece.group < 0 for piece in self._pieces)

    def lines(self) -> list[str]:
        """The log, a JSON object a piece, in the order of files and rows."""
        names = ("file", "group", "first", "rows", "kind", "column", "reason")
        return [json.dumps({name: getattr(p, name) for name in names}) for p in sorted(self._pieces)]

    def check_budget(self) -> None:
        """Raises InputError where a day has more of them than it may."""
        single = [p for p in self._pieces if p.kind in ROW_KINDS]
        lost = {(p.file, p.group): p for p in sorted(self._pieces) if p.kind not in ROW_KINDS}
        rows: Counter[str] = Counter()
        groups: Counter[str] = Counter()
        for piece in single:
            rows[self._day[piece.file]] += piece.rows
        for file, _ in lost:
            groups[self._day[file]] += 1
        for counts, pieces, unit, key in (
            (rows, sorted(single), "bad rows", "rows_per_day"),
            (groups, list(lost.values()), "row groups or files that cannot be read", "row_groups_per_day"),
        ):
            budget = getattr(self._bad, key)
            over = sorted(day for day, count in counts.items() if count > budget)
            if over:
                first = [str(p) for p in pieces if self._day[p.file] == over[0]]
                more = f"; and {len(first) - NAMED} more" if len(first) > NAMED else ""
                day = over[0] if over[0] == NO_DAY else f"day {over[0]}"
                raise InputError(
                    f"{day}: {counts[over[0]]:,} {unit}, the budget is {budget:,}. {'; '.join(first[:NAMED])}{more}. "
                    f"Mend the input, or raise data.bad.{key}"
                )


def _day_of(name: str) -> str:
    return str(InputFile(name, "", 0, b"", 0, (), b"").day or NO_DAY)


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Adjacent rows of one reason as one piece."""
    out: list[Piece] = []
    for piece in sorted(pieces):
        last = out[-1] if out else None
        if last is not None and _like(last) == _like(piece) and last.first + last.rows == piece.first:
            out[-1] = dataclasses.replace(last, rows=last.rows + piece.rows)
        else:
            out.append(piece)
    return out


def _like(piece: Piece) -> tuple[str, int, str, str, str]:
    return piece.file, piece.group, piece.kind, piece.column, piece.reason
