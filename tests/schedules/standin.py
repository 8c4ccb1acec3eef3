"""A stand-in for `./launch.sh daily`: its command line and exit codes, its order of days, and no training.

    python standin.py daily CONFIG.yaml --date DAY [--catch-up]         or --from DAY --to DAY

OUTPUT/plan.json may say what each try at a day comes to: {"2026-01-09": [75, 3]} is stopped once and then refused; the
word "hang" waits for SIGTERM. What is not planned is promoted. OUTPUT/starts.log has a line a start.
It knows the standard library alone, since schedules start it in environments of their own.
"""

import argparse
import json
import re
import signal
import sys
import time
from datetime import date, timedelta
from pathlib import Path

DONE, REFUSED, STOPPED = 0, 3, 75
SECONDS = 60


def main() -> int:
    """Exit code of the first day that came to no end, or the worst of all."""
    if sys.argv[1] != "daily":
        print("launch.sh " + " ".join(sys.argv[1:]), flush=True)  # the other jobs: what they were told
        return 0
    add = (parser := argparse.ArgumentParser()).add_argument
    add("job")
    add("config", type=Path)
    add("--date", type=date.fromisoformat)
    add("--from", type=date.fromisoformat, dest="first")
    add("--to", type=date.fromisoformat, dest="last")
    add("--catch-up", action="store_true")
    told = parser.parse_args()
    output = Path(re.search(r"^output: *(\S+)", told.config.read_text(), re.MULTILINE)[1])  # type: ignore[index]
    (output / "days").mkdir(parents=True, exist_ok=True)
    day, last = (told.date, told.date) if told.date else (told.first, told.last)
    if told.catch_up:
        day = first_open(output, day)
    worst = DONE
    while day <= last:
        code = train(output, day)
        if code not in (DONE, REFUSED):
            return code
        worst = max(worst, code)
        day += timedelta(days=1)
    return worst


def first_open(output: Path, day: date) -> date:
    """The first day since the last that was promoted, and before this one, without a verdict; else the day itself."""
    verdicts = {file.parent.name: json.loads(file.read_text()) for file in output.glob("days/*/verdict.json")}
    promoted = [date.fromisoformat(name) for name, said in verdicts.items() if said["blessed"]]
    between = range(1, (day - max(promoted)).days) if promoted else ()
    return next((d for n in between if str(d := max(promoted) + timedelta(days=n)) not in verdicts), day)


def train(output: Path, day: date) -> int:
    """One day, and what came of it in the log of starts."""
    try:
        (output / "lease").mkdir()
    except FileExistsError:
        return say(output, day, STOPPED, "another holds the lease")
    try:
        return say(output, day, *come_to(output, day))
    finally:
        (output / "lease").rmdir()


def come_to(output: Path, day: date) -> tuple[int, str]:
    """Exit code and message."""
    folder, before = output / "days" / str(day), output / "days" / str(day - timedelta(days=1))
    verdict = folder / "verdict.json"
    if verdict.exists():
        return (DONE if json.loads(verdict.read_text())["blessed"] else REFUSED), "done before"
    if any(output.glob("days/*/verdict.json")) and not (before / "verdict.json").exists():
        return 2, f"{before.name} was not trained"
    folder.mkdir(exist_ok=True)
    (folder / f"try-{time.time_ns()}").touch()
    planned = json.loads(plan.read_text()) if (plan := output / "plan.json").exists() else {}
    tries = len(list(folder.glob("try-*")))
    code = dict(enumerate(planned.get(str(day), []), 1)).get(tries, DONE)
    if code == "hang":
        (output / "hangs").touch()
        return STOPPED, hang()
    if code in (DONE, REFUSED):
        said = {"blessed": code == DONE, "reasons": [] if code == DONE else ["click: AUC fell by 0.0051"]}
        (draft := folder / "verdict.tmp").write_text(json.dumps(said))
        draft.replace(verdict)
    return code, {DONE: "promoted", REFUSED: "refused"}.get(code, "failed")


def hang() -> str:
    """Waits for SIGTERM."""

    def stop(number: int, frame: object) -> None:
        raise InterruptedError

    signal.signal(signal.SIGTERM, stop)
    try:
        time.sleep(SECONDS)
    except InterruptedError:
        return "stopped by SIGTERM"
    return "never stopped"


def say(output: Path, day: date, code: int, what: str) -> int:
    """Prints it and keeps it."""
    print(f"{day}  {what}, exit code {code}", flush=True)
    with (output / "starts.log").open("a") as log:
        log.write(f"{day} {code} {what}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
