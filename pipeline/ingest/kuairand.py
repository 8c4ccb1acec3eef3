"""KuaiRand (Kuaishou short video): impressions with twelve kinds of feedback, as daily partitions. No torch.

A row is one impression, clicked or not. User and video features are joined to it, and what its user watched and liked
before the first day of the log: nothing in a row is younger than the row, but its labels and stay times.
"""

import datetime
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ingest.dataset import About, Dataset, Folder, Option, Options, Progress, whole_number
from pipeline.ingest.history import HISTORIES, Histories, recorded_histories
from pipeline.ingest.kuairand_features import User, Video, user_fields, video_fields
from pipeline.ingest.lines import Format, Rows
from pipeline.ingest.published import dates, rows_of
from pipeline.ingest.written_log import WrittenLog, by_column, ids, required
from schemas.errors import InputError
from schemas.events import TIME_COLUMN, USER_COLUMN

FIRST_DAY = datetime.date(2022, 4, 22)
"""Of the two weeks that the publishers mean to be predicted; those before are history."""
HISTORY = 50
LABELS = {
    "click": "is_click",
    "long_view": "long_view",
    "like": "is_like",
    "follow": "is_follow",
    "comment": "is_comment",
    "forward": "is_forward",
    "hate": "is_hate",
    "profile_enter": "is_profile_enter",
}
"""Label -> the publishers' column."""
TIMES = ("play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time")
LOG = Format(
    "a log of KuaiRand (log_*.csv)",
    dict.fromkeys(
        (
            *(USER_COLUMN, "video_id", "date", "hourmin", "time_ms"),
            *(*LABELS.values(), *TIMES, "is_rand", "tab"),
        ),
        pa.int64(),
    ),
)
SCHEMA = pa.schema(
    [
        required(USER_COLUMN, pa.int64()),
        required(TIME_COLUMN, pa.timestamp("ms", "UTC")),
        required("video_id", pa.int64()),
        *(required(name, pa.int64()) for name in ("hour", "tab", "is_rand", *TIMES)),
        *user_fields(),
        *video_fields(),
        required("upload_age_days", pa.float32()),
        *(ids(name) for name in HISTORIES),
        *(required(name, pa.int8()) for name in LABELS),
        required("has_duration", pa.int8()),
        required("vcr", pa.float32()),
    ]
)
ABOUT = About(
    name="kuairand",
    title="KuaiRand-Pure",
    source="https://kuairand.com",
    licence="CC BY-SA 4.0",
    cite="Gao et al., KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos, CIKM 2022, "
    "https://doi.org/10.1145/3511808.3557624",
    files="""\
log_standard_*.csv, log_random_*.csv (for --policy), user_features_*.csv, video_features_basic_*.csv; or the same
columns as log_*.parquet, user_features*.parquet, video_features_basic*.parquet""",
    rows="""\
A day is the log's own column `date`. Labels: click, long_view, like, follow, comment, forward, hate, profile_enter;
vcr is play_time_ms / duration_ms, at most 1. Impressions before --days make the users' histories alone.""",
)


class KuaiRand:
    """The files of one version of KuaiRand."""

    schema, labels = SCHEMA, tuple(LABELS)

    def __init__(self, folder: Folder, options: Options) -> None:
        self._fs, self._length = folder.fs, options["history"]
        policies = {"standard": r"log_(?!random)", "random": r"log_random", "all": r"log_"}
        self._logs = folder.matching(policies[options["policy"]] + r".*\.(csv|parquet)", "log_standard_*.csv")
        self._users = folder.matching(r"user_features.*\.(csv|parquet)", "user_features_pure.csv")[0]
        self._videos = folder.matching(r"video_features_basic.*\.(csv|parquet)", "video_features_basic_pure.csv")[0]
        self._recorded = next(iter(folder.matching(r"user_history_before_\d{8}\.parquet")), "")
        self._known_before = _date_in(self._recorded)
        self._standard = folder.matching(policies["standard"] + r".*\.(csv|parquet)", "log_standard_*.csv")
        days: tuple[datetime.date, datetime.date] = options["days"] or (FIRST_DAY, datetime.date.max)
        self.first, self.last = days
        if self.last < self.first:
            raise InputError("--days: the last day lies before the first; swap them")
        files = {*self._logs, *self._standard, self._users, self._videos, self._recorded}
        asked = {"days": f"{self.first} to {self.last}", "policy": options["policy"], "history": self._length}
        self.identity = {**asked, "files": folder.identity(*files)}

    def write(self, log: WrittenLog, progress: Progress) -> list[str]:
        """Every impression of the days into the log."""
        user, video = User(self._fs, self._users), Video(self._fs, self._videos)
        histories, before = self._histories(progress)
        left = 0
        for path in self._logs:
            for rows in self._rows(path):
                progress(path.rpartition("/")[2], rows.table.num_rows)
                days = _days(rows)
                inside = pc.and_(
                    pc.greater_equal(days, pa.scalar(self.first)), pc.less_equal(days, pa.scalar(self.last))
                )
                late = pc.greater(days, pa.scalar(self.last))
                left += pc.sum(late, min_count=0).as_py()
                if pc.any(inside).as_py():
                    not_early = pc.or_(pc.greater_equal(days, pa.scalar(self._known_before)), pc.invert(inside))
                    why = f"is older than what {self._recorded} knows of; give --days {self._known_before} TO"
                    rows.check(not_early, "date", why)
                    events = _events(rows, days, user, video, histories)
                    log.add_by_day(days.filter(inside), events.filter(inside))
        told = [f"{before:,} impressions before {self.first} made the users' histories"] if before else []
        return told + ([f"{left:,} impressions after {self.last} were left out"] if left else [])

    def _histories(self, progress: Progress) -> tuple[Histories, int]:
        """Of every user before the first day, and the impressions they are made of."""
        if self._recorded:
            return recorded_histories(self._fs, self._recorded, self._length), 0
        histories, before = Histories(self._length), 0
        for path in self._standard:
            for rows in self._rows(path):
                early = pc.less(_days(rows), pa.scalar(self.first))
                table = rows.table.filter(early)
                before += table.num_rows
                if table.num_rows:
                    histories.add(table)
                    progress(f"{path.rpartition('/')[2]}, histories", 0)
        return histories.finish(), before

    def _rows(self, path: str) -> Iterator[Rows]:
        for rows in rows_of(self._fs, path, LOG):
            for name in (*LABELS.values(), "is_rand"):
                column = rows.table.column(name)
                rows.check(pc.is_in(column, pa.array([0, 1])), name, "is neither 0 nor 1")
            hourmin = rows.table.column("hourmin")
            rows.check(
                pc.and_(pc.greater_equal(hourmin, 0), pc.less(hourmin, 2400)), "hourmin", "is no time such as 2359"
            )
            yield rows


def _date_in(path: str) -> datetime.date:
    """The day before which a file of histories ends; without a file the first there is."""
    found = re.search(r"(\d{8})\.parquet$", path)
    return datetime.datetime.strptime(found[1], "%Y%m%d").date() if found else datetime.date.min


def _days(rows: Rows) -> pa.Array:
    """date32 of each row."""
    column = rows.table.column("date").combine_chunks()
    number_U = pc.unique(column)
    text = pc.cast(number_U, pa.string())
    days = dates(text, "%Y%m%d").take(pc.index_in(column, number_U))
    rows.check(days.is_valid(), "date", "is no date such as 20220425")
    return days


def _events(rows: Rows, days: pa.Array, user: User, video: Video, histories: Histories) -> pa.Table:
    """The rows as events, all of them."""
    table = rows.table
    own = {name: table.column(name) for name in ("tab", "is_rand", *TIMES, "video_id", USER_COLUMN)}
    clips = video.join(rows)
    play, duration = (table.column(name).cast(pa.float64(), safe=False) for name in ("play_time_ms", "duration_ms"))
    timed = pc.greater(duration, 0.0)
    share = pc.divide(pc.max_element_wise(play, 0.0), pc.if_else(timed, duration, 1.0))
    age = pc.subtract(days.cast(pa.int32()), clips.pop("upload_day").cast(pa.int32()))
    columns: dict[str, Any] = own | user.join(rows) | clips | histories.join(table.column(USER_COLUMN))
    columns |= {label: table.column(name) for label, name in LABELS.items()}
    columns |= {
        TIME_COLUMN: table.column("time_ms").cast(pa.timestamp("ms")).cast(pa.timestamp("ms", "UTC")),
        "hour": pc.divide(table.column("hourmin"), 100),
        "upload_age_days": age,
        "has_duration": timed,
        "vcr": pc.if_else(timed, pc.min_element_wise(share, 1.0), 0.0),
    }
    return by_column(SCHEMA, columns)


KUAIRAND = Dataset(
    ABOUT,
    KuaiRand,
    row_group_rows=4_096,
    options=(
        Option(
            "--days",
            f"both included; days before them are history (default: from {FIRST_DAY} on)",
            kind=datetime.date.fromisoformat,
            values=2,
            metavar=("FROM", "TO"),
        ),
        Option("--policy", "whose impressions (default: standard)", "standard", choices=("standard", "random", "all")),
        Option(
            "--history",
            f"longest history a user has, latest first (default: {HISTORY})",
            HISTORY,
            whole_number,
            metavar="N",
        ),
    ),
)
