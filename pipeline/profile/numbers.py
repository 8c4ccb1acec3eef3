"""Numbers of any size in bins of equal relative width about a centre, in fixed memory. No torch.

A bin is the number less the centre, rounded to sign, exponent and the first bits of the mantissa of its 32-bit form: in
order, 2^16 of them, each within 0.4 % of the distance from the centre; whole numbers within 256 of a whole centre
have one each. The centre is the median of the first batch.
"""

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
BITS = 16
LEAST_BITS = 11
LARGEST = 3.0e38
"""Numbers further from the centre count as this far."""
FURTHEST = 1e140
"""The same for means and deviations: the squares of any number of such can be added."""


def bins(x_N: Float64, centre: float, bits: int = BITS) -> Int64:
    """The bin of each number, 0 .. 2^bits, rising with it; no NaN among them."""
    shift = np.uint32(32 - bits)
    near_N = np.clip(x_N - centre, -LARGEST, LARGEST).astype(np.float32)
    size_N = ((near_N.view(np.uint32) & np.uint32(0x7FFFFFFF)) + (np.uint32(1) << (shift - np.uint32(1)))) >> shift
    signed_N = size_N.astype(np.int64)
    np.negative(signed_N, out=signed_N, where=near_N < 0)
    return signed_N + (1 << (bits - 1))


def values(bin_N: Int64, centre: float, bits: int = BITS) -> Float64:
    """The middle of each bin."""
    signed_N = bin_N - (1 << (bits - 1))
    size_N = (np.abs(signed_N).astype(np.uint32) << np.uint32(32 - bits)).view(np.float32).astype(np.float64)
    return np.sign(signed_N) * size_N + centre


def quantile_bins(count_R: npt.NDArray[np.generic], shares: list[float]) -> Int64:
    """The bin that holds each quantile: the first at which the running count reaches share * (rows - 1) + 1."""
    running_R = np.cumsum(count_R)
    rank = np.floor(np.array(shares) * (running_R[-1] - 1)) + 1
    return np.searchsorted(running_R, rank, side="left").astype(np.int64)


def quantile_groups(count_R: npt.NDArray[np.generic], groups: int) -> Int64:
    """Each bin's group among at most `groups` of near-equal counts, rising with the bin."""
    running_R = np.cumsum(count_R)
    before_R = running_R - count_R
    return (before_R * groups // max(int(running_R[-1]), 1)).astype(np.int64)


def rounded(x: float, spread: float) -> float:
    """A number fit to be written in a configuration: three digits of the spread."""
    if not spread > 0:
        return float(x)
    return float(round(x, int(2 - np.floor(np.log10(spread)))))
