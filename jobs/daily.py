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
import contextlib
import dataclasses
import datetime
import sys
from typing import TYPE_CHECKING, Any

from jobs.failure import message, reported
from pipeline.daily.checks import check_accepted
from pipeline.daily.day import attempt_of, code_of, ended_line, open_ledger, reasons, run_day, tracked
from pipeline.daily.documents import day_group, settled
from pipeline.daily.lease import Held, Lease, Lost
from pipeline.daily.ledger import Ledger, skip, skipped
from pipeline.daily.nodes import Leader, Nodes, follow
from pipeline.daily.place import latest
from pipeline.daily.process import Runner, StoppedError
from pipeline.daily.span import first_open
from pipeline.daily.work import INVALID, LATE, REFUSED, STOPPED, DayEndedError, Work
from pipeline.data.vocabulary_lookup import fingerprints
from pipeline.registry import Registry
from schemas.errors import InputError
from schemas.events import DayRange
from schemas.job import JobConfig
from schemas.load import load_job

if TYPE_CHECKING:
    from pipeline.daily.alerts import Kind
    from pipeline.journal import Outcome


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
    add(
        "--accept",
        action="extend",
        nargs="+",
        default=[],
        metavar="RULE",
        help="rules of the checks that this day may break",
    )
    add("--again", action="store_true", help="begin the day anew, beside what was done before")
    add("--skip", type=_date, metavar="DAY", help="leave a day out of every model, for good")
    add("--because", metavar="TEXT", help="why; kept in the records")
    return out


def job_type(day: datetime.date) -> str:
    """What a day is told as: its own on the morning after it, later a backfill."""
    return "gate" if day >= _date("yesterday") else "backfill"


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
    at = next((i for i, word in enumerate(argv) if word.endswith((".yaml", ".yml"))), None)
    if at is None:
        parser().parse_args([word for word in argv if word in ("-h", "--help")] or ["--help"])
    flags, words = argv[:at], argv[at:]
    why = words.index("--because") + 1 if "--because" in words else 0  # the reason may hold a =
    given = [i for i, word in enumerate(words) if "=" in word and not word.startswith("-") and not (why and i == why)]
    settings = [words[i] for i in given]
    out = parser().parse_intermixed_args([word for i, word in enumerate(words) if i not in given])
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
    several = out.first is not None or out.catch_up
    if out.again and several:
        raise InputError("--again: one day at a time, with --date")
    check_accepted(set(out.accept))
    if out.accept and several:
        raise InputError("--accept: one day at a time, with --date")
    return flags, out


def days_of(arguments: argparse.Namespace, job: JobConfig, registry: Registry) -> list[datetime.date]:
    """The days to run, in order."""
    last = arguments.last or arguments.date or _date("yesterday")
    first = arguments.first or last
    if arguments.catch_up:
        first = min(first, first_open(job.output, registry, first))
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
    nodes = Nodes.of_flags(flags)
    job = load(arguments)
    assert job.daily is not None
    registry = Registry(job.output, job.data.storage)
    if arguments.skip is not None:
        return _skip(job, arguments, registry)
    runner = Runner(flags)
    if nodes.rank:
        runner.install()
        return _follow(job, runner)
    days = days_of(arguments, job, registry)
    if not arguments.again and nodes.count == 1 and all(_told(job, day) is not None for day in days):
        return _finished(job, days)
    runner.install()
    what = str(days[0]) if len(days) == 1 else f"{days[0]} to {days[-1]}"
    lease = Lease(job.output, job.daily.lease_seconds, what, on_lost=lambda why: runner.stop(why, kill=True))
    try:
        with lease:
            leader = Leader(job.output, lease.term) if nodes.count > 1 else None
            run = Run(job, registry, runner, lease, arguments, leader)
            code = 1
            try:
                code = run.days(days)
            finally:
                if leader is not None:
                    leader.end(code)
                if job.tracking.report:
                    from pipeline.run_report.written import report_days

                    report_days(job)
            return code
    except Held as held:
        say(str(held))
        return STOPPED


def _follow(job: JobConfig, runner: Runner) -> int:
    assert job.daily is not None
    try:
        return follow(job.output, runner, max(job.daily.lease_seconds, job.train.timeout_seconds), say)
    except StoppedError as stopped:
        print(f"{stopped}; the same command goes on", file=sys.stderr)
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


def _skip(job: JobConfig, arguments: argparse.Namespace, registry: Registry) -> int:
    assert job.daily is not None
    try:
        with Lease(job.output, job.daily.lease_seconds, f"skip {arguments.skip}") as lease:
            champion = registry.champion()
            for model in registry.lineage(champion.name) if champion is not None else ():
                if str(arguments.skip) in model.days:
                    raise InputError(
                        f"--skip: the champion's line was trained on {arguments.skip} (model {model.name}); roll back "
                        "to a champion before that to leave it out"
                    )
            lease.check()
            skip(job.output, arguments.skip, arguments.because)
    except Held as held:
        say(str(held))
        return STOPPED
    say(f"{arguments.skip}  skipped: {arguments.because}")
    return 0


@dataclasses.dataclass(frozen=True)
class Run:
    """One invocation, under the lease."""

    job: JobConfig
    registry: Registry
    runner: Runner
    lease: Lease
    arguments: argparse.Namespace
    leader: Leader | None

    def days(self, days: list[datetime.date]) -> int:
        """Each in turn, up to the first that comes to no end; the exit code of all."""
        assert self.job.daily is not None
        worst = 0
        for day in days:
            if not self.arguments.again and (code := _told(self.job, day)) is not None:
                _finished(self.job, [day])
            else:
                code = self.day(day)
            if code in (LATE, INVALID) and self.job.daily.missing_days == "skip" and day != days[-1]:
                continue  # the next day leaves it out, and says so
            if code not in (0, REFUSED):
                return code
            worst = max(worst, code)
        return worst

    def day(self, day: datetime.date) -> int:
        """One day; its exit code."""
        # here and not above: neither a mistake nor a day that is done must cost the seconds these take
        from pipeline.daily.alerts import Alerts
        from pipeline.tracking import Tracking

        job = self.job
        assert job.daily is not None
        place = attempt_of(job.output, day, self.arguments.again, self.registry)
        ledger = Ledger(place.root, day, place.attempt, self.lease.term, job.data.storage)
        grouped = job.tracking.model_copy(update={"group": day_group(job, day)})
        about = {"day": str(day), "attempt": place.attempt}
        tracking = Tracking(job.model_copy(update={"tracking": grouped}), job_type(day), about)
        alerts = Alerts(job.daily.alerts, job.name, tracking)
        accepted = set(self.arguments.accept)
        work = Work(job, place, ledger, self.registry, self.runner, alerts, accepted, say, self.leader)
        code, why = 1, ""
        try:
            code = run_day(work, self.lease, say)
            tracking.values(work.done["train"]["samples"], tracked(work))
            if code == REFUSED:
                why, facts = reasons(work.done), {"verdict": work.done["gate"]["verdict"]}
                say(f"{place.key}  refused by the gate\n{why}")
                self._alert(work, "refused_gate", why, facts)
        except DayEndedError as ended:
            code, why = ended.code, f"{ended.kind.replace('_', ' ')}: {ended.text}"
            print(f"error: {day}: {ended.kind.replace('_', ' ')}\n{ended.text}", file=sys.stderr, flush=True)
            self._alert(work, ended.kind, ended.text, ended.facts)
        except (StoppedError, Lost) as stopped:
            code, why = STOPPED, str(stopped)
            but = " without --again" * (self.arguments.again and place.attempt == 1 and bool(work.done))
            print(f"{day}: {stopped}; the same command{but} goes on from there", file=sys.stderr, flush=True)
        except Exception as error:
            why = message(error)
            self._alert(work, "failed_run", why, {})
            raise
        finally:
            outcomes: dict[int, Outcome] = {0: "finished", REFUSED: "refused", STOPPED: "stopped"}
            tracking.finish(outcomes.get(code, "failed"), why)
        return code

    def _alert(self, work: Work, kind: "Kind", text: str, facts: dict[str, Any]) -> None:
        """Tells people, and writes down whether that went well."""
        told = work.alerts.send(kind, str(work.day), kind.replace("_", " "), text, facts)
        for line in told:
            if line.startswith("webhook: not sent"):
                say(f"alert: {line}")
        with contextlib.suppress(InputError):  # what went wrong may be the storage
            # a folder of its own makes an attempt the latest: not of one that came to nothing, as on a day that is done
            ledger = work.ledger if work.done else open_ledger(latest(work.place.root, work.day))
            ledger.note("alert", {"alert": kind, "text": text, "told": told, "after": next(reversed(work.done), None)})


if __name__ == "__main__":
    with reported():
        sys.exit(main())
