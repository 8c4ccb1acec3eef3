"""Metrics and batch normalisation on two real ranks equal one process over all rows."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.archs.ple import PLE
from pipeline.metrics import Metrics, MetricWindow, flatten
from pipeline.norm import GlobalBatchNorm1d
from tests.distributed.ranks import run_ranks

NAMES, PARENTS = ["click", "cart", "order"], [None, 0, 1]


def funnel(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    logits_BT = (torch.randn(rows, 3, generator=generator) * 2).round(decimals=1)
    draw_BT = torch.rand(rows, 3, generator=generator) < logits_BT.sigmoid()
    labels_BT = draw_BT.cumprod(dim=1)
    space_BT = torch.cat([torch.ones(rows, 1, dtype=torch.long), labels_BT[:, :-1]], dim=1)
    return logits_BT, labels_BT, space_BT


def window_of(tensors: tuple[Tensor, ...], start: int, end: int) -> MetricWindow:
    window = MetricWindow(NAMES, PARENTS)
    for at in range(start, end, 100):  # several updates; none at all for an empty rank
        window.update(*(tensor[at : min(at + 100, end)] for tensor in tensors))
    return window


def compute(rank: int, rows: int, bounds: list[int]) -> Metrics | None:
    return window_of(funnel(rows), bounds[rank], bounds[rank + 1]).compute()


def compute_in_group(rank: int, rows: int) -> tuple[Metrics | None, Metrics | None]:
    """Ranks 1 and 2 form a group; rank 0 is outside. Then all three together."""
    group = dist.new_group([1, 2])
    window = window_of(funnel(rows), *[(0, 10), (10, 40), (40, rows)][rank])
    return (window.compute(group) if rank else None), window.compute()


def compute_nan(rank: int) -> str:
    logits_BT, labels_BT, space_BT = funnel(10)
    if rank == 1:
        logits_BT[3, 2] = torch.nan
    with pytest.raises(ValueError, match="NaN") as caught:
        window_of((logits_BT, labels_BT, space_BT), 0, 10).compute()
    return str(caught.value)


@pytest.mark.parametrize(
    ("rows", "bounds"),
    [(7, [0, 0, 7]), (8, [0, 5, 8]), (3000, [0, 1, 3000]), (3000, [0, 1500, 3000]), (0, [0, 0, 0])],
)
def test_metrics_of_two_ranks_are_those_of_one_process_and_sklearn(rows: int, bounds: list[int]) -> None:
    results = run_ranks(2, compute, rows, bounds)
    assert results[1] is None
    tensors = funnel(rows)
    one = window_of(tensors, 0, rows).compute()
    assert one is not None
    two_flat, one_flat = flatten(results[0]), flatten(one)
    assert two_flat.keys() == one_flat.keys()
    for key, value in one_flat.items():
        assert two_flat[key] == pytest.approx(value, abs=1e-9), key
    if rows == 3000:
        from sklearn.metrics import log_loss, roc_auc_score  # here, so that ranks need not import it

        logits_BT, labels_BT, space_BT = tensors
        p_BT = logits_BT.double().sigmoid()
        for task, name in enumerate(NAMES):
            own = space_BT[:, task] == 1
            assert two_flat[f"{name}/auc"] == pytest.approx(roc_auc_score(labels_BT[own, task], logits_BT[own, task]))
            assert two_flat[f"{name}/log_loss"] == pytest.approx(log_loss(labels_BT[own, task], p_BT[own, task]))
        joint_B, label_B = p_BT.prod(dim=1), labels_BT[:, 2]
        assert two_flat["order/joint_auc"] == pytest.approx(roc_auc_score(label_B, joint_B), abs=1e-9)
        assert two_flat["order/joint_log_loss"] == pytest.approx(log_loss(label_B, joint_B), abs=1e-9)


def test_metrics_over_a_group_count_its_ranks_alone_and_land_on_its_first() -> None:
    results = run_ranks(3, compute_in_group, 200)
    assert [part is None for part, _ in results] == [True, False, True]
    assert [whole is None for _, whole in results] == [False, True, True]
    assert results[1][0].own["click"].rows == 190
    assert results[0][1].own["click"].rows == 200


def test_a_nan_on_one_rank_is_told_on_every_rank_and_nobody_hangs() -> None:
    assert run_ranks(2, compute_nan) == ["logits are NaN (task: rows): {'order': 1}; the model has diverged or was "
                                         "given NaN features"] * 2  # fmt: skip


def batch_norm(norm: nn.Module, bounds: list[int], rank: int, offset: float) -> dict[str, Tensor]:
    """Two training steps over this rank's rows; the loss is a sum, so ranks' weight gradients add up."""
    x_grads = []
    for step in range(2):
        generator = torch.Generator().manual_seed(step)
        rows = bounds[-1]
        x_BD = torch.randn(rows, 4, generator=generator, dtype=torch.float64) * 3 + offset
        seed_BD = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
        mine = slice(bounds[rank], bounds[rank + 1])
        x_BD = x_BD[mine].requires_grad_()
        y_BD = norm(x_BD)
        (torch.sin(y_BD) * seed_BD[mine]).sum().backward()
        assert x_BD.grad is not None
        x_grads.append(x_BD.grad)
    out = {f"grad of {name}": parameter.grad for name, parameter in norm.named_parameters()}
    return {**out, **norm.state_dict(), "y": y_BD.detach(), "x0": x_grads[0], "x1": x_grads[1]}


def make_norm(dtype: torch.dtype = torch.float64) -> GlobalBatchNorm1d:
    norm = GlobalBatchNorm1d(4).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 1.5, -2.0]))
        norm.bias.copy_(torch.tensor([0.1, 0.0, -0.3, 1.0]))
    return norm


def rank_batch_norm(rank: int, bounds: list[int], offset: float) -> dict[str, Tensor]:
    return batch_norm(make_norm(), bounds, rank, offset)


@pytest.mark.parametrize("bounds", [[0, 5, 8], [0, 0, 7], [0, 7, 7], [0, 1, 2]])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_batch_norm_of_two_ranks_is_one_process_over_the_whole_batch(bounds: list[int], offset: float) -> None:
    torch_norm = nn.BatchNorm1d(4).double()
    torch_norm.load_state_dict(make_norm().state_dict())
    whole = batch_norm(torch_norm, [0, bounds[-1]], 0, offset)
    ranks = run_ranks(2, rank_batch_norm, bounds, offset)
    for name, expected in whole.items():
        if name in ("y", "x0", "x1"):  # rows
            actual = torch.cat([ranks[0][name], ranks[1][name]])
        elif name.startswith("grad"):  # data parallelism sums them
            actual = ranks[0][name] + ranks[1][name]
        else:  # state, the same on both
            actual = ranks[0][name]
            assert torch.equal(actual, ranks[1][name]), name
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9, msg=name)


def one_row(rank: int) -> str:
    with pytest.raises(ValueError, match="layer") as caught:
        make_norm()(torch.zeros(rank, 4, dtype=torch.float64))
    return str(caught.value)


def no_rows(rank: int) -> bool:
    norm = make_norm()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    x_BD = torch.zeros(0, 4, dtype=torch.float64, requires_grad=True)
    norm(x_BD).sum().backward()
    return all(torch.equal(before[name], value) for name, value in norm.state_dict().items()) and x_BD.grad is not None


def half_precision(rank: int) -> tuple[Tensor, Tensor | None]:
    x_BD = torch.linspace(-2, 3, 24).view(6, 4)[rank * 2 : rank * 2 + 2 + rank * 2].bfloat16().requires_grad_()
    y_BD = make_norm(torch.float32)(x_BD)
    (y_BD.float() ** 3).sum().backward()
    return y_BD.detach(), x_BD.grad


def test_batch_norm_edges() -> None:
    messages = run_ranks(2, one_row)
    assert messages[0] == messages[1]
    assert "global batch has 1" in messages[0]
    assert run_ranks(2, no_rows) == [True, True]
    for y_BD, grad_BD in run_ranks(2, half_precision):
        assert y_BD.dtype == grad_BD.dtype == torch.bfloat16


def train_ple(rank: int, bounds: list[int]) -> list[Tensor]:
    """Gradients of a PLE with batch normalisation in every expert, summed over the ranks."""
    torch.manual_seed(0)
    model = PLE(5, 2, [1, 2], 1, [6, 4], norm="batch", activation="tanh", levels=2).double()
    generator = torch.Generator().manual_seed(1)
    x_BD = torch.randn(bounds[-1], 5, generator=generator, dtype=torch.float64)
    if rank >= 0:
        x_BD = x_BD[bounds[rank] : bounds[rank + 1]]
    (model(x_BD) ** 3).sum().backward()
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert len(grads) == len(list(model.parameters()))
    if rank >= 0:
        for grad in grads:
            dist.all_reduce(grad)
    return grads


@pytest.mark.parametrize("bounds", [[0, 9, 16], [0, 0, 16]])
def test_ple_with_batch_norm_has_the_same_gradients_on_two_ranks(bounds: list[int]) -> None:
    whole = train_ple(-1, bounds)
    for grads in run_ranks(2, train_ple, bounds):
        for actual, expected in zip(grads, whole, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
