"""The commit that a warm start names is found, or the message says what to name; lineage adds up."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.vocabulary_lookup import fingerprints
from pipeline.train.checkpoint_store import CheckpointStore, Progress
from pipeline.train.warm_start import LINEAGE, Lineage, check_warm_start, find_parent, lineage_of
from schemas.errors import InputError
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.logs import small_config

ANCESTOR = Lineage("s3://bucket/old", 7, "0" * 64, 100)


def commit(store: CheckpointStore, step: int, lineage: Lineage | None = None, epoch: int = 0, **saved: Any) -> str:
    job = parse_job(small_config("log", "out"), "test").model_dump(mode="json", by_alias=True) | saved
    name = store.new_attempt(step)
    files = {LINEAGE: store.write(name, LINEAGE, lineage.encoded())} if lineage else {}
    store.commit(name, Progress(step, epoch, 0, 0), job, "data", files, float(step))
    return name


def child(checkpoint: str, **warm_start: Any) -> JobConfig:
    config = small_config("log", "other") | {"warm_start": {"checkpoint": checkpoint, **warm_start}}
    return parse_job(config, "test")


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(str(tmp_path / "checkpoints"))


def test_a_folder_gives_its_newest_commit_and_a_commit_itself(store: CheckpointStore) -> None:
    old, new = commit(store, 5), commit(store, 40)
    assert find_parent(child(store.url), {}).commit.name == new
    assert find_parent(child(store.url + "/"), {}).commit.name == new
    assert find_parent(child(f"{store.url}/{old}"), {}).commit.name == old


def test_a_relative_folder_and_a_renamed_commit(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = commit(store, 5)
    monkeypatch.chdir(tmp_path)
    Path("checkpoints", name).rename("champion")
    parent = find_parent(child("champion"), {})
    assert parent.lineage.path == str(tmp_path / "champion")
    commit(store, 6)
    assert find_parent(child("checkpoints"), {}).lineage.step == 6
    assert find_parent(child(str(tmp_path)), {}).lineage.step == 6, "the output that it lies in"


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "a torn attempt"])
def test_where_nothing_is_committed_the_message_says_what_to_name(store: CheckpointStore, there: str) -> None:
    if there == "an empty folder":
        Path(store.url).mkdir()
    elif there == "a torn attempt":
        store.new_attempt(5)
    with pytest.raises(InputError, match=r"is no committed checkpoint and holds none; name a run's output"):
        find_parent(child(store.url), {})


def test_steps_of_the_tables_optimizer_add_up_over_generations(store: CheckpointStore) -> None:
    commit(store, 5)
    assert find_parent(child(store.url), {}).lineage.optimizer_steps == 5
    commit(store, 6, ANCESTOR)
    parent = find_parent(child(store.url), {})
    assert lineage_of(parent.commit) == ANCESTOR
    assert parent.lineage.optimizer_steps == 106
    assert find_parent(child(store.url, optimizer=False), {}).lineage.optimizer_steps == 0


def test_the_loss_weights_go_on_from_all_ancestors_since_one_that_restarted(store: CheckpointStore) -> None:
    def of(loss_weights: str) -> tuple[int, int]:
        lineage = find_parent(child(store.url, loss_weights=loss_weights), {}).lineage
        return lineage.weight_steps, lineage.weight_epochs

    commit(store, 5, epoch=1)
    assert of("restart") == (0, 0)
    assert of("continue") == (5, 1)
    commit(store, 6, dataclasses.replace(ANCESTOR, weight_steps=30, weight_epochs=4), epoch=2)
    assert of("restart") == (0, 0)
    assert of("continue") == (36, 6)
    commit(store, 7, ANCESTOR, epoch=3)  # which restarted
    assert of("continue") == (7, 3)


def test_a_lineage_of_an_older_version_is_one_that_restarted(store: CheckpointStore) -> None:
    older = {k: v for k, v in dataclasses.asdict(ANCESTOR).items() if not k.startswith("weight")}
    name = store.new_attempt(8)
    job = parse_job(small_config("log", "out"), "test").model_dump(mode="json", by_alias=True)
    files = {LINEAGE: store.write(name, LINEAGE, json.dumps(older).encode())}
    store.commit(name, Progress(8, 1, 0, 0), job, "data", files, 8.0)
    parent = find_parent(child(store.url, loss_weights="continue"), {})
    assert lineage_of(parent.commit) == ANCESTOR
    assert (parent.lineage.weight_steps, parent.lineage.optimizer_steps) == (8, 108)


def test_the_rows_that_an_extended_vocabulary_lists_anew_are_known(store: CheckpointStore, tmp_path: Path) -> None:
    paths = []
    for count in (3, 5):
        paths.append(str(tmp_path / f"{count}.parquet"))
        pq.write_table(pa.table({"value": np.arange(count) * 7}), paths[-1])

    def of(items: str) -> JobConfig:
        job = child(store.url)
        shared = ("item", "history", "recent")
        features = [f.model_copy(update={"vocabulary": items}) if f.name in shared else f for f in job.features]
        return job.model_copy(update={"features": features})

    before = of(paths[0])
    saved = before.model_dump(mode="json", by_alias=True)
    commit(store, 5, features=saved["features"], vocabularies=fingerprints(before))
    assert find_parent(before, fingerprints(before)).listed == {}
    assert find_parent(of(paths[1]), fingerprints(of(paths[1]))).listed == {"item": (3, 5)}


def test_a_run_with_commits_of_its_own_needs_no_parent(store: CheckpointStore, tmp_path: Path) -> None:
    job = child(str(tmp_path / "gone"))
    job = job.model_copy(update={"output": str(tmp_path)})
    with pytest.raises(InputError, match="holds none"):
        check_warm_start(job, {})
    commit(store, 5)
    check_warm_start(job, {})
    check_warm_start(job.model_copy(update={"warm_start": None, "output": "elsewhere"}), {})
