"""Two models' predictions -> what is compared: each task on its own space and jointly, on all rows and on each slice.

Shapes: N held-out rows, T tasks, M rows of a sample.

The spaces and the joint probability are those of training's metrics (metrics.py, chain.py).
"""

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from pipeline.chain import chains, joint_log_probability, log1mexp
from pipeline.gate.record import ALL, JOINT, OWN
from pipeline.predictions import Predictions
from schemas.errors import InputError
from schemas.job import JobConfig

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Side:
    """One model's predictions of a sample."""

    score_M: Floats
    """What AUC ranks by, or the values of a regression task."""
    loss_M: Floats
    """Negative log likelihood, or squared error."""
    p_M: Floats
    """Probability; the values once more for a regression task."""

    @property
    def nan(self) -> int:
        """Rows that are predicted to be NaN."""
        return int(np.isnan(self.score_M).sum())


@dataclasses.dataclass(frozen=True)
class Sample:
    """The rows of one task in one space on one slice, as both models predict them."""

    task: str
    space: str
    slice: str
    binary: bool
    row_M: npt.NDArray[np.int64]
    """Places among the held-out rows."""
    label_M: Floats
    champion: Side | None
    """None where there is no champion that predicts it."""
    challenger: Side


def same_rows(champion: Predictions, challenger: Predictions) -> None:
    """Raises InputError where the two were not predicted on the same rows, with the same labels and spaces."""
    remedy = "score both models again on the day's frozen rows"
    if not np.array_equal(champion.row_N, challenger.row_N):
        shared = len(np.intersect1d(champion.row_N, challenger.row_N, assume_unique=True))
        raise InputError(
            f"predictions: the champion's {len(champion.row_N):,} rows and the challenger's "
            f"{len(challenger.row_N):,} are not the same ({shared:,} are); {remedy}"
        )
    for name in challenger.tasks:
        if name not in champion.tasks:
            continue
        a, b = champion.tasks.index(name), challenger.tasks.index(name)
        kinds = [("labels", champion.label_TN[a], challenger.label_TN[b])]
        kinds += [("spaces", champion.space_TN[a], challenger.space_TN[b])]
        if champion.exposed_TN is not None and challenger.exposed_TN is not None:
            kinds += [("exposures", champion.exposed_TN[a], challenger.exposed_TN[b])]
        for what, one_N, other_N in kinds:
            same_N = one_N == other_N
            if what == "labels":
                same_N |= np.isnan(one_N) & np.isnan(other_N)
            if not same_N.all():
                raise InputError(
                    f"predictions of task '{name}': {what} of {int((~same_N).sum()):,} of {len(same_N):,} rows are not "
                    f"the same on both sides; {remedy}, or give a task whose label, indicator or 'given' changed "
                    "another name, so that it counts as new"
                )


class Model:
    """One side's predictions, by the names of its tasks."""

    def __init__(self, job: JobConfig, predictions: Predictions) -> None:
        """`job` is the one that the model was trained by; raises InputError for tasks that are not its own."""
        names = [task.name for task in job.tasks]
        if missing := [name for name in names if name not in predictions.tasks]:
            raise InputError(
                f"predictions: tasks {', '.join(missing)} of the job are not among {', '.join(predictions.tasks)}; "
                "score the model again"
            )
        self.job, self.names, self._of = job, names, predictions
        self._place = [predictions.tasks.index(name) for name in names]
        self._chains = chains(job.parents)
        # what is no link stays a number, whatever it is
        logits_NT = torch.from_numpy(np.ascontiguousarray(predictions.logit_TN[self._place].T)).double()
        self._log_p_TN: Floats = joint_log_probability(logits_NT, job.links).T.contiguous().numpy()

    def chain(self, task: str) -> list[str]:
        """The task, its parent, and so on up."""
        return [self.names[t] for t in self._chains[self.names.index(task)]]

    def own_rows(self, task: str) -> Mask:
        """Rows of the task's own space, [N]."""
        return self._of.space_TN[self._at(task)]

    def joint_rows(self, task: str) -> Mask:
        """Exposures whose labels up the task's chain mean something, [N]."""
        if self._of.exposed_TN is not None:
            return self._of.exposed_TN[self._at(task)]
        return self._of.space_TN[self._at(self.chain(task)[-1])]

    def labels(self, task: str, space: str) -> Floats:
        """Labels of all rows, [N]: 0 or 1, those of the whole chain where `space` is joint, or a number."""
        if self.job.tasks[self.names.index(task)].kind == "regression":
            return self._of.label_TN[self._at(task)].astype(np.float64)
        chain = self.chain(task) if space == JOINT else [task]
        return np.all([self._of.label_TN[self._at(name)] > 0.5 for name in chain], axis=0).astype(np.float64)

    def side(self, task: str, space: str, row_M: npt.NDArray[np.int64], label_M: Floats) -> Side:
        """What the model predicts of these rows."""
        place = self.names.index(task)
        if space == JOINT:
            score = log_p = torch.from_numpy(self._log_p_TN[place][row_M])
            log_q = log1mexp(log_p)
        else:
            score = torch.from_numpy(self._of.logit_TN[self._at(task)][row_M].astype(np.float64))
            if self.job.tasks[place].kind == "regression":
                value_M = score.numpy()
                return Side(value_M, np.square(value_M - label_M), value_M)
            log_p, log_q = F.logsigmoid(score), F.logsigmoid(-score)
        loss = -torch.where(torch.from_numpy(label_M) > 0.5, log_p, log_q)
        return Side(score.numpy(), loss.numpy(), log_p.exp().numpy())

    def _at(self, task: str) -> int:
        return self._place[self.names.index(task)]


def samples(champion: Model | None, challenger: Model, slices: Mapping[str, Mask]) -> Iterator[Sample]:
    """Every sample, all rows first; the challenger's tasks in their order, each task's joint probability after its own.

    A task that the champion does not have, or a joint probability up another chain, has no champion's side.
    """
    whole_N = np.ones(len(challenger._of.row_N), np.bool_)
    for name, slice_N in {ALL: whole_N, **slices}.items():
        for spec, parent in zip(challenger.job.tasks, challenger.job.parents, strict=True):
            binary = spec.kind == "binary"
            for space in (OWN, JOINT) if binary and parent is not None else (OWN,):
                rows_N = challenger.own_rows(spec.name) if space == OWN else challenger.joint_rows(spec.name)
                row_M = np.flatnonzero(rows_N & slice_N)
                label_M = challenger.labels(spec.name, space)[row_M]
                side = challenger.side(spec.name, space, row_M, label_M)
                other = None
                if champion is not None and comparable(champion, challenger, spec.name, space):
                    other = champion.side(spec.name, space, row_M, label_M)
                yield Sample(spec.name, space, name, binary, row_M, label_M, other, side)


def comparable(champion: Model, challenger: Model, task: str, space: str) -> bool:
    """Whether the champion predicts the same thing under this name."""
    if task not in champion.names:
        return False
    kinds = {model.job.tasks[model.names.index(task)].kind for model in (champion, challenger)}
    return len(kinds) == 1 and (space == OWN or champion.chain(task) == challenger.chain(task))
