"""A profile of a log with bad rows, beside the training encoder's quarantine; the job as a person runs it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import profile as command
from pipeline.data.checks import Where
from pipeline.data.encode import Encoder
from pipeline.data.flags import Flags
from pipeline.profile.tables import sections, text, warnings
from schemas.errors import InputError
from schemas.load import parse_job
from tests.logs import DAYS, put, small_config, small_job, write_config, write_log
from tests.unit.test_profile import ROOT, ROWS, profile


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("refused") / "log"
    write_log(path, DAYS, ROWS, row_group_rows=[400, 0, 77], files_per_day=2)
    return path


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
    of_labels = [(r.column, r.rows, r.first.split(": ", 1)[1]) for r in whole.refused if r.kind == "labels"]
    assert of_labels == [
        ("click", 1, "holds a null"),
        ("click", 1, "holds 2, no label"),
        ("fav", 1, "holds -1, no label"),
    ]
    of_weights = [r.first for r in whole.refused if r.column == "history_weight"]
    for why in ("below 0", "no finite weight", "weights for the"):
        assert any(why in first for first in of_weights), why
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
