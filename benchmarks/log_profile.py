"""What does a profile of a log cost? Rows/s beside a bare scan of the same columns, and its peak memory, in one run.

    python benchmarks/log_profile.py                      # 10 million generated rows
    python benchmarks/log_profile.py --rows 1000000 --rounds 5

`./launch.sh profile` on the generated log, with its job and 2 GiB for counts, beside ParquetFile.iter_batches over the
columns that the job names, nothing done with them. The sides take turns on one core; ratios are taken within a round,
by CPU time and by the clock. Resident memory (VmRSS) is read after every batch of the first pass, which nothing came
before. The claims under test: at least 0.2 of the bare scan, and at the end of the log no more than 1.25 of the memory
that was held after its first fifth. Exits with 1 where one fails.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from benchmarks.interleaved import claim, interleave, pin, rate, setting  # noqa: E402
from benchmarks.memory import resident  # noqa: E402
from pipeline.data.files import plan  # noqa: E402
from pipeline.data.reader import READ_ROWS  # noqa: E402
from pipeline.data.vocabulary import Progress  # noqa: E402
from pipeline.profile.drift import Rules  # noqa: E402
from pipeline.profile.result import result  # noqa: E402
from pipeline.profile.scan import Scan  # noqa: E402
from schemas.features import StringFeature  # noqa: E402
from schemas.job import JobConfig  # noqa: E402
from schemas.load import load_job  # noqa: E402

DAYS, MEMORY = 5, 2 << 30
LEAST, MOST_GROWTH = 0.2, 1.25
PROFILE, BARE = "profile", "bare iter_batches"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        "python benchmarks/log_profile.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("--rows", type=int, default=10_000_000, metavar="N", help="of the log (%(default)s)")
    out.add_argument("--rounds", type=int, default=3, metavar="N", help="times each side is measured (%(default)s)")
    return out


def bare(job: JobConfig) -> int:
    """The job's columns decoded, nothing done with them."""
    rows = 0
    texts = [feature.source for feature in job.features if isinstance(feature, StringFeature)]
    for path in sorted(Path(job.data.path).glob("dt=*/*.parquet")):
        with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=texts) as file:
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(READ_ROWS, [group], job.columns, use_threads=False):
                    rows += batch.num_rows
    return rows


class Memory:
    """Resident memory over one pass."""

    def __init__(self) -> None:
        self.begin, self.fifth, self.most = resident(), 0, 0

    def __call__(self, progress: Progress) -> None:
        """Looks at it after a batch."""
        now = resident()
        if 5 * progress.rows <= progress.total:
            self.fifth = max(self.fifth, now)
        self.most = max(self.most, now)


def profiled(job: JobConfig, memory: Memory | None = None) -> int:
    """The whole profile."""
    manifest = plan(job, job.data.train)
    scan = Scan(job, MEMORY)
    scan.run(manifest, memory or (lambda progress: None))
    return result(scan, job, job.data.train, manifest, Rules()).rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints; 1 where a claim fails."""
    arguments = parser().parse_args(argv)
    pin()
    print(setting(arguments, f"pyarrow {pa.__version__}, one core"), flush=True)
    with tempfile.TemporaryDirectory(prefix="profile-benchmark-") as temporary:
        log = Path(temporary) / "events"
        command = [sys.executable, "-m", "jobs.generate", "--out", str(log), "--days", str(DAYS)]
        command += ["--rows-per-day", str(arguments.rows // DAYS)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        days = "data.train={from: 2026-01-01, to: 2026-01-05}"
        job = load_job(ROOT / "jobs/configs/generated.yaml", [f"data.path={log}", days])
        memory = Memory()
        rows = profiled(job, memory)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        mib = [f"{n / 2**20:,.0f} MiB" for n in (memory.begin, memory.fifth, memory.most, peak)]
        print(
            f"resident: {mib[0]} before, at most {mib[1]} in the first fifth and {mib[2]} in all; the peak {mib[3]}",
            flush=True,
        )
        results = interleave({PROFILE: lambda: profiled(job), BARE: lambda: bare(job)}, arguments.rounds)
    print(f"{rows:,} rows, {len(job.columns)} columns\n{'rows/s':<20} {'by CPU time':>14} {'by the clock':>14}")
    for name in (PROFILE, BARE):
        print(f"{name:<20} {rate(results[name]):>14,.0f} {rate(results[name], 'seconds'):>14,.0f}")
    line, good = claim(f"{PROFILE} / {BARE}", results, PROFILE, BARE, LEAST)
    flat = memory.most <= MOST_GROWTH * memory.fifth
    grown = f"memory, all / first fifth: {memory.most / memory.fifth:.2f}; claimed at most {MOST_GROWTH:g}"
    print(f"\n{line}\n{'PASS' if flat else 'FAIL'}  {grown}")
    return 0 if good and flat else 1


if __name__ == "__main__":
    sys.exit(main())
