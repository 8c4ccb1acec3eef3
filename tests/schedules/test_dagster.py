"""The definitions in Dagster's own engine: days in a row, a day refused, tries again, a backfill by its daemon."""

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.schedules.commands import SCHEDULES, engine_said
from tests.schedules.environments import python_of
from tests.schedules.home import Home, days

FILE = SCHEDULES / "dagster" / "fulcrum_daily.py"


def dagster(home: Home, how: str, *told: str) -> dict[str, Any]:
    """What dagster_days.py says."""
    env = home.engine(DAGSTER_HOME=str(home.path / "dagster"), DAGSTER_DISABLE_TELEMETRY="1")
    return engine_said(python_of("dagster"), "dagster_days.py", how, str(FILE), *told, env=env, cwd=home.path)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("dagster"))
    home.plan(d09=[75, 5, 3], d11=[4])
    return home


@pytest.fixture(scope="module")
def ran(home: Home) -> dict[str, Any]:
    """Five days, the third of them twice; the second refused after two tries, the fourth failing validation."""
    first, second, third, fourth, fifth = days(5)
    return dagster(home, "days", first, second, third, third, fourth, fifth)


def test_days_in_a_row_are_trained_and_a_finished_one_is_over_at_once(home: Home, ran: dict[str, Any]) -> None:
    first, _, third, again, _, _ = ran["runs"]
    for run in (first, third, again):
        assert (run["state"], run["gate"], run["tries"]) == ("success", True, 1)
    starts = [(day, what) for day, code, what in home.starts() if code == 0]
    assert starts == [("2026-01-08", "promoted"), ("2026-01-10", "promoted"), ("2026-01-10", "done before")]


def test_a_refused_day_fails_its_check_with_the_reasons_after_it_was_tried_again(
    home: Home, ran: dict[str, Any]
) -> None:
    run = ran["runs"][1]
    assert (run["state"], run["gate"], run["tries"]) == ("failed", False, 3)
    assert run["reasons"] == ["click: AUC fell by 0.0051"]
    assert [code for day, code, _ in home.starts() if day == "2026-01-09"] == [75, 5, 3]


def test_what_another_try_would_repeat_is_not_tried_again(home: Home, ran: dict[str, Any]) -> None:
    failed, behind = ran["runs"][4:]
    assert (failed["state"], failed["gate"], failed["tries"]) == ("failed", None, 1)
    assert (behind["state"], behind["gate"], behind["tries"]) == ("failed", None, 1)
    assert [(day, code) for day, code, _ in home.starts()][-2:] == [("2026-01-11", 4), ("2026-01-12", 2)]


def test_the_schedule_asks_at_three_for_the_day_before(ran: dict[str, Any]) -> None:
    assert ran["scheduled"] == ["0 3 * * *", "2026-01-08"]


def test_a_day_waits_for_the_one_before(ran: dict[str, Any]) -> None:
    assert ran["parents"] == ["2026-01-11"]


def test_a_backfill_of_the_daemon_trains_in_order_through_a_refused_day(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.plan(d09=[3])
    first, second, third = days(3)
    assert dagster(home, "backfill", first, third)["backfill"] == "COMPLETED_SUCCESS"
    assert home.starts() == [(first, 0, "promoted"), (second, 3, "refused"), (third, 0, "promoted")]


def test_a_run_that_is_terminated_stops_the_training_with_sigterm(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.plan(d08=["hang"])
    script = Path(__file__).with_name("dagster_days.py")
    command = [str(python_of("dagster")), str(script), "days", str(FILE), days(1)[0]]
    with subprocess.Popen(command, env=home.engine(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while not (home.output / "hangs").exists():
            assert run.poll() is None
            time.sleep(0.05)
        run.send_signal(signal.SIGINT)  # what the launcher makes of a termination
        run.wait(timeout=60)
    assert home.starts() == [(days(1)[0], 75, "stopped by SIGTERM")]
