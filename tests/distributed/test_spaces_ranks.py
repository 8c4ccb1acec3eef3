"""Every space, regression and sample weights on one rank and two: closed forms, the real loader, metrics, a resume."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from pipeline.data.files import plan
from pipeline.loss import LossSums, Objective, task_losses, total_loss
from pipeline.metrics import flatten
from pipeline.train.loop import training_batches
from pipeline.train.run import START
from tests.distributed.ranks import run_ranks
from tests.distributed.test_resume import assert_same_report
from tests.distributed.training import build, evaluation, predict, save, train, train_saving, whole
from tests.logs import DAYS, set_key, small_config, small_job, write_log

CHAIN = [{"name": "click"}, {"name": "cart", "given": "click"}, {"name": "order", "given": "cart"}]
WATCH = {"name": "watch", "kind": "regression", "given": "click"}
WEIGHTS = [1.0, 0.5, 2.0, 0.7]
ROWS = 13


def hand_made() -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels and shares of one global batch; cart is trained on rows of the first five alone, order on none."""
    generator = torch.Generator().manual_seed(3)
    logits_BT = torch.randn(ROWS, 4, generator=generator)
    labels_BT = (torch.rand(ROWS, 4, generator=generator) > 0.4).float()
    labels_BT[:, 3] = torch.randn(ROWS, generator=generator) * 3
    share_BT = torch.rand(ROWS, 4, generator=generator) * (torch.rand(ROWS, 4, generator=generator) > 0.3)
    share_BT[:, 0] = 1
    share_BT[5:, 1] = 0
    share_BT[:, 1] *= 0.1  # together less than 1
    labels_BT[share_BT[:, 3] == 0, 3] = math.nan  # a number outside of its space is anything
    return logits_BT, labels_BT, share_BT


def objective(space: str) -> Objective:
    return Objective(small_job("log", changes={"tasks": [*CHAIN, WATCH | {"space": "naive"}], "space": space}))


def by_hand(space: str, logits_BT: Tensor, labels_BT: Tensor, share_BT: Tensor) -> Tensor:
    """L_k in float64, straight from the definitions: cross-entropy of plain products, squared errors."""
    p_BT = logits_BT.sigmoid()
    y_BT, p = labels_BT, [p_BT[:, 0], p_BT[:, 1], p_BT[:, 2]]
    y = [y_BT[:, 0], y_BT[:, 1], y_BT[:, 2]]
    if space == "entire":
        p = [p[0], p[0] * p[1], p[0] * p[1] * p[2]]
        y = [y[0], y[0] * y[1], y[0] * y[1] * y[2]]
    losses = [-(a * b.log() + (1 - a) * (1 - b).log()) for a, b in zip(y, p, strict=True)]
    losses.append((logits_BT[:, 3] - labels_BT[:, 3].nan_to_num()).square())
    means = [(share_BT[:, k] * loss_B).sum() / share_BT[:, k].sum() for k, loss_B in enumerate(losses)]
    return torch.stack(means)


def on_rank(rank: int, space: str, cuts: list[int]) -> tuple[list[float], LossSums, Tensor, float]:
    """This rank's parts of L_k, the sums, the gradient of its rows under the weighted sum, and the scalar."""
    logits_BT, labels_BT, share_BT = (x[cuts[rank] : cuts[rank + 1]] for x in hand_made())
    logits_BT.requires_grad_()
    part_T, sums = task_losses(objective(space), logits_BT, labels_BT, share_BT)
    loss = total_loss(part_T, WEIGHTS)
    loss.backward()
    assert logits_BT.grad is not None
    return part_T.tolist(), sums, logits_BT.grad, float(loss.detach())


SPACES = ("conditional", "entire", "naive")


def spaces_on_rank(rank: int, cuts: list[int]) -> list[tuple[list[float], LossSums, Tensor, float]]:
    return [on_rank(rank, space, cuts) for space in SPACES]


@pytest.mark.parametrize("cuts", [[0, 13], [0, 5, 13], [0, 0, 13]], ids=["one", "cart's rows on one", "an empty rank"])
def test_each_loss_and_gradient_is_the_definitions(cuts: list[int]) -> None:
    """Summed over ranks the parts are L_k; averaged over ranks the gradients are that of L."""
    for space, found in zip(SPACES, zip(*run_ranks(len(cuts) - 1, spaces_on_rank, cuts), strict=True), strict=True):
        logits_BT, labels_BT, share_BT = (x.double() for x in hand_made())
        logits_BT.requires_grad_()
        expected_T = by_hand(space, logits_BT, labels_BT, share_BT)
        total = (torch.tensor(WEIGHTS, dtype=torch.float64) * expected_T).sum()
        total.backward()
        assert logits_BT.grad is not None
        parts_T = np.sum([part for part, *_ in found], axis=0)
        np.testing.assert_allclose(parts_T, expected_T.detach(), rtol=1e-6)
        gradient_BT = torch.cat([grad for _, _, grad, _ in found]) / len(found)
        torch.testing.assert_close(gradient_BT.double(), logits_BT.grad, rtol=2e-6, atol=1e-7)
        assert sum(loss for *_, loss in found) / len(found) == pytest.approx(float(total.detach()), rel=1e-6)
        for _, sums, _, _ in found:
            np.testing.assert_allclose(sums.mean_T, expected_T.detach(), rtol=1e-6)
            np.testing.assert_allclose(sums.rows_T, share_BT.sum(0), rtol=1e-9)


def without_weight(rank: int) -> tuple[list[float], list[float], bool]:
    """A batch in which no row of order and watch has weight, and whose logits are NaN there."""
    logits_BT, labels_BT, share_BT = hand_made()
    share_BT[:, 2:] = 0
    logits_BT[:, 3] = math.nan
    part_T, sums = task_losses(objective("entire"), logits_BT.requires_grad_(), labels_BT, share_BT)
    total_loss(part_T, WEIGHTS).backward()
    assert logits_BT.grad is not None
    return part_T.tolist(), sums.mean_T.tolist(), bool(torch.isfinite(logits_BT.grad).all())


def test_a_batch_of_no_weight_contributes_nothing() -> None:
    ((parts, means, finite),) = run_ranks(1, without_weight)
    assert parts[2:] == means[2:] == [0, 0]
    assert parts[0] > 0
    assert finite


# ---- through the real loader

PER_DAY = 60
TASKS = [
    {"name": "click", "sample_weight": "age"},
    {"name": "cart", "given": "click", "space": "entire"},
    {"name": "fav", "given": "click", "space": "naive", "sample_weight": "boost"},
    {"name": "order", "given": "cart", "space": "entire", "indicator": "known"},
    WATCH | {"clip": [0.0, 1.0], "sample_weight": "boost"},
]
"""One of everything."""


def write(folder: Path) -> dict[str, Any]:
    """A log of three days alike in what the labels are, and the job of TASKS; the funnel is broken in places."""
    random = np.random.default_rng(5)
    click = random.random(PER_DAY) < 0.5
    cart = (random.random(PER_DAY) < 0.5) & (click | (random.random(PER_DAY) < 0.1))
    watch = np.where(click, random.lognormal(-1, 1, PER_DAY), np.nan)
    columns: dict[str, Any] = {
        "click": click.astype(np.int8),
        "cart": cart.astype(np.int8),
        "order": (cart & (random.random(PER_DAY) < 0.5)).astype(np.int8),
        "known": random.random(PER_DAY) < 0.8,
        "watch": watch,
        "boost": random.choice([0.0, 0.5, 4.0], PER_DAY),
    }
    write_log(folder / "log", DAYS, PER_DAY, seed=4, files_per_day=3, **columns)
    config = small_config(folder / "log", folder / "out")
    set_key(config, "tasks", TASKS)
    set_key(config, "data.funnel", "drop")
    return config


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write(tmp_path_factory.mktemp("spaces"))


def logged(config: dict[str, Any], days: tuple[str, ...]) -> list[dict[str, Any]]:
    """The rows of the log by row id."""
    files = [file for day in days for file in sorted(Path(config["data"]["path"]).glob(f"dt={day}/*.parquet"))]
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def first_batch(rank: int, world: int, config: dict[str, Any]) -> tuple[list[int], list[list[float]], list[float]]:
    """The rows of this rank's first batch, the fresh model's logits of them, and L_k."""
    job, model, _, ranks = build(config, rank, world)
    batches = training_batches(job, plan(job, job.data.train), ranks, START)
    batch = next(batches)
    batches.close()
    logits_BT = model(batch)
    _, sums = task_losses(Objective(job), logits_BT, batch.labels_BT, batch.trained_BT)
    return batch.row_ids_B.tolist(), logits_BT.tolist(), sums.mean_T.tolist()


def row_by_row(rows: list[dict[str, Any]], logits: list[list[float]]) -> list[float]:
    """L_k of TASKS from the log itself, a row and a task at a time."""
    over = dict.fromkeys(range(5), (0.0, 0.0))

    def add(task: int, weight: float, loss: float) -> None:
        over[task] = over[task][0] + weight * loss, over[task][1] + weight

    for row, z in zip(rows, logits, strict=True):
        p = [1 / (1 + math.exp(-x)) for x in z]

        def entropy(y: int, q: float) -> float:
            return -math.log(q if y else 1 - q)

        click, cart, fav, order = (row[name] for name in ("click", "cart", "fav", "order"))
        add(0, row["age"], entropy(click, p[0]))
        if not (cart and not click):  # dropped
            add(1, 1, entropy(click and cart, p[0] * p[1]))
        if not (fav and not click):
            add(2, row["boost"], entropy(fav, p[2]))
        if row["known"] and not (order and not (click and cart)):
            add(3, 1, entropy(click and cart and order, p[0] * p[1] * p[3]))
        if click:
            add(4, row["boost"], (z[4] - min(row["watch"], 1.0)) ** 2)
    return [loss / weight for loss, weight in over.values()]


def test_the_losses_of_a_real_batch_are_those_of_its_rows_in_the_log(config: dict[str, Any]) -> None:
    one, two = run_ranks(1, first_batch, 1, config), run_ranks(2, first_batch, 2, config)
    rows = logged(config, DAYS[:2])
    assert sum(row["cart"] > row["click"] for row in rows) > 0, "the funnel is broken somewhere"
    for found in (one, two):
        ids = [row for part, _, _ in found for row in part]
        logits = [z for _, part, _ in found for z in part]
        assert sorted(ids) == sorted(one[0][0])
        expected = row_by_row([rows[row] for row in ids], logits)
        for _, _, means in found:
            assert means == pytest.approx(expected, rel=2e-6)


def test_one_rank_and_two_train_the_same_model(config: dict[str, Any]) -> None:
    one, two = run_ranks(1, train, 1, config), run_ranks(2, train, 2, config)
    np.testing.assert_allclose([rank.losses for rank in two], [one[0].losses] * 2, rtol=1e-5)
    ended, expected = whole(two), whole(one)
    assert sorted(ended) == sorted(expected)
    for name, value in expected.items():
        torch.testing.assert_close(ended[name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_the_jobs_evaluation_is_sklearns(config: dict[str, Any], tmp_path: Path) -> None:
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score  # here: ranks need not import it

    run_ranks(2, save, 2, config, str(tmp_path))
    told = [run_ranks(world, evaluation, world, config, str(tmp_path))[0] for world in (1, 2)]
    (predictions,) = run_ranks(1, predict, 1, [config], str(tmp_path))
    rows = logged(config, DAYS[2:])
    z = np.array([predictions[0][n] for n in range(PER_DAY)])
    label, value = (
        np.array(x)
        for x in zip(*[(min(r["watch"], 1), z[n, 4]) for n, r in enumerate(rows) if r["click"]], strict=True)
    )
    for metrics in told:
        watch = metrics.regression["watch"]
        assert watch.rows == len(label) > 10
        assert watch.mse == pytest.approx(mean_squared_error(label, value), rel=1e-6)
        assert watch.mae == pytest.approx(mean_absolute_error(label, value), rel=1e-6)
        assert watch.r2 == pytest.approx(r2_score(label, value), rel=1e-6)
        clicked = sum(r["click"] for r in rows)
        assert metrics.own["fav"].rows == clicked, "naive, and compared on the rows of the conditional one"
        assert metrics.joint["fav"].rows == PER_DAY
        assert metrics.own["order"].rows == sum(r["click"] and r["cart"] and r["known"] for r in rows)
        assert metrics.joint["order"].rows == sum(r["known"] for r in rows), "the indicator bounds the exposures"
        p = 1 / (1 + np.exp(-z))
        positives = sum(r["fav"] for r in rows if r["click"])
        assert metrics.joint["fav"].calibration == pytest.approx(p[:, 2].sum() / positives, rel=1e-5)
    for key, number in flatten(told[0]).items():
        assert flatten(told[1])[key] == pytest.approx(number, abs=1e-6), key


def test_a_window_open_at_a_resume_is_whole(config: dict[str, Any], tmp_path: Path) -> None:
    """Cut after step 3 of a window of steps 3 and 4; its numbers and indicators come back on any number of ranks."""
    config = copy.deepcopy(config)
    set_key(config, "train.checkpoint_every", 1)
    unbroken = run_ranks(2, train_saving, 2, config, str(tmp_path), 3)
    (told,) = (r for r in unbroken[0].reports if r.progress.step > 3)
    assert told.metrics.own["click"].rows == 32 + 24
    assert told.metrics.regression["watch"].rows > 10
    for world in (2, 1):
        (report,) = run_ranks(world, train_saving, world, config, str(tmp_path), 10**6)[0].reports
        assert_same_report(report, told, bitwise=world == 2)
