"""Held-out rows with two models' predictions of them, drawn from a known truth: what the gate's tests judge."""

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.gate.resample import Ranking
from pipeline.predictions import Predictions
from schemas.job import JobConfig
from schemas.load import load_job

ROOT = Path(__file__).parents[1]
TASKS = ["click", "cart", "fav", "order"]
BASE = np.array([-1.0, -1.0, -1.3, -1.8])
"""Logits of the tasks' base rates, a child's given a click."""
Floats = npt.NDArray[np.float64]


def generated_job(**changes: object) -> JobConfig:
    """The packaged job: click, and cart, fav and order given click."""
    return load_job(str(ROOT / "jobs/configs/generated.yaml")).model_copy(update=changes)


@dataclasses.dataclass(frozen=True)
class Exposures:
    """Rows, whose they are, and the true logits of their tasks."""

    user_N: npt.NDArray[np.int64]
    logit_TN: Floats
    label_TN: npt.NDArray[np.float32]
    rng: np.random.Generator

    def predicted(self, noise: float | list[float] = 0.0, bias: float = 0.0, scale: float = 1.0) -> Predictions:
        """A model that knows the true logits but for noise of this deviation, one number or one a task."""
        deviation_T = np.broadcast_to(np.asarray(noise, np.float64), len(TASKS))
        logit_TN = scale * self.logit_TN + bias
        logit_TN = logit_TN + deviation_T[:, None] * self.rng.normal(size=logit_TN.shape)
        click_N = self.label_TN[0] > 0
        space_TN = np.stack([np.ones_like(click_N), click_N, click_N, click_N])
        row_N = 3 * np.arange(len(self.user_N), dtype=np.int64) + 1
        return Predictions(row_N, list(TASKS), logit_TN.astype(np.float32), self.label_TN, space_TN, None)


def drawn(seed: int, users: int = 2000, rows_a_user: float = 5.0, of_user: float = 0.5) -> Exposures:
    """Exposures of users who differ: `of_user` is the deviation of what a user's logits have in common."""
    rng = np.random.default_rng(seed)
    count_U = 1 + rng.poisson(rows_a_user - 1, users)
    user_N = rng.permutation(np.repeat(np.arange(users), count_U))
    tasks, rows = len(TASKS), len(user_N)
    shared_N = rng.normal(size=rows)  # what all tasks have in common, so that comparisons depend on each other
    logit_TN = BASE[:, None] + 0.7 * shared_N + 0.7 * rng.normal(size=(tasks, rows))
    logit_TN += of_user * rng.normal(size=users)[user_N]
    label_TN = (rng.random((tasks, rows)) < 1 / (1 + np.exp(-logit_TN))).astype(np.float32)
    label_TN[1:] *= label_TN[0]
    return Exposures(1000 + 7 * user_N, logit_TN, label_TN, rng)


def auc_of_task(model: Predictions, task: str) -> float:
    """AUC of one task on its own space."""
    at = model.tasks.index(task)
    own_N = model.space_TN[at]
    score_M, positive_M = model.logit_TN[at][own_N].astype(np.float64), model.label_TN[at][own_N] > 0.5
    return float(Ranking(score_M, positive_M, np.zeros(len(score_M), np.int64), 1).auc(np.ones((1, 1), np.int32))[0])


def planted(model: Predictions, task: str, loss: float, seed: int) -> Predictions:
    """The same predictions but for noise on one task's logits: its AUC on its own space is lower by `loss`."""
    at = model.tasks.index(task)
    noise_N = np.random.default_rng([seed, at]).normal(size=model.logit_TN.shape[1]).astype(np.float32)

    def noisy(scale: float) -> Predictions:
        logit_TN = model.logit_TN.copy()
        logit_TN[at] += np.float32(scale) * noise_N
        return dataclasses.replace(model, logit_TN=logit_TN)

    whole, low, high = auc_of_task(model, task), 0.0, 4.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if whole - auc_of_task(noisy(middle), task) < loss else (low, middle)
    return noisy(high)
