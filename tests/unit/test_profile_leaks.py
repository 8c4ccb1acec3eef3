"""Leak suspects and odd days: what is planted is named, the AUC is as sklearn has it, and nothing else is named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import r2_score, roc_auc_score

from pipeline.data.declared_truth import TruthSpec
from pipeline.data.generated_log import LogSpec, generate_log
from pipeline.data.hashing import mix
from pipeline.profile.lines import Profile
from pipeline.profile.tables import warnings
from pipeline.profile.tally import SMOOTHING, SMOOTHING_OF_MEANS
from schemas.load import load_job, parse_job
from tests.logs import DAYS, override, small_config, small_job, small_table, write_log, write_parquet
from tests.unit.test_profile import ROWS, frame, profile

ROOT = Path(__file__).parents[2]
KUAIRAND = ROOT.parent / "shared" / "data" / "kuairand_pure" / "log_20220425_20220506.parquet"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("leaks") / "log"
    write_log(path, DAYS, ROWS, row_group_rows=[400, 0, 77], files_per_day=2)
    return path


@pytest.fixture(scope="module")
def found(log: Path) -> Profile:
    return profile(small_job(log))


# what a column tells


def test_the_auc_of_a_column_is_that_of_rates_learnt_on_the_other_half(log: Path, found: Profile) -> None:
    df = frame(log)
    half = mix(np.arange(len(df), dtype=np.uint64)) >> np.uint64(63)
    for task, column in (("click", "item_id"), ("cart", "city"), ("click", "age")):
        own = df if task == "click" else df[df.click == 1]
        side, values = half[own.index], own[column]
        if column == "age":  # 256 groups of near-equal rows: a year of age is one, or a few are
            assert own.age.nunique() < 256
        expected = []
        for learn, test in ((0, 1), (1, 0)):
            known, asked = own[side == learn], own[side == test]
            base = known[task].mean()
            table = known.groupby(column)[task].agg(["sum", "count"])
            score = (table["sum"] + SMOOTHING * base) / (table["count"] + SMOOTHING)
            expected.append(roc_auc_score(asked[task], asked[column].map(score).fillna(base)))
        (told,) = [t for t in found.told if t.task == task and t.column == column]
        assert told.score == pytest.approx(np.mean(expected), rel=1e-12), (task, column)
        assert len(values)


def plant(root: Path, name: str, make: Callable[[str], pa.Array]) -> Path:
    """A log of two days with one more column, or another in its place: `make` of the day."""
    for path, day in zip(write_log(root, DAYS[:2], ROWS), DAYS[:2], strict=True):
        with pq.ParquetFile(path) as file:
            table = override(file.read(), {name: make(day)})
        write_parquet(path, table, row_group_rows=500)
    return root


def leaky(tmp_path: Path, name: str, make: Callable[[str], pa.Array], unused: bool = False) -> Profile:
    """Of such a log."""
    return profile(small_job(plant(tmp_path / name, name, make), days=DAYS[:2]), unused=unused)


def label(task: str, day: str = DAYS[0]) -> np.ndarray:
    return small_table(ROWS, 0, day)[task].to_numpy().astype(float)


def suspects(found: Profile) -> set[tuple[str, str, str]]:
    return {(t.task, t.column, t.how) for t in found.suspects}


def noisy(day: str, task: str = "order") -> pa.Array:
    random = np.random.default_rng(3)
    return pa.array(label(task, day) + random.normal(0, 0.2, ROWS))


def coded(day: str) -> pa.Array:
    random = np.random.default_rng(4)
    return pa.array(random.integers(0, 500, ROWS) * 2 + label("fav", day).astype(np.int64))


def serial(day: str) -> pa.Array:
    """A number of its own for each order, 0 where there is none."""
    random = np.random.default_rng([4, int(day[-2:])])
    return pa.array(np.where(label("order", day) == 1, random.integers(1, 2**62, ROWS), 0))


def test_a_number_that_nearly_equals_a_label_is_named(tmp_path: Path) -> None:
    whole = leaky(tmp_path, "price", noisy)
    assert suspects(whole) == {("order", "price", "value")}
    assert [w for w in warnings(whole) if w.startswith("'price' may leak 'order': reaches an AUC of 0.99")]


def test_an_id_that_encodes_a_label_is_named(tmp_path: Path) -> None:
    assert suspects(leaky(tmp_path, "user_id", coded)) == {("fav", "user_id", "value")}


def test_an_id_of_each_positive_row_alone_is_named(tmp_path: Path) -> None:
    assert suspects(leaky(tmp_path, "session", serial)) == {("order", "session", "value")}


def gaps(day: str) -> pa.Array:
    """Null where there is no fav, and on some rows beside."""
    random = np.random.default_rng(6)
    return pa.array(random.normal(0, 1, ROWS), mask=(label("fav", day) == 0) | (random.random(ROWS) < 0.01))


def test_a_gap_that_tells_a_label_is_named_in_a_column_nobody_reads(tmp_path: Path) -> None:
    job = small_job(plant(tmp_path / "log", "reviewed", gaps), days=DAYS[:2])
    assert profile(job).suspects == [], "a column that nobody reads is not read"
    whole = profile(job, unused=True)
    # what is missing where there was no click is never a fav
    assert ("fav", "reviewed", "missing") in suspects(whole)
    assert {column for _, column, _ in suspects(whole)} == {"reviewed"}
    assert [w for w in warnings(whole) if w.startswith("'reviewed' may leak 'fav': its being missing or not reaches")]


def test_columns_nobody_reads_are_looked_at_whatever_their_type(tmp_path: Path) -> None:
    def words(day: str) -> pa.Array:
        return pa.array(np.where(label("cart", day) == 1, "yes", "no").tolist()).dictionary_encode()

    whole = leaky(tmp_path, "kept", words, unused=True)
    assert suspects(whole) == {("cart", "kept", "value")}
    flag = leaky(tmp_path, "flag", lambda day: pa.array(label("cart", day) == 1), unused=True)
    assert suspects(flag) == {("cart", "flag", "value")}
    mark = leaky(tmp_path, "mark", lambda day: pa.array([True] * ROWS, mask=label("cart", day) == 0), unused=True)
    assert ("cart", "mark", "missing") in suspects(mark)
    whole_number = leaky(tmp_path, "score", lambda day: pa.array((label("cart", day) * 1e6).astype(int)), unused=True)
    assert suspects(whole_number) == {("cart", "score", "value")}
    time = leaky(tmp_path, "at", lambda day: pa.array(label("cart", day).astype("datetime64[ms]")), unused=True)
    assert suspects(time) == {("cart", "at", "value")}


def test_a_weak_gap_is_named_where_the_label_is_never_one(tmp_path: Path) -> None:
    def some(day: str) -> pa.Array:
        random = np.random.default_rng(8)
        return pa.array(random.normal(0, 1, ROWS), mask=(label("click", day) == 0) & (random.random(ROWS) < 0.3))

    job = small_job(plant(tmp_path / "log", "age", some), changes={"features.age.missing": 0.0}, days=DAYS[:2])
    whole = profile(job)
    assert suspects(whole) == {("click", "age", "missing")}
    assert "the label is never 1" in warnings(whole)[0]


def test_a_gap_where_the_label_is_always_one_is_named(tmp_path: Path) -> None:
    def some(day: str) -> pa.Array:
        random = np.random.default_rng(8)
        there = (label("click", day) == 1) & (random.random(ROWS) < 0.3)
        return pa.array(np.where(there, None, "Oslo").tolist(), pa.string())

    job = small_job(plant(tmp_path / "log", "city", some), changes={"features.city.missing": "unknown"}, days=DAYS[:2])
    whole = profile(job)
    assert suspects(whole) == {("click", "city", "missing")}
    assert "the label is always 1" in warnings(whole)[0]


def test_a_list_whose_length_tells_a_label_is_named(tmp_path: Path) -> None:
    def lists(day: str) -> pa.Array:
        random = np.random.default_rng(9)
        lengths = random.integers(0, 3, ROWS) + 3 * label("click", day).astype(np.int64)
        return pa.array([[1] * n for n in lengths.tolist()], pa.list_(pa.int64()))

    assert suspects(leaky(tmp_path, "recent", lists)) == {("click", "recent", "length")}


def test_a_column_far_ahead_of_all_others_is_named(tmp_path: Path) -> None:
    def ahead(day: str, seed: int = 10) -> pa.Array:
        random = np.random.default_rng(seed)
        return pa.array(label("fav", day) + random.normal(0, 0.6, ROWS))

    root = plant(tmp_path / "both", "age", ahead)
    for path, day in zip(sorted(root.glob("*/*.parquet")), DAYS, strict=False):
        with pq.ParquetFile(path) as file:
            table = override(file.read(), {"price": lambda c, day=day: ahead(day, 11)})
        write_parquet(path, table, row_group_rows=500)
    both = profile(small_job(root, days=DAYS[:2]))
    assert min(t.score for t in both.told if t.task == "fav" and t.column in ("age", "price")) > 0.8
    assert both.suspects == [], "two that are alike"
    whole = leaky(tmp_path, "age", ahead)
    assert suspects(whole) == {("fav", "age", "value")}
    assert ", the next best column 0." in warnings(whole)[0]


def test_the_share_of_a_number_that_a_column_explains(tmp_path: Path) -> None:
    random = np.random.default_rng(12)
    item_N = random.integers(0, 40, ROWS)
    watch_N = 1000 + 5.0 * np.sin(item_N) + random.normal(0, 2, ROWS)
    columns = {"watch": pa.array(watch_N), "item_id": pa.array(item_N), "age": pa.array(watch_N * 2 + 7)}
    write_log(tmp_path / "log", DAYS[:1], ROWS, **columns)
    config = small_config(tmp_path / "log", "unused", DAYS[:1])
    config["tasks"] = [{"name": "click"}, {"name": "watch", "kind": "regression", "given": "click"}]
    whole = profile(parse_job(config, "watch"))
    assert suspects(whole) == {("watch", "age", "value")}
    assert warnings(whole)[0].startswith("'age' may leak 'watch': explains 9")
    df = frame(tmp_path / "log")
    own = df[df.click == 1]
    side = (mix(np.arange(len(df), dtype=np.uint64)) >> np.uint64(63))[own.index]
    guess = np.zeros(len(own))
    for half in (0, 1):
        known = own[side != half]
        table = known.groupby("item_id").watch.agg(["sum", "count"])
        mean = (table["sum"] + SMOOTHING_OF_MEANS * known.watch.mean()) / (table["count"] + SMOOTHING_OF_MEANS)
        guess[side == half] = own[side == half].item_id.map(mean).fillna(known.watch.mean())
    (told,) = [t for t in whole.told if t.task == "watch" and t.column == "item_id"]
    assert told.score == pytest.approx(r2_score(own.watch, guess), rel=1e-6)


def test_ids_that_never_come_again_tell_nothing(found: Profile) -> None:
    for told in found.told:
        if told.column == "session":
            assert told.score == pytest.approx(0.5, abs=0.02)


# real and generated logs


def test_the_generated_log_names_nothing(tmp_path: Path) -> None:
    generate_log(str(tmp_path / "events"), LogSpec(TruthSpec(users=2000, items=500), days=5, rows_per_day=20_000))
    job = load_job(ROOT / "jobs/configs/generated.yaml", [f"data.path={tmp_path / 'events'}"])
    whole = profile(job)
    assert (whole.rows, len(whole.days)) == (100_000, 5)
    assert warnings(whole) == []


def test_what_is_known_of_a_real_log_is_named(tmp_path: Path) -> None:
    """KuaiRand-Pure: likes come without a click, and the play time is the click's own consequence."""
    if not KUAIRAND.exists():
        pytest.skip(f"no {KUAIRAND}")
    table = pq.read_table(KUAIRAND)
    table = table.append_column("event_time", table["time_ms"].cast(pa.timestamp("ms")))
    days = ["2022-04-25", "2022-04-26", "2022-04-27"]
    for day in days:
        folder = tmp_path / "log" / f"dt={day}"
        folder.mkdir(parents=True)
        of_day = table.filter(pc.equal(table["date"], int(day.replace("-", ""))))
        pq.write_table(of_day.drop_columns(["date"]), folder / "part-0.parquet", write_page_checksum=True)
        (folder / "_SUCCESS").touch()
    config = small_config(tmp_path / "log", "unused", days)
    config["tables"] = {name: {"rows": 1000, "dim": 8} for name in ("user_id", "video_id")}
    config["features"] = [{"name": name, "kind": "id", "hash": True} for name in ("user_id", "video_id")]
    config["tasks"] = [{"name": "is_click"}, {"name": "is_like", "given": "is_click"}]
    whole = profile(parse_job(config, "real"), unused=True)
    first = table.filter(pc.is_in(table["date"], pa.array([int(day.replace("-", "")) for day in days])))
    click, like = (first[name].to_numpy() for name in ("is_click", "is_like"))
    assert whole.funnel[0].rows == ((like == 1) & (click == 0)).sum() > 0
    assert whole.correlation[0][1] == pytest.approx(np.corrcoef(click, like)[0, 1], rel=1e-12)
    assert {(t.task, t.column) for t in whole.suspects} == {("is_click", "play_time_ms")}
