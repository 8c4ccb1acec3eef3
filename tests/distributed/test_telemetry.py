"""What telemetry tells is what a saved state and its batch give by hand, at 1 and 2 ranks; and it changes nothing."""

import dataclasses
import itertools
import re
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline import keys
from pipeline.batch import Batch
from pipeline.data.loader import LoaderClock
from pipeline.loss import Objective
from pipeline.model import DenseNetwork
from pipeline.train.dist import Ranks
from pipeline.train.loop import total_steps, training_batches
from pipeline.train.run import START
from pipeline.train.step import TrainStep
from pipeline.train.system import SystemWindow
from pipeline.train.telemetry import Telemetry
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.distributed.ranks import run_ranks
from tests.distributed.training import RankState, _shards, build, planned, train, whole
from tests.logs import DAYS, set_key, small_config, small_job, write_log

STEPS, BATCH, LANES, ROWS = 3, 48, 4, 20
SHARED = re.compile(r"arch\.levels\.(0\.(task_experts|shared_experts|shared_gate)|1\.shared_experts)\.")
"""Of two levels of PLE: at the first, the shared gate sees every expert; a task's own gate is its own."""


def config_of(log: Path, every: int, **changes: Any) -> dict[str, Any]:
    config = small_config(log, log / "unused", DAYS[:2])
    told: dict[str, Any] = {
        "model": {"arch": "ple", "levels": 2, "task_experts": 1, "expert_layers": [8, 6], "tower_layers": [4]},
        "train.batch_size": BATCH,
        "train.log_every": 1,
        "data.lanes": LANES,
        "tracking": {"mode": "disabled", "telemetry": {"every": every, "rows": ROWS}},
    }
    for key, value in (told | changes).items():
        set_key(config, key, value)
    return config


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("telemetry") / "log"
    write_log(folder, DAYS[:2], STEPS * BATCH, seed=2, row_group_rows=40)
    return folder


@dataclasses.dataclass
class Look:
    """One step, and the state that it found."""

    told: dict[str, float]
    state: RankState
    batch: Batch


def looks(rank: int, world: int, config: dict[str, Any]) -> list[Look]:
    job, model, optimizers, ranks = build(config, rank, world)
    manifest = planned(job)
    step = TrainStep(model, optimizers, job, ranks, total_steps(job, manifest.rows))
    batches = training_batches(job, manifest, ranks, START)
    model.train()
    out = []
    for number in range(STEPS):
        state = RankState([], [], _shards({"model": model.state_dict()}))
        output = step(batches, number)
        assert output.telemetry is not None
        out.append(Look(output.telemetry, state, output.batch))
    batches.close()
    step.detach()
    return out


def sampled(batch: Batch) -> list[int]:
    """The first rows of each lane."""
    rows, first = [], 0
    for _, count in batch.lanes:
        rows += list(range(first, first + count))[: ROWS // LANES]
        first += count
    return rows


def inputs(job: JobConfig, state: dict[str, Tensor], batch: Batch) -> Tensor:
    """x_SD from the tables, row by row and id by id."""
    columns = []
    for feature in job.embedded:
        table = state[f"model/embeddings.embedding_bags.table_{feature.table_name}.weight"]
        jagged = batch.sparse[feature.name]
        ids, lengths, weights = jagged.values(), jagged.lengths().tolist(), jagged.weights_or_none()
        ends = np.cumsum([0, *lengths])
        column = torch.zeros(batch.rows, table.shape[1])
        for row in range(batch.rows):
            for place in range(ends[row], ends[row + 1]):
                column[row] += (1.0 if weights is None else weights[place]) * table[ids[place]]
        columns.append(column)
    return torch.cat([*columns, batch.dense_BF], dim=1)[sampled(batch)]


def test_values_are_those_of_a_state_and_a_batch_by_hand(log: Path) -> None:
    config = config_of(log, every=1)
    (one,) = run_ranks(1, looks, 1, config)
    two = run_ranks(2, looks, 2, config)
    job = parse_job(config, "test")
    tasks = [task.name for task in job.tasks]
    for number, look in enumerate(one):
        other = two[0][number]
        assert other.told == two[1][number].told, "all ranks know the same"
        assert sorted(other.told) == sorted(look.told)
        for key, value in look.told.items():
            assert other.told[key] == pytest.approx(value, rel=2e-3, abs=1e-4), (number, key)
    assert two[0][0].told == pytest.approx(one[0].told, rel=1e-5), "before any rounding of a trained step"
    look = one[-1]
    state = whole([look.state])
    x_SD = inputs(job, state, look.batch)
    network = DenseNetwork(job)
    network.load_state_dict({k.removeprefix("model/dense."): v for k, v in state.items() if "/dense." in k})
    network.eval()
    expected = embeddings(job, x_SD) | mixtures(network, x_SD, tasks) | gradients(job, network, x_SD, look.batch)
    assert sorted(look.told) == sorted(expected)
    for key, value in expected.items():
        assert look.told[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
    assert set(look.told) == set(keys.telemetry_keys(job))


def embeddings(job: JobConfig, x_SD: Tensor) -> dict[str, float]:
    out, first = {}, 0
    for feature in job.embedded:
        width = job.tables[feature.table_name].dim
        out[f"embeddings/{feature.name}/norm"] = float(x_SD[:, first : first + width].norm(dim=1).mean())
        first += width
    return out


def mixtures(network: Any, x_SD: Tensor, tasks: list[str]) -> dict[str, float]:
    """Level by level, as the paper has it."""
    out: dict[str, float] = {}
    streams, shared_stream = dict.fromkeys(tasks, x_SD), x_SD
    for number, level in enumerate(network.arch.levels, start=1):
        said = {f"{t}.0": level.task_experts[k][0](streams[t]).detach() for k, t in enumerate(tasks)}
        said["shared.0"] = level.shared_experts[0](shared_stream).detach()
        selectors = {t: (level.task_gates[k], streams[t], [f"{t}.0", "shared.0"]) for k, t in enumerate(tasks)}
        if level.shared_gate is not None:
            selectors["shared"] = (level.shared_gate, shared_stream, list(said))
        load = dict.fromkeys(said, 0.0)
        mixed = {}
        for gate, (selector, stream, experts) in selectors.items():
            w_SE = torch.softmax(stream @ selector.weight.detach().T, dim=1)
            entropy = -(w_SE * w_SE.log()).sum(1) / np.log(len(experts))
            out[f"gate_entropy/{number}/{gate}"] = float(entropy.mean())
            for place, expert in enumerate(experts):
                out[f"gates/{number}/{gate}/{expert}"] = float(w_SE[:, place].mean())
                load[expert] += float(w_SE[:, place].mean()) / len(selectors)
            mixed[gate] = sum(w_SE[:, [e]] * said[expert] for e, expert in enumerate(experts))
        out |= {f"experts/{number}/load/{expert}": share for expert, share in load.items()}
        for a, b in itertools.combinations(said, 2):
            out[f"experts/{number}/similarity/{a}~{b}"] = float(F.cosine_similarity(said[a], said[b], dim=1).mean())
        streams = {t: mixed[t] for t in tasks}
        shared_stream = mixed.get("shared", shared_stream)
    return out


def gradients(job: JobConfig, network: DenseNetwork, x_SD: Tensor, batch: Batch) -> dict[str, float]:
    shared = [p for name, p in network.named_parameters() if SHARED.match(name)]
    assert len(shared) > 8
    rows = sampled(batch)
    logits_ST, labels_ST, share_ST = network.logits(x_SD), batch.labels_BT[rows], batch.trained_BT[rows]
    flat = {}
    for k, task in enumerate(job.tasks):
        inside = share_ST[:, k] > 0
        loss = F.binary_cross_entropy_with_logits(logits_ST[inside, k], labels_ST[inside, k])
        found = torch.autograd.grad(loss, shared, retain_graph=True, materialize_grads=True)
        flat[task.name] = torch.cat([gradient.flatten() for gradient in found]).double()
    out = {f"gradients/{task}/norm": float(gradient.norm()) for task, gradient in flat.items()}
    for a, b in itertools.combinations(flat, 2):
        out[f"gradients/cosine/{a}~{b}"] = float(F.cosine_similarity(flat[a], flat[b], dim=0))
    return out


@pytest.mark.parametrize(
    "changes",
    [
        {"model.norm": "batch", "model.dropout": 0.3, "train.precision": "bf16"},
        {"balance": {"method": "pcgrad"}},
        {"balance": {"method": "mgda"}, "model": {"arch": "mmoe", "experts": 2, "expert_layers": [8]}},
        {"model": {"arch": "single_task", "separate_embeddings": True, "bottom_layers": [8]}},
    ],
    ids=["norm, dropout, bf16", "pcgrad", "mgda", "nothing shared"],
)
def test_trained_weights_are_bitwise_the_same_with_it_and_without(log: Path, changes: dict[str, Any]) -> None:
    on, off = (whole(run_ranks(2, train, 2, config_of(log, every, **changes))) for every in (1, 0))
    assert sorted(on) == sorted(off)
    for name in on:
        assert torch.equal(on[name], off[name]), name


def test_stitches_by_hand(log: Path) -> None:
    model = {"arch": "sluice", "bottom_layers": [4, 4], "subspaces": 2}
    config = config_of(log, every=1, model=model)
    job = parse_job(config, "test")
    ((look, *_),) = run_ranks(1, looks, 1, config)
    assert set(look.told) == set(keys.telemetry_keys(job))
    a_NN = whole([look.state])["model/dense.arch.stitches.1"].abs()
    tasks = [task.name for task in job.tasks]
    for k, task in enumerate(tasks):
        rows = a_NN[2 * k : 2 * k + 2]
        for j, other in enumerate(tasks):
            share = float(rows[:, 2 * j : 2 * j + 2].sum() / rows.sum())
            assert look.told[f"stitches/2/{task}/{other}"] == pytest.approx(share)


def test_looks_are_at_the_ends_of_windows(tmp_path: Path) -> None:
    def due(every: int, window: int, steps: int) -> list[int]:
        changes = {"tracking": {"telemetry": {"every": every}}, "train.log_every": window}
        job = small_job(tmp_path, tmp_path, changes)
        telemetry = Telemetry(job, DenseNetwork(job), Objective(job), steps)
        return [step for step in range(steps) if telemetry.due(step)]

    assert due(every=100, window=20, steps=274) == [19, 119, 219, 273]
    assert due(every=1, window=2, steps=7) == [1, 3, 5, 6]
    assert due(every=5, window=20, steps=45) == [19, 39, 44]
    assert due(every=0, window=2, steps=7) == []


def system_window(rank: int, world: int, each: bool) -> tuple[dict[str, float], float]:
    job = parse_job(small_config("log", "out", DAYS[:1]) | {"tracking": {"ranks": each}}, "test")
    clock = LoaderClock()
    clock.waited, clock.worked = 5.0, 7.0
    window = SystemWindow(job, Ranks(rank, world, torch.device("cpu")), clock)
    window.close(1.0)
    clock.waited += 1.0 + rank
    clock.worked += 4.0 + 2 * rank
    told = window.close(10.0)
    return told, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


@pytest.mark.parametrize("each", [False, True])
def test_a_window_has_the_longest_wait_the_mean_work_and_the_most_memory(each: bool) -> None:
    (told, first), (other, second) = run_ranks(2, system_window, 2, each)
    assert told == other
    assert told["train/data_wait_share"] == pytest.approx(0.2)
    assert told["data/decode_share"] == pytest.approx(0.5)
    assert told["memory/rss_gb"] == pytest.approx(max(first, second), rel=0.05)
    of_ranks = {key: value for key, value in told.items() if key.startswith("ranks/")}
    if each:
        assert [of_ranks[f"ranks/{rank}/train/data_wait_share"] for rank in (0, 1)] == pytest.approx([0.1, 0.2])
        assert [of_ranks[f"ranks/{rank}/data/decode_share"] for rank in (0, 1)] == pytest.approx([0.4, 0.6])
    else:
        assert of_ranks == {}
