"""Does the loader's memory stay flat? Resident memory after 50 row groups against that after 5.

    python benchmarks/memory.py

A wide log of 60 row groups, 4 lanes and a shuffle of half a row group in all, so that every lane's shuffle blocks have
been filled and replaced before the 5th group is done. The loader's batches are made in this thread and dropped.
Resident memory (VmRSS) is read after each step; of the steps in which the n-th row group's worth of rows is passed the
largest counts, so that a refill that happens to be under way is compared with another. The claim: at most 1.10.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import wide_log  # noqa: E402

GROUPS, EARLY, LATE = 60, 5, 50
LANES = 4


def resident() -> int:
    """VmRSS in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    arguments = argparse.ArgumentParser("python benchmarks/memory.py", description=__doc__)
    arguments.add_argument("--group-rows", type=int, default=32_768, metavar="N", help="rows a row group (%(default)s)")
    rows = arguments.parse_args().group_rows
    os.environ["OMP_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, {0})
    from pipeline.data.files import plan
    from pipeline.data.loader import Loader
    from pipeline.data.source import epoch_source
    from pipeline.train.dist import quiet_libraries
    from schemas.load import parse_job

    quiet_libraries()
    with tempfile.TemporaryDirectory() as temporary:
        log = Path(temporary) / "wide"
        wide_log.write(log, GROUPS, rows)
        job = parse_job(wide_log.config(log, lanes=LANES, shuffle_rows=rows // 2), "the wide log's job")
        before = resident()
        # most in the span of one refill of all lanes, by row groups done
        most = dict.fromkeys(range(GROUPS + 1), 0)
        for batch in Loader(job, epoch_source(job, plan(job, job.data.train), 0, shuffle=True)).batches():
            group = batch.end_row // rows
            most[group] = max(most[group], resident())
    print(f"wide log, {GROUPS} row groups of {rows:,} rows, {LANES} lanes, {job.data.shuffle_rows:,} rows shuffled")
    print(f"resident before the loader {before / 2**20:8.1f} MiB")
    for group in (1, 2, EARLY, 10, 20, 30, 40, LATE, GROUPS - 1):
        print(f"after {group:>3} row groups     {most[group] / 2**20:8.1f} MiB")
    print(f"after {LATE} / after {EARLY}: {most[LATE] / most[EARLY]:.3f} (claim: at most 1.10)")


if __name__ == "__main__":
    main()
