"""Compaction interrupted, refused and lied to: what is shown is whole and verified, everything else one message."""

import datetime
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.compact import main
from pipeline.data import compaction
from pipeline.data.compaction import Compaction, Settings
from pipeline.data.files import plan
from pipeline.data.source_day import source_day
from schemas.errors import InputError
from tests.logs import DAYS, small_job, small_table, write_log, write_parquet

ROOT = Path(__file__).parents[2]
DAY = f"dt={DAYS[0]}"


def compact(tmp_path: Path, *more: str) -> None:
    main(["--from", f"{tmp_path}/in", "--out", f"{tmp_path}/out", "--row-group-rows", "20", "--threads", "2", *more])


def content(root: Path) -> dict[str, str]:
    """Every file and its hash."""
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


def shown(root: Path) -> list[str]:
    return sorted(p.name for p in root.rglob("*") if p.is_file() and not p.name.startswith((".", "_c")))


# ---- rerun and interruption


def test_a_finished_log_is_left_alone(tmp_path: Path) -> None:
    write_log(tmp_path / "in", rows_per_day=50)
    compact(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    compact(tmp_path)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before


FILES = 5
"""A day has as many here: one a row group."""
KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.data import compaction, log_store
from tests.unit.test_compaction_faults import complete
place, number, root = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
owner = compaction.ColumnDigests if place == "update" else log_store.LogStore
plain, calls = getattr(owner, place), [0]
def counted(*arguments):
    calls[0] += 1
    if calls[0] == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(*arguments)
setattr(owner, place, counted)
complete(root / "in", root / "out")
"""


def complete(source: Path, out: Path, files: int = FILES) -> None:
    """Two days of 100 rows into so many files each, those that are not finished."""
    work = Compaction(str(source), str(out), Settings(row_group_rows=100 // files, file_bytes=1, threads=2))
    for day in DAYS[:2]:
        found = source_day(work.fs, work.root, datetime.date.fromisoformat(day))
        if not work.finished(found):
            work.rewrite(found, lambda rows: None)


@pytest.mark.parametrize(
    ("place", "number"),
    # a day: `write` of the record, of 5 files and of _SUCCESS; `update` by batches read and read back; `show` of files
    [("write", 1), ("write", 4), ("write", 7), ("write", 14), ("update", 1), ("update", 8), ("show", 1), ("show", 8)],
)
def test_killed_anywhere_no_torn_day_is_trained_and_the_next_run_completes_it(
    tmp_path: Path, place: str, number: int
) -> None:
    write_log(tmp_path / "in", DAYS[:2], rows_per_day=100, files_per_day=3)
    command = [sys.executable, "-c", KILLED, place, str(number), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    job = small_job(tmp_path / "out", days=DAYS[:1])
    if (tmp_path / "out" / DAY / "_SUCCESS").exists():
        assert plan(job, job.data.train).rows == 100
    else:
        with pytest.raises(InputError, match=r"the day 2026-01-01 is missing|no such path|no _SUCCESS marker"):
            plan(job, job.data.train)
    complete(tmp_path / "in", tmp_path / "out")
    complete(tmp_path / "in", tmp_path / "unharmed")
    assert content(tmp_path / "out") == content(tmp_path / "unharmed")
    assert len(shown(tmp_path / "out")) == 2 * (1 + FILES)
    assert plan(job, job.data.train).rows == 100


def test_nothing_stays_of_an_interrupted_run_of_other_settings(tmp_path: Path) -> None:
    write_log(tmp_path / "in", DAYS[:2], rows_per_day=100)
    complete(tmp_path / "in", tmp_path / "out")
    (tmp_path / "out" / DAY / "_SUCCESS").unlink()
    (tmp_path / "out" / DAY / ".part-00007.parquet").touch()
    for path in (tmp_path / "out" / f"dt={DAYS[1]}").iterdir():
        path.unlink()
    complete(tmp_path / "in", tmp_path / "out", files=2)
    complete(tmp_path / "in", tmp_path / "unharmed", files=2)
    assert content(tmp_path / "out") == content(tmp_path / "unharmed")


def test_a_disk_that_refuses_to_write_is_one_message_and_shows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(tmp_path / "in", rows_per_day=100)

    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(InputError, match=r"out/dt=2026-01-01/.part-00000.parquet: cannot be written \(No space left"):
        compact(tmp_path)
    assert shown(tmp_path / "out") == []
    monkeypatch.undo()
    compact(tmp_path)
    assert shown(tmp_path / "out") == ["_SUCCESS"] * 3 + ["part-00000.parquet"] * 3


# ---- what is found in what was read and written


def test_a_damaged_page_is_found_and_nothing_is_shown(tmp_path: Path) -> None:
    write_log(tmp_path / "in", rows_per_day=100, row_group_rows=50)
    part = tmp_path / "in" / DAY / "part-00000.parquet"
    chunk = pq.read_metadata(part).row_group(1).column(0)
    whole = bytearray(part.read_bytes())
    whole[(chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 3] ^= 1
    part.write_bytes(whole)
    with pytest.raises(InputError, match=rf"{DAY}/part-00000.parquet, row group 1: cannot be decoded \(.*CRC"):
        compact(tmp_path)
    assert shown(tmp_path / "out") == []


def test_rows_that_change_on_their_way_are_found_before_they_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(tmp_path / "in", rows_per_day=100)
    plain = pq.ParquetWriter.write_table

    def swapped(writer: Any, table: pa.Table, **options: Any) -> None:
        price = table["price"].combine_chunks()
        other = pa.concat_arrays([price.slice(1, 1), price.slice(0, 1), price.slice(2)])
        index = table.schema.get_field_index("price")
        plain(writer, table.set_column(index, table.schema.field(index), other), **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", swapped)
    with pytest.raises(InputError, match=r"100 of 100 rows; unlike columns: price\); nothing was shown"):
        compact(tmp_path)
    assert shown(tmp_path / "out") == []


def test_statistics_that_deny_nulls_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path / "in", rows_per_day=30, age=lambda c: pa.array([None, *c.to_pylist()[1:]]))
    monkeypatch.setattr("pipeline.data.source_day._nulls", lambda chunk: 0)
    with pytest.raises(InputError, match="column 'age' holds nulls where the file's own statistics say"):
        compact(tmp_path)
    assert shown(tmp_path / "out") == []


# ---- drift within a day


def rewritten(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        part = root / DAY / "part-00001.parquet"
        write_parquet(part, change(pq.ParquetFile(part).read()))

    return damage


DRIFT: dict[str, tuple[Callable[[pa.Table], pa.Table], str]] = {
    "missing": (lambda t: t.drop_columns(["age"]), r"part-00001.parquet: column 'age' is missing, which part-00000"),
    "added": (
        lambda t: t.append_column("new", t["age"]),
        r"part-00000.parquet: column 'new' is missing, which part-00001.parquet of the same day has",
    ),
    "retyped": (
        lambda t: t.set_column(t.schema.get_field_index("age"), "age", t["age"].cast(pa.float32())),
        r"part-00001.parquet: column 'age' holds float where part-00000.parquet of the same day holds double",
    ),
    "twice": (lambda t: t.append_column("age", t["age"]), r"part-00001.parquet: column 'age' stands there twice"),
}


@pytest.mark.parametrize("kind", DRIFT)
def test_drift_within_a_day_names_file_and_column(tmp_path: Path, kind: str) -> None:
    write_log(tmp_path / "in", rows_per_day=40, files_per_day=3)
    change, message = DRIFT[kind]
    rewritten(change)(tmp_path / "in")
    with pytest.raises(InputError, match=message):
        compact(tmp_path)


def test_nullability_and_order_of_columns_may_differ_within_a_day(tmp_path: Path) -> None:
    write_log(tmp_path / "in", DAYS[:1], rows_per_day=40, files_per_day=2)

    def turned(table: pa.Table) -> pa.Table:
        table = table.select(table.schema.names[::-1])
        return table.cast(pa.schema([field.with_nullable(False) for field in table.schema]))

    rewritten(turned)(tmp_path / "in")
    compact(tmp_path)
    found = pq.ParquetFile(tmp_path / "out" / DAY / "part-00000.parquet").read()
    assert found.to_pylist() == small_table(40).to_pylist()


# ---- refusals


def lose_a_part(root: Path) -> None:
    (root / "out" / DAY / "part-00000.parquet").unlink()
    write_parquet(root / "out" / DAY / "part-00000.parquet", small_table(7))


def forget_its_record(root: Path) -> None:
    (root / "out" / DAY / "_compacted.json").unlink()


def change_the_source(root: Path) -> None:
    write_log(root / "in", DAYS[:1], rows_per_day=51)


def add_a_stranger(root: Path) -> None:
    write_parquet(root / "out" / DAY / "other.parquet", small_table(7))


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (lose_a_part, [], "holds 7 of 50 rows; remove that folder"),
        (forget_its_record, [], "was not written by compact; choose another --out"),
        (add_a_stranger, [], "was not written by compact; choose another --out"),
        (change_the_source, [], "made from other files; remove that folder"),
        (None, ["--row-group-rows", "21"], "made from other row_group_rows; remove that folder"),
        (None, ["--columns", "age"], "made from other columns; remove that folder"),
    ],
)
def test_another_day_in_the_target_is_refused(
    tmp_path: Path, change: Callable[[Path], None] | None, more: list[str], message: str
) -> None:
    write_log(tmp_path / "in", DAYS[:1], rows_per_day=50)
    compact(tmp_path)
    if change is not None:
        change(tmp_path)
    before = content(tmp_path / "out")
    with pytest.raises(InputError, match=message):
        compact(tmp_path, *more)
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--out", "{}/in"], "lies in --from"),
        (["--out", "{}/in/new"], "lies in --from"),
        (["--out", "{}/link/new"], "lies in --from"),
        (["--from", "{}/none"], "no such path"),
        (["--from", "{}/empty"], "holds no partition dt=YYYY-MM-DD"),
        (["--from", "nosuch://x"], "no filesystem for this kind of path"),
        (["--days", "2026-01-03", "2026-01-04"], "the day 2026-01-04 is missing; write it or change --days"),
        (["--days", "2026-01-03", "2026-01-01"], "the last day lies before the first"),
        (["--columns", "agee"], "no column 'agee'; did you mean 'age'"),
        (["--config", "none.yaml"], "none.yaml"),
    ],
)
def test_wrong_commands_are_one_message(tmp_path: Path, more: list[str], message: str) -> None:
    write_log(tmp_path / "in", rows_per_day=20)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "in")
    before = content(tmp_path / "in")
    with pytest.raises(InputError, match=message):
        compact(tmp_path, *[word.format(tmp_path) for word in more])
    assert content(tmp_path / "in") == before
    assert not (tmp_path / "out").exists()


def test_an_unfinished_day_is_refused_unless_told(tmp_path: Path) -> None:
    write_log(tmp_path / "in", rows_per_day=20, success=False)
    with pytest.raises(InputError, match=r"no _SUCCESS marker, so the day may still be written; .* --allow-unfinished"):
        compact(tmp_path)
    compact(tmp_path, "--allow-unfinished")
    assert (tmp_path / "out" / DAY / "_SUCCESS").exists()


def test_a_mistake_ends_with_exit_code_2_and_no_stack_trace(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs.compact", "--from", str(tmp_path), "--out", str(tmp_path)]
    environment = {**os.environ, "FULCRUM_TRACE": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --out: ")
    assert done.stderr.count("\n") == 1


def test_a_thread_that_fails_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path / "in", DAYS[:1], rows_per_day=400)
    calls = []

    def update(digests: Any, batch: pa.RecordBatch) -> None:
        calls.append(batch.num_rows)
        raise InputError("broken")

    monkeypatch.setattr(compaction.ColumnDigests, "update", update)
    whole = Compaction(str(tmp_path / "in"), str(tmp_path / "out"), Settings(5, 1000, 1))
    with pytest.raises(InputError, match="broken"):
        whole.rewrite(source_day(whole.fs, whole.root, datetime.date(2026, 1, 1)), lambda rows: None)
    assert len(calls) == 1
