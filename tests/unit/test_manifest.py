"""The frozen manifest: stored and read back, made once, compared with the folders, and cheap."""

import dataclasses
import gc
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.train import stored_manifest
from pipeline.data.files import plan
from pipeline.data.freeze import STORED, Planned, frozen, late_files, plan_from_bytes, plan_job
from pipeline.data.manifest import Manifest, from_bytes
from pipeline.train.checkpoint_store import CheckpointStore, Progress
from schemas.errors import InputError
from schemas.job import JobConfig
from tests import faulty
from tests.faulty import Faulty
from tests.logs import DAYS, small_job, small_table, write_log, write_parquet


@pytest.fixture(autouse=True)
def _faulty_filesystem() -> Iterator[None]:
    faulty.register()
    Faulty.forget()
    yield
    Faulty.forget()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_log(tmp_path / "log", DAYS, 50, row_group_rows=[7, 0, 11, 20], files_per_day=2)
    return tmp_path / "log"


def job_of(log: Path | str, **changes: object) -> JobConfig:
    return small_job(log, changes={"data.storage": {"backoff_seconds": 0}} | changes)


def freeze(job: JobConfig) -> bytes:
    return plan(job, job.data.train).to_bytes()


def test_a_stored_manifest_comes_back_whole(log: Path) -> None:
    job = job_of(log)
    manifest = plan(job, job.data.train)
    back = from_bytes(manifest.to_bytes(), str(log), "x")
    assert list(back.groups) == list(manifest.groups)
    assert back.fingerprint == manifest.fingerprint
    assert back.files.equals(manifest.files)
    assert back.to_bytes() == manifest.to_bytes(), "the same bytes for the same manifest"
    elsewhere = from_bytes(manifest.to_bytes(), "/other", "x")
    assert elsewhere.groups[0].path == "/other/dt=2026-01-01/part-00000.parquet"
    assert elsewhere.fingerprint == manifest.fingerprint


def test_it_holds_what_the_files_themselves_say(log: Path) -> None:
    """Against pyarrow's own reading of each file."""
    job = job_of(log)
    manifest = plan(job, job.data.train)
    expected = []
    for path in sorted(log.glob("dt=2026-01-0[12]/*.parquet")):
        metadata = pq.read_metadata(path)
        rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        sizes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
        expected.append((str(path.relative_to(log)), path.stat().st_size, metadata.serialized_size + 8, rows, sizes))
    names = ("path", "bytes", "footer_bytes", "rows", "group_bytes")
    assert list(zip(*(manifest.files.column(name).to_pylist() for name in names), strict=True)) == expected
    first = 0
    for group in manifest.groups:
        assert group.first_row == first
        first += group.rows
    assert manifest.rows == first == 100
    assert manifest.groups[1:3] == [manifest.groups[1], manifest.groups[2]]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "version"])
def test_damaged_bytes_are_refused_by_name(log: Path, damage: str) -> None:
    data = bytearray(freeze(job_of(log)))
    if damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "version":
        data[17:18] = b"2"
    else:
        del data[100 if damage == "cut" else 0 :]
    with pytest.raises(InputError, match=r"^step-9: (damaged; restore it|no manifest that this version reads)"):
        from_bytes(bytes(data), "log", "step-9")


def test_planning_again_opens_no_file(log: Path) -> None:
    job = job_of(f"faulty://{log}")
    stored = freeze(job)
    assert Faulty.calls["read"] >= 4
    Faulty.forget()
    planned = frozen(job, job.data.train, stored)
    assert Faulty.calls == {"ls": 2}, "a listing a day and nothing else"
    assert planned == Planned(from_bytes(stored, str(log), "x"))


def test_one_read_a_file(log: Path) -> None:
    job = job_of(f"faulty://{log}")
    plan(job, job.data.train)
    # four files; the first of each day is looked at once more, for its checksums
    assert Faulty.calls == {"ls": 2, "read": 6}


def test_a_long_footer_takes_a_second_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_log(tmp_path / "log", DAYS[:2], 50)
    monkeypatch.setattr("pipeline.data.footers.TAIL_BYTES", 100)
    local, remote = job_of(tmp_path / "log"), job_of(f"faulty://{tmp_path / 'log'}")
    fingerprint = plan(local, local.data.train).fingerprint
    assert plan(remote, remote.data.train).fingerprint == fingerprint
    monkeypatch.undo()
    assert plan(local, local.data.train).fingerprint == fingerprint


def test_late_files_belong_to_a_later_run(log: Path) -> None:
    job = job_of(log)
    stored = freeze(job)
    write_parquet(log / "dt=2026-01-01/part-00009.parquet", small_table(10))
    planned = frozen(job, job.data.train, stored)
    assert planned.manifest.rows == 100
    assert planned.late == ("dt=2026-01-01/part-00009.parquet",) == late_files(job, planned.manifest)
    assert planned.notes() == [
        "note: 1 file (dt=2026-01-01/part-00009.parquet) came after the run began; they belong to a later run"
    ]
    assert plan(job, job.data.train).rows == 110, "that later run"
    shutil.rmtree(log)
    assert late_files(job, planned.manifest) is None


@pytest.mark.parametrize("what", ["vanished", "changed"])
def test_a_file_that_vanished_or_changed_is_named(log: Path, what: str) -> None:
    job = job_of(log)
    stored = freeze(job)
    part = log / "dt=2026-01-02/part-00001.parquet"
    if what == "vanished":
        part.unlink()
    else:
        part.write_bytes(part.read_bytes() + b"\0")
    said = rf"1 file \(dt=2026-01-02/part-00001.parquet\) {what} since the run began; restore"
    with pytest.raises(InputError, match=said):
        frozen(job, job.data.train, stored)


def test_another_etag_is_another_file(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the same size; in the same place alone: another store has ETags of its own."""
    tags = {"dt=2026-01-01": "a"}
    listing = Faulty.ls

    def ls(self: Faulty, path: str, detail: bool = False, **kwargs: object) -> object:
        return [e | {"ETag": f'"{tags.get(path[-13:], "b")}"'} for e in listing(self, path, detail=True, **kwargs)]

    monkeypatch.setattr(Faulty, "ls", ls)
    job = job_of(f"faulty://{log}")
    stored = freeze(job)
    assert from_bytes(stored, "", "x").files.column("etag").to_pylist() == ["a", "a", "b", "b"]
    tags["dt=2026-01-01"] = "other"
    with pytest.raises(InputError, match=r"2 files \(dt=2026-01-01/part-00000.parquet, .*\) changed"):
        frozen(job, job.data.train, stored)
    moved = log.rename(log.with_name("moved"))
    elsewhere = job_of(f"faulty://{moved}")
    assert frozen(elsewhere, elsewhere.data.train, stored).manifest.rows == 100


def test_other_columns_have_the_files_opened_again(log: Path) -> None:
    stored = freeze(job_of(log))
    job = job_of(log, **{"features.age.column": "event_time"})
    with pytest.raises(InputError, match=r"part-00000.parquet: column 'event_time', feature 'age', holds timestamp"):
        frozen(job, job.data.train, stored)
    write_parquet(log / "dt=2026-01-01/part-00009.parquet", small_table(10))
    fewer = job_of(log, **{"tasks.order": ...})
    planned = frozen(fewer, fewer.data.train, stored)
    assert (planned.manifest.rows, len(planned.late)) == (100, 1)


def commit(output: Path, step: int, data: bytes | None, committed: bool = True) -> None:
    store = CheckpointStore(str(output / "checkpoints"))
    name = store.new_attempt(step)
    files = {} if data is None else {STORED: store.write(name, STORED, data)}
    if committed:
        store.commit(name, Progress(step, 0, step, step), {}, "", files, float(step))


def test_the_newest_commits_manifest_counts(log: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    job = small_job(log, output)
    assert stored_manifest(job) is None
    stored = freeze(job)
    commit(output, 10, b"old")
    commit(output, 20, stored)
    commit(output, 30, b"torn", committed=False)
    assert stored_manifest(job) == stored
    write_parquet(log / "dt=2026-01-01/part-00009.parquet", small_table(10))
    made = plan_job(job, stored_manifest(job))
    assert (made.training.manifest.rows, made.training.late) == (100, ("dt=2026-01-01/part-00009.parquet",))
    assert made.evaluation is not None
    [newest] = (output / "checkpoints").glob("step-00000020-*")
    (newest / STORED).write_bytes(stored[:-1] + b"x")
    with pytest.raises(InputError, match=rf"{newest.name}/{STORED}: missing, cut short or changed"):
        stored_manifest(job)
    back = plan_from_bytes(made.to_bytes(), job)
    assert back == made
    assert list(back.evaluation.groups) == list(made.evaluation.groups) if back.evaluation else False


def test_without_checksums_it_is_said(tmp_path: Path, log: Path) -> None:
    job = job_of(log)
    assert Planned(plan(job, job.data.train)).notes() == []
    path = log / "dt=2026-01-02/part-00000.parquet"
    pq.write_table(small_table(50), path)
    [note] = Planned(plan(job, job.data.train)).notes()
    assert note.startswith("note: 1 of 2 files looked at (the first of each day) carry no page checksums, such as ")
    assert f"{path}: damage in their pages cannot be seen" in note
    stored = frozen(job, job.data.train, freeze(job))
    assert stored.notes() == [note], "kept with the manifest"


def test_memory_grows_with_the_row_groups_alone(tmp_path: Path) -> None:
    """Twice the columns and the bytes, the same manifest."""
    lasting = []
    for wide in (0, 40):
        log = tmp_path / f"log{wide}"
        extra = {f"extra_{i}": pa.array(range(400)) for i in range(wide)}
        write_log(log, DAYS[:1], 400, row_group_rows=4, files_per_day=2, **extra)
        job = job_of(log, **{"data.train.to": DAYS[0]})
        sizes = []
        for _ in range(5):  # the least: what the interpreter keeps of freed objects for the next is not the plan's
            gc.collect()
            tracemalloc.start()
            before = pa.total_allocated_bytes()
            manifest = plan(job, job.data.train)
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes() - before)
            tracemalloc.stop()
            assert len(manifest.groups) == 100
            del manifest
        lasting.append(min(sizes))
    assert lasting[1] < 1.1 * lasting[0]


def test_groups_made_by_hand_still_do() -> None:
    """As tests of the order make them."""
    assert Manifest((), "").rows == 0
    assert dataclasses.replace(Manifest((), ""), fingerprint="x").fingerprint == "x"
