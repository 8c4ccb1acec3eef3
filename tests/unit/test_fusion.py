"""The fused score against its formula in exact arithmetic, at its ends, and what is refused of it."""

import math
from decimal import Decimal, getcontext
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.chain import joint_log_probability
from pipeline.fusion import LEAST, fused_log_score, log_factors, log_sigmoid, outputs, weights
from schemas.errors import InputError
from schemas.fusion import FusionConfig
from schemas.identity import fingerprint
from schemas.job import JobConfig
from tests.logs import small_job

getcontext().prec = 60
TASKS = [
    {"name": "click", "kind": "binary", "link": None, "clip": None},
    {"name": "cart", "kind": "binary", "link": 0, "clip": None},
    {"name": "order", "kind": "binary", "link": 1, "clip": None},
    {"name": "watch", "kind": "regression", "link": None, "clip": [0.0, 3.0]},
]
LINKS = [task["link"] for task in TASKS]


def sigmoid(x: float) -> Decimal:
    return 1 / (1 + (-Decimal(x)).exp())


def mapped(name: str, v: float, center: float = 0.0, scale: float = 1.0) -> Decimal:
    positive = max(Decimal(v), Decimal(0))
    return {
        "identity": positive,
        "log1p": (1 + positive).ln(),
        "sqrt": positive.sqrt(),
        "sigmoid": sigmoid((v - center) / scale),
    }[name]


def test_the_score_is_the_product_of_its_factors_to_fifteen_digits() -> None:
    fusion = {
        "terms": [
            {"task": "click", "weight": 1.0},
            {"task": "order", "weight": 0.5, "probability": "joint"},
            {"task": "cart", "weight": -0.25, "probability": "conditional"},
            {"task": "watch", "weight": 0.7, "map": "log1p"},
        ],
        "factor": {"column": "price", "map": "sigmoid", "weight": -0.3, "center": 20.0, "scale": 8.0},
    }
    generator = np.random.default_rng(0)
    logit_NT = generator.normal(0, 4, (200, 4)).astype(np.float32)
    price_N = generator.lognormal(3, 1, 200)
    logit_NT[:, 3] = generator.uniform(0.1, 5, 200)
    for (click, cart, order, watch), price, said in zip(
        logit_NT.tolist(), price_N.tolist(), fused_log_score(fusion, TASKS, logit_NT, price_N).tolist(), strict=True
    ):
        p = [sigmoid(x) for x in (click, cart, order)]
        expected = (
            p[0].ln()
            + Decimal("0.5") * (p[0] * p[1] * p[2]).ln()
            - Decimal("0.25") * p[1].ln()
            + Decimal("0.7") * mapped("log1p", min(watch, 3.0)).ln()
            - Decimal("0.3") * mapped("sigmoid", price, 20.0, 8.0).ln()
        )
        assert said == pytest.approx(float(expected), rel=1e-13, abs=1e-13)


@pytest.mark.parametrize("name", ["identity", "log1p", "sqrt", "sigmoid"])
def test_every_map_by_its_formula_and_none_below_zero(name: str) -> None:
    fusion = {"terms": [{"task": "click"}], "factor": {"column": "v", "map": name}}
    v_N = np.array([-3.0, 0.0, 0.5, 2.0, 1e6])
    log_N = log_factors(fusion, TASKS, np.zeros((5, 4)), v_N)[:, 1]
    for v, said in zip(v_N.tolist(), log_N.tolist(), strict=True):
        exact = mapped(name, v)
        assert said == (LEAST if exact == 0 else pytest.approx(float(exact.ln()), rel=1e-13, abs=1e-13))


def test_a_probability_of_zero_and_a_factor_of_zero_give_a_finite_score_that_comes_last() -> None:
    fusion = {
        "terms": [{"task": "click", "weight": 1.0}, {"task": "order", "weight": 0.0, "probability": "joint"}],
        "factor": {"column": "price", "map": "identity", "weight": 0.5},
    }
    logit_NT = np.array([[-1e30, 0, -1e30, 0], [-5.0, 0, 0, 0], [-5.0, 0, 0, 0]])
    score_N = fused_log_score(fusion, TASKS, logit_NT, np.array([1.0, 0.0, 1.0]))
    assert np.isfinite(score_N).all()
    assert score_N.argsort().tolist() == [0, 1, 2]
    assert score_N[1] == pytest.approx(float(sigmoid(-5).ln()) + 0.5 * LEAST)
    worst = {"terms": [{"task": "click", "weight": -2.0}, {"task": "order", "weight": 2.0}]}
    assert np.isfinite(fused_log_score(worst, TASKS, np.full((1, 4), -1e30))).all(), "no infinity less infinity"


def test_probabilities_are_those_of_training_and_keep_their_precision_at_both_ends() -> None:
    logit_NT = np.linspace(-60, 60, 400, dtype=np.float32).reshape(100, 4)
    torch_NT = joint_log_probability(torch.from_numpy(logit_NT).double(), LINKS).numpy()
    told = outputs(TASKS, logit_NT)
    for at, task in enumerate(("click", "cart", "order")):
        np.testing.assert_allclose(told[f"joint.{task}"], np.exp(torch_NT[:, at]), rtol=1e-13)
        np.testing.assert_allclose(told[f"p.{task}"], torch.sigmoid(torch.from_numpy(logit_NT[:, at]).double()), 1e-13)
    np.testing.assert_array_equal(told["value.watch"], np.clip(logit_NT[:, 3].astype(np.float64), 0, 3))
    assert set(told) == {f"{kind}.{t}" for kind in ("p", "joint") for t in ("click", "cart", "order")} | {"value.watch"}
    assert log_sigmoid(np.array([-800.0, 800.0])).tolist() == [-800.0, -math.exp(-800)]


def test_a_rows_score_does_not_depend_on_the_rows_beside_it() -> None:
    fusion = {"terms": [{"task": "click", "weight": 0.3}, {"task": "order", "weight": 0.7, "probability": "joint"}]}
    logit_NT = np.random.default_rng(1).normal(0, 3, (97, 4)).astype(np.float32)
    whole_N = fused_log_score(fusion, TASKS, logit_NT)
    alone_N = [fused_log_score(fusion, TASKS, logit_NT[n : n + 1])[0] for n in range(97)]
    assert whole_N.tolist() == alone_N
    assert weights(fusion) == [0.3, 0.7]


def with_fusion(fusion: dict[str, Any]) -> JobConfig:
    tasks = [
        {"name": "click"},
        {"name": "order", "given": "click"},
        {"name": "watch", "kind": "regression", "given": "click", "clip": [0, 3]},
    ]
    return small_job("/nowhere", changes={"tasks": tasks, "fusion": fusion})


def test_defaults_are_those_of_the_schema_and_the_tasks_are_told_as_plain_data() -> None:
    job = with_fusion({"terms": [{"task": "order"}], "factor": {"column": "price", "map": "log1p"}})
    assert job.fusion is not None
    data = job.fusion.model_dump(mode="json")
    bare = {"terms": [{"task": "order"}], "factor": {"column": "price", "map": "log1p"}}
    logit_NT, price_N = np.array([[0.3, -2.0, 1.0]]), np.array([7.0])
    assert fused_log_score(data, job.outputs, logit_NT, price_N) == fused_log_score(
        bare, job.outputs, logit_NT, price_N
    )
    assert job.outputs == [
        {"name": "click", "kind": "binary", "link": None, "clip": None},
        {"name": "order", "kind": "binary", "link": 0, "clip": None},
        {"name": "watch", "kind": "regression", "link": None, "clip": [0.0, 3.0]},
    ]


def test_the_fused_score_decides_nothing_of_what_is_trained() -> None:
    with_one = with_fusion({"terms": [{"task": "order"}]}).model_dump(mode="json", by_alias=True)
    other = with_fusion({"terms": [{"task": "click"}]}).model_dump(mode="json", by_alias=True)
    assert fingerprint(with_one) == fingerprint(other)


@pytest.mark.parametrize(
    ("fusion", "said"),
    [
        ({"terms": [{"task": "ordr"}]}, "fusion.terms.0.task: no task 'ordr'; did you mean 'order'?"),
        ({"terms": [{"task": "click"}, {"task": "click"}]}, "'click' is named 2 times"),
        ({"terms": [{"task": "watch"}]}, "fusion.terms.0.map: missing, and 'watch' is a regression task"),
        (
            {"terms": [{"task": "watch", "map": "log1p", "probability": "joint"}]},
            "fusion.terms.0.probability: 'watch' is a regression task and has none",
        ),
        ({"terms": [{"task": "click", "map": "sqrt"}]}, "fusion.terms.0.map: belongs to a regression task"),
        ({"terms": [{"task": "click", "center": 2}]}, "belong to map: sigmoid"),
        ({"terms": []}, "fusion.terms"),
        ({"terms": [{"task": "click", "wieght": 2}]}, "did you mean 'weight'?"),
        ({"terms": [{"task": "click"}], "factor": {"column": "price", "map": "log"}}, "fusion.factor.map"),
        (
            {"terms": [{"task": "click"}], "factor": {"column": "price", "map": "sigmoid", "scale": 0}},
            "fusion.factor.scale",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(fusion: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as error:
        with_fusion(fusion)
    assert said in str(error.value)


def test_a_factor_without_its_column_is_refused() -> None:
    with pytest.raises(ValueError, match="reads column 'price', and it is not given"):
        fused_log_score(
            {"terms": [{"task": "click"}], "factor": {"column": "price", "map": "log1p"}}, TASKS, np.zeros((1, 4))
        )


def test_a_saved_declaration_is_read_again() -> None:
    """A checkpoint's configuration spells every default out."""
    declared = FusionConfig.model_validate(
        {"terms": [{"task": "click"}], "factor": {"column": "price", "map": "log1p", "weight": 0.3}}
    )
    assert FusionConfig.model_validate(declared.model_dump(mode="json")) == declared
