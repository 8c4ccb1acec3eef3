"""A day, step by step: each is committed to the ledger before the next begins, and a later run goes on from there."""

import datetime
import time
from collections.abc import Callable
from typing import Any

from pipeline.daily import data_steps, model_steps
from pipeline.daily.lease import Lease
from pipeline.daily.ledger import Ledger
from pipeline.daily.place import Place, latest
from pipeline.daily.span import Span, began_from_another
from pipeline.daily.work import PROMOTED, REFUSED, Facts, Work
from pipeline.registry import Registry
from pipeline.storage import UnansweredError
from schemas.errors import InputError

STEPS: dict[str, Callable[[Work], Facts]] = {
    "wait": data_steps.wait,
    "validate": data_steps.validate,
    "freeze": data_steps.freeze,
    "vocabulary": data_steps.vocabulary,
    "score": model_steps.score,
    "train": model_steps.train,
    "evaluate": model_steps.evaluate,
    "gate": model_steps.gate,
    "promote": model_steps.promote,
    "retention": model_steps.retention,
}
LAST = "retention"


def code_of(done: dict[str, Facts]) -> int | None:
    """The exit code of a day that came to its end; None of one that did not."""
    if LAST not in done:
        return None
    return PROMOTED if done["promote"]["promoted"] else REFUSED


def ended_line(place: Place, done: dict[str, Facts]) -> str:
    """What is told of a day that came to its end before."""
    if code_of(done) == PROMOTED:
        return f"{place.key}  done before: promoted (promotion {done['promote']['number']})"
    return f"{place.key}  done before: refused by the gate\n" + reasons(done)


def reasons(done: dict[str, Facts]) -> str:
    """Why the gate refused, a line each."""
    return "\n".join(f"  {reason}" for reason in done["gate"]["reasons"])


def run_day(work: Work, lease: Lease, tell: Callable[[str], None]) -> int:
    """Runs what is left of the day; its exit code. Raises DayEndedError, StoppedError, Lost and InputError."""
    work.done = work.ledger.done()
    if work.done:
        tell(f"{work.place.key}  going on after {list(work.done)[-1]}")
    for number, (name, step) in enumerate(STEPS.items(), start=1):
        if name in work.done:
            continue
        work.say = _prefixed(tell, f"{work.place.key}  {number:>2}/{len(STEPS)} {name:<10}")
        work.runner.check()
        lease.check()
        began = time.monotonic()
        facts = step(work)
        lease.check()
        work.done[name] = work.ledger.commit(name, facts | {"seconds": round(time.monotonic() - began, 3)})
    code = code_of(work.done)
    assert code is not None
    return code


def _prefixed(tell: Callable[[str], None], prefix: str) -> Callable[[str], None]:
    return lambda text: tell("\n".join(f"{prefix}  {line}" for line in text.split("\n")))


def tracked(work: Work) -> dict[str, Any]:
    """A day's numbers for wandb: the champion on the new day, and both models on the held-out rows."""
    out: dict[str, Any] = {
        "daily/promoted": float(work.done["promote"]["promoted"]),
        "daily/rows": work.done["wait"]["rows"],
    }
    told = {"fresh/champion": work.done["score"]["tasks"]}
    told |= {f"held/{name}": tasks for name, tasks in work.done["evaluate"].items() if isinstance(tasks, dict)}
    for where, tasks in told.items():
        for task, spaces in tasks.items():
            for space in ("own", "joint"):
                for metric in ("auc", "log_loss", "calibration", "mse"):
                    value = spaces.get(space, {}).get(metric)
                    if value is not None:
                        out[f"daily/{where}/{task}/{metric}{'_joint' * (space == 'joint')}"] = value
    return out


def open_ledger(place: Place) -> Ledger:
    """The ledger of an attempt."""
    return Ledger(place.root, place.day, place.attempt)


def attempt_of(root: str, day: datetime.date, again: bool, registry: Registry) -> Place:
    """The attempt to run: the latest; with `again` a new one beside it, where that was begun.

    A second or later attempt that was cut off, by a kill or a stop, is gone on with: the same command begins no third.
    Begun anew is one that came to its end, whose run failed, whose record is damaged, or whose champion was replaced.
    """
    place = latest(root, day)
    ledger = open_ledger(place)
    if not again or not ledger.begun() or (place.attempt > 1 and _goes_on(place, ledger, registry)):
        return place
    return Place(root, day, place.attempt + 1)


def _goes_on(place: Place, ledger: Ledger, registry: Registry) -> bool:
    try:
        done, events = ledger.done(), ledger.events()
    except UnansweredError:  # says nothing of the record
        raise
    except InputError:
        return False
    failed = any(event.get("alert") == "failed_run" and event.get("after") == list(done)[-1] for event in events)
    replaced = began_from_another(Span.of_facts(done["wait"]["span"]), place.key, registry.promotions())
    return LAST not in done and not failed and not replaced
