"""KuaiRand: the real impressions, from Parquet and from the published CSVs, through our own reader."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.published import (
    batches,
    days_of,
    ingested,
    packaged_job,
    read_log,
    refusal,
    row,
    shared,
    write_kuairand,
    write_text,
)

USER = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,"
    "follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,"
    "register_days_range,onehot_feat0,onehot_feat1,onehot_feat2,onehot_feat3,onehot_feat4,onehot_feat5,onehot_feat6,"
    "onehot_feat7,onehot_feat8,onehot_feat9,onehot_feat10,onehot_feat11,onehot_feat12,onehot_feat13,onehot_feat14,"
    "onehot_feat15,onehot_feat16,onehot_feat17\n"
    '3,full_active,0,-124,1,8,"(0,10]",26,"[10,100)",3,"[1,5)",231,181-365,1,0,2,1176,,0,0,31,275,5,2,2,1.0,0.0,,1.0,0.0,0.0\n'
)
VIDEO = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,"
    "music_id,music_type,tag\n"
    '7,7349781,NORMAL,2022-04-10,LongImport,0.0,,720.0,1280.0,9155697141,9.0,"20,43"\n'
    "8,11,AD,2022-04-20,Web,0.0,9000.0,720.0,1280.0,12,,\n"
)
LOG_HEADER = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,"
    "play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
)


def line(video: int, date: int, time_ms: int, click: int = 0, like: int = 0, long: int = 0, play: int = 0) -> str:
    return f"3,{video},{date},1700,{time_ms},{click},{like},0,0,0,0,{long},{play},8000,0,0,0,0,1\n"


THREE_DAYS = ["2022-04-28", "2022-04-29", "2022-04-30"]

EARLY = [line(7, 20220420, 1, click=1), line(8, 20220421, 2, click=1, like=1, long=1), line(7, 20220421, 3)]
LATE = [line(7, 20220423, 1_650_700_000_123, click=1, play=2000), line(8, 20220424, 1_650_790_000_000, play=20_000)]


def write_small(folder: Path, late: str = "".join(LATE), user: str = USER, video: str = VIDEO) -> Path:
    write_text(folder / "log_standard_4_08_to_4_21_pure.csv", LOG_HEADER + "".join(EARLY))
    write_text(folder / "log_standard_4_22_to_5_08_pure.csv", LOG_HEADER + late)
    write_text(folder / "user_features_pure.csv", user)
    write_text(folder / "video_features_basic_pure.csv", video)
    return folder


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ingested("kuairand", shared("kuairand_pure"), tmp_path_factory.mktemp("kuairand") / "events")


def test_days_rows_and_rates_are_those_of_the_data(log: Path) -> None:
    sizes = [read_log("kuairand", log, [day]).num_rows for day in days_of(log)]
    rows = read_log("kuairand", log).select(["click", "long_view", "like", "profile_enter"]).to_pandas()
    assert days_of(log) == [f"{day:%Y-%m-%d}" for day in pd.date_range("2022-04-25", "2022-05-06")]
    assert len(rows) == sum(sizes) == 198_895
    assert (min(sizes) // 1000, max(sizes) // 1000) == (13, 21)
    for name, rate in (("click", 0.44), ("long_view", 0.31)):
        assert rows[name].mean() == pytest.approx(rate, abs=5e-3)
    for name, rate in (("like", 0.017), ("profile_enter", 0.019)):
        assert rows[name].mean() == pytest.approx(rate, abs=6e-4)
    given = pq.read_table(shared("kuairand_pure") / "log_20220425_20220506.parquet").to_pandas()
    for label, name in (("long_view", "long_view"), ("like", "is_like")):
        leaks = ((given.is_click == 0) & (given[name] == 1)).sum()
        assert ((rows.click == 0) & (rows[label] == 1)).sum() == leaks == {"like": 605, "long_view": 196}[label]


def test_every_row_is_the_logs_joined_to_its_user_and_video(log: Path) -> None:
    source = shared("kuairand_pure")
    rows = read_log("kuairand", log, THREE_DAYS).to_pandas()
    some = [("date", "in", [20220428, 20220429, 20220430])]
    given = pq.read_table(source / "log_20220425_20220506.parquet", filters=some).to_pandas()
    given = given.sort_values("date", kind="stable")
    assert len(given) == len(rows) > 50_000
    users = pd.read_parquet(source / "user_features.parquet").set_index("user_id").loc[given.user_id]
    videos = pd.read_parquet(source / "video_features_basic.parquet").set_index("video_id").loc[given.video_id]
    for label in ("click", "like", "follow", "comment", "forward", "hate", "profile_enter"):
        np.testing.assert_array_equal(rows[label], given[f"is_{label}"])
    np.testing.assert_array_equal(rows.event_time.astype("int64"), given.time_ms)
    np.testing.assert_array_equal(rows.hour, given.hourmin // 100)
    for frame, names in (
        (users, users.columns),
        (videos, [c for c in videos.columns if c not in ("tag", "upload_dt")]),
    ):
        for name in names:
            wanted = frame[name].to_numpy()
            assert pd.Series(rows[name].to_numpy()).equals(pd.Series(wanted).astype(rows[name].dtype)), name
    tags = videos.tag.fillna("").map(lambda text: [int(tag) for tag in text.split(",") if tag])
    assert [list(found) for found in rows.tags] == tags.tolist()
    age = pd.to_datetime(given.date.astype(str)).to_numpy() - pd.to_datetime(videos.upload_dt).to_numpy()
    np.testing.assert_array_equal(rows.upload_age_days, age / np.timedelta64(1, "D"))
    share = (given.play_time_ms / given.duration_ms.where(given.duration_ms > 0)).clip(upper=1).fillna(0)
    np.testing.assert_allclose(rows.vcr, share.astype(np.float32), rtol=1e-6)
    np.testing.assert_array_equal(rows.has_duration, given.duration_ms > 0)


def test_histories_are_the_recorded_ones_latest_first(log: Path) -> None:
    history = pq.read_table(shared("kuairand_pure") / "user_history_before_20220425.parquet")
    rows = read_log("kuairand", log, THREE_DAYS)
    index = pc.index_in(rows.column("user_id"), history.column("user_id").combine_chunks())
    assert 500 < index.null_count < 2000, "users without a history"
    for name in ("watch", "like", "long_watch"):
        recorded = [watched[::-1] for watched in history.column(f"{name}_seq").to_pylist()]
        wanted = pa.array([*recorded, []], pa.list_(pa.int64())).take(pc.fill_null(index, len(recorded)))
        found = rows.column(f"{name}_history").combine_chunks()
        assert found.flatten().equals(wanted.combine_chunks().flatten())
        assert pc.list_value_length(found).equals(pc.list_value_length(wanted).combine_chunks())


def test_the_published_files_make_the_same_log(log: Path, tmp_path: Path) -> None:
    write_kuairand(shared("kuairand_pure"), tmp_path / "from", users=400)
    again = ingested("kuairand", tmp_path / "from", tmp_path / "events", "--days", "2022-04-25", "2022-05-06")
    whole = read_log("kuairand", log)
    assert read_log("kuairand", again).equals(whole.filter(pc.less(whole.column("user_id"), 400)))


def test_shorter_histories_keep_the_latest(log: Path, tmp_path: Path) -> None:
    day = ("--days", "2022-04-25", "2022-04-25")
    short = ingested("kuairand", shared("kuairand_pure"), tmp_path / "events", "--history", "3", *day)
    found = read_log("kuairand", short).column("watch_history").to_pylist()
    whole = read_log("kuairand", log, ["2022-04-25"]).column("watch_history").to_pylist()
    assert found == [watched[:3] for watched in whole]


def test_impressions_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = ingested("kuairand", write_small(tmp_path), tmp_path / "events")
    assert "3 impressions before 2022-04-22 made the users' histories" in capsys.readouterr().out
    rows = read_log("kuairand", log)
    first, second = row(rows, 0), row(rows, 1)
    assert days_of(log) == ["2022-04-23", "2022-04-24"]
    assert first["watch_history"] == [8, 7]
    assert (first["like_history"], first["long_watch_history"]) == ([8], [8])
    assert (first["hour"], first["tab"], first["upload_age_days"]) == (17, 1, 13)
    assert (first["vcr"], second["vcr"]) == (0.25, 1.0)
    assert (first["tags"], second["tags"]) == ([20, 43], [])
    assert (first["onehot_feat4"], first["onehot_feat12"]) == (None, 1)
    assert (first["video_duration"], second["video_duration"], second["music_type"]) == (None, 9000, None)
    assert first["follow_user_num_range"] == "(0,10]"
    assert (first["click"], second["click"]) == (1, 0)


def test_the_first_day_is_in_no_history(tmp_path: Path) -> None:
    log = ingested("kuairand", write_small(tmp_path), tmp_path / "events", "--days", "2022-04-23", "2022-04-23")
    assert read_log("kuairand", log).column("watch_history").to_pylist() == [[8, 7]], "not the clicked row itself"


def test_random_exposures_are_asked_for(tmp_path: Path) -> None:
    source = write_small(tmp_path / "from")
    random = line(8, 20220423, 5, click=1).replace(",0,1\n", ",1,1\n")
    write_text(source / "log_random_4_22_to_5_08_pure.csv", LOG_HEADER + random)
    sizes = {
        p: read_log("kuairand", ingested("kuairand", source, tmp_path / p, "--policy", p)) for p in ("standard", "all")
    }
    sizes["random"] = read_log("kuairand", ingested("kuairand", source, tmp_path / "random", "--policy", "random"))
    assert {name: table.num_rows for name, table in sizes.items()} == {"standard": 2, "random": 1, "all": 3}
    assert row(sizes["random"], 0)["is_rand"] == 1
    assert row(sizes["random"], 0)["watch_history"] == [8, 7], "random exposures make no history, and have one"


def test_the_packaged_job_reads_no_outcome(log: Path) -> None:
    job = packaged_job("kuairand", log)
    outcomes = {"play_time_ms", "profile_stay_time", "comment_stay_time", "vcr", "has_duration"}
    assert {feature.source for feature in job.features} & outcomes == set()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"late": LATE[0] + LATE[1][:30]},
            "log_standard_4_22_to_5_08_pure.csv, line 3: the file ends within this line",
        ),
        ({"late": LATE[0] + "3,8,20220424,1700\n"}, "pure.csv, line 3: 4 columns instead of 19"),
        ({"late": LATE[0].replace("20220423", "20221399")}, "line 2: column 'date': 20221399 is no date"),
        ({"late": LATE[0].replace("20220423", "20220431")}, "line 2: column 'date': 20220431 is no date"),
        ({"late": LATE[0].replace("20220423", "2022042")}, "line 2: column 'date': 2022042 is no date"),
        ({"late": LATE[0].replace(",1700,", ",2460,")}, "line 2: column 'hourmin': 2460 is no time"),
        ({"late": LATE[0].replace("3,7,", "3,9,")}, "line 2: column 'video_id': 9 is not in"),
        ({"late": LATE[0].replace(",1,0,0,0", ",2,0,0,0", 1)}, "line 2: column 'is_click': 2 is neither 0 nor 1"),
        ({"user": VIDEO}, "user_features_pure.csv, line 1: no column 'user_id' in 'video_id,author_id"),
        ({"user": USER + USER.split("\n")[1] + "\n"}, "user_features_pure.csv: user_id 3 has several rows"),
        (
            {"video": VIDEO.replace("20,43", "20;43")},
            "video_features_basic_pure.csv, line 2: column 'tag': '20;43' is no",
        ),
        ({"video": VIDEO.replace("2022-04-20", "x")}, "basic_pure.csv, line 3: column 'upload_dt': 'x' is no date"),
        ({"video": VIDEO.replace("2022-04-20", "2022-02-30")}, "line 3: column 'upload_dt': '2022-02-30' is no date"),
        ({"video": VIDEO.replace("9000.0", "9000.5")}, "line 3: column 'video_duration': 9000.5 is no whole number"),
    ],
)
def test_what_does_not_fit_is_refused_by_line(tmp_path: Path, changes: dict[str, str], told: str) -> None:
    assert told in refusal("kuairand", write_small(tmp_path / "from", **changes), tmp_path / "out")


def test_a_log_older_than_its_histories_is_refused(tmp_path: Path) -> None:
    source = write_small(tmp_path / "from")
    lists = pa.array([[7]], pa.list_(pa.int64()))
    history = {"user_id": pa.array([3]), "watch_seq": lists, "like_seq": lists, "long_watch_seq": lists}
    pq.write_table(pa.table(history), source / "user_history_before_20220424.parquet")
    message = refusal("kuairand", source, tmp_path / "out")
    assert "line 2: column 'date': 20220423 is older than what" in message
    assert "give --days 2022-04-24 TO" in message
    ingested("kuairand", source, tmp_path / "out", "--days", "2022-04-24", "2022-05-08")


def test_days_that_hold_nothing_are_refused(tmp_path: Path) -> None:
    message = refusal(
        "kuairand", write_small(tmp_path / "from"), tmp_path / "out", "--days", "2022-05-01", "2022-05-02"
    )
    assert "there is no row to write" in message


def test_another_versions_files_are_named(tmp_path: Path) -> None:
    source = write_small(tmp_path / "from")
    shutil.move(source / "user_features_pure.csv", source / "users.csv")
    assert "has no user_features_pure.csv; it holds" in refusal("kuairand", source, tmp_path / "out")


@pytest.mark.parametrize("other", ["log_standard_4_22_to_5_08_pure.csv.gz", "log_20220422_20220508.parquet"])
def test_the_same_rows_in_two_forms_are_refused(tmp_path: Path, other: str) -> None:
    source = write_small(tmp_path / "from")
    (source / other).write_bytes(b"whatever it holds")
    message = refusal("kuairand", source, tmp_path / "out")
    assert f".csv and {other}; keep one form of the same rows" in message


def test_times_of_any_size_are_kept(tmp_path: Path) -> None:
    late = LATE[0].replace(",2000,8000,", f",{2**62},8000,")
    assert late != LATE[0]
    log = ingested("kuairand", write_small(tmp_path / "from", late=late), tmp_path / "out")
    assert (row(read_log("kuairand", log), 0)["play_time_ms"], row(read_log("kuairand", log), 0)["vcr"]) == (2**62, 1.0)


def test_the_packaged_job_encodes_every_row(log: Path) -> None:
    day = ["2022-04-25"]
    found = batches("kuairand", log, day)
    rows = read_log("kuairand", log, day)
    assert sum(len(batch.labels_BT) for batch in found) == rows.num_rows == 14_911
    tasks = [task.name for task in packaged_job("kuairand", log).tasks]
    for number, name in enumerate(tasks[:4]):
        assert sum(batch.labels_BT[:, number].sum().item() for batch in found) == pc.sum(rows.column(name)).as_py()
    spaces = sum(batch.space_BT[:, tasks.index("vcr")].sum().item() for batch in found)
    assert spaces == pc.sum(pc.multiply(rows.column("click"), rows.column("has_duration"))).as_py()
