"""Logits -> calibrated logits, a map a task, found on held-out rows of the task's own space.

Shapes: N rows, T tasks.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


def calibrated(logit_NT: npt.NDArray[Any], tasks: Sequence[Mapping[str, Any]], maps: Mapping[str, Any]) -> Float64:
    """The logits, those of tasks that have a map through it."""
    out_NT: Float64 = np.array(logit_NT, np.float64)
    for at, task in enumerate(tasks):
        how = maps.get(task["name"])
        if how is not None:
            out_NT[:, at] = mapped(how, out_NT[:, at])
    return out_NT


def mapped(how: Mapping[str, Any], logit_N: Float64) -> Float64:
    """platt: slope * x + intercept (Platt 1999). isotonic: on a rising line (Zadrozny and Elkan 2002)."""
    if how["method"] == "platt":
        return how["slope"] * logit_N + how["intercept"]
    return np.interp(logit_N, how["from"], how["to"])
