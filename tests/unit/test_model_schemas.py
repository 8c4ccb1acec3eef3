"""The settings of each architecture: those that mean something to it, and no other; tasks by their names."""

from typing import Any

import pytest

from pipeline.archs import ARCHS
from pipeline.model import DenseNetwork
from schemas.errors import InputError
from schemas.job import JobConfig, json_schema
from tests.logs import small_job

NEEDED: dict[str, dict[str, Any]] = {"asymmetric": {"reads": {"order": ["click"]}}}
EVERY = {"arch", "activation", "norm", "dropout", "tower_layers", "match_parameters"}
BOTTOMS = EVERY | {"bottom_layers"}
GATED = EVERY | {"expert_layers", "gate_bias"}
KEYS: dict[str, set[str]] = {
    "single_task": BOTTOMS | {"separate_embeddings"},
    "shared_bottom": BOTTOMS,
    "asymmetric": BOTTOMS | {"reads", "fusion"},
    "customized": BOTTOMS,
    "moe": GATED | {"experts"},
    "mmoe": GATED | {"experts"},
    "ml_mmoe": GATED | {"experts", "levels"},
    "cgc": GATED | {"task_experts", "shared_experts"},
    "ple": GATED | {"task_experts", "shared_experts", "levels"},
    "cross_stitch": BOTTOMS,
    "sluice": BOTTOMS | {"subspaces", "orthogonality", "init"},
}
VALUES: dict[str, Any] = {
    "bottom_layers": [8], "expert_layers": [8], "separate_embeddings": True, "fusion": "sum", "experts": 2,
    "levels": 2, "task_experts": 1, "shared_experts": 1, "subspaces": 2, "orthogonality": 0.1, "init": "balanced",
    "gate_bias": True, "reads": {"order": ["click"]},
}  # fmt: skip


def job(arch: str, **model: Any) -> JobConfig:
    return small_job("log", changes={"model": {"arch": arch} | NEEDED.get(arch, {}) | model})


def test_every_architecture_has_settings_and_each_its_own_word() -> None:
    mapping = json_schema()["properties"]["model"]["discriminator"]["mapping"]
    assert set(mapping) == set(ARCHS) == set(KEYS)


@pytest.mark.parametrize("arch", KEYS)
def test_only_the_settings_that_mean_something_are_taken(arch: str) -> None:
    assert set(job(arch).model.model_dump()) == KEYS[arch]
    for key, value in VALUES.items():
        if key in KEYS[arch]:
            assert job(arch, **{key: value}).model.model_dump()[key] == value
        else:
            with pytest.raises(InputError, match=f"unknown key '{key}'"):
                job(arch, **{key: value})


@pytest.mark.parametrize("arch", KEYS)
def test_the_settings_are_the_arguments_of_the_class(arch: str) -> None:
    one = job(arch)
    names = [task.name for task in one.tasks]
    assert ARCHS[arch](in_dim=4, tasks=4, **one.model.arguments(names)).out_dims


@pytest.mark.parametrize(
    ("arch", "model", "message"),
    [
        ("asymmetric", {"reads": {"ordr": ["click"]}}, "model.reads: no task 'ordr'; did you mean 'order'?"),
        ("asymmetric", {"reads": {"order": ["clik"]}}, "model.reads.order: no task 'clik'; did you mean 'click'?"),
        ("asymmetric", {"reads": {"order": ["order"]}}, "model.reads.order: a task reads its own bottom anyway"),
        ("asymmetric", {"reads": {"order": ["fav", "fav"]}}, "model.reads.order: 'fav' is named twice; keep one"),
        ("asymmetric", {"reads": {}}, "model.reads: Dictionary should have at least 1 item"),
        ("asymmetric", {"fusion": "max"}, "model.fusion: Input should be 'concat', 'sum' or 'mean'"),
        ("ple", {"task_experts": {"clik": 1}}, "model.task_experts: no task 'clik'; did you mean 'click'?"),
        ("ple", {"task_experts": {"click": 1}}, "model.task_experts: task 'cart' is missing"),
        ("cgc", {"task_experts": 0, "shared_experts": 0}, "model: task 'click' has neither own nor shared experts"),
        ("sluice", {"bottom_layers": [8, 6]}, "model: bottom_layers [8, 6] are mixed with each other; give all one"),
        ("sluice", {"bottom_layers": [9], "subspaces": 2}, "model: bottom_layers of 9 do not part into 2 equal"),
        ("sluice", {"init": "random"}, "model.init: Input should be 'imbalanced' or 'balanced'"),
        ("sluice", {"orthogonality": -1}, "model.orthogonality: Input should be greater than or equal to 0"),
        ("moe", {"experts": 0}, "model.experts: Input should be greater than or equal to 1"),
        ("mmoe", {"match_parameters": 0}, "model.match_parameters: Input should be greater than or equal to 1"),
        ("single_task", {"separate_embeddings": 1}, "model: 'separate_embeddings' takes true or false, not 1"),
        ("mmoe", {"bottom_layrs": [8]}, "model: unknown key 'bottom_layrs'; did you mean 'tower_layers'?"),
    ],
)
def test_mistakes_are_named_with_their_remedy(arch: str, model: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        job(arch, **model)
    assert message in str(caught.value)


def test_reads_go_by_name_and_may_run_in_circles() -> None:
    one = job("asymmetric", reads={"order": ["cart", "click"], "click": ["order"]})
    names = ["click", "cart", "fav", "order"]
    assert one.model.arguments(names)["reads"] == [[3], [], [], [1, 0]]
    assert one.model.arguments(names[::-1])["reads"] == [[2, 3], [], [], [0]]


def test_separate_embeddings_are_a_copy_of_every_table_a_task() -> None:
    changes = {"model": {"arch": "single_task", "separate_embeddings": True}, "tables.user.sharding": "row_wise"}
    one = small_job("log", changes=changes)
    assert list(one.trained_tables)[:6] == ["click.user", "click.item", "click.session", "click.city",
                                            "click.price_bucket", "cart.user"]  # fmt: skip
    assert len(one.trained_tables) == 4 * len(one.tables)
    assert {name for name, table in one.trained_tables.items() if table.sharding == "row_wise"} == {
        f"{task}.user" for task in ("click", "cart", "fav", "order")
    }
    assert job("single_task").trained_tables == job("single_task").tables


def test_experts_go_to_the_tasks_that_are_named_in_whatever_order() -> None:
    experts = {"order": 4, "fav": 3, "cart": 2, "click": 1}
    job = small_job("log", "out", {"model": {"arch": "ple", "expert_layers": [4], "task_experts": experts}})
    assert [task.name for task in job.tasks] == ["click", "cart", "fav", "order"]
    groups = DenseNetwork(job).arch.levels[0].task_experts
    assert [len(group) for group in groups] == [1, 2, 3, 4]
