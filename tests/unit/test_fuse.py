"""The search for weights: a planted optimum is found, floors are kept, the front is the front, what is written can be
read; intervals by a bootstrap of lists."""

import dataclasses
import datetime
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import yaml
from sklearn.metrics import ndcg_score

from pipeline.fuse.day import Day, Labels, difference
from pipeline.fuse.plan import check_model, fusion_of, scoring_jobs
from pipeline.fuse.report import content, fusion_yaml, page, text
from pipeline.fuse.search import FACTOR, Trials, best_of, equal_weights, normal, pareto, search, spread
from pipeline.fuse.tune import Tuned, tune, with_weights
from pipeline.lists import Lists
from schemas.errors import InputError
from schemas.events import DayRange
from schemas.fuse import FuseConfig
from schemas.fusion import FusionConfig
from schemas.load import load_job
from tests.logs import small_config, small_job, write_config

FUSION = FusionConfig.model_validate(
    {"terms": [{"task": "click"}, {"task": "order"}], "factor": {"column": "price", "map": "log1p"}}
)
CONFIG: dict[str, Any] = {"out": "out", "objective": {"task": "order", "k": 5}, "trials": 64}


def day(config: FuseConfig, seed: int = 0, lists: int = 400, length: int = 12) -> Day:
    """Lists in which orders follow 0.6 click + 1.4 order - 0.5 price, and clicks follow click alone."""
    random = np.random.default_rng(seed)
    log_NK = random.normal(size=(lists * length, 3))
    code_N = np.repeat(np.arange(lists), length)
    order_N = log_NK @ [0.6, 1.4, -0.5] + random.normal(size=len(log_NK)) > 3
    click_N = log_NK[:, 0] + 0.5 * random.normal(size=len(log_NK)) > 1
    out = Day.__new__(Day)
    out.days = DayRange.model_validate({"from": datetime.date(2026, 1, 5), "to": datetime.date(2026, 1, 5)})
    out.log_NK, out._objective, out.rows, out.lists = log_NK, config.objective, len(code_N), lists
    grouped = Lists(code_N)
    out.labels = [Labels("click", None, grouped, click_N), Labels("order", None, grouped, order_N)]
    return out


def tuned(**changes: Any) -> Tuned:
    config = FuseConfig.model_validate(CONFIG | changes)
    return tune(FUSION, config, 0, day(config), day(config, seed=1))


@pytest.fixture(scope="module")
def found() -> Tuned:
    return tuned()


def test_planted_weights_are_found_and_hold_on_a_later_day(found: Tuned) -> None:
    click, order, price = found.weight_K
    assert click + order == pytest.approx(2)
    assert click / order == pytest.approx(0.6 / 1.4, abs=0.2)
    assert price / order == pytest.approx(-0.5 / 1.4, abs=0.2)
    later = {line.task: line for line in found.check}["order"]
    assert later.difference is not None
    assert later.difference.low > 0
    assert later.tuned - later.equal == pytest.approx(later.difference.value, abs=1e-12)


def test_the_measure_of_a_line_is_scikit_learns(found: Tuned) -> None:
    config = FuseConfig.model_validate(CONFIG)
    rows = day(config)
    score_LN = (rows.log_NK @ found.weight_K).reshape(400, 12)
    label_LN = rows.labels[1].label_M.reshape(400, 12)
    some = label_LN.any(axis=1)
    expected = ndcg_score(label_LN[some].astype(float), score_LN[some], k=5)
    assert found.tune[1].tuned == pytest.approx(expected, rel=1e-12)
    assert found.tune[1].lists == some.sum()


def test_a_floor_is_kept_and_costs_the_objective(found: Tuned) -> None:
    free = {line.task: line for line in found.tune}
    floor = (free["click"].equal + free["click"].tuned) / 2
    held = tuned(floors={"click": {"at_least": floor}})
    lines = {line.task: line for line in held.tune}
    assert lines["click"].tuned >= floor > free["click"].tuned
    assert lines["order"].equal < lines["order"].tuned < free["order"].tuned
    relative = tuned(floors={"click": {"at_most_below": 0.0}})
    assert {line.task: line for line in relative.tune}["click"].floor == free["click"].equal
    later = {line.task: line for line in relative.check}["click"]
    assert later.floor == later.equal, "a floor that goes by equal weights goes by those of the day"


def test_floors_that_no_weights_keep_are_told_with_the_best_there_is() -> None:
    with pytest.raises(
        InputError, match=r"fuse\.floors: none of \d+ weights keeps them all; .*click 0\.\d+ of 0\.9999"
    ):
        tuned(floors={"click": {"at_least": 0.9999}})


def test_gauc_is_tuned_as_well() -> None:
    found = tuned(objective={"task": "click", "measure": "gauc"})
    assert found.measure == "GAUC"
    assert found.weight_K[0] > 1.8
    assert found.tune[0].tuned > found.tune[0].equal


def test_the_front_holds_what_nobody_beats() -> None:
    value_PT = np.random.default_rng(0).random((200, 3)).round(1)
    trials = Trials(np.zeros((200, 1)), value_PT)
    front = pareto(trials, [0, 1, 2], objective=1)
    beaten = [any((other >= each).all() and (other > each).any() for other in value_PT) for each in value_PT]
    assert {tuple(value_PT[at]) for at in front} == {tuple(v) for v, b in zip(value_PT, beaten, strict=True) if not b}
    assert len({tuple(value_PT[at]) for at in front}) == len(front)
    assert value_PT[front, 1].tolist() == sorted(value_PT[front, 1].tolist(), reverse=True)


def test_trials_keep_their_bounds_and_begin_with_equal_weights_and_each_task_alone() -> None:
    seen: list[np.ndarray] = []

    def values(weight_K: np.ndarray) -> np.ndarray:
        seen.append(weight_K)
        return np.array([-np.abs(weight_K - [0.2, 2.8, 0.0, 1.5]).sum()])

    trials = search(values, lambda _: 0.0, 0, terms=3, factor=True, trials=128, seed=4)
    assert trials.weight_PK[:4].tolist() == [[1, 1, 1, 0], [3, 0, 0, 0], [0, 3, 0, 0], [0, 0, 3, 0]]
    assert (trials.weight_PK[:, :3] >= 0).all()
    np.testing.assert_allclose(trials.weight_PK[:, :3].sum(axis=1), 3, atol=2e-4)
    assert np.abs(trials.weight_PK[:, 3]).max() <= FACTOR
    best = best_of(trials, lambda _: 0.0, 0)
    assert best is not None
    np.testing.assert_allclose(trials.weight_PK[best], [0.2, 2.8, 0.0, 1.5], atol=0.05)
    again = search(values, lambda _: 0.0, 0, terms=3, factor=True, trials=128, seed=4)
    assert again.weight_PK.tolist() == trials.weight_PK.tolist()


def test_the_spread_is_even_over_proportions() -> None:
    point_PK = spread(3, True, 4096, 0)
    assert point_PK[:, :3].mean(axis=0) == pytest.approx([1, 1, 1], abs=0.02)
    # the first share of three lies below x with probability 1 - (1 - x)^2 where all are alike
    assert (point_PK[:, 0] < 1.5).mean() == pytest.approx(0.75, abs=0.02)
    assert np.median(point_PK[:, 3]) == pytest.approx(0, abs=0.02)
    assert (np.abs(point_PK[:, 3]) < FACTOR / 8).mean() == pytest.approx(0.5, abs=0.02)
    assert normal(np.array([-1.0, -1.0, 9.0]), 2).tolist() == [1, 1, 2], "all proportions, where none is above 0"


def test_the_interval_of_a_difference_is_that_of_a_bootstrap_of_lists(found: Tuned) -> None:
    config = FuseConfig.model_validate(CONFIG | {"objective": {"task": "order", "measure": "gauc"}})
    rows = day(config)
    one, other = rows.measured(found.weight_K)["order"], rows.measured(equal_weights(2, True))["order"]
    told = difference(one, other)
    assert told is not None
    counted = np.flatnonzero(~np.isnan(one.value_L))
    random, drawn = np.random.default_rng(5), []
    for _ in range(2000):
        at = random.choice(counted, len(counted))
        drawn.append(np.average((one.value_L - other.value_L)[at], weights=one.weight_L[at]))
    assert (told.high - told.low) / 2 == pytest.approx(1.96 * np.std(drawn), rel=0.08)
    assert told.value == pytest.approx(one.value - other.value)


def test_what_is_written_is_a_section_that_a_job_takes(found: Tuned, tmp_path: Path) -> None:
    written = fusion_yaml(found)
    section = yaml.safe_load(written)
    assert FusionConfig.model_validate(section["fusion"]) == found.fusion
    assert found.fusion == with_weights(FUSION, found.weight_K)
    (tmp_path / "fusion.yaml").write_text(written)
    config = write_config(tmp_path / "job.yaml", small_config("log", "out"))
    job = load_job(str(config), [f"fusion=@{tmp_path}/fusion.yaml"])
    assert job.fusion == found.fusion
    with pytest.raises(InputError, match=r"nowhere\.yaml: cannot be read"):
        load_job(str(config), ["fusion=@nowhere.yaml"])


def test_a_sigmoids_place_is_written_and_nothing_that_would_be_refused(found: Tuned) -> None:
    told = {"terms": [{"task": "click", "weight": 2.0, "probability": "joint"}]}
    told |= {"factor": {"column": "price", "map": "sigmoid", "center": 3.0, "scale": 2.0, "weight": 0.5}}
    other = dataclasses.replace(found, fusion=FusionConfig.model_validate(told))
    assert yaml.safe_load(fusion_yaml(other))["fusion"] == told


def test_the_report_says_what_was_found(found: Tuned) -> None:
    told, printed, html = content(found), text(found), page(found).html()
    json.dumps(told, allow_nan=False)
    assert told["chosen"]["measures"]["order"] == found.tune[1].tuned
    assert told["equal"]["weights"] == {"p.click": 1.0, "p.order": 1.0, "log1p of price": 0.0}
    for shown in (printed, html):
        for number in (found.tune[1].tuned, found.check[1].equal, found.check[1].tuned):
            assert f"{number:.4f}" in shown
    assert "NDCG@5 by user_id, checked on 2026-01-05: 4,800 rows, 400 lists" in printed
    assert html.count("<svg") == 1
    assert len(told["front"]) == len(found.front)


def fuse_job(**fuse: Any) -> Any:
    return small_job("log", changes={"fuse": CONFIG | fuse})


def test_days_are_the_evaluations_or_those_named_and_the_check_comes_later() -> None:
    one = scoring_jobs(fuse_job(), "c")
    assert [str(job.data.eval.first) for job in one] == ["2026-01-03"]
    both = scoring_jobs(
        fuse_job(days={"from": "2026-01-02", "to": "2026-01-02"}, check={"from": "2026-01-03", "to": "2026-01-04"}), "c"
    )
    assert [str(job.data.eval.last) for job in both] == ["2026-01-02", "2026-01-04"]
    assert [list(job.score.models) for job in both] == [["tune"], ["check"]]
    with pytest.raises(InputError, match=r"fuse\.check: begins on 2026-01-03, and the weights are tuned on days up to"):
        scoring_jobs(fuse_job(check={"from": "2026-01-03", "to": "2026-01-03"}), "c")
    with pytest.raises(InputError, match=r"fuse\.days: missing, and so is data\.eval"):
        scoring_jobs(small_job("log", changes={"fuse": CONFIG, "data.eval": None}), "c")


@pytest.mark.parametrize(
    ("fuse", "said"),
    [
        ({"objective": {"task": "ordr"}}, r"fuse\.objective\.task: no task 'ordr'; did you mean 'order'"),
        ({"floors": {"buy": {"at_least": 0.5}}}, r"fuse\.floors\.buy: no task 'buy'"),
        ({"floors": {"order": {"at_least": 0.5}}}, r"fuse\.floors\.order: it is the objective itself"),
        ({"floors": {"click": {}}}, r"give one of at_least and at_most_below"),
        ({"trials": 2}, r"fuse\.trials"),
    ],
)
def test_what_cannot_be_tuned_is_refused_by_name(fuse: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_model(fuse_job(**fuse), cast(Any, [SimpleNamespace(job=small_job("log"), rows=None)]))


def test_without_a_declared_score_every_binary_task_is_a_factor() -> None:
    tasks = [{"name": "click"}, {"name": "order", "given": "click"}, {"name": "watch", "kind": "regression"}]
    assert [term.task for term in fusion_of(small_job("log", changes={"tasks": tasks})).terms] == ["click", "order"]
