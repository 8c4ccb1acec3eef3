"""A run's own record: whole lines, read back as told, over attempts that went on from one another."""

import json
import math
from pathlib import Path

import pytest

from pipeline.journal import Journal, attempts, series
from schemas.errors import InputError


def test_all_that_is_told_is_read_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "small", "train", 64, {"seed": 3})
    journal.values(128, {"train/click/auc": 0.7, "train/click/log_loss": math.inf, "b": math.nan})
    journal.curves(128, "eval", {"click": {"rows": [1, 2]}})
    journal.alert("late", "two files of 2026-01-08", "WARN")
    journal.end("refused", "order lost .01")
    (read,) = attempts(tmp_path)
    assert (read.job, read.job_type, read.samples, read.about) == ("small", "train", 64, {"seed": 3})
    ((_, samples, values),) = read.points
    assert samples == 128
    assert values["train/click/auc"] == 0.7
    assert values["train/click/log_loss"] == math.inf
    assert math.isnan(values["b"])
    assert read.curves == [(128, "eval", {"click": {"rows": [1, 2]}})]
    assert read.alerts[0]["text"] == "two files of 2026-01-08"
    assert (read.outcome, read.why) == ("refused", "order lost .01")
    assert read.began <= read.last
    for line in read.path.read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_each_attempt_has_a_file_of_its_own(tmp_path: Path) -> None:
    for job_type in ("train", "daily", "train"):
        Journal(tmp_path, "small", job_type, 0, {}).end("finished")
    assert [read.path.name for read in attempts(tmp_path)] == [
        "0001-train.jsonl",
        "0002-daily.jsonl",
        "0003-train.jsonl",
    ]


def test_the_number_after_9999_is_the_last(tmp_path: Path) -> None:
    Journal(tmp_path, "small", "train", 0, {}).end("finished")
    (tmp_path / "journal/0001-train.jsonl").rename(tmp_path / "journal/9999-train.jsonl")
    Journal(tmp_path, "small", "train", 5, {}).end("finished")
    assert [read.samples for read in attempts(tmp_path)] == [0, 5]


def test_a_killed_attempt_ends_with_its_last_whole_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "small", "train", 0, {})
    for samples in (1, 2, 3):
        journal.values(samples, {"a": samples})
    content = journal.path.read_bytes()
    lines = content.splitlines(keepends=True)
    for end in range(len(content) + 1):
        journal.path.write_bytes(content[:end])
        whole = sum(len(b"".join(lines[: n + 1])) <= end for n in range(4))
        read = attempts(tmp_path)
        if whole == 0:
            assert read == []
        else:
            assert [samples for _, samples, _ in read[0].points] == [1, 2, 3][: whole - 1]
            assert read[0].outcome is None


def test_a_later_attempt_stands_where_both_trained(tmp_path: Path) -> None:
    first = Journal(tmp_path, "small", "train", 0, {})
    for samples in (10, 20, 30):
        first.values(samples, {"auc": samples / 100})
    second = Journal(tmp_path, "small", "train", 20, {})  # went on from the commit at 20
    for samples in (25, 35):
        second.values(samples, {"auc": samples / 10})
    assert series(attempts(tmp_path)) == {"auc": [(10, 0.1), (20, 0.2), (25, 2.5), (35, 3.5)]}
    third = Journal(tmp_path, "small", "train", 35, {})
    third.values(35, {"auc": 9, "eval": 1})
    assert series(attempts(tmp_path))["auc"][-1] == (35, 9)


@pytest.mark.parametrize("content", ['{"line": "begin", "format": 2}\n', '{"line": "end"}\n'])
def test_another_format_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = Journal(tmp_path, "small", "train", 0, {}).path
    path.write_text(content)
    with pytest.raises(InputError, match=r"0001-train\.jsonl: no record of a run, or one of a later version"):
        attempts(tmp_path)


def test_a_line_that_is_damaged_is_refused_by_name(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "small", "train", 0, {})
    journal.values(1, {"a": 1})
    path = journal.path
    path.write_text(path.read_text().replace('"values"', '"valu', 1))
    with pytest.raises(InputError, match=r"0001-train\.jsonl, line 2: not as it was written"):
        attempts(tmp_path)


@pytest.mark.parametrize(
    "line", ["null", "[1, 2]", '{"line": "values"}', '{"line": "values", "time": 1, "samples": 2}', "7"]
)
def test_lines_that_are_json_and_no_record_are_named(tmp_path: Path, line: str) -> None:
    journal = Journal(tmp_path, "s", "train", 0, {})
    with journal.path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"0001-train\.jsonl"):
        attempts(tmp_path)
    journal.path.write_text(line + "\n")
    with pytest.raises(InputError, match=r"0001-train\.jsonl"):
        attempts(tmp_path)


def test_a_folder_named_as_a_record_is_named(tmp_path: Path) -> None:
    Journal(tmp_path, "s", "train", 0, {})
    (tmp_path / "journal" / "0002-train.jsonl").mkdir()
    with pytest.raises(InputError, match=r"0002-train\.jsonl"):
        attempts(tmp_path)
