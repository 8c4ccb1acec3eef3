"""What planning a day of many small files costs beside the bare parallel reading of their footers, in one run.

    python benchmarks/planning.py                    # 10,000 files of 2 row groups in a temporary folder

Three sides are timed in turn, in an order that rotates from round to round:

    plan            the log -> Manifest: listing, footers, schemas, digests
    bare            ThreadPoolExecutor.map(pq.read_metadata, files), with as many threads
    from stored     bytes of a checkpoint's manifest -> the frozen plan: the folders are listed, no file is opened

Ratios are taken within a round; CPU seconds are of all threads, and say what a side costs where the machine is shared.
The claims under test: plan takes at most 1.3 of bare; its memory grows with the row groups alone.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.data.files import LOCAL_THREADS, plan  # noqa: E402
from pipeline.data.freeze import frozen  # noqa: E402
from schemas.job import JobConfig  # noqa: E402
from schemas.load import load_job  # noqa: E402

DAY = "2026-01-01"
PLAN, BARE, STORED = "plan", "bare", "from stored"


def main() -> None:
    parser = argparse.ArgumentParser("python benchmarks/planning.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=10_000, metavar="N", help="small files of one day (%(default)s)")
    parser.add_argument("--groups", type=int, default=2, metavar="N", help="row groups of each (%(default)s)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="times each side is measured (%(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="planning-benchmark-") as folder:
        measure(Path(folder), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> None:
    job = small_files(folder, arguments.files, arguments.groups)
    paths = [str(path) for path in sorted((folder / f"dt={DAY}").glob("*.parquet"))]

    def bare() -> None:
        with ThreadPoolExecutor(LOCAL_THREADS) as pool:
            for _ in pool.map(pq.read_metadata, paths):
                pass

    manifest = plan(job, job.data.train)
    stored = manifest.to_bytes()
    sides: dict[str, Callable[[], object]] = {
        PLAN: lambda: plan(job, job.data.train),
        BARE: bare,
        STORED: lambda: frozen(job, job.data.train, stored),
    }
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    bare()  # once unseen: the files in the page cache for all sides
    for number in range(arguments.rounds):
        names = list(sides)
        for name in names[number % 3 :] + names[: number % 3]:
            began, used = time.perf_counter(), time.process_time()
            sides[name]()
            wall[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - used)
    groups = len(manifest.groups)
    print(f"{arguments.files:,} files, {groups:,} row groups, {LOCAL_THREADS} threads, {arguments.rounds} rounds")
    for name in sides:
        print(f"  {name:<12} {statistics.median(wall[name]):7.3f} s   CPU {statistics.median(cpu[name]):7.3f} s")
    for label, seconds in (("wall", wall), ("CPU", cpu)):
        ratios = [a / b for a, b in zip(seconds[PLAN], seconds[BARE], strict=True)]
        middle = statistics.median(ratios)
        print(f"  plan / bare, {label}: {middle:.3f} (rounds: {min(ratios):.2f} to {max(ratios):.2f}); wanted: 1.3")
    print(f"  stored manifest: {len(stored):,} bytes, {len(stored) / groups:.1f} a row group")
    for scale in (1, 4):
        print(f"  memory with {arguments.groups * scale} row groups a file: {memory(arguments, scale)}")


def memory(arguments: argparse.Namespace, scale: int) -> str:
    """Peak and lasting memory of a plan, of Python and Arrow together, a row group."""
    with tempfile.TemporaryDirectory(prefix="planning-benchmark-") as folder:
        files = max(1, arguments.files // 4)
        job = small_files(Path(folder), files, arguments.groups * scale)
        pool = pa.default_memory_pool()
        before = pool.bytes_allocated()
        tracemalloc.start()
        manifest = plan(job, job.data.train)
        lasting, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        lasting += pool.bytes_allocated() - before
        groups = len(manifest.groups)
    return (
        f"{groups:,} row groups, peak {peak / groups:,.0f} bytes a row group in Python, lasting {lasting / groups:,.0f}"
    )


def small_files(folder: Path, files: int, groups: int) -> JobConfig:
    """A day of equal small files that the generated job's columns stand in, and the job that reads it."""
    from pipeline.data.generated_log import SCHEMA

    rows = 4 * groups
    table = pa.table({f.name: pa.array([_value(f.type)] * rows, f.type) for f in SCHEMA}, SCHEMA)
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=4, write_page_checksum=True)
    day = folder / f"dt={DAY}"
    day.mkdir()
    for number in range(files):
        (day / f"part-{number:05d}.parquet").write_bytes(sink.getvalue())
    (day / "_SUCCESS").touch()
    days = f"{{from: {DAY}, to: {DAY}}}"
    return load_job(
        str(ROOT / "jobs/configs/generated.yaml"), [f"data.path={folder}", f"data.train={days}", "data.eval=null"]
    )


def _value(kind: pa.DataType) -> object:
    if pa.types.is_list(kind):
        return [_value(kind.value_type)] * 3
    return "x" if pa.types.is_string(kind) else 1


if __name__ == "__main__":
    main()
