"""KuaiRand's features of users and videos, joined to impressions by id. No torch."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.lines import Format, Rows
from pipeline.ingest.published import dates, whole
from pipeline.ingest.written_log import ids, required
from schemas.errors import InputError
from schemas.events import USER_COLUMN

VIDEO_COLUMN = "video_id"
USER_TEXTS = (
    *("user_active_degree", "follow_user_num_range", "fans_user_num_range", "friend_user_num_range"),
    "register_days_range",
)
USER_NUMBERS = (
    *("is_lowactive_period", "is_live_streamer", "is_video_author", "follow_user_num", "fans_user_num"),
    *("friend_user_num", "register_days", *(f"onehot_feat{n}" for n in (0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11))),
)
USER_GAPS = tuple(f"onehot_feat{n}" for n in (4, 12, 13, 14, 15, 16, 17))
"""Unknown for some users; the publishers write them as 1.0."""
VIDEO_TEXTS = ("video_type", "upload_type")
VIDEO_IDS = ("author_id", "music_id")
VIDEO_GAPS = ("visible_status", "video_duration", "server_width", "server_height", "music_type")


def user_fields() -> list[pa.Field]:
    """What `User.join` gives, as columns of the log."""
    return [
        *(required(name, pa.string()) for name in USER_TEXTS),
        *(required(name, pa.int64()) for name in USER_NUMBERS),
        *(pa.field(name, pa.int64()) for name in USER_GAPS),
    ]


def video_fields() -> list[pa.Field]:
    """What `Video.join` gives, but the day of the upload."""
    return [
        *(required(name, pa.int64()) for name in VIDEO_IDS),
        *(required(name, pa.string()) for name in VIDEO_TEXTS),
        *(pa.field(name, pa.int64()) for name in VIDEO_GAPS),
        ids("tags"),
    ]


def _form(what: str, key: str, texts: tuple[str, ...], numbers: tuple[str, ...], gaps: tuple[str, ...]) -> Format:
    kinds = {key: pa.int64(), **dict.fromkeys(texts, pa.string())}
    kinds |= dict.fromkeys(numbers, pa.int64()) | dict.fromkeys(gaps, pa.float64())
    return Format(what, kinds, may_be_empty=(*gaps, "tag"))


USERS = _form("KuaiRand's features of users (user_features_*.csv)", USER_COLUMN, USER_TEXTS, USER_NUMBERS, USER_GAPS)
VIDEOS = _form(
    "KuaiRand's features of videos (video_features_basic_*.csv)",
    VIDEO_COLUMN,
    (*VIDEO_TEXTS, "upload_dt", "tag"),
    VIDEO_IDS,
    VIDEO_GAPS,
)


class _Features:
    """A table of features, found by its key."""

    def __init__(self, key: str, rows: Rows) -> None:
        self._key, self._path = key, rows.path
        self._keys = rows.table.column(key).combine_chunks()
        counts = pc.value_counts(self._keys)
        if len(counts) != len(self._keys):
            twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))[0]
            raise InputError(f"{rows.path}: {key} {twice} has several rows; expected {rows.what}")
        self._columns: dict[str, pa.Array] = {}

    def join(self, rows: Rows) -> dict[str, Any]:
        """The features of each row's key. Raises InputError for one that has none."""
        index = pc.index_in(rows.table.column(self._key), self._keys)
        rows.check(index.is_valid(), self._key, f"is not in {self._path}")
        return {name: column.take(index) for name, column in self._columns.items()}


class User(_Features):
    """Features of users."""

    def __init__(self, fs: Any, path: str) -> None:
        rows = whole(fs, path, USERS)
        super().__init__(USER_COLUMN, rows)
        texts_and_numbers = (*USER_TEXTS, *USER_NUMBERS)
        self._columns = {name: rows.table.column(name).combine_chunks() for name in texts_and_numbers}
        self._columns |= _whole_numbers(rows, USER_GAPS)


class Video(_Features):
    """Features of videos; `upload_day` as a date, `tags` as lists, empty where none is known."""

    def __init__(self, fs: Any, path: str) -> None:
        rows = whole(fs, path, VIDEOS)
        super().__init__(VIDEO_COLUMN, rows)
        self._columns = {name: rows.table.column(name).combine_chunks() for name in (*VIDEO_IDS, *VIDEO_TEXTS)}
        self._columns |= _whole_numbers(rows, VIDEO_GAPS)
        uploaded = rows.table.column("upload_dt").combine_chunks()
        day = dates(uploaded, "%Y-%m-%d")
        rows.check(day.is_valid(), "upload_dt", "is no date such as 2022-04-10")
        self._columns |= {"upload_day": day, "tags": _tags(rows)}


def _whole_numbers(rows: Rows, names: tuple[str, ...]) -> dict[str, pa.Array]:
    """Columns written as 1.0 because some of their values are unknown."""
    out = {}
    for name in names:
        column = rows.table.column(name).combine_chunks()
        whole_or_null = pc.fill_null(pc.equal(column, pc.floor(column)), True)
        rows.check(whole_or_null, name, "is no whole number")
        out[name] = column.cast(pa.int64())
    return out


def _tags(rows: Rows) -> pa.ListArray:
    """`12,65` -> [12, 65]."""
    text = pc.fill_null(rows.table.column("tag").combine_chunks(), "")
    rows.check(pc.match_substring_regex(text, r"^(\d+(,\d+)*)?$"), "tag", "is no list such as 12,65")
    known = pc.if_else(pc.equal(text, ""), None, text)
    lists = pc.split_pattern(known, ",")
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths).cast(pa.int32())])
    return pa.ListArray.from_arrays(offsets, lists.flatten().cast(pa.int64()))
