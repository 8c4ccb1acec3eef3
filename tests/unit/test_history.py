"""Counts and target encodings of earlier days: equal to pandas, blind to the row's own day, the same when scored."""

import datetime
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.freeze import plan_from_bytes, plan_job
from pipeline.data.history import scoring_day
from pipeline.data.history_lookup import Found
from pipeline.data.loader import Loader
from pipeline.data.source import epoch_source
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.logs import set_key, small_config, write_log, write_parquet

ROWS = 150
WEEK = tuple(f"2026-01-0{n}" for n in range(1, 6))
MINUTES = {"watched": lambda rows: np.random.default_rng(5).normal(3, 2, rows)}
FEATURES: list[dict[str, Any]] = [
    {"name": "item_count", "kind": "count", "column": "item_id"},
    {"name": "item_plain", "kind": "count", "column": "item_id", "transform": "none", "per_day": True},
    {"name": "item_ctr", "kind": "target_encoding", "column": "item_id", "task": "click", "smoothing": 5},
    {"name": "city_order", "kind": "target_encoding", "column": "city", "task": "order", "days": 2},
    {"name": "list_ctr", "kind": "target_encoding", "column": "history", "task": "click", "transform": "logit",
     "default": 0.3},
    {"name": "list_count", "kind": "count", "column": "history"},
    {"name": "cross", "kind": "target_encoding", "columns": ["user_id", "city"], "task": "cart", "transform": "none",
     "default": 0.2},
    {"name": "item_watched", "kind": "target_encoding", "column": "item_id", "task": "watched", "smoothing": 3},
]  # fmt: skip


def looking_back(log: Path, features: list[dict[str, Any]] = FEATURES, **changes: Any) -> JobConfig:
    config = small_config(log, log.parent / "out", WEEK)
    config["features"] += features
    config["tasks"].append({"name": "watched", "kind": "regression", "given": "click", "clip": [0, 5]})
    for key, value in changes.items():
        set_key(config, key.replace("__", "."), value)
    return parse_job(config, "test")


def write(log: Path, days: tuple[str, ...] = WEEK, **columns: Any) -> None:
    write_log(log, days, ROWS, row_group_rows=64, **({"watched": MINUTES["watched"](ROWS)} | columns))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    write(tmp_path / "log")
    return tmp_path / "log"


def rewrite(log: Path, day: str, change: Any) -> None:
    path = log / f"dt={day}" / "part-00000.parquet"
    write_parquet(path, change(pq.read_table(path)), 64)


def flipped(table: pa.Table) -> pa.Table:
    """Every label turned round, the funnel kept."""
    click_N = 1 - table["click"].to_numpy()
    for name in ("click", "cart", "fav"):
        at = table.schema.get_field_index(name)
        values = click_N if name == "click" else click_N * (np.arange(len(click_N)) % 3 == 0)
        table = table.set_column(at, name, pa.array(values.astype(np.int8)))
    at = table.schema.get_field_index("order")
    table = table.set_column(at, "order", pa.array((click_N * (np.arange(len(click_N)) % 5 == 0)).astype(bool)))
    return table.set_column(table.schema.get_field_index("watched"), "watched", pa.array(np.arange(len(click_N)) / 50))


def encoded(job: JobConfig, split: str = "train") -> dict[str, np.ndarray]:
    """Each day's numbers [N, F], rows in the log's order, as they reach the dense input."""
    made = plan_from_bytes(plan_job(job, None).to_bytes(), job)
    manifest = made.training.manifest if split == "train" else made.evaluation
    assert manifest is not None
    source = epoch_source(job, manifest, 0, shuffle=True)
    batches = list(Loader(job, source).batches())
    ids = np.concatenate([b.row_ids_B.numpy() for b in batches])
    names = [f.name for f in job.dense]
    dense = np.concatenate([b.dense_BF.numpy() for b in batches])[np.argsort(ids)]
    dense = dense[:, [names.index(f.name) for f in job.history]]
    days = getattr(job.data, split).days()
    return {str(day): dense[n * ROWS : (n + 1) * ROWS] for n, day in enumerate(days)}


def frames(log: Path, days: tuple[str, ...]) -> pd.DataFrame:
    out = []
    for day in days:
        frame = pq.read_table(log / f"dt={day}" / "part-00000.parquet").to_pandas()
        out.append(frame.assign(day=day))
    return pd.concat(out, ignore_index=True)


def logit(p: Any) -> Any:
    return np.log(p / (1 - p))


def by_pandas(log: Path, day: str, days: tuple[str, ...] = WEEK) -> np.ndarray:
    """FEATURES of a day's rows, computed in another way: [N, F]."""
    every = frames(log, days)
    today, before = every[every.day == day], every[every.day < day]
    last_two = before[before.day >= str(datetime.date.fromisoformat(day) - datetime.timedelta(2))]
    out = []
    count = before.groupby("item_id").size().reindex(today.item_id, fill_value=0).to_numpy()
    out += [np.log1p(count), count / max(before.day.nunique(), 1)]

    def encoding(past: pd.DataFrame, now: Any, key: Any, label: str, m: float, default: float) -> tuple[Any, float]:
        prior = past[label].mean() if len(past) else default
        sums = past.groupby(key)[label].agg(["sum", "size"])
        found = sums.reindex(now).fillna(0)
        return ((found["sum"] + m * prior) / (found["size"] + m)).to_numpy(), prior

    x, prior = encoding(before, today.item_id, "item_id", "click", 5, 0.5)
    out.append(logit(x) - logit(prior))
    x, prior = encoding(last_two[last_two.click == 1], today.city, "city", "order", 20, 0.5)
    out.append(logit(x) - logit(prior))
    long = before.explode("history").dropna(subset=["history"])
    lists = today.history.reset_index(drop=True).explode().dropna()
    x, prior = encoding(long, lists, "history", "click", 20, 0.3)
    mean = pd.Series(x, index=lists.index).groupby(level=0).mean().reindex(range(len(today))).fillna(prior)
    out.append(logit(mean.to_numpy()))
    n = long.groupby("history").size().reindex(lists, fill_value=0).to_numpy()
    out.append(np.log1p(pd.Series(n, index=lists.index).groupby(level=0).mean().reindex(range(len(today))).fillna(0)))
    cart = before[before.click == 1]
    pairs = pd.MultiIndex.from_frame(today[["user_id", "city"]])
    out.append(encoding(cart, pairs, ["user_id", "city"], "cart", 20, 0.2)[0])
    clipped = before[before.click == 1].assign(watched=lambda f: f.watched.clip(0, 5).astype(np.float32))
    x, prior = encoding(clipped.astype({"watched": float}), today.item_id, "item_id", "watched", 3, 0.0)
    out.append(x - prior)
    return np.stack(out, axis=1)


def test_equals_pandas(log: Path) -> None:
    train, evaluation = encoded(looking_back(log)), encoded(looking_back(log), "eval")
    for day in WEEK:
        got = (train | evaluation)[day]
        np.testing.assert_allclose(got, by_pandas(log, day), rtol=2e-6, atol=2e-6, err_msg=day)
    assert (evaluation[WEEK[-1]].std(axis=0) > 0.01).all()


def test_the_first_day_knows_nothing(log: Path) -> None:
    first = encoded(looking_back(log))[WEEK[0]]
    assert (first == np.array([0, 0, 0, 0, np.float32(math.log(0.3 / 0.7)), 0, np.float32(0.2), 0])).all()


def test_days_before_training_give_the_first_one_a_history(log: Path) -> None:
    job = looking_back(log, data__train__from=WEEK[2], data__history={"from": WEEK[0]})
    got = encoded(job)
    for day in WEEK[2:4]:
        np.testing.assert_allclose(got[day], by_pandas(log, day), rtol=2e-6, atol=2e-6)


# ---- nothing of the row's own day, or of a later one


def sees_its_own_day(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """A leak on purpose: the statistics stand as of a later day."""
    before = Found.before
    monkeypatch.setattr(Found, "before", lambda self, task, day, window: before(self, task, day + days, window))


def changed_by(log: Path, day: str, changed: str) -> set[str]:
    """The features of `day` that move when the labels of the day `changed` are turned round."""
    split = "train" if day != WEEK[-1] else "eval"
    job = looking_back(log)
    was = encoded(job, split)[day]
    rewrite(log, changed, flipped)
    now = encoded(job, split)[day]
    return {f.name for n, f in enumerate(job.history) if was[:, n].tobytes() != now[:, n].tobytes()}


ENCODINGS = {"item_ctr", "city_order", "list_ctr", "cross", "item_watched"}


@pytest.mark.parametrize("day", [WEEK[0], WEEK[2], WEEK[4]])
def test_the_rows_own_day_changes_nothing(log: Path, day: str) -> None:
    assert changed_by(log, day, day) == set()


def test_a_later_day_changes_nothing(log: Path) -> None:
    assert changed_by(log, WEEK[1], WEEK[2]) == set()


def test_an_earlier_day_changes_every_encoding(log: Path) -> None:
    assert changed_by(log, WEEK[2], WEEK[1]) == ENCODINGS


@pytest.mark.parametrize("day", [WEEK[1], WEEK[2]])
def test_an_encoding_that_sees_its_own_day_is_found(log: Path, day: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sees_its_own_day(monkeypatch, 1)
    assert changed_by(log, day, day) == ENCODINGS


def test_a_window_ends_before_the_day(log: Path) -> None:
    features = [f | {"days": 1} for f in FEATURES]
    job = looking_back(log, features)
    was = encoded(job)[WEEK[3]]
    rewrite(log, WEEK[1], flipped)
    assert encoded(job)[WEEK[3]].tobytes() == was.tobytes()
    rewrite(log, WEEK[2], flipped)
    assert encoded(job)[WEEK[3]].tobytes() != was.tobytes()


# ---- scoring


def batch_of(log: Path, day: str, change: Any = lambda table: table) -> pa.RecordBatch:
    return change(pq.read_table(log / f"dt={day}" / "part-00000.parquet")).combine_chunks().to_batches()[0]


def test_a_scoring_day_is_encoded_as_in_training(log: Path) -> None:
    job = looking_back(log)
    want, day = encoded(job)[WEEK[3]], datetime.date.fromisoformat(WEEK[3])
    history = scoring_day(job, day)
    unlabelled = batch_of(log, WEEK[3], lambda t: t.drop_columns(["click", "cart", "fav", "order", "watched"]))
    for batch in (batch_of(log, WEEK[3]), batch_of(log, WEEK[3], flipped), unlabelled):
        got = np.stack(history.numbers(job.history, batch, day), axis=1).astype(np.float32)
        assert got.tobytes() == want.tobytes()


def test_a_scoring_day_need_not_be_in_the_log(log: Path, tmp_path: Path) -> None:
    job, day = looking_back(log), datetime.date.fromisoformat(WEEK[4])
    want, batch = encoded(job, "eval")[WEEK[4]], batch_of(log, WEEK[4])
    (log / f"dt={WEEK[4]}" / "part-00000.parquet").unlink()
    job = looking_back(log, data__history={"folder": str(tmp_path / "elsewhere")})
    got = np.stack(scoring_day(job, day).numbers(job.history, batch, day), axis=1).astype(np.float32)
    assert got.tobytes() == want.tobytes()
