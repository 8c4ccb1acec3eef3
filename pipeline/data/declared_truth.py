"""What the generated event log declares: tasks, rates, the size of every effect, a world's settings. numpy only."""

import enum
from dataclasses import dataclass

import numpy as np

TASKS = ("click", "cart", "fav", "order")
CLICK, CART, FAV, ORDER = range(4)
CART_LIFT = 1.5  # logits that a cart adds to an order

DEVICES = ("android", "ios", "web")
CITIES = (
    *("Amsterdam", "Athens", "Barcelona", "Berlin", "Brussels", "Budapest", "Copenhagen", "Dublin"),
    *("Hamburg", "Helsinki", "Krakow", "Lisbon", "London", "Madrid", "Milan", "Munich"),
    *("Oslo", "Paris", "Porto", "Prague", "Rome", "Stockholm", "Vienna", "Warsaw"),
)
POSITIONS = 20  # slots of the page, 0 is the top one
LATENT = 8
SEGMENTS = 6
SEGMENT_LOYALTY = 0.92  # share of a user's taste (as a standard deviation) that is its segment's; same for categories
CALIBRATION_ROWS = 65_536
DAY_MS = 86_400_000
# Share of the day's traffic in each hour (UTC), unnormalised: quiet at night, a lunch bump, an evening peak.
HOUR_TRAFFIC = (3, 2, 1.5, 1.2, 1.2, 1.5, 2.5, 4, 5, 5, 5, 5.5, 6.5, 6, 5, 5, 5, 5.5, 6.5, 8, 9, 8.5, 7, 5)


class Purpose(enum.IntEnum):
    """What a random stream is for; part of its seed, so no two purposes share numbers."""

    USERS = 0
    ITEMS = 1
    CONTEXT = 2
    DRIFT = 3
    PRICES = 4
    CALIBRATION = 5
    WARM_UP = 6
    ROWS = 7


@dataclass(frozen=True)
class TaskTruth:
    """One task's declared rate and the standard deviation that each term adds to its logit."""

    name: str
    rate: float
    """Mean probability in the task's own space: click over exposures, the others over clicked rows."""
    with_click: float | None
    """Correlation of its item and category terms with click's; None: minus the declared conflict."""
    user: float
    age: float
    city: float
    item: float
    category: float
    price: float
    affinity: float
    hour: float
    device: float
    position: float


TASK_TRUTHS = (
    TaskTruth("click", 0.25, 1.0, 0.20, 0.30, 0.20, 0.55, 0.50, -0.30, 0.60, 0.20, 0.30, 0.55),
    TaskTruth("cart", 0.20, 0.30, 0.15, 0.35, 0.20, 0.40, 0.50, -0.45, 0.40, 0.15, 0.30, 0.10),
    TaskTruth("fav", 0.15, 0.40, 0.20, -0.40, 0.20, 0.40, 0.50, 0.25, 0.40, 0.20, 0.25, 0.10),
    TaskTruth("order", 0.10, None, 0.15, 0.35, 0.25, 0.40, 0.50, -0.55, 0.40, 0.20, 0.30, 0.10),
)


@dataclass(frozen=True)
class TruthSpec:
    """The settings that fix a world; the same settings always give the same users, items and probabilities."""

    seed: int = 0
    users: int = 20_000
    items: int = 5_000
    categories: int = 40
    conflict: float = 0.6
    """Click and order disagree about items: their correlation is -conflict. 0 is no relation, 1 exact opposites."""
    drift: float = 0.08
    """Standard deviation, in logits, of one day's step of an item's appeal; half of it moves the tasks' levels."""

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("users", 2), ("items", 2), ("categories", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        if not 0.0 <= self.conflict <= 1.0:
            raise ValueError(f"conflict is {self.conflict}; it must lie in [0, 1]: 0 none, 1 exact opposites")
        if not (np.isfinite(self.drift) and self.drift >= 0.0):
            raise ValueError(f"drift is {self.drift}; it must be a finite number of logits, 0 or more")


def stream(seed: int, purpose: Purpose, *where: int) -> np.random.Generator:
    """The random stream of one purpose (and day, and chunk): the same whatever was drawn before it."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(int(purpose), *where)))
