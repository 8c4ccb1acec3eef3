"""A week of the CronJob's pods, each day with the tries that its settings give it: no cluster is needed, or shown."""

from collections.abc import Sequence

from tests.schedules import commands
from tests.schedules.home import Home, after


def run(home: Home, days: list[str], missed: Sequence[str] = ()) -> list[str]:
    """What becomes of each Job, by its backoffLimit and podFailurePolicy; none is made for a missed day."""
    job = commands.manifest("cronjob")["spec"]["jobTemplate"]["spec"]
    final = {0, *job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]}
    told = []
    for day in days:
        if day in missed:
            told.append(f"{day}  missed")
            continue
        codes: list[int] = []
        while not codes or (codes[-1] not in final and len(codes) <= job["backoffLimit"]):
            codes.append(commands.kubernetes(home, after(day)).returncode)
        told.append(f"{day}  {'complete' if codes[-1] == 0 else 'failed'}  pods ended with {codes}")
    return told
