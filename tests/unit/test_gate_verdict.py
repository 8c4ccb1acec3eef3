"""What the gate refuses, what it lets pass, and how it says so."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from pipeline.gate.record import ALL, AUC, JOINT, LOG_LOSS, OWN, Comparison, Verdict
from pipeline.gate.verdict import judge, lines, read_verdict, write_verdict
from pipeline.measures import binary_metrics, regression_metrics
from pipeline.metrics import MetricWindow
from pipeline.predictions import Predictions
from schemas.daily import GateConfig, Tolerance
from schemas.errors import InputError
from schemas.tasks import TaskSpec
from tests.exposures import TASKS, Exposures, drawn, generated_job, planted

JOB = generated_job()
GATE = GateConfig(resamples=100)
LOOSE = Tolerance(auc=0.5, log_loss=100, calibration=100)
"""For what must be seen by AUC alone."""


@pytest.fixture(scope="module")
def world() -> Exposures:
    return drawn(11, users=1500)


def run(old: Predictions | None, new: Predictions, world: Exposures, gate: GateConfig = GATE, **others: Any) -> Verdict:
    return judge(others.pop("job", JOB), gate, old, new, others.pop("slices", {}), world.user_N, 1, **others)


def of(verdict: Verdict, task: str, metric: str = AUC, space: str = OWN, where: str = ALL) -> Comparison:
    (out,) = [c for c in verdict.comparisons if (c.task, c.space, c.metric, c.slice) == (task, space, metric, where)]
    return out


def changed(predictions: Predictions, task: str, logit_N: np.ndarray) -> Predictions:
    """The same but for one task's logits."""
    logit_TN = predictions.logit_TN.copy()
    logit_TN[TASKS.index(task)] = logit_N
    return dataclasses.replace(predictions, logit_TN=logit_TN)


# ---- the rule


def test_the_model_itself_is_level_everywhere(world: Exposures) -> None:
    model = world.predicted(0.3)
    verdict = run(model, model, world)
    assert verdict.blessed
    assert verdict.reasons == []
    assert {(c.verdict, c.delta, c.error, c.low, c.high) for c in verdict.comparisons} == {("level", 0, 0, 0, 0)}


def test_values_and_spaces_are_those_of_trainings_metrics(world: Exposures) -> None:
    old, new = world.predicted(0.3), world.predicted(0.5)
    verdict = run(old, new, world)
    window = MetricWindow(TASKS, JOB.parents, links=JOB.links)
    window.update(*(torch.from_numpy(x.T.copy()) for x in (new.logit_TN, new.label_TN, new.space_TN)))
    told = window.compute()
    assert told is not None
    for space, metrics in ((OWN, told.own), (JOINT, told.joint)):
        for task, expected in metrics.items():
            for metric in (AUC, LOG_LOSS, "calibration"):
                got = of(verdict, task, metric, space)
                assert got.challenger == pytest.approx(getattr(expected, metric), rel=1e-9)
                assert (got.rows, got.positives) == (expected.rows, expected.positives)
    assert len(verdict.comparisons) == 3 * (len(TASKS) + len(told.joint))


def test_a_seesaw_is_refused_and_said_so(world: Exposures) -> None:
    old = world.predicted(0.6)
    exact = world.predicted([0.0, 0.6, 0.6, 1.6])
    new = dataclasses.replace(old, logit_TN=np.stack([exact.logit_TN[0], *old.logit_TN[1:3], exact.logit_TN[3]]))
    verdict = run(old, new, world)
    assert not verdict.blessed
    assert of(verdict, "click").verdict == "better"
    assert of(verdict, "cart").verdict == "level"
    worse = of(verdict, "order")
    assert worse.verdict == "worse"
    assert worse.delta is not None
    assert worse.low is not None
    assert worse.delta > worse.tolerance
    assert worse.low > 0
    (reason,) = [words for words in verdict.reasons if words.startswith("order (own space, all held-out rows): AUC")]
    for words in (f"{worse.champion:.4f} -> {worse.challenger:.4f}", "0.0020 is tolerated", "a seesaw", "click AUC"):
        assert words in reason
    assert not any(words.startswith(("click", "cart", "fav")) for words in verdict.reasons)


@pytest.mark.parametrize("task", ["click", "order"])
def test_half_a_hundredth_of_auc_is_refused_in_one_task(task: str) -> None:
    """benchmarks/gate.py has the same with real models and 20 seeds."""
    for seed in range(2):
        world = drawn(seed, users=8000)
        model = world.predicted(0.3)
        verdict = run(model, planted(model, task, 0.005, seed), world)
        assert of(verdict, task).delta == pytest.approx(0.005, abs=1e-5)
        assert of(verdict, task).verdict == "worse"
        assert {c.task for c in verdict.comparisons if c.verdict == "worse"} <= {
            task,
            *(TASKS if task == "click" else ()),
        }


def test_a_loss_within_tolerance_passes_however_sure_it_is(world: Exposures) -> None:
    old = world.predicted(0.2)
    new = changed(old, "click", old.logit_TN[0] + 0.6 * world.rng.normal(size=len(world.user_N)).astype(np.float32))
    sure = run(old, new, world, GateConfig(resamples=100, tolerance=Tolerance(auc=0, log_loss=0, calibration=0)))
    assert of(sure, "click").verdict == "worse"
    assert of(run(old, new, world, GateConfig(resamples=100, tolerance=LOOSE)), "click").verdict == "level"
    one = GateConfig(resamples=100, tasks={"click": LOOSE})
    assert of(run(old, new, world, one), "click").verdict == "level", "a task's own tolerance stands instead"
    assert of(run(old, new, world, one), "order").tolerance == Tolerance().auc


def test_a_loss_that_may_be_noise_is_left_to_the_policy() -> None:
    small = drawn(12, users=250)
    gate = {"resamples": 100, "tolerance": Tolerance(auc=0.001, log_loss=9, calibration=9), "min_positives": 10}
    old, new = small.predicted(0.5), small.predicted(0.6)
    verdict = run(old, new, small, GateConfig(**gate))
    unsure = [c for c in verdict.comparisons if c.verdict == "unsure"]
    assert unsure, "the world was drawn for this"
    assert verdict.blessed
    (note,) = [note for note in verdict.notes if "let pass" in note]
    assert all(f"{c.task} " in note for c in unsure)
    strict = run(old, new, small, GateConfig(**gate, unsure="refuse"))
    assert not strict.blessed
    assert len(strict.reasons) == len(unsure)
    assert "daily.gate.unsure is refuse" in strict.reasons[0]


def test_losses_are_refused_as_often_as_the_detectable_size_says() -> None:
    job = JOB.model_copy(update={"tasks": JOB.tasks[:1]})
    tolerance = 0.002
    gate = GateConfig(resamples=150, tolerance=Tolerance(auc=tolerance, log_loss=99, calibration=99))
    told = []
    for seed in range(60):
        world = drawn(seed, users=300)
        told.append(of(run(world.predicted(0.2), world.predicted(0.55), world, gate, job=job), "click"))
    delta, error, detectable = (np.mean([getattr(c, key) for c in told]) for key in ("delta", "error", "detectable"))
    assert told[0].detectable == pytest.approx(
        max(tolerance, told[0].delta - told[0].low) + 0.8416 * told[0].error, 1e-4
    )
    power = stats.norm.cdf(0.8416 + (delta - detectable) / error)
    assert 0.3 < power < 0.95, "the planted loss is near the detectable size"
    refused = sum(c.verdict == "worse" for c in told)
    low, high = stats.binom(60, power).ppf([0.001, 0.999])
    assert low <= refused <= high


def test_a_slice_alone_can_refuse(world: Exposures) -> None:
    few_N = world.user_N % 4 == 0
    old = world.predicted(0.2)
    noise_N = np.where(few_N, 1.5, 0.0) * world.rng.normal(size=len(few_N))
    new = changed(old, "click", old.logit_TN[0] + noise_N.astype(np.float32))
    gate = GateConfig(resamples=100, tolerance=Tolerance(auc=0.05, log_loss=99, calibration=99))
    verdict = run(old, new, world, gate, slices={"few": few_N, "none": np.zeros_like(few_N)})
    assert of(verdict, "click").verdict == "level"
    assert of(verdict, "click", where="few").verdict == "worse"
    assert of(verdict, "click", where="few").rows == few_N.sum()
    assert "slice few" in verdict.reasons[0]
    empty = of(verdict, "click", where="none")
    assert (empty.verdict, empty.rows, empty.champion, empty.note) == ("too_few", 0, None, "0 positives, under 50")


# ---- what cannot be compared


def test_few_positives_are_told_and_do_not_judge(world: Exposures) -> None:
    positives = int(world.label_TN[3].sum())
    old, new = world.predicted(0.1), world.predicted([0.1, 0.1, 0.1, 9])
    verdict = run(old, new, world, GateConfig(resamples=100, min_positives=positives + 1))
    few = of(verdict, "order")
    assert few.verdict == "too_few"
    assert few.delta is not None
    assert few.delta > 0.1
    assert few.error is None
    assert few.note == f"{positives:,} positives, under {positives + 1:,}"
    assert any(note.startswith("order was not judged: ") for note in verdict.notes)
    assert not run(old, new, world, GateConfig(resamples=100, min_positives=positives)).blessed


def test_positives_of_few_users_do_not_judge(world: Exposures) -> None:
    one = dataclasses.replace(world, user_N=np.arange(len(world.user_N)) % 5)
    verdict = run(one.predicted(0.1), one.predicted(2.0), one)
    assert {c.verdict for c in verdict.comparisons} == {"too_few"}
    assert "come of 5 users, under 20" in of(verdict, "click").note
    assert not verdict.blessed, "a gate that compared nothing blesses nothing"
    assert "nothing could be compared" in verdict.reasons[0]


def test_the_first_champion_is_held_to_floors_alone(world: Exposures) -> None:
    model = world.predicted(0.3)
    auc = of(run(model, model, world), "order").challenger
    assert auc is not None
    passed = run(None, model, world, GateConfig(floors={"order": auc}))
    assert passed.blessed
    assert passed.critical is None
    (floor,) = passed.floors
    assert (floor.met, floor.auc) == (True, auc)
    refused = run(None, model, world, GateConfig(floors={"order": auc + 1e-6, "click": 0.5}))
    assert not refused.blessed
    assert [words.split(":")[0] for words in refused.reasons] == ["order"]
    assert run(None, model, world, GateConfig()).notes == ["no champion and no daily.gate.floors: nothing was judged"]
    same = run(model, model, world, GateConfig(resamples=100, floors={"order": 0.99}))
    assert not same.blessed, "floors hold beside a champion too"


def test_a_floor_without_an_auc_does_not_stand(world: Exposures) -> None:
    model = dataclasses.replace(world, label_TN=np.stack([world.label_TN[0], *np.zeros_like(world.label_TN[1:])]))
    verdict = run(None, model.predicted(0.3), model, GateConfig(floors={"order": 0.5}))
    assert not verdict.blessed
    assert "no AUC to hold against its floor 0.5 (0 positives)" in verdict.reasons[0]


def test_tasks_of_one_side_alone_are_told(world: Exposures) -> None:
    old, new = world.predicted(0.3), world.predicted(0.3)
    fewer = dataclasses.replace(
        old, tasks=TASKS[:3], logit_TN=old.logit_TN[:3], label_TN=old.label_TN[:3], space_TN=old.space_TN[:3]
    )
    verdict = run(fewer, new, world, GateConfig(resamples=100, floors={"order": 0.99}))
    assert "order is new: held to its floor alone, if it has one" in verdict.notes
    assert of(verdict, "order").verdict == "too_few"
    assert [words.split(":")[0] for words in verdict.reasons] == ["order"]
    small = JOB.model_copy(update={"tasks": JOB.tasks[:3]})
    verdict = run(new, fewer, world, job=small, champion_job=JOB)
    assert "order is the champion's alone: not judged" in verdict.notes
    assert "order" not in {c.task for c in verdict.comparisons}


def test_the_champions_joint_probability_is_that_of_its_own_space(world: Exposures) -> None:
    """A naive champion's logit is of every exposure; multiplied by its parent's it would be another number."""
    naive = JOB.model_copy(update={"space": "naive"})
    model = world.predicted(0.3)
    told = of(run(model, model, world, champion_job=naive), "order", LOG_LOSS, JOINT)
    label_N = torch.from_numpy(model.label_TN[3])
    assert told.champion == pytest.approx(
        binary_metrics(label_N, logits_N=torch.from_numpy(model.logit_TN[3])).log_loss
    )
    assert told.challenger != told.champion


def test_indicators_say_which_exposures_the_joint_probability_is_of(world: Exposures) -> None:
    model = world.predicted(0.3)
    half_N = np.arange(len(world.user_N)) % 2 == 0
    exposed_TN = np.stack([np.ones_like(half_N)] * 3 + [half_N])
    shown = dataclasses.replace(model, space_TN=model.space_TN & exposed_TN, exposed_TN=exposed_TN)
    verdict = run(shown, shown, world)
    assert of(verdict, "order", space=JOINT).rows == half_N.sum()
    assert of(verdict, "cart", space=JOINT).rows == len(half_N)


def test_a_regression_task_is_judged_by_its_mse(world: Exposures) -> None:
    job = JOB.model_copy(
        update={"tasks": [TaskSpec(name="click"), TaskSpec(name="time", kind="regression", given="click")]}
    )
    rng = np.random.default_rng(1)
    click_N = world.label_TN[0]
    time_N = np.where(click_N > 0, rng.normal(2, 1, len(click_N)), np.nan).astype(np.float32)
    space_TN = np.stack([np.ones_like(click_N), click_N]).astype(bool)

    def side(error: float) -> Predictions:
        value_N = np.nan_to_num(time_N) + error * rng.normal(size=len(time_N))
        logit_TN = np.stack([world.logit_TN[0], value_N]).astype(np.float32)
        return Predictions(
            np.arange(len(click_N)), ["click", "time"], logit_TN, np.stack([click_N, time_N]), space_TN, None
        )

    old, new = side(0.5), side(0.55)
    verdict = run(old, new, world, job=job)
    told = of(verdict, "time", "mse")
    own_N = space_TN[1]
    mse = [
        regression_metrics(*(torch.from_numpy(x[1][own_N]) for x in (s.logit_TN, s.label_TN))).mse for s in (old, new)
    ]
    assert [told.champion, told.challenger] == pytest.approx(mse)
    assert told.delta == pytest.approx(mse[1] / mse[0] - 1)
    assert told.positives is None
    assert told.verdict == "worse"
    square = [np.square(s.logit_TN[1] - time_N)[own_N].astype(float) for s in (old, new)]
    linear = (square[1] - mse[1] / mse[0] * square[0]) / mse[0]
    users = np.unique(world.user_N[own_N], return_inverse=True)[1]
    assert told.error == pytest.approx(np.sqrt(np.square(np.bincount(users, linear)).sum()) / len(linear), rel=0.2)
    assert run(old, old, world, job=job).blessed
    with pytest.raises(InputError, match=r"daily\.gate\.floors\.time: no binary task 'time'"):
        run(old, new, world, GateConfig(floors={"time": 0.5}), job=job)


# ---- odd predictions


def test_nan_is_a_refusal_by_name(world: Exposures) -> None:
    model = world.predicted(0.3)
    broken_N = model.logit_TN[0].copy()
    broken_N[[3, 8]] = np.nan
    broken = changed(model, "click", broken_N)
    verdict = run(model, broken, world)
    assert not verdict.blessed
    assert "click (own space, all held-out rows)" in verdict.reasons[0]
    assert f"the challenger predicts NaN on 2 of {len(broken_N):,} rows" in verdict.reasons[0]
    assert of(verdict, "order", space=JOINT).verdict == "worse", "the joint probability has the click's NaN"
    assert not run(None, broken, world).blessed, "nor may it be the first champion"
    assert run(broken, model, world).blessed, "any number is better than none"
    assert of(run(broken, model, world), "click").verdict == "better"
    few = GateConfig(resamples=100, min_positives=10**6)
    assert of(run(model, broken, world, few), "click").verdict == "worse", "however few the rows"


def test_infinite_logits(world: Exposures) -> None:
    model = world.predicted(0.3)
    right_N = np.where(world.label_TN[0] > 0, np.inf, -np.inf).astype(np.float32)
    sure = run(model, changed(model, "click", right_N), world)
    assert (of(sure, "click").challenger, of(sure, "click", LOG_LOSS).challenger) == (1, 0)
    assert sure.blessed
    wrong_N = model.logit_TN[0].copy()
    wrong_N[int(np.argmax(world.label_TN[0]))] = -np.inf
    verdict = run(model, changed(model, "click", wrong_N), world)
    told = of(verdict, "click", LOG_LOSS)
    assert (told.verdict, told.challenger, told.note) == ("worse", None, "the challenger's is without bound")
    assert of(run(changed(model, "click", wrong_N), model, world), "click", LOG_LOSS).verdict == "better"
    both = run(changed(model, "click", wrong_N), changed(model, "click", wrong_N), world)
    assert of(both, "click", LOG_LOSS).verdict == "level"
    json.dumps(verdict.to_json(), allow_nan=False)
    never = run(model, changed(model, "click", np.full_like(wrong_N, -np.inf)), world)
    assert of(never, "click", "calibration").verdict == "worse"
    assert of(never, "click").challenger == 0.5


def test_a_champion_without_loss_in_some_resamples_is_compared_in_the_others(world: Exposures, tmp_path: Path) -> None:
    right_N = np.where(world.label_TN[0] > 0, np.inf, -np.inf).astype(np.float32)
    of_six_N = np.isin(world.user_N, np.unique(world.user_N)[:6])  # e^-6 of all resamples leave them out
    old = changed(world.predicted(0.3), "click", np.where(of_six_N, 0, right_N).astype(np.float32))
    verdict = run(old, world.predicted(0.3), world, GATE.model_copy(update={"resamples": 2000}))
    told = of(verdict, "click", LOG_LOSS)
    assert told.judges
    assert told.error is not None
    assert 0 < told.error < np.inf
    write_verdict(str(tmp_path), verdict, {})
    read = read_verdict(str(tmp_path))
    assert read is not None
    assert read[0] == verdict


def test_constant_and_perfect_predictions(world: Exposures) -> None:
    model = world.predicted(0.3)
    flat = changed(model, "click", np.zeros(len(world.user_N), np.float32))
    perfect = changed(model, "click", (20 * world.label_TN[0] - 10).astype(np.float32))
    assert of(run(model, flat, world), "click").challenger == 0.5
    assert of(run(model, flat, world), "click").verdict == "worse"
    assert of(run(flat, flat, world), "click").verdict == "level"
    assert of(run(model, perfect, world), "click").challenger == 1
    assert of(run(model, perfect, world), "click").verdict == "better"
    back = of(run(perfect, flat, world), "click")
    assert (back.delta, back.error, back.verdict) == (0.5, 0, "worse"), "two that no resample moves"


def test_one_class_alone_does_not_judge(world: Exposures) -> None:
    ones = dataclasses.replace(world, label_TN=np.ones_like(world.label_TN))
    verdict = run(ones.predicted(0.3), ones.predicted(0.3), ones)
    assert {(c.verdict, c.note) for c in verdict.comparisons} == {("too_few", "0 negatives, under 50")}


# ---- the same rows


def test_other_rows_labels_or_spaces_are_refused(world: Exposures) -> None:
    model = world.predicted(0.3)
    moved = dataclasses.replace(model, row_N=model.row_N + np.r_[np.zeros(len(model.row_N) - 1, np.int64), 1])
    with pytest.raises(InputError, match=rf"are not the same \({len(model.row_N) - 1:,} are\); score both"):
        run(moved, model, world)
    label_TN = model.label_TN.copy()
    label_TN[3, :4] = 1 - label_TN[3, :4]
    with pytest.raises(InputError, match=r"task 'order': labels of 4 of .* rows are not the same"):
        run(dataclasses.replace(model, label_TN=label_TN), model, world)
    space_TN = model.space_TN.copy()
    space_TN[1, 0] ^= True
    with pytest.raises(InputError, match=r"task 'cart': spaces of 1 of"):
        run(dataclasses.replace(model, space_TN=space_TN), model, world)
    with pytest.raises(InputError, match="tasks order of the job are not among click, cart, fav"):
        run(
            None,
            dataclasses.replace(
                model, tasks=TASKS[:3], logit_TN=model.logit_TN[:3], label_TN=label_TN[:3], space_TN=space_TN[:3]
            ),
            world,
        )


def test_tasks_are_found_by_name_not_by_place(world: Exposures) -> None:
    model = world.predicted(0.3)
    turned = Predictions(
        model.row_N, TASKS[::-1], model.logit_TN[::-1], model.label_TN[::-1], model.space_TN[::-1], None
    )
    verdict = run(model, turned, world)
    assert {c.delta for c in verdict.comparisons} == {0}


def test_keys_that_name_no_task(world: Exposures) -> None:
    model = world.predicted(0.3)
    with pytest.raises(InputError, match=r"daily\.gate\.tasks\.clik: no task 'clik'; did you mean 'click'"):
        run(model, model, world, GateConfig(tasks={"clik": Tolerance()}))


# ---- files and words


def seesaw(world: Exposures) -> Verdict:
    return run(
        world.predicted(0.6),
        world.predicted([0.0, 0.6, 0.6, 2.5]),
        world,
        GateConfig(resamples=100, floors={"click": 0.6}),
    )


def test_the_verdict_is_a_file_whole_or_not_at_all(world: Exposures, tmp_path: Path) -> None:
    verdict, about = (
        seesaw(world),
        {"champion": "m1", "challenger": "m2", "day": "2026-01-08", "rows": 5, "manifest": "ab"},
    )
    folder = str(tmp_path / "days" / "2026-01-08")
    assert read_verdict(folder) is None
    write_verdict(folder, verdict, about)
    assert read_verdict(folder) == (verdict, about)
    path = Path(folder) / "verdict.json"
    tree = json.loads(path.read_text())
    assert next(iter(tree)) == "blessed"
    assert tree["blessed"] is False
    assert tree["reasons"] == verdict.reasons
    assert tree["about"] == about
    assert {"task", "space", "slice", "metric", "champion", "challenger", "delta", "verdict"} <= tree["comparisons"][
        0
    ].keys()
    first = path.read_bytes()
    write_verdict(folder, verdict, about)
    assert path.read_bytes() == first
    assert sorted(p.name for p in path.parent.iterdir()) == ["verdict.html", "verdict.json"], "no draft is left"
    path.write_bytes(first[:100])
    with pytest.raises(InputError, match=r"verdict\.json: no verdict that can be read .*; remove it and judge again"):
        read_verdict(folder)
    with pytest.raises(InputError, match="cannot be written"):
        write_verdict(str(path / "below"), verdict, about)
    write_verdict("memory://gate-verdict/day", verdict, about)
    assert read_verdict("memory://gate-verdict/day") == (verdict, about)


def test_the_page_says_what_the_verdict_says(world: Exposures, tmp_path: Path) -> None:
    write_verdict(str(tmp_path), seesaw(world), {"day": "2026-01-08", "rows": 12345})
    page = (tmp_path / "verdict.html").read_text()
    for words in ("Gate: refused, 2026-01-08", "order (own space, all held-out rows): AUC", "12,345", "<svg", "WORSE"):
        assert words in page
    assert "<script" not in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_terminal_says_the_worst_first(world: Exposures) -> None:
    verdict = seesaw(world)
    told = lines(verdict)
    assert told[0] == "REFUSED: the champion stays"
    worse = of(verdict, "order")
    assert told[1].startswith(f"  order PAYS: AUC {worse.champion:.4f} -> {worse.challenger:.4f} (worse by ")
    assert "5 more of its comparisons" in told[1]
    assert told[1].endswith("gained")
    assert told[2] == ""
    assert told[3].split()[:2] == ["task", "metric"]
    assert max(len(line) for line in told[3:25]) < 120
    assert sum(line.endswith("WORSE") for line in told) == 6
    model = world.predicted(0.3)
    assert lines(run(model, model, world))[0] == "BLESSED: none of 21 comparisons is worse beyond tolerance and noise"
    assert lines(run(None, model, world, GateConfig(floors={"click": 0.5})))[0] == "BLESSED: every floor stands"
    floor = lines(run(None, model, world, GateConfig(floors={"click": 0.99})))
    assert floor[1].startswith("  click: AUC 0.")
    assert "BELOW 0.99" in "\n".join(floor)


def test_many_slices_do_not_bury_the_table(world: Exposures) -> None:
    slices = {f"tenant={n}": world.user_N % 10 == n for n in range(10)}
    model = world.predicted(0.3)
    told = lines(run(model, model, world, slices=slices))
    assert len(told) < 40
    assert "and 210 comparisons on slices that refuse nothing" in "\n".join(told)
