"""A week of the crontab under cron itself: Debian's daemon, in a mount namespace of its own, on a clock that runs fast.

Needs root, and the packages cron and faketime.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Sequence

from tests.schedules.commands import SCHEDULES
from tests.schedules.home import Home, after

SPEED = 2400
"""Simulated seconds in one: a day in 36 seconds."""
NAMESPACE = """
set -e
mount -t tmpfs none /var/spool/cron && mkdir -p /var/spool/cron/crontabs
mount --bind "$EMPTY" /etc/cron.d
mount --bind /dev/null /etc/crontab
if [ ! -e /usr/sbin/sendmail ]; then
  touch /usr/sbin/sendmail
  trap 'umount /usr/sbin/sendmail; rm -f /usr/sbin/sendmail' EXIT
fi
mount --bind "$SENDMAIL" /usr/sbin/sendmail
export FAKETIME_DONT_RESET=1
printf '%s\n' "$SPANS" | while IFS='|' read -r start seconds; do
  timeout -s TERM "$seconds" faketime -f "$start x$SPEED" sh -c '
    for name in FAKETIME_DONT_RESET LD_PRELOAD FAKETIME FAKETIME_SHARED; do
      eval "echo $name=\\$$name"
    done | cat - "$CRONTAB" | crontab -
    exec cron -f -L 5' </dev/null || true
done
"""


def on(days: list[str], missed: Sequence[str]) -> list[tuple[str, float]]:
    """When the machine is on: from two minutes before a day's start, for so many seconds of cron's clock."""
    spans: list[tuple[str, float]] = []
    for before, day in zip(["", *days], days, strict=False):
        if day in missed:
            continue
        if not spans or before in missed:
            spans.append((after(day, "02:58:00").removesuffix(" UTC"), 0.0))
        spans[-1] = (spans[-1][0], spans[-1][1] + (72_000 if day == days[-1] else 86_400))
    return spans


def run(home: Home, days: list[str], missed: Sequence[str] = ()) -> list[str]:
    """cron while the machine is on, until after the last day's start; the mails it sent."""
    folder = home.path.parent
    text = (SCHEDULES / "cron" / "crontab").read_text()
    for name, value in {"FULCRUM_HOME": str(home.path), "PATH": os.environ["PATH"]}.items():
        text = "".join(f"{name}={value}\n" if line.startswith(f"{name}=") else line for line in text.splitlines(True))
    (folder / "crontab").write_text(text)
    (folder / "empty").mkdir()
    mails = folder / "mails"
    home.program("sendmail", f'#!/bin/sh\n{{ cat; echo; }} >>"{mails}"\n')
    env = os.environ | {
        "TZ": "UTC",
        "EMPTY": str(folder / "empty"),
        "SENDMAIL": str(home.bin / "sendmail"),
        "CRONTAB": str(folder / "crontab"),
        "SPANS": "\n".join(f"@{start}|{seconds / SPEED}" for start, seconds in on(days, missed)),
        "SPEED": str(SPEED),
    }
    assert shutil.which("faketime"), "apt-get install cron faketime"
    began = time.monotonic()
    done = subprocess.run(["unshare", "-m", "bash", "-c", NAMESPACE], env=env, capture_output=True, text=True)
    print(f"{time.monotonic() - began:.0f} s", done.stdout[-3000:], done.stderr[-3000:])
    return mails.read_text().splitlines() if mails.exists() else []
