"""A week of the commands of systemd and of the CronJob, each day with the tries that its settings give it."""

import re

from tests.schedules import commands
from tests.schedules.home import Home, after


def systemd(home: Home, days: list[str]) -> list[str]:
    """The starts of the timer; Restart= and RestartPreventExitStatus= by hand: systemd is not the first process here."""
    final = {int(code) for code in commands.unit("fulcrum-daily.service")["RestartPreventExitStatus"].split()}
    return [_tried(home, day, "systemd", final) for day in days]


def kubernetes(home: Home, days: list[str]) -> list[str]:
    """The schedule's pods; backoffLimit and podFailurePolicy by hand, since no cluster is here."""
    rules = commands.manifest("cronjob")["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    return [_tried(home, day, "kubernetes", set(rules[0]["onExitCodes"]["values"])) for day in days]


def _tried(home: Home, day: str, schedule: str, final: set[int]) -> str:
    codes: list[int] = []
    while not codes or (codes[-1] and codes[-1] not in final and len(codes) < 12):
        codes.append(commands.EACH[schedule](home, after(day, f"03:{15 * len(codes) % 60:02}")).returncode)
    state = "complete" if codes[-1] == 0 else "failed"
    return re.sub(r"\s+", " ", f"{day}: exit codes {codes}, {state}")
