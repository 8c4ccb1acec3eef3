"""Poisoned days are stopped by the right rule in the right words; clean days pass; what was accepted passes."""

import dataclasses
import datetime
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from pipeline.daily import differences
from pipeline.daily.checks import Finding, check_champion, check_day, passed
from pipeline.daily.columns import ColumnDay, Edges, Sums, ValueWatch
from pipeline.daily.data_steps import refuse
from pipeline.daily.event_times import TimeDay
from pipeline.daily.statistics import DayStatistics, day_statistics, edges_of
from pipeline.daily.work import DayEndedError, Work
from pipeline.data.declared_truth import TruthSpec
from pipeline.data.files import plan
from pipeline.data.generated_log import LogSpec, generate_log, truth_probabilities
from pipeline.data.ground_truth import GroundTruth
from schemas.daily import ChecksConfig
from schemas.errors import InputError
from schemas.events import DayRange
from schemas.job import JobConfig
from schemas.load import load_job
from tests.logs import write_parquet
from tests.poisons import POISONS, Poison

ROOT = Path(__file__).parents[2]
DAYS, ROWS, ITEMS = 8, 12_000, 5000
CHECKS = ChecksConfig()
FIRST = datetime.date(2026, 1, 1)
POISONED = FIRST + datetime.timedelta(DAYS - 1)


def world(seed: int, drift: float) -> TruthSpec:
    return TruthSpec(seed=seed, drift=drift, items=ITEMS)


def generated(root: Path, seed: int, drift: float, days: int = DAYS) -> JobConfig:
    """The job of the generated log, its strings and numbers allowed to be missing."""
    generate_log(str(root), LogSpec(world=world(seed, drift), days=days, rows_per_day=ROWS))
    job = load_job(ROOT / "jobs/configs/generated.yaml", [f"data.path={root}"])
    missing = {"city": "unknown", "age": 40.0}
    features = [f.model_copy(update={"missing": missing[f.name]}) if f.name in missing else f for f in job.features]
    return job.model_copy(update={"features": features})


def statistics(job: JobConfig, day: datetime.date, recent: list[DayStatistics]) -> DayStatistics:
    manifest = plan(job, DayRange.model_validate({"from": day, "to": day}))
    return day_statistics(job, day, manifest, lambda text: None, edges_of(recent))


def statistics_of_days(job: JobConfig, days: int) -> list[DayStatistics]:
    out: list[DayStatistics] = []
    for n in range(days):
        out.append(statistics(job, FIRST + datetime.timedelta(n), out))
    return out


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> JobConfig:
    return generated(tmp_path_factory.mktemp("checks") / "log", 0, 0.08)


@pytest.fixture(scope="module")
def recent(job: JobConfig) -> list[DayStatistics]:
    return statistics_of_days(job, DAYS - 1)


@pytest.fixture(scope="module")
def clean(job: JobConfig) -> pa.Table:
    return pq.read_table(Path(job.data.path) / f"dt={POISONED}", partitioning=None)


def poisoned(job: JobConfig, recent: list[DayStatistics], folder: Path, table: pa.Table) -> list[Finding]:
    """What is found where the last day holds this table instead."""
    day = folder / f"dt={POISONED}"
    day.mkdir(parents=True)
    write_parquet(day / "part-00000.parquet", table, 5000)
    (day / "_SUCCESS").touch()
    elsewhere = job.model_copy(update={"data": job.data.model_copy(update={"path": str(folder)})})
    return check_day(job, CHECKS, statistics(elsewhere, POISONED, recent), recent, set())


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS)
def test_a_poisoned_day_is_stopped_by_the_right_rule(
    poison: Poison, job: JobConfig, recent: list[DayStatistics], clean: pa.Table, tmp_path: Path
) -> None:
    found = poisoned(job, recent, tmp_path, poison.spoil(clean))
    assert {f.word for f in found} == poison.words
    for finding in found:
        assert f"--accept {finding.word}" in finding.words
        assert "daily.checks." in finding.words
        assert str(POISONED) in finding.words


def test_half_of_the_volume_gone(job: JobConfig, recent: list[DayStatistics], clean: pa.Table, tmp_path: Path) -> None:
    (found,) = poisoned(job, recent, tmp_path, POISONS["half of the volume gone"].spoil(clean))
    assert (found.rule, found.here, found.usual, found.limit) == ("volume", ROWS / 2, ROWS, 1.6)
    assert found.words == (
        "rows: 6,000 on 2026-01-08, a median of 12,000 on the 7 recent days; a factor of 2.00, above "
        "daily.checks.rows_times = 1.6; see whether the day is whole, and written once; if it is right, --accept volume"
    )


def test_a_future_timestamp_is_named_with_its_place(
    job: JobConfig, recent: list[DayStatistics], clean: pa.Table, tmp_path: Path
) -> None:
    table = POISONS["a timestamp of the future"].spoil(clean)
    (found,) = poisoned(job, recent, tmp_path, table)
    place = "dt=2026-01-08/part-00000.parquet, row group 1, row 77: 2031-03-04 05:06:00"
    assert place in found.words
    assert found.words.startswith("event_time: 1 row lies outside of 2026-01-08")
    assert found.usual is None
    # and from the first day on, without any other to compare with
    (again,) = poisoned(job, [], tmp_path / "first", table)
    assert again.rule == "event_time"


def odd(job: JobConfig, days: list[DayStatistics]) -> list[str]:
    """Findings of each day against those before it, as they would be found day by day."""
    return [f.words for n, day in enumerate(days) for f in check_day(job, CHECKS, day, days[:n], set())]


def test_clean_days_pass(job: JobConfig, recent: list[DayStatistics]) -> None:
    today = statistics(job, POISONED, recent)
    assert odd(job, [*recent, today]) == []


@pytest.mark.parametrize(
    ("seed", "drift"),
    [(1, 0.0), *(pytest.param(s, d, marks=pytest.mark.long) for s in range(20) for d in (0.0, 0.08))],
)
def test_clean_days_of_any_seed_pass(seed: int, drift: float, tmp_path: Path) -> None:
    job = generated(tmp_path, seed, drift)
    assert odd(job, statistics_of_days(job, DAYS)) == []


# days of given numbers


def plain(day: str, rows: int = 1000, **changes: Any) -> DayStatistics:
    return dataclasses.replace(
        DayStatistics(day, "f", rows, 0, {"click": Sums.share(rows, rows // 4)}, {}, [], {}, TimeDay([], rows, 0)),
        **changes,
    )


def dates(count: int, first: str = "2026-01-05") -> list[str]:  # a Monday
    begin = datetime.date.fromisoformat(first)
    return [str(begin + datetime.timedelta(n)) for n in range(count)]


def words(job: JobConfig, today: DayStatistics, recent: list[DayStatistics], checks: ChecksConfig = CHECKS) -> set[str]:
    return {f.word for f in check_day(job, checks, today, recent, set())}


def test_a_day_is_compared_once_enough_have_passed_and_with_the_latest(job: JobConfig) -> None:
    days = dates(20)
    odd = plain("2026-02-01", 300)
    assert words(job, odd, [plain(day) for day in days[:2]]) == set()
    assert words(job, odd, [plain(day) for day in days[:3]]) == {"volume"}
    early = [plain(day) for day in days[:13]] + [plain(day, 310) for day in days[13:]]
    assert words(job, odd, early) == set()
    assert words(job, odd, list(reversed(early))) == set()  # in whatever order they come
    assert words(job, odd, early, ChecksConfig(recent_days=20)) == {"volume"}


def test_a_weekend_is_known_by_a_window_of_seven_days(job: JobConfig) -> None:
    week = [plain(day, 1000) for day in dates(5)] + [plain(day, 2000) for day in dates(2, "2026-01-10")]
    assert words(job, plain("2026-01-17", 2100), week) == set()  # a Saturday
    assert words(job, plain("2026-01-16", 2100), week[-1:] + week[:-1]) == {"volume"}  # a Friday
    assert words(job, plain("2026-01-17", 4000), week) == {"volume"}


def test_a_new_normal_is_accepted_once_and_an_odd_day_does_not_become_one_for_others(job: JobConfig) -> None:
    usual = [plain(day) for day in dates(7)]
    today = plain("2026-01-12", 3000)
    (finding,) = check_day(job, CHECKS, today, usual, {"volume"})
    assert (finding.accepted, finding.word) == (True, "volume")
    accepted = passed(today, [finding])
    assert accepted.accepted == ["volume"]
    recent = [*usual[1:], accepted]
    assert words(job, plain("2026-01-13", 3100), recent) == set()  # goes on from there
    assert words(job, plain("2026-01-13", 1000), recent) == set()  # or back
    assert words(job, plain("2026-01-13", 300), recent) == {"volume"}
    assert words(job, plain("2026-01-13", 3100), [*usual[1:], today]) == {"volume"}  # had nobody accepted it


def test_words_accept_a_rule_or_one_column_of_it_and_a_misspelt_one_is_refused(job: JobConfig) -> None:
    usual = [plain(day) for day in dates(3)]
    today = plain("2026-01-12", 3000, tasks={"click": Sums.share(3000, 2900)})
    for accept, expected in (
        ({"label_rate"}, {"label_rate:click": True, "volume": False}),
        ({"label_rate:click", "volume"}, {"label_rate:click": True, "volume": True}),
        ({"label_rate:order"}, {"label_rate:click": False, "volume": False}),
    ):
        assert {f.word: f.accepted for f in check_day(job, CHECKS, today, usual, accept)} == expected
    with pytest.raises(InputError, match="--accept: 'volum' names no rule; did you mean 'volume'"):
        check_day(job, CHECKS, today, usual, {"volum"})


def test_a_change_must_be_large_and_beyond_the_noise_of_rows_and_days(job: JobConfig) -> None:
    def rate(share: float, rows: int, day: str) -> DayStatistics:
        return plain(day, tasks={"click": Sums(rows, share, math.sqrt(share * (1 - share)))})

    today = "2026-02-01"
    for rows, here, expected in ((1_000_000, 0.14, set()), (1_000_000, 0.16, {"label_rate:click"}), (200, 0.16, set())):
        assert words(job, rate(here, rows, today), [rate(0.1, rows, day) for day in dates(7)]) == expected
    scattered = [rate(0.1 + 0.03 * (-1) ** n, 1_000_000, day) for n, day in enumerate(dates(7))]
    assert words(job, rate(0.16, 1_000_000, today), scattered) == set()
    assert words(job, rate(0.40, 1_000_000, today), scattered) == {"label_rate:click"}
    one_odd = [rate(0.1, 1_000_000, day) for day in dates(6)] + [rate(0.4, 1_000_000, "2026-01-11")]
    assert words(job, rate(0.3, 1_000_000, today), one_odd[:6]) == {"label_rate:click"}
    assert words(job, rate(0.6, 1_000_000, "2026-02-02"), one_odd) == {"label_rate:click"}  # it hides nothing


def test_the_standard_error_is_that_of_two_samples_and_of_the_days_between() -> None:
    days = [Sums(1000, mean, 2.0) for mean in (10.0, 10.1, 10.2, 9.9, 10.0)]
    found = differences.in_deviations(Sums(500, 12.0, 2.0), days)
    every = np.sqrt((5000 * (4.0 + np.var([10.0, 10.1, 10.2, 9.9, 10.0])) + 0) / 5000)
    whole = np.concatenate([np.repeat([10.0, 10.1, 10.2, 9.9, 10.0], 1000), np.repeat(12.0, 500)])
    within = math.sqrt(4.0 + whole.var()) * math.sqrt(1 / 5000 + 1 / 500)
    between = 1.4826 * 0.1
    assert found.size == pytest.approx((12 - 10.04) / every)
    assert found.z == pytest.approx((12 - 10.04) / math.hypot(within, between))


def test_a_regression_label_near_zero_is_held_to_its_deviation() -> None:
    days = [Sums(10_000, 0.01, 1.0)] * 3
    assert differences.scaled(Sums(10_000, 0.05, 1.0), days).size == pytest.approx(0.04)
    assert differences.scaled(Sums(10_000, 300.0, 1.0), [Sums(10_000, 100.0, 5.0)] * 3).size == pytest.approx(2.0)


def test_a_column_is_compared_with_the_days_that_have_it_counted_alike(job: JobConfig) -> None:
    def day(date: str, counts: list[int]) -> DayStatistics:
        return plain(date, columns=[ColumnDay("city", "string", "city", Sums.share(100, 0), count_R=np.array(counts))])

    def number(date: str, centre: float) -> DayStatistics:
        counts, edges = np.array([50, 50] if centre else [0, 100]), Edges(centre, [7])
        return plain(date, columns=[ColumnDay("age", "number", "age", Sums.share(100, 0), count_R=counts, edges=edges)])

    other = [number(date, 3.0) for date in dates(3)]
    assert words(job, number("2026-02-01", 0.0), other) == set()  # between other edges
    assert (
        words(job, number("2026-02-01", 0.0), [number(d.day, 3.0) for d in other[:2]] + [number("2026-01-09", 0.0)])
        == set()
    )
    without = [plain(date) for date in dates(3)]
    two = [day(date, [50, 50]) for date in dates(2, "2026-01-08")]
    assert words(job, day("2026-02-01", [0, 100]), [*without, *two]) == set()  # two of five: too few
    assert words(job, day("2026-02-01", [0, 100]), [*without, *two, day("2026-01-10", [50, 50])]) == {"distance:city"}


def test_a_column_that_is_another_every_day_is_held_to_its_own_distances(job: JobConfig) -> None:
    random = np.random.default_rng(0)

    def day(date: str, counts: np.ndarray) -> DayStatistics:
        return plain(date, columns=[ColumnDay("video", "id", "video", Sums.share(1000, 0), count_R=counts)])

    def drawn() -> np.ndarray:
        return random.multinomial(10_000, random.dirichlet(np.full(64, 0.3)))

    recent = [day(date, drawn()) for date in dates(7)]
    today = drawn()
    mean_R = np.mean([d.columns[0].count_R / 10_000 for d in recent], axis=0)
    assert np.abs(today / 10_000 - mean_R).sum() / 2 > 0.4  # far above the limit, as every day is
    assert words(job, day("2026-02-01", today), recent) == set()
    assert words(job, day("2026-02-01", np.append(np.zeros(63, np.int64), 10_000)), recent) == {"distance:video"}


def test_a_share_from_nothing_and_a_constant_that_changed_are_told_without_infinities(job: JobConfig) -> None:
    def day(date: str, rate: float, mean: float) -> DayStatistics:
        column = ColumnDay("age", "number", "age", Sums.share(1000, 0), Sums(1000, mean, 0.0))
        return plain(date, tasks={"click": Sums.share(1000, round(rate * 1000))}, columns=[column])

    recent = [day(date, 0.0, 3.0) for date in dates(4)]
    found = check_day(job, CHECKS, day("2026-02-01", 0.2, 4.0), [*recent, day("2026-02-01", 0.2, 4.0)], set())
    assert [f.word for f in found] == ["label_rate:click", "mean:age"]  # and the day is not compared with itself
    assert "a change from 0, above" in found[0].words
    assert "a change of what was constant, above" in found[1].words


def test_a_column_of_two_kinds_is_missing_once_and_an_indicator_gone_is_found(job: JobConfig) -> None:
    def day(date: str, missing: int, shown: int) -> DayStatistics:
        columns = [ColumnDay("hour", kind, "hour", Sums.share(1000, missing)) for kind in ("id", "number")]
        return plain(date, columns=columns, indicators={"click": Sums.share(1000, shown)})

    click = job.tasks[0].model_copy(update={"indicator": "shown"})
    shown = job.model_copy(update={"tasks": [click, *job.tasks[1:]]})
    found = check_day(shown, CHECKS, day("2026-02-01", 400, 0), [day(date, 0, 500) for date in dates(4)], set())
    assert [f.word for f in found] == ["label_rate:shown", "missing:hour"]


# the champion


def result(auc: float | None, error: float = 0.002) -> dict[str, Any]:
    own = {"auc": auc, "auc_low": auc and auc - 1.96 * error, "auc_high": auc and auc + 1.96 * error}
    return {"click": {"kind": "binary", "own": own}}


def test_a_fall_of_the_champions_auc_is_found_beyond_limit_and_noise(job: JobConfig) -> None:
    recent = [result(0.74), result(0.75), result(0.76)]
    (found,) = check_champion(job, CHECKS, result(0.69), recent)
    assert (found.word, found.here, found.usual) == ("auc_drop:click", 0.69, pytest.approx(0.75))
    assert found.words.startswith("AUC of the champion on click: 0.6900 on the new day, 0.7500 on the 3 recent days;")
    assert check_champion(job, CHECKS, result(0.71), recent) == []
    assert check_champion(job, CHECKS, result(0.82), recent) == []
    assert check_champion(job, CHECKS, result(0.69, error=0.02), recent) == []
    assert check_champion(job, CHECKS, result(None), recent) == []
    assert check_champion(job, CHECKS, result(0.69), [*recent[:2], result(None)]) == []
    assert check_champion(job, CHECKS, result(0.69), recent, {"auc_drop:click"})[0].accepted


@pytest.mark.parametrize("name", ["positions counted from the bottom", "item ids exchanged among themselves"])
def test_the_champion_shows_what_its_columns_no_longer_mean(name: str, job: JobConfig, clean: pa.Table) -> None:
    """The truth stands for the champion."""
    truth = GroundTruth(world(0, 0.08))

    def scored(table: pa.Table) -> dict[str, Any]:
        auc = roc_auc_score(table["click"].to_numpy(), truth_probabilities(truth, DAYS - 1, table).click)
        return result(float(auc))

    spoilt, usual = scored(POISONS[name].spoil(clean)), scored(clean)
    assert [f.word for f in check_champion(job, CHECKS, spoilt, [usual] * 3)] == ["auc_drop:click"]
    assert check_champion(job, CHECKS, usual, [usual] * 3) == []


def test_values_of_equal_share_exchanged_are_seen_by_label_and_champion_and_by_no_distribution(job: JobConfig) -> None:
    rate_V = np.linspace(0.1, 0.9, 10)

    def day(seed: int, given: np.ndarray) -> tuple[DayStatistics, dict[str, Any]]:
        random = np.random.default_rng(seed)
        value_N = random.integers(0, 10, 20_000)
        one_N = random.random(20_000) < rate_V[value_N]
        watch = ValueWatch("code", "id", "code")
        watch.add(pa.array(given[value_N]), pa.array(one_N))
        auc = roc_auc_score(one_N, rate_V[given[value_N]])  # a champion that knows each code's rate
        day = str(FIRST + datetime.timedelta(seed))
        return plain(day, 20_000, tasks={"click": Sums.share(20_000, int(one_N.sum()))}, columns=[watch.day()]), result(
            auc
        )

    usual = [day(seed, np.arange(10)) for seed in range(3)]
    today, champion = day(3, np.random.default_rng(0).permutation(10))
    assert words(job, today, [statistics for statistics, _ in usual]) == {"meaning:code"}
    found = check_champion(job, CHECKS, champion, [tasks for _, tasks in usual])
    assert [f.word for f in found] == ["auc_drop:click"]


def test_what_stands_may_be_accepted_at_once() -> None:
    work = SimpleNamespace(say=lambda _: None)
    found = [Finding(rule, subject, 1.0, None, 0.5, "odd") for rule, subject in (("volume", ""), ("meaning", "age"))]
    with pytest.raises(
        DayEndedError, match=r"  volume: odd\n  meaning:age: odd\n  all at once: --accept meaning volume$"
    ):
        refuse(cast(Work, work), found)
    with pytest.raises(DayEndedError, match=r"  volume: odd$"):
        refuse(cast(Work, work), [found[0], dataclasses.replace(found[1], accepted=True)])
