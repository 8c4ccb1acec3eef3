"""The loss over ranks against closed forms: denominators of the whole batch, empty spaces, weights, the guard."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pipeline.loss import LossSums, Objective, binary_loss, task_losses, task_weights, total_loss
from schemas.errors import InputError
from schemas.tasks import TaskSpec
from tests.distributed.ranks import run_ranks
from tests.logs import small_job

ROWS, TASKS = 11, 3


def data() -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and spaces of one global batch; task 1 lives on few rows, all among the first four."""
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(ROWS, TASKS, generator=generator)
    labels = (torch.rand(ROWS, TASKS, generator=generator) > 0.5).float()
    space = (torch.rand(ROWS, TASKS, generator=generator) > 0.4).float()
    space[:, 0] = 1
    space[:, 1] = torch.arange(ROWS) < 4
    return logits, labels, space


def objective(space: str = "conditional") -> Objective:
    """Three binary tasks."""
    changes = {"tasks": [{"name": "a"}, {"name": "b", "given": "a"}, {"name": "c", "given": "b"}], "space": space}
    return Objective(small_job("log", changes=changes))


def loss_of(
    logits: Tensor, labels: Tensor, space: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0)
) -> tuple[Tensor, LossSums]:
    part_T, sums = task_losses(objective(), logits, labels, space)
    return total_loss(part_T, weights), sums


def by_hand(logits: Tensor, labels: Tensor, space: Tensor, weights: list[float]) -> float:
    """L = sum_k w_k sum_i delta_ik BCE_ik / sum_i delta_ik, a row and a task at a time."""
    total = 0.0
    for k in range(TASKS):
        rows = [i for i in range(len(logits)) if space[i, k]]
        for i in rows:
            p = 1 / (1 + math.exp(-float(logits[i, k])))
            total -= weights[k] * math.log(p if labels[i, k] else 1 - p) / len(rows)
    return total


def on_rank(rank: int, cuts: list[int], weights: list[float]) -> tuple[float, list[float], list[float], Tensor]:
    """This rank's scalar over the ranks' number, the sums, and the gradient of its own rows."""
    logits, labels, space = (x[cuts[rank] : cuts[rank + 1]] for x in data())
    logits.requires_grad_()
    loss, sums = loss_of(logits, labels, space, weights)
    loss.backward()
    assert logits.grad is not None
    return float(loss.detach()) / (len(cuts) - 1), sums.mean_T.tolist(), sums.rows_T.tolist(), logits.grad


@pytest.mark.parametrize("cuts", [[0, 11], [0, 5, 11], [0, 0, 11], [0, 4, 11]])
def test_the_loss_is_that_of_the_whole_batch(cuts: list[int]) -> None:
    """However the rows are cut over the ranks: with none on one, with a task's whole space on one."""
    weights = [1.0, 0.5, 2.0]
    logits, labels, space = data()
    ranks = run_ranks(len(cuts) - 1, on_rank, cuts, weights)
    assert sum(loss for loss, *_ in ranks) == pytest.approx(by_hand(logits, labels, space, weights), rel=1e-6)
    logits.requires_grad_()
    reference = sum(
        weights[k] * (binary_loss(logits, labels)[:, k] * space[:, k]).sum() / space[:, k].sum() for k in range(TASKS)
    )
    assert isinstance(reference, Tensor)
    reference.backward()
    # the mean over ranks of the gradients, as DDP and TorchRec take it, is the gradient of L
    gradient = torch.cat([grad for *_, grad in ranks]) / (len(cuts) - 1)
    torch.testing.assert_close(gradient, logits.grad, rtol=1e-6, atol=1e-7)
    for _, _, rows, _ in ranks:
        assert rows == space.sum(0).tolist()


def test_a_mean_a_rank_would_be_another_loss() -> None:
    """The fault this loss exists to avoid is visible on this very data."""
    logits, labels, space = data()
    per_rank = 0.0
    for part in (slice(0, 5), slice(5, 11)):
        loss, inside = binary_loss(logits[part], labels[part]) * space[part], space[part]
        per_rank += float((loss.sum(0) / inside.sum(0).clamp(min=1)).sum()) / 2
    assert abs(per_rank - by_hand(logits, labels, space, [1.0] * 3)) > 0.05


def empty_space(rank: int) -> tuple[float, list[float]]:
    logits, labels, space = data()
    space[:, 1] = 0
    logits[:, 1] = float("nan")  # outside its space a logit may be anything
    loss, sums = loss_of(logits.requires_grad_(), labels, space)
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    return float(loss.detach()), sums.mean_T.tolist()


def test_an_empty_space_contributes_nothing_and_no_nan() -> None:
    ((loss, means),) = run_ranks(1, empty_space)
    assert means[1] == 0
    assert loss == pytest.approx(means[0] + means[2])


def not_finite(rank: int) -> str:
    logits, labels, space = data()
    if rank == 1:
        logits[0, 0] = float("nan")
    try:
        loss_of(logits, labels, space)
    except InputError as error:
        return str(error)
    return "nothing"


def test_one_nan_is_caught_on_every_rank_before_backward() -> None:
    told = run_ranks(2, not_finite)
    assert all("not finite" in text and "nothing was trained" in text for text in told)


def test_extreme_logits_keep_their_loss() -> None:
    logits = torch.tensor([[-200.0], [200.0], [-200.0], [200.0]])
    labels = torch.tensor([[1.0], [0.0], [0.0], [1.0]])
    assert binary_loss(logits, labels).flatten().tolist() == [200.0, 200.0, 0.0, 0.0]


def test_weights_decay_by_step_or_epoch() -> None:
    tasks = [
        TaskSpec(name="a", weight=2.0, decay=0.5),
        TaskSpec(name="b", weight=3.0, decay=0.1, decay_per="epoch"),
        TaskSpec(name="c"),
    ]
    assert task_weights(tasks, step=3, epoch=2) == pytest.approx([2 * 0.125, 3 * 0.01, 1.0])
    assert task_weights(tasks, step=0, epoch=0) == [2.0, 3.0, 1.0]
