"""A stretch of a row group -> rows: over a storage that fails, with damage found, and no byte more than wanted."""

import dataclasses
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data import column_bytes, reader
from pipeline.data.files import plan
from pipeline.data.footers import digest
from pipeline.data.loader import Loader
from pipeline.data.manifest import RowGroup
from pipeline.data.order import Stretch
from pipeline.data.reader import read_stretch, read_stretches
from pipeline.data.source import Source, epoch_source
from schemas.errors import InputError
from schemas.job import JobConfig
from tests import faulty
from tests.faulty import SETTINGS, Faulty
from tests.logs import DAYS, SMALL, override, small_job, small_table, write_log, write_parquet

ROWS = 600


@pytest.fixture(autouse=True)
def _faulty_filesystem() -> Iterator[None]:
    faulty.register()
    Faulty.forget()
    yield
    Faulty.forget()


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader") / "log"
    write_log(folder, DAYS[:2], ROWS // 2, row_group_rows=[40, 7, 90], files_per_day=3)
    return folder


def job_of(path: Path | str, **changes: Any) -> JobConfig:
    storage = {"backoff_seconds": 0, "retries": 12}
    return small_job(path, changes={"data.eval": None, "data.storage": storage} | changes)


def source_of(job: JobConfig) -> Source:
    return epoch_source(job, plan(job, job.data.train), 0, shuffle=False)


def stretches(source: Source) -> list[Stretch]:
    """All row groups whole, in the log's order."""
    groups = {piece.group for lane in source.lanes for piece in lane}
    return [Stretch(group, 0, group.rows) for group in sorted(groups, key=lambda group: group.first_row)]


def rows_of(source: Source) -> pa.Table:
    """All rows, in the log's order; each batch stands where it says."""
    batches, at = [], {}
    for stretch, begin, batch in read_stretches(source, stretches(source)):
        assert begin == at.get(stretch.group, 0)
        at[stretch.group] = begin + batch.num_rows
        batches.append(batch)
    return pa.Table.from_batches(batches)


def ids(job: JobConfig, world: int) -> list[int]:
    """The ids of all ranks' rows of an epoch."""
    source = epoch_source(job, plan(job, job.data.train), 0, shuffle=True)
    return [
        i
        for rank in range(world)
        for batch in Loader(job, source, rank, world).batches()
        for i in batch.row_ids_B.tolist()
    ]


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("faults", ["errors=0.1,short=0.05,seed=1", "errors=0.1,short=0.1,damage=0.2,seed=2"])
def test_an_epoch_over_a_storage_that_fails_has_every_row_once(
    log: Path, monkeypatch: pytest.MonkeyPatch, faults: str, world: int
) -> None:
    job = job_of(f"faulty://{log}")
    monkeypatch.setenv(SETTINGS, faults.replace("damage=0.2", ""))  # a footer damaged on its way is told at once
    source = epoch_source(job, plan(job, job.data.train), 0, shuffle=True)
    monkeypatch.setenv(SETTINGS, faults)
    found = [i for r in range(world) for b in Loader(job, source, r, world).batches() for i in b.row_ids_B.tolist()]
    assert sorted(found) == list(range(ROWS))
    assert found == ids(job_of(log), world), "in the order of a storage that does not"
    assert Faulty.calls["error"] > 1
    assert Faulty.calls["short"] > 1
    assert ("damage" in faults) == (Faulty.calls["damage"] > 3)


def test_the_rows_are_pyarrows_own(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = source_of(job_of(log))
    expected = pa.concat_tables([pq.read_table(g, columns=local.columns) for g in sorted(log.glob("dt=*/*.parquet"))])
    for source in (local, source_of(job_of(f"faulty://{log}"))):
        rows = rows_of(source)
        for name in local.columns:
            assert rows.column(name).to_pylist() == expected.column(name).to_pylist()
    monkeypatch.setattr(reader, "READ_ROWS", 16)
    assert rows_of(local).num_rows == ROWS


def test_no_more_footers_are_kept_than_said(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(job_of(log))
    paths = {stretch.group.path for stretch in stretches(source)}
    assert len(paths) > 1
    monkeypatch.setattr(column_bytes, "_footers", {})
    monkeypatch.setattr(column_bytes, "FOOTERS_KEPT", 1)
    assert rows_of(source).num_rows == ROWS
    assert len(column_bytes._footers) == 1


def test_a_kept_footer_is_hashed_once(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(job_of(log))
    monkeypatch.setattr(column_bytes, "_footers", {})
    hashed: list[int] = []
    monkeypatch.setattr(column_bytes, "digest", lambda footer: hashed.append(len(footer)) or digest(footer))
    for _ in range(2):
        assert rows_of(source).num_rows == ROWS
    assert len(hashed) == len({stretch.group.path for stretch in stretches(source)})


@pytest.mark.parametrize(("damage", "told", "lost_at"), [(25, [(3, 13), (16, 4), (20, 4)], 24), (7, [(3, 1)], 4)])
def test_rows_before_the_damage_are_decoded_in_smaller_batches(
    log: Path, monkeypatch: pytest.MonkeyPatch, damage: int, told: list[tuple[int, int]], lost_at: int
) -> None:
    monkeypatch.setattr(reader, "READ_ROWS", 16)
    monkeypatch.setattr(reader, "FINE_ROWS", 4)
    source = source_of(job_of(log))
    group = max((s.group for s in stretches(source)), key=lambda group: group.rows)
    assert group.rows > 26
    whole = reader._batches

    def failing(source: Source, columns: Any, index: int, rows: int) -> Iterator[pa.RecordBatch]:
        done = 0
        for batch in whole(source, columns, index, rows):
            done += batch.num_rows
            if done > damage:
                raise pa.ArrowInvalid("a damaged page")
            yield batch

    monkeypatch.setattr(reader, "_batches", failing)
    lenient = dataclasses.replace(source, lenient=True)
    *rows, (at, lost) = read_stretch(lenient, Stretch(group, 3, group.rows))
    assert [(begin, batch.num_rows) for begin, batch in rows] == told
    assert at == lost_at
    assert "a damaged page" in lost.reason


def test_rows_before_an_index_beyond_its_dictionary_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dictionary's header that counts too few values, which no checksum covers."""
    monkeypatch.setattr(reader, "READ_ROWS", 64)
    monkeypatch.setattr(reader, "FINE_ROWS", 16)
    city = pa.array(["Oslo"] * 50 + ["Lima"] * 10)
    (path,) = write_log(tmp_path / "log", DAYS[:1], 60, city=city)
    source = source_of(job_of(tmp_path / "log", **{"data.train.to": DAYS[0]}))
    (stretch,) = stretches(source)
    footer = pq.read_metadata(path).row_group(0)
    chunk = footer.column(next(i for i in range(footer.num_columns) if footer.column(i).path_in_schema == "city"))
    data = bytearray(Path(path).read_bytes())
    at = data.index(b"\x3c\x15\x04", chunk.dictionary_page_offset) + 2
    assert at < chunk.data_page_offset
    data[at] = 2  # one value
    Path(path).write_bytes(data)
    *rows, (lost_at, lost) = read_stretch(dataclasses.replace(source, lenient=True), stretch)
    assert [(begin, batch.num_rows) for begin, batch in rows] == [(0, 16), (16, 16), (32, 16)]
    assert lost_at == 48
    assert "column 'city': index 1 into a dictionary of 1" in lost.reason


def test_a_kept_footer_is_that_of_the_manifest_and_of_the_file(tmp_path: Path) -> None:
    """A file replaced while its footer is kept: sizes may be the same, so the footers themselves are compared."""

    def written(seed: int) -> tuple[RowGroup, bytes]:
        (path,) = write_log(tmp_path / "log", DAYS[:1], 60, seed=seed)
        (stretch,) = stretches(source_of(job_of(tmp_path / "log", **{"data.train.to": DAYS[0]})))
        return stretch.group, Path(path).read_bytes()[-stretch.group.footer_bytes :]

    (first, one), (second, two) = written(1), written(2)
    assert first.path == second.path
    for group, own, other in ((first, one, two), (second, two, one), (first, one, two)):
        assert column_bytes._checked_footer(group, own).data == own
        for _ in range(2):
            with pytest.raises(InputError, match="changed since the run began"):
                column_bytes._checked_footer(group, other)
        with pytest.raises(InputError, match="changed since the run began"):
            column_bytes._checked_footer(second if group is first else first, own)


def test_a_retry_goes_on_at_the_known_row(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page in the middle of a row group is damaged on its way, once: rows handed out before are not told again."""
    monkeypatch.setattr(reader, "READ_ROWS", 16)
    source = source_of(job_of(f"faulty://{log}"))
    group = stretches(source)[2].group
    decoded = reader._decoded
    failures = iter([3, 1])

    def stumbling(*arguments: Any) -> Iterator[tuple[int, pa.RecordBatch]]:
        limit = next(failures, 99)
        for number, item in enumerate(decoded(*arguments)):
            if number == limit:
                raise reader.DecodeError("a damaged page")
            yield item

    monkeypatch.setattr(reader, "_decoded", stumbling)
    found = [(begin, batch.num_rows) for begin, batch in read_stretch(source, Stretch(group, 5, group.rows - 3))]
    assert [begin for begin, _ in found] == [5, 16, 32, 48]
    assert sum(rows for _, rows in found) == group.rows - 8


def test_retries_end_with_the_object_the_attempts_and_the_reason(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = source_of(job_of(f"faulty://{log}", **{"data.storage": {"backoff_seconds": 0, "retries": 2}}))
    monkeypatch.setenv(SETTINGS, "errors=1")
    with pytest.raises(
        InputError, match=r"part-00000.parquet, row group 0: cannot be read after 3 attempts \(.*bad mom"
    ):
        rows_of(source)
    monkeypatch.setenv(SETTINGS, "short=1")
    with pytest.raises(InputError, match=r"row group 0: cannot be read after 3 attempts \(\d+ bytes came of the \d+"):
        rows_of(source)


def test_columns_that_come_short_are_told_as_such(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not as damage: the remedy is another."""
    source = source_of(job_of(f"faulty://{log}", **{"data.storage": {"retries": 0}}))
    whole = Faulty.cat_ranges
    monkeypatch.setattr(Faulty, "cat_ranges", lambda *a, **k: [part[:-1] for part in whole(*a, **k)])
    with pytest.raises(InputError, match=r"row group 0: cannot be read \(\d+ bytes came of the \d+ from \d+ on\); see"):
        rows_of(source)


def test_a_read_that_hangs_ends_by_name(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = {"backoff_seconds": 0, "retries": 1, "timeout_seconds": 1}
    source = source_of(job_of(f"faulty://{log}", **{"data.storage": storage}))
    monkeypatch.setenv(SETTINGS, "hang=3")
    with pytest.raises(InputError, match=r"row group 0: cannot be read after 2 attempts \(no answer in 1 s\); see"):
        rows_of(source)


def test_the_loader_says_what_it_waits_for(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(f"faulty://{log}", **{"train.timeout_seconds": 1})
    source = source_of(job)
    monkeypatch.setenv(SETTINGS, "hang=5")
    where = stretches(source)[0].group.where
    says = rf"has waited 1 s for the reader's next batch, now at {where}; see whether"
    with Loader(job, source) as loader:
        with pytest.raises(InputError, match=says):
            list(loader)
        Faulty.answer.set()  # the reader ends, and the loader need not wait for it
    assert reader.reading(threading.get_ident()) == ""


def test_only_the_wanted_columns_are_fetched(tmp_path: Path) -> None:
    """A column that nobody reads, larger than all others together, lies in the middle of the file."""
    table = small_table(2000)
    wide = pa.array([os.urandom(200) for _ in range(2000)])
    table = override(table, {"wide": wide}).select(["user_id", "event_time", "wide", *table.schema.names[2:]])
    folder = tmp_path / f"dt={DAYS[0]}"
    folder.mkdir()
    write_parquet(folder / "part.parquet", table, 2000)
    (folder / "_SUCCESS").touch()
    job = job_of(f"faulty://{tmp_path}", **{"data.train.to": DAYS[0]})
    source = source_of(job)
    metadata = pq.read_metadata(folder / "part.parquet")
    chunks = [metadata.row_group(0).column(i) for i in range(metadata.num_columns)]
    wanted = sum(c.total_compressed_size for c in chunks if c.path_in_schema.split(".")[0] in job.columns)
    assert wanted < sum(c.total_compressed_size for c in chunks) / 2
    Faulty.forget()
    assert rows_of(source).num_rows == 2000
    fetched = sum(Faulty.bytes_read.values())
    event_time = next(c.total_compressed_size for c in chunks if c.path_in_schema == "event_time")
    # the footer once more, and one unwanted column that is cheaper to fetch than to ask around
    assert wanted < fetched <= wanted + metadata.serialized_size + 8 + event_time
    assert Faulty.calls["open"] == 0


@pytest.mark.parametrize("remote", [False, True])
def test_a_file_written_again_since_the_plan_is_another_file(tmp_path: Path, remote: bool) -> None:
    """Same name, same size, other rows."""
    write_log(tmp_path / "log", DAYS[:1], 50)
    job = job_of(f"faulty://{tmp_path}/log" if remote else tmp_path / "log", **{"data.train.to": DAYS[0]})
    source = source_of(job)
    path = tmp_path / f"log/dt={DAYS[0]}/part-00000.parquet"
    before = path.read_bytes()
    table = pq.read_table(path)
    write_parquet(path, override(table, {"age": pa.array([a + 1 for a in table.column("age").to_pylist()])}))
    same_size = len(before) == path.stat().st_size
    with pytest.raises(
        InputError, match=rf"{path}: changed since the run began \(({'another' if same_size else ''}.*)\)"
    ):
        rows_of(source)
    path.unlink()
    with pytest.raises(InputError, match=r"row group 0: vanished since the run began; restore the file"):
        rows_of(source)
    path.write_bytes(before)
    assert rows_of(source).num_rows == 50


def test_local_damage_fails_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [path] = map(Path, write_log(tmp_path / "log", DAYS[:1], 60))
    source = source_of(job_of(tmp_path / "log", **{"data.train.to": DAYS[0]}))
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(0).column(file.schema_arrow.names.index("user_id"))
    end = (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size
    data = bytearray(path.read_bytes())
    data[end - 1] ^= 1
    path.write_bytes(data)
    fetches = []
    fetch = reader.fetch
    monkeypatch.setattr(reader, "fetch", lambda *a: fetches.append(a) or fetch(*a))
    with pytest.raises(InputError, match=r"row group 0: cannot be decoded \(.*CRC.*\); write the file again"):
        rows_of(source)
    assert len(fetches) == 1


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    """A manifest handed over may be of other columns than the job now reads."""
    write_log(tmp_path / "log", DAYS[:1], 60)
    source = source_of(job_of(tmp_path / "log", **{"data.train.to": DAYS[0]}))
    source.columns.append("ghost")
    with pytest.raises(InputError, match=r"part-00000.parquet: column 'ghost' is missing"):
        rows_of(source)


def test_a_dot_in_a_name_is_no_matter(tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS[:1], 60, **{"age.years": pa.array(range(60))})
    job = job_of(tmp_path / "log", **{"data.train.to": DAYS[0], "features.age.column": "age.years"})
    assert rows_of(source_of(job)).column("age.years").to_pylist() == list(range(60))
    both = [*SMALL["features"], {"name": "years", "kind": "float", "column": "age.years"}]
    found = rows_of(source_of(job_of(tmp_path / "log", **{"data.train.to": DAYS[0], "features": both})))
    assert found.column("age.years").to_pylist() == list(range(60))
    assert found.column("age").to_pylist() == small_table(60).column("age").to_pylist()
