"""Every method of balancing through the real step on sharded tables: against vectors by hand, on ranks, resumed."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.data.files import plan
from pipeline.embedding.tables import initialise_tables
from pipeline.loss import LossSums, binary_loss
from pipeline.model import RankingModel
from pipeline.train.balancing import METHODS, Uncertainty
from pipeline.train.dist import Ranks
from pipeline.train.loop import training_batches
from pipeline.train.run import START
from pipeline.train.step import TrainStep
from schemas.errors import InputError
from schemas.load import parse_job
from tests.distributed.ranks import run_ranks
from tests.distributed.training import RankState, _shards, build, train, train_saving, whole
from tests.logs import DAYS, set_key, small_config, small_table, write_log

BATCH = 23
"""12 rows on one rank, 11 on the other."""
STEPS, CUT = 5, 2
ROWS = STEPS * BATCH - 7
LR = 0.5
UNTOLD = 9.0
TASKS = [{"name": "click"}, {"name": "skip", "weight": 0.75}, {"name": "cart", "given": "click", "weight": 1.5}]
"""`skip` is click turned round: their gradients conflict."""
METHODS_WITH: dict[str, dict[str, Any]] = {
    "fixed": {},
    "uncertainty": {},
    "gradnorm": {"lr": 0.2, "alpha": 0.5},
    "pcgrad": {},
    "mgda": {},
    "normalized": {"method": "mgda", "normalize": True},
}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("balancing") / "log"
    for days, rows in ((DAYS[:1], ROWS), (DAYS[1:], 1)):
        click_N = small_table(rows, 3, days[0])["click"].to_numpy()
        write_log(root, days, rows, seed=3, row_group_rows=50, skip=1 - click_N)
    return root


def config_of(log: Path, name: str, tasks: list[dict[str, Any]] = TASKS, **changes: Any) -> dict[str, Any]:
    """SGD on the tables, laid in every way, so that their change is their gradient."""
    config = small_config(log, log / "unused", DAYS[:2])
    shardings = {"user": "row_wise", "item": "column_wise", "session": "data_parallel", "city": "row_wise"}
    keys: dict[str, Any] = {f"tables.{table}.sharding": sharding for table, sharding in shardings.items()}
    keys |= {
        "tasks": tasks,
        "balance": {"method": name} | METHODS_WITH[name],
        "model": {"arch": "customized", "bottom_layers": [8, 6], "tower_layers": [4], "activation": "tanh"},
        "embedding_optimizer": {"name": "sgd", "lr": LR},
        "dense_optimizer": {"lr": 0.01, "weight_decay": 0.1},
        "train.batch_size": BATCH,
        "train.log_every": STEPS,
        "train.checkpoint_every": CUT,
    }
    for key, value in (keys | changes).items():
        set_key(config, key, value)
    return config


# ---- one step against vectors by hand


def steps_of(rank: int, world: int, configs: list[dict[str, Any]], steps: int) -> list[list[RankState]]:
    """The state before and after each step, its effective weights in place of losses."""
    out = []
    for config in configs:
        job, model, optimizers, ranks = build(config, rank, world)
        step = TrainStep(model, optimizers, job, ranks, steps)
        batches = training_batches(job, plan(job, job.data.train), ranks, START)
        model.train()
        states = [RankState([], [], _shards({"model": model.state_dict()}))]
        for number in range(steps):
            output = step(batches, number)
            tensors = {"model": model.state_dict(), "optimizer": optimizers.all.state_dict()}
            told = [output.weights, [UNTOLD if output.cosine is None else output.cosine], output.sums.mean_T.tolist()]
            states.append(RankState(told, [], _shards(tensors)))
        batches.close()
        step.detach()
        out.append(states)
    return out


def own_gradients(config: dict[str, Any], before: dict[str, Tensor]) -> tuple[list[float], list[dict[str, Tensor]]]:
    """L_k over the whole first batch, and its gradient for every parameter and table: one process, plain modules."""
    job = parse_job(config, "test")
    model = RankingModel(job)
    model.embeddings.to_empty(device="cpu")
    initialise_tables(model, job)
    for name, value in model.state_dict().items():
        if not name.startswith("dense.balance"):
            assert torch.equal(value, before[f"model/{name}"]), name
    batches = training_batches(job, plan(job, job.data.train), Ranks(0, 1, torch.device("cpu")), START)
    batch = next(batches)
    batches.close()
    logits_BT = model(batch)
    losses, gradients = [], []
    for task in range(len(job.tasks)):
        inside = batch.space_BT[:, task] > 0
        loss = binary_loss(logits_BT[inside, task], batch.labels_BT[inside, task]).mean()
        if job.spaces[task] == "entire":
            up = [task] if job.parents[task] is None else [task, job.parents[task]]
            p_B, y_B = logits_BT[:, up].double().sigmoid().prod(1), batch.labels_BT[:, up].double().prod(1)
            loss = torch.nn.functional.binary_cross_entropy(p_B, y_B)
        names, parameters = zip(*model.named_parameters(), strict=True)
        found = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
        losses.append(float(loss.detach()))
        gradients.append(dict(zip(names, found, strict=True)))
    return losses, gradients


def flat(gradients: list[dict[str, Tensor]], names: list[str]) -> Tensor:
    """G_TP."""
    return torch.stack([torch.cat([g[name].flatten() for name in names]) for g in gradients]).double()


def minimum_of_two(one: Tensor, other: Tensor) -> list[float]:
    alpha = float(((other - one) @ other / (one - other).square().sum()).clamp(0, 1))
    return [alpha, 1 - alpha]


def shared_names(gradients: list[dict[str, Tensor]], entire: bool) -> list[str]:
    """The dense parameters that have a gradient from every task: they are as the formulas have it."""
    beginnings = ["dense.arch.shared"]
    if entire:  # the second task's loss is of the product: what the first alone has reaches it as well
        beginnings += ["dense.arch.bottoms.0.", "dense.towers.towers.0.", "dense.towers.outputs.0."]
    found = [n for n in gradients[0] if n.startswith("dense.") and all(g[n].abs().max() > 0 for g in gradients)]
    assert found == [name for name in gradients[0] if name.startswith(tuple(beginnings))]
    return found


def check_step(
    config: dict[str, Any], before: dict[str, Tensor], after: dict[str, Tensor], weights: list[float]
) -> None:
    """Every dense parameter's and table's gradient in the first step, by the method's own formula on vectors."""
    method = config["balance"]["method"]
    losses, gradients = own_gradients(config, before)
    w = [task.get("weight", 1.0) for task in config["tasks"]]
    shared = shared_names(gradients, entire=config.get("space") == "entire")
    g = [weight * row for weight, row in zip(w, flat(gradients, shared), strict=True)]
    plain = sum(g)
    assert isinstance(plain, Tensor)
    wanted, on_shared, on_own, on_tables = w, plain, w, w
    if method in ("pcgrad", "mgda"):
        assert len(g) == 2
        one, other = g
        assert (one @ other < 0) == (config.get("space") != "entire"), "the two tasks conflict"
    if method == "pcgrad" and one @ other < 0:
        on_shared = (one - one @ other / (other @ other) * other) + (other - one @ other / (one @ one) * one)
        wanted = [w[0] * (1 - one @ other / (one @ one)), w[1] * (1 - one @ other / (other @ other))]
    if method == "mgda":
        scale = [1 / float(v.norm()) if config["balance"].get("normalize") else 1.0 for v in g]
        alpha = minimum_of_two(one * scale[0], other * scale[1])
        alpha = [a * s for a, s in zip(alpha, scale, strict=True)]
        wanted = on_tables = [weight * a / sum(alpha) for weight, a in zip(w, alpha, strict=True)]
        on_shared = sum(e * row for e, row in zip(wanted, flat(gradients, shared), strict=True))
    np.testing.assert_allclose(weights, wanted, rtol=1e-5)

    pieces = dict(zip(shared, on_shared.split([gradients[0][n].numel() for n in shared]), strict=True))
    for name in gradients[0]:
        by_task = [gradient[name] for gradient in gradients]
        if name.startswith("embeddings"):
            expected = sum(e * v for e, v in zip(on_tables, by_task, strict=True))
            found = (before[f"model/{name}"] - after[f"model/{name}"]) / LR
        else:
            moment = next(v for k, v in after.items() if k.startswith("optimizer") and k.endswith(f"{name}/exp_avg"))
            found = 10 * moment  # AdamW's first moment after one step is .1 of the gradient
            if name in pieces:
                expected = pieces[name].view_as(moment).float()
            elif name.startswith("dense.balance"):
                continue
            else:
                expected = sum(e * v for e, v in zip(on_own, by_task, strict=True))
        assert isinstance(expected, Tensor)
        torch.testing.assert_close(
            found, expected, rtol=2e-4, atol=2e-6, msg=lambda m, n=f"{method} {name}": f"{n}: {m}"
        )
    learnt = {name.rpartition("balance.")[2]: value for name, value in after.items() if "dense.balance." in name}
    if method == "uncertainty":
        for task, (weight, loss) in enumerate(zip(w, losses, strict=True)):
            # d/ds of w (exp(-s) L + s) at s = 0; no decay, and AdamW's first step is lr
            assert 10 * float(learnt[f"{task}.log_variance/exp_avg"]) == pytest.approx(weight * (1 - loss), rel=1e-5)
            assert abs(float(learnt[f"{task}.log_variance"])) == pytest.approx(0.01, rel=1e-3)
    if method == "gradnorm":
        norms = [float(row.norm()) for row in flat(gradients, shared)]
        mean = sum(norms) / len(norms)
        stepped = [1 - 0.2 * math.copysign(n, n - mean) for n in norms]
        for task in range(len(w)):
            expected_factor = stepped[task] * len(w) / sum(stepped)
            assert float(learnt[f"{task}.factor"]) == pytest.approx(expected_factor, rel=1e-5)
            assert float(learnt[f"{task}.first_loss"]) == pytest.approx(losses[task], rel=1e-6)


@pytest.mark.parametrize("world", [1, 2])
def test_the_first_step_of_every_method_is_its_formula(log: Path, world: int) -> None:
    """Shared and own dense parameters, and tables under every sharding: exactly the documented gradients."""
    configs = [config_of(log, name, TASKS[:2]) for name in METHODS_WITH]
    assert {config["balance"]["method"] for config in configs} == set(METHODS)
    ranks = run_ranks(world, steps_of, world, configs, 1)
    for number, config in enumerate(configs):
        before, after = (whole([rank[number][when] for rank in ranks]) for when in (0, 1))
        assert all(rank[number][1].losses == ranks[0][number][1].losses for rank in ranks), "ranks agree exactly"
        check_step(config, before, after, ranks[0][number][1].losses[0])


@pytest.mark.parametrize("world", [1, 2])
def test_so_it_is_where_a_loss_reaches_a_parents_tower(log: Path, world: int) -> None:
    """Under `entire` the parent's bottom and tower are shared: they follow the method, not its weight alone."""
    names = ("gradnorm", "pcgrad", "mgda", "normalized")
    configs = [config_of(log, name, [TASKS[0], TASKS[2]], space="entire") for name in names]
    ranks = run_ranks(world, steps_of, world, configs, 1)
    for number, config in enumerate(configs):
        before, after = (whole([rank[number][when] for rank in ranks]) for when in (0, 1))
        check_step(config, before, after, ranks[0][number][1].losses[0])


def test_a_penalty_is_whole_beside_gradients_that_are_replaced(log: Path) -> None:
    """Where no task weighs anything, the penalty's gradient is all there is, whatever the method puts in place."""
    model = {"arch": "sluice", "bottom_layers": [6, 6], "orthogonality": 0.7, "tower_layers": []}
    tasks = [{"name": name, "weight": 0} for name in ("click", "skip")]
    configs = [config_of(log, name, tasks, model=model) for name in ("gradnorm", "pcgrad", "mgda")]
    dense = RankingModel(parse_job(configs[0], "test")).dense
    penalty = dense.penalty()
    assert penalty is not None
    penalty.backward()
    assert dense.arch.levels[0][0].layers[0].weight.grad.abs().max() > 1e-3
    (states,) = run_ranks(1, steps_of, 1, configs, 1)
    for config, (_, after) in zip(configs, states, strict=True):
        tensors = whole([after])
        for name, parameter in dense.named_parameters():
            moment = next(v for k, v in tensors.items() if k.endswith(f"dense.{name}/exp_avg"))
            expected = torch.zeros_like(parameter) if parameter.grad is None else 0.1 * parameter.grad
            told = f"{config['balance']['method']} {name}"
            torch.testing.assert_close(moment, expected, rtol=1e-5, atol=1e-9, msg=lambda m, n=told: f"{n}: {m}")


# ---- whole runs


def train_all(rank: int, world: int, configs: list[dict[str, Any]]) -> list[RankState]:
    return [train(rank, world, config) for config in configs]


def saving_all(rank: int, world: int, configs: list[dict[str, Any]], folder: str, step: int) -> list[RankState]:
    return [train_saving(rank, world, config, f"{folder}/{n}", step) for n, config in enumerate(configs)]


def test_every_method_trains_alike_on_ranks_and_goes_on_bitwise(log: Path, tmp_path: Path) -> None:
    """With batch normalisation; three tasks, so that PCGrad's order is drawn. On other ranks to 1e-5."""
    configs = [config_of(log, name, **{"model.norm": "batch"}) for name in METHODS_WITH]
    one = run_ranks(1, train_all, 1, configs)
    two = run_ranks(2, saving_all, 2, configs, str(tmp_path), CUT)
    went_on = run_ranks(2, saving_all, 2, configs, str(tmp_path), STEPS + 1)
    ended = {}
    for number, name in enumerate(METHODS_WITH):
        a, b = whole([one[0][number]]), whole([rank[number] for rank in two])
        resumed = whole([rank[number] for rank in went_on])
        assert a.keys() == b.keys() == resumed.keys()
        for key, value in b.items():
            assert torch.equal(resumed[key], value), f"{name} {key}"
            rtol = 1e-3 if "exp_avg" in key else 1e-5
            torch.testing.assert_close(
                a[key], value, rtol=rtol, atol=1e-5, msg=lambda m, n=f"{name} {key}": f"{n}: {m}"
            )
        (report,) = two[0][number].reports
        (after,) = went_on[0][number].reports
        assert (report.weights, report.cosine) == (after.weights, after.cosine)
        assert report.balanced == (name != "fixed")
        assert (report.cosine is None) == (name in ("fixed", "uncertainty"))
        assert name != "pcgrad" or report.cosine < 0, "a conflict"
        ended[name] = (report.weights, b["model/dense.towers.outputs.0.weight"])
        assert int(b["model/dense.towers.towers.0.norms.0.num_batches_tracked"]) == STEPS, "walked back, not forward"
    for one_name, other in itertools.combinations(METHODS_WITH, 2):
        assert ended[one_name][0] != ended[other][0]
        assert not torch.equal(ended[one_name][1], ended[other][1])


# ---- spaces without rows, a task alone, nothing shared


def test_an_empty_space_takes_no_part(log: Path, tmp_path: Path) -> None:
    """No row is clicked: cart has no row, and neither its tower nor what is learnt of it moves."""
    write_log(tmp_path / "log", DAYS[:1], BATCH, seed=3, click=[0] * BATCH, cart=[0] * BATCH)
    write_log(tmp_path / "log", DAYS[1:], 1, click=[0], cart=[0])
    tasks = [{"name": "click"}, {"name": "cart", "given": "click"}]
    configs = [config_of(tmp_path / "log", name, tasks) for name in METHODS_WITH]
    for config in configs:
        config["data"]["funnel"] = "drop"
        config["dense_optimizer"] = {"lr": 0.01}
    ranks = run_ranks(2, steps_of, 2, configs, 1)
    for number, name in enumerate(METHODS_WITH):
        before, after = (whole([rank[number][when] for rank in ranks]) for when in (0, 1))
        weights, _, losses = ranks[0][number][1].losses
        assert losses[1] == 0
        assert weights == ([1.0, 0.0] if METHODS_WITH[name].get("method", name) == "mgda" else [1.0, 1.0])
        for key, value in after.items():
            assert value.isfinite().all(), f"{name} {key}"
            if key.startswith(
                ("model/dense.towers.towers.1.", "model/dense.towers.outputs.1.", "model/dense.balance.1.")
            ):
                assert torch.equal(value, before[key]), f"{name} {key}"
        assert not torch.equal(after["model/dense.towers.outputs.0.bias"], before["model/dense.towers.outputs.0.bias"])


def test_a_task_alone_trains_as_ever(log: Path) -> None:
    configs = [config_of(log, name, TASKS[:1]) for name in METHODS_WITH if name != "uncertainty"]
    (states,) = run_ranks(1, steps_of, 1, configs, 2)
    plain = whole([states[0][2]])
    for state in states[1:]:
        for key, value in whole([state[2]]).items():
            if "dense.balance" not in key:
                assert torch.equal(value, plain[key]), key


def refused(rank: int, config: dict[str, Any]) -> str:
    try:
        steps_of(rank, 2, [config], 1)
    except InputError as error:
        return str(error)
    return "nothing"


def test_where_nothing_is_shared_the_method_is_refused(log: Path) -> None:
    config = config_of(log, "pcgrad", model={"arch": "single_task", "bottom_layers": [8]})
    told = run_ranks(2, refused, config)
    assert all("balance.method: 'pcgrad'" in text and "'single_task' has none" in text for text in told)


# ---- uncertainty's optimum


def at_the_optimum(rank: int, config: dict[str, Any], world: int) -> tuple[list[float], list[float], list[float]]:
    """Weights told and gradients of s where s_k = log L_k, and s after descending from 0, of fixed losses."""
    job, model, _, _ = build(config, rank, world)
    balance = Uncertainty(job, model.module.dense, lambda logits: logits)
    losses = torch.tensor([0.5, 0.02, 3.0])
    parts = losses * (0.25 if rank else 1 - 0.25 * (world - 1))  # this rank's share of each
    sums = LossSums(losses.double() * 7, torch.full((3,), 7.0, dtype=torch.float64))
    parameters = list(model.module.dense.balance.parameters())

    def gradients() -> tuple[list[float], list[float]]:
        balanced = balance(parts, sums, [1.0, 2.0, 0.5], 0, None)
        found = torch.stack(torch.autograd.grad(balanced.loss, parameters))
        torch.distributed.all_reduce(found)
        return balanced.weights, (found / world).tolist()

    for _ in range(400):
        _, found = gradients()
        with torch.no_grad():
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter -= 0.5 * gradient
    reached = [float(parameter.detach()) for parameter in parameters]
    for parameter, loss in zip(parameters, losses, strict=True):
        nn.init.constant_(parameter, math.log(loss))
    return (*gradients(), reached)


@pytest.mark.parametrize("world", [1, 2])
def test_uncertainty_ends_where_s_is_the_log_of_the_loss(log: Path, world: int) -> None:
    for weights, slopes, reached in run_ranks(world, at_the_optimum, config_of(log, "uncertainty"), world):
        assert weights == pytest.approx([1 / 0.5, 2 / 0.02, 0.5 / 3.0], rel=1e-5)
        assert slopes == pytest.approx([0, 0, 0], abs=1e-5)
        assert reached == pytest.approx([math.log(loss) for loss in (0.5, 0.02, 3.0)], abs=1e-3)


def after_no_gradient(rank: int, config: dict[str, Any]) -> tuple[float, float]:
    """A log variance of 1 and a weight of 1, after a step of the dense optimizer on gradients of zero."""
    _, model, optimizers, _ = build(config, rank, 1)
    dense = model.module.dense
    told = [next(dense.balance.parameters()), dense.towers.outputs[0].bias]
    for parameter in dense.parameters():
        nn.init.ones_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    optimizers.all.step()
    return float(told[0].detach()), float(told[1].detach())


def test_log_variances_do_not_decay(log: Path) -> None:
    ((learnt, weight),) = run_ranks(1, after_no_gradient, config_of(log, "uncertainty"))
    assert learnt == 1
    assert weight == pytest.approx(1 - 0.01 * 0.1)


# ---- gradnorm's cost, precision, compilation, what is not finite


def test_gradnorm_looks_only_as_often_as_it_is_told(log: Path) -> None:
    config = config_of(log, "gradnorm", balance={"method": "gradnorm", "every": 2})
    (states,) = run_ranks(1, steps_of, 1, [config], 4)
    learnt = [whole([state])["model/dense.balance.0.factor"] for state in states[0]]
    assert [not torch.equal(a, b) for a, b in itertools.pairwise(learnt)] == [True, False, True, False]
    cosines = [state.losses[1][0] for state in states[0][1:]]
    assert [cosine == UNTOLD for cosine in cosines] == [False, True, False, True]


def compiled_steps(rank: int, config: dict[str, Any]) -> list[list[float]]:
    """Weights of each step, the dense network compiled where the job says so."""
    job, model, optimizers, ranks = build(config, rank, 1)
    if job.train.compile:
        model.module.dense.compile(dynamic=True, backend="aot_eager")
    step = TrainStep(model, optimizers, job, ranks, 3)
    batches = training_batches(job, plan(job, job.data.train), ranks, START)
    model.train()
    out = [step(batches, number).weights for number in range(3)]
    batches.close()
    return out


def test_a_compiled_network_is_walked_as_often(log: Path) -> None:
    model = {"arch": "shared_bottom", "bottom_layers": [6], "tower_layers": []}
    config = config_of(log, "mgda", TASKS[:2], model=model)
    (plain,) = run_ranks(1, compiled_steps, config)
    set_key(config, "train.compile", True)
    (compiled,) = run_ranks(1, compiled_steps, config)
    np.testing.assert_allclose(compiled, plain, rtol=1e-4)


def test_bf16_is_near(log: Path) -> None:
    """Weights from gradients in bf16 autocast, to its precision."""
    names = [name for name in METHODS_WITH if name != "fixed"]
    half = [config_of(log, name, TASKS[:2], **{"train.precision": "bf16"}) for name in names]
    full = [config_of(log, name, TASKS[:2]) for name in names]
    (states,) = run_ranks(1, steps_of, 1, half + full, 2)
    for number, name in enumerate(names):
        for step in (1, 2):
            told, expected = (states[n][step].losses[0] for n in (number, number + len(names)))
            np.testing.assert_allclose(told, expected, rtol=0.1, err_msg=name)


def broken_gradient(rank: int, config: dict[str, Any]) -> tuple[str, bool]:
    """The losses are finite, but on one rank the way back from them is not."""
    job, model, optimizers, ranks = build(config, rank, 2)
    step = TrainStep(model, optimizers, job, ranks, 1)
    if rank == 1:
        dense = model.module.dense
        dense.register_forward_hook(lambda *told: told[2] + 0 * torch.sqrt(told[2] - told[2].detach()))
    before = {k: v.clone() for k, v in model.module.dense.state_dict().items()}
    batches = training_batches(job, plan(job, job.data.train), ranks, START)
    model.train()
    try:
        step(batches, 0)
    except InputError as error:
        return str(error), all(torch.equal(v, before[k]) for k, v in model.module.dense.state_dict().items())
    finally:
        batches.close()
    return "nothing", False


def test_a_gradient_that_is_not_finite_trains_nothing_on_any_rank(log: Path) -> None:
    for text, untouched in run_ranks(2, broken_gradient, config_of(log, "mgda")):
        assert "the gradient of this step is not finite, for task 'click'" in text
        assert untouched
