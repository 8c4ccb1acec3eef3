"""Predictions -> metrics: those of training, and beside them GAUC, PR-AUC and the calibration's curve.

Shapes: N rows, T tasks, M rows of a task's space, G groups of rows of equal score.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pipeline.chain import chains
from pipeline.fusion import joint_log_probability, log_sigmoid
from pipeline.lists import Lists
from pipeline.metrics import Metrics, MetricWindow
from pipeline.predictions import Predictions
from pipeline.train.result import task_results
from schemas.job import JobConfig

BINS = 10
"""Points of a calibration's curve."""
Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def training_metrics(job: JobConfig, found: Predictions, mask_N: Mask | None = None) -> Metrics:
    """Exactly what training's evaluation of these rows says, all of them or those of the mask."""
    window = MetricWindow(
        [task.name for task in job.tasks],
        job.parents,
        torch.device("cpu"),
        links=job.links,
        regression=[k for k, task in enumerate(job.tasks) if task.kind == "regression"],
        exposures=found.exposed_TN is not None,
    )

    def rows(x_TN: npt.NDArray[Any]) -> torch.Tensor:
        x_NT = x_TN.T if mask_N is None else x_TN[:, mask_N].T
        return torch.from_numpy(np.ascontiguousarray(x_NT))

    exposed = None if found.exposed_TN is None else rows(found.exposed_TN)
    window.update(rows(found.logit_TN), rows(found.label_TN), rows(found.space_TN), exposed)
    metrics = window.compute()
    assert metrics is not None, "there is no process group"
    return metrics


class Spaces:
    """Each task's own space and the exposures, with what is predicted there."""

    def __init__(self, job: JobConfig, found: Predictions) -> None:
        self.job, self._found = job, found
        self._chains = chains(job.parents)
        self._joint_NT = joint_log_probability(found.logit_TN.T, job.links)

    def own(self, task: int) -> tuple[Mask, Mask, Float64, Float64]:
        """Rows, labels, scores and log probabilities of the task's own space; all [N]."""
        logit_N = self._found.logit_TN[task].astype(np.float64)
        return self._found.space_TN[task], self._found.label_TN[task] > 0.5, logit_N, log_sigmoid(logit_N)

    def joint(self, task: int) -> tuple[Mask, Mask, Float64, Float64]:
        """The same of the task's joint probability over all exposures."""
        chain, found = self._chains[task], self._found
        exposed_N = found.space_TN[chain[-1]] if found.exposed_TN is None else found.exposed_TN[task]
        log_p_N = self._joint_NT[:, task]
        label_N: Mask = np.all(found.label_TN[chain] > 0.5, axis=0)
        return exposed_N, label_N, log_p_N, log_p_N


def measured(
    job: JobConfig, found: Predictions, spaces: Spaces, code_N: npt.NDArray[np.int64], mask_N: Mask | None = None
) -> tuple[Metrics, dict[str, Any]]:
    """Training's metrics, and all of them by task as plain data, of all rows or those of the mask."""
    metrics = training_metrics(job, found, mask_N)
    told = task_results(job, metrics, {})
    for task, spec in enumerate(job.tasks):
        if spec.kind == "regression":
            continue
        kinds = [("own", spaces.own(task))]
        kinds += [("joint", spaces.joint(task))] if spec.name in metrics.joint else []
        for kind, (rows_N, label_N, score_N, log_p_N) in kinds:
            at_M = np.flatnonzero(rows_N if mask_N is None else rows_N & mask_N)
            told[spec.name][kind] |= more_metrics(label_N[at_M], score_N[at_M], log_p_N[at_M], code_N[at_M])
    return metrics, told


def more_metrics(label_M: Mask, score_M: Float64, log_p_M: Float64, code_M: npt.NDArray[np.int64]) -> dict[str, Any]:
    """What training does not measure: GAUC over lists, PR-AUC, and the curve of the calibration."""
    _, code_M = np.unique(code_M, return_inverse=True)
    gauc = Lists(code_M).ranked(score_M).gauc(label_M)
    return {
        "gauc": gauc.value,
        "gauc_lists": gauc.lists,
        "gauc_lists_left_out": gauc.left_out,
        "pr_auc": average_precision(label_M, score_M),
        "curve": calibration_curve(label_M, np.exp(log_p_M)),
    }


def average_precision(label_M: Mask, score_M: Float64) -> float | None:
    """Area under the precision-recall curve: sum over scores of (recall's rise) x precision; None without positives."""
    positives = int(label_M.sum())
    if not positives:
        return None
    order_M = np.argsort(-score_M, kind="stable")
    score_M, label_M = score_M[order_M], label_M[order_M]
    end_G = np.append(np.flatnonzero(score_M[1:] != score_M[:-1]), len(score_M) - 1)
    hit_G = np.cumsum(label_M)[end_G]
    return float((np.diff(hit_G, prepend=0) / positives * hit_G / (end_G + 1)).sum())


def calibration_curve(label_M: Mask, p_M: Float64) -> list[dict[str, float]]:
    """Rows in the order of their probability in equal parts: how many, mean prediction, mean label."""
    order_M = np.argsort(p_M, kind="stable")
    parts = [part for part in np.array_split(order_M, BINS) if len(part)]
    return [
        {"rows": len(part), "prediction": float(p_M[part].mean()), "label": float(label_M[part].mean())}
        for part in parts
    ]
