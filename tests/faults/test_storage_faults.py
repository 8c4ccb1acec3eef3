"""Bits that flip, files that come late or go, one plan for all ranks; the long campaign of flips is `flips.py`."""

import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.distributed import warm
from tests.distributed.command import ROOT, SECONDS, command, environment, run
from tests.faults.flips import CHANGED, FOOTER, FOUND, HEADER, PAGE, SAME, campaign, flip_at
from tests.logs import DAYS, set_key, small_config, small_table, write_config, write_log, write_parquet


def test_each_of_200_bits_flipped_in_checksummed_pages_is_found() -> None:
    flips = campaign(200, seed=11, parts=(PAGE,))
    assert Counter(flip.outcome for flip in flips) == {FOUND: 200}


@pytest.mark.parametrize("part", [HEADER, FOOTER])
def test_a_bit_flipped_beside_them_is_found_or_of_no_consequence(part: str) -> None:
    flips = campaign(100, seed=12, parts=(part,))
    outcomes = Counter(flip.outcome for flip in flips)
    assert [flip for flip in flips if flip.outcome == CHANGED] == []
    assert outcomes[FOUND] > 40
    assert outcomes[SAME] > 5


@pytest.mark.parametrize(
    ("layout", "byte", "bit"),
    [
        ("nullable, snappy, dictionaries", 19001, 3),
        ("nullable, pages of version 2", 21329, 4),
        ("required, LZ4", 8208, 5),
        ("nullable, uncompressed, dictionaries cut off", 17564, 2),
    ],
)
def test_flips_that_arrow_and_its_checksums_let_through_are_found(layout: str, byte: int, bit: int) -> None:
    """Four of the eleven in 6,000 flips of page headers that changed rows before headers were held against footers."""
    assert flip_at(layout, byte, bit).outcome == FOUND


def test_without_checksums_flips_pass_and_the_campaign_sees_it() -> None:
    """The measure measures: what is held against checksums above is not held without them."""
    flips = campaign(60, seed=13, parts=(PAGE,), checksums=False)
    assert any(flip.outcome == CHANGED for flip in flips)


def job(folder: Path, **changes: object) -> Path:
    """The small job, stopped after two steps."""
    config = small_config(folder / "log", folder / "out")
    for key, value in ({"data.eval": None, "train.max_steps": 2} | changes).items():
        set_key(config, key, value)
    return write_config(folder / "job.yaml", config)


def test_files_that_come_late_are_left_to_a_later_run_and_lost_ones_are_named(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write_log(log, DAYS, 150, row_group_rows=40)
    config = job(tmp_path)
    run(config)
    write_parquet(log / f"dt={DAYS[0]}/part-00007.parquet", small_table(64))
    shutil.rmtree(log / f"dt={DAYS[2]}")
    again = run(config)
    late = f"note: 1 file (dt={DAYS[0]}/part-00007.parquet) came after the run began; they belong to a later run"
    assert late in again
    assert "trained to its end already, step 2" in again
    (log / f"dt={DAYS[1]}/part-00000.parquet").unlink()
    write_parquet(log / f"dt={DAYS[1]}/part-00001.parquet", small_table(5))
    ended = warm.run(command(config), env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 2
    lost = f"1 file (dt={DAYS[1]}/part-00000.parquet) vanished since the run began; restore what was there"
    assert ended.stderr.startswith(f"error: {log}: {lost}")


COUNT = """import os, sys
sys.path.insert(0, {root!r})
import pipeline.data.files as files
read = files.read_footer
def counted(*arguments):
    with open({calls!r}, "a") as out:
        out.write(os.environ.get("RANK", "launcher") + "\\n")
    return read(*arguments)
files.read_footer = counted
"""


def test_the_ranks_read_no_footer_again(tmp_path: Path) -> None:
    """The launcher's plan is handed over, and the hand-over leaves nothing behind."""
    temporary, site, calls = (tmp_path / name for name in ("tmp", "site", "calls"))
    temporary.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(COUNT.format(root=str(ROOT), calls=str(calls)))
    write_log(tmp_path / "log", DAYS, 150, row_group_rows=40)
    env = environment() | {"TMPDIR": str(temporary), "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"}
    done = warm.run(
        [sys.executable, "-m", "jobs.launch", "--nproc-per-node", "2", str(job(tmp_path))],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(calls.read_text().split()) == {"launcher"}
    assert [path.name for path in temporary.iterdir() if path.name.startswith("fulcrum")] == []
