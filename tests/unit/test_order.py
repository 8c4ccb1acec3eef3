"""The order of rows is a pure function of manifest, seed and epoch, and the same at any number of ranks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.files import Manifest, RowGroup
from pipeline.data.order import Block, Order, block_permutation, blocks, permuted_groups, stretches

steady = settings(deadline=None)  # a busy machine is no failure

ORDERS = st.builds(Order, rows=st.integers(0, 200), lanes=st.integers(1, 12), batch_size=st.integers(1, 50))
SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=12)


def row_groups(sizes: list[int]) -> list[RowGroup]:
    return [RowGroup(f"part-{i}", 0, size, sum(sizes[:i])) for i, size in enumerate(sizes)]


def rank_rows(order: Order, rank: int, world: int, done: int) -> list[list[tuple[int, int]]]:
    """(lane, position) of every row the rank reads, by step: as the loader goes about it."""
    ends = order.step_ends(done)
    return [
        [
            (lane, order.lane_position(lane, begin) + i)
            for lane in range(rank, order.lanes, world)
            for i in range(order.lane_share(lane, begin, end))
        ]
        for begin, end in zip([done, *ends], ends, strict=False)
    ]


def global_rows(order: Order, begin: int, end: int) -> set[tuple[int, int]]:
    """The definition: row j of the order is row j // lanes of lane j % lanes."""
    return {(j % order.lanes, j // order.lanes) for j in range(begin, end)}


@steady
@given(ORDERS, st.data())
def test_a_step_is_the_same_rows_at_any_number_of_ranks(order: Order, data: st.DataObject) -> None:
    world = data.draw(st.integers(1, order.lanes))
    done = data.draw(st.integers(0, order.rows))
    ranks = [rank_rows(order, rank, world, done) for rank in range(world)]
    assert {len(steps) for steps in ranks} == {order.steps(done)}
    begin = done
    for n, end in enumerate(order.step_ends(done)):
        rows = [row for steps in ranks for row in steps[n]]
        assert set(rows) == global_rows(order, begin, end)
        assert len(rows) == end - begin
        assert order.widest(begin, end, world) == max(len(steps[n]) for steps in ranks)
        begin = end
    assert begin == order.rows or order.steps(done) == 0


@steady
@given(ORDERS)
def test_all_steps_but_the_last_are_whole(order: Order) -> None:
    ends = order.step_ends()
    sizes = np.diff([0, *ends]).tolist()
    assert sum(sizes) == order.rows
    assert len(sizes) == order.steps()
    assert set(sizes[:-1]) <= {order.batch_size}
    assert all(0 < size <= order.batch_size for size in sizes[-1:])


@steady
@given(ORDERS, st.data())
def test_a_resume_at_a_step_goes_on_with_the_same_steps(order: Order, data: st.DataObject) -> None:
    ends = [0, *order.step_ends()]
    stopped = data.draw(st.integers(0, len(ends) - 1))
    assert order.step_ends(ends[stopped]) == ends[stopped + 1 :]
    for rank in range(order.lanes):
        assert rank_rows(order, rank, order.lanes, ends[stopped]) == rank_rows(order, rank, order.lanes, 0)[stopped:]


@steady
@given(ORDERS)
def test_lanes_cut_the_rows_into_equal_stretches(order: Order) -> None:
    starts = [order.lane_start(lane) for lane in range(order.lanes + 1)]
    sizes = np.diff(starts).tolist()
    assert (starts[0], starts[-1]) == (0, order.rows)
    assert max(sizes) - min(sizes) <= 1
    assert sizes == [order.lane_position(lane, order.rows) for lane in range(order.lanes)]


@steady
@given(ORDERS, st.data())
def test_lane_positions_count_the_lanes_rows(order: Order, data: st.DataObject) -> None:
    done = data.draw(st.integers(0, order.rows))
    count = Counter(j % order.lanes for j in range(done))
    assert [order.lane_position(lane, done) for lane in range(order.lanes)] == [count[i] for i in range(order.lanes)]


@steady
@given(st.integers(1, 12), st.integers(0, 300), st.integers(1, 400), st.data())
def test_blocks_cover_the_lane_without_overlap(
    lanes: int, lane_rows: int, shuffle_rows: int, data: st.DataObject
) -> None:
    lane = data.draw(st.integers(0, lanes - 1))
    cut = blocks(lane, lanes, lane_rows, shuffle_rows)
    assert [row for block in cut for row in range(block.start, block.stop)] == list(range(lane_rows))
    assert [block.number for block in cut] == list(range(len(cut)))
    size = max(1, shuffle_rows // lanes)
    assert all(0 < block.stop - block.start <= size for block in cut)
    assert {block.stop - block.start for block in cut[1:-1]} <= {size}


def test_first_blocks_are_staggered_over_the_lanes() -> None:
    assert [blocks(lane, 4, 1000, 400)[0].stop for lane in range(4)] == [25, 50, 75, 100]


@steady
@given(SIZES, st.data())
def test_stretches_are_the_rows_asked_for(sizes: list[int], data: st.DataObject) -> None:
    total = sum(sizes)
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    groups = row_groups(sizes)
    data.draw(st.randoms(use_true_random=False)).shuffle(groups)
    laid = [(group.path, row) for group in groups for row in range(group.rows)]
    found = [(s.group.path, row) for s in stretches(groups, start, stop) for row in range(s.start, s.stop)]
    assert found == laid[start:stop]


@steady
@given(SIZES, st.integers(0, 2**31 - 1), st.integers(0, 9))
def test_groups_are_permuted_and_none_is_lost(sizes: list[int], seed: int, epoch: int) -> None:
    manifest = Manifest(tuple(row_groups(sizes)), "")
    shuffled = permuted_groups(manifest, seed, epoch, shuffle=True)
    assert sorted(shuffled, key=lambda group: group.first_row) == list(manifest.groups)
    assert shuffled == permuted_groups(manifest, seed, epoch, shuffle=True)
    assert permuted_groups(manifest, seed, epoch, shuffle=False) == list(manifest.groups)


def test_seed_and_epoch_each_change_the_order_of_groups() -> None:
    manifest = Manifest(tuple(row_groups([1] * 30)), "")
    orders = {
        tuple(group.path for group in permuted_groups(manifest, seed, epoch, shuffle=True))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


def test_every_block_has_an_order_of_its_own() -> None:
    seen = {
        tuple(block_permutation(seed, epoch, lane, Block(number, 40, 80)).tolist())
        for seed in range(3)
        for epoch in range(3)
        for lane in range(3)
        for number in range(3)
    }
    assert len(seen) == 81
    assert all(sorted(order) == list(range(40)) for order in seen)


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_a_blocks_order_is_the_same_every_time(seed: int) -> None:
    first, again = (block_permutation(seed, 2, 3, Block(1, 10, 60)) for _ in range(2))
    assert first.tolist() == again.tolist()


def test_the_order_is_stable_over_versions() -> None:
    """A checkpoint's place in an epoch means the same rows after an upgrade of numpy: numbers written down once."""
    groups = permuted_groups(Manifest(tuple(row_groups([1] * 8)), ""), 7, 3, shuffle=True)
    assert [group.first_row for group in groups] == [3, 5, 0, 4, 2, 7, 1, 6]
    assert block_permutation(7, 3, 2, Block(1, 10, 18)).tolist() == [5, 2, 0, 7, 6, 4, 3, 1]
