"""How well a score orders users' lists: GAUC and NDCG, exact, ties without an order. numpy alone.

Shapes: N rows, L lists, G groups of rows of one list and one score.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Measured:
    """A measure over lists."""

    value: float | None
    """Its weighted mean; None where no list counts."""
    lists: int
    """Lists that count."""
    left_out: int
    """Lists on which it is not defined: of one class alone, or without a positive row."""
    value_L: Float64 = dataclasses.field(repr=False)
    """The measure of each list, NaN where it is not defined."""
    weight_L: Float64 = dataclasses.field(repr=False)
    """What the list counts."""


class Lists:
    """N rows, each of the list `code_N`: 0 .. L - 1."""

    def __init__(self, code_N: Int64) -> None:
        self._code_N = np.ascontiguousarray(code_N, np.int64)
        self.lists = int(code_N.max()) + 1 if len(code_N) else 0
        """L."""

    def ranked(self, score_N: Float64) -> "Ranked":
        """The lists in the order of a score, the largest first. No score may be NaN."""
        return Ranked(self._code_N, self.lists, score_N)


class Ranked:
    """Lists in an order, to be measured by any labels."""

    def __init__(self, code_N: Int64, lists: int, score_N: Float64) -> None:
        self.lists = lists
        order_N = np.argsort(-score_N, kind="stable")
        self._order_N = order_N[np.argsort(code_N[order_N], kind="stable")]
        code_N, score_N = code_N[self._order_N], score_N[self._order_N]
        self._rows_L = np.bincount(code_N, minlength=lists)
        first_L = np.cumsum(self._rows_L) - self._rows_L
        if len(code_N):
            begins_N = np.concatenate([[True], (code_N[1:] != code_N[:-1]) | (score_N[1:] != score_N[:-1])])
        else:
            begins_N = np.zeros(0, np.bool_)
        self._begin_G = np.flatnonzero(begins_N)
        self._rows_G = np.diff(np.append(self._begin_G, len(code_N)))
        self._list_G = code_N[self._begin_G]
        self._place_G = self._begin_G - first_L[self._list_G]
        """How many rows of its list come before a group."""

    def _sums(self, x_N: npt.NDArray) -> Float64:
        """Sums of each group, [G]."""
        if not len(self._begin_G):
            return np.zeros(0)
        return np.add.reduceat(np.asarray(x_N, np.float64)[self._order_N], self._begin_G)

    def gauc(self, label_N: npt.NDArray[np.bool_]) -> Measured:
        """AUC within each list, a tie counting one half, weighted by the list's rows; lists of one class left out."""
        positive_G = self._sums(label_N)
        negative_G = self._rows_G - positive_G
        positive_L = np.bincount(self._list_G, positive_G, self.lists)
        negative_L = self._rows_L - positive_L
        # negatives of the list up to and with each group, less those before the list
        upto_G = np.cumsum(negative_G) - (np.cumsum(negative_L) - negative_L)[self._list_G]
        beaten_G = negative_L[self._list_G] - upto_G + negative_G / 2
        pairs_L = positive_L * negative_L
        value_L = np.full(self.lists, np.nan)
        won_L = np.bincount(self._list_G, positive_G * beaten_G, self.lists)
        np.divide(won_L, pairs_L, out=value_L, where=pairs_L > 0)
        return _mean(value_L, self._rows_L.astype(np.float64))

    def ndcg(self, label_N: npt.NDArray[np.bool_], k: int) -> Measured:
        """NDCG@k of 0/1 gains with the discount 1 / log2(place + 1), the mean over lists with a positive row.

        Of tied rows each has the mean of their gains, the expectation over their orders (McSherry and Najork 2008).
        """
        longest = int(self._rows_L.max()) if self.lists else 0
        discounts = np.where(np.arange(longest) < k, 1 / np.log2(np.arange(longest) + 2), 0.0)
        upto = np.concatenate([[0.0], np.cumsum(discounts)])
        gain_G = self._sums(label_N)
        dcg_G = gain_G / self._rows_G * (upto[self._place_G + self._rows_G] - upto[self._place_G])
        positive_L = np.bincount(self._list_G, gain_G, self.lists)
        value_L = np.full(self.lists, np.nan)
        best_L = upto[positive_L.astype(np.int64)]
        np.divide(np.bincount(self._list_G, dcg_G, self.lists), best_L, out=value_L, where=positive_L > 0)
        return _mean(value_L, np.ones(self.lists))


def _mean(value_L: Float64, weight_L: Float64) -> Measured:
    counted_L = ~np.isnan(value_L)
    lists = int(counted_L.sum())
    value = float(np.average(value_L[counted_L], weights=weight_L[counted_L])) if lists else None
    return Measured(value, lists, len(value_L) - lists, value_L, weight_L)
