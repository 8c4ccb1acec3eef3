"""The rule: a task that loses more than is tolerated, and not by chance, blocks.

A comparison is `worse` where delta > tolerance and delta - c x error > 0, both. The critical value c is common to all
comparisons that judge: the largest studentised deviation of any of them, max (delta_b - delta) / error, stays below c
in the declared share of resamples (Westfall and Young 1993; Romano and Wolf 2005). So of challengers that are worse
nowhere the declared share passes, however many comparisons there are and however they depend on each other.

Shapes: J comparisons, B resamples.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import stats

from pipeline.data.hashing import mix
from pipeline.data.value_counts import hash64
from pipeline.gate.compare import Measured, Users, auc_of, measured, undefined
from pipeline.gate.record import ALL, OWN, Comparison, Floor, Verdict, Word
from pipeline.gate.samples import Model, Sample, same_rows, samples
from pipeline.gate.words import floor_sentence, listed, worse_sentence
from pipeline.predictions import Predictions
from schemas.daily import GateConfig, check_gate
from schemas.job import JobConfig

POWER = float(stats.norm.ppf(0.8))
"""Standard errors beyond what is needed at which 80 % of the deltas are seen."""
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def judge(
    job: JobConfig,
    gate: GateConfig,
    champion: Predictions | None,
    challenger: Predictions,
    slices: Mapping[str, Mask],
    user_N: npt.NDArray[Any],
    seed: int,
    *,
    champion_job: JobConfig | None = None,
) -> Verdict:
    """The verdict on a challenger that was trained by `job`; without a champion, by its floors alone.

    `slices` are masks of the held-out rows by name, `user_N` integers or strings that tell users apart. `champion_job`
    is what the champion was trained by, where that is another.

    Raises InputError where the two were not predicted on the same rows, or a key of the gate names no task.
    """
    _check(job, gate, challenger, slices, user_N)
    new = Model(job, challenger)
    old = None
    if champion is not None:
        same_rows(champion, challenger)
        old = Model(champion_job or _job_of(job, champion), champion)
    users = _users(user_N)
    found: list[Measured] = []
    floors: list[Floor] = []
    for sample in samples(old, new, slices):
        if sample.space == OWN and sample.slice == ALL and sample.task in gate.floors:
            floors.append(_floor(sample, gate.floors[sample.task]))
        found += measured(sample, gate, users, seed)
    critical, comparisons = _judged(found, gate)
    return _verdict(gate, old, new, comparisons, floors, critical)


def _check(
    job: JobConfig, gate: GateConfig, challenger: Predictions, slices: Mapping[str, Mask], user_N: npt.NDArray[Any]
) -> None:
    check_gate(gate, job.tasks)
    rows = len(challenger.row_N)
    assert ALL not in slices, "refused as the name of one"
    lengths = {"user_N": len(user_N), **{f"slice '{name}'": len(mask_N) for name, mask_N in slices.items()}}
    for what, length in lengths.items():
        if length != rows:
            raise ValueError(f"{what} is of {length} rows, the predictions of {rows}")


def _job_of(job: JobConfig, champion: Predictions) -> JobConfig:
    """The job less the tasks that the champion does not predict, and less those below them."""
    kept: list[Any] = []
    for task in sorted(job.tasks, key=lambda task: _depth(job, task.name)):
        if task.name in champion.tasks and (task.given is None or task.given in [other.name for other in kept]):
            kept.append(task)
    return job.model_copy(update={"tasks": [task for task in job.tasks if task in kept]})


def _depth(job: JobConfig, name: str) -> int:
    given = {task.name: task.given for task in job.tasks}[name]
    return 0 if given is None else 1 + _depth(job, given)


def _users(user_N: npt.NDArray[Any]) -> Users:
    """Numbers and hashes of the users; their order in the log changes nothing."""
    values = pa.array(user_N)
    coded = values.dictionary_encode()
    distinct = coded.dictionary.cast(pa.int64() if pa.types.is_integer(values.type) else pa.large_string())
    return Users(coded.indices.cast(pa.int64()).to_numpy(), mix(hash64(distinct)))


def _floor(sample: Sample, floor: float) -> Floor:
    return Floor(sample.task, floor, auc_of(sample.challenger, sample.label_M), int(sample.label_M.sum()))


def _judged(found: Sequence[Measured], gate: GateConfig) -> tuple[float | None, list[Comparison]]:
    """The critical value, and every comparison with its verdict."""
    open_places = [i for i, each in enumerate(found) if each.delta_B is not None and not undefined(each.delta_B)]
    error = {i: float(np.nanstd(np.asarray(found[i].delta_B), ddof=1)) for i in open_places}
    critical = _critical(found, error, gate.confidence) if open_places else None
    out = []
    for i, each in enumerate(found):
        told = each.told
        if i in error:
            assert critical is not None
            told = _with_interval(told, error[i], critical)
        elif each.delta_B is not None:
            told = dataclasses.replace(told, note="too many resamples lack a class, or are without bound")
        out.append(told)
    return critical, out


def _critical(found: Sequence[Measured], error: Mapping[int, float], confidence: float) -> float:
    """The common critical value; one without noise has no part in it, and if none has any it is the normal's."""
    largest_B: Floats | None = None
    for i, standard in error.items():
        if standard > 0:
            deviation_B = (np.asarray(found[i].delta_B) - _delta(found[i].told)) / standard
            largest_B = deviation_B if largest_B is None else np.fmax(largest_B, deviation_B)
    if largest_B is None:
        return float(stats.norm.ppf(confidence))
    return float(np.quantile(largest_B[~np.isnan(largest_B)], confidence, method="higher"))


def _delta(told: Comparison) -> float:
    assert told.delta is not None
    return told.delta


def _with_interval(told: Comparison, error: float, critical: float) -> Comparison:
    delta, margin = _delta(told), critical * error
    word: Word = "level"
    if delta > told.tolerance:
        word = "worse" if delta - margin > 0 else "unsure"
    elif delta + margin < 0:
        word = "better"
    return dataclasses.replace(
        told,
        error=error,
        low=delta - margin,
        high=delta + margin,
        detectable=max(told.tolerance, margin) + POWER * error,
        verdict=word,
    )


def _verdict(
    gate: GateConfig,
    old: Model | None,
    new: Model,
    comparisons: list[Comparison],
    floors: list[Floor],
    critical: float | None,
) -> Verdict:
    strict = gate.unsure == "refuse"
    blocking = [c for c in comparisons if c.verdict == "worse" or (strict and c.verdict == "unsure")]
    passed = [c for c in comparisons if c.verdict == "unsure" and not strict]
    reasons = [worse_sentence(c, comparisons, gate.confidence) for c in blocking]
    reasons += [floor_sentence(floor) for floor in floors if not floor.met]
    notes = [f"let pass, since it may be noise (daily.gate.unsure is pass): {listed(passed)}"] if passed else []
    if old is not None:
        notes += _strangers(old, new)
        of_all = [c for c in comparisons if c.slice == ALL and c.space == OWN and c.task in old.names]
        silent = {c.task: c.note for c in of_all if not c.judges}
        notes += [f"{name} was not judged: {note}" for name, note in silent.items()]
        if not any(c.judges for c in comparisons):
            reasons.append(
                "nothing could be compared: the held-out rows are too few, or the models have no task in common; hold "
                "out more (data.holdout.share), or lower daily.gate.min_positives"
            )
    elif not floors:
        notes.append("no champion and no daily.gate.floors: nothing was judged")
    return Verdict(not reasons, reasons, comparisons, floors, notes, critical, gate.confidence, gate.resamples, strict)


def _strangers(old: Model, new: Model) -> list[str]:
    out = [f"{name} is new: held to its floor alone, if it has one" for name in new.names if name not in old.names]
    return out + [f"{name} is the champion's alone: not judged" for name in old.names if name not in new.names]
