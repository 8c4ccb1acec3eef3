"""Counts, collisions and vocabulary files against brute force and closed forms; the job as a person runs it."""

import collections
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import vocabulary as command
from pipeline.data.checks import Where
from pipeline.data.encode import Encoder
from pipeline.data.files import plan
from pipeline.data.hashing import bucket_integers
from pipeline.data.value_counts import Occupancy, ValueCounts, hash64, make_room, rows_for, uniform_share
from pipeline.data.vocabulary import Survey, Writer
from pipeline.data.vocabulary_file import entries
from pipeline.data.vocabulary_lookup import vocabularies
from pipeline.data.vocabulary_report import advise
from schemas.errors import InputError
from schemas.job import JobConfig
from tests.logs import DAYS, set_key, small_config, small_job, write_config, write_log
from tests.unit.test_encode import by_name

ROWS = 400
HASHED = {"features.item.hash": True, "features.history.hash": True, "features.recent.hash": True}
MEMORY = 1 << 30


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "log"
    sessions = pa.array(np.random.default_rng(1).integers(0, 60, ROWS) - 5)
    write_log(path, DAYS, ROWS, row_group_rows=[90, 0, 33], files_per_day=2, session=sessions)
    return path


def survey(job: JobConfig, memory: int = MEMORY) -> Survey:
    out = Survey(job, memory)
    out.count(plan(job, job.data.train), lambda progress: None)
    return out


def pairs(job: JobConfig, log: Path) -> dict[str, list[tuple[Any, int]]]:
    """Each feature's look-ups of the training days as (value, row that the encoder gives)."""
    out: dict[str, list[tuple[Any, int]]] = collections.defaultdict(list)
    encode = Encoder(job)
    for path in sorted(log.glob("dt=*/*.parquet"))[:-2]:
        for batch in pq.read_table(path).combine_chunks().to_batches():
            rows = by_name(encode, encode(batch, np.arange(batch.num_rows), Where("part", 0, 0)))
            raw = batch.to_pydict()
            for feature in job.valued:
                values, places = raw[feature.source], rows[feature.name]
                if feature.kind == "ids":
                    values, places = (list(itertools.chain(*lists)) for lists in (values, places))
                out[feature.name] += zip(values, places, strict=True)
    return out


@pytest.mark.parametrize("changes", [{}, HASHED, {"tables.session.rows": 7, "tables.user.rows": 30}])
def test_every_line_is_what_brute_force_counts(log: Path, changes: dict[str, Any]) -> None:
    job = small_job(log, changes=changes)
    seen = pairs(job, log)
    seen["table item"] = seen["item"] + seen["history"] + seen["recent"]
    lines = survey(job).lines()
    assert [line.name for line in lines] == ["user", *("item", "history", "recent", "table item"), "session", "city"]
    for line in lines:
        lookups, rows = collections.Counter(seen[line.name]), line.rows
        values_on = collections.Counter(row for _, row in lookups if row < rows)
        sharing = [pair for pair in lookups if values_on[pair[1]] > 1]
        assert line.exact
        assert line.lookups == len(seen[line.name])
        assert line.distinct == len({value for value, _ in lookups})
        assert line.unknown == sum(n for (_, row), n in lookups.items() if row == rows)
        assert line.shared_values == pytest.approx(len(sharing) / line.distinct)
        assert line.shared_lookups == pytest.approx(sum(lookups[pair] for pair in sharing) / line.lookups)
    hashed = {line.name for line in lines if line.hashed}
    assert hashed >= {"session", "city"}
    assert max(line.shared_values for line in lines) > 0.3


def test_a_table_read_in_two_ways_tells_its_values_apart(log: Path) -> None:
    """Id 5 as a row and id 5 hashed lie on two rows: neither has one to share."""
    job = small_job(log, changes={"features.item.hash": True, "tables.item.rows": 4000})
    seen = pairs(job, log)
    line = next(line for line in survey(job).lines() if line.name == "table item")
    found = {("hash", *pair) for pair in seen["item"]} | {
        ("rows", *p) for name in ("history", "recent") for p in seen[name]
    }
    on = collections.Counter(row for *_, row in found)
    assert line.encoding == "hash, rows"
    assert line.distinct == len(found)
    assert line.shared_values == pytest.approx(sum(on[row] > 1 for *_, row in found) / len(found))


def test_nulls_are_out_of_vocabulary(tmp_path: Path) -> None:
    holes = pa.array([None if row % 10 == 0 else row for row in range(100)])
    names = pa.array([None, "a", "b", "b"] * 25)
    write_log(tmp_path, DAYS, 100, session=holes, city=names)
    changes = {"features.session.missing": "unknown", "features.city.missing": "unknown"}
    lines = {line.name: line for line in survey(small_job(tmp_path, changes=changes)).lines()}
    assert (lines["session"].unknown, lines["session"].distinct) == (20, 90)
    assert (lines["city"].unknown, lines["city"].distinct) == (50, 2)


# closed forms and bounds


def test_the_uniform_rate_is_what_hashing_has() -> None:
    rows, count = 50_000, 20_000
    random = np.random.default_rng(0)
    shares = []
    for _ in range(8):
        ids = np.unique(random.integers(-(2**62), 2**62, count))
        occupancy = Occupancy(rows)
        occupancy.add(bucket_integers(ids, rows), hash64(pa.array(ids)), np.ones(len(ids), np.int64))
        shares.append(1 - occupancy.alone / len(ids))
    expected = 1 - (1 - 1 / rows) ** (count - 1)
    assert uniform_share(count, rows) == pytest.approx(expected, rel=1e-9)
    # a share of 0.33 of 20,000: standard deviation below 0.005; eight of them below 0.0018
    assert np.mean(shares) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(("values", "share"), [(2, 0.5), (1000, 0.1), (123_456, 0.01), (10_000_000, 0.001)])
def test_the_rows_for_a_share_are_the_fewest(values: int, share: float) -> None:
    rows = rows_for(values, share)
    assert uniform_share(values, rows) <= share * (1 + 1e-9)
    assert uniform_share(values, rows - 1) > share * (1 - 1e-6)
    assert uniform_share(values, max(1, rows - max(2, rows // 1000))) > share


def test_the_ends_of_the_closed_form() -> None:
    assert uniform_share(0, 5) == uniform_share(1, 5) == 0
    assert uniform_share(2, 1) == 1
    assert rows_for(1, 0.1) == 1


def test_beyond_its_memory_the_count_is_an_estimate_within_its_error() -> None:
    random = np.random.default_rng(3)
    counts, limit, true = ValueCounts(pa.int64()), 1_200_000, 300_000
    occupancy, rows = Occupancy(200_000), 200_000
    ids = random.integers(-(2**63), 2**63 - 1, true)
    for _ in range(3):
        for part in np.array_split(random.permutation(ids), 40):
            key_N = hash64(pa.array(part))
            counts.add(pa.array(part), pa.array(np.ones(len(part), np.int64)), key_N)
            make_room([counts], limit)
            assert counts.nbytes <= limit
            occupancy.add((key_N % np.uint64(rows)).view(np.int64), key_N, np.ones(len(part), np.int64))
    kept = counts.table()
    assert counts.bits > 0
    assert kept.num_rows > 1000
    # four standard errors of the number of hashes that begin with these bits
    assert counts.distinct == pytest.approx(true, rel=4 / kept.num_rows**0.5)
    assert set(kept["count"].to_pylist()) == {3}, "what is kept is counted exactly"
    on_row = collections.Counter(bucket_integers(ids, rows).tolist())
    assert occupancy.alone == sum(n == 1 for n in on_row.values()), "who shares a row is known whatever the memory"
    assert occupancy.shared_lookups == 3 * sum(n for n in on_row.values() if n > 1)


def test_strings_are_sampled_too() -> None:
    counts, words = ValueCounts(pa.large_string()), pa.array([f"user-{n}" for n in range(40_000)], pa.large_string())
    counts.add(words, pa.array(np.full(40_000, 2)), hash64(words))
    make_room([counts], 1_000_000)
    assert counts.bits > 0
    assert counts.distinct == pytest.approx(40_000, rel=4 / counts.table().num_rows ** 0.5)


# files


def test_entries_are_by_count_then_value_and_old_ones_stay() -> None:
    values, counts = pa.array([5, 9, 2, 7, 1]), pa.array([3, 8, 3, 1, 2])
    assert entries(values, counts, 2).to_pydict() == {"value": [9, 2, 5, 1], "count": [8, 3, 3, 2]}
    grown = entries(values, counts, 3, pa.array([7, 100, 5]))
    assert grown.to_pydict() == {"value": [7, 100, 5, 9, 2], "count": [1, 0, 3, 8, 3]}
    words = pa.array(["b", "a", "Ł"], pa.large_string())
    assert entries(words, pa.array([1, 1, 1]), 1)["value"].to_pylist() == ["a", "b", "Ł"]


def run(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    command.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


@pytest.fixture
def config(log: Path, tmp_path: Path) -> Path:
    return write_config(tmp_path / "job.yaml", small_config(log, tmp_path / "out"))


def read(path: Path) -> dict[str, list]:
    return pq.read_table(path).to_pydict()


def test_the_job_writes_what_training_reads(
    log: Path, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "vocabularies"
    told = run(capsys, config, "--write", folder, "--min-count", 3)
    assert sorted(p.name for p in folder.iterdir()) == [f"{t}.parquet" for t in ("city", "item", "session", "user")]
    seen = pairs(small_job(log), log)
    item = collections.Counter(value for name in ("item", "history", "recent") for value, _ in seen[name])
    ranked = sorted(((n, value) for value, n in item.items() if n >= 3), key=lambda pair: (-pair[0], pair[1]))
    assert read(folder / "item.parquet") == {"value": [v for _, v in ranked], "count": [n for n, _ in ranked]}
    assert "no vocabulary for price_bucket" in told
    session = collections.Counter(value for value, _ in seen["session"])
    kept = {value for value, n in session.items() if n >= 3}
    rare = sum(n for n in session.values() if n < 3) / sum(session.values())
    assert f"session.parquet: {len(kept):,} entries, of {len(session)} values; {rare:.2%} of the look-ups" in told
    # the training encoder finds the same values unknown
    changes = {"features.session.vocabulary": str(folder / "session.parquet"), "features.session.hash": False}
    changes["tables.session.rows"] = 100
    rows = [row for _, row in pairs(small_job(log, changes=changes), log)["session"]]
    assert sum(row == 100 for row in rows) / len(rows) == pytest.approx(rare)
    counted = next(line for line in survey(small_job(log, changes=changes)).lines() if line.name == "session")
    assert (counted.encoding, counted.unknown) == ("vocabulary", sum(row == 100 for row in rows))


def test_the_same_days_write_the_same_bytes_whatever_the_row_groups(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sessions = pa.array(np.random.default_rng(1).integers(0, 60, ROWS) - 5)
    write_log(tmp_path / "log", DAYS, ROWS, session=sessions)  # in one file and row group a day
    run(capsys, config, "--write", tmp_path / "a")
    run(capsys, config, f"data.path={tmp_path / 'log'}", "--write", tmp_path / "b")
    for name in ("city", "item", "session", "user"):
        assert (tmp_path / "a" / f"{name}.parquet").read_bytes() == (tmp_path / "b" / f"{name}.parquet").read_bytes()


def test_a_vocabulary_grows_behind_its_old_entries(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    run(capsys, config, "data.train={from: 2026-01-01, to: 2026-01-01}", "--write", old, "--min-count", 12)
    (old / "city.parquet").unlink()
    told = run(capsys, config, "--write", new, "--min-count", 2, "--extend", old)
    before, after = read(old / "session.parquet")["value"], read(new / "session.parquet")["value"]
    assert 0 < len(before) < len(after)
    assert after[: len(before)] == before, "an old value keeps its row"
    counts = read(new / "session.parquet")["count"][len(before) :]
    assert counts == sorted(counts, reverse=True)
    assert len(set(after)) == len(after)
    assert f"session.parquet: {len(after)} entries, {len(before)} of them at their old rows" in told
    assert f"city.parquet: 6 entries (begun anew: none in {old})" in told
    grown = read(new / "user.parquet")["value"][:10]
    run(capsys, config, "--write", tmp_path / "cut", "--max-rows", 10, "--min-count", 1)
    assert len(read(tmp_path / "cut" / "user.parquet")["value"]) == len(grown) == 10


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--min-count", "2"], "--min-count, --max-rows and --extend say what --write DIR writes; add it"),
        (["--extend", "old"], "--min-count, --max-rows and --extend say what --write DIR writes; add it"),
        (["--write", "new", "--min-count", "0"], "--min-count and --max-rows take a whole number of 1 or more"),
        (["--write", "new", "--max-rows", "0"], "--min-count and --max-rows take a whole number of 1 or more"),
        (["--target", "10"], "--target: 10.0 is no share between 0 and 1"),
        (["--memory", "1"], "--memory: 1 MiB hold no counts; give 16 or more"),
        (["--write", "new", "--extend", "nowhere"], "--extend: 'nowhere' holds none of user.parquet"),
        (["--write", "new", "--min-count", "9999"], "--min-count: no value of table 'user' occurs 9,999 times"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], said: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        command.main([str(config), *arguments])
    assert str(caught.value).startswith(said)


def test_a_vocabulary_is_never_written_over_nor_cut(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, config, "--write", tmp_path / "v")
    before = (tmp_path / "v" / "item.parquet").read_bytes()
    with pytest.raises(InputError, match=r"/v/user\.parquet' is there already, and a model may know its rows by it"):
        command.main([str(config), "--write", str(tmp_path / "v")])
    assert (tmp_path / "v" / "item.parquet").read_bytes() == before
    with pytest.raises(InputError, match=r"--max-rows: 3 rows for the 50 that '.*user\.parquet' has already"):
        command.main([str(config), "--write", str(tmp_path / "w"), "--extend", str(tmp_path / "v"), "--max-rows", "3"])


def test_a_vocabulary_of_a_sample_is_refused(log: Path, tmp_path: Path) -> None:
    counted = survey(small_job(log), memory=12_000)
    assert not all(line.exact for line in counted.lines())
    with pytest.raises(InputError, match=r"--write: the about \d+ values of table '\w+' do not fit into --memory"):
        Writer(counted, str(tmp_path / "v"), 1, None, None).write()
    assert not (tmp_path / "v").exists()


def test_the_report_says_what_to_change(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run(capsys, config, "tables.user.rows=20", "tables.session.rows=30", "--target", "0.2")
    line = next(row for row in told.splitlines() if row.startswith("session "))
    assert line.split()[:5] == ["session", "hash", "800", "60", "30"]
    assert line.split()[6] == f"{1 - (29 / 30) ** 59:.2%}"
    assert f"of the values share a row; rows: {rows_for(60, 0.2):,} for less than 20.0%, or a vocabulary of 60" in told
    assert "user: ids go up to 49, " in told
    assert "of the look-ups have no row; rows: 50 for none" in told
    assert run(capsys, config, "tables.session.rows=40000", "--target", "0.5").count("nothing to change for less") == 1


def test_sparse_ids_are_better_off_with_a_vocabulary(log: Path) -> None:
    lines = {line.name: line for line in survey(small_job(log, changes={"features.session.hash": False})).lines()}
    assert advise(lines["session"], 0.1).endswith("rows: 55 for none"), "ids of -5 to 54"
    assert advise(lines["user"], 0.1) == ""


def test_progress_is_told(log: Path) -> None:
    job = small_job(log)
    seen = []
    Survey(job, MEMORY).count(plan(job, job.data.train), seen.append)
    assert seen[-1].rows == seen[-1].total == 2 * ROWS
    assert [p.rows for p in seen] == sorted({p.rows for p in seen})


def test_the_files_are_read_by_a_job_that_names_them(config: Path, tmp_path: Path, log: Path) -> None:
    """Written for a configuration that names them before they are there."""
    folder = tmp_path / "v"
    named = small_config(log, tmp_path / "out")
    for feature in named["features"]:
        if feature["name"] in ("item", "history", "recent"):
            feature["vocabulary"] = str(folder / "item.parquet")
    path = write_config(tmp_path / "named.yaml", named)
    with pytest.raises(InputError, match="no such file"):
        command.main([str(path)])
    command.main([str(path), "--write", str(folder)])
    command.main([str(path)])
    files = {f"features.{f}.vocabulary": str(folder / "item.parquet") for f in ("item", "history", "recent")}
    assert len(vocabularies(small_job(log, changes=files))["item"].values) == 40


def test_before_a_vocabulary_is_written_no_value_is_out_of_it(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of strings as of ids, whatever their size."""
    named = small_config(log, tmp_path / "out")
    for name in ("city", "session"):
        set_key(named, f"features.{name}.vocabulary", str(tmp_path / f"v/{name}.parquet"))
    set_key(named, "features.session.hash", False)
    told = run(capsys, write_config(tmp_path / "named.yaml", named), "--write", tmp_path / "v")
    rows = {line.split()[0]: line.split()[-1] for line in told.splitlines() if " vocabulary  " in line}
    assert rows == {"city": "0.00%", "session": "0.00%"}
    assert len(read(tmp_path / "v/city.parquet")["value"]) == 6
