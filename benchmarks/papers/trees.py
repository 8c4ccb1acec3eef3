"""LightGBM on a job's own columns: what a network must be ahead of.

It reads what the job's features read: numbers as they are in the log (a bucket's column, a float's), counts and target
encodings of earlier days as the job's own encoder makes them, ids and strings as categories. A list of ids is left to
its encodings. Each task is fitted on its own space; a regression task by the squared error.

Shapes: N rows, F columns.
"""

import dataclasses
import datetime
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from sklearn.metrics import roc_auc_score

from schemas.features import BucketFeature, FloatFeature, IdFeature, StringFeature
from schemas.job import JobConfig

Float64 = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Columns:
    """Rows of some days as trees read them."""

    value_NF: Float64
    names: list[str]
    categorical: list[int]
    day_N: npt.NDArray[np.int64]
    """Each row's day, as an ordinal."""
    label_NT: Float64
    inside_NT: npt.NDArray[np.bool_]
    """Whether the row lies in the task's own space."""


def columns_of(job: JobConfig) -> Columns:
    """The rows of the job's training and evaluation days, in the order of days and files."""
    assert job.data.eval is not None
    days = [*job.data.train.days(), *job.data.eval.days()]
    history = None
    if job.history:
        from pipeline.data.history import scoring_day

        history = scoring_day(job, days[-1])
    tables = [_day(job, day) for day in days]
    day_N = np.concatenate([np.full(len(t), day.toordinal()) for t, day in zip(tables, days, strict=True)])
    columns: dict[str, Float64] = {}
    categorical = []
    whole = pa.concat_tables(tables, promote_options="default")
    for feature in job.features:
        if isinstance(feature, BucketFeature | FloatFeature):
            columns[feature.source] = _numbers(whole[feature.source])
        elif isinstance(feature, IdFeature | StringFeature):
            categorical.append(feature.source)
            columns[feature.source] = _codes(whole[feature.source])
    names = list(columns)
    parts = [np.stack(list(columns.values()), axis=1)]
    if history is not None:
        batches = [(t.combine_chunks().to_batches()[0], day) for t, day in zip(tables, days, strict=True)]
        numbers = [np.stack(history.numbers(job.history, batch, day), axis=1) for batch, day in batches]
        parts.append(np.concatenate(numbers).astype(np.float64))
        names += [feature.name for feature in job.history]
    label_NT, inside_NT = _labels(job, whole)
    places = [names.index(name) for name in categorical]
    return Columns(np.concatenate(parts, axis=1), names, places, day_N, label_NT, inside_NT)


def _day(job: JobConfig, day: datetime.date) -> pa.Table:
    return ds.dataset(f"{job.data.path}/dt={day}", format="parquet").to_table(job.columns)


def _numbers(column: pa.ChunkedArray) -> Float64:
    return np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)  # a null becomes NaN: trees have a place for it


def _codes(column: pa.ChunkedArray) -> Float64:
    """A number a distinct value, by falling frequency; a null is a value of its own."""
    filled = pc.fill_null(column.cast(pa.string()), "null")
    codes = filled.combine_chunks().dictionary_encode().indices.to_numpy()
    rank = np.empty(codes.max() + 1, np.int64)
    rank[np.argsort(-np.bincount(codes), kind="stable")] = np.arange(len(rank))
    return rank[codes].astype(np.float64)


def _labels(job: JobConfig, table: pa.Table) -> tuple[Float64, npt.NDArray[np.bool_]]:
    """The labels, clipped as declared, and each task's own space."""
    raw = [_numbers(table[task.source]) for task in job.tasks]
    labels = [np.clip(y, *task.clip) if task.clip else y for y, task in zip(raw, job.tasks, strict=True)]
    inside = []
    for place, task in enumerate(job.tasks):
        parent, within = job.parents[place], np.ones(len(table), bool)
        if parent is not None:
            within = inside[parent] & (labels[parent] == 1)  # parents stand before their children here
        if task.indicator:
            within = within & (_numbers(table[task.indicator]) == 1)
        inside.append(within)
    return np.stack(labels, axis=1), np.stack(inside, axis=1)


def fitted(
    columns: Columns,
    job: JobConfig,
    task: int,
    held_out: npt.NDArray[np.bool_],
    choices: list[dict[str, Any]],
    seeds: int,
    most: int,
) -> dict[str, Any]:
    """The settings and rounds found on `held_out` training rows, and by seed the metric on the evaluation days.

    The metric is the AUC, or the MSE of a regression task. Of the choices that one is taken whose metric on the
    held-out rows is best after a fit on the other training rows, with the number of rounds of least loss, up to
    `most`; then each seed is fitted on all training rows with so many.
    """
    assert job.data.eval is not None
    regression = job.tasks[task].kind == "regression"
    trained = (columns.day_N <= job.data.train.last.toordinal()) & columns.inside_NT[:, task]
    scored = (columns.day_N >= job.data.eval.first.toordinal()) & columns.inside_NT[:, task]
    x, y = columns.value_NF, columns.label_NT[:, task]
    first, second = trained & ~held_out, trained & held_out
    found = []
    for settings in choices:
        model = _model(regression, settings, most, seed=0)
        # by the loss: where many rounds hardly move an AUC, a hundred may pass before it rises again
        stop = lightgbm.early_stopping(100, verbose=False)
        model.fit(
            x[first],
            y[first],
            eval_X=x[second],
            eval_y=y[second],
            categorical_feature=columns.categorical,
            callbacks=[stop],
        )
        metric = _metric(_predicted(model, x[second], regression), y[second], regression)
        found.append((metric if regression else -metric, len(found), max(1, model.best_iteration_)))
    _, chosen, rounds = min(found)
    values = []
    for seed in range(seeds):
        model = _model(regression, choices[chosen], rounds, seed)
        model.fit(x[trained], y[trained], categorical_feature=columns.categorical)
        values.append(_metric(_predicted(model, x[scored], regression), y[scored], regression))
    return {"settings": choices[chosen], "rounds": rounds, "values": values}


def _model(regression: bool, settings: dict[str, Any], rounds: int, seed: int) -> Any:
    kind = lightgbm.LGBMRegressor if regression else lightgbm.LGBMClassifier
    common = {"num_threads": 1, "verbose": -1, "subsample": 0.9, "subsample_freq": 1}
    return kind(n_estimators=rounds, random_state=seed, **common, **settings)


def _predicted(model: Any, value_NF: Float64, regression: bool) -> Float64:
    return np.asarray(model.predict(value_NF) if regression else model.predict_proba(value_NF)[:, 1])


def _metric(predicted: Float64, label_N: Float64, regression: bool) -> float:
    if regression:
        return float(np.square(predicted - label_N).mean())
    return float(roc_auc_score(label_N, predicted))
