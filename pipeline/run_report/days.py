"""Days of retraining as their ledgers, verdicts and records have them, and what became of each, in words. No torch."""

import dataclasses
import datetime
import itertools
import json
import re
from pathlib import Path
from typing import Any

import yaml

from pipeline.daily.ledger import Facts, Ledger, skipped
from pipeline.daily.place import KEY, VERDICT, Place, begun
from pipeline.gate.record import Verdict
from pipeline.journal import Attempt, attempts
from pipeline.registry import Registry
from pipeline.run_report.record import Run, read_json, runs_at
from pipeline.run_report.words import moment
from pipeline.storage import bounded, filesystem, reason
from schemas.errors import InputError
from schemas.events import StorageConfig

KINDS = {
    "failed_validation": "failed its checks",
    "late_data": "late",
    "late_files": "late files",
    "failed_run": "failed",
    "refused_gate": "refused",
}
"""Kind of an alert that ends a day -> what is said of the day."""
ACCEPTED = re.compile(r"--accept (\S+)$")
"""The rule of a finding, where its words end with it."""
RULE = re.compile(r"^\s*([a-z_]+(?::[\w.]+)?): ", re.MULTILINE)
"""What --accept takes, where a finding's line begins with it."""


@dataclasses.dataclass
class Day:
    """The newest attempt at one day."""

    place: Place
    done: dict[str, Facts] = dataclasses.field(default_factory=dict)
    """Facts of its committed steps."""
    events: list[Facts] = dataclasses.field(default_factory=list)
    told: Attempt | None = None
    """The record of the command that was last at work on it."""
    because: str | None = None
    """Why it was skipped."""
    verdict: Verdict | None = None
    run: Run | None = None
    """Its challenger's training."""
    in_model: str = ""
    """The champion that was trained on its rows, where it is another day's."""
    begun: bool = True
    """Whether anything was done for it."""
    passed_by: str = ""
    """The champion of a later day that came after it without its rows."""
    behind: str = ""
    """The open day before it for whose sake its command did nothing."""

    @property
    def name(self) -> str:
        """As it is called."""
        return self.place.key

    @property
    def alert(self) -> Facts | None:
        """What people were last told of it."""
        alerts = [event for event in self.events if event["kind"] == "alert"]
        return alerts[-1] if alerts else None

    def outcome(self) -> tuple[str, str]:
        """What became of it, and the tone of that."""
        if self.because is not None:
            return "skipped", "quiet"
        if not self.begun or self.behind:
            return "not begun", "bad"
        if "retention" in self.done:
            return ("promoted", "good") if self.done["promote"]["promoted"] else ("refused", "bad")
        ended = None if self.told is None else self.told.outcome
        if self.told is not None and ended is None:
            return "no end recorded", "bad"
        if ended == "stopped":
            return "stopped", "bad"
        if self.alert is not None:
            return KINDS.get(self.alert["alert"], "failed"), "bad"
        return "not finished" if ended is None else "failed", "bad"

    def why(self) -> str:
        """The reason, in full."""
        word, _ = self.outcome()
        if self.because is not None:
            if self.alert is None:
                return self.because
            before = KINDS.get(self.alert["alert"], "failed")
            return f"{self.because.rstrip('. ')}. Before, it {before}: {self.alert['text']}"
        if word == "refused":
            return "\n".join(self.done["gate"]["reasons"])
        if word == "promoted":
            champion = self.done["wait"]["span"]["champion"]
            return (
                f"no task lost beyond tolerance and noise against champion {champion}"
                if champion
                else "the first champion"
            )
        if word == "no end recorded" and self.told is not None:
            return f"its command told something last at {moment(self.told.last)}: it is at work still, or was killed"
        if word == "not begun":
            return f"its command did nothing: {self.behind} is open" if self.behind else "no command was run for it"
        told = (
            self.alert["text"]
            if self.alert is not None and word in KINDS.values()
            else self.told.why
            if self.told
            else ""
        )
        return "\n".join(line.strip() for line in told.strip().splitlines()) + self._of_training(word)

    def _of_training(self, word: str) -> str:
        """What its training said of its own failure."""
        last = None if self.run is None or word != "failed" else self.run.last
        return (
            f"\nIts training said: {last.why.strip().splitlines()[0]}" if last is not None and last.why.strip() else ""
        )

    def accepted(self) -> list[tuple[str, str]]:
        """Rules of the checks that a person let it break, and the findings in words."""
        found = [words for step in ("validate", "train") for words in self.done.get(step, {}).get("accepted", [])]
        return [(rule[1] if (rule := ACCEPTED.search(words)) else "a rule", words) for words in found]

    def todo(self, champion: str | None) -> str:
        """What a person has to do; empty for nothing."""
        word, _ = self.outcome()
        day, again = self.place.day, f"./launch.sh daily CONFIG.yaml --date {self.place.day}"
        if word in ("promoted", "skipped"):
            return ""
        if word == "refused":
            if self.in_model:
                return f"Nothing: champion {self.in_model} was trained on its rows too."
            if self.passed_by:
                return f"Nothing: champion {self.passed_by} came after it, without its rows."
            stays = self.done["wait"]["span"]["champion"] or champion
            return (
                f"Nothing at once: the champion stays{f' {stays}' if stays else ''}, and the next day's challenger "
                "trains on this day again, unless daily.refused_days is leave_out. Refused day after day, see what "
                "changed for the task that pays; what is tolerated is daily.gate.tolerance."
            )
        if word == "failed its checks":
            rules = " ".join(dict.fromkeys(RULE.findall(self.alert["text"] if self.alert else ""))) or "RULE"
            return (
                f"Look at the day's files. Where they are wrong, mend them and run {again}; where they are right, "
                f"{again} --accept {rules}; where they cannot be mended, ./launch.sh daily CONFIG.yaml --skip {day} "
                "--because TEXT. Later days wait for it."
            )
        if word in ("late", "late files"):
            return f"Once its files are there, {again}; daily.wait.minutes says how long to wait for a day."
        if self.behind:
            return f"Nothing before {self.behind} is done or left out; then run {again}."
        goes_on = ": it goes on after its last committed step" if self.done else ""
        return f"Run {again}{goes_on}. Later days wait for it."


@dataclasses.dataclass
class Days:
    """The days of one daily job that are shown, in order."""

    root: str
    days: list[Day]
    champion: str | None
    """Who is champion now."""
    earlier: int = 0
    """Days before them that are not shown."""

    def in_a_row(self) -> str:
        """What to do where the last days, two or more, were refused one after another; empty where they were not."""
        ended = [day for day in self.days if day.because is None and day.begun]
        row = list(itertools.takewhile(lambda day: day.outcome()[0] == "refused", reversed(ended)))[::-1]
        if len(row) < 2:
            return ""
        told = (
            f"{len(row)} days in a row were refused, {row[0].name} to {row[-1].name}, and the champion gets old. A "
            "challenger trains on the refused days before it as well, so one bad day spoils those after it."
        )
        first = row[0].place.day
        doubtful = [day for day in row if day.accepted()]
        if doubtful:
            first = doubtful[0].place.day
            rules = ", ".join(dict.fromkeys(rule.partition(":")[0] for rule, _ in doubtful[0].accepted()))
            told += f" A person let {first} pass its checks ({rules}): begin there."
        return (
            f"{told} Where {first} is at fault, leave it out for good, ./launch.sh daily CONFIG.yaml --skip {first} "
            f"--because TEXT, and try the last day anew, --date {row[-1].place.day} --again. Where no day is, see "
            "which task pays, and daily.gate.tolerance."
        )


def root_of(place: str) -> tuple[str, str] | None:
    """The root of the daily job whose output or day this is, and that day's name or nothing; None for any other."""
    place = place.rstrip("/")
    head, _, key = place.rpartition("/")
    if KEY.fullmatch(key) and head.rpartition("/")[2] == "days":
        return head.rpartition("/")[0], key
    fs, path = filesystem(place)

    def there() -> bool:
        return bool(fs.exists(f"{path}/days") or fs.exists(f"{path}/skipped"))

    try:
        return (place, "") if bounded(there, fs, StorageConfig()) else None
    except Exception as error:  # every driver has exceptions of its own
        raise InputError(f"{place}: cannot be read ({reason(error)}); see the address and the right to read") from error


def days_at(root: str, last: int, keys: tuple[str, ...] = (), folder: str = "") -> Days:
    """The last so many days of a daily job, or those named; `folder` holds its record where that is known.

    Raises InputError where there is none, or a record is damaged.
    """
    gone = skipped(root)
    newest = {place.day: place for place in begun(root)}  # in order: the last attempt at a day stands
    every = {day: newest.get(day, Place(root, day)) for day in sorted({*newest, *gone})}
    if keys:
        chosen = [place for place in begun(root) if place.key in keys]
        if missing := set(keys) - {place.key for place in chosen}:
            raise InputError(f"{root}/days/{min(missing)}: no such day was begun; `ls {root}/days` lists them")
    else:
        chosen = list(_without_gaps(root, every).values())
    if not chosen:
        raise InputError(f"{root}: no day was begun yet")
    shown = chosen if keys else chosen[-last:]
    records = _records(root, folder, shown)
    out = [_day(place, gone, records, place.day in every) for place in shown]
    promotions = Registry(root).promotions()
    _trained_later(out)
    _begun_too_early(out)
    return Days(root, out, promotions[-1].model if promotions else None, len(chosen) - len(shown))


def _without_gaps(root: str, every: dict[datetime.date, Place]) -> dict[datetime.date, Place]:
    """With the days between them for which nothing was done."""
    if not every:
        return {}
    first, last = min(every), max(every)
    span = [first + datetime.timedelta(n) for n in range((last - first).days + 1)]
    return {day: every.get(day, Place(root, day)) for day in span}


def _day(place: Place, gone: dict[datetime.date, str], records: list[Attempt], known: bool) -> Day:
    if not known:
        return Day(place, begun=False)
    ledger = Ledger(place.root, place.day, place.attempt)
    own = [one for one in records if _is_of(one, place)]
    day = Day(place, ledger.done(), ledger.events(), own[-1] if own else None, gone.get(place.day))
    if (tree := read_json(place.url(VERDICT))) is not None:
        day.verdict = Verdict.from_json(tree)
    day.run = _training(place)
    return day


def _is_of(record: Attempt, place: Place) -> bool:
    return record.about.get("day") == str(place.day) and record.about.get("attempt", 1) == place.attempt


def _training(place: Place) -> Run | None:
    """The day's training run: in its output, or where its files lie when that is a URL."""
    found = runs_at(place.url("challenger"))
    folder = _local_folder(place)
    if folder and not (found and found[0].tried):
        found = runs_at(folder) or found
    own = [run for run in found if run.name.endswith(f".{place.key}")]
    return own[0] if own else None


def _local_folder(place: Place) -> str:
    """Where the job of its training keeps its record; empty where that is its output, or not known."""
    fs, path = filesystem(place.url("challenger.yaml"))
    try:
        job = yaml.safe_load(fs.cat_file(path))
    except (OSError, yaml.YAMLError):
        return ""
    return str((job.get("tracking") or {}).get("folder") or "")


def _records(root: str, folder: str, places: list[Place]) -> list[Attempt]:
    """What the daily command told of its days."""
    told = _local_folder(places[-1])
    for found in (folder, "" if "://" in root else root, told, str(Path(told).parent) if told else ""):
        records = [one for one in attempts(Path(found)) if "day" in one.about] if found else []
        if records:
            return records
    return []


def _trained_later(days: list[Day]) -> None:
    """Says of refused days whose model has their rows."""
    for day in days:
        for later in days:
            if later.place.day > day.place.day and later.outcome()[0] == "promoted":
                if str(day.place.day) in later.done["wait"]["span"]["days"]:
                    day.in_model = later.name
                else:
                    day.passed_by = later.name
                break


def _begun_too_early(days: list[Day]) -> None:
    """Says of days whose command ended before its first step that an open day stands before them."""
    open_day = ""
    for day in days:
        ended = day.told is not None and day.told.outcome == "failed"
        if open_day and not day.done and ended and day.alert is None:
            day.behind = open_day
        elif not open_day and day.outcome()[0] not in ("promoted", "refused", "skipped"):
            open_day = day.name


def as_plain(value: Any) -> str:
    """A fact as text."""
    return value if isinstance(value, str) else json.dumps(value)
