"""CGC and PLE against the paper's equations written out by hand over weights copied by name; and their identities.

B batch rows, D input width, T tasks, E experts of a gate, H expert width.
"""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.archs.cgc import CGC, ExtractionLevel
from pipeline.archs.ple import PLE

KINDS = {"cgc": CGC, "ple": PLE}
Weights = Mapping[str, Tensor]


def hand_expert(weights: Weights, name: str, layers: int, row_D: Tensor) -> Tensor:
    """ReLU layers over one row."""
    value = row_D
    for layer in range(layers):
        value = weights[f"{name}.layers.{layer}.weight"] @ value + weights[f"{name}.layers.{layer}.bias"]
        value = torch.where(value > 0, value, torch.zeros_like(value))
    return value


def hand_mix(gate_ED: Tensor, selector_D: Tensor, experts: list[Tensor]) -> Tensor:
    exponents_E = torch.exp(gate_ED @ selector_D)
    assert len(exponents_E) == len(experts)
    total = torch.zeros_like(experts[0])
    for expert in range(len(experts)):
        total = total + exponents_E[expert] / exponents_E.sum() * experts[expert]
    return total


def hand_ple(
    weights: Weights, x_BD: Tensor, task_experts: list[int], shared_experts: int, layers: int, levels: int
) -> Tensor:
    """One row, one task and one expert at a time, as the paper's section 4.2 reads."""
    rows = []
    for row_D in x_BD:
        own, common = [row_D for _ in task_experts], row_D
        for j in range(levels):
            pre = f"levels.{j}"
            e_task = [
                [hand_expert(weights, f"{pre}.task_experts.{k}.{i}", layers, own[k]) for i in range(count)]
                for k, count in enumerate(task_experts)
            ]
            e_shared = [
                hand_expert(weights, f"{pre}.shared_experts.{i}", layers, common) for i in range(shared_experts)
            ]
            nxt = [
                hand_mix(weights[f"{pre}.task_gates.{k}.weight"], own[k], e_task[k] + e_shared)
                for k in range(len(task_experts))
            ]
            if j < levels - 1 and shared_experts:
                everyone = [expert for group in e_task for expert in group] + e_shared
                common = hand_mix(weights[f"{pre}.shared_gate.weight"], common, everyone)
            own = nxt
        rows.append(torch.stack(own))
    return torch.stack(rows)


def randomise(module: nn.Module, seed: int = 1) -> nn.Module:
    """Larger weights than the initial ones, so that gates are far from uniform; float64."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.6)
    return module


def leaf_copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone().requires_grad_() for name, value in module.state_dict().items()}


def data(rows: int, width: int, seed: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize(
    ("task_experts", "shared_experts", "expert_layers", "levels"),
    [
        ([2, 2], 1, [4], 2),
        ([1, 3, 2], 2, [5, 4], 3),
        ([0, 2], 1, [4], 2),
        ([2, 1], 0, [4, 3], 2),
        ([2], 2, [4], 2),
        ([2, 1], 3, [4], 1),
    ],
)
def test_ple_is_the_papers_equations_forward_and_every_gradient(
    task_experts: list[int], shared_experts: int, expert_layers: list[int], levels: int
) -> None:
    model = randomise(PLE(6, len(task_experts), task_experts, shared_experts, expert_layers, levels=levels))
    x_BD, hand_x_BD, weights = data(5, 6), data(5, 6), leaf_copy(model)
    h_BTH = model(x_BD)
    hand_BTH = hand_ple(weights, hand_x_BD, task_experts, shared_experts, len(expert_layers), levels)
    assert h_BTH.shape == (5, len(task_experts), model.out_dim) == (5, len(task_experts), expert_layers[-1])
    torch.testing.assert_close(h_BTH, hand_BTH, rtol=0, atol=1e-10)
    seed_BTH = torch.randn(h_BTH.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (h_BTH * seed_BTH).sum().backward()
    (hand_BTH * seed_BTH).sum().backward()
    torch.testing.assert_close(x_BD.grad, hand_x_BD.grad, rtol=0, atol=1e-10)
    parameters = dict(model.named_parameters())
    assert parameters.keys() == weights.keys()
    for name, parameter in parameters.items():
        assert parameter.grad is not None, f"{name} is unused"
        torch.testing.assert_close(parameter.grad, weights[name].grad, rtol=0, atol=1e-10, msg=name)


@pytest.mark.parametrize(("task_experts", "shared_experts"), [([1, 3, 2], 2), ([0, 0], 2), ([0, 2], 1), ([2, 3], 0)])
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_every_parameter_has_a_gradient(task_experts: list[int], shared_experts: int, levels: int) -> None:
    model = PLE(6, len(task_experts), task_experts, shared_experts, [5, 4], activation="tanh", levels=levels).double()
    (model(data(9, 6)) ** 2).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} is unused"
        if "gate" in name and len(parameter) == 1:  # softmax over one expert is 1, whatever the gate
            continue
        assert parameter.grad.abs().max() > 0, f"{name} has no gradient"


def test_ple_with_one_level_is_cgc() -> None:
    torch.manual_seed(0)
    cgc = CGC(6, 3, [1, 2, 3], 2, [8, 4], activation="gelu", norm="layer", gate_bias=True)
    torch.manual_seed(0)
    ple = PLE(6, 3, [1, 2, 3], 2, [8, 4], activation="gelu", norm="layer", gate_bias=True, levels=1)
    ple.load_state_dict(cgc.state_dict(), strict=True)
    x_BD = data(7, 6).float()
    assert torch.equal(cgc(x_BD), ple(x_BD))
    assert cgc.out_dim == ple.out_dim == 4


def test_cgc_without_task_experts_is_mmoe_over_the_shared_ones() -> None:
    """h_k = sum_i softmax(W_gk x)_i f_i(x): Ma et al., MMoE, KDD 2018, section 4.2."""
    model = randomise(CGC(6, 3, 0, 4, [5]))
    x_BD, weights = data(9, 6), leaf_copy(model)
    experts = [
        torch.clamp(x_BD @ weights[f"levels.0.shared_experts.{i}.layers.0.weight"].T
                    + weights[f"levels.0.shared_experts.{i}.layers.0.bias"], min=0)
        for i in range(4)
    ]  # fmt: skip
    for k in range(3):
        gate_BE = torch.softmax(x_BD @ weights[f"levels.0.task_gates.{k}.weight"].T, dim=1)
        expected_BH = sum(gate_BE[:, i : i + 1] * experts[i] for i in range(4))
        torch.testing.assert_close(model(x_BD)[:, k], expected_BH, rtol=0, atol=1e-10)
    assert not any("task_experts" in name for name in weights)


def test_one_shared_expert_is_shared_bottom() -> None:
    h_BTH = CGC(6, 3, 0, 1, [5])(data(4, 6).float())
    assert torch.equal(h_BTH[:, 0], h_BTH[:, 1])
    assert torch.equal(h_BTH[:, 0], h_BTH[:, 2])


@pytest.mark.parametrize("arch", sorted(KINDS))
@pytest.mark.parametrize("rows", [0, 1, 3])
@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_any_batch_and_any_number_of_tasks(arch: str, rows: int, tasks: int, norm: str) -> None:
    model = KINDS[arch](6, tasks, 2, 1, [5], norm=norm)
    h_BTH = model(data(rows, 6).float())
    assert h_BTH.shape == (rows, tasks, 5)
    h_BTH.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("arch", sorted(KINDS))
def test_a_row_does_not_depend_on_its_batch(arch: str) -> None:
    model = KINDS[arch](6, 2, 2, 1, [5]).double()
    x_BD = data(4, 6)
    torch.testing.assert_close(model(x_BD)[2:3], model(x_BD[2:3]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_experts_and_gates_of_a_level_differ_at_the_start(seed: int) -> None:
    torch.manual_seed(seed)
    model = PLE(6, 2, [2, 3], 2, [5, 4], levels=2)
    weights = [parameter for name, parameter in model.named_parameters() if name.endswith("weight")]
    for index, one in enumerate(weights):
        assert not any(one.shape == other.shape and torch.equal(one, other) for other in weights[:index])


def test_names_of_parameters_are_what_checkpoints_hold() -> None:
    names = {name for name, _ in PLE(6, 2, [1, 2], 1, [5], levels=2).named_parameters()}
    level = {f"task_experts.{e}.layers.0.{p}" for e in ("0.0", "1.0", "1.1") for p in ("weight", "bias")}
    level |= {f"shared_experts.0.layers.0.{p}" for p in ("weight", "bias")}
    level |= {f"task_gates.{k}.weight" for k in (0, 1)}
    assert names == {f"levels.{j}.{name}" for j in (0, 1) for name in level} | {"levels.0.shared_gate.weight"}


def test_gate_bias_is_an_option() -> None:
    names = {name for name, _ in PLE(6, 2, 1, 1, [5], gate_bias=True).named_parameters()}
    assert {"levels.0.task_gates.0.bias", "levels.0.shared_gate.bias", "levels.1.task_gates.1.bias"} <= names


def test_dropout_and_batch_norm_reach_the_experts() -> None:
    torch.manual_seed(0)
    model = CGC(6, 2, 1, 1, [64], norm="batch", dropout=0.5)
    x_BD = data(8, 6).float()
    assert not torch.equal(model(x_BD), model(x_BD))
    model.eval()
    assert torch.equal(model(x_BD), model(x_BD))
    assert "levels.0.shared_experts.0.norms.0.running_mean" in model.state_dict()


@pytest.mark.parametrize("arch", sorted(KINDS))
def test_trace_and_compile_give_the_same(arch: str) -> None:
    model = KINDS[arch](6, 2, [1, 2], 1, [5], norm="batch").double()
    traced = torch.fx.symbolic_trace(model)
    for rows in (7, 2):  # the trace holds no batch size
        x_BD = data(rows, 6)
        torch.testing.assert_close(traced(x_BD), model(x_BD), rtol=0, atol=1e-12)
    exported = torch.export.export(
        model.eval(), (data(7, 6).detach(),), dynamic_shapes=({0: torch.export.Dim("rows", min=1)},)
    )
    torch.testing.assert_close(exported.module()(data(3, 6)), model(data(3, 6)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": 0, "task_experts": 1}, "tasks is 0"),
        ({"task_experts": [1, 2, 3]}, "3 numbers for 2 tasks"),
        ({"task_experts": [1, 0], "shared_experts": 0}, "task 1 has no expert"),
        ({"task_experts": [1, -1]}, "negative"),
        ({"shared_experts": -1}, "negative"),
        ({"expert_layers": []}, "expert_layers is empty"),
        ({"expert_layers": [4, 0]}, "at least 1"),
        ({"activation": "rely"}, "choose one of relu"),
    ],
)
@pytest.mark.parametrize("arch", sorted(KINDS))
def test_mistakes_are_named(arch: str, change: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {
        "in_dim": 6,
        "tasks": 2,
        "task_experts": [1, 1],
        "shared_experts": 1,
        "expert_layers": [4],
        **change,
    }
    with pytest.raises(ValueError, match=message):
        KINDS[arch](**settings)


def test_levels_and_shared_gate_mistakes() -> None:
    with pytest.raises(ValueError, match="levels is 0"):
        PLE(6, 2, 1, 1, [4], levels=0)
    with pytest.raises(ValueError, match="shared gate needs shared experts"):
        ExtractionLevel(6, [1, 1], 0, [4], shared_gate=True)


def test_plain_torch() -> None:
    """The dense modules import in a notebook without TorchRec, Arrow, wandb or the schemas."""
    code = (
        "import sys, pipeline.archs, pipeline.heads, pipeline.metrics\n"
        "heavy = {'torchrec', 'pyarrow', 'wandb', 'pydantic', 'schemas', 'fbgemm_gpu'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
