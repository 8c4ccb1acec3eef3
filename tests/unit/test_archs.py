"""Every architecture against formulas written out over its raw weights, its identities, and what it refuses.

B batch rows, D input width, T tasks, E experts, H width, N subspaces of all tasks.
"""

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.archs import ARCHS
from pipeline.archs.arch import Arch, mix
from pipeline.heads import Towers
from pipeline.train.shared_parameters import own_gradients, own_gradients_at_once

D, T = 6, 3
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "single_task": ("single_task", {"bottom_layers": [5, 4]}),
    "separate inputs": ("single_task", {"bottom_layers": [5, 4], "separate_embeddings": True}),
    "shared_bottom": ("shared_bottom", {"bottom_layers": [5, 4]}),
    "asymmetric": ("asymmetric", {"bottom_layers": [5, 4], "reads": [[2], [], [1, 0]]}),
    "asymmetric sum": ("asymmetric", {"bottom_layers": [4], "reads": [[1, 2], [0], []], "fusion": "sum"}),
    "asymmetric mean": ("asymmetric", {"bottom_layers": [4], "reads": [[1, 2], [0], []], "fusion": "mean"}),
    "customized": ("customized", {"bottom_layers": [5, 4]}),
    "moe": ("moe", {"experts": 4, "expert_layers": [5, 4]}),
    "mmoe": ("mmoe", {"experts": 4, "expert_layers": [5, 4], "gate_bias": True}),
    "cgc": ("cgc", {"task_experts": [1, 0, 3], "shared_experts": 2, "expert_layers": [5, 4]}),
    "cross_stitch": ("cross_stitch", {"bottom_layers": [5, 4, 3]}),
    "sluice": ("sluice", {"bottom_layers": [6, 6, 6], "subspaces": 3, "orthogonality": 0.3}),
    "ml_mmoe": ("ml_mmoe", {"experts": 2, "expert_layers": [5, 4], "levels": 3}),
    "ple": ("ple", {"task_experts": [1, 2, 3], "shared_experts": 2, "expert_layers": [5, 4], "levels": 3}),
}
every_case = pytest.mark.parametrize("case", CASES)
Weights = dict[str, Tensor]


def make(case: str, tasks: int = T, **changes: Any) -> Arch:
    name, settings = CASES[case]
    settings = settings | changes
    for key in ("reads", "task_experts"):
        if key in settings:
            settings[key] = settings[key][:tasks]
    if "reads" in settings:
        settings["reads"] = [[other for other in read if other < tasks] for read in settings["reads"]]
    return ARCHS[name](in_dim=D, tasks=tasks, **settings)


def randomise(module: nn.Module, seed: int = 1) -> Any:
    """float64, every number well away from its initial one."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.7)
    return module


def rows(count: int, case: str = "", tasks: int = T, seed: int = 2) -> Tensor:
    shape = (count, tasks, D) if case == "separate inputs" else (count, D)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- the formulas, over raw weights


def hand_mlp(w: Weights, name: str, x_BD: Tensor) -> Tensor:
    for layer in itertools.count():
        if f"{name}.layers.{layer}.weight" not in w:
            return x_BD
        z_BH = torch.einsum("oi,bi->bo", w[f"{name}.layers.{layer}.weight"], x_BD)
        z_BH = z_BH + w[f"{name}.layers.{layer}.bias"]
        x_BD = z_BH * (z_BH > 0)
    raise AssertionError


def hand_gate(w: Weights, name: str, x_BD: Tensor, experts: Sequence[Tensor]) -> Tensor:
    exp_BE = torch.exp(x_BD @ w[f"{name}.weight"].T + w.get(f"{name}.bias", torch.zeros(1)))
    total_B1 = exp_BE.sum(1, keepdim=True)
    assert exp_BE.shape[1] == len(experts)
    return sum((exp_BE[:, [i]] / total_B1 * expert for i, expert in enumerate(experts)), torch.zeros(1))


def hand_single(w: Weights, x: Tensor) -> list[Tensor]:
    return [hand_mlp(w, f"bottoms.{k}", x if x.dim() == 2 else x[:, k]) for k in range(T)]


def hand_asymmetric(w: Weights, x_BD: Tensor, reads: list[list[int]], fusion: str) -> list[Tensor]:
    f = hand_single(w, x_BD)
    if fusion == "concat":
        wide = max(1 + len(read) for read in reads)
        out = []
        for k, read in enumerate(reads):
            h_BH = torch.cat([f[k], *(f[j] for j in read)], 1)
            out.append(torch.cat([h_BH, h_BH.new_zeros(len(h_BH), wide * f[0].shape[1] - h_BH.shape[1])], 1))
        return out
    return [
        (f[k] + sum(f[j] for j in read)) / (1 + len(read) if fusion == "mean" else 1) for k, read in enumerate(reads)
    ]


def hand_mixture(w: Weights, x_BD: Tensor, experts: int, levels: int) -> list[Tensor]:
    inputs = [x_BD] * experts
    for level in range(levels):
        outputs = [hand_mlp(w, f"levels.{level}.experts.{i}", inputs[i]) for i in range(experts)]
        gates = sorted({int(n.split(".")[3]) for n in w if n.startswith(f"levels.{level}.gates.")})
        inputs = [hand_gate(w, f"levels.{level}.gates.{g}", x_BD, outputs) for g in gates]
    return inputs * T if len(inputs) == 1 else inputs


def hand_extraction(w: Weights, x_BD: Tensor, own: list[int], shared: int, levels: int) -> list[Tensor]:
    streams, common = [x_BD] * T, x_BD
    for j in range(levels):
        e_own = [[hand_mlp(w, f"levels.{j}.task_experts.{k}.{i}", streams[k]) for i in range(own[k])] for k in range(T)]
        e_shared = [hand_mlp(w, f"levels.{j}.shared_experts.{i}", common) for i in range(shared)]
        streams = [hand_gate(w, f"levels.{j}.task_gates.{k}", streams[k], e_own[k] + e_shared) for k in range(T)]
        if j < levels - 1:
            common = hand_gate(w, f"levels.{j}.shared_gate", common, [*itertools.chain(*e_own), *e_shared])
    return streams


def hand_stitch(w: Weights, x_BD: Tensor, levels: int, parts: int) -> list[list[Tensor]]:
    """Each level's outputs, a subspace at a time."""
    streams, out = [x_BD] * T, []
    for level in range(levels):
        own = [hand_mlp(w, f"levels.{level}.{k}", streams[k]) for k in range(T)]
        width = own[0].shape[1] // parts
        cut = [own[k][:, s * width : (s + 1) * width] for k in range(T) for s in range(parts)]
        a = w[f"stitches.{level}"]
        mixed = [sum((a[n, m] * cut[m] for m in range(T * parts)), torch.zeros(1)) for n in range(T * parts)]
        streams = [torch.cat(mixed[k * parts : (k + 1) * parts], 1) for k in range(T)]
        out.append(streams)
    return out


def hand_sluice(w: Weights, x_BD: Tensor) -> list[Tensor]:
    levels = hand_stitch(w, x_BD, 3, 3)
    return [sum((w["layer_mixture"][k, m] * levels[m][k] for m in range(3)), torch.zeros(1)) for k in range(T)]


def hand_customized(w: Weights, x_BD: Tensor) -> list[Tensor]:
    return [torch.cat([hand_mlp(w, "shared_bottom", x_BD), own], 1) for own in hand_single(w, x_BD)]


HAND: dict[str, Callable[[Weights, Tensor], list[Tensor]]] = {
    "single_task": hand_single,
    "separate inputs": hand_single,
    "shared_bottom": lambda w, x: [hand_mlp(w, "bottom", x)] * T,
    "asymmetric": lambda w, x: hand_asymmetric(w, x, [[2], [], [1, 0]], "concat"),
    "asymmetric sum": lambda w, x: hand_asymmetric(w, x, [[1, 2], [0], []], "sum"),
    "asymmetric mean": lambda w, x: hand_asymmetric(w, x, [[1, 2], [0], []], "mean"),
    "customized": hand_customized,
    "moe": lambda w, x: hand_mixture(w, x, 4, 1),
    "mmoe": lambda w, x: hand_mixture(w, x, 4, 1),
    "cgc": lambda w, x: hand_extraction(w, x, [1, 0, 3], 2, 1),
    "cross_stitch": lambda w, x: hand_stitch(w, x, 3, 1)[-1],
    "sluice": hand_sluice,
    "ml_mmoe": lambda w, x: hand_mixture(w, x, 2, 3),
    "ple": lambda w, x: hand_extraction(w, x, [1, 2, 3], 2, 3),
}


def test_every_architecture_has_a_case() -> None:
    assert {name for name, _ in CASES.values()} == set(ARCHS)
    assert HAND.keys() == CASES.keys()


@every_case
def test_forward_and_every_gradient_are_the_formulas(case: str) -> None:
    model = randomise(make(case))
    x, hand_x = rows(7, case).requires_grad_(), rows(7, case).requires_grad_()
    weights = {name: value.detach().clone().requires_grad_() for name, value in model.state_dict().items()}
    h_BTH, hand_BTH = model(x), torch.stack(HAND[case](weights, hand_x), dim=1)
    assert h_BTH.shape == (7, T, model.out_dim)
    torch.testing.assert_close(h_BTH, hand_BTH, rtol=0, atol=1e-10)
    pull_BTH = torch.randn(h_BTH.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (h_BTH * pull_BTH).sum().backward()
    (hand_BTH * pull_BTH).sum().backward()
    torch.testing.assert_close(x.grad, hand_x.grad, rtol=0, atol=1e-10)
    assert {name for name, _ in model.named_parameters()} == weights.keys()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} is unused"
        torch.testing.assert_close(parameter.grad, weights[name].grad, rtol=0, atol=1e-10, msg=name)
        assert parameter.grad.abs().max() > 0, f"{name} has no gradient"


@every_case
@pytest.mark.filterwarnings("error")  # vmap warns of an operator that it can only loop over
def test_gradients_of_all_tasks_at_once_are_those_of_each(case: str) -> None:
    model = randomise(make(case))
    part_T = model(rows(7, case)).pow(2).sum(dim=(0, 2))
    parameters = list(model.parameters())
    at_once_TP, each_TP = own_gradients_at_once(part_T, parameters), own_gradients(part_T, parameters)
    assert each_TP.shape == (T, sum(p.numel() for p in parameters))
    torch.testing.assert_close(at_once_TP, each_TP, rtol=0, atol=1e-10)


@pytest.mark.parametrize("experts", [1, 2, 9])
def test_experts_are_mixed_in_fp32_under_autocast(experts: int) -> None:
    logits_BE, outputs = torch.randn(50, experts), [torch.randn(50, 7) for _ in range(experts)]
    gate = nn.Linear(experts, experts, bias=False)  # whose logits are what it reads
    with torch.no_grad():
        gate.weight.copy_(torch.eye(experts))
    with torch.autocast("cpu", torch.bfloat16):
        mixed_BH = mix(gate, logits_BE, [output_BH.bfloat16() for output_BH in outputs])
    exact_BE = torch.softmax(logits_BE.bfloat16().double(), dim=1)
    exact_BH = torch.einsum("be,beh->bh", exact_BE, torch.stack([o.bfloat16().double() for o in outputs], dim=1))
    assert mixed_BH.dtype == torch.float32
    torch.testing.assert_close(mixed_BH.double(), exact_BH, rtol=1e-5, atol=1e-6)


# ---- identities


def few_bits(numbers: Tensor) -> Tensor:
    """Rounded to sixteenths: sums of a few products of these are exact in float64, in whatever order they are taken."""
    return (numbers * 16).round() / 16


def same(one: nn.Module, other: nn.Module, rename: Callable[[str], str] = str) -> None:
    """Under the same weights, by `rename`d names, both compute the same, bit for bit."""
    randomise(one), other.double()
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.copy_(few_bits(parameter))
    renamed = {rename(name): value for name, value in one.state_dict().items()}
    other.load_state_dict({name: value for name, value in renamed.items() if name}, strict=False)
    missing = other.state_dict().keys() - renamed.keys()
    assert all("gate" in name or "stitch" in name or "mixture" in name for name in missing), missing
    x_BD = few_bits(rows(9))
    assert torch.equal(one(x_BD), other(x_BD))


def test_ple_with_one_level_is_cgc() -> None:
    same(make("cgc"), make("ple", task_experts=[1, 0, 3], levels=1))


def test_cgc_without_task_experts_is_mmoe_over_its_shared_experts() -> None:
    same(
        make("mmoe"),
        make("cgc", task_experts=[0, 0, 0], shared_experts=4, gate_bias=True),
        lambda name: name.replace("experts", "shared_experts").replace("gates", "task_gates"),
    )


def test_ml_mmoe_with_one_level_is_mmoe() -> None:
    same(make("mmoe"), make("ml_mmoe", experts=4, gate_bias=True, levels=1))


def test_mmoe_and_moe_with_one_expert_are_shared_bottom() -> None:
    for case in ("mmoe", "moe"):
        same(
            make("shared_bottom"),
            make(case, experts=1),
            lambda name: f"levels.0.experts.0{name.removeprefix('bottom')}",
        )


def test_moe_is_mmoe_with_equal_gates() -> None:
    moe, mmoe = randomise(make("moe")), make("mmoe", gate_bias=False).double()
    mmoe.load_state_dict(
        moe.state_dict() | {f"levels.0.gates.{k}.weight": moe.levels[0].gates[0].weight for k in range(T)}
    )
    torch.testing.assert_close(mmoe(rows(9)), moe(rows(9)), rtol=0, atol=1e-14)


def bottoms_to_levels(name: str) -> str:
    _, task, _, layer, kind = name.split(".")
    return f"levels.{layer}.{task}.layers.0.{kind}"


def test_cross_stitch_with_the_identity_is_single_task() -> None:
    stitch = make("cross_stitch")
    for a_TT in stitch.stitches:
        nn.init.eye_(a_TT)
    same(make("single_task", bottom_layers=[5, 4, 3]), stitch, bottoms_to_levels)


def test_sluice_with_one_subspace_and_the_last_layer_alone_is_cross_stitch() -> None:
    sluice = make("sluice", bottom_layers=[4, 4], subspaces=1)
    with torch.no_grad():
        sluice.layer_mixture.copy_(torch.tensor([0.0, 1.0]).expand(T, 2))
    same(make("cross_stitch", bottom_layers=[4, 4]), sluice)


def test_asymmetric_where_nobody_reads_is_single_task() -> None:
    for fusion in ("concat", "sum", "mean"):
        same(make("single_task"), make("asymmetric", reads=[[], [], []], fusion=fusion))


def test_separate_inputs_that_are_equal_are_one_input() -> None:
    one, other = randomise(make("single_task")), randomise(make("separate inputs"))
    assert torch.equal(one(rows(5)), other(rows(5).unsqueeze(1).expand(-1, T, -1)))


# ---- any number of tasks and rows, and the start


@every_case
@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("tasks", [1, 3])
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_one_task_gives_its_tensor_and_any_batch_works(case: str, count: int, tasks: int, norm: str) -> None:
    model = make(case, tasks, norm=norm).double()
    h_BTH = model(rows(count, case, tasks))
    assert h_BTH.shape == (count, tasks, max(model.out_dims))
    assert len(model.out_dims) == tasks
    h_BTH.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@every_case
def test_one_task_is_the_formulas_too(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "T", 1)
    model, x = randomise(make(case, 1)), rows(5, case, 1)
    hand = hand_single if case.startswith("asymmetric") else HAND[case]  # there is nobody to read
    (h_BH,) = hand(model.state_dict(), x)
    torch.testing.assert_close(model(x), h_BH.unsqueeze(1), rtol=0, atol=1e-10)
    assert h_BH.abs().max() > 0


@every_case
def test_a_row_does_not_depend_on_its_batch(case: str) -> None:
    model = randomise(make(case))
    torch.testing.assert_close(model(rows(4, case))[2:3], model(rows(4, case)[2:3]), rtol=0, atol=1e-12)


@every_case
def test_experts_and_bottoms_differ_at_the_start(case: str) -> None:
    torch.manual_seed(0)
    weights = [p for name, p in make(case).named_parameters() if name.endswith("weight") and p.dim() == 2]
    assert weights
    for one, other in itertools.combinations(weights, 2):
        assert one.shape != other.shape or not torch.equal(one, other)


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_cross_stitch_starts_near_the_identity(tasks: int) -> None:
    for a_TT in make("cross_stitch", tasks).stitches:
        others = (1 - torch.eye(tasks)) * (0.1 / (tasks - 1) if tasks > 1 else 0)
        torch.testing.assert_close(a_TT.data, torch.eye(tasks) * (0.9 if tasks > 1 else 1) + others)


@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_sluice_starts_balanced_or_imbalanced(tasks: int) -> None:
    size = tasks * 3
    imbalanced, balanced = (make("sluice", tasks, init=init) for init in ("imbalanced", "balanced"))
    for own, even in zip(imbalanced.stitches, balanced.stitches, strict=True):
        assert own.shape == even.shape == (size, size)
        torch.testing.assert_close(own.data, torch.full((size, size), 0.1 / (size - 1)).fill_diagonal_(0.9))
        torch.testing.assert_close(even.data, torch.full((size, size), 1 / size))
    torch.testing.assert_close(imbalanced.layer_mixture.data, torch.tensor([0.05, 0.05, 0.9]).repeat(tasks, 1))
    torch.testing.assert_close(balanced.layer_mixture.data, torch.full((tasks, 3), 1 / 3))
    assert make("sluice", tasks, bottom_layers=[6]).layer_mixture.tolist() == [[1.0]] * tasks


def test_sluices_penalty_is_the_squared_cosines_of_its_subspaces() -> None:
    """Forward and gradient: by column a of subspace s it is 2 lambda sum_b <g_a, g_b> g_b, b of the other subspaces."""
    model = randomise(make("sluice"))
    total = 0.0
    model.penalty().backward()
    for level, task in itertools.product(range(3), range(T)):
        weight = model.levels[level][task].layers[0].weight
        g = weight.detach().T  # the layer as a map of rows: D x H
        gradient = torch.zeros_like(g)
        for a, b in itertools.permutations(range(6), 2):
            if a // 2 != b // 2:
                product = g[:, a] @ g[:, b]
                total += float(product**2) / 2  # each pair is met twice
                gradient[:, a] += 2 * 0.3 * product * g[:, b]
        torch.testing.assert_close(weight.grad.T, gradient, rtol=1e-12, atol=1e-12)
    assert model.penalty().item() == pytest.approx(0.3 * total, rel=1e-12)
    others = [
        name for name, parameter in model.named_parameters() if "weight" not in name and parameter.grad is not None
    ]
    assert others == [], "it is of the layers' weights alone"


def test_the_penalty_is_zero_for_subspaces_that_read_apart_and_none_where_there_is_nothing_to_keep_apart() -> None:
    model = make("sluice")
    for level in model.levels:
        for layer in level:
            nn.init.eye_(layer.layers[0].weight)
    assert model.penalty().item() == 0
    assert make("sluice", subspaces=1).penalty() is None
    assert make("sluice", orthogonality=0).penalty() is None
    assert [case for case in CASES if make(case).penalty() is not None] == ["sluice"]


# ---- towers of unlike widths


def test_each_tower_reads_its_own_width_alone() -> None:
    arch, towers = randomise(make("asymmetric")), randomise(Towers([8, 4, 12], T, [3]))
    assert arch.out_dims == [8, 4, 12]
    assert [tower.layers[0].in_features for tower in towers.towers] == [8, 4, 12]
    h_BTH = arch(rows(5))
    assert (h_BTH[:, 1, 4:] == 0).all()
    assert (h_BTH[:, 0, 8:] == 0).all()
    noise_BTH = h_BTH.clone()
    noise_BTH[:, 1, 4:] = 7.0
    noise_BTH[:, 0, 8:] = torch.nan
    assert torch.equal(towers(noise_BTH), towers(h_BTH))
    with pytest.raises(ValueError, match="3 widths for 2 tasks"):
        Towers([8, 4, 12], 2)
