"""The search for weights: points spread evenly over all proportions, the best of them refined by Nelder and Mead.

Lists are ordered by the proportions of the weights alone, so the tasks' weights, none below 0, always add up to their
number: equal ones are 1 each. The weight of the column's factor lies between -FACTOR and FACTOR beside them.

Shapes: K factors, T tasks, P trials.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.stats import qmc

Float64 = npt.NDArray[np.float64]
FACTOR = 2.0
REFINED = 3
"""Trials that a refinement begins from."""
STEPS = 40
"""Evaluations of a refinement for each factor."""
DIGITS = 4
"""Decimals that the weights are written with; every trial has no more."""


@dataclasses.dataclass(frozen=True)
class Trials:
    """Weights that were looked at, and what each task's measure came to."""

    weight_PK: Float64
    value_PT: Float64

    def __len__(self) -> int:
        return len(self.weight_PK)


def equal_weights(terms: int, factor: bool) -> Float64:
    """1 for each task; the column's factor is left out."""
    return np.array([1.0] * terms + [0.0] * factor)


def search(
    values: Callable[[Float64], Float64],
    violation: Callable[[Float64], float],
    objective: int,
    terms: int,
    factor: bool,
    trials: int,
    seed: int,
    tell: Callable[[int], None] = lambda looked_at: None,
) -> Trials:
    """Everything that was looked at, equal weights first and then each task alone.

    `values` measures the tasks under some weights, [T]; `violation` says by how much such measures miss the floors, 0
    where they are kept; the measure at `objective` is to be large. `tell` gets how many were
    looked at.
    """
    weights: list[Float64] = []
    found: list[Float64] = []

    def look(weight_K: Float64) -> Float64:
        weights.append(normal(weight_K, terms))
        found.append(values(weights[-1]))
        tell(len(found))
        return found[-1]

    look(equal_weights(terms, factor))
    for term in range(terms):
        look(np.eye(terms + factor)[term])
    for point in spread(terms, factor, trials, seed):
        look(point)

    def merit(value_T: Float64) -> float:
        return float(value_T[objective]) - 10 * violation(value_T)

    best = np.argsort([-merit(value_T) for value_T in found], kind="stable")[:REFINED]
    if terms + factor > 1:
        for begin in [weights[at] for at in best]:
            refine(lambda weight_K: -merit(look(weight_K)), begin, terms)
    return Trials(np.array(weights), np.array(found))


def spread(terms: int, factor: bool, trials: int, seed: int) -> Float64:
    """Points spread evenly over the proportions of the tasks, and over the factor's weight: a Sobol sequence."""
    if terms + factor == 1:
        return np.zeros((0, 1))
    sobol = qmc.Sobol(terms + factor, rng=np.random.default_rng(seed))
    u_PK = sobol.random_base2(max(1, round(np.log2(trials))))
    # exponentials over their sum lie evenly on a simplex
    share_PK = -np.log(np.clip(u_PK[:, :terms], 1e-12, 1 - 1e-12))
    share_PK *= terms / share_PK.sum(axis=1, keepdims=True)
    # cubed: a column's factor is mostly a small one beside the tasks'
    return np.concatenate([share_PK, (2 * u_PK[:, terms:] - 1) ** 3 * FACTOR], axis=1)


def refine(loss: Callable[[Float64], float], begin: Float64, terms: int) -> None:
    """Looks at weights around `begin`, downhill."""
    size = len(begin)
    simplex = np.tile(begin, (size + 1, 1))
    for at in range(size):
        simplex[at + 1, at] += 0.25 if at >= terms or simplex[0, at] < terms / 2 else -0.25
    options = {"initial_simplex": simplex, "maxfev": STEPS * size, "xatol": 1e-3, "fatol": 1e-6}
    minimize(loss, begin, method="Nelder-Mead", options=options)


def normal(weight_K: Float64, terms: int) -> Float64:
    """The weights within their bounds, those of the tasks adding up to their number, with DIGITS decimals."""
    out_K = np.concatenate([np.maximum(weight_K[:terms], 0.0), np.clip(weight_K[terms:], -FACTOR, FACTOR)])
    total = out_K[:terms].sum()
    out_K[:terms] = out_K[:terms] * terms / total if total > 0 else 1.0
    return np.round(out_K, DIGITS)


def best_of(trials: Trials, violation: Callable[[Float64], float], objective: int) -> int | None:
    """The trial with the largest objective among those that keep the floors, the earliest of equals; None of none."""
    kept = np.array([violation(value_T) <= 0 for value_T in trials.value_PT])
    if not kept.any():
        return None
    return int(np.argmax(np.where(kept, trials.value_PT[:, objective], -np.inf)))


def pareto(trials: Trials, tasks: Sequence[int], objective: int) -> list[int]:
    """Trials that no other beats in one of the tasks without losing in another, the largest objective first."""
    value_PT = trials.value_PT[:, list(tasks)]
    order = np.lexsort([*(-value_PT.T), -trials.value_PT[:, objective]])
    front: list[int] = []
    front_value = np.zeros((0, value_PT.shape[1]))
    for at in order.tolist():
        # what comes later in this order cannot beat what came before; an equal one adds nothing
        if not (front_value >= value_PT[at]).all(axis=1).any():
            front.append(at)
            front_value = np.concatenate([front_value, value_PT[at : at + 1]])
    return front
