"""One sample -> its comparisons, and how each delta scatters over the resamples of users.

Shapes: M rows of the sample, U its users, R resamples at once, B all resamples, K sums.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import scipy.sparse as sparse

from pipeline.gate.record import AUC, CALIBRATION, LOG_LOSS, MSE, Comparison, Word
from pipeline.gate.resample import AT_ONCE, Ranking, weights
from pipeline.gate.samples import Sample, Side
from schemas.daily import GateConfig, Tolerance

MIN_USERS = 20
"""Users below whom a bootstrap by user says little (Cameron, Gelbach and Miller 2008 on few clusters)."""
UNDEFINED = 0.01
"""Share of resamples without one of the classes above which a comparison does not judge."""
Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Users:
    """Who each held-out row belongs to."""

    code_N: npt.NDArray[np.int64]
    """Numbers from 0."""
    key: npt.NDArray[np.uint64]
    """A 64-bit hash a number."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """A comparison without its verdict."""

    told: Comparison
    delta_B: Floats | None
    """Delta of each resample; None where there is nothing to resample."""


def measured(sample: Sample, gate: GateConfig, users: Users, seed: int) -> list[Measured]:
    """The sample's comparisons, a metric each."""
    metrics = [AUC, LOG_LOSS, CALIBRATION] if sample.binary else [MSE]
    tolerance = gate.tasks.get(sample.task, gate.tolerance)
    plain = [_told(sample, metric, tolerance) for metric in metrics]
    if settled := _settled_by_nan(sample, plain):
        return settled
    if sample.champion is None:
        return [_noted(each, "no champion predicts it") for each in plain]
    if few := _too_few(sample, gate, users):
        return [_noted(each, few) for each in plain]
    found = [_settled_by_infinity(each) for each in plain]
    open_metrics = [each.metric for each in found if each.verdict == "too_few"]
    delta = _resampled(sample, open_metrics, users, gate.resamples, seed)
    return [Measured(each, delta.get(each.metric)) for each in found]


def auc_of(side: Side, label_M: Floats) -> float | None:
    """AUC of one side; None with one class alone, or with a NaN."""
    positive_M = label_M > 0.5
    if positive_M.all() or not positive_M.any() or side.nan:
        return None
    alone = np.zeros(len(label_M), np.int64)
    return float(Ranking(side.score_M, positive_M, alone, 1).auc(np.ones((1, 1), np.int32))[0])


def _told(sample: Sample, metric: str, tolerance: Tolerance) -> Comparison:
    """Both values and their delta."""
    champion, challenger = (_value(side, sample, metric) for side in (sample.champion, sample.challenger))
    delta = None
    if champion is not None and challenger is not None:
        delta = float(_delta(metric, np.array(champion), np.array(challenger)))
    positives = int(sample.label_M.sum()) if sample.binary else None
    return Comparison(
        sample.task,
        sample.space,
        sample.slice,
        metric,
        len(sample.row_M),
        positives,
        champion,
        challenger,
        delta,
        getattr(tolerance, metric),
    )


def _value(side: Side | None, sample: Sample, metric: str) -> float | None:
    """The metric of one side; None where it is not defined. It may be infinite."""
    if side is None or not len(sample.row_M) or side.nan:
        return None
    if metric == AUC:
        return auc_of(side, sample.label_M)
    if metric == CALIBRATION:
        positives = sample.label_M.sum()
        return float(side.p_M.sum() / positives) if positives else None
    return float(side.loss_M.mean())


def _delta(metric: str, champion: Floats, challenger: Floats) -> Floats:
    """How much worse the challenger is, in the unit of the metric's tolerance; element by element."""
    if metric == AUC:
        return champion - challenger
    with np.errstate(divide="ignore", invalid="ignore"):
        if metric == CALIBRATION:
            out = np.abs(np.log(challenger)) - np.abs(np.log(champion))
        else:
            out = challenger / champion - 1
    return np.where(champion == challenger, 0.0, out)


def _too_few(sample: Sample, gate: GateConfig, users: Users) -> str:
    """Why the sample does not judge; empty where it does."""
    whole_M = np.ones(len(sample.row_M), np.bool_)
    positive_M = sample.label_M > 0.5
    classes = {"positives": positive_M, "negatives": ~positive_M} if sample.binary else {"rows": whole_M}
    for what, of_M in classes.items():
        if (count := int(of_M.sum())) < gate.min_positives:
            return f"{count:,} {what}, under {gate.min_positives:,}"
    for what, of_M in classes.items():
        if (count := len(np.unique(users.code_N[sample.row_M[of_M]]))) < MIN_USERS:
            return f"its {what} come of {count} users, under {MIN_USERS}"
    return ""


def _noted(told: Comparison, note: str) -> Measured:
    champion, challenger, delta = (
        None if value is None or not np.isfinite(value) else value
        for value in (told.champion, told.challenger, told.delta)
    )
    return Measured(dataclasses.replace(told, note=note, champion=champion, challenger=challenger, delta=delta), None)


def _settled_by_nan(sample: Sample, plain: Sequence[Comparison]) -> list[Measured]:
    """Verdicts where a side predicts NaN; empty where none does."""
    sides: list[tuple[Side | None, Word, str]] = [
        (sample.challenger, "worse", "challenger"),
        (sample.champion, "better", "champion"),
    ]
    for side, word, who in sides:
        if side is not None and side.nan:
            note = f"the {who} predicts NaN on {side.nan:,} of {len(sample.row_M):,} rows"
            noted = [_noted(each, note).told for each in plain]
            return [Measured(dataclasses.replace(each, verdict=word), None) for each in noted]
    return []


def _settled_by_infinity(told: Comparison) -> Comparison:
    """A metric that is infinite on a side needs no interval. Left as it is where both are finite."""
    assert told.champion is not None
    assert told.challenger is not None
    assert told.delta is not None
    # a calibration of 0 is as far from 1 as an infinite one
    old, new = (
        not np.isfinite(value) or (told.metric == CALIBRATION and value == 0)
        for value in (told.champion, told.challenger)
    )
    word: Word
    if old and new:
        word, note = "level", "without bound on both sides"
    elif old:
        word, note = "better", "the champion's is without bound"
    elif new:
        word, note = "worse", "the challenger's is without bound"
    elif not np.isfinite(told.delta):
        word, note = "worse", "the champion's is 0, so that any rise is without bound"
    else:
        return told
    return dataclasses.replace(_noted(told, note).told, delta=None, verdict=word)


def _resampled(sample: Sample, metrics: Sequence[str], users: Users, resamples: int, seed: int) -> dict[str, Floats]:
    """Delta of each resample by metric, [B]; NaN where a class is missing from it, or a metric is without bound."""
    assert sample.champion is not None
    code_U, user_M = np.unique(users.code_N[sample.row_M], return_inverse=True)
    count = len(code_U)
    sides = [sample.champion, sample.challenger]
    rankings = []
    if AUC in metrics:
        rankings = [Ranking(side.score_M, sample.label_M > 0.5, user_M, count) for side in sides]
    summed = [sample.label_M, np.ones(len(user_M))]
    summed += [column for side in sides for column in (side.loss_M, side.p_M)]
    # an infinite loss is settled already, and would make the others' sums NaN
    by_user = [np.bincount(user_M, np.where(np.isfinite(column), column, 0.0), count) for column in summed]
    sum_KU = sparse.csr_array(np.stack(by_user))  # summed in one order, whatever the number of threads
    out = {metric: np.empty(resamples) for metric in metrics}
    for first in range(0, resamples, AT_ONCE):
        weight_UR = weights(users.key[code_U], seed, first)
        label_R, rows_R, *of_side = sum_KU @ weight_UR.astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            values = {
                CALIBRATION: [of_side[1] / label_R, of_side[3] / label_R],
                LOG_LOSS: [of_side[0] / rows_R, of_side[2] / rows_R],
            }
        values[MSE] = values[LOG_LOSS]
        values[AUC] = [ranking.auc(weight_UR) for ranking in rankings]
        for metric in metrics:
            delta_R = _delta(metric, *values[metric])
            # without bound where the champion's sum happens to be 0: no more to be counted with than a missing class
            delta_R = np.where(np.isfinite(delta_R), delta_R, np.nan)
            out[metric][first : first + AT_ONCE] = delta_R[: resamples - first]
    return out


def undefined(delta_B: Floats) -> bool:
    """Whether too many resamples are undefined."""
    return float(np.mean(np.isnan(delta_B))) > UNDEFINED
