"""UserBehavior: what becomes an exposure, which behaviours are its labels, in any order of lines."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.ingest import taobao
from pipeline.ingest.spill import Spill
from tests.published import batches, days_of, ingested, packaged_job, read_log, refusal, row, write_text

MIDNIGHT = 1_511_539_200
"""2017-11-25 00:00 in Beijing."""
DAY, HOUR = 86_400, 3_600

BY_HAND = [
    (1, 10, 5, "pv", MIDNIGHT),  # the day's first second
    (1, 10, 5, "pv", MIDNIGHT + 7 * HOUR),  # the same exposure
    (1, 10, 5, "cart", MIDNIGHT + 8 * HOUR),  # after a view: its label
    (1, 11, 5, "cart", MIDNIGHT + HOUR),  # before the first view: no label
    (1, 11, 5, "pv", MIDNIGHT + 2 * HOUR),
    (1, 11, 5, "fav", MIDNIGHT + 2 * HOUR),  # in the same second as the view
    (1, 11, 5, "buy", MIDNIGHT + DAY + HOUR),  # on another day: no label
    (2, 10, 5, "buy", MIDNIGHT + 5),  # nothing was viewed
    (1, 12, 6, "pv", MIDNIGHT + DAY - 1),  # the day's last second
    (1, 13, 6, "pv", MIDNIGHT + DAY),
    (1, 10, 5, "pv", MIDNIGHT + 2 * DAY),
    (1, 10, 5, "buy", MIDNIGHT + 2 * DAY + 1),
    (1, 14, 6, "pv", MIDNIGHT - 1),  # before the first day
    (1, 14, 6, "pv", MIDNIGHT + 9 * DAY),  # behind the last
    (1, 14, 6, "pv", -5),
]


def write(folder: Path, rows: list[tuple[int, int, int, str, int]], name: str = "UserBehavior.csv") -> Path:
    write_text(folder / name, "".join(",".join(map(str, fields)) + "\n" for fields in rows))
    return folder


def test_exposures_and_labels_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = ingested("taobao", write(tmp_path, BY_HAND), tmp_path / "events")
    said = capsys.readouterr().out
    assert "15 lines; 3 outside of 2017-11-25 to 2017-12-03 left out; 5 exposures" in said
    assert "without a view before them on their day, and so no label: 1 cart, 0 fav, 2 buy" in said
    assert days_of(log) == ["2017-11-25", "2017-11-26", "2017-11-27"]
    rows = read_log("taobao", log)
    found = [[row(rows, n)[k] for k in ("user_id", "item_id", "hour", "cart", "fav", "order")] for n in range(5)]
    assert found == [
        [1, 10, 0, 1, 0, 0],
        [1, 11, 2, 0, 1, 0],
        [1, 12, 23, 0, 0, 0],
        [1, 13, 0, 0, 0, 0],
        [1, 10, 0, 0, 0, 1],
    ]
    assert rows.column("view_history").to_pylist() == [[], [], [], [12, 11, 10], [13, 12, 11, 10]]
    assert [time.timestamp() for time in rows.column("event_time").to_pylist()[:2]] == [MIDNIGHT, MIDNIGHT + 2 * HOUR]


def by_pandas(lines: pd.DataFrame, history: int) -> dict[tuple[int, int, int], tuple[int, int, int, int, list[int]]]:
    """The definition again, a group at a time: (user, day, item) -> first view, cart, fav, order, history."""
    lines = lines.assign(day=(lines.seconds - MIDNIGHT) // DAY)
    lines = lines[(lines.day >= 0) & (lines.day < 9)]
    found = {}
    for key, group in lines.groupby(["user", "day", "item"]):
        views = group.seconds[group.behaviour == "pv"]
        if len(views):
            after = set(group.behaviour[group.seconds >= views.min()])
            found[key] = (int(views.min()), *(int(b in after) for b in ("cart", "fav", "buy")))
    out = {}
    for user, day, item in found:
        earlier = [(k[1], first[0], k[2]) for k, first in found.items() if k[0] == user and k[1] < day]
        latest_first = sorted(earlier, key=lambda e: (-e[0], -e[1]))[:history]
        out[user, day, item] = (*found[user, day, item], [e[2] for e in latest_first])
    return out


def test_any_order_of_lines_and_any_number_of_parts_make_the_same_exposures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(1)
    rows = 1500
    seconds = MIDNIGHT + random.permutation(3 * DAY)[:rows]  # no two at one time
    items = random.integers(0, 30, rows)
    behaviours = random.choice(taobao.BEHAVIOURS, rows, p=[0.6, 0.2, 0.1, 0.1])
    users = random.integers(0, 20, rows) * 1_000_003
    lines = list(
        zip(users.tolist(), items.tolist(), (items % 7).tolist(), behaviours.tolist(), seconds.tolist(), strict=True)
    )
    monkeypatch.setattr(taobao, "PART_BYTES", 10_000)
    monkeypatch.setattr(taobao, "ROWS_AT_ONCE", 100)
    parts, part = [], Spill.part
    monkeypatch.setattr(Spill, "part", lambda self, n: parts.append(part(self, n)) or parts[-1])
    log = ingested("taobao", write(tmp_path, lines), tmp_path / "events", "--history", "5", "--row-group-rows", "64")
    read = read_log("taobao", log).to_pandas()
    day = (read.event_time.astype("int64") // 1000 - MIDNIGHT) // DAY
    found = {
        (r.user_id, d, r.item_id): (int(r.event_time.timestamp()), r.cart, r.fav, r.order, list(r.view_history))
        for d, r in zip(day, read.itertuples(), strict=True)
    }
    frame = pd.DataFrame(lines, columns=["user", "item", "category", "behaviour", "seconds"])
    wanted = by_pandas(frame, history=5)
    assert found == wanted
    assert len(read) == len(wanted) > 500
    sizes = [found.num_rows for found in parts if found is not None]
    assert sum(sizes) == rows
    assert max(sizes) < rows / 2, "memory is one part"
    assert (read.category_id == read.item_id % 7).all()
    assert not list((tmp_path / "events").glob(".*")), "the disk was tidied"


def test_compressed(tmp_path: Path) -> None:
    log = ingested("taobao", write(tmp_path, BY_HAND, "UserBehavior.csv.gz"), tmp_path / "events")
    assert read_log("taobao", log).num_rows == 5


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("1,2,3,click,1511544070\n", "line 16: column 'behaviour': 'click' is none of pv, cart, fav, buy"),
        ("1,2,3,pv,15115", "line 16: the file ends within this line, '1,2,3,pv,15115'"),
        ("1,2,3,pv\n", "line 16: 4 columns instead of 5"),
        ("1,2,3,pv,\n", "line 16: column 'seconds' is empty"),
        ("1,2,3,pv,2017-11-25\n", "line 16: column 'seconds': invalid value '2017-11-25'"),
        ("user,item,category,pv,time\n", "line 16: column 'user_id': invalid value 'user'"),
    ],
)
def test_a_bad_line_is_refused_by_its_number(tmp_path: Path, line: str, told: str) -> None:
    source = write(tmp_path / "from", BY_HAND)
    with (source / "UserBehavior.csv").open("a") as file:
        file.write(line)
    message = refusal("taobao", source, tmp_path / "out")
    assert f"UserBehavior.csv, {told}" in message


def test_a_cut_gzip_is_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "from", BY_HAND, "UserBehavior.csv.gz")
    whole = (source / "UserBehavior.csv.gz").read_bytes()
    (source / "UserBehavior.csv.gz").write_bytes(whole[:-20])
    message = refusal("taobao", source, tmp_path / "out")
    assert "UserBehavior.csv.gz: cut off within its compressed data" in message


def test_the_packaged_job_plans_the_log(tmp_path: Path) -> None:
    log = ingested("taobao", write(tmp_path, BY_HAND), tmp_path / "events")
    job = packaged_job("taobao", log)
    assert [task.source for task in job.tasks] == list(taobao.LABELS)
    assert (str(job.data.train.first), str(job.data.eval and job.data.eval.last)) == (
        str(taobao.FIRST_DAY),
        str(taobao.LAST_DAY),
    )
    (batch,) = batches("taobao", log)
    assert batch.labels_BT.sum(0).tolist() == [1, 1, 1]
