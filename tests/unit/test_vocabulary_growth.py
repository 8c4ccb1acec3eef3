"""Vocabularies that grow: what is new by pandas, old rows kept, within the table, the same bytes, torn files anew."""

import collections
import itertools
import uuid
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data import vocabulary_growth
from pipeline.data.files import plan
from pipeline.data.vocabulary_growth import Grown, grow
from schemas.errors import InputError
from schemas.events import DayRange
from schemas.job import JobConfig
from tests.logs import CITIES, DAYS, small_job, write_log

ROWS = 300
ITEM_FEATURES = ("item", "history", "recent")
OLD_ITEMS = (39, 3, 17, 1000, 4)
"""In no order, and one that no day has."""
OLD_CITIES = ("Porto", "Oslo")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("growth") / "log"
    write_log(path, DAYS, ROWS, row_group_rows=[90, 0, 33], files_per_day=2)
    return path


def vocabulary(path: Path, values: pa.Array) -> str:
    pq.write_table(pa.table({"value": values}), path)
    return str(path)


def job_of(log: Path | str, folder: Path, rows: int = 60) -> JobConfig:
    """The small job with a vocabulary of items, which three features share, and one of cities; users are rows."""
    items, cities = (vocabulary(folder / "i", pa.array(OLD_ITEMS)), vocabulary(folder / "c", pa.array(OLD_CITIES)))
    changes: dict[str, Any] = {f"features.{name}.vocabulary": items for name in ITEM_FEATURES}
    changes |= {"features.city.vocabulary": cities, "tables.item.rows": rows}
    return small_job(log, changes=changes)


def grown(job: JobConfig, folder: Path | str, min_count: int = 35, day: str = DAYS[1]) -> dict[str, Grown]:
    days = DayRange.model_validate({"from": day, "to": day})
    return grow(job, days, None, str(folder), min_count, lambda progress: None)


def values_of(path: str) -> list[Any]:
    with fsspec.open(path, "rb") as file:
        return pq.read_table(file)["value"].to_pylist()


def counts_of(log: Path, day: str = DAYS[1]) -> dict[str, collections.Counter]:
    frame = pd.concat(pd.read_parquet(path) for path in sorted(log.glob(f"dt={day}/*.parquet")))
    items = itertools.chain(frame.item_id, *frame.history, *frame.recent)
    return {"item": collections.Counter(int(i) for i in items), "city": collections.Counter(frame.city)}


def test_it_adds_what_pandas_counts_behind_the_old_values(log: Path, tmp_path: Path) -> None:
    found = grown(job_of(log, tmp_path), tmp_path / "new")
    assert list(found) == ["item", "city"]
    for table, old in (("item", OLD_ITEMS), ("city", OLD_CITIES)):
        counted = counts_of(log)[table]
        fresh = [value for value, n in counted.items() if n >= 35 and value not in old]
        expected = [*old, *sorted(fresh, key=lambda value: (-counted[value], value))]
        told = found[table]
        assert told.path == f"{tmp_path}/new/{table}.parquet"
        assert values_of(told.path) == expected
        assert (told.before, told.after, told.no_room) == (len(old), len(expected), 0)
        rest = sum(n for value, n in counted.items() if value not in expected)
        assert told.unknown == rest / counted.total()
        assert len(old) < len(expected)
    assert 0 < found["item"].unknown < 0.5
    assert found["city"].unknown == 0


@pytest.mark.parametrize("rows", [5, 6, 20])
def test_where_room_is_short_the_most_frequent_come_in(log: Path, tmp_path: Path, rows: int) -> None:
    whole = grown(job_of(log, tmp_path), tmp_path / "whole")["item"]
    told = grown(job_of(log, tmp_path, rows), tmp_path / "new")["item"]
    assert (told.after, told.no_room) == (rows, whole.after - rows)
    assert told.unknown > whole.unknown
    if rows == len(OLD_ITEMS):
        assert told.path == str(tmp_path / "i"), "nothing could come in"
        assert not (tmp_path / "new" / "item.parquet").exists()
    else:
        assert values_of(told.path) == values_of(whole.path)[:rows]


def test_where_nothing_is_new_the_old_file_stays_named_and_none_is_written(log: Path, tmp_path: Path) -> None:
    found = grown(job_of(log, tmp_path), tmp_path / "new", min_count=10_000)
    assert {table: told.path for table, told in found.items()} == {"item": f"{tmp_path}/i", "city": f"{tmp_path}/c"}
    assert all(told.before == told.after and told.no_room == 0 and told.unknown > 0 for told in found.values())
    assert not (tmp_path / "new").exists()
    assert grow(small_job(log), DayRange.model_validate({"from": DAYS[1], "to": DAYS[1]}), None, "x", 1, print) == {}


def test_days_one_after_the_other_only_add(log: Path, tmp_path: Path) -> None:
    job = job_of(log, tmp_path)
    first = grown(job, tmp_path / "1", 38)["item"]
    features = [f.model_copy(update={"vocabulary": first.path}) if f.name in ITEM_FEATURES else f for f in job.features]
    second = grown(job.model_copy(update={"features": features}), tmp_path / "2", 38, DAYS[2])["item"]
    assert second.before == first.after
    assert values_of(second.path)[: first.after] == values_of(first.path)


def test_a_frozen_manifest_is_what_is_counted(log: Path, tmp_path: Path) -> None:
    job = job_of(log, tmp_path)
    manifest = plan(job, DayRange.model_validate({"from": DAYS[2], "to": DAYS[2]}))
    days = DayRange.model_validate({"from": DAYS[0], "to": DAYS[0]})
    rows = []
    grow(job, days, manifest, str(tmp_path / "a"), 35, lambda progress: rows.append(progress.rows))
    grown(job, tmp_path / "b", day=DAYS[2])
    assert (tmp_path / "a" / "item.parquet").read_bytes() == (tmp_path / "b" / "item.parquet").read_bytes()
    assert rows[-1] == ROWS


def test_the_same_rows_give_the_same_bytes_and_a_file_that_is_there_is_kept(log: Path, tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS, ROWS)  # the same rows in one row group a day
    job, path = job_of(log, tmp_path), tmp_path / "new" / "item.parquet"
    before = grown(job, tmp_path / "new")
    content, written = path.read_bytes(), path.stat().st_mtime_ns
    assert grown(job, tmp_path / "new") == before
    assert path.stat().st_mtime_ns == written, "it is not written again"
    assert grown(job_of(tmp_path / "log", tmp_path), tmp_path / "other")["item"].after == before["item"].after
    assert (tmp_path / "other" / "item.parquet").read_bytes() == content
    # the same values in another layout are kept as they are
    pq.write_table(pa.table({"value": pa.array(values_of(str(path)), pa.int32())}), path)
    other = path.read_bytes()
    assert grown(job, tmp_path / "new") == before
    assert path.read_bytes() == other


@pytest.mark.parametrize("left", ["nothing", "half", "a flipped bit"])
def test_a_torn_file_is_written_again(log: Path, tmp_path: Path, left: str) -> None:
    job, path = job_of(log, tmp_path), tmp_path / "new" / "item.parquet"
    before = grown(job, tmp_path / "new")
    content = bytearray(path.read_bytes())
    if left == "a flipped bit":
        content[40] ^= 1
    path.write_bytes({"nothing": b"", "half": content[: len(content) // 2]}.get(left, content))
    assert grown(job, tmp_path / "new") == before
    assert values_of(str(path))[:5] == list(OLD_ITEMS)
    assert len(values_of(str(path))) == before["item"].after


def test_a_file_of_other_values_is_refused_and_stays(log: Path, tmp_path: Path) -> None:
    job, path = job_of(log, tmp_path), tmp_path / "new" / "item.parquet"
    grown(job, tmp_path / "new")
    content = path.read_bytes()
    with pytest.raises(
        InputError, match=r"new/item\.parquet: holds other values than these days now give, .*remove it"
    ):
        grown(job, tmp_path / "new", min_count=40)
    assert path.read_bytes() == content


def test_it_grows_in_an_object_store(log: Path, tmp_path: Path) -> None:
    folder = f"memory://{uuid.uuid4()}/vocabulary/"
    found = grown(job_of(log, tmp_path), folder)
    assert found["city"].path == f"{folder}city.parquet"
    assert values_of(found["city"].path)[:2] == list(OLD_CITIES)
    assert sorted(values_of(found["city"].path)) == sorted(CITIES)
    assert grown(job_of(log, tmp_path), folder) == found


def test_nulls_stay_unknown(tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS, 100, city=pa.array([None, "a", "b", "b"] * 25))
    cities = vocabulary(tmp_path / "c", pa.array(["a"]))
    job = small_job(tmp_path / "log", changes={"features.city.vocabulary": cities, "features.city.missing": "unknown"})
    told = grown(job, tmp_path / "new")["city"]
    assert values_of(told.path) == ["a", "b"]
    assert told.unknown == 0.25


def test_what_training_would_leave_out_is_passed_over(tmp_path: Path) -> None:
    """A damaged row group stops nothing under quarantine; without, it is one message."""
    log = tmp_path / "log"
    write_log(log, DAYS, ROWS, row_group_rows=100)
    job = job_of(log, tmp_path)
    manifest = plan(job, DayRange.model_validate({"from": DAYS[1], "to": DAYS[1]}))
    (path,) = log.glob(f"dt={DAYS[1]}/*.parquet")
    column = pq.ParquetFile(path).metadata.row_group(1).column(2)
    assert column.path_in_schema == "item_id"
    content = bytearray(path.read_bytes())
    content[column.data_page_offset + column.total_compressed_size // 4] ^= 1
    path.write_bytes(content)

    def counted(job: JobConfig, name: str) -> Grown:
        days = DayRange.model_validate({"from": DAYS[1], "to": DAYS[1]})
        return grow(job, days, manifest, str(tmp_path / name), 12, lambda progress: None)["city"]

    with pytest.raises(InputError, match=r"part-00000\.parquet, row group 1: cannot be decoded"):
        counted(job, "error")
    bad = job.data.bad.model_copy(update={"corrupt": "quarantine", "row_groups_per_day": 1})
    lenient = job.model_copy(update={"data": job.data.model_copy(update={"bad": bad})})
    table = pq.read_table(counted(lenient, "quarantine").path)
    assert sum(table["count"].to_pylist()) == 200


def test_what_does_not_fit_into_memory_is_refused(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary_growth, "MEMORY", 6_000)
    with pytest.raises(InputError, match=r"tables\.item: its about \d+ values of 2026-01-02 to 2026-01-02 do not fit"):
        grown(job_of(log, tmp_path), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_one_message(log: Path, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("a file")
    with pytest.raises(
        InputError, match=r"new' cannot be written \(.*\); free space, mend the rights, or name another"
    ):
        grown(job_of(log, tmp_path), tmp_path / "new")
