"""Train one day from yesterday's champion, and promote what is worse in no task.

    ./launch.sh daily [TORCHRUN FLAGS] CONFIG.yaml                          yesterday
    ./launch.sh daily CONFIG.yaml --date 2026-01-08
    ./launch.sh daily CONFIG.yaml --from 2026-01-08 --to 2026-01-10         each day in turn
    ./launch.sh daily CONFIG.yaml --date 2026-01-08 --catch-up              with the open days before it
    ./launch.sh daily CONFIG.yaml --date 2026-01-08 --accept volume         for this day, the rule may be broken
    ./launch.sh daily CONFIG.yaml --skip 2026-01-08 --because "half empty"  leave the day out for good

Steps: wait, validate, freeze, vocabulary, score, train, evaluate, gate, promote, retention. Each is committed before
the next begins; the same command goes on from there, and does nothing for a day that is done. Exit codes: 0 promoted,
3 refused by the gate, 4 the day failed its checks, 5 the day is late, 75 stopped, or another is at work.
"""

import argparse
import datetime
import sys

from pipeline.daily.lease import Held, Lease, Lost
from pipeline.daily.ledger import skip, skipped
from pipeline.registry import Registry

from jobs.failure import reported
from pipeline.daily.day import code_of, ended_line, open_ledger, reasons, run_day, tracked
from pipeline.daily.documents import settled
from pipeline.daily.place import Place, latest
from pipeline.daily.process import Runner, StoppedError
from pipeline.daily.span import first_open
from pipeline.daily.work import REFUSED, STOPPED, DayEndedError, Work
from pipeline.data.vocabulary_lookup import fingerprints
from schemas.errors import InputError
from schemas.events import DayRange
from schemas.job import JobConfig
from schemas.load import load_job


def parser() -> argparse.ArgumentParser:
    """The command line behind torchrun's flags."""
    out = argparse.ArgumentParser(
        "./launch.sh daily",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = out.add_argument
    add("config", help="the job's YAML, with a section `daily`")
    add("overrides", nargs="*", metavar="key=value", help="settings that replace the YAML's")
    add("--date", type=_date, metavar="DAY", help="the day, as 2026-01-08, today or yesterday (default, in UTC)")
    add("--from", dest="first", type=_date, metavar="DAY", help="first day of several, in turn")
    add("--to", dest="last", type=_date, metavar="DAY", help="last day of several")
    add("--catch-up", action="store_true", help="begin with the first open day before it")
    add("--accept", nargs="+", default=[], metavar="RULE", help="rules of the checks that this day may break")
    add("--again", action="store_true", help="begin the day anew, beside what was done before")
    add("--skip", type=_date, metavar="DAY", help="leave a day out of every model, for good")
    add("--because", metavar="TEXT", help="why; kept in the records")
    return out


def _date(text: str) -> datetime.date:
    today = datetime.datetime.now(datetime.UTC).date()
    if text in ("today", "yesterday"):
        return today - datetime.timedelta(text == "yesterday")
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no day; write it as 2026-01-31") from None


def arguments_of(argv: list[str]) -> tuple[list[str], argparse.Namespace]:
    """Torchrun's flags, which stand before the configuration, and the rest. Raises InputError."""
    at = next((i for i, word in enumerate(argv) if word.endswith((".yaml", ".yml"))), 0)
    flags, words = argv[:at], argv[at:]
    settings = [word for word in words if "=" in word and not word.startswith("-")]
    out = parser().parse_intermixed_args([word for word in words if word not in settings])
    if out.overrides:
        raise InputError(f"'{out.overrides[0]}' is no setting; write key=value, such as train.batch_size=4096")
    out.overrides = settings
    if (out.first is None) != (out.last is None):
        raise InputError("--from and --to go together; one day alone is --date")
    if out.first is not None and out.date is not None:
        raise InputError("--date: one day, or --from and --to: several; not both")
    if out.first is not None and out.last < out.first:
        raise InputError(f"--to: {out.last} lies before --from {out.first}; swap them")
    if out.skip is not None and not out.because:
        raise InputError("--skip: say why with --because; the lineage of every later model tells it")
    if out.again and out.first is not None:
        raise InputError("--again: one day at a time, with --date")
    if out.accept and out.first is not None:
        raise InputError("--accept: one day at a time, with --date")
    return flags, out


def days_of(arguments: argparse.Namespace, job: JobConfig, registry: Registry) -> list[datetime.date]:
    """The days to run, in order."""
    last = arguments.last or arguments.date or _date("yesterday")
    first = arguments.first or last
    if arguments.catch_up:
        first = min(first, first_open(job, job.output, registry, first))
    return DayRange(**{"from": first, "to": last}).days()


def load(arguments: argparse.Namespace) -> JobConfig:
    """The checked and settled job. Raises InputError."""
    job = load_job(arguments.config, arguments.overrides)
    if job.daily is None:
        raise InputError(f"{arguments.config}: no section `daily`; write `daily: {{}}` for its defaults")
    if job.warm_start is not None:
        raise InputError(f"{arguments.config}: warm_start: a day begins from the champion; take it out")
    fingerprints(job)  # reads and checks the vocabularies
    return settled(job)


def say(text: str) -> None:
    """Prints a line at once."""
    print(text, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit code; raises InputError."""
    flags, arguments = arguments_of(sys.argv[1:] if argv is None else argv)
    job = load(arguments)
    registry = Registry(job.output, job.data.storage)
    if arguments.skip is not None:
        return _skip(job, arguments)
    days = days_of(arguments, job, registry)
    if not arguments.again and all(_told(job, day) is not None for day in days):
        return _finished(job, days)
    assert job.daily is not None
    runner = Runner(flags)
    runner.install()
    what = str(days[0]) if len(days) == 1 else f"{days[0]} to {days[-1]}"
    lease = Lease(job.output, job.daily.lease_seconds, what, on_lost=lambda why: runner.stop(why, kill=True))
    try:
        with lease:
            return _run(job, registry, runner, lease, arguments, days)
    except Held as held:
        say(str(held))
        return STOPPED


def _told(job: JobConfig, day: datetime.date) -> int | None:
    """The exit code of a day that is done, 0 for one that was skipped; None for any other."""
    if day in skipped(job.output):
        return 0
    return code_of(open_ledger(latest(job.output, day)).done())


def _finished(job: JobConfig, days: list[datetime.date]) -> int:
    codes = []
    for day in days:
        gone = skipped(job.output)
        place = latest(job.output, day)
        say(f"{day}  skipped: {gone[day]}" if day in gone else ended_line(place, open_ledger(place).done()))
        codes.append(_told(job, day) or 0)
    return max(codes)


def _skip(job: JobConfig, arguments: argparse.Namespace) -> int:
    done = open_ledger(latest(job.output, arguments.skip)).done()
    if "promote" in done and done["promote"]["promoted"]:
        raise InputError(f"--skip: {arguments.skip} was trained and promoted; roll back to leave it out")
    skip(job.output, arguments.skip, arguments.because)
    say(f"{arguments.skip}  skipped: {arguments.because}")
    return 0


def _run(
    job: JobConfig,
    registry: Registry,
    runner: Runner,
    lease: Lease,
    arguments: argparse.Namespace,
    days: list[datetime.date],
) -> int:
    worst = 0
    for day in days:
        if not arguments.again and (code := _told(job, day)) is not None:
            _finished(job, [day])
        else:
            code = _run_day(job, registry, runner, lease, arguments, day)
        if code not in (0, REFUSED):
            return code
        worst = max(worst, code)
    return worst


def _run_day(
    job: JobConfig,
    registry: Registry,
    runner: Runner,
    lease: Lease,
    arguments: argparse.Namespace,
    day: datetime.date,
) -> int:
    # here and not above: a mistake, or a day that is done, must not cost the seconds these take
    from pipeline.daily.alerts import Alerts

    from pipeline.tracking import Tracking

    assert job.daily is not None
    place = latest(job.output, day)
    if arguments.again and open_ledger(place).done():
        place = Place(place.root, day, place.attempt + 1)
    tracking = Tracking(job, "daily", {"day": str(day), "attempt": place.attempt})
    alerts = Alerts(job.daily.alerts, job.name, tracking)
    work = Work(job, place, open_ledger(place), registry, runner, alerts, set(arguments.accept), say)
    code = 1
    try:
        code = run_day(work, lease, say)
        tracking.values(work.done["train"]["samples"], tracked(work))
        if code == REFUSED:
            alerts.send(
                "refused_gate",
                day,
                f"{job.name} {day}: refused",
                reasons(work.done),
                {"verdict": work.done["gate"]["verdict"]},
            )
            say(f"{place.key}  refused by the gate\n{reasons(work.done)}")
    except DayEndedError as ended:
        code = ended.code
        alerts.send(ended.kind, day, f"{job.name} {day}: {ended.kind.replace('_', ' ')}", ended.text, ended.facts)
        print(f"error: {day}: {ended.kind.replace('_', ' ')}\n{ended.text}", file=sys.stderr)
    except (StoppedError, Lost) as stopped:
        code = STOPPED
        print(f"{day}: {stopped}; the same command goes on from there", file=sys.stderr)
    except InputError as error:
        alerts.send("failed_run", day, f"{job.name} {day}: failed", str(error), {})
        raise
    finally:
        tracking.finish(code not in (0, REFUSED))
    return code


if __name__ == "__main__":
    with reported():
        sys.exit(main())
