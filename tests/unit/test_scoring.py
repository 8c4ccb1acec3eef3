"""Which models a scoring run loads, under which configuration, and what is refused before any rank starts."""

import dataclasses
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.freeze import plan_job
from pipeline.data.manifest import HISTORY
from pipeline.data.vocabulary_lookup import fingerprints
from pipeline.train.checkpoint_store import CheckpointStore, Commit, Progress, find_commit
from pipeline.train.scoring import Scoring, model_job, plan_scoring, scoring_from_bytes
from schemas.errors import InputError
from schemas.identity import VOCABULARIES
from schemas.job import JobConfig
from tests.logs import DAYS, small_config, small_job, write_log

ROWS = 30


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write_log(tmp_path / "log", DAYS, ROWS)
    return tmp_path / "log"


def commit(job: JobConfig, folder: Path, **changes: Any) -> str:
    """A commit of the job's without weights; the checkpoints' folder."""
    store = CheckpointStore(str(folder))
    saved = job.model_dump(mode="json", by_alias=True) | {VOCABULARIES: fingerprints(job)} | changes
    store.commit(store.new_attempt(7), Progress(7, 1, 0, 200), saved, "none", {}, 0.0)
    return str(folder)


def scoring_job(log: Path, models: dict[str, str], changes: dict[str, Any] | None = None) -> JobConfig:
    score = {"out": str(log.parent / "scores"), "models": models}
    return small_job(log, log.parent / "daily", {"score": score, **(changes or {})})


def found(folder: str) -> Commit:
    out = find_commit(folder)
    assert out is not None
    return out


def test_structure_of_the_commit_and_settings_of_the_scoring(log: Path) -> None:
    old = small_job(
        "elsewhere",
        "old",
        {"seed": 5, "space": "entire", "tasks.fav": ..., "model.tower_layers": [3], "train.batch_size": 5},
        days=("2025-12-01", "2025-12-02", "2025-12-03"),
    )
    where = commit(old, log.parent / "old" / "checkpoints")
    changes = {
        "train.batch_size": 99,
        "data.holdout": {"share": 0.5},
        "data.funnel": "drop",
        "train.timeout_seconds": 9,
    }
    job = scoring_job(log, {"champion": where}, changes | {"data.history": {"from": DAYS[0], "memory_mib": 77}})
    own = model_job(job, "score.models.champion", found(where), f"{log.parent}/scores/champion")
    for key in ("tables", "features", "tasks", "space", "model", "seed", "embedding_optimizer"):
        assert getattr(own, key) == getattr(old, key), key
    for key in ("path", "eval", "holdout", "funnel", "bad", "lanes", "storage"):
        assert getattr(own.data, key) == getattr(job.data, key), key
    assert (own.train.batch_size, own.train.timeout_seconds) == (99, 9)
    assert own.output == f"{log.parent}/scores/champion"
    assert own.warm_start is own.daily is None
    # what its features look back on stays its own; where the statistics lie does not
    assert own.data.history_from == old.data.train.first
    assert own.data.history.memory_mib == 77
    assert own.data.history.folder == f"{log.parent}/daily/statistics"


def test_a_model_that_normalises_by_batch_is_scored_on_held_out_rows(log: Path) -> None:
    """Which training refuses: an evaluation goes by the running statistics."""
    old = small_job(log, "old", {"model.norm": "batch"})
    where = commit(old, log.parent / "old")
    own = model_job(scoring_job(log, {"a": where}, {"data.holdout": {}}), "score.models.a", found(where), "out")
    assert own.model.norm == "batch"
    assert own.data.holdout is not None


def test_plan_of_two_models_there_and_back(log: Path) -> None:
    one = commit(small_job(log), log.parent / "one")
    two = commit(small_job(log, changes={"tasks.fav": ...}), log.parent / "two")
    job = scoring_job(log, {"one": one, "two": f"{two}/{found(two).name}"})
    made = plan_scoring(job)
    assert [each.name for each in made.todo] == ["one", "two"]
    assert [len(each.job.tasks) for each in made.todo] == [4, 3]
    assert made.todo[0].rows == made.todo[1].rows
    assert made.todo[0].rows.rows == ROWS
    back = scoring_from_bytes(made.to_bytes(), job)
    assert back == Scoring(made.models, [])
    prints = [each.fingerprint(True) for each in made.todo]
    assert prints == [each.fingerprint(True) for each in back.todo]
    assert len({*prints, made.todo[0].fingerprint(False)}) == 3


def with_vocabulary(log: Path, values: list[int], name: str) -> JobConfig:
    path = log.parent / name
    pq.write_table(pa.table({"value": pa.array(values)}), path)
    return small_job(log, changes={"features.user.vocabulary": str(path)})


def test_a_vocabulary_must_be_the_one_of_the_commit(log: Path) -> None:
    job = with_vocabulary(log, [1, 2, 3], "user.parquet")
    other = fingerprints(with_vocabulary(log, [3, 2, 1], "other.parquet"))
    same, unlike = commit(job, log.parent / "same"), commit(job, log.parent / "unlike", vocabularies=other)
    # as versions tell it that write the number of values as well
    longer = {name: f"3:{told.rpartition(':')[2]}" for name, told in fingerprints(job).items()}
    counted = commit(job, log.parent / "counted", vocabularies=longer)
    assert len(plan_scoring(scoring_job(log, {"same": same, "counted": counted})).todo) == 2
    said = (
        r"score\.models\.a: '.*user\.parquet', the vocabulary of feature 'user', holds other values than when .*unlike"
    )
    with pytest.raises(InputError, match=said):
        plan_scoring(scoring_job(log, {"a": unlike}))
    gone = with_vocabulary(log, [1, 2], "gone.parquet")
    where = commit(gone, log.parent / "gone")
    moved = found(where).job
    moved["features"][0]["vocabulary"] = str(log.parent / "nowhere.parquet")
    where = commit(gone, log.parent / "moved", features=moved["features"])
    with pytest.raises(InputError, match=r"score\.models\.a: features\.user\.vocabulary: .*nowhere\.parquet: no such"):
        plan_scoring(scoring_job(log, {"a": where}))


def test_a_configuration_of_another_version(log: Path) -> None:
    where = commit(small_job(log), log.parent / "old", model={"arch": "perceptron"})
    said = r"score\.models\.a: .*step-00000007-\w+ was saved under a configuration that this version does not read"
    with pytest.raises(InputError, match=said):
        plan_scoring(scoring_job(log, {"a": where}))


def test_what_a_scoring_does_not_take_from_there_may_be_of_any_version(log: Path) -> None:
    old = {"daily": {"of": "a later version"}, "tracking": {"mode": "telegraph"}, "warm_start": {"from": "nowhere"}}
    where = commit(small_job(log), log.parent / "old", **old)
    assert len(plan_scoring(scoring_job(log, {"a": where})).todo) == 1


def test_frozen_rows_are_told_of_once(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = plan_job(small_job(log, log.parent / "run"), None).evaluation
    assert made is not None
    (log.parent / "eval.manifest").write_bytes(made.to_bytes())
    late = log / f"dt={DAYS[2]}" / "part-00001.parquet"
    late.write_bytes((late.with_name("part-00000.parquet")).read_bytes())
    models = {name: commit(small_job(log), log.parent / name) for name in ("a", "b")}
    job = scoring_job(log, models, {"data.frozen": {"eval": str(log.parent / "eval.manifest")}})
    assert [each.rows.rows for each in plan_scoring(job).todo] == [ROWS, ROWS]
    assert capsys.readouterr().out.count("not in the manifest that data.frozen.eval names") == 1


def test_each_models_features_look_back_on_days_of_its_own(log: Path) -> None:
    config = small_config(log, log.parent / "run")
    config["features"].append({"name": "clicks", "kind": "count", "column": "item_id"})
    job = small_job(log, changes={"features": config["features"]})
    later = small_job(log, changes={"features": config["features"], "data.train.from": DAYS[1]})
    models = {"a": commit(job, log.parent / "a"), "b": commit(later, log.parent / "b")}
    models["c"] = commit(small_job(log), log.parent / "c")
    todo = plan_scoring(scoring_job(log, models)).todo
    days = [[list(found) for found in each.rows.origin.get(HISTORY, {}).values()] for each in todo]
    assert days == [[[DAYS[0], DAYS[1]]], [[DAYS[1]]], []]
    assert len({each.fingerprint(True) for each in todo}) == 3
    assert (log.parent / "daily" / "statistics").is_dir()


def test_files_that_one_model_leaves_out_and_another_does_not(log: Path) -> None:
    whole = log / f"dt={DAYS[2]}" / "part-00000.parquet"
    pq.write_table(pq.read_table(whole, partitioning=None).drop(["fav"]), whole.with_name("part-00001.parquet"))
    models = {"a": commit(small_job(log), log.parent / "a")}
    models["b"] = commit(small_job(log, changes={"tasks.fav": ...}), log.parent / "b")
    lenient = {"data.bad": {"schema": "quarantine", "row_groups_per_day": 9}}
    with pytest.raises(InputError, match=r"score\.models\.b: data\.bad leaves other files out for it than for 'a'"):
        plan_scoring(scoring_job(log, models, lenient))


def test_the_plan_is_frozen(log: Path) -> None:
    each = plan_scoring(scoring_job(log, {"a": commit(small_job(log), log.parent / "a")})).todo[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        each.name = "b"  # type: ignore[misc]
