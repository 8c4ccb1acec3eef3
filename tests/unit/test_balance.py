"""The arithmetic of balancing against closed forms, what its parameters reach, and its state in a warm start."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.archs import ARCHS
from pipeline.balance import (
    LEAST_FACTOR,
    GradNormState,
    UncertaintyState,
    cosines,
    gradnorm_factors,
    min_norm_factors,
    pcgrad_factors,
)
from pipeline.loss import Objective
from pipeline.model import DenseNetwork, network_size
from pipeline.train.migrate_plan import plan_migration
from pipeline.train.migrate_structure import differences, saved_job
from pipeline.train.shared_parameters import losses_reached
from schemas.errors import InputError
from schemas.job import JobConfig
from schemas.load import load_job, parse_job
from tests.logs import set_key, small_config, write_config

vectors = st.integers(0, 10**6).map(lambda seed: torch.randn(3, 5, generator=torch.Generator().manual_seed(seed)))


def gram(g_TP: Tensor) -> list[list[float]]:
    return (g_TP.double() @ g_TP.double().T).tolist()


def combined(factors: list[float], g_TP: Tensor) -> Tensor:
    return torch.tensor(factors, dtype=torch.float64) @ g_TP.double()


# ---- PCGrad


def test_two_conflicting_gradients_are_projected_by_the_formula() -> None:
    """g1 = (2, 0), g2 = (-1, 1): g1' = g1 + g2 = (1, 1), g2' = g2 + g1 / 2 = (0, 1); their sum is (1, 2)."""
    g_TP = torch.tensor([[2.0, 0.0], [-1.0, 1.0]])
    factors = pcgrad_factors(gram(g_TP), [[1], [0]])
    assert factors == [1.5, 2.0]
    assert combined(factors, g_TP).tolist() == [1.0, 2.0]


def test_without_conflict_nothing_is_projected() -> None:
    g_TP = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [0.0, 0.0, 0.0]])
    assert pcgrad_factors(gram(g_TP), [[2, 1], [0, 2], [1, 0]]) == [1.0, 1.0, 1.0]


@settings(max_examples=60, deadline=None)
@given(vectors, st.tuples(st.permutations([1, 2]), st.permutations([0, 2]), st.permutations([0, 1])))
def test_pcgrad_is_the_projection_of_vectors_one_after_another(g_TP: Tensor, orders: tuple[list[int], ...]) -> None:
    """Algorithm 1 of the paper, on the vectors themselves."""
    g_TP, projected = g_TP.double(), []
    for task, order in enumerate(orders):
        g_P = g_TP[task].clone()
        for other in order:
            product = g_P @ g_TP[other]
            if product < 0:
                g_P -= product / g_TP[other].square().sum() * g_TP[other]
        projected.append(g_P)
    factors = pcgrad_factors(gram(g_TP), orders)
    torch.testing.assert_close(combined(factors, g_TP), torch.stack(projected).sum(0), rtol=1e-9, atol=1e-9)
    assert min(factors) >= 1


# ---- MGDA


@pytest.mark.parametrize(
    ("one", "other"), [((3.0, 1.0), (-1.0, 2.0)), ((1.0, 0.0), (5.0, 0.1)), ((4.0, 4.0), (0.5, 0.5)), ((1, 0), (-1, 0))]
)
def test_two_tasks_of_least_norm_in_closed_form(one: tuple[float, float], other: tuple[float, float]) -> None:
    """alpha = clip(<g2 - g1, g2> / |g1 - g2|^2, 0, 1)."""
    a, b = torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)
    alpha = float(((b - a) @ b / (a - b).square().sum()).clamp(0, 1))
    assert min_norm_factors(gram(torch.stack([a, b]))) == pytest.approx([alpha, 1 - alpha], abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(vectors)
def test_three_tasks_of_least_norm_against_every_point_of_a_grid(g_TP: Tensor) -> None:
    found = min_norm_factors(gram(g_TP))
    assert sum(found) == pytest.approx(1)
    assert min(found) >= 0
    n = 60
    grid = torch.tensor([[i, j, n - i - j] for i, j in itertools.product(range(n + 1), repeat=2) if i + j <= n]) / n
    best = (grid.double() @ g_TP.double()).norm(dim=1).min()
    norm = combined(found, g_TP).norm()
    assert norm <= best + 1e-12
    assert norm >= best - 2 / n * g_TP.double().norm(dim=1).max()
    # the optimality of the least norm: no gradient has a smaller inner product with it than itself
    assert ((g_TP.double() @ combined(found, g_TP)) >= norm**2 - 1e-9).all()


def test_one_task_and_opposed_or_equal_gradients() -> None:
    assert min_norm_factors([[4.0]]) == [1.0]
    assert min_norm_factors([[1.0, -1.0], [-1.0, 1.0]]) == [0.5, 0.5]
    assert min_norm_factors([[1.0, 1.0], [1.0, 1.0]]) == [0.5, 0.5]


# ---- GradNorm


def test_the_first_update_of_gradnorm_by_hand() -> None:
    """Norms 1, 2, 6, ratios 1: the mean is 3, so the first two rise by lr times their norm and the third falls."""
    assert gradnorm_factors([1, 1, 1], [1, 2, 6], [1, 1, 1], 1.5, 0.01) == pytest.approx([1.01, 1.02, 0.94])


def test_a_task_that_trains_slowly_is_pulled_up() -> None:
    """Equal norms of 2; ratios .5 and 1.5 over a mean of 1: targets 2 * .5^a and 2 * 1.5^a."""
    assert gradnorm_factors([1, 1], [2, 2], [0.5, 1.5], 1.5, 0.1) == pytest.approx([0.8, 1.2])
    assert gradnorm_factors([1, 1], [2, 2], [0.5, 1.5], 0, 0.1) == [1, 1]  # at its target already


def test_a_factor_never_reaches_zero() -> None:
    assert gradnorm_factors([1, 1], [1, 1e6], [1, 1], 1, 0.1)[1] == LEAST_FACTOR == 0.001


def test_where_every_loss_is_down_to_zero_none_trains_slower() -> None:
    assert gradnorm_factors([1, 1], [1, 3], [0, 0], 1.5, 0.1) == gradnorm_factors([1, 1], [1, 3], [1, 1], 1.5, 0.1)


def test_the_largest_alpha_that_is_taken_overflows_nothing() -> None:
    with pytest.raises(InputError, match="less than or equal to 100"):
        job_of(balance={"method": "gradnorm", "alpha": 101})
    ratios = [1.0] + [0.0] * 999
    assert math.isfinite(gradnorm_factors([1.0] * 1000, [1.0] * 1000, ratios, 100, 0.1)[0])


def test_the_slope_is_that_of_the_papers_loss() -> None:
    """d/dw of sum_k |w_k n_k - target_k|, the target held constant, by autograd."""
    w = torch.tensor([0.4, 1.1, 1.5], dtype=torch.float64, requires_grad=True)
    n, r = torch.tensor([3.0, 1.0, 0.2]).double(), torch.tensor([0.9, 0.7, 0.3]).double()
    target = ((w * n).mean() * (r / r.mean()) ** 0.7).detach()
    (w * n - target).abs().sum().backward()
    assert w.grad is not None
    expected = (w - 0.05 * w.grad).tolist()
    assert gradnorm_factors(w.tolist(), n.tolist(), r.tolist(), 0.7, 0.05) == pytest.approx(expected)


def test_cosines_leave_out_tasks_without_a_gradient() -> None:
    g_TP = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-1.0, 1.0]])
    assert cosines(gram(g_TP)) == pytest.approx([-math.sqrt(0.5)])
    assert cosines([[1.0]]) == []
    small_TP = torch.tensor([[1e-4, 0.0], [0.0, 0.0], [-1e-4, 1e-4]], dtype=torch.float64)
    assert cosines(gram(small_TP)) == pytest.approx([-math.sqrt(0.5)]), "however small they are"


# ---- what the parameters reach


def job_of(model: dict[str, Any] | None = None, **changes: Any) -> JobConfig:
    config = small_config("log", "out")
    config["model"] = {"tower_layers": [4], **(model or {"arch": "shared_bottom", "bottom_layers": [8]})}
    for key, value in changes.items():
        set_key(config, key.replace("__", "."), value)
    return parse_job(config, "test")


def reached(job: JobConfig) -> dict[str, list[int]]:
    return losses_reached(job, Objective(job).of_logits)


SHARE: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "single_task": ({}, ()),
    "separate": ({"arch": "single_task", "separate_embeddings": True}, ()),
    "shared_bottom": ({"norm": "batch"}, ("arch.",)),
    "asymmetric": ({"reads": {"order": ["click"]}}, ("arch.bottoms.0.",)),
    "customized": ({}, ("arch.shared",)),
    "moe": ({}, ("arch.",)),
    "mmoe": ({"norm": "layer"}, ("arch.levels.0.experts.",)),
    "ml_mmoe": ({}, ("arch.levels.0.", "arch.levels.1.experts.")),
    "cgc": ({}, ("arch.levels.0.shared_experts.",)),
    "ple": ({}, ("arch.levels.0.task_experts", "arch.levels.0.shared", "arch.levels.1.shared_experts.")),
    "cross_stitch": ({"bottom_layers": [8, 6]}, ("arch.",)),
    "sluice": ({}, ("arch.",)),
}
"""Which parameters several tasks share, by the beginnings of their names; a stitch is one tensor of all tasks."""


@pytest.mark.parametrize("name", SHARE)
def test_every_architecture_shares_what_its_formula_says(name: str) -> None:
    model, shared = SHARE[name]
    job = job_of({"arch": name, **model})
    found = reached(job)
    network = DenseNetwork(job)
    assert found.keys() == {n for n, _ in network.named_parameters()}
    assert all(found.values()), "every parameter reaches some task"
    both = {n for n, tasks in found.items() if len(tasks) > 1}
    assert both == {n for n in found if shared and n.startswith(shared)}
    for task in range(4):
        assert found[f"towers.outputs.{task}.weight"] == [task]


def test_a_loss_down_a_chain_reaches_the_towers_of_its_parents() -> None:
    """Under `entire` the child's loss is of the product: what reaches a parent's logit reaches its child's loss."""
    chain = [{"name": "click"}, {"name": "cart", "given": "click"}, {"name": "order", "given": "cart"}]
    wanted = {"conditional": [[0], [1], [2]], "entire": [[0, 1, 2], [1, 2], [2]], "naive": [[0], [1], [2]]}
    for space, tasks in wanted.items():
        found = reached(job_of({"arch": "customized", "bottom_layers": [4]}, tasks=chain, space=space))
        for task, losses in enumerate(tasks):
            assert found[f"towers.outputs.{task}.weight"] == losses, space
            assert found[f"arch.bottoms.{task}.layers.0.weight"] == losses, space
        assert found["arch.shared_bottom.layers.0.weight"] == [0, 1, 2]


def test_all_architectures_are_among_those() -> None:
    assert {model.get("arch", name) for name, (model, _) in SHARE.items()} == set(ARCHS)


# ---- settings


def test_settings_of_one_method_are_refused_by_another() -> None:
    assert job_of().balance.method == "fixed"
    with pytest.raises(InputError, match="balance: unknown key 'alpha'"):
        job_of(balance={"method": "pcgrad", "alpha": 1})
    with pytest.raises(InputError, match=r"balance\.method.*'mgda'.*gradnorn"):
        job_of(balance={"method": "gradnorn"})
    with pytest.raises(InputError, match=r"balance\.every: .*greater than or equal to 1"):
        job_of(balance={"method": "gradnorm", "every": 0})


def test_the_method_is_set_on_the_command_line(tmp_path: Any) -> None:
    path = write_config(tmp_path / "job.yaml", small_config("log", "out"))
    job = load_job(str(path), ["balance.method=gradnorm", "balance.every=10"])
    assert job.balance.model_dump() == {"method": "gradnorm", "alpha": 1.5, "lr": 0.025, "every": 10}


def test_what_is_learnt_is_no_part_of_the_networks_size() -> None:
    sizes = {method: network_size(job_of(balance={"method": method})) for method in ("fixed", "uncertainty")}
    assert sizes["fixed"] == sizes["uncertainty"]


# ---- the state in a warm start


def state_of(job: JobConfig) -> dict[str, Tensor]:
    """The state by canonical name."""
    network = DenseNetwork(job)
    return {name: told.tensor for name, told in network.axes().items() if name.startswith("balance.")}


def test_the_state_is_kept_by_task() -> None:
    assert isinstance(DenseNetwork(job_of(balance={"method": "uncertainty"})).balance, UncertaintyState)
    assert isinstance(DenseNetwork(job_of(balance={"method": "gradnorm"})).balance, GradNormState)
    assert state_of(job_of()) == {}
    learnt = state_of(job_of(balance={"method": "gradnorm"}))
    assert {value.dtype for value in learnt.values()} == {torch.float64}
    assert {name: float(value) for name, value in learnt.items()} == {
        f"balance.{task}.{part}": value
        for task in ("click", "cart", "fav", "order")
        for part, value in (("factor", 1.0), ("first_loss", 0.0))
    }


def test_what_is_learnt_of_a_task_comes_and_goes_with_it() -> None:
    old = job_of(balance={"method": "gradnorm"})
    new = job_of(
        balance={"method": "gradnorm", "alpha": 0.5}, tasks=[{"name": "order"}, {"name": "click"}, {"name": "buy"}]
    )
    assert [d.name for d in differences(old, new, {}, {}) if not d.name.startswith("tasks.")] == []
    plan = plan_migration(old, new)
    moved = {move.new_name: move.old_name for move in plan.dense if move.name.startswith("balance.")}
    assert moved == {
        "balance.0.factor": "balance.3.factor",
        "balance.0.first_loss": "balance.3.first_loss",
        "balance.1.factor": "balance.0.factor",
        "balance.1.first_loss": "balance.0.first_loss",
    }
    assert {"balance.buy.factor", "balance.buy.first_loss"} <= plan.dense_new.keys()
    assert "balance.cart.factor" in plan.dense_removed
    assert not any(name.startswith("balance") for name in plan.summary()["mixed"])
    network, target = DenseNetwork(old), DenseNetwork(new)
    network.balance.write([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0])
    state, filled = network.state_dict(), target.state_dict()
    for move in plan.dense:
        move.weights(filled[move.new_name], state[move.old_name])
    assert target.balance() == ([4.0, 1.0, 1.0], [8.0, 5.0, 0.0])


def test_another_method_is_no_difference_that_must_be_named() -> None:
    old, new = job_of(balance={"method": "uncertainty"}), job_of(balance={"method": "gradnorm"})
    saved = saved_job(old.model_dump(mode="json", by_alias=True), new, "there")
    assert saved.balance == old.balance, "its own state is what its checkpoint holds"
    assert differences(saved, new, {}, {}) == []
    plan = plan_migration(saved, new)
    assert "balance.click.log_variance" in plan.dense_removed
    assert "balance.click.factor" in plan.dense_new
    before = old.model_dump(mode="json", by_alias=True)
    del before["balance"]  # a checkpoint of a version that knew no balance
    assert saved_job(before, new, "there").balance.method == "fixed"
