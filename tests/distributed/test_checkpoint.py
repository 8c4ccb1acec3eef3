"""Committed checkpoints: torn ones are never read, committed ones never written over, changed ones refused by name."""

import hashlib
import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed._shard.sharded_tensor import ShardedTensor

from pipeline.data.files import Manifest, RowGroup
from pipeline.train import checkpoint_store
from pipeline.train.checkpoint import Checkpoints, Commit, Progress
from pipeline.train.checkpoint_store import FORMAT, CheckpointStore
from pipeline.train.loop import Training
from pipeline.train.restore import load_model, load_training
from schemas.errors import InputError
from tests.distributed.ranks import run_ranks
from tests.distributed.training import build
from tests.logs import set_key, small_config


def progress(step: int) -> Progress:
    return Progress(step=step, epoch=0, rows_done=step * 10, samples=step * 10)


def save_steps(rank: int, config: dict[str, Any], folder: str, steps: list[int]) -> list[str]:
    _, model, optimizers, _ = build(config, rank, 2)
    checkpoints = Checkpoints(folder, 2)
    for step in steps:
        checkpoints.save(model, optimizers.all, progress(step), {"step": step}, "data", {"log.txt": b"%d" % step})
    return [Path(saved.commit).name for saved in checkpoints.told()]


def refuse(rank: int, config: dict[str, Any], folder: str, what: str) -> str:
    """The complaint about the newest checkpoint of the folder."""
    _, model, optimizers, _ = build(config, rank, 2)
    commit = newest(folder)
    try:
        if what == "training":
            load_training(commit, model, optimizers.all)
        else:
            load_model(commit, model)
    except InputError as error:
        return str(error)
    return "nothing"


def newest(folder: str | Path) -> Commit:
    commit = Checkpoints(folder, 2).newest()
    assert commit is not None
    return commit


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return small_config(tmp_path / "log", tmp_path / "out")


def test_new_directories_kept_last_and_torn_ones_removed(tmp_path: Path, config: dict[str, Any]) -> None:
    torn = tmp_path / "step-00000020-0000000a"
    torn.mkdir()
    (torn / "__0_0.distcp").write_bytes(b"half a save")
    (tmp_path / "step-00000005-0000000a").mkdir()  # of a step that will not come again
    later = tmp_path / "step-00000099-0000000a"
    later.mkdir()  # of a later step: never the newest, and not yet old
    other = tmp_path / "step-notes"
    other.mkdir()  # nobody's attempt: never touched
    half = tmp_path / "step-00000098-0000000a"
    half.mkdir()
    (half / "manifest.json").write_bytes(b'{"format": 2, "progr')  # a store that lost its end
    before, *kept = run_ranks(2, save_steps, config, str(tmp_path), [10, 20, 30])[0]
    assert len({before, *kept}) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*kept, later.name, other.name, half.name])
    assert CheckpointStore(str(tmp_path)).cut_short() == [str(half)], "passed over, and told"
    commit = newest(tmp_path)
    assert (commit.name, commit.progress, commit.job, commit.data, commit.read("log.txt")) == (
        kept[-1],
        progress(30),
        {"step": 30},
        "data",
        b"30",
    )
    for what in ("training", "model"):
        assert run_ranks(2, refuse, config, str(tmp_path), what) == ["nothing", "nothing"]


def test_every_attempt_has_a_directory_of_its_own(tmp_path: Path, config: dict[str, Any]) -> None:
    (first,) = run_ranks(2, save_steps, config, str(tmp_path), [10])[0]
    before = {p.name: p.read_bytes() for p in (tmp_path / first).iterdir()}
    (second,) = run_ranks(2, save_steps, config, str(tmp_path), [10])[0]
    assert first != second
    assert {p.name: p.read_bytes() for p in (tmp_path / first).iterdir()} == before
    assert newest(tmp_path).name == second, "of two commits of one step, the later"


def meet(rank: int, config: dict[str, Any], folder: str) -> str:
    """Two runs of one output, as two that nothing locks out of a URL."""
    _, model, optimizers, _ = build(config, rank, 2)
    one, other = Checkpoints(folder, 2), Checkpoints(folder, 2)
    assert one.newest() is None
    other.save(model, optimizers.all, progress(10), {}, "data")
    try:
        one.save(model, optimizers.all, progress(20), {}, "data")
    except InputError as error:
        return str(error)
    return "nothing"


def test_a_second_run_in_the_output_is_found_before_it_commits(tmp_path: Path, config: dict[str, Any]) -> None:
    told = run_ranks(2, meet, config, str(tmp_path))
    assert all("another run commits to this output" in text for text in told)
    assert newest(tmp_path).progress.step == 10


def save_apart(rank: int, config: dict[str, Any], folders: list[str]) -> str:
    """Nodes that each take `output` for a folder of their own."""
    checkpoint_store.SEEN_SECONDS = 0.5
    _, model, optimizers, _ = build(config, rank, 2)
    try:
        Checkpoints(folders[rank], 2).save(model, optimizers.all, progress(10), {}, "data")
    except InputError as error:
        return str(error)
    return "committed"


def test_ranks_that_write_to_unlike_places_commit_nothing(tmp_path: Path, config: dict[str, Any]) -> None:
    told = run_ranks(2, save_apart, config, [str(tmp_path / "a"), str(tmp_path / "b")])
    assert all("rank 0 does not see __1_0.distcp, which another rank has written" in text for text in told), told
    assert CheckpointStore(str(tmp_path / "a")).commits() == []


def test_an_attempt_without_a_file_stops_no_save() -> None:
    """A store with folders keeps that of a run which was killed before it wrote."""
    store = CheckpointStore("memory://empty-attempt")
    store.fs.mkdir(store.where("step-00000005-0000000a"))
    name = store.new_attempt(10)
    store.commit(name, progress(10), {}, "data", {"log.txt": store.write(name, "log.txt", b"10")}, 1.0)
    store.prune(1, abandoned_seconds=5.0)
    assert store.attempts() == ["step-00000005-0000000a", name]


def test_other_formats_and_a_changed_manifest_are_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    (name,) = run_ranks(2, save_steps, config, str(tmp_path), [10])[0]
    manifest = tmp_path / name / "manifest.json"
    content = json.loads(manifest.read_text())
    for told, said in ((FORMAT + 1, "written by a newer version"), (1, "written by an older version")):
        manifest.write_text(json.dumps(content | {"format": told}))
        with pytest.raises(InputError, match=said):
            newest(tmp_path)
    manifest.write_text(json.dumps(content | {"format": 1}))
    old = (tmp_path / name).rename(tmp_path / "step-00000010")  # as format 1 called it
    with pytest.raises(InputError, match=r"step-00000010: written by an older version"):
        newest(tmp_path)
    old.rename(tmp_path / name)
    manifest.write_text(json.dumps(content).replace('"rows_done": 100', '"rows_done": 101'))
    with pytest.raises(InputError, match=r"manifest\.json: changed since it was committed"):
        newest(tmp_path)


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_a_changed_file_is_named(tmp_path: Path, config: dict[str, Any], harm: str) -> None:
    (name,) = run_ranks(2, save_steps, config, str(tmp_path), [10])[0]
    victim = tmp_path / name / "__1_0.distcp"
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
    ("key", "value", "said"),
    [
        ("tables.user.rows", 70, "tables/user/rowwise_adagrad/sum: saved as 51 x 1, now 71 x 1"),
        ("model.expert_layers", [12], "saved as 8, now 12"),
        ("embedding_optimizer", {"name": "adagrad"}, "tables/city/adagrad/sum: not in the checkpoint"),
        ("embedding_optimizer", {"name": "sgd"}, "tables/city/rowwise_adagrad/sum: in the checkpoint alone"),
        ("model.levels", 3, "dense.arch.levels.1"),
    ],
)
def test_another_model_or_optimizer_is_refused(
    tmp_path: Path, config: dict[str, Any], key: str, value: Any, said: str
) -> None:
    """By name, and never loaded in part: a state that is not there is not reset, one too many not dropped."""
    run_ranks(2, save_steps, config, str(tmp_path), [10])
    set_key(config, key, value)
    told = run_ranks(2, refuse, config, str(tmp_path), "training")
    assert all("does not fit this model or its optimizers" in text and said in text for text in told), told


def test_the_manifest_is_written_last(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = tmp_path / run_ranks(2, save_steps, config, str(tmp_path), [10])[0][0]
    manifest = folder / "manifest.json"
    others = [p for p in folder.iterdir() if p != manifest]
    assert others
    assert all(p.stat().st_mtime_ns <= manifest.stat().st_mtime_ns for p in others)
    told = json.loads(manifest.read_text())["files"]
    assert told == {
        p.name: {"bytes": p.stat().st_size, "sha256": hashlib.sha256(p.read_bytes()).hexdigest()} for p in others
    }


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


def fill(rank: int, config: dict[str, Any], folder: str, background: bool) -> str:
    """Saves where no file may grow beyond 4 KiB, which is how a full disk reads to a program."""
    _, model, optimizers, _ = build(config, rank, 2)
    checkpoints = Checkpoints(folder, 2, 60, background)
    checkpoints.save(model, optimizers.all, progress(10), {}, "data")
    checkpoints.wait()
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
    try:
        checkpoints.save(model, optimizers.all, progress(20), {}, "data")
        checkpoints.wait()
    except InputError as error:
        return str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return "nothing"


@pytest.mark.parametrize("background", [False, True], ids=["sync", "async"])
def test_a_disk_that_fills_up_is_one_message_and_the_commit_before_stands(
    tmp_path: Path, config: dict[str, Any], background: bool
) -> None:
    told = run_ranks(2, fill, config, str(tmp_path), background)
    assert all(
        "cannot be written (" in text and "Free space or mend the rights, or name another output" in text
        for text in told
    ), told
    assert run_ranks(2, refuse, config, str(tmp_path), "training") == ["nothing", "nothing"]
    assert newest(tmp_path).progress.step == 10


def spoil(rank: int, config: dict[str, Any], folder: str) -> str:
    """Saves a model of which one rank holds one NaN in a table."""
    job, model, optimizers, ranks = build(config, rank, 2)
    for value in model.state_dict().values():
        if isinstance(value, ShardedTensor) and rank == 1:
            for shard in value.local_shards():
                shard.tensor.view(-1)[-1] = float("nan")
    manifest = Manifest((RowGroup("part", 0, 10, 0),), "data")
    training = Training(job, manifest, model, optimizers, ranks, Checkpoints(folder, 2), config)
    try:
        training.save(progress(10))
    except InputError as error:
        return str(error)
    return "nothing"


def test_weights_that_are_not_finite_are_never_committed(tmp_path: Path, config: dict[str, Any]) -> None:
    told = run_ranks(2, spoil, config, str(tmp_path))
    assert all("not finite after the last step, so they are not saved" in text for text in told)
    assert Checkpoints(tmp_path, 2).newest() is None
