"""Parameters and FLOPs in closed form; layers scaled to a wanted size, the nearest there is, the same every time."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.archs import ARCHS
from pipeline.model import DenseNetwork, RankingModel, layer_widths, network_size
from pipeline.sizes import flops_per_row, matched_widths, parameters
from pipeline.train.console import size_line
from schemas.errors import InputError
from schemas.job import JobConfig
from tests.logs import small_job
from tests.unit.test_archs import CASES, D, T, make

MODELS: dict[str, dict[str, Any]] = {name: {} for name in ARCHS} | {"asymmetric": {"reads": {"order": ["click"]}}}


def job(arch: str, **model: Any) -> JobConfig:
    return small_job("log", changes={"model": {"arch": arch, **MODELS[arch], **model}})


def mlp(width: int, *sizes: int) -> tuple[int, int]:
    """Multiply-adds and parameters."""
    pairs = list(zip([width, *sizes], sizes, strict=False))
    return sum(a * b for a, b in pairs), sum(a * b + b for a, b in pairs)


def gate(width: int, experts: int, bias: bool = False) -> tuple[int, int]:
    return width * experts, (width + bias) * experts


def times(count: int, pair: tuple[int, int]) -> tuple[int, int]:
    return count * pair[0], count * pair[1]


def total(*pairs: tuple[int, int]) -> tuple[int, int]:
    return sum(p[0] for p in pairs), sum(p[1] for p in pairs)


BOTTOM = mlp(D, 5, 4)
EXPECTED: dict[str, tuple[int, int]] = {
    "single_task": times(T, BOTTOM),
    "separate inputs": times(T, BOTTOM),
    "shared_bottom": BOTTOM,
    "asymmetric": times(T, BOTTOM),
    "asymmetric sum": times(T, mlp(D, 4)),
    "asymmetric mean": times(T, mlp(D, 4)),
    "customized": times(T + 1, BOTTOM),
    "moe": total(times(4, BOTTOM), gate(D, 4)),
    "mmoe": total(times(4, BOTTOM), times(T, gate(D, 4, True))),
    "cgc": total(times(6, BOTTOM), gate(D, 3), gate(D, 2), gate(D, 5)),
    "cross_stitch": total(times(T, mlp(D, 5, 4, 3)), (T * T * (5 + 4 + 3), 3 * T * T)),
    "sluice": total(times(T, mlp(D, 6, 6, 6)), (3 * (3 * T) ** 2 * 2, 3 * (3 * T) ** 2), (T * 3 * 6, T * 3)),
    "ml_mmoe": total(times(2, BOTTOM), times(4, mlp(4, 5, 4)), times(4 + T, gate(D, 2))),
    "ple": total(
        times(8, BOTTOM),
        times(16, mlp(4, 5, 4)),
        *(gate(D, e) for e in (3, 4, 5, 8)),
        *(gate(4, e) for e in (3, 4, 5, 8, 3, 4, 5)),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_parameters_and_flops_are_those_of_the_closed_form(case: str) -> None:
    model = make(case)
    shape = (T, D) if case == "separate inputs" else (D,)
    assert (flops_per_row(model, shape), parameters(model)) == (2 * EXPECTED[case][0], EXPECTED[case][1])


def test_counting_leaves_the_module_as_it_was() -> None:
    model = make("ple", norm="batch", dropout=0.5).double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert flops_per_row(model, (D,)) > 0
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_jobs_size_is_its_networks_and_its_tables() -> None:
    for changes in ({}, {"separate_embeddings": True}):
        one = job("single_task", bottom_layers=[8], tower_layers=[4], **changes)
        size, copies = network_size(one), 4 if changes else 1
        width = 8 + 16 + 8 + 16 + 16 + 8 + 8 + 2
        network = times(4, total(mlp(width, 8), mlp(8, 4, 1)))
        assert (size.flops_per_row, size.dense_parameters) == (2 * network[0], network[1])
        rows = {"user": 51 * 8, "item": 41 * 16, "session": 31 * 8, "city": 21 * 8, "price_bucket": 6 * 8}
        assert size.table_parameters == copies * sum(rows.values())
        model = RankingModel(one)
        assert sum(p.numel() for p in model.dense.parameters()) == size.dense_parameters
        assert sum(p.numel() for p in model.embeddings.parameters()) == size.table_parameters
    assert size_line(size) == (
        f"network {network[1]:,} parameters (bottom_layers [8]), {2 * network[0]:,} FLOPs a row forward; "
        f"tables {4 * sum(rows.values()):,} parameters"
    )


@pytest.mark.parametrize("arch", ARCHS)
def test_every_architecture_matches_a_size_as_near_as_widths_allow(arch: str) -> None:
    target = 150_000
    free, matched = job(arch), job(arch, match_parameters=target)
    size = network_size(matched)
    network, widths = DenseNetwork(matched), size.widths
    assert parameters(network) == size.dense_parameters, "found once and found again"
    assert abs(parameters(network) - target) <= 0.02 * target
    assert layer_widths(free) != widths
    (key,) = widths
    declared = getattr(free.model, key)
    step = 2 if arch == "sluice" else 1

    def count(scale: float) -> int:
        sizes = {key: [max(1, round(size * scale / step)) * step for size in declared]}
        with torch.device("meta"):
            return parameters(DenseNetwork(free, sizes))

    scale = widths[key][0] / declared[0]
    nearby = [count(s) for s in np.linspace(scale * 0.98, scale * 1.02, 9)]
    assert min(abs(n - target) for n in nearby) >= abs(parameters(network) - target)


def test_a_matched_network_starts_as_one_declared_so() -> None:
    matched = job("mmoe", match_parameters=60_000)
    declared = job("mmoe", **layer_widths(matched))
    one, other = RankingModel(matched).dense.state_dict(), RankingModel(declared).dense.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_towers_are_left_as_they_are() -> None:
    sizes = [tower.layers[0].out_features for tower in DenseNetwork(job("ple", match_parameters=60_000)).towers.towers]
    assert sizes == [32] * 4


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (100, r"100 parameters cannot be met within 2%; the nearest are [\d,]+ \(bottom_layers \[1\]\); choose"),
        (2065, r"2,065 parameters .* are 2,016 \(bottom_layers \[20\]\) and 2,115 \(bottom_layers \[21\]\); choose"),
    ],
)
def test_a_size_that_no_width_reaches_is_refused_with_the_nearest(target: int, message: str) -> None:
    with pytest.raises(InputError, match=r"^model.match_parameters: " + message):
        layer_widths(job("shared_bottom", bottom_layers=[64], tower_layers=[4], match_parameters=target))


def test_matching_in_closed_form() -> None:
    def square(widths: dict[str, list[int]]) -> int:
        return widths["w"][0] * widths["w"][1]

    assert matched_widths({"w": [2, 1]}, square, 20_000) == {"w": [200, 100]}
    assert matched_widths({"w": [200, 100]}, square, 50, multiple=5) == {"w": [10, 5]}
    assert matched_widths({"w": [7, 7]}, square, 49) == {"w": [7, 7]}
    assert matched_widths({"w": [1, 1]}, square, 1) == {"w": [1, 1]}
    with pytest.raises(ValueError, match=r"7 parameters .* nearest are 4 \(w \[2, 2\]\) and 9 \(w \[3, 3\]\)"):
        matched_widths({"w": [2, 2]}, square, 7)
    assert parameters(nn.Linear(3, 2)) == 8
