"""One attempt at one day: everything its steps share, and how a day may end other than well."""

import dataclasses
import datetime
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.daily.documents import vocabularies_of, with_vocabularies
from pipeline.daily.ledger import Ledger
from pipeline.daily.nodes import Leader
from pipeline.daily.place import Place
from pipeline.daily.process import Runner
from pipeline.daily.span import Span, began_from_another
from pipeline.registry import Model, Registry
from schemas.daily import DailyConfig
from schemas.errors import InputError
from schemas.events import DayRange
from schemas.job import JobConfig

if TYPE_CHECKING:  # it brings torch along
    from pipeline.daily.alerts import Alerts, Kind

PROMOTED, REFUSED, INVALID, LATE, STOPPED = 0, 3, 4, 5, 75
"""Exit codes."""
Facts = dict[str, Any]


class DayEndedError(Exception):
    """The day ends here for now: its step was not committed, and a later run tries it again."""

    def __init__(self, code: int, kind: "Kind", text: str, facts: Facts | None = None) -> None:
        super().__init__(text)
        self.code, self.kind, self.text, self.facts = code, kind, text, facts or {}


@dataclasses.dataclass
class Work:
    """What the steps of one day share."""

    job: JobConfig
    place: Place
    ledger: Ledger
    registry: Registry
    runner: Runner
    alerts: "Alerts"
    accepted: set[str]
    """Rules of the checks that a person accepts for this day."""
    say: Callable[[str], None]
    leader: Leader | None = None
    """Of several nodes."""
    done: dict[str, Facts] = dataclasses.field(default_factory=dict)
    """Facts of the steps committed so far."""

    @property
    def day(self) -> datetime.date:
        """The day."""
        return self.place.day

    @property
    def daily(self) -> DailyConfig:
        """Its settings."""
        assert self.job.daily is not None
        return self.job.daily

    @property
    def span(self) -> Span:
        """What the first step settled."""
        return Span.of_facts(self.done["wait"]["span"])

    @property
    def own_day(self) -> DayRange:
        """The day as a range."""
        return DayRange(**{"from": self.day, "to": self.day})

    def champion(self) -> Model | None:
        """The champion that the day began with. Raises InputError where another has come since."""
        span = self.span
        promotions = self.registry.promotions()
        if began_from_another(span, self.place.key, promotions):
            now = promotions[-1].model if promotions else "none"
            raise InputError(
                f"{self.day}: was begun from champion {span.champion or 'none'}, and {now} is champion now; begin the "
                "day anew with --again"
            )
        return None if span.champion is None else self.registry.model(span.champion)

    def line(self) -> dict[str, Model]:
        """That champion, its parent, and so on to the first, by name."""
        name = self.span.champion
        return {} if name is None else {model.name: model for model in self.registry.lineage(name)}

    def grown_job(self) -> JobConfig:
        """The job with the vocabularies of this day's challenger."""
        paths = {table: told["path"] for table, told in self.done.get("vocabulary", {}).get("tables", {}).items()}
        return with_vocabularies(self.job, paths)

    def current_job(self) -> JobConfig:
        """The job with the vocabularies of the champion, where they grow from day to day."""
        champion = self.champion()
        if champion is None or self.daily.vocabulary is None:
            return self.job
        return with_vocabularies(self.job, vocabularies_of(champion.config))
