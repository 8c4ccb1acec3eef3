"""Statistics of earlier days in their files: damaged, gone, changed, too many."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.freeze import plan_from_bytes, plan_job
from pipeline.data.history import _held
from pipeline.data.history_files import HistoryFiles
from pipeline.data.history_statistics import DaySums, statistics_of
from pipeline.data.history_sums import Sums
from pipeline.data.manifest import HISTORY
from schemas.errors import InputError
from schemas.identity import changes, numeric
from schemas.job import JobConfig
from tests.unit.test_history import WEEK, encoded, flipped, log, rewrite
from tests.unit.test_history_days import ORDER, files_of, one

__all__ = ["log"]


def stored(job: JobConfig) -> bytes:
    return plan_job(job, None).training.manifest.to_bytes()


def again(job: JobConfig, manifest: bytes) -> bytes:
    _held.clear()
    made = plan_job(job, manifest)
    got = encoded_of(job, made)
    assert made.training.manifest.to_bytes() == manifest
    return got.tobytes()


def encoded_of(job: JobConfig, made: Any) -> np.ndarray:
    from pipeline.data.loader import Loader
    from pipeline.data.source import epoch_source

    made = plan_from_bytes(made.to_bytes(), job)
    batches = list(Loader(job, epoch_source(job, made.training.manifest, 0, shuffle=True)).batches())
    return np.concatenate([b.dense_BF.numpy() for b in batches])


BEFORE = {"data__train": {"from": WEEK[1], "to": WEEK[2]}, "data__history": {"from": WEEK[0]}}


def test_a_resume_uses_the_statistics_it_began_with(log: Path) -> None:
    """Though the day before training has changed meanwhile, and a new run would be made of the new one."""
    job = one(log, **BEFORE)
    manifest = stored(job)
    was = again(job, manifest)
    rewrite(log, WEEK[0], flipped)
    assert again(job, manifest) == was
    assert encoded_of(job, plan_job(job, None)).tobytes() != was


def test_a_manifest_that_is_looked_at_again_keeps_its_statistics(log: Path) -> None:
    """As where a later version reads its columns otherwise."""
    job = one(log, **BEFORE)
    manifest = plan_job(job, None).training.manifest
    was = manifest.origin[HISTORY]
    manifest.origin["columns"] = []
    rewrite(log, WEEK[0], flipped)
    assert plan_job(job, manifest.to_bytes()).training.manifest.origin[HISTORY] == was


def test_statistics_that_are_gone_are_counted_again_or_refused_by_name(log: Path) -> None:
    job = one(log, **BEFORE)
    manifest = stored(job)
    was = again(job, manifest)
    for path in files_of(job):
        path.unlink()
    assert again(job, manifest) == was
    for path in files_of(job):
        path.unlink()
    rewrite(log, WEEK[0], flipped)
    with pytest.raises(InputError, match=r"features.item_ctr: the statistics of 2026-01-01 are not those that the run"):
        again(job, manifest)


def test_a_damaged_file_of_statistics_is_refused(log: Path) -> None:
    job = one(log)
    plan_job(job, None)
    path, content = next(iter(files_of(job).items()))
    path.write_bytes(content[:-7])
    with pytest.raises(InputError, match=r"no whole file of statistics .*; remove it, and it is counted anew"):
        plan_job(job, None)
    table = pq.read_table(pa.BufferReader(content))
    other = table.set_column(1, table.schema.field(1), pa.array(table["count"].to_numpy() + 1))
    pq.write_table(other, path)
    with pytest.raises(InputError, match="its numbers are not those that were written"):
        plan_job(job, None)
    path.unlink()
    plan_job(job, None)
    assert path.read_bytes() == content


def test_statistics_exchanged_under_a_run_are_refused(log: Path) -> None:
    job = one(log, **BEFORE)
    manifest = stored(job)
    path = next(iter(files_of(job)))
    files = HistoryFiles(f"{job.output}/statistics", job.data.storage)
    statistic = statistics_of(job)[0]
    name = str(path.relative_to(f"{job.output}/statistics"))
    sums, _ = files.read(name, statistic)
    files.write(name, statistic, DaySums(sums.key_K, sums.count_K + 1, sums.sum_K))
    with pytest.raises(InputError, match=r"features.item_ctr: .* holds other numbers"):
        again(job, manifest)


def test_a_folder_that_cannot_be_written_is_told(log: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"data.history.folder: .* cannot be written"):
        plan_job(one(log, data__history={"folder": str(tmp_path / "file")}), None)
    with pytest.raises(InputError, match=r"^output: '.*/file/statistics' cannot be written .*; name another folder"):
        plan_job(one(log, output=str(tmp_path / "file")), None)


def test_where_the_statistics_lie_may_change_and_their_first_day_may_not() -> None:
    def settings(**history: Any) -> dict[str, Any]:
        return numeric(one(Path("log"), data__history=history).model_dump(mode="json", by_alias=True))

    assert settings() == settings(folder="elsewhere", memory_mib=99) == settings(**{"from": WEEK[0]})
    assert changes(settings(), settings(**{"from": "2025-12-31"})) == ["data.history.from"]


def test_statistics_in_an_object_store(log: Path) -> None:
    want = encoded(one(log))
    got = encoded(one(log, data__history={"folder": "memory://statistics"}))
    assert all(got[day].tobytes() == want[day].tobytes() for day in want)


def test_memory_is_bounded_and_the_feature_named(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = one(log, data__history={"memory_mib": 16})
    plan_job(job, None)
    monkeypatch.setattr("pipeline.data.history.held_bytes", lambda entries, tasks: entries * tasks << 20)
    with pytest.raises(InputError, match=r"features.item_ctr: .*for the \d+ values of item_id.*memory_mib is 16"):
        plan_job(job, None)
    monkeypatch.setattr(Sums, "bytes", 17 << 20)
    with pytest.raises(InputError, match=r"features.user_order: the values of user_id on 2026-01-01 do not fit"):
        plan_job(one(log, ORDER, data__history={"memory_mib": 16}), None)
