"""The loader over real files: the same rows in every step at any number of ranks, each row once, each row its own."""

import functools
import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.data.reader
from pipeline.batch import Batch
from pipeline.data.cursor import lane_places
from pipeline.data.files import plan
from pipeline.data.hashing import bucket_integers, bucket_strings
from pipeline.data.loader import Loader
from pipeline.data.order import Stretch
from pipeline.data.quarantine import below_root
from pipeline.data.reader import read_stretch
from pipeline.data.source import Source, epoch_source
from schemas.errors import InputError
from schemas.job import JobConfig
from tests.logs import DAYS, put, small_job, write_log

ROWS = 290  # in steps of 32 the last has 2 rows: fewer than ranks or lanes
LANES = 6
WORLDS = (1, 2, 3, 5)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two days of 145 rows, two files a day, uneven row groups and an empty one."""
    path = tmp_path_factory.mktemp("loader") / "log"
    write_log(path, DAYS[:2], ROWS // 2, row_group_rows=[13, 0, 29, 7], files_per_day=2)
    return path


def loader_job(log: Path | str, changes: dict[str, Any] | None = None) -> JobConfig:
    return small_job(log, changes={"data.eval": None, "data.lanes": LANES, **(changes or {})})


def source(job: JobConfig, epoch: int = 0, shuffle: bool = True) -> Source:
    return epoch_source(job, plan(job, job.data.train), epoch, shuffle)


def batches(
    job: JobConfig, rank: int = 0, world: int = 1, done: int = 0, epoch: int = 0, shuffle: bool = True
) -> list[Batch]:
    """One rank's batches, made in this thread."""
    return list(Loader(job, source(job, epoch, shuffle), rank, world, done).batches())


def ids(batches: list[Batch]) -> list[list[int]]:
    return [batch.row_ids_B.tolist() for batch in batches]


def order_of(job: JobConfig, epoch: int = 0) -> list[int]:
    """Row ids in the order one rank reads them."""
    return [row for step in ids(batches(job, epoch=epoch)) for row in step]


@functools.cache
def global_order(log: Path, shuffle_rows: int) -> list[int]:
    """The order itself: what one rank reads in steps of one row."""
    return order_of(loader_job(log, {"data.shuffle_rows": shuffle_rows, "train.batch_size": 1}))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("shuffle_rows", [0, 5, 64, 10_000])
def test_steps_are_the_same_rows_at_any_world_and_each_row_comes_once(log: Path, world: int, shuffle_rows: int) -> None:
    job = loader_job(log, {"data.shuffle_rows": shuffle_rows})
    order = global_order(log, shuffle_rows)
    assert sorted(order) == list(range(ROWS))
    ranks = [batches(job, rank, world) for rank in range(world)]
    assert {len(steps) for steps in ranks} == {10}
    for n, step in enumerate(order[at : at + 32] for at in range(0, ROWS, 32)):
        parts = [steps[n] for steps in ranks]
        assert sorted(row for part in parts for row in part.row_ids_B.tolist()) == sorted(step)
        assert {part.end_row for part in parts} == {min(32 * (n + 1), ROWS)}
        assert {part.sparse.stride() for part in parts} == {max(part.rows for part in parts)}
        assert [part.rows for part in parts] == [len(part.row_ids_B) for part in parts]


def test_a_rank_may_have_no_row_in_a_step(log: Path) -> None:
    job = loader_job(log, {"train.batch_size": 2})
    ranks = [batches(job, rank, 5) for rank in range(5)]
    rows = {tuple(steps[n].rows for steps in ranks) for n in range(ROWS // 2)}
    assert all(sum(counts) == 2 and 0 in counts for counts in rows)
    assert {steps[0].sparse.stride() for steps in ranks} == {1}


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("done", [0, 1, 77, 160, 289, 290])
@pytest.mark.parametrize("shuffle_rows", [0, 64])
def test_a_resume_reads_exactly_what_is_left(log: Path, world: int, done: int, shuffle_rows: int) -> None:
    job = loader_job(log, {"data.shuffle_rows": shuffle_rows})
    order = global_order(log, shuffle_rows)
    ranks = [ids(batches(job, rank, world, done)) for rank in range(world)]
    steps = [sorted(row for part in parts for row in part) for parts in zip(*ranks, strict=True)]
    assert steps == [sorted(order[at : at + 32]) for at in range(done, ROWS, 32)]


def test_epochs_and_seeds_give_orders_of_their_own(log: Path) -> None:
    places = [(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    orders = [order_of(loader_job(log, {"seed": seed}), epoch) for seed, epoch in places]
    assert len({tuple(order) for order in orders}) == 4
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(ROWS))}
    assert order_of(loader_job(log), 1) == orders[1]
    dealt = [source(loader_job(log, {"seed": seed}), epoch).lanes for seed, epoch in places]
    assert len({tuple(p.group.first_row for lane in lanes for p in lane) for lanes in dealt}) == 4


def test_seed_and_epoch_shuffle_the_rows_inside_one_row_group_too(tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS[:1], 60)
    changes = {"data.train.to": DAYS[0], "data.lanes": 1, "data.shuffle_rows": 60}
    orders = {tuple(order_of(loader_job(tmp_path / "log", {**changes, "seed": seed}))) for seed in range(3)}
    orders |= {tuple(order_of(loader_job(tmp_path / "log", changes), epoch)) for epoch in range(3)}
    assert len(orders) == 5
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(60))}


def test_a_shuffle_mixes_rows_across_row_groups(log: Path) -> None:
    """With a block as large as the log, a step of 32 rows holds rows of most of the 28 groups, far from each other."""
    job = loader_job(log, {"data.shuffle_rows": 10_000})
    groups = plan(job, job.data.train).groups
    home = {row: n for n, group in enumerate(groups) for row in range(group.first_row, group.first_row + group.rows)}
    steps = ids(batches(job))
    flat = order_of(job)
    assert len(groups) == 28
    assert min(len({home[row] for row in step}) for step in steps[:-1]) >= 12
    assert sum(b == a + 1 for a, b in itertools.pairwise(flat)) < 10
    # within one lane as well: its own rows do not come in the order of the log
    lane = [row for batch in batches(job, 0, LANES) for row in batch.row_ids_B.tolist()]
    rising = sum(a < b for a, b in itertools.pairwise(lane)) / (len(lane) - 1)
    assert 0.3 < rising < 0.7


@pytest.mark.parametrize(("shuffle_rows", "shuffle"), [(0, True), (64, False)])
def test_without_shuffle_every_lane_keeps_the_logs_order(log: Path, shuffle_rows: int, shuffle: bool) -> None:
    job = loader_job(log, {"data.shuffle_rows": shuffle_rows})
    lanes = [
        [row for batch in batches(job, lane, LANES, shuffle=shuffle) for row in batch.row_ids_B.tolist()]
        for lane in range(LANES)
    ]
    assert sorted(row for lane in lanes for row in lane) == list(range(ROWS))
    assert all(lane == sorted(lane) for lane in lanes)


@pytest.mark.parametrize("done", [0, 100])
@pytest.mark.parametrize("world", [1, 5])
def test_every_row_carries_its_own_values(log: Path, world: int, done: int) -> None:
    """Encoded content against the files read the plain way, row by row id, over every feature and label."""
    job = loader_job(log)
    files = list(dict.fromkeys(group.path for group in plan(job, job.data.train).groups))
    table = pa.concat_tables([pq.read_table(file, partitioning=None) for file in files]).combine_chunks()
    rows = table.to_pylist()
    session = bucket_integers(table["session"].to_numpy(), 30).tolist()
    city = bucket_strings(table["city"].combine_chunks(), 20).tolist()
    seen = 0
    for rank in range(world):
        for batch in batches(job, rank, world, done):
            ids_by_key = {key: values(batch, key) for key in batch.sparse.keys()}  # noqa: SIM118 - a KJT is no dict
            weights = values(batch, "history", "weights")
            for i, row_id in enumerate(batch.row_ids_B.tolist()):
                row, seen = rows[row_id], seen + 1
                assert {key: lists[i] for key, lists in ids_by_key.items()} == {
                    "user": [row["user_id"]],
                    "item": [row["item_id"]],
                    "session": [session[row_id]],
                    "history": row["history"],
                    "recent": row["recent"],
                    "city": [city[row_id]],
                    "price_bucket": [sum(row["price"] >= edge for edge in (10, 20, 40, 80))],
                }
                total = sum(row["history_weight"])
                assert weights[i] == pytest.approx([w / total for w in row["history_weight"]])
                age = (row["age"] - 45) / 18
                assert batch.dense_BF[i].tolist() == pytest.approx([math.log1p(row["price"]), age], rel=1e-5)
                labels = [int(row[name]) for name in ("click", "cart", "fav", "order")]
                assert batch.labels_BT[i].tolist() == labels
                assert batch.space_BT[i].tolist() == [1, labels[0], labels[0], labels[0]]
    assert seen == ROWS - done


def values(batch: Batch, key: str, part: str = "values") -> list[list[float]]:
    """Ids or weights of a key, a list a row."""
    jagged = batch.sparse[key]
    return [piece.tolist() for piece in getattr(jagged, part)().split(jagged.lengths().tolist())]


def test_lanes_that_share_a_row_group_count_its_violations_once(tmp_path: Path) -> None:
    """An order without a click in each of 30 rows of one group, read by 6 lanes on 3 ranks."""
    orders = pa.array([True] * 30 + [False] * 30)
    write_log(tmp_path / "log", DAYS[:1], 60, click=pa.array([0] * 60), order=orders, cart=orders, fav=orders)
    job = loader_job(tmp_path / "log", {"data.train.to": DAYS[0], "data.funnel": "drop"})
    loaders = [Loader(job, source(job), rank, 3) for rank in range(3)]
    counts = [batch.broken_T.tolist() for loader in loaders for batch in loader.batches()]
    assert len(counts) == 6
    assert np.sum(counts, axis=0).tolist() == [0, 30, 30, 30]


def test_a_broken_row_is_named_with_its_file_group_and_row(tmp_path: Path) -> None:
    paths = write_log(tmp_path / "log", row_group_rows=25, age=lambda column: put(column, 33, float("nan")))
    job = loader_job(tmp_path / "log")
    for shuffle in (True, False):
        with pytest.raises(InputError) as caught:
            batches(job, shuffle=shuffle)
        assert str(caught.value).split(": ")[0] in {f"{path}, row group 1" for path in paths}
        assert "column 'age' holds nan (row 8)" in str(caught.value)


def test_a_byte_flipped_in_a_page_is_named(tmp_path: Path) -> None:
    """A bit turned in the last byte of each column chunk: the checksum says which file and row group."""
    path = Path(write_log(tmp_path / "log", DAYS[:1], 60, row_group_rows=30)[0])
    job = loader_job(tmp_path / "log", {"data.train.to": DAYS[0]})
    whole = path.read_bytes()
    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(i) for i in range(2)]
    read = {f.source for f in job.features} | {t.source for t in job.tasks} | {"history_weight"}
    told = 0
    for n, group in enumerate(groups):
        for c in range(group.num_columns):
            chunk = group.column(c)
            end = (chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size
            path.write_bytes(whole[: end - 1] + bytes([whole[end - 1] ^ 4]) + whole[end:])
            if chunk.path_in_schema.partition(".")[0] in read:
                with pytest.raises(InputError) as caught:
                    batches(job)
                assert str(caught.value).startswith(f"{path}, row group {n}: cannot be decoded (")
                assert str(caught.value).endswith("; write the file again")
                told += 1
    assert told == 2 * len(read)


def test_a_file_truncated_or_gone_after_the_plan_is_named(tmp_path: Path) -> None:
    path = Path(write_log(tmp_path / "log", DAYS[:1], 60)[0])
    job = loader_job(tmp_path / "log", {"data.train.to": DAYS[0]})
    planned = source(job)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=rf"^{path}: changed since the run began \([\d,]+ bytes, not "):
        list(Loader(job, planned).batches())
    path.unlink()
    with pytest.raises(InputError, match=rf"^{path}, row group 0: vanished since the run began"):
        list(Loader(job, planned).batches())


def test_a_file_with_fewer_rows_than_planned_is_named(tmp_path: Path) -> None:
    [path] = write_log(tmp_path / "log", DAYS[:1], 60)
    job = loader_job(tmp_path / "log", {"data.train.to": DAYS[0]})
    planned = source(job)
    write_log(tmp_path / "log", DAYS[:1], 59)
    with pytest.raises(InputError, match=rf"^{path}: changed since the run began"):
        list(Loader(job, planned).batches())


# what is read, and how often


def decoded(monkeypatch: pytest.MonkeyPatch, job: JobConfig, world: int, done: int = 0) -> dict[tuple[str, int], int]:
    """How often each row group is opened by all ranks together, by (path, index)."""
    opened: Counter[tuple[str, int]] = Counter()

    def spy(source: Source, stretch: Stretch, *more: Any) -> Iterator[Any]:
        opened[stretch.group.path, stretch.group.index] += 1
        return read_stretch(source, stretch, *more)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.data.reader, "read_stretch", spy)
        for rank in range(world):
            batches(job, rank, world, done)
    return dict(opened)


@pytest.mark.parametrize("world", [1, 2, 5])
@pytest.mark.parametrize("shuffle_rows", [0, 64])
def test_each_row_group_is_opened_once(
    log: Path, monkeypatch: pytest.MonkeyPatch, world: int, shuffle_rows: int
) -> None:
    job = loader_job(log, {"data.shuffle_rows": shuffle_rows})
    groups = {(group.path, group.index) for group in plan(job, job.data.train).groups}
    assert decoded(monkeypatch, job, world) == dict.fromkeys(groups, 1)
    assert len(groups) == 28


def test_a_resume_opens_only_what_is_left(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 200 of 290 rows every lane has left its first groups behind."""
    job = loader_job(log, {"data.shuffle_rows": 60})
    opened = decoded(monkeypatch, job, 2, done=200)
    places = lane_places(source(job), 200)
    ahead = {
        (p.group.path, p.group.index)
        for lane, pieces in enumerate(source(job).lanes)
        for n, p in enumerate(pieces)
        if sum(q.rows for q in pieces[: n + 1]) > places[lane].lane_done - places[lane].block_done
    }
    assert opened == dict.fromkeys(ahead, 1)
    assert len(ahead) < 20


def test_fewer_row_groups_than_lanes_are_shared_so_that_all_ranks_have_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(tmp_path / "log", DAYS[:1], 90, row_group_rows=45)
    job = loader_job(tmp_path / "log", {"data.train.to": DAYS[0]})
    assert set(decoded(monkeypatch, job, 6).values()) == {3}  # 6 lanes, 2 groups: three pieces each
    assert [sum(batch.rows for batch in batches(job, rank, 6)) for rank in range(6)] == [15] * 6


# the place in words


@functools.cache
def read_in_steps(log: Path, shuffle_rows: int, lanes: int) -> tuple[Source, list[list[int]]]:
    job = loader_job(log, {"data.shuffle_rows": shuffle_rows, "data.lanes": lanes})
    return source(job), ids(batches(job))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_the_place_in_words_says_exactly_what_is_trained(log: Path, data: st.DataObject) -> None:
    """Rows rebuilt from files, row groups and rows alone are the rows that the order says are done."""
    planned, steps = read_in_steps(log, data.draw(st.sampled_from([0, 5, 64])), data.draw(st.sampled_from([1, 6, 40])))
    done = data.draw(st.integers(0, ROWS))
    trained: list[int] = []
    for place in lane_places(planned, done):
        rows = [p.group.first_row + n for p in planned.lanes[place.lane] for n in range(p.start, p.stop)]
        if place.file is None:
            assert rows == []
            continue
        [group] = [
            p.group
            for p in planned.lanes[place.lane]
            if (below_root(p.group.path), p.group.index) == (place.file, place.row_group)
        ]
        # behind the last row passed; where none of the piece is, at its first
        here = group.first_row + place.rows_done
        passed = place.rows_done > 0 and here - 1 in rows
        behind = rows.index(here - 1) + 1 if passed else rows.index(here)
        trained += rows[:behind]
        assert place.lane_done == behind + place.block_done
        if place.block_done:
            assert planned.shuffle is not None
            block = planned.shuffle.block_at(place.lane, place.lane_done)
            assert block.stop - block.start == place.block_rows > place.block_done
            order = planned.shuffle.permutation(place.lane, block)[: place.block_done]
            trained += [rows[behind + n] for n in order]
    expected = [row for step in steps[: -(-done // 32)] for row in step]
    assert len(trained) == done
    assert len(set(trained)) == done
    if done % 32 == 0 or done == ROWS:
        assert sorted(trained) == sorted(expected)
    else:
        assert set(trained) < set(expected)


# the reader thread


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("reader-")]


def test_the_thread_yields_what_the_caller_would_make(log: Path) -> None:
    job = loader_job(log)
    with Loader(job, source(job), 1, 3, 32) as loader:
        assert ids(list(loader)) == ids(batches(job, 1, 3, 32))
    assert readers() == []


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_leaving_early_ends_the_thread(log: Path, taken: int) -> None:
    job = loader_job(log, {"data.prefetch_batches": 1, "train.batch_size": 4})
    began = time.monotonic()
    with Loader(job, source(job)) as loader:
        found = [batch.rows for batch, _ in zip(loader, range(taken), strict=False)]
        assert len(readers()) == 1
    assert found == [4] * taken
    assert readers() == []
    assert time.monotonic() - began < 10


def test_an_error_of_the_consumer_ends_the_thread(log: Path) -> None:
    job = loader_job(log, {"data.prefetch_batches": 1, "train.batch_size": 4})

    def consume() -> None:
        with Loader(job, source(job)) as loader:
            for _ in loader:
                raise KeyError("the step failed")

    with pytest.raises(KeyError, match="the step failed"):
        consume()
    assert readers() == []


def test_an_error_of_the_reader_is_raised_where_batches_are_used(tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS[:1], 60, fav=lambda column: put(column, 59, 2))
    job = loader_job(tmp_path / "log", {"data.train.to": DAYS[0], "data.shuffle_rows": 0, "train.batch_size": 6})
    said = r"row group 0: label 'fav' holds 2 \(row 59\); a label is 0 or 1"
    with Loader(job, source(job, shuffle=False)) as loader, pytest.raises(InputError, match=said):
        list(loader)
    assert readers() == []


def test_more_ranks_than_lanes_are_refused(log: Path) -> None:
    job = loader_job(log)
    with pytest.raises(
        InputError,
        match=r"^data\.lanes: 7 ranks share 6 lanes; start at most 6, or set it to 7",
    ):
        Loader(job, source(job), 0, 7)
    assert len(ids(batches(job, 5, 6))) == 10


def test_a_log_in_another_filesystem_reads_the_same(log: Path, tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}/log"
    write_log(url, DAYS[:2], ROWS // 2, row_group_rows=[13, 0, 29, 7], files_per_day=2)
    job, local = loader_job(url), loader_job(log)
    with Loader(job, source(job), 1, 2) as loader:
        there = list(loader)
    here = batches(local, 1, 2)
    assert ids(there) == ids(here)
    assert all(a.sparse.values().equal(b.sparse.values()) for a, b in zip(there, here, strict=True))


def test_an_epoch_without_rows_left_yields_nothing(log: Path) -> None:
    job = loader_job(log)
    with Loader(job, source(job), done=ROWS) as loader:
        assert list(loader) == []


def test_an_encoded_row_does_not_depend_on_the_lanes(log: Path) -> None:
    """Row groups are cut at other places with other lanes; what a row holds stays the same."""
    few, many = loader_job(log, {"data.lanes": 1}), loader_job(log, {"data.lanes": 16})
    contents = []
    for job in (few, many):
        content = {}
        for batch in batches(job):
            recent = values(batch, "recent")
            for i, row in enumerate(batch.row_ids_B.tolist()):
                content[row] = (recent[i], batch.dense_BF[i].tolist(), batch.labels_BT[i].tolist())
        contents.append(content)
    assert contents[0] == contents[1]
    assert len(contents[0]) == ROWS
