"""Training through vocabulary files: as with plain ids where the files say the same, refused where they changed."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.data.files import plan
from pipeline.data.freeze import plan_job
from pipeline.train.dist import Ranks
from pipeline.train.loop import training_batches
from pipeline.train.run import START, run_job
from schemas.errors import InputError
from schemas.load import parse_job
from tests.distributed.ranks import run_ranks
from tests.distributed.training import RankState, train, whole
from tests.logs import CITIES, DAYS, ITEMS, USERS, set_key, small_config, write_log

ROWS = 150
ITEM_FEATURES = ("item", "history", "recent")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary-training") / "log"
    write_log(path, DAYS, ROWS, row_group_rows=40)
    return path


def vocabulary(path: Path, values: Any) -> str:
    pq.write_table(pa.table({"value": values}), path)
    return str(path)


def with_files(config: dict[str, Any], users: str, items: str) -> dict[str, Any]:
    set_key(config, "features.user.vocabulary", users)
    for feature in ITEM_FEATURES:
        set_key(config, f"features.{feature}.vocabulary", items)
    return config


def train_each(rank: int, world: int, configs: list[dict[str, Any]]) -> list[RankState]:
    return [train(rank, world, config) for config in configs]


def test_the_identity_trains_as_plain_ids_do(log: Path, tmp_path: Path) -> None:
    users = vocabulary(tmp_path / "user.parquet", np.arange(USERS))
    items = vocabulary(tmp_path / "item.parquet", np.arange(ITEMS))
    plain = small_config(log, tmp_path / "out")
    named = with_files(small_config(log, tmp_path / "out"), users, items)
    expected, found = zip(*run_ranks(2, train_each, 2, [plain, named]), strict=True)
    assert [state.losses for state in found] == [state.losses for state in expected]
    left, right = whole(list(expected)), whole(list(found))
    assert len(left) > 20
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_the_order_of_a_file_is_the_order_of_the_tables_rows(log: Path, tmp_path: Path) -> None:
    """Under a permuted vocabulary each id trains the row at its place; tables begin equal, so that losses agree."""
    place = np.random.default_rng(0).permutation(USERS)
    files = [np.arange(USERS), place]
    configs = []
    for number, values in enumerate(files):
        users = vocabulary(tmp_path / f"user{number}.parquet", values)
        config = with_files(small_config(log, tmp_path / "out"), users, vocabulary(tmp_path / "i", np.arange(ITEMS)))
        set_key(config, "tables.user.init_scale", 1e-30)
        configs.append(config)
    (states,) = run_ranks(1, train_each, 1, configs)
    assert states[0].losses == states[1].losses
    plain, permuted = (whole([state]) for state in states)
    name = next(n for n in plain if n.startswith("model/") and n.endswith("table_user.weight"))
    assert plain[name].abs().max() > 1e-3
    assert torch.allclose(permuted[name][:USERS], plain[name][place], atol=1e-20)


def unknown_shares(rank: int, world: int, config: dict[str, Any]) -> list[list[int]]:
    """Unknown and all ids of each embedded feature, over this rank's rows."""
    job = parse_job(config, "test")
    manifest = plan(job, job.data.train)
    batches = list(training_batches(job, manifest, Ranks(rank, world, torch.device("cpu")), START))
    return [torch.stack([getattr(b, name) for b in batches]).sum(0).tolist() for name in ("unknown_K", "ids_K")]


def test_the_share_out_of_vocabulary_is_that_of_the_values_left_out(log: Path, tmp_path: Path) -> None:
    users = vocabulary(tmp_path / "user.parquet", np.arange(0, USERS, 3))
    items = vocabulary(tmp_path / "item.parquet", np.arange(ITEMS // 2))
    config = with_files(small_config(log, tmp_path / "out"), users, items)
    set_key(config, "features.city.vocabulary", vocabulary(tmp_path / "city.parquet", pa.array(CITIES[:2])))
    counts = np.sum(run_ranks(2, unknown_shares, 2, config), axis=0)
    days = [pq.read_table(path) for path in sorted(log.glob("dt=*/*.parquet"))[:2]]
    column = {name: pa.concat_tables(days).column(name).combine_chunks() for name in ("user_id", "item_id", "city")}
    lists = {name: pa.concat_tables(days).column(name).combine_chunks().flatten() for name in ("history", "recent")}
    names = [f.name for f in parse_job(config, "test").embedded]
    expected = {
        "user": np.count_nonzero(column["user_id"].to_numpy() % 3),
        "item": np.count_nonzero(column["item_id"].to_numpy() >= ITEMS // 2),
        **{name: np.count_nonzero(values.to_numpy() >= ITEMS // 2) for name, values in lists.items()},
        "city": sum(city not in CITIES[:2] for city in column["city"].to_pylist()),
    }
    assert {name: counts[0][names.index(name)] for name in expected} == expected
    assert counts[1][names.index("history")] == len(lists["history"])
    assert 0 < expected["city"] < 2 * ROWS


def whole_job(rank: int, world: int, config: dict[str, Any], folders: list[str]) -> str:
    """The job from its configuration, in a folder of this rank's own; what it refuses."""
    os.chdir(folders[rank])
    job = parse_job(config, "test")
    reads = plan_job(job, None)
    try:
        run_job(job, reads.training, reads.evaluation, Ranks(rank, world, torch.device("cpu")), {})
    except InputError as error:
        return str(error)
    return "done"


def job_on(world: int, config: dict[str, Any], *folders: Path) -> list[str]:
    return run_ranks(world, whole_job, world, config, [str(folder) for folder in folders])


def test_a_run_goes_on_with_the_values_it_began_with(log: Path, tmp_path: Path) -> None:
    users = vocabulary(tmp_path / "user.parquet", np.arange(USERS))
    items = vocabulary(tmp_path / "item.parquet", np.arange(ITEMS))
    config = with_files(small_config(log, tmp_path / "out"), users, items)
    assert job_on(1, config, tmp_path) == ["done"]
    vocabulary(tmp_path / "user.parquet", np.arange(USERS)[::-1])
    (told,) = job_on(1, config, tmp_path)
    assert f"'{users}', the vocabulary of feature 'user', holds other values than when the run began" in told
    assert told.endswith("restore the file to go on, or name another output to start anew")
    # the same values elsewhere, and in another layout, are the same vocabulary
    pq.write_table(pa.table({"n": np.arange(USERS), "value": np.arange(USERS)}), tmp_path / "moved.parquet")
    assert job_on(1, with_files(config, str(tmp_path / "moved.parquet"), items), tmp_path) == ["done"]
    for feature in ITEM_FEATURES:
        set_key(config, f"features.{feature}.vocabulary", ...)
    (told,) = job_on(1, config, tmp_path)
    assert "saved under another configuration; features changed" in told


def test_ranks_that_see_unlike_files_do_not_train_together(log: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, users in zip(folders, (np.arange(USERS), np.arange(USERS)[::-1]), strict=True):
        folder.mkdir()
        vocabulary(folder / "user.parquet", users)
        vocabulary(folder / "item.parquet", np.arange(ITEMS))
    config = with_files(small_config(log, tmp_path / "out"), "user.parquet", "item.parquet")
    told = job_on(2, config, *folders)
    assert told[0] == told[1]
    assert told[0].startswith("rank 1 has another list of vocabulary values than rank 0; give every node the same")
    shutil.copy(folders[0] / "user.parquet", folders[1] / "user.parquet")
    assert job_on(2, config, *folders) == ["done", "done"]
