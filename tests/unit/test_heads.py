"""Towers, and joint log probabilities against closed forms."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from pipeline.chain import chains, log1mexp
from pipeline.heads import Towers, joint_log_probability

CHAINS = [
    [None],
    [None, 0, 0, 0],
    [None, 0, 1],
    [2, None, 1],  # order <- cart <- click, given in another order
    [1, 2, 3, None, None, 4],
]


def reference(logit: float) -> float:
    """log sigmoid in float64 by the branch that does not cancel."""
    return -math.log1p(math.exp(-logit)) if logit > 0 else logit - math.log1p(math.exp(logit))


@pytest.mark.parametrize("parents", CHAINS)
def test_joint_is_the_product_up_the_chain(parents: list[int | None]) -> None:
    logits_BT = torch.randn(11, len(parents), generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    p_BT, joint_BT = logits_BT.sigmoid(), joint_log_probability(logits_BT, parents).exp()
    for row in range(11):
        for task in range(len(parents)):
            product, at = float(p_BT[row, task]), parents[task]
            while at is not None:
                product, at = product * float(p_BT[row, at]), parents[at]
            assert float(joint_BT[row, task]) == pytest.approx(product, rel=1e-12)


@pytest.mark.parametrize(
    "logits", [(-27.6, -27.6, -27.6), (-80.0, -100.0, 5.0), (30.0, 40.0, 50.0), (-500.0, 3.0, 500.0)]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 2e-7)])
def test_nothing_underflows_down_a_chain_of_three(
    logits: tuple[float, ...], dtype: torch.dtype, tolerance: float
) -> None:
    """Probabilities of 1e-12 each: their product, 1e-36, and beyond float32's range."""
    logits_BT = torch.tensor([logits], dtype=dtype)
    joint_BT = joint_log_probability(logits_BT, [None, 0, 1])
    exact = [reference(float(logit)) for logit in logits_BT[0]]
    for task in range(3):
        assert float(joint_BT[0, task]) == pytest.approx(sum(exact[: task + 1]), rel=tolerance)


def test_probability_of_1e_12_in_closed_form() -> None:
    """sigmoid(log(p / (1 - p))) = p, so two links of p = 1e-12 give log p^2."""
    logit = math.log(Fraction(1, 10**12 - 1))
    joint_BT = joint_log_probability(torch.tensor([[logit, logit]], dtype=torch.float64), [None, 0])
    assert float(joint_BT[0, 1]) == pytest.approx(2 * math.log(1e-12), rel=1e-14)


def test_gradients_are_finite_and_right_at_the_extremes() -> None:
    logits_BT = torch.tensor([[-200.0, 300.0, -1.0], [0.0, 0.0, 0.0]], requires_grad=True)
    joint_log_probability(logits_BT, [None, 0, 1])[:, 2].sum().backward()
    torch.testing.assert_close(logits_BT.grad, torch.sigmoid(-logits_BT.detach()))  # d log sigmoid(x) = sigmoid(-x)


@pytest.mark.parametrize("rows", [0, 1, 4])
@pytest.mark.parametrize("layer_sizes", [[], [7, 3]])
def test_towers_shape_and_each_task_reads_its_own(rows: int, layer_sizes: list[int]) -> None:
    torch.manual_seed(0)
    towers = Towers(5, 3, layer_sizes, activation="tanh")  # ReLU may be dead on one row
    h_BTH = torch.randn(rows, 3, 5, requires_grad=True)
    logits_BT = towers(h_BTH)
    assert logits_BT.shape == (rows, 3)
    assert joint_log_probability(logits_BT, [None, 0, 1]).shape == (rows, 3)
    for task in range(3):
        (grad_BTH,) = torch.autograd.grad(logits_BT[:, task].sum(), h_BTH, retain_graph=True)
        touched = [bool(grad_BTH[:, other].any()) for other in range(3)]
        assert touched == [rows > 0 and other == task for other in range(3)]
    logits_BT.sum().backward()
    assert all(parameter.grad is not None for parameter in towers.parameters())


def test_towers_by_hand() -> None:
    towers = Towers(5, 2, [4])
    h_BTH, w = torch.randn(6, 2, 5), towers.state_dict()
    for task in range(2):
        hidden_BH = torch.relu(
            h_BTH[:, task] @ w[f"towers.{task}.layers.0.weight"].T + w[f"towers.{task}.layers.0.bias"]
        )
        logit_B = (hidden_BH * w[f"outputs.{task}.weight"]).sum(1) + w[f"outputs.{task}.bias"]
        torch.testing.assert_close(towers(h_BTH)[:, task], logit_B)


class _Heads(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.towers = Towers(5, 3, [4], norm="layer")

    def forward(self, h_BTH: Tensor) -> tuple[Tensor, Tensor]:
        logits_BT = self.towers(h_BTH)
        return logits_BT, joint_log_probability(logits_BT, [None, 0, 1])


def test_towers_read_their_columns_of_a_wider_representation_in_their_own_precision() -> None:
    h_BTH = torch.randn(5, 2, 4, dtype=torch.float64)
    towers = Towers([4, 3], 2, [3]).double()
    logits_BT = towers(h_BTH)
    for task, width in enumerate((4, 3)):
        own = towers.towers[task](h_BTH[:, task, :width])
        assert torch.equal(logits_BT[:, task : task + 1], towers.outputs[task](own))
    assert logits_BT.dtype == torch.float64


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 1, 4), (3, 2, 9), (3, 2, 3), (3, 4)])
def test_representations_of_other_tasks_or_widths_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="h_BTH is of 2 tasks and width 4"):
        Towers([4, 3], 2)(torch.zeros(shape))


@pytest.mark.parametrize("parents", CHAINS)
def test_a_parents_joint_is_the_first_part_of_its_childs(parents: list[int | None]) -> None:
    """Bit for bit, from the root down: the child's is the parent's and its own factor, added last."""
    logits_BT = torch.randn(200, len(parents), generator=torch.Generator().manual_seed(1)) * 4
    joint_BT = joint_log_probability(logits_BT, parents)
    for task, parent in enumerate(parents):
        if parent is not None:
            own_B = torch.nn.functional.logsigmoid(logits_BT[:, task])
            assert torch.equal(joint_BT[:, task], joint_BT[:, parent] + own_B)


def test_trace_holds_for_other_batch_sizes() -> None:
    heads = _Heads()
    traced = torch.fx.symbolic_trace(heads)
    for rows in (4, 1, 0):
        h_BTH = torch.randn(rows, 3, 5)
        torch.testing.assert_close(traced(h_BTH), heads(h_BTH))


@pytest.mark.parametrize(
    ("parents", "message"),
    [([1, 0], "circle"), ([None, 1], "circle"), ([None, 2], r"parents\[1\] is 2"), ([None, -1], "is -1")],
)
def test_parents_that_are_no_forest(parents: list[int | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        joint_log_probability(torch.zeros(1, 2), parents)


def test_parents_of_another_number() -> None:
    with pytest.raises(ValueError, match="logits for 3 tasks, parents for 2"):
        joint_log_probability(torch.zeros(1, 3), [None, 0])
    with pytest.raises(ValueError, match="at least one"):
        Towers(5, 0)


def test_chains_run_from_the_task_to_its_root() -> None:
    assert chains([1, 2, 3, None, None, 4]) == [[0, 1, 2, 3], [1, 2, 3], [2, 3], [3], [4], [5, 4]]


def test_log1mexp_keeps_its_precision_at_both_ends() -> None:
    log_p = torch.tensor([-1e-20, -1e-9, -0.5, -0.6931, -0.7, -5.0, -60.0, -1000.0], dtype=torch.float64)
    exact = [math.log(-math.expm1(x)) if x > -1 else math.log1p(-math.exp(x)) for x in log_p.tolist()]
    torch.testing.assert_close(log1mexp(log_p), torch.tensor(exact, dtype=torch.float64), rtol=1e-14, atol=0)
    assert float(log1mexp(torch.zeros(1))) == -math.inf
