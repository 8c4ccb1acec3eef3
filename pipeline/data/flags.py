"""Rows on their way from where they are found to where they are left out. No torch.

A bad row keeps its place in the global order, under the row id -1 - id, so that the order and the number of steps stay
what the manifest says. Why it is bad waits here, with the reader thread, until its step comes up. A row that this pass
does not read, since it is held out (holdout.py) or is not, keeps its place too, under -1 - id - UNREAD: nothing is
wrong with it, and nothing is told of it but how many there are.
"""

import numpy as np
import numpy.typing as npt

from pipeline.data.quarantine import Piece
from schemas.events import DataConfig

UNREAD = 1 << 62
"""What sets the flag of a row that is not read apart from that of a bad row."""
MORE = 16
"""Values told beyond the day's budget, of the rows that are found bad together."""


def bad_rows(row_id_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Those of some flagged rows that are bad; the others are not read."""
    return row_id_N[row_id_N >= -UNREAD]


class Flags:
    """What a reader thread has found, until it comes up. Holds no more than the rows being shuffled."""

    def __init__(self, data: DataConfig) -> None:
        self.kinds = frozenset(data.bad.rows) | ({"funnel"} if data.funnel == "quarantine" else set())
        """Kinds of findings that cost a row each; others end the run."""
        self.most = data.bad.rows_per_day + MORE
        """Reasons worth telling of one finding: with more the run ends."""
        self._rows: dict[int, Piece] = {}
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._lost: list[Piece | None] = []

    def row(self, row_id: int, piece: Piece) -> None:
        """One row is bad."""
        self._rows[row_id] = piece

    def stretch(self, row_id: int, piece: Piece) -> None:
        """All rows of the piece are lost, from the row id on."""
        at = int(np.searchsorted(self._starts, row_id))
        self._starts.insert(at, row_id)
        self._ends.insert(at, row_id + piece.rows)
        self._lost.insert(at, piece)

    def come_up(self, row_id_N: npt.NDArray[np.int64]) -> list[Piece]:
        """What these flagged rows' step leaves out; a lost stretch with the first of its rows alone."""
        bad_N = -1 - row_id_N
        out: list[Piece] = []
        if self._starts:
            at_N = np.searchsorted(self._starts, bad_N, side="right") - 1
            lost_N = (at_N >= 0) & (bad_N < np.array(self._ends)[np.maximum(at_N, 0)])
            for at in np.unique(at_N[lost_N]).tolist():
                piece, self._lost[at] = self._lost[at], None
                if piece is not None:
                    out.append(piece)
            bad_N = bad_N[~lost_N]
        return out + [self._rows.pop(row) for row in bad_N.tolist()]
