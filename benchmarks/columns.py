"""Does a job that reads half of the columns read twice as fast? The wide log through column pruning, in one run.

    python benchmarks/columns.py
    python benchmarks/columns.py --rows 1000000 --rounds 9

A job of 46 columns and a job of every second column of each kind read the same log in the recommended layout, in turn
on one core: by bare ParquetFile.iter_batches over the columns that the job names, and through the product's Loader.
Ratios are taken within a round, by CPU time. The claim under test: half of the columns are read at least 1.8 times as
fast. Exits with 1 where it fails.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.train.dist import quiet_libraries  # noqa: E402

quiet_libraries()  # before TorchRec is imported: it warns as it loads

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from benchmarks.interleaved import claim, interleave, pin, rate, setting  # noqa: E402
from benchmarks.layout import compacted, loaded  # noqa: E402
from benchmarks.mixed_log import DAY, put_day, wide_job, wide_table  # noqa: E402
from pipeline.data.parquet_layout import ROW_GROUP_ROWS  # noqa: E402
from pipeline.data.reader import READ_ROWS  # noqa: E402
from schemas.features import StringFeature  # noqa: E402
from schemas.job import JobConfig  # noqa: E402

LEAST = 1.8
ALL, HALF = "all columns", "half of them"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    out = argparse.ArgumentParser(
        "python benchmarks/columns.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--rows", type=int, default=4 * ROW_GROUP_ROWS, metavar="N", help="of the log (%(default)s)")
    out.add_argument("--rounds", type=int, default=9, metavar="N", help="times each side is measured (%(default)s)")
    return out


def decode(job: JobConfig) -> int:
    """The job's columns decoded, nothing done with them."""
    rows = 0
    texts = [feature.source for feature in job.features if isinstance(feature, StringFeature)]
    path = Path(job.data.path) / f"dt={DAY}/part-00000.parquet"
    with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=texts) as file:
        for group in range(file.num_row_groups):
            for batch in file.iter_batches(READ_ROWS, [group], job.columns, use_threads=False):
                rows += batch.num_rows
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; 1 where the claim fails."""
    arguments = parser().parse_args(argv)
    pin()
    print(setting(arguments, f"pyarrow {pa.__version__}, one core"))
    groups = max(1, arguments.rows // ROW_GROUP_ROWS)
    with tempfile.TemporaryDirectory(prefix="columns-benchmark-") as temporary:
        put_day(Path(temporary) / "old", wide_table(arguments.rows))
        log = compacted(Path(temporary) / "old", Path(temporary) / "new", -(-arguments.rows // groups))
        jobs = {ALL: wide_job(log, groups), HALF: wide_job(log, groups, every=2)}
        counts = {name: len(job.columns) for name, job in jobs.items()}
        print(f"columns  {counts[ALL]} and {counts[HALF]} of 47\n")
        sides = {
            "bare iter_batches": {name: partial(decode, job) for name, job in jobs.items()},
            "Loader.batches": {name: loaded(job) for name, job in jobs.items()},
        }
        told, passed = [], []
        print(f"{'M rows/s of CPU time':<24} {ALL:>14} {HALF:>14}")
        for name, pair in sides.items():
            results = interleave(pair, arguments.rounds)
            print(f"{name:<24} {rate(results[ALL]) / 1e6:>14.2f} {rate(results[HALF]) / 1e6:>14.2f}", flush=True)
            line, good = claim(f"{name}, {HALF} / {ALL}", results, HALF, ALL, LEAST)
            told.append(line)
            passed.append(good)
    print("\n" + "\n".join(told))
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
