"""What a person should look at in a run: a sentence each, of what happened, to which task, and what to do.

The limits are told in docs/report.md. They find what deserves a look; they judge nothing.
"""

import bisect
import itertools
import math
import statistics
from collections.abc import Iterator

from pipeline.run_report.record import Run, Series

OFF = 0.1
"""Calibration further from 1 than this ratio."""
UNKNOWN = 0.2
"""Share of a feature's ids out of vocabulary."""
WAIT = 0.2
"""Share of the time that training waited for its reader."""
LOAD = 0.02
"""Share of a level's gate weight under which an expert does nothing."""
MOST_PAIRS = 5
"""Of tasks that pull apart, told each by itself."""
CONFLICT = -0.1
"""Mean cosine of two tasks' gradients: nearer 0 a step for one costs the other little."""
SEESAW = 0.005
"""Fall of a task's AUC from the first third of training to the last."""
GAP = 0.05
"""Training's AUC in its last third over the evaluation's."""
FEW = 50
"""Positives, or rows of a number, under which a metric says little."""


def findings(run: Run) -> list[str]:
    """In the order in which they matter; empty where nothing stands out."""
    found = [*_alerts(run), *_evaluation(run), *_seesaw(run), *_network(run), *_data(run), *_speed(run)]
    return list(dict.fromkeys(found))


def mean(points: Series) -> float | None:
    """Of the values that are numbers."""
    told = [value for _, value in points]
    if not math.isfinite(sum(told)):
        told = [value for value in told if math.isfinite(value)]
    return sum(told) / len(told) if told else None


def thirds(points: Series) -> tuple[float, float] | None:
    """Means over the first and the last third of the rows trained; None where either holds no value."""
    if len(points) < 3:
        return None
    begin, end = points[0][0], points[-1][0]
    first = mean(points[: bisect.bisect_right(points, begin + (end - begin) / 3, key=_samples)])
    last = mean(points[bisect.bisect_left(points, end - (end - begin) / 3, key=_samples) :])
    return None if first is None or last is None else (first, last)


def _samples(point: tuple[int, float]) -> int:
    return point[0]


def main_key(run: Run, row: str) -> tuple[str, str]:
    """Training's key of the metric that a row of the closing table is read by, and its name: AUC or MSE."""
    task, joint = row.removesuffix(" (joint)"), row.endswith(" (joint)")
    if run.kinds.get(task) == "regression":
        return f"train/{task}/mse", "MSE"
    return f"train/{task}/{'joint_' * joint}auc", "AUC"


def changes(run: Run) -> dict[str, float]:
    """Row -> gain of its AUC, or fall of its MSE in per cent, from the first third of training to the last."""
    out = {}
    for row in run.rows_of_training():
        key, name = main_key(run, row)
        if (found := thirds(run.of(key))) is not None:
            first, last = found
            out[row] = last - first if name == "AUC" else (first - last) / max(first, 1e-12) * 100
    return out


def _alerts(run: Run) -> Iterator[str]:
    for attempt in run.tried:
        yield from (f"{alert['title']}: {alert['text']}" for alert in attempt.alerts)


def _evaluation(run: Run) -> Iterator[str]:
    few, chance, off, apart, undefined = [], [], [], [], []
    for row, told in run.metrics().items():
        auc, low, positives = told.get("auc"), told.get("auc_low"), told.get("positives")
        counted = told.get("rows", 0) if "mse" in told else min(positives or 0, told.get("rows", 0) - (positives or 0))
        if counted < FEW:
            few.append(f"{row} ({counted:,.0f})")
            continue
        if auc is not None and math.isnan(auc):
            undefined.append(row)
        if auc is not None and low is not None and low <= 0.5:
            chance.append(f"{row} (AUC {auc:.4f}, interval from {low:.4f})")
        ratio = told.get("calibration")
        if ratio is not None and (ratio <= 0 or abs(math.log(ratio)) > math.log(1 + OFF)):
            off.append(f"{row} {ratio:.2f}")
        points = run.of(main_key(run, row)[0])
        ends = thirds(points)
        if auc is not None and ends is not None and ends[1] - auc > max(GAP, _noise(points)):
            apart.append(f"{row} ({ends[1]:.4f} and {auc:.4f})")
    if few:
        yield (
            f"Evaluated on few rows of the rarer class, or few rows: {', '.join(few)}. Their numbers say little; "
            "evaluate on more days."
        )
    if undefined:
        yield f"The evaluation's AUC is no number: {', '.join(undefined)}. Look at the scores of these tasks."
    if chance:
        yield f"Not told from chance: {', '.join(chance)}. Look at the label and at the features before anything else."
    if off:
        yield (
            f"Calibration is off; predicted over what happened: {', '.join(off)}. Ranking does not suffer; where "
            "scores are used as probabilities, train longer, or calibrate behind the model."
        )
    if apart:
        yield (
            f"AUC at the end of training far above that of the evaluation: {', '.join(apart)}. Either the days differ, "
            "or training rows are learnt by heart: fewer epochs, smaller tables, more regularisation."
        )


def _seesaw(run: Run) -> Iterator[str]:
    gains = {row: gain for row, gain in changes(run).items() if row in run.kinds and run.kinds[row] == "binary"}
    least = {row: max(SEESAW, _noise(run.of(main_key(run, row)[0]))) for row in gains}
    rose = [row for row, gain in gains.items() if gain > least[row]]
    for row, gain in gains.items():
        if gain < -least[row]:
            beside = f" while {', '.join(rose)} rose: a seesaw" if rose else ""
            yield (
                f"{row}: the AUC of its training rows fell by {-gain:.4f} from the first third of the run to the last"
                f"{beside}. Compare with a side that gives it more weight or experts of its own (./launch.sh compare)."
            )


def _noise(points: Series) -> float:
    """Three standard errors of the mean over a third of the points, by how neighbours differ."""
    told = [value for _, value in points if math.isfinite(value)]
    if len(told) < 3:
        return math.inf
    steps = [(b - a) ** 2 for a, b in itertools.pairwise(told)]
    scatter = math.sqrt(sum(steps) / len(steps) / 2)
    return 3 * scatter * math.sqrt(2 / max(len(told) / 3, 1))


def _network(run: Run) -> Iterator[str]:
    for level, load in experts(run).items():
        for expert, points in load.items():
            last = thirds(points)
            if last is not None and last[1] < LOAD:
                yield (
                    f"Level {level}: expert {expert} gets {last[1]:.1%} of the gates' weight, so it does nothing. "
                    "Fewer experts would do, or a smaller learning rate at the start."
                )
    pairs = {pair: points[1:] for pair, points in run.below("gradients", "cosine").items()}  # the first is the start's
    apart = []
    for pair, points in pairs.items():
        average, told = mean(points), [value for _, value in points if math.isfinite(value)]
        if average is not None and average < CONFLICT and average + _noise_of_looks(told, len(pairs)) < 0:
            apart.append((average, pair))
    for average, pair in sorted(apart)[:MOST_PAIRS]:
        a, b = pair.split("~")
        yield (
            f"{a} and {b} pull the shared parameters apart: mean cosine of their gradients {average:.2f}. See "
            "balance.method, or give them experts of their own (model.task_experts)."
        )
    if len(apart) > MOST_PAIRS:
        yield f"{len(apart) - MOST_PAIRS} more pairs of tasks pull apart, less than these."


def _noise_of_looks(told: list[float], pairs: int) -> float:
    """How far below 0 the mean of looks may come by chance, once in a hundred runs of so many pairs (Student's t)."""
    if len(told) < 3:
        return math.inf
    from scipy.stats import t  # here: a second that a list of runs does not pay

    return float(t.ppf(1 - 0.01 / pairs, len(told) - 1)) * statistics.stdev(told) / math.sqrt(len(told))


def experts(run: Run) -> dict[str, dict[str, Series]]:
    """Level -> expert -> its share of the gates' weight."""
    out: dict[str, dict[str, Series]] = {}
    for key, points in run.below("experts").items():
        level, what, *rest = key.split("/")
        if what == "load":
            out.setdefault(level, {})["/".join(rest)] = points
    return out


def _data(run: Run) -> Iterator[str]:
    for feature, points in run.below("data", "unknown").items():
        ends = thirds(points) or (0.0, points[-1][1])
        if ends[1] > UNKNOWN:
            yield (
                f"Feature {feature}: {ends[1]:.0%} of its ids are out of vocabulary, which all share one row. Rebuild "
                "its vocabulary (./launch.sh vocabulary), or hash it."
            )
    for task, points in run.below("data", "funnel_broken").items():
        rows = sum(value for _, value in points)
        yield (
            f"{task}: {rows:,.0f} rows have its label 1 and its parent's 0, so the log contradicts itself. Mend the "
            "log, or decide by data.funnel what they are."
        )
    for key, words in (
        ("data/quarantined_rows", "rows were bad and left out; quarantine/ in the output says which and why"),
        ("data/quarantined_row_groups", "row groups could not be read and were left out"),
        ("data/late_files", "files of the training days came after the run had begun; a later run can train on them"),
        ("data/drifted_files", "files have another schema than most; see data.bad.drift"),
    ):
        points = run.of(key)
        if points and points[-1][1] > 0:
            yield f"{points[-1][1]:,.0f} {words}."


def _speed(run: Run) -> Iterator[str]:
    waited = mean(run.of("train/data_wait_share"))
    if waited is not None and waited > WAIT:
        yield (
            f"Training waited for its reader {waited:.0%} of the time. More ranks or cores for reading help, and so "
            "does a log that decodes faster (./launch.sh compact)."
        )
