"""The architectures as somebody uses them: settings, precision, tracing and export, the pages' snippets, mistakes."""

import inspect
import json
import math
import re
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.archs import ARCHS
from pipeline.heads import Towers
from pipeline.mlp import MLP
from schemas.model import ModelConfig
from tests.unit.test_archs import CASES, D, T, every_case, make, randomise, rows

SETTINGS = {"activation": "tanh", "norm": "layer", "dropout": 0.25}


def blocks(module: nn.Module) -> list[MLP]:
    return [each for each in module.modules() if isinstance(each, MLP)]


@every_case
def test_every_setting_comes_to_every_block_and_gate(case: str) -> None:
    gates = {"gate_bias": True} if "expert_layers" in CASES[case][1] else {}
    model = make(case, **SETTINGS, **gates)
    assert blocks(model)
    for block in [*blocks(model), *blocks(Towers(4, 2, [3], **SETTINGS))]:
        assert isinstance(block.activation, nn.Tanh)
        assert [type(norm) for norm in block.norms] == [nn.LayerNorm] * len(block.layers)
        assert block.dropout.p == 0.25
    names = [f"t{task}" for task in range(T)]
    assert all(mixture.selector.bias is not None for mixture in model.mixtures(names))
    assert bool(model.mixtures(names)) == bool(gates)
    bare = make(case, **(gates | {"gate_bias": False} if gates else {}))
    assert all(mixture.selector.bias is None for mixture in bare.mixtures(names)), "the paper's gate has none"


@every_case
def test_a_network_of_bf16_is_bf16_throughout(case: str) -> None:
    """Not by autocast: as somebody makes one in a notebook."""
    torch.manual_seed(0)
    model = make(case).eval()
    towers = Towers(model.out_dims, T, [3]).eval()
    x = rows(4, case).float()
    exact_BT = towers(model(x))
    found_BT = towers.bfloat16()(model.bfloat16()(x.bfloat16()))
    assert model(x.bfloat16()).dtype == found_BT.dtype == torch.bfloat16
    torch.testing.assert_close(found_BT.float(), exact_BT, rtol=0.1, atol=0.05)


def test_defaults_are_those_of_the_configuration() -> None:
    """What a class takes where nothing is said is what the YAML takes."""
    configs = get_args(get_args(ModelConfig)[0])
    told = {get_args(config.model_fields["arch"].annotation)[0]: config.model_fields for config in configs}
    for arch, made in ARCHS.items():
        own = {name: p.default for name, p in inspect.signature(made).parameters.items() if p.default is not p.empty}
        assert own, arch
        for name, default in own.items():
            assert told[arch][name].default == default, (arch, name)


# ---- tracing, mistakes, the page


def test_the_pages_notebook_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs/models.md").read_text()
    (snippet,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    exec(snippet, {})
    told, flops = (int(number) for number in capsys.readouterr().out.split())
    assert flops == 2 * (4 * (64 * 32 + 32 * 16) + 2 * 64 * 4)
    assert told == 4 * (65 * 32 + 33 * 16) + 2 * 64 * 4 + 2 * (17 * 8 + 9)
    assert all(f"| `{arch}` |" in page for arch in ARCHS)


def test_the_snippet_on_balance_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs/balance.md").read_text()
    (snippet,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    exec(snippet, {})
    told = [[round(number, 9) for number in json.loads(line)] for line in capsys.readouterr().out.splitlines()]
    assert told == [[1.5, 2.0], [0.4, 0.6]]


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("cgc", "ple")])  # those: test_ple.py
def test_trace_and_export_give_the_same(case: str) -> None:
    model = randomise(make(case, norm="batch"))
    traced = torch.fx.symbolic_trace(model)
    for count in (7, 2):  # the trace holds no batch size
        torch.testing.assert_close(traced(rows(count, case)), model(rows(count, case)), rtol=0, atol=1e-12)
    shapes = ({0: torch.export.Dim("rows", min=1)},)
    exported = torch.export.export(model.eval(), (rows(7, case),), dynamic_shapes=shapes)
    torch.testing.assert_close(exported.module()(rows(3, case)), model(rows(3, case)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("single_task", {"bottom_layers": []}, "bottom_layers is empty"),
        ("shared_bottom", {"bottom_layers": []}, "bottom_layers is empty"),
        ("customized", {"bottom_layers": [4, 0]}, "at least 1"),
        ("asymmetric", {"reads": [[1]]}, "reads has 1 lists for 3 tasks"),
        ("asymmetric", {"reads": [[0], [], []]}, r"reads\[0\] is \[0\]"),
        ("asymmetric", {"reads": [[], [2, 2], []]}, r"reads\[1\] is \[2, 2\]"),
        ("asymmetric", {"fusion": "max"}, "choose one of concat, sum, mean"),
        ("moe", {"experts": 0}, "experts is 0"),
        ("mmoe", {"expert_layers": []}, "expert_layers is empty"),
        ("ml_mmoe", {"levels": 0}, "levels is 0"),
        ("cross_stitch", {"bottom_layers": []}, "bottom_layers is empty"),
        ("sluice", {"bottom_layers": [6, 3]}, "one width"),
        ("sluice", {"subspaces": 4}, "no 4 equal subspaces"),
        ("sluice", {"subspaces": 0}, "no 0 equal subspaces"),
        ("sluice", {"init": "random"}, "choose one of imbalanced, balanced"),
        ("sluice", {"orthogonality": -1.0}, "must not be negative"),
        ("sluice", {"orthogonality": math.nan}, "orthogonality is nan"),
        ("sluice", {"orthogonality": math.inf}, "orthogonality is inf"),
        ("sluice", {"bottom_layers": 6}, r"bottom_layers is 6: give a list of widths, such as \[6\]"),
        ("asymmetric", {"reads": [[-1], [], []]}, r"reads\[0\] is \[-1\]"),
        ("asymmetric", {"reads": {0: [1], 1: [], 2: []}}, "give a list for each task"),
        ("single_task", {"bottom_layers": 6}, r"bottom_layers is 6: give a list of widths"),
        ("mmoe", {"expert_layers": 6}, r"expert_layers is 6: give a list of widths"),
        ("ple", {"expert_layers": 6}, r"expert_layers is 6: give a list of widths"),
        ("moe", {"tasks": 2.0}, "tasks is 2.0: a whole number"),
    ],
)
def test_mistakes_are_named(case: str, changes: dict[str, Any], message: str) -> None:
    name, settings = CASES[case]
    with pytest.raises(ValueError, match=message):
        ARCHS[name](**({"in_dim": D, "tasks": T} | settings | changes))


@every_case
def test_an_input_of_other_axes_is_refused(case: str) -> None:
    model, separate = make(case), case == "separate inputs"
    for shape in [(4, 2, D), (4, T + 1, D), (4, D)] if separate else [(4, T, D), (D,)]:
        with pytest.raises(ValueError, match=r"the input has shape \["):
            model(torch.zeros(shape))


def test_numbers_of_numpy_are_numbers() -> None:
    three = np.int64(3)
    assert ARCHS["cgc"](D, three, np.int64(1), 1, [4])(torch.zeros(2, D)).shape == (2, 3, 4)
    assert Towers(np.int64(4), three)(torch.zeros(2, 3, 4)).shape == (2, 3)


@every_case
def test_no_task_is_refused(case: str) -> None:
    with pytest.raises(ValueError, match="tasks is 0"):
        make(case, 0)
