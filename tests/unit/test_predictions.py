"""Predictions on their way to disk and back: row by row, whole or not at all, in a folder and in a store."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.predictions import read_predictions, scored
from pipeline.train.lane_chunks import Evaluated
from pipeline.train.prediction_files import GROUP_ROWS, PredictionFile
from pipeline.train.result import write_whole
from pipeline.train.score import _begin
from schemas.errors import InputError
from schemas.job import JobConfig
from tests.logs import small_job
from tests.s3 import BUCKET, s3_server


def job_of(indicator: bool = False) -> JobConfig:
    return small_job("log", changes={"tasks.cart.indicator": "shown"} if indicator else None)


def rows_of(ids: list[int], job: JobConfig, exposed: bool) -> Evaluated:
    random = np.random.default_rng(ids[0])
    shape = (len(ids), len(job.tasks))
    flags = [torch.from_numpy((random.random(shape) < 0.5).astype(np.float32)) for _ in range(3)]
    logits = torch.from_numpy(random.normal(size=shape).astype(np.float32))
    return Evaluated(logits, flags[0], flags[1], torch.tensor(ids), flags[2] if exposed else None)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "folder":
        yield str(tmp_path / "out")
        return
    with pytest.MonkeyPatch.context() as patch, s3_server(patch):
        yield f"s3://{BUCKET}/{tmp_path.name}"


def write(place: str, job: JobConfig, parts: list[list[Evaluated]], attempt: str = "one", **told: Any) -> None:
    files: dict[str, int] = {}
    for rank, part in enumerate(parts):
        with PredictionFile(f"{place}/a", rank, job, attempt) as file:
            for rows in part:
                file.add(rows)
            files |= file.close()
    count = sum(len(rows.row_ids_B) for part in parts for rows in part)
    content = {"format": 1, "predictions": {"attempt": attempt, "rows": count, "files": files}} | told
    write_whole(f"{place}/a.json", json.dumps(content), "no remedy")


@pytest.mark.parametrize("indicator", [False, True])
def test_there_and_back(place: str, indicator: bool) -> None:
    job = job_of(indicator)
    parts = [[rows_of([5, 9, 2], job, indicator), rows_of([11], job, indicator)], [], [rows_of([3], job, indicator)]]
    write(place, job, parts)
    found = read_predictions(place, "a")
    assert found.row_N.tolist() == [2, 3, 5, 9, 11]
    assert found.tasks == ["click", "cart", "fav", "order"]
    whole = [rows for part in parts for rows in part]
    order = np.argsort(np.concatenate([rows.row_ids_B for rows in whole]))
    fields = [("logit_TN", "logits_BT"), ("label_TN", "labels_BT"), ("space_TN", "space_BT")]
    for mine, theirs in fields + ([("exposed_TN", "exposed_BT")] if indicator else []):
        wanted = torch.cat([getattr(rows, theirs) for rows in whole]).numpy()[order].T
        assert np.array_equal(getattr(found, mine), wanted.astype(getattr(found, mine).dtype)), mine
    assert (found.exposed_TN is None) == (not indicator)
    assert (found.logit_TN.dtype, found.label_TN.dtype, found.space_TN.dtype) == (np.float32, np.float32, np.bool_)


def test_what_is_held_is_a_row_group(tmp_path: Path) -> None:
    job = job_of()
    size = GROUP_ROWS // 2 + 1
    with PredictionFile(str(tmp_path), 0, job, "one") as file:
        for n in range(5):
            file.add(rows_of(list(range(n * size, (n + 1) * size)), job, False))
            assert sum(table.num_rows for table in file._pending) < GROUP_ROWS
        file.close()
    with pq.ParquetFile(tmp_path / "rank-00000.parquet") as written:
        groups = [written.metadata.row_group(g).num_rows for g in range(written.num_row_groups)]
    assert groups == [2 * size, 2 * size, size]


def test_a_failure_leaves_nothing(place: str) -> None:
    job = job_of()
    file = PredictionFile(f"{place}/a", 0, job, "one").__enter__()
    file.add(rows_of([1, 2], job, False))
    file._write()
    file.__exit__(RuntimeError, RuntimeError("elsewhere"), None)
    fs, path = fsspec.core.url_to_fs(f"{place}/a")
    fs.invalidate_cache()
    assert not fs.exists(path) or fs.ls(path) == []
    assert scored(place, "a") is None
    with pytest.raises(InputError, match=r"holds no a\.json"):
        read_predictions(place, "a")


def test_a_full_disk_is_told_by_the_files_name(tmp_path: Path) -> None:
    (tmp_path / ".rank-00000.parquet.draft").symlink_to("/dev/full")
    file = PredictionFile(str(tmp_path), 0, job_of(), "one").__enter__()
    file.add(rows_of(list(range(1000)), job_of(), False))
    with pytest.raises(InputError, match=r"rank-00000\.parquet: cannot be written \(.*No space left") as refused:
        file.close()
    file.__exit__(InputError, refused.value, None)
    assert list(tmp_path.iterdir()) == []


def test_scored_without_rows(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"format": 1, "predictions": None}))
    with pytest.raises(InputError, match=r"scored without predictions; score the model again with score\.predictions"):
        read_predictions(str(tmp_path), "a")


def test_a_new_attempt_finds_nothing_of_the_one_before(place: str) -> None:
    job = job_of()
    write(place, job, [[rows_of([1, 2], job, False)], [rows_of([3], job, False)]], "one")
    fs, path = fsspec.core.url_to_fs(f"{place}/a")
    fs.pipe_file(f"{path}/.rank-00007.parquet.draft", b"torn")
    assert _begin(place, "a") != _begin(place, "a")
    fs.invalidate_cache()
    assert not fs.exists(path) or fs.ls(path) == []
    assert scored(place, "a") is None
    write(place, job, [[rows_of([4], job, False)]], "two")
    assert read_predictions(place, "a").row_N.tolist() == [4]


@pytest.mark.parametrize("content", ["", '{"format": 1', "[]", '{"format": 2}'])
def test_what_is_no_whole_json_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a\.json: (cannot be read|no scores that this version reads)"):
        scored(str(tmp_path), "a")


def test_a_file_of_another_attempt_is_refused(tmp_path: Path) -> None:
    job = job_of()
    write(str(tmp_path / "one"), job, [[rows_of([1], job, False)], [rows_of([2], job, False)]], "one")
    write(str(tmp_path / "two"), job, [[rows_of([1], job, False)], [rows_of([2], job, False)]], "two")
    (tmp_path / "two" / "a" / "rank-00001.parquet").rename(tmp_path / "one" / "a" / "rank-00001.parquet")
    with pytest.raises(InputError, match=r"rank-00001\.parquet: of another run of the scoring than the model's \.json"):
        read_predictions(str(tmp_path / "one"), "a")


def test_a_row_twice_or_missing_is_refused(tmp_path: Path) -> None:
    job = job_of()
    write(str(tmp_path), job, [[rows_of([1, 2], job, False)], [rows_of([2], job, False)]])
    with pytest.raises(InputError, match=r"a: 3 rows where a\.json promises 3, each once"):
        read_predictions(str(tmp_path), "a")
