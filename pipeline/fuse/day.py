"""Rows of some days as a fused score sees them: logarithms of its factors, and users' lists with their labels.

Shapes: N rows, K factors, T binary tasks.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from pipeline.chain import chains
from pipeline.evaluate.rows import list_codes, number_column, predictions_of
from pipeline.fusion import log_factors
from pipeline.lists import Lists, Measured, Ranked
from pipeline.train.scoring import ToScore
from schemas.errors import InputError
from schemas.fuse import FuseConfig, Objective
from schemas.fusion import FusionConfig

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Labels:
    """A task's lists: the exposures that its label means something on."""

    task: str
    row_M: npt.NDArray[np.int64] | None
    """Its rows; None = all."""
    lists: Lists
    label_M: Mask
    """Whether the whole chain's labels are 1."""


class Day:
    """The rows of some days."""

    def __init__(self, model: ToScore, fusion: FusionConfig, config: FuseConfig, out: str) -> None:
        """Raises InputError where a task has no list to be measured by."""
        own, found = model.job, predictions_of(model, out)
        assert own.data.eval is not None
        self.days = own.data.eval
        column_N = None
        if fusion.factor is not None:
            column_N = number_column(model, fusion.factor, found.row_N)
        self.log_NK = log_factors(fusion.model_dump(mode="json"), own.outputs, found.logit_TN.T, column_N)
        code_N = list_codes(model, config.by, found.row_N, "fuse.by")
        lists, up = Lists(code_N), chains(own.parents)
        self.labels: list[Labels] = []
        for task, spec in enumerate(own.tasks):
            if spec.kind != "binary":
                continue
            label_N: Mask = np.all(found.label_TN[up[task]] > 0.5, axis=0)
            row_M = None if found.exposed_TN is None else np.flatnonzero(found.exposed_TN[task])
            if row_M is None or len(row_M) == len(code_N):
                self.labels.append(Labels(spec.name, None, lists, label_N))
            else:
                own_lists = Lists(np.unique(code_N[row_M], return_inverse=True)[1])
                self.labels.append(Labels(spec.name, row_M, own_lists, label_N[row_M]))
        self._objective = config.objective
        self.rows, self.lists = len(code_N), lists.lists
        alone = self.measured(np.ones(self.log_NK.shape[1]))
        for name in (config.objective.task, *config.floors):
            if alone[name].value is None:
                raise InputError(
                    f"fuse: no list of the days {self.days.first} to {self.days.last} by '{config.by}' measures task "
                    f"'{name}' (none has {'a positive label' if config.objective.measure == 'ndcg' else 'both classes'}"
                    "); name more days, or another column in fuse.by"
                )

    @property
    def tasks(self) -> list[str]:
        """Those that are measured."""
        return [each.task for each in self.labels]

    def measured(self, weight_K: Float64) -> dict[str, Measured]:
        """The measure of each task, of the lists in the order of the score with these weights."""
        score_N = self.log_NK @ weight_K
        ranked = self.labels[0].lists.ranked(score_N)
        out = {}
        for each in self.labels:
            own = ranked if each.row_M is None else each.lists.ranked(score_N[each.row_M])
            out[each.task] = measure(self._objective, own, each.label_M)
        return out

    def values(self, weight_K: Float64) -> Float64:
        """The same as numbers, in the order of the tasks; NaN where no list counts."""
        return np.array([np.nan if m.value is None else m.value for m in self.measured(weight_K).values()])


def measure(objective: Objective, ranked: Ranked, label_M: Mask) -> Measured:
    """NDCG@k or GAUC of an order."""
    return ranked.gauc(label_M) if objective.measure == "gauc" else ranked.ndcg(label_M, objective.k)


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far one order is ahead of another, by the lists that both count."""

    value: float
    low: float
    high: float
    """Ends of its 95 % interval, lists taken as independent."""


def difference(one: Measured, other: Measured) -> Difference | None:
    """`one` less `other`; None below two lists."""
    both_L = ~(np.isnan(one.value_L) | np.isnan(other.value_L))
    if both_L.sum() < 2:
        return None
    weight_L = one.weight_L[both_L] / one.weight_L[both_L].sum()
    delta_L = one.value_L[both_L] - other.value_L[both_L]
    value = float((weight_L * delta_L).sum())
    lists = len(delta_L)
    error = np.sqrt(float((np.square(weight_L * (delta_L - value))).sum()) * lists / (lists - 1))
    return Difference(value, value - 1.959963984540054 * error, value + 1.959963984540054 * error)
