"""A simulated week through a schedule: python -m tests.schedules.week --engine ENGINE [--config CONFIG.yaml].

cron, systemd and slurm start Debian's own daemons (as root; apt-get install cron faketime slurmctld slurmd slurm-client
munge), airflow and dagster their own schedulers in environments of their own; kubernetes runs the command of the pod.
Without --config a stand-in takes the place of the retraining: the third day is stopped once, the fifth refused. With
it, `./launch.sh daily` of this checkout trains the days from --first on.
"""

import argparse
import tempfile
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

from tests.schedules import week_airflow, week_cron, week_dagster, week_kubernetes, week_slurm, week_systemd
from tests.schedules.home import FIRST, REAL, STAND_IN, Home, days

ENGINES: dict[str, Callable[[Home, list[str]], list[str]]] = {
    "cron": week_cron.run,
    "systemd": week_systemd.run,
    "kubernetes": week_kubernetes.run,
    "slurm": week_slurm.run,
    "airflow": week_airflow.run,
    "dagster": week_dagster.run,
}
DAYS = 7


def main() -> None:
    """Prints what the engine says of the week, then every start and every verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=ENGINES, required=True)
    parser.add_argument("--config", type=Path, help="a job with a section `daily`, its output runs/ranker")
    parser.add_argument("--first", type=date.fromisoformat, help="the week's first day; by default the engine's")
    told = parser.parse_args()
    # an engine that goes by its own clock catches up with the week that is just over
    own = date.today() - timedelta(days=DAYS) if told.engine in ("airflow", "dagster") else FIRST
    week = days(DAYS, told.first or own)
    with tempfile.TemporaryDirectory(prefix="week-") as folder:
        Path(folder).chmod(0o755)
        home = Home(Path(folder), REAL if told.config else STAND_IN, told.config)
        if not told.config:
            home.plan_days({week[2]: [75], week[4]: [3]})
        for line in ENGINES[told.engine](home, week):
            print(line)
        print("\nstarts")
        for start in home.starts():
            print("  {}  exit code {:2}  {}".format(*start))
        print("\nverdicts")
        for day, blessed in home.verdicts().items():
            print(f"  {day}  {'promoted' if blessed else 'refused'}")


if __name__ == "__main__":
    main()
