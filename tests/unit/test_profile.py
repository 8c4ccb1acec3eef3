"""A log's profile against pandas and the training encoder; the job as a person runs it."""

import itertools
import json
import math
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import profile as command
from pipeline.data.checks import Where
from pipeline.data.encode import Encoder
from pipeline.data.files import plan
from pipeline.data.flags import Flags
from pipeline.profile import numbers
from pipeline.profile.drift import Rules
from pipeline.profile.lines import SHARES, Profile
from pipeline.profile.result import result
from pipeline.profile.scan import Scan
from pipeline.profile.tables import sections, text, warnings
from schemas.errors import InputError
from schemas.job import JobConfig
from schemas.load import parse_job
from tests.logs import DAYS, put, set_key, small_config, small_job, write_config, write_log

ROOT = Path(__file__).parents[2]
ROWS = 1500
MEMORY = 1 << 30
TASKS = ("click", "cart", "fav", "order")


def profile(job: JobConfig, memory: int = MEMORY, unused: bool = False, rules: Rules | None = None) -> Profile:
    """Of the days DAYS."""
    days = job.data.train.model_copy(update={"last": job.data.eval.last}) if job.data.eval else job.data.train
    manifest = plan(job, days)
    scan = Scan(job, memory)
    scan.run(manifest, lambda progress: None, unused)
    return result(scan, job, days, manifest, rules or Rules())


def frame(log: Path) -> pd.DataFrame:
    """All rows in the log's order, with their day; labels as numbers."""
    parts = []
    for path in sorted(log.glob("dt=*/*.parquet")):
        part = pq.read_table(path).to_pandas()
        part["day"] = path.parent.name[3:]
        parts.append(part)
    whole = pd.concat(parts, ignore_index=True)
    return whole.astype({task: float for task in TASKS if task in whole})


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("profile") / "log"
    write_log(path, DAYS, ROWS, row_group_rows=[400, 0, 77], files_per_day=2)
    return path


@pytest.fixture(scope="module")
def found(log: Path) -> Profile:
    return profile(small_job(log))


# rates, correlations, funnel


def test_rates_correlations_and_conditional_rates_are_those_of_pandas(log: Path, found: Profile) -> None:
    df = frame(log)
    assert found.rows == len(df) == ROWS * len(DAYS)
    np.testing.assert_allclose(found.correlation, df[list(TASKS)].corr().to_numpy(), rtol=1e-12)
    for a, b in itertools.product(range(4), range(4)):
        assert found.conditional[a][b] == pytest.approx(df[df[TASKS[a]] == 1][TASKS[b]].mean(), rel=1e-12)
    clicked = df[df.click == 1]
    for line in found.tasks:
        own = df if line.given is None else clicked
        assert (line.positives, line.own_positives) == (df[line.name].sum(), own[line.name].sum())
        assert (line.rows, line.own_rows) == (len(df), len(own))
        assert line.rate == pytest.approx(df[line.name].mean(), rel=1e-12)
        assert line.own_rate == pytest.approx(own[line.name].mean(), rel=1e-12)
    for line in found.days:
        day = df[df.day == line.day]
        assert line.rows == len(day)
        for task in TASKS:
            own = day if task == "click" else day[day.click == 1]
            assert line.rate[task] == pytest.approx(day[task].mean(), rel=1e-12)
            assert line.own_rate[task] == pytest.approx(own[task].mean(), rel=1e-12)


def test_ids_are_counted_exactly(log: Path, found: Profile) -> None:
    df = frame(log)
    lines = {line.name: line for line in found.values}
    for name, column in (("user", "user_id"), ("item", "item_id"), ("session", "session"), ("city", "city")):
        counts = df[column].value_counts()
        line = lines[name]
        assert (line.distinct, line.exact, line.lookups) == (len(counts), True, len(df))
        assert line.top == pytest.approx(counts.head(10).sum() / len(df))
        assert line.once == pytest.approx((counts == 1).mean())
    assert lines["session"].shared_values == 1.0, "4,500 sessions on 30 rows"
    history = df.history.explode().dropna()
    assert (lines["history"].distinct, lines["history"].lookups) == (history.nunique(), len(history))


def test_numbers_and_lists_are_those_of_numpy(log: Path, found: Profile) -> None:
    df = frame(log)
    lines = {line.name: line for line in found.numbers}
    for name in ("price", "age"):
        line, x = lines[name], df[name].astype(float)
        assert (line.rows, line.low, line.high) == (len(df), x.min(), x.max())
        assert (line.mean, line.deviation) == (pytest.approx(x.mean()), pytest.approx(x.std(ddof=0)))
        exact = np.quantile(x, SHARES, method="lower")
        centre = float(np.median(x))
        np.testing.assert_allclose(line.quantiles, exact, atol=0.005 * np.abs(exact - centre).max())
    assert lines["age"].quantiles == np.quantile(df.age, SHARES, method="lower").tolist(), "whole numbers are exact"
    assert len(lines["price"].boundaries) == 7
    np.testing.assert_allclose(
        np.diff([0, *(np.mean(df.price < b) for b in lines["price"].boundaries), 1]), 1 / 8, atol=0.01
    )
    (history, recent) = found.lists
    length = df.history.map(len)
    assert (history.empty, history.longest, history.mean) == ((length == 0).sum(), length.max(), length.mean())
    assert history.quantiles == np.quantile(length, SHARES, method="lower").tolist()
    assert recent.column == "recent"


def test_the_files_and_row_groups_do_not_matter(log: Path, found: Profile, tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS, ROWS)
    whole = profile(small_job(tmp_path / "log"))
    for name in ("rows", "tasks", "days", "correlation", "conditional", "values", "missing", "lists"):
        assert getattr(whole, name) == getattr(found, name), name


def test_an_ordinary_log_names_nothing(found: Profile) -> None:
    assert warnings(found) == []
    assert "nothing that asks for a look" in text(sections(found))


def test_broken_funnels_are_counted_and_the_first_is_named(log: Path, tmp_path: Path) -> None:
    df = frame(log)
    day = df[df.day == DAYS[0]]
    rows = day.index[day.click == 0][[5, 9]].tolist()

    def broken(column: pa.Array) -> pa.Array:
        for row in rows:
            column = put(column, row, 1)
        return column

    write_log(tmp_path / "log", DAYS[:1], ROWS, row_group_rows=100, cart=broken)
    whole = profile(small_job(tmp_path / "log", days=DAYS[:1]))
    counted = {b.child: b for b in whole.funnel}
    assert [counted[name].rows for name in ("cart", "fav", "order")] == [2, 0, 0]
    place = f"dt={DAYS[0]}/part-00000.parquet, row group {rows[0] // 100}, row {rows[0] % 100}"
    assert counted["cart"].first == place
    assert [w for w in warnings(whole) if "'cart' without a 'click'" in w and place in w]


def forest(log: Path) -> dict[str, Any]:
    config = small_config(log, "unused")
    set_key(config, "data.funnel", "drop")
    config["tasks"] = [
        {"name": "click"},
        {"name": "cart", "given": "click", "indicator": "seen"},
        {"name": "fav"},
        {"name": "watch", "kind": "regression", "given": "click"},
        {"name": "order", "given": "cart", "space": "entire"},
    ]
    return config


def test_forests_indicators_and_numbers(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    seen, watch = random.random(ROWS) < 0.6, random.gamma(2.0, 3.0, ROWS) + 1000
    watch[::7] = np.nan
    write_log(tmp_path / "log", DAYS, ROWS, row_group_rows=333, seen=pa.array(seen), watch=pa.array(watch))
    whole = profile(parse_job(forest(tmp_path / "log"), "forest"))
    df = frame(tmp_path / "log")
    own = {
        "click": df,
        "cart": df[(df.click == 1) & df.seen],
        "fav": df,
        "watch": df[(df.click == 1) & df.watch.notna()],
        "order": df[(df.click == 1) & df.seen & (df.cart == 1)],
    }
    for line in whole.tasks:
        assert line.own_rows == len(own[line.name]), line.name
        assert line.own_rate == pytest.approx(own[line.name][line.name].mean(), rel=1e-12)
    names = [line.name for line in whole.tasks]
    known = df.assign(watch=df.watch.where(df.click == 1))
    for name in ("cart", "order"):
        known[name] = known[name].where(df.seen)
    for a, b in itertools.combinations(range(5), 2):
        both = known[[names[a], names[b]]].dropna()
        expected = both.iloc[:, 0].corr(both.iloc[:, 1])
        value = whole.correlation[a][b]
        assert (value is None) if math.isnan(expected) else value == pytest.approx(expected, rel=1e-12, abs=1e-12)
    (line,) = whole.regression
    x = own["watch"].watch
    assert (line.rows, line.mean, line.deviation) == (len(x), pytest.approx(x.mean()), pytest.approx(x.std(ddof=0)))
    assert line.outside == ((df.click == 0) & df.watch.notna()).sum()
    np.testing.assert_allclose(line.quantiles, np.quantile(x, SHARES, method="lower"), atol=0.2)
    assert len([r for r in whole.refused if r.column == "watch"]) == 1, "the NaN where it is trained"
    assert sum(r.rows for r in whole.refused) == ((df.click == 1) & df.watch.isna()).sum()


# what training refuses


BAD = {
    "click": lambda c: put(put(c, 3, None), 40, 2),
    "fav": lambda c: put(c, 41, -1),
    "price": lambda c: put(put(c, 5, math.nan), 6, math.inf),
    "age": lambda c: put(c, 7, None),
    "item_id": lambda c: put(c, 8, None),
    "city": lambda c: put(put(c, 9, None), 10, ""),
    "history": lambda c: put(put(c, 11, None), 12, [1, 2, 3, 4, 5, 6]),
    "history_weight": lambda c: put(put(c, 13, [math.nan] * 9), 14, [-1.0] * 9),
}


def test_what_training_refuses_is_counted_and_the_run_goes_on(tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS[:1], 200, row_group_rows=50, **BAD)
    policy = {"data.bad": {"labels": "quarantine", "values": "quarantine", "rows_per_day": 200}}
    job = small_job(tmp_path / "log", changes={**policy, "data.funnel": "drop"}, days=DAYS[:1])
    whole = profile(job)
    flags = Flags(job.data)
    (path,) = (tmp_path / "log").glob("*/*.parquet")
    flagged = []
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=job.columns).combine_chunks()
            row_ids = np.arange(table.num_rows) + 50 * group
            rows = Encoder(job, flags)(table.to_batches()[0], row_ids, Where(str(path), group, 0))
            flagged += (-1 - rows.row_id_N[rows.row_id_N < 0]).tolist()
    assert sorted(flagged) == [3, 5, 6, 7, 8, 9, 11, 12, 13, 14, 40, 41], "as training leaves them out"
    refused = {(r.column, r.feature): r for r in whole.refused}
    assert refused["click", "click"].rows + refused["fav", "fav"].rows >= 2
    columns = {r.column for r in whole.refused}
    assert columns == {"click", "fav", "price", "age", "item_id", "city", "history", "history_weight"}
    assert "dt=2026-01-01/part-00000.parquet, row group 0, row 7: holds a null" in refused["age", "age"].first
    missing = {line.column: line for line in whole.missing}
    assert (missing["price"].nan, missing["price"].infinite, missing["city"].empty) == (1, 1, 1)
    assert (missing["history"].nulls, missing["click"].nulls, missing["item_id"].nulls) == (1, 1, 1)
    assert missing["history_weight"].nan == 9
    click = next(t for t in whole.tasks if t.name == "click")
    assert click.rows == 198, "a label that is none is not known"
    assert profile(small_job(tmp_path / "log", days=DAYS[:1])).refused == whole.refused, "whatever the policy"


def test_a_log_of_nulls_alone_has_a_profile(tmp_path: Path) -> None:
    nothing = pa.nulls(200, pa.float32())
    write_log(
        tmp_path / "log", DAYS[:2], 200, price=nothing, age=pa.nulls(200, pa.float64()), click=pa.nulls(200, pa.int8())
    )
    whole = profile(small_job(tmp_path / "log", days=DAYS[:2]))
    assert [t.rows for t in whole.tasks] == [0, 400, 400, 400]
    assert whole.numbers == []
    json.dumps(whole.to_json(), allow_nan=False)
    assert "training refuses" in text(sections(whole))


def test_a_lost_row_group_is_told_under_quarantine_and_ends_the_job_without(tmp_path: Path) -> None:
    (path,) = write_log(tmp_path / "log", DAYS[:1], 400, row_group_rows=100)
    raw = bytearray(Path(path).read_bytes())
    with pq.ParquetFile(path) as file:
        chunk = file.metadata.row_group(2).column(0)
    raw[(chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 1] ^= 0xFF
    Path(path).write_bytes(raw)
    with pytest.raises(InputError, match=r"part-00000\.parquet, row group 2: cannot be decoded"):
        profile(small_job(tmp_path / "log", days=DAYS[:1]))
    policy = {"data.bad": {"corrupt": "quarantine", "row_groups_per_day": 1}}
    whole = profile(small_job(tmp_path / "log", changes=policy, days=DAYS[:1]))
    assert (whole.rows, whole.lost_rows) == (300, 100)
    assert [w for w in warnings(whole) if w.startswith("100 rows could not be read") and "row group 2" in w]
    write_log(tmp_path / "all", DAYS[:1], 400, row_group_rows=400)
    (path,) = (tmp_path / "all").glob("*/*.parquet")
    raw = bytearray(path.read_bytes())
    raw[100:300] = bytes(200)
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"no row of these days could be read; the first: .*row group 0: cannot be"):
        profile(small_job(tmp_path / "all", changes=policy, days=DAYS[:1]))


# numbers


def test_bins_rise_with_the_numbers_and_keep_them() -> None:
    random = np.random.default_rng(0)
    x_N = np.sort(
        np.concatenate([random.normal(0, 1, 5000), random.lognormal(0, 5, 5000), [-np.inf, np.inf, 0.0, -0.0]])
    )
    bin_N = numbers.bins(x_N, 0.25)
    assert (np.diff(bin_N) >= 0).all()
    assert bin_N.min() >= 0
    assert bin_N.max() < 1 << numbers.BITS
    inside_N = np.isfinite(x_N)
    back_N = numbers.values(bin_N[inside_N], 0.25)
    np.testing.assert_array_less(np.abs(back_N - x_N[inside_N]), 0.004 * np.abs(x_N[inside_N] - 0.25) + 1e-30)
    whole_N = np.arange(-200.0, 201.0)
    np.testing.assert_array_equal(numbers.values(numbers.bins(whole_N, 0.0), 0.0), whole_N)


# memory


def test_memory_does_not_grow_with_the_row_groups(tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS[:1], 12_000, row_group_rows=200)
    job = small_job(tmp_path / "log", days=DAYS[:1], changes={"data.train": {"from": DAYS[0], "to": DAYS[0]}})
    manifest, scan, held = plan(job, job.data.train), Scan(job, 64 << 20), []
    tracemalloc.start()
    try:
        scan.run(manifest, lambda p: held.append(tracemalloc.get_traced_memory()[0] + pa.total_allocated_bytes()))
    finally:
        tracemalloc.stop()
    assert len(held) == 60
    # what grows are the counts of 12,000 sessions that never come again
    assert held[-1] - held[9] < 1 << 20


def test_beyond_the_memory_values_are_estimated_and_tallies_have_fewer_slots(tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS[:1], 30_000, row_group_rows=5000)
    whole = profile(small_job(tmp_path / "log", days=DAYS[:1]), memory=4 << 20)
    session = next(line for line in whole.values if line.name == "session")
    assert not session.exact
    assert session.top is None
    assert session.distinct == pytest.approx(30_000, rel=0.2)
    assert "~ estimated" in text(sections(whole))
    assert whole.suspects == []
    assert (
        Scan(small_job(tmp_path / "log", days=DAYS[:1]), 4 << 20).bits < Scan(small_job(tmp_path / "log"), 1 << 30).bits
    )


# the job


@pytest.fixture
def config(log: Path, tmp_path: Path) -> Path:
    return write_config(tmp_path / "job.yaml", small_config(log, tmp_path / "out"))


def test_the_job_prints_tables_and_writes_page_and_json(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, tree = tmp_path / "p.html", tmp_path / "p.json"
    command.main([str(config), "--days", DAYS[0], DAYS[2], "--html", str(page), "--json", str(tree)])
    told = capsys.readouterr().out
    assert f"{3 * ROWS:,} rows of {DAYS[0]} to {DAYS[2]}" in told
    for title in (
        "FINDINGS",
        "TASKS",
        "DAYS",
        "PAIRS OF TASKS",
        "IDS AND STRINGS",
        "NUMBERS",
        "WHAT ONE COLUMN ALONE TELLS",
    ):
        assert f"\n{title}" in told
    found = json.loads(tree.read_text())
    assert (found["rows"], [d["day"] for d in found["days"]]) == (3 * ROWS, list(DAYS))
    html = page.read_text()
    assert html.count("<svg") == 3
    assert "http" not in html.replace("http://www.w3.org", "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["job.yaml", "p.html", "p.json"], "nothing is left behind"
    command.main([str(config)])
    assert f"{2 * ROWS:,} rows of {DAYS[0]} to {DAYS[1]}" in capsys.readouterr().out, (
        "data.train where --days is not given"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--leak-auc", "0.4"], "--leak-auc: 0.4 is no AUC above 0.5"),
        (["--drift", "0"], "--drift: 0.0 is no change"),
        (["--memory", "1"], "--memory: 1 MiB hold no counts; give 64 or more"),
        (["--days", "yesterday", "2026-01-02"], "--days: 'yesterday' and '2026-01-02' must be dates"),
        (["--days", "2026-01-02", "2026-01-01"], "--days: 2026-01-01 lies before 2026-01-02; swap them"),
        (["--html", "nowhere/p.html"], "--html: 'nowhere/p.html' is no file in a folder that is there"),
        (["--json", "."], "--json: '.' is no file in a folder that is there"),
        (["--days", "2026-02-01", "2026-02-02"], "the day 2026-02-01 is missing"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], said: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        command.main([str(config), *arguments])
    assert said in str(caught.value)


def test_a_job_without_ids_has_a_profile(log: Path) -> None:
    config = small_config(log, "unused")
    config["features"] = [f for f in config["features"] if f["kind"] in ("bucket", "float")]
    config["tables"] = {"price_bucket": config["tables"]["price_bucket"]}
    whole = profile(parse_job(config, "numbers"))
    assert (whole.values, whole.lists, len(whole.numbers)) == ([], [], 2)
    assert "IDS AND STRINGS" not in text(sections(whole))


def test_a_mistake_ends_with_exit_code_2_and_one_message(config: Path) -> None:
    arguments = [sys.executable, "-m", "jobs.profile", str(config), "data.path=nowhere"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: data.path: no such path 'nowhere'")


def test_structural_errors_are_the_usual_ones(tmp_path: Path) -> None:
    write_log(tmp_path / "log", DAYS[:1], 100, age=None)
    with pytest.raises(InputError, match=r"part-00000\.parquet: column 'age', feature 'age', is missing"):
        profile(small_job(tmp_path / "log", days=DAYS[:1]))
    (path,) = write_log(tmp_path / "cut", DAYS[:1], 100)
    Path(path).write_bytes(Path(path).read_bytes()[:-20])
    with pytest.raises(InputError, match="not a whole Parquet file"):
        profile(small_job(tmp_path / "cut", days=DAYS[:1]))
