"""The declared truth behind the generated event log: who sees what, and with which probability each label is 1.

Everything a model trained on the generated log tries to find out is written down here, so a report can say which part
of the best attainable AUC it reached. numpy only; nothing here touches a file.

Shapes: N rows, U users, I items, C categories, T = 4 tasks in the order of `TASKS`, K latent factors. All effects are
in logits. A row's logit of task t on day d is

    logit_t = base_t + walk_t(d)                                   the day's level, a random walk
            + user_t[u] + age_t * age(u) + city_t[city(u)]         who
            + item_t[i] + drift_t[i](d) + category_t[c(i)]         what, the item's appeal drifting by the day
            + price_t * logprice(i, d)                             what it costs today
            + affinity_t * <p_u, q_t,i> / sqrt(K)                  the match of taste and item
            + hour_t[hour] + device_t[device] - position_t * position   where and when

with `age`, `logprice` and the position curve standardised, so that every coefficient in `TASK_TRUTHS` reads as the
standard deviation its term adds to the logit. p_u is mostly the centre of the user's segment (which city and age
betray), q_t,i mostly the centre of the item's category: most of the match can be learnt from features and histories,
a small part only from the single user or item.

THE CONFLICT. Let z be N(0, 1) noise of each task's own. For the item effects, the category effects, the latent factors
of items and of categories, and the daily steps of the item drift,

    x_click = z_click,    x_t = r_t * x_click + sqrt(1 - r_t^2) * z_t,    r_order = -conflict,

so the correlation between click and order is -conflict: bait that is clicked is not bought. r_cart and r_fav are the
declared `with_click` of those tasks.

THE FUNNEL. click ~ Bernoulli(p_click) on every exposure; cart and fav are drawn on clicked rows alone; order is drawn
on clicked rows with logit_order + `CART_LIFT` where the row was carted. At scoring time the cart is not known, so the
best score for an order given a click is the mixture p_cart * sigmoid(l + lift) + (1 - p_cart) * sigmoid(l).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.declared_truth import (
    CALIBRATION_ROWS,
    CART,
    CART_LIFT,
    CITIES,
    CLICK,
    DAY_MS,
    DEVICES,
    FAV,
    HOUR_TRAFFIC,
    LATENT,
    ORDER,
    POSITIONS,
    SEGMENT_LOYALTY,
    SEGMENTS,
    TASK_TRUTHS,
    TASKS,
    Purpose,
    TruthSpec,
    stream,
)

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
I8 = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Exposures:
    """N rows shown to users, labels not yet drawn. `time_ms` counts from midnight UTC and never falls."""

    user: I64
    item: I64
    time_ms: I64
    hour: I64
    device: I64
    position: I64


@dataclass(frozen=True)
class Probabilities:
    """True probabilities of N rows, float32: click over exposures, the rest given a click."""

    click: F32
    cart: F32
    fav: F32
    order: F32
    """Given a click, mixed over cart: the best score that can be given before the cart is known."""
    order_uncarted: F32
    order_carted: F32


def sigmoid(logit: F32) -> F32:
    """1 / (1 + exp(-logit)), float32 kept."""
    return np.float32(1.0) / (np.float32(1.0) + np.exp(-logit))


class GroundTruth:
    """The world of one `TruthSpec`: attributes of users and items, their effects, and each day's probabilities.

    Read-only after construction. Public arrays: `user_segment_U`, `user_city_U`, `user_device_U`, `user_age_U`,
    `user_effect_UT`, `taste_UK`, `item_category_I`, `item_effect_IT`, `item_latent_ITK`, `category_effect_CT` and
    `base_T`.
    """

    def __init__(self, spec: TruthSpec) -> None:
        self.spec = spec
        self._make_users(stream(spec.seed, Purpose.USERS))
        self._make_items(stream(spec.seed, Purpose.ITEMS))
        self._make_context(stream(spec.seed, Purpose.CONTEXT))
        self._traffic = np.concatenate([[0.0], np.cumsum(HOUR_TRAFFIC) / np.sum(HOUR_TRAFFIC)])
        self._position_sampler = _Sampler(1.0 / (np.arange(POSITIONS) + 8.0))
        self.base_T = np.zeros(len(TASKS), np.float32)
        self.base_T = self._calibrated_bases()

    def _make_users(self, rng: np.random.Generator) -> None:
        users = self.spec.users
        # Zipf-Mandelbrot: a long tail, but no single user who is a percent of the log.
        self._user_sampler = _Sampler(rng.permutation((np.arange(users) + 50.0) ** -0.8))
        self.user_segment_U = segment_U = rng.integers(SEGMENTS, size=users)
        home = rng.permutation(len(CITIES)).reshape(SEGMENTS, -1)
        at_home = rng.random(users) < 0.75
        own_city_U = home[segment_U, rng.integers(home.shape[1], size=users)]
        self.user_city_U = np.where(at_home, own_city_U, rng.integers(len(CITIES), size=users))
        age_U = np.linspace(21.0, 61.0, SEGMENTS)[segment_U] + 5.0 * rng.standard_normal(users)
        self.user_age_U = np.clip(age_U, 16.0, 80.0).round(1).astype(np.float32)
        self.user_device_U = rng.choice(len(DEVICES), size=users, p=(0.5, 0.3, 0.2))
        centre = rng.standard_normal((SEGMENTS, LATENT))[segment_U]
        self.taste_UK = _blend(centre, rng.standard_normal((users, LATENT))).astype(np.float32)
        effect_UT = rng.standard_normal((users, len(TASKS)))
        city_effect_T = _standard(rng.standard_normal((len(CITIES), len(TASKS))))
        self.user_effect_UT = effect_UT * _declared("user")
        age_term_UT = ((self.user_age_U[:, None] - 41.0) / 14.5) * _declared("age")
        city_term_UT = city_effect_T[self.user_city_U] * _declared("city")
        self._user_table = (self.user_effect_UT + age_term_UT + city_term_UT).astype(np.float32)

    def _make_items(self, rng: np.random.Generator) -> None:
        items, categories, tasks = self.spec.items, self.spec.categories, len(TASKS)
        self._item_sampler = _Sampler(rng.permutation(1.0 / (np.arange(items) + 10.0)))
        self.item_category_I = rng.integers(categories, size=items)
        self._log_price_I = 0.5 * rng.standard_normal(categories)[self.item_category_I]
        self._log_price_I = 3.2 + self._log_price_I + 0.6 * rng.standard_normal(items)
        self.item_effect_IT = self._coupled(rng.standard_normal((items, tasks))) * _declared("item")
        category_CT = self._coupled(_standard(rng.standard_normal((categories, tasks))))
        self.category_effect_CT = category_CT * _declared("category")
        centre = self._coupled(rng.standard_normal((categories, tasks, LATENT)))[self.item_category_I]
        own = self._coupled(rng.standard_normal((items, tasks, LATENT)))
        scale = (_declared("affinity") / np.sqrt(LATENT))[:, None]
        self.item_latent_ITK = np.ascontiguousarray(_blend(centre, own) * scale, dtype=np.float32)

    def _make_context(self, rng: np.random.Generator) -> None:
        """One table over (hour, device, position): a row's whole context term is a single gather."""
        peak_T = rng.uniform(0.0, 24.0, len(TASKS))
        hour_HT = np.sqrt(2.0) * np.cos((np.arange(24)[:, None] - peak_T) * (2.0 * np.pi / 24.0)) * _declared("hour")
        spread = np.array([-1.0, 0.0, 1.0]) * np.sqrt(1.5)
        device_DT = np.stack([rng.permutation(spread) for _ in TASKS], axis=1) * _declared("device")
        depth_P = np.log1p(np.arange(POSITIONS))
        position_PT = -((depth_P - depth_P.mean()) / depth_P.std())[:, None] * _declared("position")
        table = hour_HT[:, None, None] + device_DT[None, :, None] + position_PT[None, None]
        self._context_table = table.reshape(-1, len(TASKS)).astype(np.float32)

    def _coupled(self, z: F64) -> F64:
        """Independent noise [any, T, ...] -> the same with the declared correlation of each task with click."""
        shape = (len(TASKS),) + (1,) * (z.ndim - 2)
        declared = [-self.spec.conflict if t.with_click is None else t.with_click for t in TASK_TRUTHS]
        r = np.array(declared).reshape(shape)
        return r * z[:, :1] + np.sqrt(1.0 - r * r) * z

    def item_drift(self, day: int) -> F64:
        """How far each item's appeal has walked by day `day` (0 the first): [I, T] logits, 0 on the first day."""
        walk = np.zeros((self.spec.items, len(TASKS)))
        for d in range(1, day + 1):
            walk += self._coupled(stream(self.spec.seed, Purpose.DRIFT, d).standard_normal(walk.shape))
        return walk * self.spec.drift

    def day(self, day: int) -> "DayTruth":
        """The truth of day `day` (0 the first): prices, drifted appeal, drifted levels."""
        # Level steps come from a substream of their own day: asking for day 9 alone gives what walking there gives.
        steps = [stream(self.spec.seed, Purpose.DRIFT, d, 1).standard_normal(len(TASKS)) for d in range(1, day + 1)]
        level_T = self.base_T + np.sum(steps, axis=0) * (0.5 * self.spec.drift) if steps else self.base_T
        rng = stream(self.spec.seed, Purpose.PRICES, day)
        on_sale_I = rng.random(self.spec.items) < 0.1
        log_price_I = self._log_price_I + on_sale_I * np.log(rng.uniform(0.6, 0.9, self.spec.items))
        price_term_IT = ((log_price_I - 3.2) / 0.78)[:, None] * _declared("price")
        item_IT = self.item_effect_IT + self.item_drift(day) + self.category_effect_CT[self.item_category_I]
        return DayTruth(
            truth=self,
            price_I=np.exp(log_price_I).astype(np.float32),
            item_table=(item_IT + price_term_IT).astype(np.float32),
            context_table=self._context_table + level_T.astype(np.float32),
            user_table=self._user_table,
        )

    def draw_exposures(self, rng: np.random.Generator, rows: int, since: float = 0.0, until: float = 1.0) -> Exposures:
        """`rows` exposures whose times fall in the [since, until) quantiles of the day's traffic, in time order."""
        quantile = since + (until - since) * np.sort(rng.random(rows))
        time_ms = np.interp(quantile, self._traffic, np.arange(25) * (DAY_MS / 24.0)).astype(np.int64)
        np.minimum(time_ms, DAY_MS - 1, out=time_ms)
        user = self._user_sampler.draw(rng, rows)
        item = self._item_sampler.draw(rng, rows)
        device = self.user_device_U[user]
        elsewhere = rng.random(rows, np.float32) < 0.15
        device = np.where(elsewhere, rng.integers(len(DEVICES), size=rows), device)
        position = self._position_sampler.draw(rng, rows)
        return Exposures(user, item, time_ms, time_ms // (DAY_MS // 24), device, position)

    def _calibrated_bases(self) -> F32:
        """Bases at which each task's mean probability on the first day is its declared rate, by bisection.

        Solved rather than declared, so that a sweep over `conflict` or a small world keeps the rates it is read at.
        """
        shown = self.draw_exposures(stream(self.spec.seed, Purpose.CALIBRATION), CALIBRATION_ROWS)
        logit_NT = self.day(0).logits(shown.user, shown.item, shown.hour, shown.device, shown.position)
        everywhere, nothing = np.ones(CALIBRATION_ROWS, np.float32), np.zeros(CALIBRATION_ROWS, np.float32)

        def solve(task: int, weight: F32, p_cart: F32) -> np.float32:
            lifted = logit_NT[:, task] + np.float32(CART_LIFT)

            def rate(base: np.float32) -> float:
                p = p_cart * sigmoid(lifted + base) + (1 - p_cart) * sigmoid(logit_NT[:, task] + base)
                return float(np.average(p, weights=weight))

            return _bisect(rate, TASK_TRUTHS[task].rate)

        click = solve(CLICK, everywhere, nothing)
        clicked = sigmoid(logit_NT[:, CLICK] + click)
        cart = solve(CART, clicked, nothing)
        order = solve(ORDER, clicked, sigmoid(logit_NT[:, CART] + cart))
        return np.array([click, cart, solve(FAV, clicked, nothing), order], dtype=np.float32)


@dataclass(frozen=True)
class DayTruth:
    """One day of the truth: today's prices, and the tables whose gathered sum is a row's logits."""

    truth: GroundTruth
    price_I: F32
    item_table: F32
    context_table: F32
    user_table: F32

    def logits(self, user: I64, item: I64, hour: I64, device: I64, position: I64) -> F32:
        """[N, T] logits of these rows; order's is the one without a cart."""
        context = (hour * len(DEVICES) + device) * POSITIONS + position
        taste_NK, latent_NTK = self.truth.taste_UK.take(user, axis=0), self.truth.item_latent_ITK.take(item, axis=0)
        logit_NT: F32 = np.einsum("nk,ntk->nt", taste_NK, latent_NTK)
        logit_NT += self.context_table.take(context, axis=0)
        logit_NT += self.user_table.take(user, axis=0)
        logit_NT += self.item_table.take(item, axis=0)
        return logit_NT

    def probabilities(self, user: I64, item: I64, hour: I64, device: I64, position: I64) -> Probabilities:
        """True probabilities of these rows. `device` is the index of the name in `DEVICES`."""
        logit_TN = np.ascontiguousarray(self.logits(user, item, hour, device, position).T)
        p_click, p_cart, p_fav, uncarted = sigmoid(logit_TN)
        carted = sigmoid(logit_TN[ORDER] + np.float32(CART_LIFT))
        return Probabilities(p_click, p_cart, p_fav, uncarted + p_cart * (carted - uncarted), uncarted, carted)


def draw_labels(rng: np.random.Generator, p: Probabilities) -> dict[str, I8]:
    """Labels of N rows, int8 in {0, 1}, funnel clean: no cart, fav or order without a click."""
    u_TN = rng.random((len(TASKS), len(p.click)), np.float32)
    click = u_TN[CLICK] < p.click
    cart = click & (u_TN[CART] < p.cart)
    fav = click & (u_TN[FAV] < p.fav)
    order = click & (u_TN[ORDER] < np.where(cart, p.order_carted, p.order_uncarted))
    return {name: drawn.view(np.int8) for name, drawn in zip(TASKS, (click, cart, fav, order), strict=True)}


def exact_auc(score: F32 | F64, label: I8) -> float | None:
    """Area under the ROC curve with ties at half (midranks); None where one class is missing.

    Counts, for each positive, the negatives below it and at most at it: two binary searches into the sorted negatives,
    both counts exact integers, so nothing is lost to rounding before the last division.
    """
    positive = label != 0
    high, low = np.sort(score[positive]), np.sort(score[~positive])
    if not len(high) or not len(low):
        return None
    below = int(np.searchsorted(low, high, side="left").sum())
    at_most = int(np.searchsorted(low, high, side="right").sum())
    return (below + at_most) / (2 * len(high) * len(low))


def _declared(field: str) -> F64:
    """[T] the declared coefficient `field` of every task."""
    return np.array([getattr(task, field) for task in TASK_TRUTHS], dtype=np.float64)


def _blend(centre: F64, own: F64) -> F64:
    """Unit-variance mixture of a group's centre and a member's own part."""
    return SEGMENT_LOYALTY * centre + np.sqrt(1.0 - SEGMENT_LOYALTY**2) * own


def _standard(x: F64) -> F64:
    """Columns at mean 0 and deviation 1: with a few dozen rows, luck would otherwise set a term's size."""
    return (x - x.mean(axis=0)) / x.std(axis=0)


class _Sampler:
    """Draws indices in proportion to `weight` by inverting the cumulative shares.

    A guide table gives the first index whose share can hold a draw, so most draws need no search: five times as fast
    as a binary search, and exact.
    """

    def __init__(self, weight: npt.NDArray[np.floating]) -> None:
        self._cdf = np.cumsum(weight) / weight.sum()
        self._cdf[-1] = 1.0  # above any draw of [0, 1)
        self._buckets = 4 * len(weight)
        self._guide = np.searchsorted(self._cdf, np.arange(self._buckets) / self._buckets, side="right")

    def draw(self, rng: np.random.Generator, rows: int) -> I64:
        """[rows] indices, independent."""
        u = rng.random(rows)
        found = self._guide[(u * self._buckets).astype(np.int64)]
        late = np.flatnonzero(self._cdf[found] <= u)
        while len(late):
            found[late] += 1
            late = late[self._cdf[found[late]] <= u[late]]
        return found


def _bisect(rate: Callable[[np.float32], float], target: float) -> np.float32:
    """The base at which the rising function `rate` meets `target`, to float32."""
    low, high = np.float32(-20.0), np.float32(20.0)
    for _ in range(30):
        middle = np.float32(0.5) * (low + high)
        low, high = (middle, high) if rate(middle) < target else (low, middle)
    return low
