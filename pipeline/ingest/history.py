"""What each user watched and liked before a log begins: lists of at most N ids, latest first. No torch.

Memory: 16 bytes for each view, like and long view before the log.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.lines import Format
from pipeline.ingest.published import whole
from schemas.events import USER_COLUMN

I64 = npt.NDArray[np.int64]
HISTORIES = {"watch_history": "is_click", "like_history": "is_like", "long_watch_history": "long_view"}
"""Column of the log -> the feedback of KuaiRand that puts a video there."""
RECORDED = {"watch_history": "watch_seq", "like_history": "like_seq", "long_watch_history": "long_watch_seq"}
_FORM = Format(
    "users' histories (user_history_before_*.parquet)",
    {USER_COLUMN: pa.int64(), **dict.fromkeys(RECORDED.values(), pa.list_(pa.int64()))},
)


class Histories:
    """Collected from impressions in any order, then joined by user."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._seen: dict[str, list[tuple[I64, I64, I64]]] = {name: [] for name in HISTORIES}
        self._users = pa.array([], pa.int64())
        self._lists: dict[str, pa.ListArray] = {}

    def add(self, table: pa.Table) -> None:
        """Impressions: user_id, video_id, time_ms and the feedback."""
        for name, feedback in HISTORIES.items():
            kept = table.filter(pc.equal(table.column(feedback), 1))
            user_N, time_N, video_N = (kept.column(c).to_numpy() for c in (USER_COLUMN, "time_ms", "video_id"))
            self._seen[name].append((user_N, time_N, video_N))

    def finish(self) -> "Histories":
        """Sorts what was collected into lists."""
        found = {name: _latest(pieces, self._length) for name, pieces in self._seen.items()}
        self._users = pa.array(np.unique(np.concatenate([user for user, _, _ in found.values()])))
        for name, (user_U, count_U, video_N) in found.items():
            lengths = np.zeros(len(self._users), np.int64)
            lengths[pc.index_in(pa.array(user_U), self._users).to_numpy()] = count_U
            self._lists[name] = _lists(lengths, video_N)
        self._seen.clear()
        return self

    def take(self, users: pa.Array, lists: Mapping[str, pa.ListArray]) -> "Histories":
        """Lists that are made already, one a user."""
        self._users, self._lists = users, dict(lists)
        return self

    def join(self, users: pa.ChunkedArray) -> dict[str, Any]:
        """The lists of each row's user; empty for one without any."""
        index = pc.index_in(users, self._users)
        out = {}
        for name, lists in self._lists.items():
            none = pa.array([[]], lists.type)
            out[name] = pa.concat_arrays([lists, none]).take(pc.fill_null(index, len(lists)))
        return out


def recorded_histories(fs: Any, path: str, length: int) -> Histories:
    """Histories that come as lists, oldest first."""
    rows = whole(fs, path, _FORM)
    users = rows.table.column(USER_COLUMN).combine_chunks()
    lists = {}
    for name, column in RECORDED.items():
        given = rows.table.column(column).combine_chunks()
        count_U = pc.list_value_length(given).to_numpy()
        end_U = np.cumsum(count_U)
        kept_U = np.minimum(count_U, length)
        nth = np.arange(kept_U.sum()) - np.repeat(np.cumsum(kept_U) - kept_U, kept_U)
        lists[name] = _lists(kept_U, given.flatten().to_numpy()[np.repeat(end_U, kept_U) - 1 - nth])
    return Histories(length).take(users, lists)


def _latest(pieces: list[tuple[I64, I64, I64]], length: int) -> tuple[I64, I64, I64]:
    """Users, how many of theirs are kept, and these, latest first, one user after another."""
    none = np.zeros(0, np.int64)
    user_N, time_N, video_N = (np.concatenate([none, *(p[i] for p in pieces)]) for i in range(3))
    order = np.lexsort((np.arange(len(user_N), 0, -1), -time_N, user_N))
    user_N, video_N = user_N[order], video_N[order]
    user_U, first_U, count_U = np.unique(user_N, return_index=True, return_counts=True)
    age_N = np.arange(len(user_N)) - np.repeat(first_U, count_U)
    return user_U, np.minimum(count_U, length), video_N[age_N < length]


def _lists(length_U: I64, values: I64) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(length_U)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
