"""Weights are found again by what their axes mean: equal logits, zeros for new inputs, every tensor with a home."""

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline.archs import ARCHS
from pipeline.axes import own_names, plain
from pipeline.model import DenseNetwork, layer_widths
from pipeline.train.migrate_plan import TableMove, plan_migration
from pipeline.train.migrate_structure import differences
from schemas.errors import InputError
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.logs import set_key, small_config

ROWS = 5
MODELS: dict[str, dict[str, Any]] = {
    "ple": {},
    "cgc": {"arch": "cgc"},
    "three levels": {"levels": 3, "task_experts": 2, "shared_experts": 2},
    "batch norm": {"norm": "batch", "expert_layers": [8, 6]},
    "layer norm, gate bias": {"norm": "layer", "gate_bias": True},
    "nothing shared": {"shared_experts": 0},
    "shared alone": {"task_experts": 0, "arch": "cgc"},
    "bare towers": {"tower_layers": []},
    "single task": {"arch": "single_task", "bottom_layers": [8, 6]},
    "separate tables": {"arch": "single_task", "bottom_layers": [8], "separate_embeddings": True},
    "shared bottom": {"arch": "shared_bottom", "bottom_layers": [8]},
    "asymmetric": {"arch": "asymmetric", "bottom_layers": [8], "reads": {"order": ["cart", "click"]}},
    "asymmetric mean": {"arch": "asymmetric", "bottom_layers": [8], "reads": {"order": ["click"]}, "fusion": "mean"},
    "customized": {"arch": "customized", "bottom_layers": [8]},
    "moe": {"arch": "moe", "experts": 3},
    "mmoe": {"arch": "mmoe", "experts": 3, "gate_bias": True},
    "ml_mmoe": {"arch": "ml_mmoe", "experts": 3, "levels": 3},
    "cross-stitch": {"arch": "cross_stitch", "bottom_layers": [8, 6]},
    "sluice": {"arch": "sluice", "bottom_layers": [6, 6], "subspaces": 3},
}
APART = [
    "cgc", "nothing shared", "shared alone", "single task", "separate tables", "shared bottom", "asymmetric",
    "asymmetric mean", "customized", "moe", "mmoe", "ml_mmoe",
]  # fmt: skip
"""Models where no gate or stitch sees what belongs to other tasks."""
OF_PLE = ("levels", "task_experts", "shared_experts", "expert_layers")


def make_job(model: str = "ple", **changes: Any) -> JobConfig:
    config = copy.deepcopy(small_config("log", "out"))
    config["model"] |= MODELS[model]
    kept = {"ple": OF_PLE, "cgc": OF_PLE[1:], "ml_mmoe": OF_PLE[3:], "moe": OF_PLE[3:], "mmoe": OF_PLE[3:]}
    for key in OF_PLE:
        if key not in kept.get(config["model"]["arch"], ()) and key not in MODELS[model]:
            del config["model"][key]
    for key, value in changes.items():
        set_key(config, key.replace("__", "."), value)
    return parse_job(config, "test")


def with_lists(model: str, edit: Any) -> JobConfig:
    config = make_job(model).model_dump(mode="json", by_alias=True)
    edit(config)
    return parse_job(config, "test")


def grown(config: dict[str, Any]) -> None:
    """New inputs of every kind, in the middle, and all in another order."""
    config["features"].insert(2, {"name": "seen", "kind": "ids", "table": "item"})
    config["features"].insert(0, {"name": "hour", "kind": "float"})
    config["features"].append({"name": "device", "kind": "string"})
    config["tables"]["device"] = {"rows": 9, "dim": 4}
    config["tables"]["item"]["dim"] = 24
    config["tables"]["user"]["rows"] = 90
    config["features"].reverse()
    config["tasks"].reverse()


def network(job: JobConfig, seed: int) -> DenseNetwork:
    """With weights that are not zero anywhere, in evaluation."""
    torch.manual_seed(seed)
    out = DenseNetwork(job).eval()
    for parameter in out.state_dict().values():
        if parameter.is_floating_point():
            parameter.copy_(torch.rand_like(parameter) + 0.1)
    return out


def inputs(job: JobConfig) -> dict[tuple[str, int], Tensor]:
    """Values for each place of the network's input; the same for one of equal name."""
    out = {}
    for feature in job.features:
        width = 1 if feature.kind == "float" else job.tables[feature.table_name].dim
        for place in range(width):
            generator = torch.Generator().manual_seed(sum(feature.name.encode()) * 1000 + place)
            out[feature.name, place] = torch.randn(ROWS, generator=generator)
    return out


def logits(net: DenseNetwork, job: JobConfig) -> dict[str, Tensor]:
    """By task. The order of the input is written here anew: embedded features, then numbers."""
    values = inputs(job)
    places = [(f.name, i) for f in job.embedded for i in range(job.tables[f.table_name].dim)]
    places += [(f.name, 0) for f in job.dense]
    with torch.no_grad():
        x = torch.stack([values[place] for place in places], dim=1)
        x = torch.stack([x] * len(job.tasks), dim=1) if job.separate_embeddings else x
        logits_BT = net.towers(net.arch(x))
    return {task.name: logits_BT[:, k] for k, task in enumerate(job.tasks)}


def migrated(old_job: JobConfig, new_job: JobConfig) -> tuple[DenseNetwork, DenseNetwork, DenseNetwork]:
    """The old network, the new one, and the new one as the seed made it."""
    old, new, seeded = network(old_job, 1), network(new_job, 2), network(new_job, 2)
    old_state, new_state = old.state_dict(), new.state_dict()
    for move in plan_migration(old_job, new_job).dense:
        move.weights(new_state[move.new_name], old_state[move.old_name])
    return old, new, seeded


@pytest.mark.parametrize("model", MODELS)
def test_every_tensor_of_every_architecture_says_what_its_axes_mean(model: str) -> None:
    net = network(make_job(model), 0)
    axes = net.axes()
    names = own_names(net, axes)
    assert set(names.values()) == set(net.state_dict())
    reads = sum(labelled.axes[-1].inputs for labelled in axes.values() if labelled.axes)
    width = len(inputs(make_job(model)))
    linears = [m for m in net.arch.modules() if isinstance(m, nn.Linear) and m.in_features == width]
    assert reads == len(linears) > 0


def test_all_architectures_are_among_the_models_here() -> None:
    assert {make_job(model).model.arch for model in MODELS} == set(ARCHS)


def test_a_tensor_that_is_not_declared_is_found() -> None:
    net = network(make_job(), 0)
    axes = net.axes()
    del axes["towers.outputs.fav.bias"]
    with pytest.raises(AssertionError, match=r"towers\.outputs\.2\.bias"):
        own_names(net, axes)


@pytest.mark.parametrize("model", MODELS)
def test_new_inputs_change_no_prediction_before_training(model: str) -> None:
    old_job, new_job = make_job(model), with_lists(model, grown)
    old, new, seeded = migrated(old_job, new_job)
    before, after, never = logits(old, old_job), logits(new, new_job), logits(seeded, new_job)
    for task in before:
        torch.testing.assert_close(after[task], before[task], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(never[task], before[task], atol=1e-2)


def test_new_inputs_have_weight_zero_and_can_learn() -> None:
    old_job, new_job = make_job(), with_lists("ple", grown)
    _, new, _ = migrated(old_job, new_job)
    for labelled in new.axes().values():
        if labelled.axes and labelled.axes[-1].inputs:
            fresh = [i for i, label in enumerate(labelled.axes[-1].labels) if label not in inputs(old_job)]
            assert len(fresh) == 24 + 1 + 4 + 8 * 3  # seen, hour, device; item, history and recent are wider
            assert (labelled.tensor[:, fresh] == 0).all()
            known = [i for i in range(labelled.tensor.shape[1]) if i not in fresh]
            assert (labelled.tensor[:, known] != 0).all()
    x_BD = torch.randn(ROWS, len(inputs(new_job)))
    new.towers(new.arch(x_BD)).sum().backward()
    gate = new.arch.levels[0].task_gates[0].weight
    assert gate.grad is not None
    assert (gate.grad[gate == 0] != 0).all()


def add_task(config: dict[str, Any]) -> None:
    config["tasks"].insert(1, {"name": "share", "given": "click"})


def drop_task(config: dict[str, Any]) -> None:
    config["tasks"].pop(2)


@pytest.mark.parametrize("edit", [add_task, drop_task])
@pytest.mark.parametrize("model", APART)
def test_where_nothing_sees_other_tasks_experts_they_come_and_go_unnoticed(model: str, edit: Any) -> None:
    old_job, new_job = make_job(model), with_lists(model, edit)
    old, new, _ = migrated(old_job, new_job)
    before, after = logits(old, old_job), logits(new, new_job)
    assert not plan_migration(old_job, new_job).summary()["mixed"]
    for task in before.keys() & after.keys():
        torch.testing.assert_close(after[task], before[task], rtol=1e-5, atol=1e-6)


def test_a_new_task_starts_from_the_seed_and_a_gate_that_sees_it_is_told() -> None:
    old_job, new_job = make_job(), with_lists("ple", add_task)
    old, new, seeded = migrated(old_job, new_job)
    told = plan_migration(old_job, new_job).summary()
    assert told["mixed"] == ["arch.levels.0.shared_gate.weight"]
    assert told["new"] == [
        "arch.levels.0.task_experts.share",
        "arch.levels.0.task_gates.share",
        "arch.levels.1.task_experts.share",
        "arch.levels.1.task_gates.share",
        "towers.towers.share",
        "towers.outputs.share",
    ]
    gate, before, fresh = (net.arch.levels[0].shared_gate.weight for net in (new, old, seeded))
    # experts in the order of the tasks, then the shared one: click, share, cart, fav, order, shared
    torch.testing.assert_close(gate[[0, 2, 3, 4, 5]], before)
    torch.testing.assert_close(gate[1], fresh[1])
    torch.testing.assert_close(new.towers.outputs[1].weight, seeded.towers.outputs[1].weight)
    torch.testing.assert_close(new.towers.outputs[2].weight, old.towers.outputs[1].weight)


def test_a_removed_task_is_told_with_all_that_was_its_own() -> None:
    old_job, new_job = make_job(), with_lists("ple", drop_task)
    old, new, _ = migrated(old_job, new_job)
    migration = plan_migration(old_job, new_job)
    assert [name.split(".")[-1] for name in migration.summary()["removed"]] == ["fav"] * 6
    assert migration.summary()["new"] == []
    torch.testing.assert_close(
        new.arch.levels[0].shared_gate.weight, old.arch.levels[0].shared_gate.weight[[0, 1, 3, 4]]
    )
    counts = migration.counts()
    assert counts["copied"] + counts["resized"] + counts["removed"] == len(old.state_dict()) + len(old_job.tables)


def test_optimizer_state_follows_its_parameter_and_new_places_start_from_zero() -> None:
    old_job, new_job = make_job(), with_lists("ple", grown)
    name = "arch.levels.0.task_gates.click.weight"
    (move,) = (m for m in plan_migration(old_job, new_job).dense if m.name == name)
    old = torch.rand(move.old_shape) + 1
    new = torch.full((2, len(inputs(new_job))), -1.0)
    move.state(new, old)
    places = list(inputs_in_order(new_job))
    for column, place in enumerate(places):
        known = place in inputs(old_job)
        expected = old[:, list(inputs_in_order(old_job)).index(place)] if known else torch.zeros(2)
        assert torch.equal(new[:, column], expected), place
    step = torch.tensor(0.0)
    move.state(step, torch.tensor(17.0))
    assert step == 17


def inputs_in_order(job: JobConfig) -> list[tuple[str, int]]:
    places = [(f.name, i) for f in job.embedded for i in range(job.tables[f.table_name].dim)]
    return [*places, *((f.name, 0) for f in job.dense)]


@pytest.mark.parametrize("model", ["cross-stitch", "sluice"])
@pytest.mark.parametrize("edit", [add_task, drop_task])
def test_a_stitch_keeps_what_it_mixes_of_the_tasks_that_stay(model: str, edit: Any) -> None:
    old_job, new_job = make_job(model), with_lists(model, edit)
    old, new, seeded = migrated(old_job, new_job)
    told = plan_migration(old_job, new_job).summary()
    mixtures = ["arch.stitches.0", "arch.stitches.1"] + (["arch.layer_mixture"] if model == "sluice" else [])
    assert sorted(told["mixed"]) == sorted(mixtures)
    parts = 3 if model == "sluice" else 1
    before, after = ([task.name for task in job.tasks] for job in (old_job, new_job))
    for to, task in enumerate(after):
        for source, other in enumerate(after):
            block = slice(to * parts, (to + 1) * parts), slice(source * parts, (source + 1) * parts)
            expected = seeded.arch.stitches[1][block]
            if task in before and other in before:
                i, j = before.index(task), before.index(other)
                expected = old.arch.stitches[1][i * parts : (i + 1) * parts, j * parts : (j + 1) * parts]
            torch.testing.assert_close(new.arch.stitches[1][block], expected)


def test_a_task_that_comes_may_read_others_and_one_that_is_read_may_not_change_its_readers() -> None:
    def reads(config: dict[str, Any]) -> None:
        add_task(config)
        config["model"]["reads"]["share"] = ["order"]

    old_job, new_job = make_job("asymmetric"), with_lists("asymmetric", reads)
    assert [d.name for d in differences(old_job, new_job, {}, {})] == ["tasks.share"]
    old, new, _ = migrated(old_job, new_job)
    before, after = logits(old, old_job), logits(new, new_job)
    assert all(torch.allclose(after[task], before[task], rtol=1e-5) for task in before)
    for changed in ({"order": ["click", "cart"]}, {"order": ["click"]}, {"cart": ["click"]}):
        (difference,) = differences(old_job, make_job("asymmetric", model__reads=changed), {}, {})
        assert difference.name == "model.reads"
        assert difference.refused


def test_copies_of_a_table_come_and_go_with_their_tasks() -> None:
    def swap(config: dict[str, Any]) -> None:
        add_task(config)
        config["tasks"].pop()

    old_job, new_job = make_job("separate tables"), with_lists("separate tables", swap)
    migration = plan_migration(old_job, new_job)
    assert migration.tables_new == [f"share.{table}" for table in old_job.tables]
    assert migration.tables_removed == [f"order.{table}" for table in old_job.tables]
    assert [t.name for t in migration.tables] == [f"{k}.{t}" for k in ("click", "cart", "fav") for t in old_job.tables]


def test_widths_that_match_another_size_are_refused_with_the_line_to_write() -> None:
    def sized(edit: Any, **model: Any) -> JobConfig:
        config = make_job("shared bottom").model_dump(mode="json", by_alias=True)
        edit(config)
        config["model"] |= model
        return parse_job(config, "test")

    old = sized(lambda _: None, match_parameters=20_000)
    assert plan_migration(old, old).counts()["resized"] == 0
    new = sized(grown, match_parameters=20_000)
    assert not [d for d in differences(old, new, {}, {}) if d.name.startswith("model")]
    widths = layer_widths(old)["bottom_layers"]
    with pytest.raises(InputError, match=rf"Set model.bottom_layers to \[{widths[0]}\] without match_parameters"):
        plan_migration(old, new)
    remedy = sized(grown, bottom_layers=widths, match_parameters=None)
    assert not [d for d in differences(old, remedy, {}, {}) if d.name.startswith("model")]
    assert plan_migration(old, remedy).summary()["new"] == ["tables.device"]


def test_the_same_job_is_copied_whole() -> None:
    job = make_job()
    migration = plan_migration(job, job)
    assert migration.summary() == {"new": [], "resized": [], "mixed": [], "removed": []}
    assert migration.counts()["copied"] == len(network(job, 0).state_dict()) + len(job.tables)


def test_an_axis_without_meaning_never_changes_its_length() -> None:
    with pytest.raises(AssertionError, match=r"task_experts\.click\.0"):
        plan_migration(make_job(), make_job(model__expert_layers=[12]))


def test_plain_declares_parameters_and_buffers() -> None:
    assert set(plain(nn.BatchNorm1d(3))) == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


@settings(max_examples=200, deadline=None)
@given(
    old=st.tuples(st.integers(1, 9), st.integers(1, 6)),
    more=st.tuples(st.integers(0, 7), st.integers(0, 5)),
    cuts=st.tuples(st.lists(st.integers(0, 16), max_size=3), st.lists(st.integers(0, 11), max_size=2)),
)
def test_a_table_arrives_whole_however_it_is_cut(
    old: tuple[int, int], more: tuple[int, int], cuts: tuple[list[int], list[int]]
) -> None:
    shape = (old[0] + more[0], old[1] + more[1])
    before = torch.arange(1, old[0] * old[1] + 1).view(old)
    expected = torch.zeros(shape, dtype=torch.long)
    expected[: old[0] - 1, : old[1]] = before[:-1]
    expected[-1, : old[1]] = before[-1]  # out of vocabulary: the last row of both
    move = TableMove("t", old, shape)
    found = torch.zeros(shape, dtype=torch.long)
    rows, columns = (sorted({0, size, *(c for c in cut if c < size)}) for cut, size in zip(cuts, shape, strict=True))
    for r0, r1 in itertools.pairwise(rows):
        for c0, c1 in itertools.pairwise(columns):
            for (i, j), (k, c), (n, m) in move.boxes((r0, c0), (r1 - r0, c1 - c0)):
                assert r0 <= k < k + n <= r1
                assert c0 <= c < c + m <= c1
                found[k : k + n, c : c + m] += before[i : i + n, j : j + m]
    assert torch.equal(found, expected)
