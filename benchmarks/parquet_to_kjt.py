"""What does Parquet -> KJT cost beside the decoding alone? The loader against bare `iter_batches`, in one run.

    python benchmarks/parquet_to_kjt.py                  # writes both logs into a temporary folder
    python benchmarks/parquet_to_kjt.py --rounds 9 --groups 112

On one core and one thread, sides taking turns, for the wide log (47 required columns) and the generated log:

    loader            row groups -> Batches with KJT, labels and spaces: shuffled, checked, page checksums verified
    bare, checked     ParquetFile.iter_batches over the same columns, page checksums verified as the loader does
    bare              the same at pyarrow's defaults: no checksums verified
    to_pylist         rows as Python lists and dicts -> tensors -> KJT, nothing checked; one step's rows a round

Ratios are of CPU seconds a row within a round, medians over the rounds. Claims: the loader reaches .85 of the bare
decoding that verifies what it verifies, and 100 times `to_pylist`.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import wide_log  # noqa: E402

DEFAULT_ROWS = 65_536
"""Of `iter_batches`, a call."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    out = argparse.ArgumentParser(
        "python benchmarks/parquet_to_kjt.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--rounds", type=int, default=7, metavar="N", help="times each side is measured (%(default)s)")
    out.add_argument("--groups", type=int, default=112, metavar="N", help="row groups of the wide log (%(default)s)")
    out.add_argument("--group-rows", type=int, default=32_768, metavar="N", help="rows of each (%(default)s)")
    out.add_argument("--core", type=int, default=0, metavar="N", help="the core to run on (%(default)s)")
    return out


def bare(job: Any, manifest: Any, checked: bool) -> int:
    """Decodes the job's columns of every row group, in the order of the files; returns the rows."""
    import pyarrow.parquet as pq

    rows = 0
    for path, groups in itertools.groupby(manifest.groups, key=lambda group: group.path):
        with pq.ParquetFile(path, page_checksum_verification=checked) as file:
            indices = [group.index for group in groups]
            for batch in file.iter_batches(DEFAULT_ROWS, indices, job.columns, use_threads=False):
                rows += batch.num_rows
    return rows


def load(job: Any, manifest: Any) -> int:
    """One epoch of the loader in this thread; returns the rows."""
    from pipeline.data.loader import Loader
    from pipeline.data.source import epoch_source

    source = epoch_source(job, manifest, epoch=0, shuffle=True)
    return sum(batch.rows for batch in Loader(job, source).batches())


def pylist(job: Any, manifest: Any) -> int:
    """One step by way of Python objects: rows of dicts, lists of ids, tensors, KJT; returns the rows."""
    import pyarrow.parquet as pq
    import torch
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    from schemas.features import BucketFeature, IdListFeature, StringFeature

    group, size = manifest.groups[0], job.train.batch_size
    with pq.ParquetFile(group.path, page_checksum_verification=True) as file:
        batch = next(file.iter_batches(size, [group.index], job.columns, use_threads=False))
    found = batch.to_pylist()
    values: list[int] = []
    lengths: list[int] = []
    for feature in job.embedded:
        for row in found:
            value = row[feature.source]
            if isinstance(feature, StringFeature):
                value = hash(value) % job.tables[feature.table_name].rows
            elif isinstance(feature, BucketFeature):
                value = sum(value >= edge for edge in feature.boundaries)
            ids = value if isinstance(feature, IdListFeature) else [value]
            values.extend(ids)
            lengths.append(len(ids))
    KeyedJaggedTensor([f.name for f in job.embedded], torch.tensor(values), lengths=torch.tensor(lengths))
    torch.tensor([[row[f.source] for f in job.dense] for row in found], dtype=torch.float32)
    torch.tensor([[row[t.source] for t in job.tasks] for row in found], dtype=torch.float32)
    return batch.num_rows


def measure(job: Any, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """CPU and wall ns a row of each side and round."""
    from pipeline.data.files import plan

    manifest = plan(job, job.data.train)
    sides: dict[str, Callable[[], int]] = {
        "loader": lambda: load(job, manifest),
        "bare, checked": lambda: bare(job, manifest, checked=True),
        "bare": lambda: bare(job, manifest, checked=False),
        "to_pylist": lambda: pylist(job, manifest),
    }
    for side in sides.values():  # once unseen: page cache, allocators, kernels
        side()
    out: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    names = list(sides)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            cpu, wall = time.process_time(), time.perf_counter()
            rows = sides[name]()
            out[name].append(((time.process_time() - cpu) / rows * 1e9, (time.perf_counter() - wall) / rows * 1e9))
    return out


def report(name: str, job: Any, results: dict[str, list[tuple[float, float]]]) -> None:
    """Prints a side a line, then the ratios."""
    print(f"\n{name}: {len(job.columns)} columns, {job.train.batch_size:,} rows a step, {job.data.lanes} lanes")
    print(f"{'':<26} {'CPU ns a row':>13} {'wall':>9} {'rows/s of CPU':>14}")
    for side, timings in results.items():
        cpu, wall = (statistics.median(column) for column in zip(*timings, strict=True))
        print(f"{side:<26} {cpu:>13,.0f} {wall:>9,.0f} {1e9 / cpu:>14,.0f}")
    print(f"{'ratio':<26} {'median':>13} {'least':>9} {'most':>14}")
    for side, other in (("bare, checked", "loader"), ("bare", "loader"), ("to_pylist", "loader")):
        ratios = [a[0] / b[0] for a, b in zip(results[side], results[other], strict=True)]
        print(
            f"{'loader / ' + side:<26} {statistics.median(ratios):>13.3f} {min(ratios):>9.3f} {max(ratios):>14.3f}",
            flush=True,
        )


def main() -> None:
    arguments = parser().parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    os.sched_setaffinity(0, {arguments.core})
    import torch

    from pipeline.data.generated_log import LogSpec, generate_log
    from pipeline.train.dist import quiet_libraries
    from schemas.load import load_job, parse_job

    quiet_libraries()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        wide, generated = Path(temporary) / "wide", Path(temporary) / "generated"
        wide_log.write(wide, arguments.groups, arguments.group_rows)
        generate_log(str(generated), LogSpec(days=2))
        example = str(ROOT / "jobs/configs/generated.yaml")
        jobs = {
            "wide log": parse_job(wide_log.config(wide), "the wide log's job"),
            "generated log": load_job(
                example, [f"data.path={generated}", "data.train.to=2026-01-02", "data.eval=null"]
            ),
        }
        print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f}, core {arguments.core}")
        for name, job in jobs.items():
            report(name, job, measure(job, arguments.rounds))


if __name__ == "__main__":
    main()
