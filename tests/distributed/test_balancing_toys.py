"""Methods of balancing on toys whose gradients are set by hand, over several steps, on one rank and on two.

The losses are linear in a shared bias p, so that task k's gradient is the vector that the toy says; each rank has its
share of it, and the sum over ranks is the whole.
"""

from typing import Any

import pytest
import torch

from pipeline.balance import pcgrad_factors
from pipeline.loss import LossSums, Objective
from pipeline.train.balancing import balancing
from tests.distributed.ranks import run_ranks
from tests.distributed.training import build
from tests.logs import set_key, small_config

Steps = list[tuple[list[list[float]], list[float]]]
"""Of each step, the tasks' gradients and their losses."""
Told = list[tuple[list[float], list[float], list[list[float]]]]
"""Of each step, the tasks' weights, the gradient that p is trained on, and what is learnt by then."""


def toy(rank: int, world: int, config: dict[str, Any], steps: Steps) -> Told:
    job, model, _, _ = build(config, rank, world)
    dense = model.module.dense
    method = balancing(job, dense, Objective(job).of_logits)
    share = [0.75, 0.25][rank] if world == 2 else 1.0
    told: Told = []
    for step, (gradients, losses) in enumerate(steps):
        width = len(gradients[0])
        p_P = dense.arch.shared_bottom.layers[0].bias[:width]
        part_T = share * (torch.tensor(gradients, dtype=torch.float32) @ p_P)
        sums = LossSums(torch.tensor(losses).double() * 7, torch.full((len(losses),), 7.0, dtype=torch.float64))
        balanced = method(part_T, sums, [task.weight for task in job.tasks], step, None)
        (trained_P,) = torch.autograd.grad(balanced.loss, dense.arch.shared_bottom.layers[0].bias)
        torch.distributed.all_reduce(trained_P)  # data parallelism takes the mean
        trained = (trained_P[:width] / world).tolist()
        learnt = [list(part) for part in dense.balance()] if job.balance.method == "gradnorm" else []
        told.append((balanced.weights, trained, learnt))
    method.detach()
    assert not any(parameter._backward_hooks for parameter in dense.parameters()), "nothing stays behind"
    return told


def config_of(weights: list[float], **balance: Any) -> dict[str, Any]:
    config = small_config("log", "unused")
    names = ["click", "cart", "fav"][: len(weights)]
    set_key(config, "tasks", [{"name": name, "weight": w} for name, w in zip(names, weights, strict=True)])
    set_key(config, "model", {"arch": "customized", "bottom_layers": [8], "tower_layers": []})
    set_key(config, "balance", balance)
    return config


def toys(rank: int, world: int, configs: list[dict[str, Any]], steps: Steps) -> list[Told]:
    return [toy(rank, world, config, steps) for config in configs]


def on_ranks(world: int, steps: Steps, *configs: dict[str, Any]) -> list[Told]:
    first, *others = run_ranks(world, toys, world, list(configs), steps)
    assert all(other == first for other in others), "ranks agree exactly"
    return first


every_world = pytest.mark.parametrize("world", [1, 2])


@every_world
def test_gradnorms_second_step_by_hand(world: int) -> None:
    """alpha 1/2, lr .2. Step 1: norms 1 and 3, mean 2: 1 + .2 and 1 - .6, scaled to 1.5 and .5.

    Step 2: norms 1 and 4, times the factors 1.5 and 2, mean 1.75. The losses are 1/2 and 6/5 of the first, over their
    mean .588 and 1.412, their roots .767 and 1.188: targets 1.342 and 2.079. So the first falls though it is below
    the mean, to 1.5 - .2, and the second rises to .5 + .8; scaled, 1 and 1.
    """
    steps: Steps = [([[1, 0], [0, 3]], [0.8, 0.5]), ([[1, 0], [0, 4]], [0.4, 0.6])]
    ((one, two),) = on_ranks(world, steps, config_of([1.0, 0.75], method="gradnorm", alpha=0.5, lr=0.2))
    assert one[0] == pytest.approx([1, 0.75])
    assert one[1] == pytest.approx([1, 0.75 * 3])
    assert one[2][0] == pytest.approx([1.5, 0.5])
    assert two[0] == pytest.approx([1.5, 0.375]), "a step trains on the factors before it"
    assert two[1] == pytest.approx([1.5, 0.375 * 4])
    assert two[2][0] == pytest.approx([1, 1])
    assert one[2][1] == two[2][1] == pytest.approx([0.8, 0.5]), "the losses of the first step"


@every_world
def test_a_task_without_weight_keeps_its_factor_and_is_in_no_mean(world: int) -> None:
    """As by hand above, with a third task that has no weight: its norm of 9 moves nothing, and nothing moves it."""
    steps: Steps = [([[1, 0], [0, 3], [9, 0]], [0.8, 0.5, 7.0]), ([[1, 0], [0, 4], [9, 0]], [0.4, 0.6, 1.0])]
    ((one, two),) = on_ranks(world, steps, config_of([1.0, 0.75, 0.0], method="gradnorm", alpha=0.5, lr=0.2))
    assert one[2][0] == pytest.approx([1.5, 0.5, 1])
    assert two[0] == pytest.approx([1.5, 0.375, 0])
    assert two[2][0] == pytest.approx([1, 1, 1])


@every_world
def test_losses_down_to_zero_end_no_run(world: int) -> None:
    steps: Steps = [([[1, 0], [0, 3]], [0.8, 0.5]), ([[1, 0], [0, 3]], [0.0, 0.0])]
    ((_, two),) = on_ranks(world, steps, config_of([1.0, 1.0], method="gradnorm", alpha=0.5, lr=0.1))
    assert sum(two[2][0]) == pytest.approx(2)


@every_world
def test_mgda_leaves_out_a_task_without_weight(world: int) -> None:
    """Its zero would be the point of least norm, and nothing would train."""
    (((weights, trained, _),),) = on_ranks(world, [([[2, 0], [-1, 1]], [1, 1])], config_of([1.0, 0.0], method="mgda"))
    assert weights == [1.0, 0.0]
    assert trained == pytest.approx([2, 0])


@every_world
def test_mgda_by_hand(world: int) -> None:
    """g1 = (2, 0), g2 = (-1, 1) and weights 1: (.4, .6). Twice the first's weight is g1 = (4, 0): 6/26 and 20/26."""
    steps: Steps = [([[2, 0], [-1, 1]], [1, 1])]
    even, twice = on_ranks(world, steps, *(config_of([w, 1.0], method="mgda") for w in (1.0, 2.0)))
    ((weights, trained, _),) = even
    assert weights == pytest.approx([0.4, 0.6])
    assert trained == pytest.approx([0.2, 0.6])
    ((weights, trained, _),) = twice
    assert weights == pytest.approx([2 * 6 / 26, 20 / 26])
    assert trained == pytest.approx([4 / 26, 20 / 26])


@every_world
def test_pcgrad_by_hand(world: int) -> None:
    """g1 = (2, 0), g2 = (-1, 1): projected (1, 1) and (0, 1), which is 1.5 g1 + 2 g2. With twice g1: 1.25 and 3."""
    steps: Steps = [([[2, 0], [-1, 1]], [1, 1])]
    even, twice = on_ranks(world, steps, *(config_of([w, 1.0], method="pcgrad") for w in (1.0, 2.0)))
    ((weights, trained, _),) = even
    assert weights == pytest.approx([1.5, 2])
    assert trained == pytest.approx([1, 2])
    ((weights, trained, _),) = twice
    assert weights == pytest.approx([2 * 1.25, 3]), "a task's factor times its weight"
    assert trained == pytest.approx([2, 3])


@every_world
def test_pcgrads_order_is_drawn_anew_at_each_step(world: int) -> None:
    """Three tasks in conflict: each projection goes by one of the two orders that there are, and by both in time."""
    g_TP = torch.tensor([[1.0, 0.0], [-1.0, 1.0], [-0.5, -1.0]])
    gram = (g_TP.double() @ g_TP.double().T).tolist()
    steps: Steps = [(g_TP.tolist(), [1, 1, 1])] * 24
    (told,) = on_ranks(world, steps, config_of([1.0, 1.0, 1.0], method="pcgrad"))
    possible = [
        pcgrad_factors(gram, [a, b, c])
        for a in ([1, 2], [2, 1])
        for b in ([0, 2], [2, 0])
        for c in ([0, 1], [1, 0])
    ]  # fmt: skip
    assert len({tuple(round(x, 6) for x in factors) for factors in possible}) == 8, "the order matters"
    met = {next(n for n, f in enumerate(possible) if weights == pytest.approx(f)) for weights, *_ in told}
    assert len(met) >= 5
    config = config_of([1.0, 1.0, 1.0], method="pcgrad")
    (other,) = on_ranks(world, steps, config | {"seed": 9})
    assert [weights for weights, *_ in other] != [weights for weights, *_ in told], "and by the seed"
