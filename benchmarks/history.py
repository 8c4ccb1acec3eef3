"""What do counts and encodings of earlier days cost? The encoder with and without them, in one run.

    python benchmarks/history.py                    # 14 days of 200,000 rows, a million values
    python benchmarks/history.py --days 60

One day's rows, with 2 hashed ids and 2 tasks (plain), and with 4 numbers of two columns more, a count and three
encodings, one of them over a window (history):

    encoder    batches that are decoded already, READ_ROWS at a time
    loader     Parquet -> batches, on one core: what a rank's reader thread does

Values are drawn with a Zipf-like skew. The sides take turns, in an order that rotates from round to round; a ratio is
the median of the rounds' ratios. Before it, the pass that counts a day and the building of the look-ups are timed once.
"""

import argparse
import datetime
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.interleaved import claim, interleave, pin, rate, ratios, setting
from pipeline.data.checks import Where
from pipeline.data.encode import Encoder
from pipeline.data.freeze import plan_job
from pipeline.data.history import scoring_day
from pipeline.data.loader import Loader
from pipeline.data.manifest import Manifest
from pipeline.data.reader import READ_ROWS
from pipeline.data.source import epoch_source
from schemas.job import JobConfig
from schemas.load import parse_job

FIRST = datetime.date(2026, 1, 1)
HISTORY = [
    {"name": "item_count", "kind": "count", "column": "item_id"},
    {"name": "item_click", "kind": "target_encoding", "column": "item_id", "task": "click"},
    {"name": "item_week", "kind": "target_encoding", "column": "item_id", "task": "click", "days": 7},
    {"name": "user_like", "kind": "target_encoding", "column": "user_id", "task": "like"},
]
PLAIN, LOOKING_BACK = "plain", "history"
CLAIMED = 0.25
"""Of the plain loader's rows/s: it has next to nothing to do."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        "python benchmarks/history.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--days", type=int, default=14, metavar="N", help="of history (%(default)s)")
    out.add_argument("--rows", type=int, default=200_000, metavar="N", help="a day (%(default)s)")
    out.add_argument("--values", type=int, default=1_000_000, metavar="N", help="of each column (%(default)s)")
    out.add_argument("--rounds", type=int, default=9, metavar="N", help="times each side is measured (%(default)s)")
    return out


def day_of_rows(rows: int, values: int, seed: int) -> pa.Table:
    """Rows of one day."""
    random = np.random.default_rng(seed)
    user_N, item_N = ((random.random(rows) ** 4 * values).astype(np.int64) * 7919 for _ in range(2))
    click_N = random.random(rows) < 0.4
    labels = {"click": click_N.astype(np.int8), "like": (click_N & (random.random(rows) < 0.1)).astype(np.int8)}
    return pa.table({"user_id": user_N, "event_time": np.arange(rows), "item_id": item_N, **labels})


def write(root: Path, arguments: argparse.Namespace) -> None:
    """The log: the days of the history, and the one that is encoded."""
    for n in range(arguments.days + 1):
        folder = root / f"dt={FIRST + datetime.timedelta(n)}"
        folder.mkdir(parents=True)
        table = day_of_rows(arguments.rows, arguments.values, n)
        pq.write_table(table, folder / "part-0.parquet", row_group_size=READ_ROWS, write_page_checksum=True)
        (folder / "_SUCCESS").touch()


def job_of(root: Path, arguments: argparse.Namespace, history: bool) -> JobConfig:
    """The job that encodes the last day."""
    last = str(FIRST + datetime.timedelta(arguments.days))
    ids = [{"name": name, "kind": "id", "hash": True, "column": f"{name}_id"} for name in ("user", "item")]
    config = {
        "name": "history",
        "output": str(root / "out"),
        "data": {"path": str(root / "log"), "train": {"from": last, "to": last}, "history": {"from": str(FIRST)}},
        "tables": {"user": {"rows": 1000, "dim": 8}, "item": {"rows": 1000, "dim": 8}},
        "features": ids + (HISTORY if history else []),
        "tasks": [{"name": "click"}, {"name": "like", "given": "click"}],
        "model": {"arch": "shared_bottom"},
    }
    return parse_job(config, "benchmark")


def main() -> None:
    """Counts, builds, encodes."""
    arguments = parser().parse_args()
    pin()
    print(setting(arguments, f"pyarrow {pa.__version__}, numpy {np.__version__}"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root / "log", arguments)
        looking_back, plain = job_of(root, arguments, True), job_of(root, arguments, False)
        last = looking_back.data.train.last
        began = time.perf_counter()
        scoring_day(looking_back, last, lambda line: None)
        counted = time.perf_counter() - began
        rows = arguments.days * arguments.rows
        print(f"counted and built: {rows:,} rows, {len(HISTORY)} features: {rows / counted:,.0f} rows/s")
        path = root / "log" / f"dt={last}" / "part-0.parquet"
        batches = list(pq.ParquetFile(path).iter_batches(READ_ROWS))
        history = scoring_day(looking_back, last)
        encoders = {PLAIN: Encoder(plain), LOOKING_BACK: Encoder(looking_back, None, history)}

        def encode(side: str) -> int:
            for batch in batches:
                encoders[side](batch, np.arange(batch.num_rows), Where(str(path), 0, 0))
            return arguments.rows

        def load(job: JobConfig, manifest: Manifest) -> int:
            return sum(batch.rows for batch in Loader(job, epoch_source(job, manifest, 0, shuffle=True)).batches())

        jobs = {PLAIN: plain, LOOKING_BACK: looking_back}
        plans = {side: plan_job(job, None).training.manifest for side, job in jobs.items()}
        results = {
            "encoder": interleave({side: lambda side=side: encode(side) for side in encoders}, arguments.rounds),
            "loader": interleave(
                {side: lambda side=side: load(jobs[side], plans[side]) for side in jobs}, arguments.rounds
            ),
        }
    for what, sides in results.items():
        plain_rate, history_rate = rate(sides[PLAIN]), rate(sides[LOOKING_BACK])
        cost = (1 / history_rate - 1 / plain_rate) / len(HISTORY) * 1e9
        ratio = statistics.median(ratios(sides, LOOKING_BACK, PLAIN))
        print(
            f"{what:<9} plain {plain_rate:>12,.0f}  history {history_rate:>12,.0f} rows/s of CPU time, "
            f"ratio {ratio:.2f}; {cost:.0f} ns a number"
        )
    line, passed = claim("the loader with history", results["loader"], LOOKING_BACK, PLAIN, CLAIMED)
    print(line)
    sys.exit(not passed)


if __name__ == "__main__":
    main()
