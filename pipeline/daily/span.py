"""Which days a challenger trains on: every day since the champion's own, in order, none twice and none in silence."""

import dataclasses
import datetime
from collections.abc import Collection, Sequence
from typing import Any

from pipeline.daily.ledger import Ledger, skip, skipped
from pipeline.daily.place import begun, latest
from pipeline.model_records import Promotion
from pipeline.registry import Registry
from schemas.errors import InputError
from schemas.job import JobConfig

ONE = datetime.timedelta(1)


@dataclasses.dataclass(frozen=True)
class Span:
    """What a day's challenger begins from and trains on."""

    champion: str | None
    promotion: int | None
    """The registry's promotion that made it champion."""
    days: list[str]
    """Days to be trained on; the last is the day itself."""
    skipped: list[str]
    """Days since the champion's that nothing was trained on."""

    @property
    def first(self) -> datetime.date:
        """First day trained on."""
        return datetime.date.fromisoformat(self.days[0])

    def facts(self) -> dict[str, Any]:
        """As the ledger keeps it."""
        return dataclasses.asdict(self)

    @classmethod
    def of_facts(cls, facts: dict[str, Any]) -> "Span":
        """What `facts` gave."""
        return cls(**{field.name: facts[field.name] for field in dataclasses.fields(cls)})


def began_from_another(span: Span, key: str, promotions: Sequence[Promotion]) -> bool:
    """Whether an attempt, of this key, was begun from a champion that another has replaced since."""
    number = promotions[-1].number if promotions else None
    own = bool(promotions) and promotions[-1].model == key
    return number != span.promotion and not own


def finished(root: str, day: datetime.date) -> bool:
    """Whether the day's challenger was promoted or rejected."""
    place = latest(root, day)
    return "promote" in Ledger(root, day, place.attempt).done()


def span_of(job: JobConfig, root: str, registry: Registry, day: datetime.date) -> Span:
    """The span of a day that is begun now. Raises InputError where a day before it is open, or it was trained already.

    Under `missing_days: skip` it leaves open days out; `skip_open` says so in the records, once the day is there.
    """
    assert job.daily is not None
    champion, promotions, left_out = registry.champion(), registry.promotions(), skipped(root)
    if day in left_out:
        raise InputError(f"{day}: was skipped ({left_out[day]}); a skipped day stays out of every later model")
    number = promotions[-1].number if promotions else None
    if champion is None:
        name, first = None, job.data.train.first
        if day < first:
            raise InputError(f"{day}: lies before data.train.from ({first}), where the first champion's days begin")
        so_far = "there is no champion yet"
    else:
        name, last = champion.name, trained_up_to(registry, champion.name)
        if day <= last:
            raise InputError(
                f"{day}: champion {name} was trained up to {last}, and days are trained in order; roll back to a "
                f"champion before it to train it anew (./launch.sh registry {root} rollback)"
            )
        first, so_far = last + ONE, f"champion {name} was trained up to {last}"
    judged = [d for d in _to_be_ended(root, registry, day) if d >= first]
    still_open = [d for d in judged if d not in left_out and not finished(root, d)]
    if still_open and job.daily.missing_days == "refuse":
        raise InputError(
            f"{day}: {so_far}, and {', '.join(map(str, still_open))} came to no end; train them first (--from "
            f"{still_open[0]} --to {day}), or leave them out for good (--skip {still_open[0]} --because WHY; "
            "daily.missing_days=skip does so by itself)"
        )
    out = {*left_out, *still_open}
    if job.daily.refused_days == "leave_out":
        out |= set(judged)
    before = _days(first, day)
    return Span(name, number, _named([*before, day], without=out), _named(before, within=out))


def skip_open(root: str, span: Span, day: datetime.date) -> None:
    """Skips for ever what the span of `day` leaves out and came to no end."""
    left_out = skipped(root)
    for missing in map(datetime.date.fromisoformat, span.skipped):
        if missing not in left_out and not finished(root, missing):
            skip(root, missing, f"daily.missing_days is skip, when {day} was begun")


def first_open(root: str, registry: Registry, day: datetime.date) -> datetime.date:
    """The first day before `day` that should have come to an end, did not, and was not skipped; `day` if there is none.

    See `span_of`.
    """
    left_out = skipped(root)
    judged = _to_be_ended(root, registry, day)
    return next((d for d in judged if d not in left_out and not finished(root, d)), day)


def _to_be_ended(root: str, registry: Registry, day: datetime.date) -> list[datetime.date]:
    """The days before `day` that a run must have brought to an end: those since the champion's.

    Without a champion, those since the first that any run began: what lies before it is the history that the first
    champion learns from, and no run's business.
    """
    champion = registry.champion()
    if champion is not None:
        return _days(trained_up_to(registry, champion.name) + ONE, day)
    return _days(min((place.day for place in begun(root)), default=day), day)


def _days(first: datetime.date, end: datetime.date) -> list[datetime.date]:
    """From `first` on, before `end`."""
    return [first + ONE * n for n in range((end - first).days)]


def trained_up_to(registry: Registry, name: str) -> datetime.date:
    """The last day that a model's lineage trained on, or left out."""
    days = [day for model in registry.lineage(name) for day in (*model.days, *model.skipped)]
    return datetime.date.fromisoformat(max(days))


def _named(
    days: Sequence[datetime.date],
    without: Collection[datetime.date] = (),
    within: Collection[datetime.date] | None = None,
) -> list[str]:
    return [str(day) for day in days if day not in without and (within is None or day in within)]
