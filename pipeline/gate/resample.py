"""The paired bootstrap by user: weights of users, and what AUC becomes under them. No torch.

A resample gives every user a weight drawn from Poisson(1), the number of times it would come if as many users as there
are were drawn with replacement (Efron 1979; Poisson weights: Hanley and MacGibbon 2006, Chamandy et al. 2012). All rows
of a user weigh alike, so that what they have in common is not taken for news, and every comparison sees the same
weights, so that their noise is paired. A weight depends on the day's seed, the user and the resample alone.

Shapes: M rows, U users, R resamples at once, G groups of rows, S stretches of a ranking.
"""

import math

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse

from pipeline.data.hashing import mix

AT_ONCE = 16
"""Resamples worked out together: their weights of a user share a cache line."""
A_HASH = 4
"""Weights drawn from one 64-bit hash."""
_STEP = np.uint64(0x9E3779B97F4A7C15)
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.int64]


def _poisson_quantiles() -> npt.NDArray[np.int32]:
    """The quantile of Poisson(1) at the middle of each of 2^16 equal shares."""
    share = (np.arange(65_536) + 0.5) / 65_536
    upto = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)])
    return np.searchsorted(upto, share, side="right").astype(np.int32)


_QUANTILES = _poisson_quantiles()


def weights(key_U: npt.NDArray[np.uint64], seed: int, first: int) -> npt.NDArray[np.int32]:
    """Weights of the resamples first .. first + AT_ONCE, [U, R], of users told apart by 64-bit keys."""
    begin_U = mix(key_U ^ mix(np.array([seed], np.uint64)))
    parts = []
    with np.errstate(over="ignore"):
        for number in range(first, first + AT_ONCE, A_HASH):
            drawn_U = mix(begin_U + _STEP * np.array([number + 1], np.uint64))
            parts.append(_QUANTILES[drawn_U.view(np.uint16).reshape(-1, A_HASH)])
    return np.concatenate(parts, axis=1)


class Ranking:
    """Rows of two classes in the order of a score, ready to be weighed again and again.

    AUC is the weighted share of pairs, one of each class, in which the positive has the higher score, a tie counting
    one half: exact, in integers. Rows of the larger class lie in stretches between the scores of the smaller one, which
    are few, so that a resample costs one sum over the rows and little else.
    """

    def __init__(self, score_M: Floats, positive_M: Mask, user_M: Codes, users: int) -> None:
        """Both classes must be there, and no score may be NaN."""
        self._swapped = 2 * int(positive_M.sum()) > len(positive_M)
        few_M = ~positive_M if self._swapped else positive_M
        many_score = score_M[~few_M]
        many = np.argsort(many_score, kind="stable")
        value_G, group_few = np.unique(score_M[few_M], return_inverse=True)
        below_G = np.searchsorted(many_score[many], value_G, side="left")
        upto_G = np.searchsorted(many_score[many], value_G, side="right")
        ends_S = np.unique(np.concatenate([below_G, upto_G]))
        stretch = np.searchsorted(ends_S, np.arange(len(many)), side="right")
        # weights of the larger class below each of the ends, once summed up
        self._many = _sums(stretch, user_M[~few_M][many], len(ends_S) + 1, users)
        self._few = _sums(group_few.reshape(-1), user_M[few_M], len(value_G), users)
        self._below_G = np.searchsorted(ends_S, below_G)
        self._upto_G = np.searchsorted(ends_S, upto_G)
        self._ties = bool((below_G != upto_G).any())

    def auc(self, weight_UR: npt.NDArray[np.int32]) -> Floats:
        """AUC of each resample, [R]; NaN where it left out a whole class."""
        upto_SR = self._many @ weight_UR
        np.cumsum(upto_SR, axis=0, out=upto_SR)
        few_GR = self._few @ weight_UR
        twice_GR = upto_SR[self._below_G]
        twice_GR += upto_SR[self._upto_G] if self._ties else twice_GR
        beaten_R = np.multiply(few_GR, twice_GR, dtype=np.int64).sum(axis=0)
        pairs_R = 2 * few_GR.sum(axis=0, dtype=np.int64) * upto_SR[-1]
        if self._swapped:
            beaten_R = pairs_R - beaten_R
        auc_R = np.full(len(pairs_R), np.nan)
        np.divide(beaten_R, pairs_R, out=auc_R, where=pairs_R > 0)
        return auc_R


def _sums(group: npt.NDArray[np.int64], user: Codes, groups: int, users: int) -> sparse.csr_array:
    """The matrix [groups, U] that takes weights of users to weights of groups: how many rows of each are in each."""
    ones = np.ones(len(group), np.int32)
    return sparse.csr_array((ones, (group, user)), shape=(groups, users), dtype=np.int32)
