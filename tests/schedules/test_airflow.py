"""The DAG in Airflow's own engine: loaded by its bag, days in a row, a day refused, tries again."""

from pathlib import Path
from typing import Any

import pytest

from tests.schedules.commands import SCHEDULES, engine_said
from tests.schedules.environments import python_of
from tests.schedules.home import Home, days


def airflow(home: Home, *told: str) -> dict[str, Any]:
    """What airflow_days.py says."""
    settings = {
        "AIRFLOW_HOME": str(home.path / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(SCHEDULES / "airflow"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    return engine_said(python_of("airflow"), "airflow_days.py", *told, env=home.engine(**settings), cwd=home.path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("airflow"))
    home.plan(d09=[75, 5, 3], d11=[4])
    return home


@pytest.fixture(scope="module")
def ran(home: Home) -> dict[str, Any]:
    """Four days, the third of them twice; the second refused after two tries, the fourth failing validation."""
    first, second, third, fourth = days(4)
    return airflow(home, first, second, third, third, fourth)


def test_the_bag_loads_the_dag_with_one_run_at_a_time_each_behind_the_last(ran: dict[str, Any]) -> None:
    assert ran["errors"] == {}
    settings = ran["settings"]
    assert (settings["serial"], settings["catchup"]) == (1, True)
    assert settings["depends_on_past"] == {"retrain": True, "gate": False}, "a refused day does not hold the next one"


def test_the_run_of_a_day_starts_at_three_of_the_next(ran: dict[str, Any]) -> None:
    assert ran["scheduled"][0] == ["2026-01-08T03:00:00+00:00", "2026-01-09T03:00:00+00:00"]


def test_days_in_a_row_are_trained_and_a_finished_one_is_over_at_once(home: Home, ran: dict[str, Any]) -> None:
    first, _, third, again, _ = ran["runs"]
    for run in (first, third, again):
        assert (run["state"], run["tasks"]) == ("success", {"retrain": "success", "gate": "success"})
        assert run["tries"]["retrain"] == 1
    starts = [(day, what) for day, code, what in home.starts() if code == 0]
    assert starts == [("2026-01-08", "promoted"), ("2026-01-10", "promoted"), ("2026-01-10", "done before")]


def test_a_refused_day_fails_at_the_gate_alone_after_it_was_tried_again(home: Home, ran: dict[str, Any]) -> None:
    run = ran["runs"][1]
    assert (run["state"], run["tasks"]) == ("failed", {"retrain": "success", "gate": "failed"})
    assert run["tries"] == {"retrain": 3, "gate": 1}
    assert [code for day, code, _ in home.starts() if day == "2026-01-09"] == [75, 5, 3]


def test_what_another_try_would_repeat_is_not_tried_again(home: Home, ran: dict[str, Any]) -> None:
    run = ran["runs"][4]
    assert (run["state"], run["tasks"]) == ("failed", {"retrain": "failed", "gate": "upstream_failed"})
    assert run["tries"]["retrain"] == 1
    assert [code for day, code, _ in home.starts() if day == "2026-01-11"] == [4]


def test_a_task_that_is_killed_stops_the_training_with_sigterm(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.plan(d08=["hang"])
    told = airflow(home, "--kill", str(home.output / "hangs"), days(1)[0])
    assert told["killed"] == "AirflowException: exit code 75: the same command goes on"
    assert home.starts() == [(days(1)[0], 75, "stopped by SIGTERM")]
