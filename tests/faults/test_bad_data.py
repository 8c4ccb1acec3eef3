"""Bad data through the job as a person runs it: left out and logged, or one message and exit code 2."""

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.distributed import warm
from tests.distributed.command import command, environment
from tests.logs import DAYS, put, set_key, small_config, write_config, write_log
from tests.unit.test_quarantine import flip_a_page

ROWS, GROUP = 96, 24
QUARANTINE = {
    "corrupt": "quarantine",
    "schema": "quarantine",
    "labels": "quarantine",
    "values": "quarantine",
    "rows_per_day": 2,
    "row_groups_per_day": 3,
}
SECONDS = 300


def spoilt_log(root: Path) -> None:
    """Of each day: NaN in row 5, a label of 7 in row 40. The first day has a file without `age`, and one without a
    column that nobody reads; the second a damaged row group and a truncated file."""
    paths = write_log(
        root,
        DAYS,
        ROWS,
        row_group_rows=GROUP,
        age=lambda c: put(c, 5, math.nan),
        cart=lambda c: put(c, 40, 7),
        ballast=pa.array([0] * ROWS),
    )
    flip_a_page(paths[1], 2, "user_id")
    other = root.parent / "other"
    (retyped,) = write_log(other, DAYS[:1], GROUP, age=None)
    Path(retyped).rename(root / f"dt={DAYS[0]}/part-00001.parquet")
    (whole,) = write_log(other, DAYS[1:2], GROUP)
    Path(root / f"dt={DAYS[1]}/part-00001.parquet").write_bytes(Path(whole).read_bytes()[:-500])
    (drifted,) = write_log(other, DAYS[:1], GROUP)
    Path(drifted).rename(root / f"dt={DAYS[0]}/part-00002.parquet")


def job(folder: Path, bad: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    config = small_config(folder / "log", folder / "out")
    set_key(config, "data.bad", bad)
    path = write_config(folder / "job.yaml", config)
    return warm.run(
        command(path), env=environment(), cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def test_the_job_goes_on_without_what_is_bad_and_says_so(tmp_path: Path) -> None:
    spoilt_log(tmp_path / "log")
    done = job(tmp_path, QUARANTINE)
    assert done.returncode == 0, done.stdout + done.stderr
    log = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
    found = {(p["split"], p["day"], p["file"][-10:-8], p["group"], p["first"], p["rows"], p["kind"]) for p in log}
    assert found == {
        *(("train", day, "00", 0, 5, 1, "values") for day in DAYS[:2]),
        *(("train", day, "00", 1, 40 - GROUP, 1, "labels") for day in DAYS[:2]),
        ("train", DAYS[1], "00", 2, 0, GROUP, "corrupt"),
        ("train", DAYS[0], "01", -1, 0, -1, "schema"),
        ("train", DAYS[1], "01", -1, 0, -1, "corrupt"),
        ("eval", DAYS[2], "00", 0, 5, 1, "values"),
        ("eval", DAYS[2], "00", 1, 40 - GROUP, 1, "labels"),
    }
    assert len(log) == len(found)
    assert "quarantined: 4 rows, 3 row groups" in done.stdout
    closing = done.stdout.splitlines()[-1]
    assert closing == f"quarantine  train: 4 rows, 3 row groups, eval: 2 rows ({tmp_path}/out/quarantine.jsonl)"
    drifted = f"dt={DAYS[0]}/part-00002.parquet: no column 'ballast'"
    assert f"note: 1 file has another schema than most, such as {drifted}" in done.stdout
    assert f"{2 * ROWS + GROUP:,} rows in" in done.stdout


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (
            QUARANTINE | {"rows_per_day": 1},
            (f"day {DAYS[0]}: 2 rows under quarantine, the budget is 1", "rows_per_day"),
        ),
        (QUARANTINE | {"row_groups_per_day": 1}, (f"day {DAYS[1]}: 2 row groups", "row_groups_per_day")),
        (QUARANTINE | {"values": "error"}, ("row group 0: column 'age' holds nan (row 5)",)),
        (QUARANTINE | {"corrupt": "error"}, (f"dt={DAYS[1]}/part-00001.parquet: not a whole Parquet file",)),
        (QUARANTINE | {"schema": "error"}, (f"dt={DAYS[0]}/part-00001.parquet: column 'age'", "is missing")),
        (QUARANTINE | {"drift": "error"}, (f"dt={DAYS[0]}/part-00002.parquet: its schema", "no column 'ballast'")),
    ],
    ids=["rows", "row groups", "values", "corrupt", "schema", "drift"],
)
def test_what_ends_the_job_is_one_message(tmp_path: Path, bad: dict[str, Any], says: tuple[str, ...]) -> None:
    spoilt_log(tmp_path / "log")
    done = job(tmp_path, bad)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stdout + done.stderr
    for words in says:
        assert words in done.stderr
