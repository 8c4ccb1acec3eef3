"""Ranks that would not train the same job, and runs that would write to the same output, are refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.train import attainable_aucs, check_output, check_ranks, check_steps
from pipeline.data.files import Manifest, RowGroup
from pipeline.train.agreement import check_agreement, sole_writer
from pipeline.train.checkpoint import Commit
from pipeline.train.run import START, same_job
from schemas.errors import InputError
from tests.distributed.ranks import run_ranks
from tests.logs import small_job


def agree(rank: int, mine: list[dict[str, Any]]) -> str:
    try:
        check_agreement(mine[rank])
    except InputError as error:
        return str(error)
    return "agreed"


def test_ranks_with_unlike_jobs_are_refused_alike() -> None:
    same = {"configuration": {"seed": 0}, "newest checkpoint": None}
    assert run_ranks(2, agree, [same, same]) == ["agreed", "agreed"]
    told = run_ranks(2, agree, [same, same | {"configuration": {"seed": 5}}])
    assert told[0] == told[1]
    assert told[0].startswith("rank 1 has another configuration than rank 0; give every node the same command")


def write_twice(rank: int, output: str) -> tuple[str, str]:
    with sole_writer(output):
        try:
            with sole_writer(output):
                second = "let in"
        except InputError as error:
            second = str(error)
    with sole_writer(output):
        return second, "let in"


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_one_run_at_a_time_in_an_output(tmp_path: Path, scheme: str) -> None:
    told = run_ranks(2, write_twice, f"{scheme}{tmp_path}/out")
    assert told[0] == told[1]
    assert "another run is writing to" in told[0][0]
    assert told[0][1] == "let in", "the lock goes with its holder"


def manifest(rows: int, fingerprint: str = "data") -> Manifest:
    return Manifest((RowGroup("part", 0, rows, 0),), fingerprint)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("dense_optimizer", {"lr": 0.5}, "dense_optimizer.lr changed"),
        ("train.batch_size", 64, "train.batch_size changed"),
        ("tables.user.dim", 16, "tables.user.dim changed"),
        ("tables.user.sharding", "row_wise", None),
        ("train.async_checkpoint", True, None),
        ("data.lanes", 8, "data.lanes changed"),
        ("train.resume", False, "resume is off"),
        ("train.log_every", 5, None),
        ("data.prefetch_batches", 9, None),
        ("data.storage", {"retries": 9, "timeout_seconds": 600}, None),  # the remedy of a run that it ended
        ("data.require_success", False, None),
        ("tracking.mode", "offline", None),
        ("output", "elsewhere", None),
    ],
)
def test_a_resumed_job_is_the_same_job(key: str, value: Any, said: str | None) -> None:
    before = small_job("log").model_dump(mode="json", by_alias=True)
    now = small_job("log", changes={key: value})
    commit = Commit("step-1", START, before, "data")
    config = now.model_dump(mode="json", by_alias=True)
    if said is None:
        same_job(commit, config, manifest(10), now.train.resume)
        return
    with pytest.raises(InputError, match=said):
        same_job(commit, config, manifest(10), now.train.resume)


def test_a_checkpoint_older_than_a_setting_goes_on_under_its_default() -> None:
    config = small_job("log").model_dump(mode="json", by_alias=True)
    before = {key: value for key, value in config.items() if key not in ("space", "balance")}
    before["tasks"] = [{k: v for k, v in task.items() if k not in ("kind", "clip")} for task in config["tasks"]]
    same_job(Commit("step-1", START, before, "data"), config, manifest(10), True)
    other = small_job("log", changes={"space": "naive"}).model_dump(mode="json", by_alias=True)
    with pytest.raises(InputError, match="; space changed"):
        same_job(Commit("step-1", START, before, "data"), other, manifest(10), True)


def test_changed_training_files_are_refused() -> None:
    config = small_job("log").model_dump(mode="json", by_alias=True)
    with pytest.raises(InputError, match="the files of the training days changed"):
        same_job(Commit("step-1", START, config, "data"), config, manifest(10, "other"), True)


def test_an_output_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for output in ("file", "file/below"):
        with pytest.raises(InputError, match=r"cannot be written \((File exists|Not a directory)\); name another"):
            check_output(small_job("log", tmp_path / output))
    check_output(small_job("log", tmp_path / "new" / "folder"))


@pytest.mark.parametrize(("rows", "batch", "refused"), [(97, 32, True), (5, 1, True), (96, 32, False), (98, 32, False)])
def test_batch_normalisation_never_meets_one_row(rows: int, batch: int, refused: bool) -> None:
    changes = {"model.norm": "batch", "train.batch_size": batch}
    check_steps(small_job("log", changes={"train.batch_size": batch}), manifest(rows))
    if refused:
        with pytest.raises(InputError, match="leave a step of one row"):
            check_steps(small_job("log", changes=changes), manifest(rows))
    else:
        check_steps(small_job("log", changes=changes), manifest(rows))


def test_more_ranks_than_lanes_are_refused_before_they_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_ranks(small_job("log"))
    monkeypatch.setenv("WORLD_SIZE", "5")
    with pytest.raises(InputError, match=r"data\.lanes: 5 ranks share 4 lanes"):
        check_ranks(small_job("log"))


def test_the_attainable_auc_is_shown_for_the_question_it_answers_alone(tmp_path: Path) -> None:
    truth = {"click": {"auc": 0.8}, "cart": {"auc": 0.7}, "order": {"auc": 0.6}, "joint": {"cart": {"auc": 0.75}}}
    (tmp_path / "_truth.json").write_text(json.dumps({"days": {"2026-01-03": truth}}))
    assert attainable_aucs(small_job(tmp_path)) == {"click": 0.8, "cart": 0.7, "cart (joint)": 0.75, "order": 0.6}
    other = small_job(
        tmp_path, changes={"tasks.order.given": "cart", "tasks.click.label": "fav", "tasks.fav.label": "x"}
    )
    assert attainable_aucs(other) == {}, "order of carted rows, and everything below a click that is a fav, is another"
    for changes in (
        {"tasks.click.indicator": "seen"},
        {"tasks.cart.indicator": "seen", "tasks.order.kind": "regression"},
    ):
        found = attainable_aucs(small_job(tmp_path, changes=changes))
        left = set() if "tasks.click.indicator" in changes else {"click"}
        assert set(found) == left, "other rows, or a number"
    assert attainable_aucs(small_job(tmp_path, changes={"data.eval": {"from": "2026-01-02", "to": "2026-01-03"}})) == {}
