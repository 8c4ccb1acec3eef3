"""The last week under Dagster's daemon: a backfill of its days, as the web page asks for one."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.schedules.commands import SCHEDULES
from tests.schedules.environments import python_of
from tests.schedules.home import Home


def run(home: Home, days: list[str], missed: Sequence[str] = ()) -> list[str]:
    """The daemon until the backfill of all days has ended; what became of it and of its runs."""
    env = home.engine(DAGSTER_HOME=str(home.path / "dagster"), FULCRUM_FIRST_DAY=days[0], FULCRUM_RETRY_SECONDS="5")
    script, file = Path(__file__).with_name("dagster_week.py"), SCHEDULES / "dagster" / "fulcrum_daily.py"
    command = [str(python_of("dagster")), str(script), str(file), days[0], days[-1]]
    done = subprocess.run(command, env=env, cwd=home.path, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.splitlines()[-1:]
