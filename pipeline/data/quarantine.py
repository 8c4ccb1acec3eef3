"""The quarantine: what was left out of a run, counted against the day's budget and written to a log. No torch.

The log is a set of pieces that all ranks hold alike (pipeline/train/budget.py), so a piece that comes up again, in the
next epoch or after a resume, is neither counted nor written twice.
"""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence

from pipeline.data.manifest import Manifest
from schemas.errors import InputError
from schemas.events import PARTITION_KEY, BadConfig

LOG = "quarantine.jsonl"
"""The log's name in the output and within a checkpoint."""
NAMED = 3
"""Pieces that a message names."""
ROW_KINDS = ("labels", "values", "funnel")


def below_root(path: str) -> str:
    """A partition's file as the log names it: dt=DAY/NAME, wherever the log lies."""
    return "/".join(path.rsplit("/", 2)[-2:])


@dataclasses.dataclass(frozen=True, order=True)
class Piece:
    """Consecutive rows of one row group, or a file, that are left out for one reason."""

    file: str
    """Below the log's root, as `below_root` has it."""
    group: int
    """Row group; -1 = the whole file."""
    first: int
    """Row of the row group at which it begins."""
    rows: int
    """How many; -1 = not known, of a file that was never read."""
    kind: str
    column: str
    """Empty where no one column is at fault."""
    reason: str
    row_groups: int = 0
    """Those that a whole file held, at least 1; 0 of a smaller piece."""

    @property
    def day(self) -> str:
        """The day of its partition."""
        return self.file[len(PARTITION_KEY) + 1 :].split("/", 1)[0]

    def __str__(self) -> str:
        where = self.file if self.group < 0 else f"{self.file}, row group {self.group}"
        if self.kind in ROW_KINDS:
            where += f", row {self.first}" if self.rows == 1 else f", rows {self.first} to {self.first + self.rows - 1}"
        return f"{where}: " + (f"column '{self.column}' " if self.column else "") + self.reason


class QuarantineLog:
    """What one pass over some days, `train` or `eval`, has left out."""

    def __init__(self, split: str, bad: BadConfig, pieces: Iterable[Piece] = ()) -> None:
        self.split, self._bad = split, bad
        self._rows: dict[tuple[str, int, int], Piece] = {}
        self._lost: dict[tuple[str, int], list[Piece]] = {}
        self.rows_of: Counter[str] = Counter()
        """Single rows by day."""
        self.groups_of: Counter[str] = Counter()
        """Lost row groups by day."""
        for piece in pieces:
            self.add(piece)

    @property
    def totals(self) -> tuple[int, int]:
        """Rows and row groups in all."""
        return self.rows_of.total(), self.groups_of.total()

    def knows(self, piece: Piece) -> bool:
        """Whether it is in the log, alone or as part of a larger piece."""
        if piece.kind in ROW_KINDS:
            return all((piece.file, piece.group, row) in self._rows for row in _span(piece))
        return any(
            piece.group < 0 or (other.first <= piece.first and piece.first + piece.rows <= other.first + other.rows)
            for other in self._lost.get((piece.file, piece.group), ())
        )

    def add(self, piece: Piece) -> None:
        """Takes a piece in, and counts what is new of it."""
        if self.knows(piece):
            return
        if piece.kind in ROW_KINDS:
            for row in _span(piece):
                if (piece.file, piece.group, row) not in self._rows:
                    self._rows[piece.file, piece.group, row] = dataclasses.replace(piece, first=row, rows=1)
                    self.rows_of[piece.day] += 1
            return
        group = piece.file, piece.group
        if group not in self._lost:
            self.groups_of[piece.day] += max(1, piece.row_groups)
        self._lost.setdefault(group, []).append(piece)

    def pieces(self) -> list[Piece]:
        """All pieces in the order of files and rows, adjacent rows of one reason as one piece."""
        lost = itertools.chain.from_iterable(self._lost.values())
        return sorted(_joined(sorted(self._rows.values())) + _joined(sorted(lost)))

    def check_budget(self, log: str | None = None) -> None:
        """Raises InputError where a day has lost more than it may; `log` is where the pieces are written."""
        limits = ((self.rows_of, "rows", "rows_per_day"), (self.groups_of, "row groups", "row_groups_per_day"))
        for counts, unit, key in limits:
            budget = getattr(self._bad, key)
            over = sorted(day for day, count in counts.items() if count > budget)
            if over:
                singles = unit == "rows"
                first = [str(p) for p in self.pieces() if p.day == over[0] and (p.kind in ROW_KINDS) == singles]
                more = f"; and {len(first) - NAMED} more" if len(first) > NAMED else ""
                raise InputError(
                    f"day {over[0]}: {counts[over[0]]:,} {unit} under quarantine, the budget is {budget:,}. "
                    f"{'; '.join(first[:NAMED])}{more}. {f'Every piece is in {log}; m' if log else 'M'}end the log, "
                    f"or raise data.bad.{key}"
                )

    def lines(self) -> list[str]:
        """The log, a JSON object a piece."""
        names = ("file", "group", "first", "rows", "kind", "column", "reason", "row_groups")
        return [
            json.dumps({"split": self.split, "day": p.day} | {name: getattr(p, name) for name in names})
            for p in self.pieces()
        ]


def left_out(manifest: Manifest) -> list[Piece]:
    """The files that planning took out of the manifest."""
    return [Piece(**told) for told in manifest.origin.get("left_out", ())]


def written(logs: Sequence[QuarantineLog]) -> bytes:
    """The logs of a run as one file."""
    return "".join(f"{line}\n" for log in logs for line in log.lines()).encode()


def read(content: bytes, split: str) -> list[Piece]:
    """The pieces of one split of a file that `written` made."""
    out = []
    for line in content.decode().splitlines():
        told = json.loads(line)
        own = told.pop("split")
        del told["day"]
        if own == split:
            out.append(Piece(**told))
    return out


def _span(piece: Piece) -> range:
    return range(piece.first, piece.first + piece.rows)


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    out: list[Piece] = []
    for piece in pieces:
        if out and _adjacent(out[-1], piece):
            end = max(out[-1].first + out[-1].rows, piece.first + piece.rows)
            out[-1] = dataclasses.replace(out[-1], rows=end - out[-1].first)
        else:
            out.append(piece)
    return out


def _adjacent(a: Piece, b: Piece) -> bool:
    same = (a.file, a.group, a.kind, a.column, a.reason) == (b.file, b.group, b.kind, b.column, b.reason)
    return same and a.group >= 0 and a.first <= b.first <= a.first + a.rows
