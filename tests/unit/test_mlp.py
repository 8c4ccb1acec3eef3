"""The MLP block and, on one rank, GlobalBatchNorm1d against torch's own. (Two ranks: tests/distributed.)"""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.mlp import MLP, NORMS
from pipeline.norm import GlobalBatchNorm1d


def data(rows: int, width: int, offset: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    return (torch.randn(rows, width, generator=generator) * 3 + offset).requires_grad_()


@pytest.mark.parametrize(
    ("name", "torch_activation"), [("relu", nn.ReLU()), ("gelu", nn.GELU()), ("silu", nn.SiLU()), ("tanh", nn.Tanh())]
)
@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_mlp_is_linear_norm_activation_in_this_order(name: str, torch_activation: nn.Module, norm: str) -> None:
    torch.manual_seed(0)
    mlp = MLP(6, [5, 4], activation=name, norm=norm)
    norms = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
    expected = nn.Sequential(
        *[
            step
            for layer, width in zip(mlp.layers, (5, 4), strict=True)
            for step in (layer, norms[norm](width), torch_activation)
        ]
    )
    x_BD = data(7, 6)
    torch.testing.assert_close(mlp(x_BD), expected(x_BD), rtol=0, atol=1e-6)
    assert mlp.out_dim == 4


def test_dropout_comes_after_the_activation() -> None:
    """Scaled and dropped numbers go through no activation: they are exactly those of it, or 0."""
    torch.manual_seed(0)
    mlp = MLP(6, [50], activation="tanh", dropout=0.5)
    x_BD = data(9, 6)
    kept_BH = torch.tanh(mlp.layers[0](x_BD)) / (1 - 0.5)
    out_BH = mlp(x_BD)
    assert torch.equal(out_BH, torch.where(out_BH == 0, 0.0, kept_BH))
    assert 0 < (out_BH == 0).sum() < out_BH.numel()


def test_under_batch_normalisation_layers_have_no_bias() -> None:
    biases = {norm: [layer.bias is not None for layer in MLP(6, [5, 4], norm=norm).layers] for norm in NORMS}
    assert biases == {"none": [True, True], "layer": [True, True], "batch": [False, False]}


def test_no_layers_is_the_identity() -> None:
    mlp = MLP(6, [])
    x_BD = data(3, 6)
    assert mlp(x_BD) is x_BD
    assert (mlp.out_dim, list(mlp.parameters())) == (6, [])


def test_dropout_only_in_training() -> None:
    torch.manual_seed(0)
    mlp = MLP(6, [400], activation="tanh", dropout=0.25)
    zeros = (mlp(data(50, 6)) == 0).float().mean()
    assert zeros == pytest.approx(0.25, abs=0.02)
    assert (mlp.eval()(data(50, 6)) == 0).sum() == 0


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_no_rows_pass_and_leave_gradients_of_zero(norm: str) -> None:
    mlp = MLP(6, [5, 4], norm=norm)
    before = {name: value.clone() for name, value in mlp.state_dict().items()}
    mlp(data(0, 6)).sum().backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in mlp.parameters())
    assert all(torch.equal(before[name], value) for name, value in mlp.state_dict().items())


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_one_row_trains_without_batch_norm(norm: str) -> None:
    assert MLP(6, [5], norm=norm)(data(1, 6)).shape == (1, 5)


def test_batch_norm_on_one_row_is_refused_with_the_remedy_and_evaluates() -> None:
    mlp = MLP(6, [5], norm="batch")
    with pytest.raises(ValueError, match=r"cannot be trained on one row.*'layer'"):
        mlp(data(1, 6))
    assert mlp.eval()(data(1, 6)).shape == (1, 5)


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_global_batch_norm_on_one_rank_is_torchs(offset: float) -> None:
    """Three training steps and an evaluation: outputs, gradients, running statistics and names."""
    torch.manual_seed(0)
    ours, theirs = GlobalBatchNorm1d(6), nn.BatchNorm1d(6)
    with torch.no_grad():
        theirs.weight.uniform_(0.5, 2)
        theirs.bias.uniform_(-1, 1)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for rows in (2, 7, 33):
        x_BD, y_BD = data(rows, 6, offset), data(rows, 6, offset)
        seed_BD = torch.randn(rows, 6)
        out, expected = ours(x_BD), theirs(y_BD)
        torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)
        (out * seed_BD).sum().backward()
        (expected * seed_BD).sum().backward()
        torch.testing.assert_close(x_BD.grad, y_BD.grad, rtol=1e-6, atol=1e-6)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.eval()(data(4, 6)), theirs.eval()(data(4, 6)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation": "swish"}, "'swish' is not known: choose one of relu"),
        ({"norm": "group"}, "'group' is not known: choose one of none"),
        ({"dropout": 1.0}, "below 1"),
        ({"layer_sizes": [4, 0]}, "at least 1"),
        ({"in_dim": 0}, "at least 1"),
    ],
)
def test_mistakes_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MLP(**{"in_dim": 6, "layer_sizes": [4], **settings})
