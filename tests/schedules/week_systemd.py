"""A week of the units under systemd itself: a user's manager in a mount namespace of its own, a day in DAY seconds.

Needs root. Drop-ins change what a fast clock and a user's manager need: the timer's hour, the pause between tries, the
user, the folder. `date` runs as fast as the timer.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

from tests.schedules.commands import SCHEDULES
from tests.schedules.home import Home, after

DAY = 20
"""Seconds a day: a part of a minute, or some minutes."""
NAMESPACE = """
set -e
mount -t tmpfs none /run && mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR"
/lib/systemd/systemd --user >"$FOLDER/manager.log" 2>&1 &
manager=$!
until systemctl --user list-units >/dev/null 2>&1; do sleep 0.2; done
sleep $((BEGIN - 1 - $(/usr/bin/date +%s)))
systemctl --user start fulcrum-daily.timer
for day in $DAYS; do
  case $day in
    "$BACK") sleep 2; systemctl --user start fulcrum-daily.timer ;; # the machine is on again, after this day's start
  esac
  sleep $((BEGIN + DAY - 1 - $(/usr/bin/date +%s)))
  BEGIN=$((BEGIN + DAY))
  case $day in
    "$OFF") systemctl --user stop fulcrum-daily.timer ;;
  esac
  echo "$day $(systemctl --user show fulcrum-daily.service -p ActiveState,ExecMainStatus,NRestarts | paste -sd' ')"
done
systemctl --user list-timers fulcrum-daily.timer --no-pager | head -n 2
kill $manager
"""
FAST_DATE = """#!/bin/sh
now=$(($(/usr/bin/date -d "{start}" +%s) + ($(/usr/bin/date +%s) - {begin}) * 86400 / {day}))
[ "$1$2" = -u-d ] || exit 9
exec /usr/bin/date -u -d "$(/usr/bin/date -u -d @$now '+%F %T UTC') $3" "$4"
"""
SERVICE = """[Service]
User=
WorkingDirectory={home}
Environment=PATH={path}
Environment=FULCRUM_CONFIG=ranker.yaml
RestartSec=1s
"""
TIMER = "[Timer]\nOnCalendar=\nOnCalendar={calendar}\nAccuracySec=1ms\n"


def run(home: Home, days: list[str], missed: Sequence[str] = ()) -> list[str]:
    """The timer for as many of its days; at the end of each the service's state, last exit code, and restarts.

    On a missed day, and at the start of the next, the timer is stopped, as on a machine that is off.
    """
    folder = home.path.parent
    units = folder / "config" / "systemd" / "user"
    units.mkdir(parents=True)
    drop_ins = {
        "fulcrum-daily.service": SERVICE.format(home=home.path, path=f"{home.bin}:{os.environ['PATH']}"),
        "fulcrum-daily.timer": TIMER.format(calendar=f"*:*:0/{DAY}" if DAY < 60 else f"*:0/{DAY // 60}:00"),
    }
    for name, text in drop_ins.items():
        shutil.copy(SCHEDULES / "systemd" / name, units)
        (units / f"{name}.d").mkdir()
        (units / f"{name}.d" / "fast.conf").write_text(text)
    begin = (int(time.time()) // DAY + 2) * DAY
    home.program("date", FAST_DATE.format(start=after(days[0]), begin=begin, day=DAY))
    env = os.environ | {
        "XDG_RUNTIME_DIR": "/run/user/0",
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_DATA_HOME": str(folder / "data"),  # when the timer elapsed last
        "FOLDER": str(folder),
        "BEGIN": str(begin),
        "DAY": str(DAY),
        "DAYS": " ".join(days),
        "OFF": str(date.fromisoformat(missed[0]) - timedelta(days=1)) if missed else "",
        "BACK": str(date.fromisoformat(missed[-1]) + timedelta(days=1)) if missed else "",
    }
    done = subprocess.run(["unshare", "-m", "bash", "-c", NAMESPACE], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + (Path(folder) / "manager.log").read_text()
    return done.stdout.splitlines()
