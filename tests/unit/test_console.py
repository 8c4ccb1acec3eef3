"""What a person reads: undefined stays undefined, time left is readable, the lift is in closed form."""

import dataclasses

import torch

from pipeline.metrics import Metrics, binary_metrics
from pipeline.train.checkpoint import Progress
from pipeline.train.console import duration, metrics_table, progress_line
from pipeline.train.loop import Report, total_rows, total_steps
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
