"""A fixed set of 64-bit keys -> its positions: two memory reads a look-up, whatever the set. No Python per key.

Hash and displace (Pagh 1999; Belazzougui, Botelho, Dietzfelbinger 2009): a key's first hash names a small group of
keys, the group's number, found once when the table is built, turns the second hash so that no two keys share a slot.
A key that is not in the set lands on some slot as well, and is told by comparing it with the key that lies there.
"""

import numpy as np
import numpy.typing as npt

from pipeline.data.hashing import MIX_1, MIX_2, SHIFT

Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
TURN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 over the golden ratio, odd: what one more turn adds to a hash."""
SLOTS_A_KEY, KEYS_A_GROUP = 2, 2
"""At least; both numbers are rounded up to powers of two. Fewer slots are found ever more slowly."""
MOST_TURNS = 2**16 - 1


class PerfectHash:
    """Positions of `keys`, which must be distinct. About 8 + 8 to 16 + 1 to 2 bytes a key."""

    def __init__(self, keys: Int64) -> None:
        self.keys = np.ascontiguousarray(keys)
        self._slot_shift = _shift(SLOTS_A_KEY * len(keys))
        self._group_shift = _shift(len(keys) // KEYS_A_GROUP)
        self._turn_G = np.zeros(1 << 64 - int(self._group_shift), np.uint16)
        self._key_S = np.full(1 << 64 - int(self._slot_shift), -1, np.int32)
        self._build()
        # an empty slot may as well name key 0: who lands there is compared with it
        self._key_S = np.maximum(self._key_S, 0)

    def __call__(self, key_N: Int64, absent: int) -> Int64:
        """The position of each key, shape [N]; `absent` for a key that is not in the set."""
        if not len(self.keys):
            return np.full(len(key_N), absent, np.int64)
        hash_N = _scramble(key_N)
        slot_N = self._slot(hash_N, self._turn_G.take((hash_N >> self._group_shift).view(np.int64)))
        at_N = self._key_S.take(slot_N)
        return np.where(self.keys.take(at_N) == key_N, at_N, np.int64(absent))

    def _slot(self, hash_N: UInt64, turn_N: npt.NDArray[np.uint16]) -> Int64:
        turned_N = hash_N + turn_N * TURN
        turned_N ^= turned_N >> SHIFT  # without it two hashes keep their distance at every turn
        turned_N *= MIX_1
        turned_N >>= self._slot_shift
        return turned_N.view(np.int64)

    def _build(self) -> None:
        hash_N = _scramble(self.keys)
        group_N = (hash_N >> self._group_shift).view(np.int64)
        order_N = np.argsort(group_N, kind="stable").astype(np.int32)  # keys of a group side by side
        size_G = np.bincount(group_N, minlength=len(self._turn_G))
        first_G = np.cumsum(size_G) - size_G
        for size in range(int(size_G.max(initial=0)), 0, -1):  # the largest find room while there is most of it
            groups = np.flatnonzero(size_G == size)
            left_LK = order_N[first_G[groups][:, None] + np.arange(size)]
            for turn in range(MOST_TURNS + 1):
                if not len(left_LK):
                    break
                left_LK = self._place(left_LK, hash_N, group_N, turn)
            assert not len(left_LK), "a group of distinct hashes finds free slots in a few dozen turns"

    def _place(self, key_LK: npt.NDArray[np.int32], hash_N: UInt64, group_N: Int64, turn: int) -> npt.NDArray[np.int32]:
        """Lays the groups, a row of keys each, that find free slots at this turn; returns the others."""
        slot_LK = self._slot(hash_N[key_LK], np.array([turn], np.uint16))
        free_L = (self._key_S[slot_LK] < 0).all(1)
        key_FK, slot_FK = key_LK[free_L], slot_LK[free_L]
        self._key_S[slot_FK] = key_FK
        won_F = (self._key_S[slot_FK] == key_FK).all(1)  # of two that chose one slot the last lies there
        lost_slot, lost_key = slot_FK[~won_F].ravel(), key_FK[~won_F].ravel()
        self._key_S[lost_slot[self._key_S[lost_slot] == lost_key]] = -1
        self._turn_G[group_N[key_FK[won_F, 0]]] = turn
        return np.concatenate([key_LK[~free_L], key_FK[~won_F]])


def _shift(count: int) -> np.uint64:
    """What brings a 64-bit hash down to at least `count` values, at least two."""
    return np.uint64(64 - max(1, (count - 1).bit_length()))


def _scramble(key_N: Int64) -> UInt64:
    """A bijection of the 64 bits, so that distinct keys stay distinct; half of MurmurHash3's finaliser."""
    hash_N = key_N.view(np.uint64) * MIX_1
    hash_N ^= hash_N >> SHIFT
    return hash_N * MIX_2
