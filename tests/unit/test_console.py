"""What a person reads: undefined stays undefined, time left is readable, the lift is in closed form."""

import dataclasses

import torch

from pipeline.measures import regression_metrics
from pipeline.metrics import Metrics, binary_metrics
from pipeline.train.checkpoint import Progress
from pipeline.train.console import duration, metrics_table, progress_line
from pipeline.train.loop import total_rows, total_steps
from pipeline.train.window import Report
from tests.logs import small_job


def metrics() -> Metrics:
    labels = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0])
    both = binary_metrics(labels, logits_N=torch.tensor([-1.0, 2.0, 1.0, 0.5, 3.0]))  # 5 of 6 pairs in order
    return Metrics({"click": both, "cart": binary_metrics(torch.zeros(4), logits_N=torch.zeros(4))}, {"cart": both})


def test_one_class_reads_undefined() -> None:
    lines = metrics_table(metrics(), {}).splitlines()
    cart = next(line for line in lines if line.startswith("cart  "))
    assert cart.count("undefined") == 4, "AUC, interval, NE and calibration; log loss is defined"
    assert "0.6931" in cart
    assert "attainable" not in lines[0]


def test_lift_is_the_part_of_the_attainable_one_that_was_reached() -> None:
    lines = metrics_table(metrics(), {"click": 0.9, "cart": 0.8}).splitlines()
    click = next(line for line in lines if line.startswith("click"))
    assert click.split()[-2:] == ["0.9000", "83.3%"]  # (5/6 - .5) / (.9 - .5)
    cart = next(line for line in lines if line.startswith("cart  "))
    assert cart.split()[-2:] == ["0.8000", "undefined"]
    assert len({len(line) for line in lines}) == 1, "columns line up"


def test_progress_line() -> None:
    report = Report(Progress(7, 0, 700, 700), 2800, 10.0, metrics(), {}, 0.1, {}, {})
    line = progress_line(report)
    assert "700 of 2,800 rows ( 25%)" in line
    assert "10 rows/s" in line
    assert "3m30s left" in line
    assert line.endswith("AUC click 0.8333  cart undefined")
    broken = progress_line(dataclasses.replace(report, broken={"cart": 1200, "order": 3}))
    assert broken == line + "  funnel broken: 1,200 cart, 3 order"
    assert progress_line(dataclasses.replace(report, penalty=0.012345)) == line + "  penalty 0.0123"
    weighed = dataclasses.replace(report, weights={"click": 1.0, "cart": 0.12345}, cosine=-0.456)
    assert progress_line(weighed) == line, "the declared weights are known"
    told = progress_line(dataclasses.replace(weighed, balanced=True))
    assert told == line + "  weights click 1  cart 0.123  least cosine -0.46"


def test_regression_tasks_have_an_mse_and_a_table_of_their_own() -> None:
    watch = regression_metrics(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 5.0]))
    both = dataclasses.replace(metrics(), regression={"watch": watch})
    report = Report(Progress(7, 0, 700, 700), 2800, 10.0, both, {}, 0.1, {}, {})
    assert progress_line(report).endswith("AUC click 0.8333  cart undefined  MSE watch 1.333")
    numbers = dataclasses.replace(report, metrics=Metrics({}, {}, {"watch": watch}))
    assert progress_line(numbers).endswith("left  MSE watch 1.333")
    first, second = metrics_table(both, {}).split("\n\n")
    assert first == metrics_table(metrics(), {})
    head, _, line = second.splitlines()
    assert head.split() == ["task", "rows", "MSE", "95%", "interval", "MAE", "R2"]
    # errors 0, 0, 2: squares 0, 0, 4 with variance 16/3 over 3 rows; labels' squares about 8/3 sum to 26/3
    assert line.split() == ["watch", "3", "1.333", "0", "-", "3.947", "0.6667", "0.5385"]
    assert metrics_table(numbers.metrics, {}) == second


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 59.4, 60, 3599, 3600, 7500)] == [
        "0s",
        "59s",
        "1m00s",
        "59m59s",
        "1h00m",
        "2h05m",
    ]


def test_steps_and_rows_of_a_job() -> None:
    def job(epochs: int, most: int | None) -> tuple[int, int]:
        config = small_job("x", "y", {"train.epochs": epochs, "train.max_steps": most, "train.batch_size": 32})
        return total_steps(config, 100), total_rows(config, 100)

    assert job(1, None) == (4, 100)
    assert job(3, None) == (12, 300)
    assert job(3, 4) == (4, 100)
    assert job(3, 6) == (6, 164)
    assert job(1, 2) == (2, 64)
