"""A generated week for the real daily job, and the same week by hand: what a schedule must come to, bit for bit."""

import contextlib
import io
import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.generate import main as generate
from pipeline.daily.ledger import Ledger
from pipeline.daily.place import latest
from pipeline.registry import Registry
from schemas.load import load_tree
from tests.distributed.command import assert_bitwise
from tests.logs import write_config
from tests.schedules.home import CONFIG, ROOT, Home

ROWS = 12_000
FLOOR = 0.54
"""Least AUC of click: a day whose labels are dealt out at random does not reach it."""


def written(folder: Path, days: list[str], spoilt: str) -> Path:
    """A log of these days, the labels of one of them dealt out among its rows, and its job; the job's file."""
    world = ["--users", "1500", "--items", "400", "--rows-per-day", str(ROWS)]
    with contextlib.redirect_stdout(io.StringIO()):
        assert generate(["--out", str(folder / "log"), "--start", days[0], "--days", str(len(days)), *world]) == 0
    for file in (folder / "log" / f"dt={spoilt}").glob("*.parquet"):
        table = pq.read_table(file, partitioning=None)
        dealt = np.random.default_rng(0).permutation(table.num_rows)
        for name in ("click", "cart", "fav", "order"):
            at = table.schema.get_field_index(name)
            table = table.set_column(at, table.schema.field(name), table.column(name).take(pa.array(dealt)))
        pq.write_table(table, file, write_page_checksum=True)
    config: dict[str, Any] = load_tree(str(ROOT / "jobs/configs/generated.yaml"), [])
    config |= {"name": "ranker", "output": "runs/ranker"}
    config["data"] = {
        "path": str(folder / "log"),
        "train": {"from": days[0], "to": days[0]},
        "holdout": {"share": 0.3},
    }
    config["train"] |= {"batch_size": 256, "log_every": 1000, "checkpoint_every": 1000}
    checks = {"min_days": 30}  # they would stop the day of the dealt labels before the gate could refuse it
    left = "leave_out"  # else the days after it would learn from those labels too
    config["daily"] = {"checks": checks, "refused_days": left, "gate": {"resamples": 100, "floors": {"click": FLOOR}}}
    return write_config(folder / "job.yaml", config)


def told(home: Home, days: list[str]) -> list[str]:
    """What each day came to, by its ledger."""
    out, root = [], str(home.output)
    for day in days:
        date_of = date.fromisoformat(day)
        facts = Ledger(root, date_of, latest(root, date_of).attempt).done()
        if "promote" not in facts:
            out.append(f"{day}  came to no end: {', '.join(facts) or 'not begun'}")
            continue
        trained = " ".join(facts["wait"]["span"]["days"])
        out.append(f"{day}  {'promoted' if facts['promote']['promoted'] else 'refused '}  trained on {trained}")
    return out


def check_by_hand(home: Home, days: list[str], folder: Path) -> str:
    """The week once more, by one command in another folder: the same champion bitwise, promoted the same days."""
    other = Home(folder / "by hand", (home.path / "launch.sh").read_text(), home.path / CONFIG).warm()
    command = [str(other.path / "launch.sh"), "daily", CONFIG, "--from", days[0], "--to", days[-1]]
    done = subprocess.run(command, cwd=other.path, env=other.engine(), capture_output=True, text=True)
    assert done.returncode == 3, done.stdout[-3000:] + done.stderr[-3000:]
    mine, theirs = Registry(str(home.output)), Registry(str(other.output))
    promoted = [[each.model for each in registry.promotions()] for registry in (mine, theirs)]
    assert promoted[0] == promoted[1], promoted
    ours, by_hand = (
        each.path / model.checkpoint
        for each, registry in ((home, mine), (other, theirs))
        if (model := registry.champion()) is not None
    )
    assert_bitwise(ours, by_hand)
    return f"champion {promoted[0][-1]} after {len(promoted[0])} promotions: bitwise that of the week by hand"
