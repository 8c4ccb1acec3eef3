"""The reports of a comparison whose every value is known: what is said of it, and where."""

import math
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pipeline.compare.campaign import _report
from pipeline.compare.comparison import Comparison, Measure
from pipeline.compare.page import comparison_page
from pipeline.compare.terminal import terminal_report
from schemas.errors import InputError
from tests.unit.test_report import Tags

SEEDS = [0, 1, 2, 3, 4]
NOISE = np.random.default_rng(3).normal(0, 0.001, (5, 8))
AUC, ORDER, MSE = Measure("click", False, "auc"), Measure("order", False, "auc"), Measure("watch", False, "mse")


def record(seed: int, column: int, click: float, order: float, watch: float, **more: Any) -> dict[str, Any]:
    """What a run leaves, with noise of its own."""
    noise = float(NOISE[seed, column])

    def binary(auc: float) -> dict[str, float | None]:
        return {
            "rows": 900,
            "positives": 90,
            "auc": auc + noise,
            "log_loss": 0.5,
            "ne": 0.8,
            "calibration": 1.0,
            "auc_low": None,
        }

    return {
        "fingerprints": {"job": "a", "training": "b", "evaluation": "c"},
        "rows_per_second": 1000.0 * (column + 1),
        "seconds": 60.0,
        "rss_bytes": 100 << 20,
        "cuda_bytes": 0,
        "dense_parameters": 5000,
        "table_parameters": 10,
        "flops_per_row": 20,
        "step": 7,
        "samples": 70,
        "ranks": 1,
        "device": "cpu",
        "precision": "fp32",
        "tasks": {
            "click": {"kind": "binary", "own": binary(click)},
            "order": {"kind": "binary", "own": binary(order), "joint": binary(order + 0.1)},
            "watch": {"kind": "regression", "own": {"rows": 900, "mse": watch + noise, "mae": 0.1, "r2": 0.2}},
        },
    } | more


def comparison(seeds: list[int] = SEEDS, missing: tuple[tuple[str, int], ...] = (), **more: Any) -> Comparison:
    """single, seesaw (click gains, order pays), better (all gain) and same (nothing differs but noise)."""
    levels = {
        "single": (0.70, 0.60, 0.20),
        "seesaw": (0.74, 0.55, 0.20),
        "better": (0.75, 0.65, 0.10),
        "same": (0.70, 0.60, 0.20),
    }
    records = {
        (side, seed): record(seed, column, *values, **more.get(side, {}))
        for column, (side, values) in enumerate(levels.items())
        for seed in seeds
        if (side, seed) not in missing
    }
    lost = [(side, seed, "out of memory\nat line 3") for side, seed in missing]
    return Comparison("job", list(levels), "single", seeds, records, lost, [("log", "x")])


def words_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", html))


def test_who_gained_and_who_paid() -> None:
    c = comparison()
    assert c.verdict("seesaw").words == "a seesaw: click gained, order paid"
    assert c.verdict("better").words == "click, order, watch gained, nobody paid", "less MSE is a gain"
    assert c.verdict("same").words == "no difference seen on any task"
    assert c.gains["better", MSE].mean == pytest.approx(0.1 + (NOISE[:, 0] - NOISE[:, 2]).mean())


def test_words_follow_the_correction_over_tasks_and_sides() -> None:
    c = comparison()
    family = [(side, measure) for side in c.others for measure in c.main]
    assert len(family) == 9
    p = {}
    for side, measure in family:
        pairs = (list(c.by_seed(name, measure).values()) for name in (side, "single"))
        p[side, measure] = stats.ttest_rel(*pairs).pvalue
    holm, largest = {}, 0.0
    for rank, key in enumerate(sorted(p, key=lambda key: p[key])):
        largest = max(largest, min(1.0, p[key] * (9 - rank)))
        holm[key] = largest
    for key in family:
        assert c.gains[key].adjusted == pytest.approx(holm[key]), key
        assert (c.gains[key].word == "no difference seen") == (holm[key] >= 0.05)
    joint = Measure("order", True, "auc")
    assert c.gains["seesaw", joint].word == "paid", "a family of its own"


def test_sides_that_no_other_beats() -> None:
    c = comparison()
    assert c.pareto() == {"better"}
    assert c.pareto(with_speed=True) == {"better", "same"}, "the fastest is beaten by none"
    html = comparison_page(c).html()
    marks = {
        side: re.findall(rf">{side}</th><td class=\"(\w*)\">\w*</td><td class=\"(\w*)\">", html) for side in c.sides
    }
    assert marks["better"][-1] == ("good", "good"), marks
    assert ("", "good") in marks["same"]
    assert ("good", "good") not in marks["seesaw"] + marks["single"]
    assert comparison(missing=tuple(("better", seed) for seed in SEEDS)).pareto() >= {"seesaw"}


def test_both_reports_say_the_same() -> None:
    c = comparison()
    text, html = terminal_report(c), comparison_page(c).html()
    page = words_of(html)
    for told in (text, page):
        assert "seesaw: a seesaw: click gained, order paid" in told
        assert "same: no difference seen on any task" in told
        for key in ((side, measure) for side in c.others for measure in c.main):
            one = c.gains[key]
            assert f"{format(one.mean, '+' + key[1].form)} ±{format(one.half, key[1].form)}" in told
        for measure in c.main:
            assert f"{c.mean('better', measure).mean:{measure.form}} ±" in told
    assert "1,000 ±0" in page
    for caption in ("Log loss", "Normalised entropy", "Calibration", "Mean absolute error", "R2"):
        assert caption in page
    assert html.count("<svg ") == 4, "gains and speed, of AUC and of MSE"
    tags = Tags()
    tags.feed(html)
    assert not tags.open
    least = c.gains["same", AUC].detectable
    assert f"click {least:.4f}" in text
    assert f"click {least:.4f}" in page


def test_an_incomplete_comparison_says_so_first() -> None:
    c = comparison(missing=(("same", 3), ("better", 0)))
    told = "INCOMPLETE: 2 of 20 runs are missing: same seed 3 (out of memory); better seed 0 (out of memory)"
    assert terminal_report(c).startswith(told)
    assert terminal_report(c).endswith(told)
    html = comparison_page(c).html()
    assert f'<p class="bad">{told}</p>' in html
    assert c.gains["better", AUC].seeds == 4
    assert c.gains["seesaw", AUC].seeds == 5


def test_one_seed_has_no_interval_and_no_word() -> None:
    c = comparison(seeds=[0])
    text, page = terminal_report(c), words_of(comparison_page(c).html())
    for told in (text, page):
        assert "seesaw: one seed: nothing can be said" in told
        assert "paid" not in re.sub("gained or paid|Gained and paid|who paid|red paid", "", told)
        assert f"{0.04 + NOISE[0, 1] - NOISE[0, 0]:+.4f}" in told
    assert "With one seed there is no interval" in page
    assert "±" not in text.replace("mean ±half", "")


def test_what_makes_sides_less_comparable_is_noted() -> None:
    assert comparison().notes() == []
    sizes = comparison(better={"dense_parameters": 5251}).notes()
    assert sizes == [
        "the dense networks differ in size: single has 5,000 parameters, better 5,251; --size gives all sides one"
    ]
    assert comparison(better={"dense_parameters": 5249}).notes() == []
    unlike = comparison(better={"precision": "bf16"})
    assert unlike.notes() == ["the runs were not trained alike: bf16 on 1 cpu ranks, fp32 on 1 cpu ranks"]
    assert "Note: the runs were not trained alike" in words_of(comparison_page(unlike).html())
    fewer = comparison()
    fewer.records["same", 0]["tasks"]["click"]["own"]["rows"] = 899
    assert fewer.notes() == ["task click: the sides are evaluated on unlike numbers of rows"]
    labels = comparison()
    labels.records["same", 0]["tasks"]["click"]["own"]["positives"] = 91
    assert labels.notes() == ["task click: the sides are evaluated on unlike numbers of positives"]
    days = comparison(better={"fingerprints": {"training": "another"}})
    assert days.notes() == ["the sides are trained on unlike files"]


def test_a_metric_that_is_not_defined_is_left_out() -> None:
    c = comparison()
    c.records["seesaw", 2]["tasks"]["order"]["own"]["auc"] = None
    assert c.gains["seesaw", ORDER].seeds == 4
    assert "auc_low" not in c.table.column("metric").to_pylist()
    told = "task order: auc is not defined for seesaw seed 2 (no rows, or all of one label), and left out"
    assert c.notes() == [told]
    for record in (one := comparison()).records.values():
        record["tasks"]["order"]["own"]["auc"] = None
    assert ORDER not in one.main
    told = "task order: auc is not defined for any run (no rows, or all of one label), and left out"
    assert f"note: {told}" in terminal_report(one)
    assert f"Note: {told}." in words_of(comparison_page(one).html())


def test_a_model_that_has_diverged_does_not_take_the_report_along() -> None:
    c = comparison()
    c.records["better", 2]["tasks"]["watch"]["own"] |= {"mse": math.inf, "mse_high": math.inf}
    c.records["better", 2]["tasks"]["order"]["joint"]["log_loss"] = math.inf
    assert c.gains["better", MSE].seeds == 4
    whose = "not defined for better seed 2 (it is infinite), and left out"
    assert c.notes() == [f"task order (joint): log_loss is {whose}", f"task watch: mse is {whose}"]
    assert math.inf in c.table.column("value").to_pylist(), "the results hold what the run told"
    assert whose in terminal_report(c)
    assert whose in comparison_page(c).html()


def test_without_the_baseline_nothing_is_said() -> None:
    c = comparison(missing=tuple(("single", seed) for seed in SEEDS))
    assert c.verdict("better").words == "no seed that both have finished: nothing can be said"
    assert "one seed" not in terminal_report(c) + words_of(comparison_page(c).html())


def test_nothing_finished_is_told_too() -> None:
    c = comparison(missing=tuple((side, seed) for side in ("single", "seesaw", "better", "same") for seed in SEEDS))
    assert terminal_report(c).startswith("INCOMPLETE: 20 of 20")
    assert "INCOMPLETE: 20 of 20" in comparison_page(c).html()


def test_reports_that_cannot_be_written_are_told_behind_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.html" / "in the way").mkdir(parents=True)
    with pytest.raises(InputError, match=rf"{tmp_path}: the reports cannot be written \(.*\); the runs are kept"):
        _report(comparison(), tmp_path)
    assert "seesaw: a seesaw: click gained, order paid" in capsys.readouterr().out
