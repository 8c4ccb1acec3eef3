"""Logits -> probabilities -> one fused score a row, in float64. numpy alone: it runs wherever a model does.

    score = prod_k p_k^w_k * f(v)^w        computed and returned as its logarithm

`fusion` is a FusionConfig as plain data, `tasks` what schemas/fusion.py `task_outputs` tells of each task. Every log is
kept at LEAST or above, so that the score of a probability or of a factor of 0 is finite, whatever the weights.

Shapes: N rows, T tasks, K factors of a score.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
LEAST = -700.0
"""The least logarithm of a factor, that of 1e-304: what is below counts like it."""


def log_sigmoid(logit_N: npt.NDArray[Any]) -> Float64:
    """log(1 / (1 + exp(-x))), exact to float64 at both ends."""
    x_N = np.asarray(logit_N, np.float64)
    return np.minimum(x_N, 0.0) - np.log1p(np.exp(-np.abs(x_N)))


def joint_log_probability(logit_NT: npt.NDArray[Any], links: Sequence[int | None]) -> Float64:
    """Log of the product of the probabilities up each task's chain: log_NT, summed from the root down.

    `links[k]` is the index of the task whose joint probability task k's own is multiplied with, None for none.
    """
    own_NT = log_sigmoid(logit_NT)
    out_NT = np.empty_like(own_NT)
    for task in range(len(links)):
        chain, above = [task], links[task]
        while above is not None:
            chain.append(above)
            above = links[above]
        total_N = own_NT[:, chain[-1]].copy()
        for each in chain[-2::-1]:
            total_N += own_NT[:, each]
        out_NT[:, task] = total_N
    return out_NT


def outputs(tasks: Sequence[Mapping[str, Any]], logit_NT: npt.NDArray[Any]) -> dict[str, Float64]:
    """What a row is told of each task: columns `p.TASK` and `joint.TASK`, or `value.TASK`, of N rows each.

    A value is clipped as its label was in training.
    """
    joint_NT = joint_log_probability(logit_NT, [task["link"] for task in tasks])
    out: dict[str, Float64] = {}
    for at, task in enumerate(tasks):
        if task["kind"] == "binary":
            out[f"p.{task['name']}"] = np.exp(log_sigmoid(logit_NT[:, at]))
            out[f"joint.{task['name']}"] = np.exp(joint_NT[:, at])
        else:
            out[f"value.{task['name']}"] = _clipped(task, logit_NT[:, at])
    return out


def log_factors(
    fusion: Mapping[str, Any],
    tasks: Sequence[Mapping[str, Any]],
    logit_NT: npt.NDArray[Any],
    column_N: npt.NDArray[Any] | None = None,
) -> Float64:
    """Logarithm of each factor before its weight, log_NK: the terms in their order, then the column's.

    `column_N` holds the numbers of `fusion.factor.column`, finite ones. Raises ValueError where they are missing.
    """
    place = {task["name"]: at for at, task in enumerate(tasks)}
    joint_NT = joint_log_probability(logit_NT, [task["link"] for task in tasks])
    columns = []
    for term in fusion["terms"]:
        at = place[term["task"]]
        if tasks[at]["kind"] == "regression":
            columns.append(_log_mapped(term, _clipped(tasks[at], logit_NT[:, at])))
        elif term.get("probability") == "joint":
            columns.append(joint_NT[:, at])
        else:
            columns.append(log_sigmoid(logit_NT[:, at]))
    factor = fusion.get("factor")
    if factor is not None:
        if column_N is None:
            raise ValueError(f"the fused score reads column '{factor['column']}', and it is not given")
        columns.append(_log_mapped(factor, np.asarray(column_N, np.float64)))
    return np.maximum(np.stack(columns, axis=1), LEAST)


def weights(fusion: Mapping[str, Any]) -> list[float]:
    """The exponent of each column of `log_factors`."""
    factor = fusion.get("factor")
    return [term.get("weight", 1.0) for term in fusion["terms"]] + ([factor.get("weight", 1.0)] if factor else [])


def fused_log_score(
    fusion: Mapping[str, Any],
    tasks: Sequence[Mapping[str, Any]],
    logit_NT: npt.NDArray[Any],
    column_N: npt.NDArray[Any] | None = None,
) -> Float64:
    """Logarithm of each row's score, finite for finite logits; a larger one comes first in a list."""
    log_NK = log_factors(fusion, tasks, logit_NT, column_N)
    # factor by factor and not as a matrix product: a row's score does not depend on the rows beside it
    out_N = np.zeros(len(log_NK))
    for log_N, weight in zip(log_NK.T, weights(fusion), strict=True):
        out_N += weight * log_N
    return out_N


def _clipped(task: Mapping[str, Any], value_N: npt.NDArray[Any]) -> Float64:
    x_N = np.asarray(value_N, np.float64)
    return x_N if task.get("clip") is None else np.clip(x_N, *task["clip"])


def _log_mapped(how: Mapping[str, Any], x_N: Float64) -> Float64:
    """log f(x) of the declared map."""
    if how["map"] == "sigmoid":
        return log_sigmoid((x_N - how.get("center", 0.0)) / how.get("scale", 1.0))
    positive_N = np.maximum(x_N, 0.0)
    if how["map"] == "log1p":
        positive_N = np.log1p(positive_N)
    with np.errstate(divide="ignore"):
        log_N = np.log(positive_N)
    return log_N / 2 if how["map"] == "sqrt" else log_N
