"""Following a run, or a day of retraining, as it goes on: lines as they are told, until its end. No curses."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline.daily.ledger import Ledger
from pipeline.daily.place import Place, place_of
from pipeline.journal import FOLDER as JOURNAL
from pipeline.journal import newest
from pipeline.report.text import duration
from pipeline.run_report.record import RESULT
from pipeline.run_report.words import moment
from pipeline.run_terminal.listing import step_took
from schemas.errors import InputError

EVERY = 1.0
"""Seconds between looks."""
ENDED = {"finished": 0, "refused": 3, "stopped": 75}
"""Exit code by outcome; 1 for any other."""
SILENT = 1
"""Exit code where nothing was told for as long as one waits."""
Tell = Callable[[str], None]


class Watch:
    """Follows the newest attempt in a folder; one that begins meanwhile is followed on."""

    def __init__(self, folder: Path, tell: Tell, quiet_seconds: float, daily_root: str = "") -> None:
        """`daily_root`: of a daily job, whose days' steps are told as well."""
        self._folder, self._tell, self._quiet = folder, tell, quiet_seconds
        self._root = daily_root
        self._place: Place | None = None
        self._name, self._tail = "", Tail(folder)
        self._tasks: dict[str, str] = {}
        self._steps: set[str] = set()

    def run(self) -> int:
        """Its exit code, by how the run ended: 0 finished, 3 refused, 75 stopped, 1 failed or silent."""
        if not newest(self._folder) and (self._folder / RESULT).exists():
            self._tell(f"{self._folder}: a run has ended here, and left {RESULT} but no journal to follow")
            return 0
        heard = time.monotonic()
        while True:
            code = None
            for line in self._news():
                heard = time.monotonic()
                code = self._line(line)
            if self._stepped():
                heard = time.monotonic()
            if code is not None and newest(self._folder) == self._name:
                return code
            if time.monotonic() - heard >= self._quiet:
                self._tell(
                    f"nothing was told for {duration(self._quiet)} (--seconds); `./launch.sh runs {self._folder}` says "
                    "whether it is at work"
                )
                return SILENT
            time.sleep(min(EVERY, self._quiet / 10))

    def _news(self) -> Iterator[dict[str, Any]]:
        name = newest(self._folder)
        if not name:
            if not self._name:
                self._name = "-"
                self._tell(f"no run has begun in {self._folder} yet; waiting")
            return
        if name != self._name:
            self._name, self._tail = name, Tail(self._folder / JOURNAL / name)
        yield from self._tail.lines()

    def _line(self, line: dict[str, Any]) -> int | None:
        """Tells it; the exit code where it is the end."""
        match line["line"]:
            case "begin":
                self._begin(line)
            case "values":
                if words := self._values(line["values"]):
                    self._tell(f"{_clock(line)}  {line['samples']:>12,} rows  {words}")
            case "alert":
                self._tell(f"{_clock(line)}  {line['level']}: {line['title']}\n{line['text']}")
            case "end":
                self._stepped()
                self._tell(f"{_clock(line)}  {line['outcome']}" + (f": {line['why']}" if line["why"] else ""))
                return ENDED.get(line["outcome"], 1)
        return None

    def _begin(self, line: dict[str, Any]) -> None:
        about = line["about"]
        self._tasks = {task["name"]: task.get("kind", "binary") for task in about.get("tasks", [])}
        day = about.get("day")
        what = f"{line['job']}, day {day}" if day else line["job"]
        self._tell(
            f"{what}: began at {moment(line['time'])}"
            + (f", {line['samples']:,} rows trained before" * bool(line["samples"]))
        )
        if self._tasks:
            self._tell("each line: rows trained; each task's AUC, or MSE, over the last window; speed")
        if day and self._root:
            attempt = about.get("attempt", 1)
            self._place = place_of(self._root, day if attempt == 1 else f"{day}.{attempt}")
            self._steps = set()

    def _values(self, values: dict[str, Any]) -> str:
        """Each task's metric of a progress line, then the speed; what an evaluation found."""
        words = []
        for split, head in (("train", ""), ("eval", "evaluated: ")):
            told = []
            for task, kind in self._tasks.items():
                name = "mse" if kind == "regression" else "auc"
                value = values.get(f"{split}/{task}/{name}")
                if value is not None:
                    told.append(f"{task} {'MSE ' * (name == 'mse')}{float(value):.4f}")
            if told:
                words.append(head + "  ".join(told))
        speed = values.get("train/rows_per_second")
        return "  ".join(words) + (f"  {float(speed):,.0f} rows/s" if speed is not None else "")

    def _stepped(self) -> bool:
        """Tells the steps that the day has committed; whether there was one."""
        place = self._place
        if place is None:
            return False
        fresh = [(step, facts) for step, facts in _done(place).items() if step not in self._steps]
        for step, facts in fresh:
            self._steps.add(step)
            self._tell(f"{facts['at'][11:19]}  {place.key}  {step} done, {step_took(facts)}")
        return bool(fresh)


class Tail:
    """A record's whole lines, each once, as they come."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0
        self._number = 0

    def lines(self) -> Iterator[dict[str, Any]]:
        """Those that came since it was asked last. Raises InputError for one that is damaged."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                fresh = file.read()
        except FileNotFoundError:
            return
        whole, newline, _ = fresh.rpartition(b"\n")
        self._at += len(whole) + len(newline)
        for line in whole.split(b"\n") if whole else []:
            self._number += 1
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                raise InputError(
                    f"{self._path}, line {self._number}: not as it was written; restore it, or move the file away"
                ) from None


def _done(place: Place) -> dict[str, dict[str, Any]]:
    return Ledger(place.root, place.day, place.attempt).done()


def _clock(line: dict[str, Any]) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(line["time"]))
