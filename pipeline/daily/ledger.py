"""The ledger of a day: a file a committed step, and a file an event, each created once. No torch.

    ROOT/days/2026-01-08/05-score.json               what the step came to
    ROOT/days/2026-01-08/events/0001-late_files.json what happened beside the steps
    ROOT/days/2026-01-08.2/...                       the second attempt at the day
    ROOT/skipped/2026-01-09.json                     a day that no model is ever trained on, and why

Of two processes that commit one step, as a holder that was thought dead and its successor, the first one's facts stand,
and both go on from them.
"""

import datetime
import json
import re
from typing import Any

from pipeline.records import Records
from schemas.errors import InputError
from schemas.events import StorageConfig

STEPS = ("wait", "validate", "freeze", "vocabulary", "score", "train", "evaluate", "gate", "promote", "retention")
"""In the order they are committed; one that has nothing to do is committed all the same."""
Facts = dict[str, Any]
_FOLDER = re.compile(r"(\d{4}-\d{2}-\d{2})(\.[2-9]|\.[1-9]\d+)?")
_EVENT = re.compile(r"(\d{4,})-(.+)")
_KIND = re.compile(r"[a-z][a-z0-9_]*")


class Ledger:
    """One attempt at one day. `term` is that of the lease under which it is written."""

    def __init__(
        self,
        root_url: str,
        day: datetime.date,
        attempt: int = 1,
        term: int | None = None,
        storage: StorageConfig | None = None,
    ) -> None:
        folder = f"{root_url.rstrip('/')}/days/{day}" + (f".{attempt}" if attempt > 1 else "")
        self._steps, self._events = Records(folder, storage), Records(f"{folder}/events", storage)
        self._term = term

    def done(self) -> dict[str, Facts]:
        """Committed step -> its facts, in order. Raises InputError where one is not whole, or missing among them."""
        there = {name: step for name in self._steps.names() if (step := _STEP_OF.get(name))}
        for name, step in list(_STEP_OF.items())[: len(there)]:
            if step not in there.values():
                last = max(there)
                raise InputError(
                    f"{self._steps.address(name)}: is missing, and {last} is there; restore it from a copy, or begin "
                    "the day anew (--again)"
                )
        return dict(zip(there.values(), self._steps.all(there), strict=True))

    def begun(self) -> bool:
        """Whether a step was committed, readable or not."""
        return any(name in _STEP_OF for name in self._steps.names())

    def commit(self, step: str, facts: Facts) -> Facts:
        """Commits the step; the facts that now stand: these, or those of whoever committed it before."""
        name = _NAME_OF[step]
        whole = json.loads(json.dumps({**facts, "at": _now(), "term": self._term}))  # as a later run will read them
        return whole if self._steps.create(name, whole) else self._steps.get(name)

    def note(self, kind: str, facts: Facts) -> Facts:
        """Writes an event down, behind all others; what was written."""
        assert _KIND.fullmatch(kind), kind
        number = 1 + max((int(match[1]) for match in map(_EVENT.fullmatch, self._events.names()) if match), default=0)
        while True:
            whole = {**facts, "kind": kind, "number": number, "at": _now(), "term": self._term}
            if self._events.create(f"{number:04d}-{kind}", whole):
                return whole
            number += 1  # another's

    def events(self) -> list[Facts]:
        """All events, in order."""
        names = [name for name in self._events.names() if _EVENT.fullmatch(name)]
        return sorted(self._events.all(names), key=lambda event: (event["number"], event["at"]))


def days(root_url: str) -> list[datetime.date]:
    """The days that were begun, in order, each once."""
    names = Records(f"{root_url.rstrip('/')}/days").entries()
    return sorted({datetime.date.fromisoformat(match[1]) for name in names if (match := _FOLDER.fullmatch(name))})


def skip(root_url: str, day: datetime.date, because: str) -> None:
    """Leaves the day out for ever; the first reason given stands."""
    _skips(root_url).create(str(day), {"because": because, "at": _now()})


def skipped(root_url: str) -> dict[datetime.date, str]:
    """Days left out for ever, in order, and why."""
    records = _skips(root_url)
    names = records.names()
    if odd := [name for name in names if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", name)]:
        raise InputError(f"{records.address(odd[0])}: is no day's; remove it")
    every = zip(names, records.all(names), strict=True)
    return {datetime.date.fromisoformat(name): facts["because"] for name, facts in every}


def _skips(root_url: str) -> Records:
    return Records(f"{root_url.rstrip('/')}/skipped")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


_NAME_OF = {step: f"{number:02d}-{step}" for number, step in enumerate(STEPS, 1)}
_STEP_OF = {name: step for step, name in _NAME_OF.items()}
