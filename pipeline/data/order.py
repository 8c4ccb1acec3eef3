"""The global order of rows: a pure function of the manifest, the seed and the epoch, at any number of ranks.

The row groups of an epoch are permuted and dealt whole to `lanes` lanes, each to the lane with the fewest rows so far,
so that a row group is opened once. Lane l ends up with n_l rows. The global order interleaves the lanes in proportion:
row i of lane l has the key (2i + 1) / (2 n_l), the middle of its share of the epoch, and rows are ordered by (key,
lane). So `done` rows of the epoch are a known number of rows of each lane, and never fewer for more: the apportionment
of Webster and Sainte-Lague. A step is the next `batch_size` rows of the order. Rank r reads the lanes r, r + world,
...: each reads its own share, and the rows of a step are the same rows whatever the world is. The place in an epoch is
therefore one number, the rows done, and a run stopped at any step goes on at any number of ranks.

Shapes: L lanes, S steps.
"""

import dataclasses
import functools
import heapq
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.data.files import Manifest, RowGroup

Int64 = npt.NDArray[np.int64]
STEPS_AT_ONCE = 64
"""Steps whose shares are worked out together: alone each takes some forty calls of numpy."""


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A run of consecutive rows of one row group."""

    group: RowGroup
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """Its length."""
        return self.stop - self.start


@dataclasses.dataclass(frozen=True)
class Order:
    """Who reads which rows when, in one pass over lanes of these many rows."""

    lane_rows: tuple[int, ...]
    batch_size: int

    @functools.cached_property
    def rows(self) -> int:
        """Rows of the pass."""
        return sum(self.lane_rows)

    @property
    def lanes(self) -> int:
        """L."""
        return len(self.lane_rows)

    @functools.cached_property
    def _rows_L(self) -> Int64:
        return np.array(self.lane_rows, np.int64)

    def steps(self, done: int = 0) -> int:
        """Steps of the pass that are left after `done` rows; the last may be smaller."""
        return -(-(self.rows - done) // self.batch_size)

    def step_ends(self, done: int = 0) -> list[int]:
        """Rows of the pass done after each of the steps that are left."""
        return [min(done + (n + 1) * self.batch_size, self.rows) for n in range(self.steps(done))]

    def positions(self, done: int) -> Int64:
        """Rows of each lane among the first `done` of the global order, [L]; in O(L log L), whatever `done` is."""
        return self._positions(np.array([done]))[0]

    def shares(self, done: int) -> Iterator[tuple[int, Int64]]:
        """Rows done after each of the steps that are left, and the rows of each lane in the step, [L]."""
        before_L = self.positions(done)
        ends = self.step_ends(done)
        for first in range(0, len(ends), STEPS_AT_ONCE):
            end_S = ends[first : first + STEPS_AT_ONCE]
            position_SL = self._positions(np.array(end_S))
            yield from zip(end_S, np.diff(position_SL, axis=0, prepend=before_L[None]), strict=True)
            before_L = position_SL[-1]

    def _positions(self, done_S: Int64) -> Int64:
        """`positions` of each, [S, L].

        At most n_l t + 1/2 rows of lane l have a key up to t, and at least n_l t - 1/2. So the first `done` rows take
        in all keys up to (done - L/2) / rows and none above (done + L/2) / rows. What lies between is sorted: some
        3 L rows.
        """
        rows_L, half = self._rows_L, self.lanes / 2 + 1  # one more than needed: rounding cannot matter
        low_SL = np.floor(rows_L * (np.maximum(done_S - half, 0.0) / max(self.rows, 1))[:, None]).astype(np.int64)
        high_SL = np.ceil(rows_L * ((done_S + half) / max(self.rows, 1))[:, None] + 0.5).astype(np.int64)
        np.minimum(low_SL, rows_L, out=low_SL)
        np.minimum(high_SL, rows_L, out=high_SL)
        open_M = (high_SL - low_SL).ravel()
        place_C = np.repeat(np.arange(open_M.size), open_M)  # candidates, step by step and lane by lane
        row_C = np.arange(len(place_C)) + (low_SL.ravel() - (np.cumsum(open_M) - open_M))[place_C]
        step_C, lane_C = np.divmod(place_C, max(self.lanes, 1))
        # one correctly rounded division of whole numbers: the same key on every machine
        key_C = (2 * row_C + 1) / (2 * rows_L)[lane_C]
        left_S = done_S - low_SL.sum(1)
        size_S = np.bincount(step_C, minlength=len(done_S))
        assert np.all((left_S >= 0) & (left_S <= size_S)), "the bounds hold the place"
        order_C = np.lexsort((key_C, step_C))  # stable: equal keys by lane
        rank_C = np.arange(len(order_C)) - np.repeat(np.cumsum(size_S) - size_S, size_S)
        first_C = order_C[rank_C < np.repeat(left_S, size_S)]
        return low_SL + np.bincount(place_C[first_C], minlength=open_M.size).reshape(low_SL.shape)

    def widest(self, share_L: Int64, world: int) -> int:
        """Rows of the busiest rank in a step of these shares: what the others are padded to."""
        padded = np.zeros(-(-self.lanes // world) * world, np.int64)
        padded[: self.lanes] = share_L
        return int(padded.reshape(-1, world).sum(0).max())


def permutation(key: Sequence[int], size: int) -> Int64:
    """A random order of 0 .. size - 1, shape [size], drawn from the key alone.

    Random 64-bit words whose low bits are replaced by the place, sorted. numpy promises the words of a bit generator
    over all its versions, which it does not for the permutations of a Generator; and this is quicker. The words are
    sorted by their second and then by their first 16 bits, which numpy's stable sort does by counting, thrice as
    quickly as it sorts the words; the few that have all 32 in common are set right.
    """
    word_N = np.random.PCG64(np.random.SeedSequence(list(key))).random_raw(size).astype("<u8", copy=False)
    mask = np.uint64((1 << max(size - 1, 0).bit_length()) - 1)
    assert mask < 1 << 32, "the bits sorted by are the random ones"
    digit_NB = word_N.view("<u2").reshape(-1, 4)
    row_N = np.argsort(digit_NB[:, 2], kind="stable")
    row_N = row_N[np.argsort(digit_NB[row_N, 3], kind="stable")]
    head_N = word_N.view("<u4")[1::2][row_N]
    same_N = head_N[1:] == head_N[:-1]
    if same_N.any():
        tied_N = np.zeros(size, np.bool_)
        tied_N[1:] |= same_N
        tied_N[:-1] |= same_N
        word_M = word_N[row_N[tied_N]] & ~mask | row_N[tied_N].view(np.uint64)
        word_M.sort()  # runs of one head stay in their places: the heads lead
        row_N[tied_N] = (word_M & mask).view(np.int64)
    return row_N


def permuted_groups(manifest: Manifest, seed: int, epoch: int, shuffle: bool) -> list[RowGroup]:
    """The row groups in the order of the epoch."""
    groups = list(manifest.groups)
    if not shuffle:
        return groups
    return [groups[i] for i in permutation([seed, epoch, 0], len(groups))]


def deal(groups: Sequence[RowGroup], lanes: int) -> list[list[Stretch]]:
    """The row groups dealt to the lanes: each, in turn, to the lane with the fewest rows so far, ties to the lowest.

    Where there are fewer row groups than lanes each is cut into ceil(lanes / groups) nearly equal pieces first, so
    that all ranks have work; a lane that gets a later piece decodes what lies before it once more.
    """
    parts = -(-lanes // len(groups)) if groups else 1  # 1 where there are enough
    out: list[list[Stretch]] = [[] for _ in range(lanes)]
    fewest = [(0, lane) for lane in range(lanes)]
    for group in groups:
        for part in range(parts):
            piece = Stretch(group, group.rows * part // parts, group.rows * (part + 1) // parts)
            if piece.rows:
                rows, lane = fewest[0]
                heapq.heapreplace(fewest, (rows + piece.rows, lane))
                out[lane].append(piece)
    return out
