"""Waiting for a day: its _SUCCESS marker and its floor of rows, looked for until a deadline. No torch."""

import dataclasses
import datetime
import time
from collections.abc import Callable

from pipeline.data.files import AbsentError, plan
from pipeline.storage import UnansweredError
from schemas.daily import WaitConfig
from schemas.events import DayRange
from schemas.job import JobConfig

TELL_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Arrived:
    """A day that is there."""

    files: int
    rows: int
    """As the files' footers say."""
    waited: float
    """Seconds."""


class Late(Exception):  # noqa: N818 - a state of the day, and no error of the program
    """A day that was not there at the deadline."""


def wait_for_day(
    job: JobConfig,
    day: datetime.date,
    config: WaitConfig,
    tell: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Arrived:
    """Returns once the day is there; looks at once, then every `poll_seconds`. A storage that does not answer is asked
    again until the deadline.

    Raises Late at the deadline, which says what was still missing; InputError at once for what no waiting mends: a log
    whose root is not there, a file that is broken, a schema that the job cannot read.
    """
    began = clock()
    deadline = config.minutes * 60
    told = -TELL_SECONDS
    while True:
        found = _look(job, day, config)
        waited = clock() - began
        if isinstance(found, Arrived):
            return dataclasses.replace(found, waited=waited)
        if waited >= deadline:
            raise Late(
                f"day {day} is late: after {waited / 60:.0f} minutes ({_limit(config)}) {found}. Run the same command "
                "again when the day is there, or give it longer with daily.wait.minutes"
            )
        if waited - told >= TELL_SECONDS:
            told = waited
            tell(f"waiting for {day}, {waited / 60:.0f} of {config.minutes:g} minutes: {found}")
        sleep(min(config.poll_seconds, deadline - waited))


def _look(job: JobConfig, day: datetime.date, config: WaitConfig) -> Arrived | str:
    """The day, or what it still wants."""
    try:
        manifest = plan(job, DayRange.model_validate({"from": day, "to": day}))
    except (AbsentError, UnansweredError) as error:
        return str(error).split(";", 1)[0]
    if manifest.rows < config.min_rows:
        return (
            f"{job.data.path}: the day {day} has {manifest.rows:,} rows in {manifest.files.num_rows:,} files, and "
            f"daily.wait.min_rows is {config.min_rows:,}"
        )
    return Arrived(manifest.files.num_rows, manifest.rows, 0.0)


def _limit(config: WaitConfig) -> str:
    return f"daily.wait.minutes = {config.minutes:g}"
