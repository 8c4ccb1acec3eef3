"""Which rows each task lives on and which it is trained on, from the rows' labels and indicators. No torch.

Shapes: B rows, T tasks, J indicators. All matrices are int8, 0 or 1.

    exposed   the indicators of the task and its ancestors are 1: the labels of its chain mean something
    own       and the labels of its ancestors are 1 as well: the task's conditional sample space
    trained   own (space: conditional), exposed (entire) or the task's own indicator (naive); under data.funnel drop
              less the task's positives under an ancestor's 0
"""

import numpy as np

from pipeline.data.rows import Int8, Layout
from schemas.job import JobConfig


class Spaces:
    """The spaces of one job's tasks."""

    def __init__(self, job: JobConfig) -> None:
        self._parents = job.parents
        self._parents_first = sorted(range(len(job.tasks)), key=self._depth)
        self._spaces = job.spaces
        self._binary = [task.kind == "binary" for task in job.tasks]
        own = Layout(job).indicators
        self._indicators = [own.index(task.name) if task.indicator else None for task in job.tasks]
        self._promote, self._drop = job.data.funnel == "promote", job.data.funnel == "drop"

    def exposed(self, indicator_JB: Int8) -> Int8 | None:
        """exposed_TB; None for a job without indicators, where it is 1 everywhere."""
        if not len(indicator_JB):
            return None
        exposed_TB = np.ones((len(self._parents), indicator_JB.shape[1]), np.int8)
        for task in self._parents_first:
            parent, own = self._parents[task], self._indicators[task]
            if parent is not None:
                exposed_TB[task] = exposed_TB[parent]
            if own is not None:
                exposed_TB[task] &= indicator_JB[own]
        return exposed_TB

    def funnel(self, label_TB: Int8, exposed_TB: Int8 | None) -> list[int]:
        """Counts each task's positive labels under a negative parent; policy `promote` sets the parent to 1."""
        broken_T = [0] * len(self._parents)
        # children before parents, so that a promotion climbs the whole chain
        for child in reversed(self._parents_first):
            parent = self._parents[child]
            if parent is not None and self._binary[child]:
                label_B = label_TB[child] if exposed_TB is None else label_TB[child] & exposed_TB[child]
                broken_T[child] = int(np.count_nonzero(label_B > label_TB[parent]))
                if self._promote:
                    label_TB[parent] |= label_B
        return broken_T

    def own(self, label_TB: Int8, exposed_TB: Int8 | None) -> Int8:
        """own_TB."""
        own_TB = np.ones_like(label_TB)
        for task in self._parents_first:
            parent = self._parents[task]
            if parent is not None:
                np.multiply(own_TB[parent], label_TB[parent], out=own_TB[task])
            if exposed_TB is not None:
                own_TB[task] &= exposed_TB[task]
        return own_TB

    def trained(self, label_TB: Int8, indicator_JB: Int8, exposed_TB: Int8 | None, own_TB: Int8) -> Int8:
        """trained_TB; own_TB itself where every task is trained on its own space."""
        if all(space == "conditional" for space in self._spaces):
            return own_TB
        trained_TB = own_TB.copy()
        for task, space in enumerate(self._spaces):
            if space == "conditional":
                continue
            indicator = self._indicators[task]
            exposed_B = np.ones_like(own_TB[task]) if exposed_TB is None else exposed_TB[task]
            if space == "entire":
                trained_TB[task] = exposed_B
            else:
                trained_TB[task] = 1 if indicator is None else indicator_JB[indicator]
            if self._drop and self._binary[task]:
                # a positive whose ancestors are known, and not all 1
                trained_TB[task] &= 1 - (label_TB[task] & exposed_B & (1 - own_TB[task]))
        return trained_TB

    def _depth(self, task: int) -> int:
        parent = self._parents[task]
        return 0 if parent is None else 1 + self._depth(parent)
