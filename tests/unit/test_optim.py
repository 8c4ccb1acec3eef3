"""The learning-rate schedule in closed form."""

import math

import pytest

from pipeline.train.optim import learning_rate
from schemas.job import DenseOptimizerConfig


def rates(steps: int, **settings: object) -> list[float]:
    config = DenseOptimizerConfig.model_validate({"lr": 0.8} | settings)
    return [learning_rate(config, step, steps) for step in range(steps)]


def test_warm_up_is_linear_from_the_first_step() -> None:
    assert rates(6, warmup_steps=4) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_linear_decay_ends_at_the_last_step() -> None:
    assert rates(7, warmup_steps=2, schedule="linear") == pytest.approx([0.4, 0.8, 0.8, 0.6, 0.4, 0.2, 0.0])
    assert rates(3, schedule="linear", final_lr_fraction=0.5) == pytest.approx([0.8, 0.6, 0.4])


def test_cosine_decay() -> None:
    expected = [0.8 * (0.1 + 0.9 * (1 + math.cos(math.pi * n / 4)) / 2) for n in range(5)]
    assert rates(5, schedule="cosine", final_lr_fraction=0.1) == pytest.approx(expected)


def test_a_job_of_one_step_and_one_that_ends_in_its_warm_up() -> None:
    assert rates(1, schedule="cosine") == pytest.approx([0.8])
    assert rates(2, warmup_steps=4) == pytest.approx([0.2, 0.4])
