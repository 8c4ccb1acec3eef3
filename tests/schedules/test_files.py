"""crontab, units and scripts as the programs that read them read them."""

import json
import re
import shutil
import subprocess
from datetime import date
from pathlib import Path

import pytest

from tests.schedules.commands import SCHEDULES, crontab, unit
from tests.schedules.environments import python_of

SCRIPTS = sorted((SCHEDULES / "slurm").glob("*.sbatch"))
UNITS = ["fulcrum-daily.service", "fulcrum-daily.timer"]
systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
NEXT = """
import json, sys
from datetime import datetime
from cronsim import CronSim
times = CronSim(sys.argv[1], datetime(2026, 1, 8))
print(json.dumps([str(next(times)) for _ in range(5)]))
"""


def said(*command: str) -> str:
    """What it printed, on either stream."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_cron_starts_it_at_three_and_tries_again_every_six_hours() -> None:
    [(times, _)] = crontab()[1]
    told = json.loads(said(str(python_of("manifests")), "-c", NEXT, times))
    assert told == [*(f"2026-01-08 {hour:02}:00:00" for hour in (3, 9, 15, 21)), "2026-01-09 03:00:00"]


@systemd
def test_systemd_has_nothing_to_say_of_the_units() -> None:
    assert said("systemd-analyze", "verify", *(str(SCHEDULES / "systemd" / name) for name in UNITS)) == ""


@systemd
@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("fulcrum-daily.service", "RestartSec=", "RestartSecs="),
        ("fulcrum-daily.service", "Type=oneshot", "Type=once"),
        ("fulcrum-daily.service", "Restart=on-failure", "Restart=always"),
        ("fulcrum-daily.timer", "Persistent=", "Persist="),
        ("fulcrum-daily.timer", "03:00:00 UTC", "25:00:00 UTC"),
    ],
)
def test_systemd_sees_a_unit_that_is_wrong(tmp_path: Path, name: str, good: str, bad: str) -> None:
    for each in UNITS:
        shutil.copy(SCHEDULES / "systemd" / each, tmp_path)
    text = (tmp_path / name).read_text()
    assert good in text
    (tmp_path / name).write_text(text.replace(good, bad))
    command = ["systemd-analyze", "verify", *(str(tmp_path / each) for each in UNITS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    assert name in done.stdout


@systemd
def test_the_timer_elapses_seven_times_a_week_at_three_utc() -> None:
    told = said("systemd-analyze", "calendar", "--iterations=7", unit("fulcrum-daily.timer")["OnCalendar"])
    found = re.findall(r"(\d{4}-\d\d-\d\d) 03:00:00 UTC", told.partition("Next elapse")[2])
    dates = sorted({date.fromisoformat(day) for day in found})
    assert len(dates) == 7
    assert (dates[-1] - dates[0]).days == 6


def test_systemd_tries_again_what_the_same_command_mends() -> None:
    service = unit("fulcrum-daily.service")
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("on-failure", "2 3 4")
    assert "SuccessExitStatus" not in service, "a refused day shows as a failed unit"
    assert unit("fulcrum-daily.timer")["Persistent"] == "true"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_bash_and_shellcheck_have_nothing_to_say_of_a_script(script: Path) -> None:
    assert said("bash", "-n", str(script)) == ""
    assert said(str(python_of("manifests").with_name("shellcheck")), "--norc", str(script)) == ""


def test_slurm_runs_one_day_at_a_time_and_may_be_put_back() -> None:
    text = (SCHEDULES / "slurm" / "fulcrum_daily.sbatch").read_text()
    options = set(re.findall(r"^#SBATCH (--\S+)", text, re.MULTILINE))
    assert {"--dependency=singleton", "--requeue", "--open-mode=append", "--nodes=1"} <= options
    grace = int(re.search(r"^#SBATCH --signal=TERM@(\d+)", text, re.MULTILINE)[1])  # type: ignore[index]
    assert grace > 600, "longer than train.stop_seconds"
