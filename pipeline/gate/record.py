"""What the gate found: comparisons, floors, and the verdict over all of them. No torch.

A value that is not defined, or infinite, is None, and the note says why.
"""

import dataclasses
from typing import Any, Literal

from schemas.daily import ALL_ROWS

Word = Literal["better", "level", "worse", "unsure", "too_few"]
ALL = ALL_ROWS
"""The slice of all held-out rows."""
OWN, JOINT = "own", "joint"
AUC, LOG_LOSS, CALIBRATION, MSE = "auc", "log_loss", "calibration", "mse"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One task in one space on one slice by one metric. A delta above 0 means that the challenger is worse."""

    task: str
    space: str
    """own: the task's conditional space, or joint: the chain's joint probability over all exposures."""
    slice: str
    metric: str
    rows: int
    positives: int | None
    """None for a regression task."""
    champion: float | None
    challenger: float | None
    delta: float | None
    """auc: fall. log_loss, mse: rise as a fraction of the champion's. calibration: rise of |ln|."""
    tolerance: float
    """In the delta's own unit."""
    error: float | None = None
    """Standard error of delta, by the bootstrap."""
    low: float | None = None
    """delta - critical value x error."""
    high: float | None = None
    """delta + critical value x error."""
    detectable: float | None = None
    """The least true delta that is refused with a chance of 80 %."""
    verdict: Word = "too_few"
    note: str = ""

    @property
    def judges(self) -> bool:
        """Whether the verdict rests on it."""
        return self.verdict != "too_few"


@dataclasses.dataclass(frozen=True)
class Floor:
    """The least AUC that a task's own probability must have on all held-out rows."""

    task: str
    floor: float
    auc: float | None
    """None with one class alone, or with predictions that are NaN."""
    positives: int

    @property
    def met(self) -> bool:
        """Whether it stands."""
        return self.auc is not None and self.auc >= self.floor


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether the challenger may become champion, and what that rests on."""

    blessed: bool
    reasons: list[str]
    """A sentence a block; empty where it is blessed."""
    comparisons: list[Comparison]
    floors: list[Floor]
    notes: list[str]
    """What did not judge, and what was let pass."""
    critical: float | None
    """How many standard errors a delta must be above 0 before noise is ruled out; None where nothing was compared."""
    confidence: float
    resamples: int
    unsure: bool = False
    """Whether a loss that may be noise blocks as well."""

    def to_json(self) -> dict[str, Any]:
        """As a tree for a JSON file."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @staticmethod
    def from_json(tree: dict[str, Any]) -> "Verdict":
        """The verdict that `to_json` gave; keys beside it are passed over."""
        fields = {field.name: tree[field.name] for field in dataclasses.fields(Verdict)}
        fields["comparisons"] = [Comparison(**each) for each in tree["comparisons"]]
        fields["floors"] = [Floor(**each) for each in tree["floors"]]
        return Verdict(**fields)
