"""Two days of the real daily job, trained by each orchestrator's own engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.registry import Registry
from tests.logs import small_config, write_config, write_log
from tests.schedules import test_airflow, test_dagster
from tests.schedules.home import REAL, Home, days

DAYS = days(2)


def by_airflow(home: Home) -> list[str]:
    """What the runs of the days came to."""
    return [run["state"] for run in test_airflow.airflow(home, *DAYS)["runs"]]


def by_dagster(home: Home) -> list[str]:
    """What the runs of the days came to."""
    return [run["state"] for run in test_dagster.dagster(home, "days", *DAYS)["runs"]]


@pytest.mark.parametrize("engine", [by_airflow, pytest.param(by_dagster, marks=pytest.mark.long)])
def test_two_days_are_trained_and_promoted_by_the_real_command(
    engine: Callable[[Home], list[str]], tmp_path: Path
) -> None:
    write_log(tmp_path / "log", DAYS, 600)
    config: dict[str, Any] = small_config(tmp_path / "log", "runs/ranker", DAYS[:1])
    config["data"] |= {"holdout": {"share": 0.6}, "eval": None}
    config["train"] |= {"batch_size": 64, "log_every": 1000}
    config["daily"] = {"gate": {"resamples": 100}}
    home = Home(tmp_path, REAL, write_config(tmp_path / "job.yaml", config)).warm()
    assert engine(home) == ["success", "success"]
    assert home.verdicts() == dict.fromkeys(DAYS, True)
    registry = Registry(str(home.output))
    assert [promotion.model for promotion in registry.promotions()] == DAYS
    assert [model.name for model in registry.lineage(DAYS[1])] == DAYS[::-1]
