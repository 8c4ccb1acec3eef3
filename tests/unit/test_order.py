"""The order of rows is a pure function of manifest, seed and epoch, and the same at any number of ranks."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.files import Manifest, RowGroup
from pipeline.data.order import Order, Stretch, deal, permutation, permuted_groups
from pipeline.data.shuffle import Block, Shuffle

steady = settings(deadline=None, max_examples=40)  # a busy machine is no failure

LANES = st.lists(st.one_of(st.integers(0, 3), st.integers(0, 30)), min_size=1, max_size=9)
ORDERS = st.builds(Order, lane_rows=LANES.map(tuple), batch_size=st.integers(1, 50))
SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=30)


def row_groups(sizes: list[int]) -> list[RowGroup]:
    return [RowGroup(f"part-{i}", 0, size, sum(sizes[:i])) for i, size in enumerate(sizes)]


def sorted_rows(order: Order) -> list[tuple[int, int]]:
    """The definition: (lane, row) of all rows, by key and then by lane."""
    keyed = [((2 * i + 1) / (2 * n), lane, i) for lane, n in enumerate(order.lane_rows) for i in range(n)]
    return [(lane, i) for _, lane, i in sorted(keyed)]


def rank_rows(order: Order, rank: int, world: int, done: int) -> list[list[tuple[int, int]]]:
    """(lane, row) of every row the rank reads, by step: as the loader goes about it."""
    places = [order.positions(end) for end in (done, *order.step_ends(done))]
    return [
        [(lane, i) for lane in range(rank, order.lanes, world) for i in range(begin_L[lane], end_L[lane])]
        for begin_L, end_L in itertools.pairwise(places)
    ]


@steady
@given(ORDERS)
def test_positions_are_those_of_the_sorted_rows(order: Order) -> None:
    count: Counter[int] = Counter()
    for done, (lane, _) in enumerate([*sorted_rows(order), (-1, 0)]):
        assert order.positions(done).tolist() == [count[lane] for lane in range(order.lanes)]
        count[lane] += 1


@pytest.mark.parametrize("lanes", [2, 16, 300])
def test_positions_far_into_a_large_epoch(lanes: int) -> None:
    """Lanes of up to 2^40 rows: neighbouring places differ by one row, whose key is the least of those left."""
    rows = np.random.default_rng(lanes).integers(2**39, 2**40, lanes).tolist()
    rows[-1] = rows[0]  # equal keys
    order = Order(tuple(rows), 1000)
    for done in (0, 1, order.rows // 3, order.rows // 2 + 7, order.rows - 40):
        before = order.positions(done).tolist()
        assert sum(before) == done
        for step in range(1, 40):
            after = order.positions(done + step).tolist()
            [lane] = [n for n in range(lanes) if after[n] != before[n]]
            assert after[lane] == before[lane] + 1
            keys = [((2 * i + 1) / (2 * n), at) for at, (i, n) in enumerate(zip(before, rows, strict=True)) if i < n]
            assert min(keys)[1] == lane
            before = after
    assert order.positions(order.rows).tolist() == rows


@steady
@given(ORDERS, st.data())
def test_lanes_advance_in_proportion_and_never_back(order: Order, data: st.DataObject) -> None:
    done = data.draw(st.integers(0, order.rows))
    more = data.draw(st.integers(done, order.rows))
    here, there = order.positions(done), order.positions(more)
    assert here.sum() == done
    assert (here <= there).all()
    assert (there <= order.lane_rows).all()
    exact = np.array(order.lane_rows) * done / max(order.rows, 1)
    assert (np.abs(here - exact) <= order.lanes / 2 + 1).all()


@steady
@given(ORDERS, st.data())
def test_a_step_is_the_same_rows_at_any_number_of_ranks(order: Order, data: st.DataObject) -> None:
    world = data.draw(st.integers(1, order.lanes))
    done = data.draw(st.integers(0, order.rows))
    rows = sorted_rows(order)
    ranks = [rank_rows(order, rank, world, done) for rank in range(world)]
    ends = order.step_ends(done)
    assert {len(steps) for steps in ranks} == {order.steps(done)} == {len(ends)}
    for n, (begin, end) in enumerate(itertools.pairwise([done, *ends])):
        found = [row for steps in ranks for row in steps[n]]
        assert sorted(found) == sorted(rows[begin:end])
        share_L = order.positions(end) - order.positions(begin)
        assert order.widest(share_L, world) == max(len(steps[n]) for steps in ranks)
    assert [done, *ends][-1] == order.rows


@steady
@given(ORDERS, st.data())
def test_stops_and_resumes_at_changing_worlds_train_every_row_once(order: Order, data: st.DataObject) -> None:
    """Any number of stops, each after some steps, each resumed on another number of ranks."""
    whole = [sorted(step) for step in rank_rows(order, 0, 1, 0)]
    done, trained = 0, []
    while done < order.rows:
        world = data.draw(st.integers(1, order.lanes))
        steps = data.draw(st.integers(1, order.steps(done)))
        ranks = [rank_rows(order, rank, world, done)[:steps] for rank in range(world)]
        trained += [sorted(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]
        done = order.step_ends(done)[steps - 1]
    assert trained == whole
    everything = [(lane, i) for lane, n in enumerate(order.lane_rows) for i in range(n)]
    assert sorted(row for step in trained for row in step) == everything


@steady
@given(ORDERS)
def test_all_steps_but_the_last_are_whole_and_none_is_empty(order: Order) -> None:
    ends = order.step_ends()
    sizes = np.diff([0, *ends]).tolist()
    assert sum(sizes) == order.rows
    assert len(sizes) == order.steps()
    assert set(sizes[:-1]) <= {order.batch_size}
    assert all(0 < size <= order.batch_size for size in sizes)


# dealing


@steady
@given(SIZES, st.integers(1, 40), st.integers(0, 99), st.integers(0, 3))
def test_every_row_is_dealt_once_and_whole_groups_where_there_are_enough(
    sizes: list[int], lanes: int, seed: int, epoch: int
) -> None:
    groups = permuted_groups(Manifest(tuple(row_groups(sizes)), ""), seed, epoch, shuffle=True)
    dealt = deal(groups, lanes)
    assert len(dealt) == lanes
    rows = [p.group.first_row + i for lane in dealt for p in lane for i in range(p.start, p.stop)]
    assert sorted(rows) == list(range(sum(sizes)))
    pieces = Counter(p.group.path for lane in dealt for p in lane)
    if len(sizes) >= lanes:
        assert set(pieces.values()) == {1}
        assert all((p.start, p.stop) == (0, p.group.rows) for lane in dealt for p in lane)
    else:
        parts = -(-lanes // len(sizes))
        assert [pieces[g.path] for g in groups] == [min(parts, g.rows) for g in groups]
    # each piece went to the lane with the fewest rows: no lane is ahead of another by more than its last piece
    filled = [sum(p.rows for p in lane) for lane in dealt]
    assert all(filled[n] - lane[-1].rows <= min(filled) for n, lane in enumerate(dealt) if lane)


def test_groups_are_dealt_in_turn_to_the_lane_with_the_fewest_rows() -> None:
    a, b, c, d, e = row_groups([5, 2, 2, 9, 1])
    found = deal([a, b, c, d, e], 2)
    assert [[p.group for p in lane] for lane in found] == [[a, e], [b, c, d]]


def test_fewer_groups_than_lanes_are_cut_so_that_every_lane_has_rows() -> None:
    [group] = row_groups([10])
    assert deal([group], 4) == [
        [Stretch(group, 0, 2)],
        [Stretch(group, 2, 5)],
        [Stretch(group, 5, 7)],
        [Stretch(group, 7, 10)],
    ]


def test_no_group_at_all() -> None:
    assert deal([], 3) == [[], [], []]


# blocks


@steady
@given(LANES, st.integers(1, 400), st.data())
def test_blocks_cover_each_lane_without_overlap(rows: list[int], shuffle_rows: int, data: st.DataObject) -> None:
    order = Order(tuple(rows), 1)
    shuffle = Shuffle(order, shuffle_rows, 0, 0)
    for lane, total in enumerate(rows):
        blocks = []
        while not blocks or blocks[-1].stop < total:
            start = blocks[-1].stop if blocks else 0
            if start == total:
                break
            blocks.append(shuffle.block_at(lane, start))
            assert blocks[-1].start == start
            # all rows of a block find the same one: a resume goes on in it
            assert {shuffle.block_at(lane, at) for at in range(start, blocks[-1].stop)} == {blocks[-1]}
        numbers = [block.number for block in blocks]
        assert numbers == sorted(set(numbers))
        assert all(0 < block.stop - block.start <= shuffle_rows * total / order.rows + 1 for block in blocks)
        assert sum(block.stop - block.start for block in blocks) == total


def test_lanes_of_unlike_lengths_refill_one_after_another() -> None:
    """The blocks of lane l end where b + (l + 1) / 4 blocks of the whole epoch are done, to within a step or so."""
    order = Order((1000, 3000, 500, 1500), 10)
    shuffle = Shuffle(order, 600, 0, 0)
    positions = [order.positions(done).tolist() for done in range(order.rows)]
    ends = []
    for lane, total in enumerate(order.lane_rows):
        at = 0
        while (block := shuffle.block_at(lane, at)).stop < total:
            at = block.stop
            ends.append((next(done for done, place in enumerate(positions) if place[lane] >= at), lane))
    assert [lane for _, lane in sorted(ends)] == [n % 4 for n in range(len(ends))]
    assert all(abs(done - 150 * (n + 1)) <= 12 for n, (done, _) in enumerate(sorted(ends)))


def test_every_block_has_an_order_of_its_own() -> None:
    order = Order((120, 120, 120), 1)
    blocks = [Block(number, 40 * number, 40 * number + 40) for number in range(3)]
    seen = {
        tuple(Shuffle(order, 120, seed, epoch).permutation(lane, block).tolist())
        for seed, epoch, lane, block in itertools.product(range(3), range(3), range(3), blocks)
    }
    assert len(seen) == 81


@steady
@given(st.lists(st.integers(0, 400), min_size=1, max_size=9), st.integers(1, 50), st.data())
def test_shares_are_the_differences_of_positions(rows: list[int], batch: int, data: st.DataObject) -> None:
    order = Order(tuple(rows), batch)
    done = data.draw(st.integers(0, order.rows))
    places = [order.positions(end) for end in (done, *order.step_ends(done))]
    expected = [
        (end, (b - a).tolist()) for end, (a, b) in zip(order.step_ends(done), itertools.pairwise(places), strict=True)
    ]
    assert [(end, share_l.tolist()) for end, share_l in order.shares(done)] == expected


# permutations


@steady
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=4), st.integers(0, 300))
def test_a_permutation_is_one_and_the_same_every_time(key: list[int], size: int) -> None:
    order = permutation(key, size)
    assert sorted(order.tolist()) == list(range(size))
    assert order.tolist() == permutation(key, size).tolist()


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000, 65_536, 65_537, 300_000])
def test_a_permutation_is_that_of_the_sorted_words(size: int) -> None:
    key = [size, 5]
    words = np.random.PCG64(np.random.SeedSequence(key)).random_raw(size)
    low = (1 << max(size - 1, 0).bit_length()) - 1
    expected = sorted(range(size), key=lambda n: (int(words[n]) & ~low, n))
    assert permutation(key, size).tolist() == expected
    if size == 300_000:
        assert len(np.unique(words >> np.uint64(32))) < size, "some words have their first 32 bits in common"


def test_permutations_are_uniform() -> None:
    """All 24 orders of four rows, each about as often; chi-square with 23 degrees of freedom."""
    count = Counter(tuple(permutation([7, n], 4).tolist()) for n in range(4800))
    assert len(count) == 24
    assert sum((n - 200) ** 2 / 200 for n in count.values()) < 49.7  # the 0.999 quantile


def test_each_part_of_the_key_changes_the_order() -> None:
    keys = [[seed, epoch, lane, block] for seed in (0, 1) for epoch in (0, 1) for lane in (1, 2) for block in (0, 1)]
    assert len({tuple(permutation(key, 40).tolist()) for key in keys}) == 16


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


def test_the_order_is_stable_over_versions() -> None:
    """A checkpoint's place in an epoch means the same rows after an upgrade of numpy: numbers written down once."""
    groups = permuted_groups(Manifest(tuple(row_groups([1] * 8)), ""), 7, 3, shuffle=True)
    assert [group.first_row for group in groups] == [2, 4, 7, 3, 5, 1, 0, 6]
    shuffle = Shuffle(Order((24, 8), 1), 32, 7, 3)
    assert shuffle.permutation(1, shuffle.block_at(1, 0)).tolist() == [1, 6, 2, 4, 3, 0, 5, 7]
    assert shuffle.block_at(0, 13) == Block(1, 12, 24)
    assert Order((24, 8, 5), 1).positions(17).tolist() == [11, 4, 2]
