"""The loss of a product of probabilities, value and gradient, from 1e-300 to 1 - 1e-300."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.chain import chain_loss


def plain(logits_BC: Tensor, labels_B: Tensor) -> Tensor:
    """The cross-entropy of the product as it is written, right where nothing under- or overflows."""
    p_B = logits_BC.sigmoid().prod(dim=1)
    return -(labels_B * p_B.log() + (1 - labels_B) * (1 - p_B).log())


def gradient(loss_B: Tensor, logits_BC: Tensor) -> Tensor:
    (grad_BC,) = torch.autograd.grad(loss_B.sum(), logits_BC)
    return grad_BC


def log_sigmoid(z: float) -> float:
    return min(z, 0.0) - math.log1p(math.exp(-abs(z)))


def closed_form(row: list[float], label: int) -> tuple[float, list[float]]:
    """Loss and gradient in Python's own 64 bits, one row at a time; nothing cancels and nothing underflows early."""
    log_p, log_q = sum(map(log_sigmoid, row)), [log_sigmoid(-z) for z in row]
    if label:
        return -log_p, [-math.exp(x) for x in log_q]
    if log_p < -0.5:
        log_rest = math.log1p(-math.exp(log_p))
    elif log_p < -1e-6:
        log_rest = math.log(-math.expm1(log_p))
    else:  # 1 - P is the sum of the 1 - p, to a part in a million of it; all of them may be below what a double holds
        log_rest = max(log_q) + math.log(sum(math.exp(x - max(log_q)) for x in log_q))
    # of P / (1 - P) the logarithm, since either part alone may underflow
    return -log_rest, [math.exp(log_p - log_rest + x) for x in log_q]


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_it_is_the_cross_entropy_of_the_product(depth: int) -> None:
    generator = torch.Generator().manual_seed(depth)
    logits_BC = torch.randn(500, depth, generator=generator, dtype=torch.float64) * 3
    logits_BC.requires_grad_()
    labels_B = (torch.rand(500, generator=generator) > 0.5).double()
    loss_B, expected_B = chain_loss(logits_BC, labels_B), plain(logits_BC, labels_B)
    torch.testing.assert_close(loss_B, expected_B, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient(loss_B, logits_BC), gradient(expected_B, logits_BC), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
def test_the_gradient_is_autograds_on_the_product_down_to_1e_12_each(
    label: int, kind: torch.dtype, tolerance: float
) -> None:
    """Depth 3: each of the three is 1e-12, 1e-9, ... or a half, so that their product goes down to 1e-36."""
    p_N = torch.tensor([1e-12, 1e-9, 1e-6, 1e-3, 0.1, 0.5], dtype=torch.float64)
    logits_BC = torch.cartesian_prod(*[(p_N / (1 - p_N)).log()] * 3).to(kind).double().requires_grad_()
    labels_B = torch.full((len(logits_BC),), float(label), dtype=torch.float64)
    expected_BC = gradient(plain(logits_BC, labels_B), logits_BC)
    assert len(expected_BC) == 216
    assert logits_BC.sigmoid().prod(1).min() < 1.1e-36
    mine_BC = logits_BC.detach().to(kind).requires_grad_()
    found_BC = gradient(chain_loss(mine_BC, labels_B.to(kind)), mine_BC)
    torch.testing.assert_close(found_BC.double(), expected_BC, rtol=tolerance, atol=0)


EXTREMES = {
    "1e-12": [-9.21, -9.21, -9.21],
    "1e-12, one sure": [-27.63, 30.0, 30.0],
    "1e-36": [-27.63, -27.63, -27.63],
    "1e-300": [-230.0, -230.0, -230.0],
    "one is nearly impossible": [-300.0, 5.0, 0.3],
    "1 - 1e-12": [28.0, 29.0, 30.0],
    "1 - 1e-5": [13.0, 12.0, 14.0],
    "nearly sure, one less": [40.0, 2.0, 60.0],
    "1 - 1e-300": [700.0, 690.0, 800.0],
    "just above a half": [1.4, 1.5, 1.6],
    "just below a half": [1.2, 1.3, 1.4],
    "1e12 apart": [-27.63, 27.63, 0.0],
}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(("kind", "tolerance", "least"), [(torch.float64, 1e-11, 1e-300), (torch.float32, 2e-5, 1e-36)])
def test_the_extremes_keep_their_relative_precision(
    name: str, label: int, kind: torch.dtype, tolerance: float, least: float
) -> None:
    """Depth 3; `least` is what the type can hold."""
    loss, grads = closed_form(EXTREMES[name], label)
    logits_BC = torch.tensor([EXTREMES[name]], dtype=kind, requires_grad=True)
    found_B = chain_loss(logits_BC, torch.tensor([float(label)], dtype=kind))
    assert float(found_B.detach()) == pytest.approx(loss, rel=tolerance, abs=least)
    for one, other in zip(gradient(found_B, logits_BC)[0].tolist(), grads, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=least)


def test_the_closed_form_itself_is_autograd_where_the_plain_product_holds() -> None:
    for name in ("1e-12", "just above a half", "just below a half", "nearly sure, one less"):
        for label in (0, 1):
            logits_BC = torch.tensor([EXTREMES[name]], dtype=torch.float64, requires_grad=True)
            loss_B = plain(logits_BC, torch.tensor([float(label)], dtype=torch.float64))
            loss, grads = closed_form(EXTREMES[name], label)
            # the plain 1 - P rounds to 1e-16, which is 1e-4 of P = 1e-12
            assert float(loss_B.detach()) == pytest.approx(loss, rel=1e-9 if label or name != "1e-12" else 1e-3)
            assert gradient(loss_B, logits_BC)[0].tolist() == pytest.approx(grads, rel=1e-9)


def test_the_loss_of_one_probability_is_the_plain_one() -> None:
    logits_BC = torch.linspace(-100, 100, 401)[:, None]
    for label in (0.0, 1.0):
        expected_B = torch.nn.functional.softplus(logits_BC[:, 0].double() * (1 - 2 * label), threshold=1000)
        found_B = chain_loss(logits_BC, torch.full((401,), label))
        torch.testing.assert_close(found_B.double(), expected_B, rtol=2e-6, atol=1e-38)
