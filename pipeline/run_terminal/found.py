"""Runs and daily jobs under folders, and whether a run is at work. Reads while they are at work."""

import dataclasses
import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.daily.lease import term_at_work
from pipeline.journal import FOLDER as JOURNAL
from pipeline.journal import Attempt
from pipeline.run_report.days import Day, root_of
from pipeline.run_report.record import RESULT, Run, runs_at
from schemas.errors import InputError

DEEPEST = 5
"""Folders below the one that is named."""
QUIET = 120.0
"""Seconds without a word after which a run without an end counts as killed ..."""
PAUSES = 3.0
"""... or so many of its own longest pauses, where those are longer."""


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run, or a daily job, is."""

    path: str
    daily: bool


def places(folders: Sequence[str]) -> list[Place]:
    """Every run and daily job at or below the folders, in order, each once; what lies inside of one is not listed.

    Raises InputError for a folder that is not there, or holds none.
    """
    out: dict[str, Place] = {}
    for folder in folders:
        found = [Place(folder, True)] if "://" in folder else _below(Path(folder))
        if not found:
            there = "holds no run" if Path(folder).is_dir() else "is not there"
            raise InputError(
                f"{folder}: {there}; name the `output` of a run or of a daily job, or a folder above them (where "
                "output is a URL, a run's record lies in its tracking.folder, by default runs/NAME)"
            )
        out |= {place.path: place for place in found}
    return list(out.values())


def _below(folder: Path, depth: int = 0) -> list[Place]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []  # it went, or may not be read
    if (root := root_of(str(folder))) is not None:
        return [Place(str(folder), not root[1])]
    if JOURNAL in names or (folder / RESULT).exists():
        return [Place(str(folder), False)]
    if depth == DEEPEST:
        return []
    return [place for name in names for place in _below(folder / name, depth + 1)]


def run_at(place: str) -> Run:
    """The newest run that is recorded here. Raises InputError where there is none."""
    found = runs_at(place)
    if not found:
        raise InputError(
            f"{place}: no record of a run is here (neither {JOURNAL}/ nor {RESULT}); `./launch.sh runs FOLDER` lists "
            "the runs below a folder"
        )
    return max(found, key=lambda run: run.last.began if run.last is not None else 0.0)


def at_work(attempt: Attempt, now: float | None = None) -> bool:
    """Whether an attempt without an end may be at work: it told something within QUIET or PAUSES."""
    if attempt.outcome is not None:
        return False
    told = [attempt.began, *(when for when, _, _ in attempt.points), attempt.last]
    longest = max((b - a for a, b in itertools.pairwise(told)), default=0.0)
    return (time.time() if now is None else now) - attempt.last <= max(QUIET, PAUSES * longest)


def state(run: Run, now: float | None = None) -> str:
    """finished, refused, stopped, failed, at work or killed."""
    last = run.last
    if last is None:
        return "finished"  # a result is written at the end alone
    return last.outcome or ("at work" if at_work(last, now) else "killed")


def day_state(day: Day) -> str:
    """What became of a day; a day without an end is at work while its daily job's lease is held."""
    word, _ = day.outcome()
    if word not in ("no end recorded", "not finished"):
        return word
    return "at work" if term_at_work(day.place.root) is not None else "killed"
