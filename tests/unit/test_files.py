"""The manifest of an event log, and every way in which a log is refused before a row is read."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.data.files import Manifest, plan
from schemas.errors import InputError
from tests.logs import DAYS, override, small_job, small_table, write_log, write_parquet


def plan_small(log: Path | str, changes: dict[str, Any] | None = None) -> Manifest:
    job = small_job(log, changes=changes)
    return plan(job, job.data.train)


def refusal(log: Path, changes: dict[str, Any] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        plan_small(log, changes)
    return str(caught.value)


def test_the_manifest_lists_days_files_and_row_groups_in_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    paths = write_log(log, DAYS, 50, row_group_rows=[7, 0, 11, 20], files_per_day=2)
    groups = plan_small(log).groups
    # 25 rows a file in groups of 7, 0, 11, 7; the empty one is left out, the third day is not asked for
    assert [(g.path, g.index, g.rows) for g in groups] == [
        (path, index, rows) for path in paths[:4] for index, rows in ((0, 7), (2, 11), (3, 7))
    ]
    assert [g.first_row for g in groups] == [0, 7, 18, 25, 32, 43, 50, 57, 68, 75, 82, 93]
    assert plan_small(log).rows == 100
    assert groups[1].where == f"{paths[0]}, row group 2"


def test_only_parquet_files_count_and_they_are_sorted(tmp_path: Path) -> None:
    folder = tmp_path / "log/dt=2026-01-01"
    folder.mkdir(parents=True)
    for name in ("b.parquet", "a.parquet", "_hidden.parquet", ".a.parquet", "notes.txt"):
        write_parquet(folder / name, small_table(3))
    (folder / "_SUCCESS").touch()
    groups = plan_small(tmp_path / "log", {"data.train.to": DAYS[0]}).groups
    assert [Path(g.path).name for g in groups] == ["a.parquet", "b.parquet"]


def test_the_fingerprint_tells_other_rows_and_not_another_place(tmp_path: Path) -> None:
    logs = [tmp_path / name for name in ("log", "copy", "seed", "rows")]
    for log, change in zip(logs, ({}, {}, {"seed": 1}, {"rows_per_day": 61}), strict=True):
        write_log(log, **change)
    prints = [plan_small(log).fingerprint for log in logs]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    part = logs[1] / "dt=2026-01-01/part-00000.parquet"
    part.rename(part.with_name("part-00001.parquet"))
    assert plan_small(logs[1]).fingerprint != prints[0]
    assert plan_small(f"{logs[0]}/").fingerprint == prints[0]


def test_a_manifest_is_frozen(tmp_path: Path) -> None:
    write_log(tmp_path / "log")
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan_small(tmp_path / "log").groups[0].rows = 3  # type: ignore[misc]


@pytest.mark.parametrize("kind", ["none", "folder"])
def test_no_log(tmp_path: Path, kind: str) -> None:
    log = tmp_path / "log"
    if kind == "folder":
        log.mkdir()
        assert refusal(
            log
        ) == f"{log}/dt=2026-01-01: the day 2026-01-01 is missing; write it or change data.train / " + ("data.eval")
    else:
        assert refusal(log) == f"data.path: no such path '{log}'; name the root of an event log"


def test_a_path_of_an_unknown_kind() -> None:
    with pytest.raises(InputError, match=r"^nowhere://log: no filesystem for this kind of path: .*nowhere"):
        plan_small("nowhere://log")


def test_a_missing_day_is_named(tmp_path: Path) -> None:
    write_log(tmp_path / "log", [DAYS[0]])
    assert refusal(tmp_path / "log").startswith(
        f"{tmp_path}/log/dt=2026-01-02: the day 2026-01-02 is missing; write it"
    )


def test_a_day_without_its_marker(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write_log(log)
    (log / "dt=2026-01-02/_SUCCESS").unlink()
    said = refusal(log)
    assert said.startswith(f"{log}/dt=2026-01-02: no _SUCCESS marker, so the day may still be written; wait for it, or")
    assert "data.require_success=false" in said
    assert plan_small(log, {"data.require_success": False}).rows == 120


@pytest.mark.parametrize("files", [[], ["part.parquet.tmp", "_part.parquet"]])
def test_an_empty_partition(tmp_path: Path, files: list[str]) -> None:
    log = tmp_path / "log"
    write_log(log)
    part = log / "dt=2026-01-02/part-00000.parquet"
    part.unlink()
    for name in files:
        part.with_name(name).touch()
    assert refusal(
        log
    ) == f"{log}/dt=2026-01-02: an empty partition, no .parquet file; write the day or leave it out of " + ("the range")


def test_days_without_a_row(tmp_path: Path) -> None:
    write_log(tmp_path / "log", rows_per_day=0)
    assert refusal(tmp_path / "log").startswith(f"{tmp_path}/log: the days 2026-01-01 to 2026-01-02 hold no rows; ")


def test_one_file_without_rows_is_no_matter(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write_log(log)
    write_parquet(log / "dt=2026-01-01/part-00001.parquet", small_table(0))
    found = [(Path(group.path).parent.name, group.rows, group.first_row) for group in plan_small(log).groups]
    assert found == [("dt=2026-01-01", 60, 0), ("dt=2026-01-02", 60, 60)]


@pytest.mark.parametrize("column", ["user_id", "event_time"])
def test_a_reserved_column_is_needed(tmp_path: Path, column: str) -> None:
    paths = write_log(tmp_path / "log", **{column: None})
    assert refusal(tmp_path / "log", {"features.user.column": "session"}) == (
        f"{paths[0]}: the reserved column '{column}' is missing; every event log has it"
    )


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("tasks.cart.label", "crt", "column 'crt', the label of task 'cart', is missing; did you mean 'cart'?"),
        ("features.item.column", "itemid", "column 'itemid', feature 'item', is missing; did you mean 'item_id'?"),
        ("features.age.column", "zzz", "column 'zzz', feature 'age', is missing; the file has user_id, event_time, "),
        (
            "features.history.weights",
            "history_w",
            "column 'history_w', feature 'history', is missing; did you mean 'hist",
        ),
    ],
)
def test_a_missing_column_comes_with_a_hint(tmp_path: Path, key: str, name: str, message: str) -> None:
    paths = write_log(tmp_path / "log")
    assert refusal(tmp_path / "log", {key: name}).startswith(f"{paths[0]}: {message}")


TEXT, WHOLE, REAL = pa.array(["a"] * 10), pa.array([1] * 10), pa.array([1.0] * 10)


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("user_id", TEXT, "feature 'user', holds string where an integer belongs"),
        ("user_id", REAL, "feature 'user', holds double where an integer belongs"),
        ("history", WHOLE, "feature 'history', holds int64 where a list of integers belongs"),
        ("history", pa.array([[1.0]] * 10), "feature 'history', holds list<element: double> where a list of integers"),
        (
            "history_weight",
            pa.array([["a"]] * 10),
            "feature 'history', holds list<element: string> where a list of num",
        ),
        ("city", WHOLE, "feature 'city', holds int64 where a string belongs"),
        ("price", TEXT, "feature 'price_bucket', holds string where a number belongs"),
        ("age", TEXT, "feature 'age', holds string where a number belongs"),
        ("click", REAL, "the label of task 'click', holds double where an integer or boolean 0/1 belongs"),
        ("order", TEXT, "the label of task 'order', holds string where an integer or boolean 0/1 belongs"),
    ],
)
def test_a_drifted_type_in_the_second_file_is_named(tmp_path: Path, column: str, values: pa.Array, said: str) -> None:
    log = tmp_path / "log"
    write_log(log)
    second = log / "dt=2026-01-02/part-00001.parquet"
    write_parquet(second, override(small_table(10), {column: values}))
    message = refusal(log)
    assert message.startswith(f"{second}: column '{column}', {said}")
    assert message.endswith("; write it with that type or change the feature's kind")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("user_id", pa.array([1] * 10, pa.uint8())),
        ("history", pa.array([[1]] * 10, pa.large_list(pa.int16()))),
        ("history_weight", pa.array([[1]] * 10)),
        ("city", TEXT.dictionary_encode()),
        ("city", TEXT.cast(pa.large_string())),
        ("age", WHOLE),
        ("click", pa.array([True] * 10)),
        ("click", pa.array([1] * 10, pa.uint64())),
    ],
)
def test_types_may_differ_where_they_mean_the_same(tmp_path: Path, column: str, values: pa.Array) -> None:
    write_log(tmp_path / "log")
    write_parquet(tmp_path / "log/dt=2026-01-02/part-00001.parquet", override(small_table(10), {column: values}))
    assert plan_small(tmp_path / "log").rows == 130


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_a_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    path = Path(write_log(tmp_path / "log")[1])
    path.write_bytes(path.read_bytes()[:keep])
    assert re.fullmatch(
        rf"{re.escape(str(path))}: not a whole Parquet file \(.+\); write it again", refusal(tmp_path / "log")
    )


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.9])
def test_a_flipped_bit_in_the_footer_is_told_by_name_or_of_no_consequence(tmp_path: Path, part: float) -> None:
    log = tmp_path / "log"
    path = Path(write_log(log, [DAYS[0]])[0])
    whole = path.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little")
    start = len(whole) - 8 - round(footer * (1 - part))
    told = []
    for place in range(start, start + 40):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x80]) + whole[place + 1 :])
        try:
            plan_small(log, {"data.train.to": DAYS[0]})
        except InputError as error:
            told.append(str(error))
    assert told
    assert all(str(path) in text for text in told)


def test_a_log_in_another_filesystem(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}/log"
    write_log(url, row_group_rows=25)
    assert [g.rows for g in plan_small(url).groups] == [25, 25, 10, 25, 25, 10]
    with pytest.raises(InputError, match="the day 2026-01-09 is missing"):
        plan_small(url, {"data.train.from": "2026-01-09", "data.train.to": "2026-01-09"})
    with pytest.raises(InputError, match=r"data\.path: no such path 'memory://none'"):
        plan_small("memory://none")


def test_a_column_that_stands_twice_is_named(tmp_path: Path) -> None:
    (path, *_) = write_log(tmp_path, DAYS, 10)
    table = small_table(10)
    write_parquet(path, table.append_column("age", table.column("age")))
    assert refusal(tmp_path) == f"{path}: column 'age', feature 'age', stands there twice; write it once"


def test_a_link_to_nothing_is_no_missing_day(tmp_path: Path) -> None:
    """A writer's temporary file that goes between the listing and a look at it is the same to the planner."""
    write_log(tmp_path, DAYS, 10)
    folder = tmp_path / f"dt={DAYS[0]}"
    (folder / "_temporary").symlink_to(tmp_path / "gone")
    assert plan_small(tmp_path).rows == 20
    (folder / "part-7.parquet").symlink_to(tmp_path / "gone")
    assert refusal(tmp_path).startswith(f"{folder}/part-7.parquet: not a whole Parquet file (")


def test_other_row_groups_are_other_files(tmp_path: Path) -> None:
    """A day written again with the same rows in other row groups would be read in another order."""
    write_log(tmp_path / "a", DAYS, 60, row_group_rows=30)
    write_log(tmp_path / "b", DAYS, 60, row_group_rows=20)
    write_log(tmp_path / "c", DAYS, 60, row_group_rows=30)
    a, b, c = (plan_small(tmp_path / name).fingerprint for name in "abc")
    assert a == c
    assert a != b
