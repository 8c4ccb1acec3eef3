"""A simulated week through a schedule: python -m tests.schedules.week --engine ENGINE [--real].

cron, systemd and slurm start Debian's own daemons (as root; apt-get install cron faketime slurmctld slurmd slurm-client
munge), airflow and dagster their own schedulers in environments of their own; kubernetes runs the command of the pod.
Without --real a stand-in takes the place of the retraining: the third day is stopped once, the fifth refused. With it,
`./launch.sh daily` of this checkout trains a generated week. The third day is missed: the machine is off, and the next
start catches up with it (airflow and dagster are given the whole week to catch up with). On the fifth labels mean
nothing, so that the gate refuses it. Then the week is run by hand, and both must end in the same champion, bit for bit.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path

from tests.schedules import real_week, week_airflow, week_cron, week_dagster, week_kubernetes, week_slurm, week_systemd
from tests.schedules.home import FIRST, REAL, Home, days

ENGINES: dict[str, Callable[[Home, list[str], Sequence[str]], list[str]]] = {
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
    parser.add_argument("--real", action="store_true", help="train, by ./launch.sh daily")
    parser.add_argument("--warm", action="store_true", help="--real: a day imports its libraries once, and forks")
    parser.add_argument(
        "--pace",
        type=int,
        default=60,
        metavar="S",
        help="--real: seconds that cron and systemd take for a day (%(default)s)",
    )
    told = parser.parse_args()
    # an engine that goes by its own clock catches up with the week that is just over
    own = date.today() - timedelta(days=DAYS) if told.engine in ("airflow", "dagster") else FIRST
    week = days(DAYS, own)
    with tempfile.TemporaryDirectory(prefix="week-") as folder:
        Path(folder).chmod(0o755)
        if told.real:
            week_cron.SPEED, week_systemd.DAY = 86_400 // told.pace, told.pace
            home = Home(Path(folder), REAL, real_week.written(Path(folder), week, spoilt=week[4]))
            if told.warm:
                home.warm()
        else:
            home = Home(Path(folder))
            home.plan_days({week[2]: [75], week[4]: [3]})
        began = time.monotonic()
        for line in ENGINES[told.engine](home, week, week[2:3] if told.real else []):
            print(line)
        print(f"\n{told.engine}: {time.monotonic() - began:.0f} s")
        if told.real:
            print(*real_week.told(home, week), sep="\n")
            print(real_week.check_by_hand(home, week, Path(folder)))
            return
        print("starts")
        for start in home.starts():
            print("  {}  exit code {:2}  {}".format(*start))
        print("\nverdicts")
        for day, blessed in home.verdicts().items():
            print(f"  {day}  {'promoted' if blessed else 'refused'}")


if __name__ == "__main__":
    main()
