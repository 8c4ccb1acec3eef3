"""The report as a file: of what a person names, and at the end of every job. A failure of it fails no job."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.report.page import Page
from pipeline.run_report.days import days_at, root_of
from pipeline.run_report.days_page import days_page
from pipeline.run_report.record import runs_at
from pipeline.run_report.runs_page import runs_page
from pipeline.storage import bounded, filesystem, reason
from schemas.errors import InputError, redacted
from schemas.events import StorageConfig
from schemas.job import JobConfig

FILE = "report.html"
DAYS = 14
"""Shown of a daily job, unless more are asked for."""


def report(places: Sequence[str], days: int = DAYS) -> Page:
    """The page of runs, or of days of one daily job: folders or URLs. Raises InputError for what is neither."""
    roots = {place: root_of(place) for place in places}
    daily = {root for root in roots.values() if root is not None}
    if not daily:
        runs = []
        for place in places:
            found = runs_at(place)
            if not found:
                raise InputError(
                    f"{place}: no record of a run is here: neither journal/ nor result.json, nor days/ of daily "
                    "retraining. Name a run's `output` (or, where that is a URL, its tracking.folder, by default "
                    "runs/NAME)"
                )
            runs += found
        return runs_page(runs)
    if not all(roots.values()) or len({root for root, _ in daily}) > 1:
        raise InputError(
            f"{', '.join(places)}: runs, and days of one daily job, stand on pages of their own; name either "
            "trainings, or one daily job's output, or days of it (OUTPUT/days/DAY)"
        )
    keys = {key for _, key in daily}
    root = next(root for root, _ in daily)
    return days_page(days_at(root, days, () if "" in keys else tuple(sorted(keys))))


def report_run(job: JobConfig) -> None:
    """Reports the run of a job that has ended, however; nothing where none was trained, as by a score. Never raises."""

    def page() -> Page | None:
        runs = [run for run in runs_at(job.local_folder) if run.name == job.name]
        return runs_page(runs) if runs else None

    _guarded(job, page)


def report_days(job: JobConfig) -> None:
    """Reports the last days of a daily job. Never raises."""
    _guarded(job, lambda: days_page(days_at(job.output.rstrip("/"), DAYS, folder=job.local_folder)))


def _guarded(job: JobConfig, page: Callable[[], Page | None]) -> None:
    try:
        made = page()
        if made is None:
            return
        path = Path(job.local_folder) / FILE
        made.write(path)
        print(f"report      {path}", flush=True)
        if os.path.normpath(job.output) != os.path.normpath(job.local_folder):
            _copy(made, f"{job.output.rstrip('/')}/{FILE}")
    except Exception as error:  # whatever it met: the job has ended well or badly without it
        said = f"the report could not be written ({reason(error)}); nothing else is touched by that"
        print(redacted(said), file=sys.stderr, flush=True)


def _copy(page: Page, url: str) -> None:
    fs, path = filesystem(url)
    if "://" in url:
        bounded(lambda: fs.pipe_file(path, page.html().encode()), fs, StorageConfig())
    else:
        page.write(Path(url))
