"""Committed checkpoints: torn ones are never read, committed ones never written over, changed ones refused by name."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor

from pipeline.data.files import Manifest, RowGroup
from pipeline.train.checkpoint import Checkpoints, Progress, load_model, load_training
from pipeline.train.loop import Training
from schemas.errors import InputError
from tests.distributed.ranks import run_ranks
from tests.distributed.training import build
from tests.logs import set_key, small_config


def progress(step: int) -> Progress:
    return Progress(step=step, epoch=0, rows_done=step * 10, samples=step * 10)


def save_steps(rank: int, config: dict[str, Any], folder: str, steps: list[int]) -> list[str]:
    _, model, optimizers, _ = build(config, rank, 2)
    checkpoints = Checkpoints(Path(folder), keep_last=2)
    for step in steps:
        checkpoints.save(model, optimizers.all, progress(step), {"step": step}, "data")
    return sorted(p.name for p in Path(folder).iterdir())


def refuse(rank: int, config: dict[str, Any], folder: str, what: str) -> str:
    """The complaint about the newest checkpoint of the folder, or about saving its step again."""
    _, model, optimizers, _ = build(config, rank, 2)
    checkpoints = Checkpoints(Path(folder), keep_last=2)
    commit = checkpoints.newest()
    assert commit is not None
    try:
        if what == "save":
            checkpoints.save(model, optimizers.all, commit.progress, {}, "data")
        elif what == "training":
            load_training(commit, model, optimizers.all)
        else:
            load_model(commit, model)
    except InputError as error:
        return str(error)
    return "nothing"


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return small_config(tmp_path / "log", tmp_path / "out")


def test_new_directories_kept_last_and_torn_ones_replaced(tmp_path: Path, config: dict[str, Any]) -> None:
    torn = tmp_path / "step-00000020"
    torn.mkdir()
    (torn / "__0_0.distcp").write_bytes(b"half a save")
    (torn / "left-over").write_bytes(b"of a crash")
    (tmp_path / "step-00000005").mkdir()  # torn, and of a step that will not come again: removed
    (tmp_path / "step-00000099").mkdir()  # torn, and of a later step: never the newest
    ranks = run_ranks(2, save_steps, config, str(tmp_path), [10, 20, 30])
    assert ranks[0] == ["step-00000020", "step-00000030", "step-00000099"]
    assert not (torn / "left-over").exists()
    commit = Checkpoints(tmp_path, 2).newest()
    assert commit is not None
    assert (commit.path.name, commit.progress, commit.job, commit.data) == (
        "step-00000030",
        progress(30),
        {"step": 30},
        "data",
    )
    for what in ("training", "model"):
        assert run_ranks(2, refuse, config, str(tmp_path), what) == ["nothing", "nothing"]


def test_a_committed_step_is_never_written_over(tmp_path: Path, config: dict[str, Any]) -> None:
    run_ranks(2, save_steps, config, str(tmp_path), [10])
    before = {p.name: p.read_bytes() for p in (tmp_path / "step-00000010").iterdir()}
    assert all("never written over" in text for text in run_ranks(2, refuse, config, str(tmp_path), "save"))
    assert {p.name: p.read_bytes() for p in (tmp_path / "step-00000010").iterdir()} == before


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_changed_file_is_named(tmp_path: Path, config: dict[str, Any], harm: str) -> None:
    run_ranks(2, save_steps, config, str(tmp_path), [10])
    victim = tmp_path / "step-00000010" / "__1_0.distcp"
    content = bytearray(victim.read_bytes())
    if harm == "flip":
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    elif harm == "truncate":
        victim.write_bytes(content[:-100])
    else:
        victim.unlink()
    told = run_ranks(2, refuse, config, str(tmp_path), "model")
    assert all("__1_0.distcp: missing, cut short or changed" in text for text in told)


@pytest.mark.parametrize(
    ("key", "value"),
    [("tables.user.rows", 70), ("model.expert_layers", [12]), ("embedding_optimizer", {"name": "adagrad"})],
)
def test_another_model_or_optimizer_is_refused(tmp_path: Path, config: dict[str, Any], key: str, value: Any) -> None:
    run_ranks(2, save_steps, config, str(tmp_path), [10])
    set_key(config, key, value)
    told = run_ranks(2, refuse, config, str(tmp_path), "training")
    assert all("does not fit this model, optimizer or sharding plan" in text for text in told), told


def test_the_manifest_is_written_last(tmp_path: Path, config: dict[str, Any]) -> None:
    run_ranks(2, save_steps, config, str(tmp_path), [10])
    folder = tmp_path / "step-00000010"
    manifest = folder / "manifest.json"
    others = [p for p in folder.iterdir() if p != manifest]
    assert others
    assert all(p.stat().st_mtime_ns <= manifest.stat().st_mtime_ns for p in others)
    assert set(json.loads(manifest.read_text())["files"]) == {p.name for p in others}


def seeded_tables(rank: int, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    from tests.distributed.training import RankState, _shards, whole

    _, model, _, _ = build(config, rank, 1)
    return whole([RankState([], [], _shards({"model": model.state_dict()}))])


def test_tables_start_from_the_seed_alone(config: dict[str, Any]) -> None:
    (first,) = run_ranks(1, seeded_tables, config)
    (again,) = run_ranks(1, seeded_tables, config)
    (other,) = run_ranks(1, seeded_tables, config | {"seed": 1})
    for name, value in first.items():
        assert torch.equal(value, again[name])
        if name.endswith("weight"):
            assert not torch.equal(value, other[name]), name
    user = first["model/embeddings.embedding_bags.table_user.weight"]
    assert user.abs().max() <= 1 / 51**0.5
    assert user.std() == pytest.approx(2 / 51**0.5 / 12**0.5, rel=0.1)


def fill(rank: int, config: dict[str, Any], folder: str) -> str:
    """Saves where no file may grow beyond 4 KiB, which is how a full disk reads to a program."""
    _, model, optimizers, _ = build(config, rank, 2)
    checkpoints = Checkpoints(Path(folder), keep_last=2)
    checkpoints.save(model, optimizers.all, progress(10), {}, "data")
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    try:
        checkpoints.save(model, optimizers.all, progress(20), {}, "data")
    except InputError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return "nothing"


def test_a_disk_that_fills_up_is_one_message_and_the_commit_before_stands(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    told = run_ranks(2, fill, config, str(tmp_path))
    assert all("cannot be written (" in text and "Free space or name another output" in text for text in told), told
    assert run_ranks(2, refuse, config, str(tmp_path), "training") == ["nothing", "nothing"]
    commit = Checkpoints(tmp_path, 2).newest()
    assert commit is not None
    assert commit.progress.step == 10


def spoil(rank: int, config: dict[str, Any], folder: str) -> str:
    """Saves a model of which one rank holds one NaN in a table."""
    job, model, optimizers, ranks = build(config, rank, 2)
    for value in model.state_dict().values():
        if isinstance(value, ShardedTensor) and rank == 1:
            for shard in value.local_shards():
                shard.tensor.view(-1)[-1] = float("nan")
    manifest = Manifest((RowGroup("part", 0, 10, 0),), "data")
    training = Training(job, manifest, model, optimizers, ranks, Checkpoints(Path(folder), 2), config)
    try:
        training.save(progress(10))
    except InputError as error:
        return str(error)
    return "nothing"


def test_weights_that_are_not_finite_are_never_committed(tmp_path: Path, config: dict[str, Any]) -> None:
    told = run_ranks(2, spoil, config, str(tmp_path))
    assert all("not finite after the last step, so they are not saved" in text for text in told)
    assert Checkpoints(tmp_path, 2).newest() is None
