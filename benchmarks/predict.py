"""`predict` beside a bare read and write of the same columns, and beside the model alone, on one core in one run.

    python benchmarks/predict.py [--rows N] [--rounds N] [--set key=value ...]

A model of jobs/configs/generated.yaml is trained for a few steps on a small generated log; then one day's file of N
rows is scored again and again. Sides are timed in turn, in an order that rotates:

    predict     from the checkpoint to the finished output: weights read and verified, rows decoded, checked, encoded,
                scored, written
    read write  iter_batches over the columns that predict reads, and as many columns of doubles as it writes, with the
                kept ones, written with the same compression and checksums; nothing computed
    model       embeddings and dense network on ready-made batches of the same rows, cut alike; nothing read or written

The claims: predict takes at most 1.25 times the CPU time of the model and of the bare read and write together. Ratios
are taken within a round.
"""

import argparse
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from benchmarks.fusion import command  # noqa: E402
from benchmarks.interleaved import interleave, pin, rate, setting  # noqa: E402

PREDICT, BARE, MODEL = "predict", "read write", "model"
KEEP = ["user_id", "item_id"]
DAY = "2026-01-02"
MOST = 1.25


def parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n\n")
    out = argparse.ArgumentParser(
        "python benchmarks/predict.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--rows", type=int, default=131_072, metavar="N", help="rows of the file (%(default)s)")
    out.add_argument("--rounds", type=int, default=5, metavar="N", help="times each side is measured (%(default)s)")
    out.add_argument("--set", nargs="*", default=[], metavar="key=value", help="settings of the model")
    return out


def main() -> int:
    arguments = parser().parse_args()
    with tempfile.TemporaryDirectory(prefix="predict-benchmark-") as temporary:
        return measure(Path(temporary), arguments)


def measure(folder: Path, arguments: argparse.Namespace) -> int:
    log = folder / "events"
    command(["jobs.generate", "--out", str(log), "--days", "2", "--rows-per-day", str(arguments.rows)])
    config = str(ROOT / "jobs/configs/generated.yaml")
    settings = [f"data.path={log}", "data.train.to=2026-01-01", "data.eval=null", f"output={folder / 'model'}"]
    settings += ["tracking.mode=disabled", "train.max_steps=4", "train.precision=fp32", *arguments.set]
    command(["jobs.launch", "train", "--nproc-per-node", "1", config, *settings])

    pin()
    import torch

    from jobs.predict import plan
    from pipeline.train.dist import process_group, quiet_libraries
    from schemas.load import load_job

    torch.set_num_threads(1)
    quiet_libraries()
    source, out = log / f"dt={DAY}", folder / "scores"
    words = [f"predict.input={source}", f"predict.out={out}", f"predict.keep=[{','.join(KEEP)}]"]
    words.append("fusion={terms: [{task: click}, {task: order, weight: 0.5, probability: joint}]}")
    job = load_job(config, [*settings, *words])
    with process_group(600) as ranks:
        from pipeline.predict.run import run_prediction

        found = plan(job)

        def predict() -> int:
            shutil.rmtree(out, ignore_errors=True)
            with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
                run_prediction(found, ranks)
            return arguments.rows

        predict()
        sides = {
            PREDICT: predict,
            BARE: bare(found, folder, arguments.rows),
            MODEL: model(found, ranks, arguments.rows),
        }
        results = interleave(sides, arguments.rounds)
    print(setting(arguments, f"torch {torch.__version__}, pyarrow {pa.__version__}"))
    megabytes = sum(f.size for f in found.files) / 1e6
    print(f"{len(found.job.tasks)} tasks, arch {found.job.model.arch}, {megabytes:.1f} MB read")
    for name in sides:
        by_cpu, by_clock = rate(results[name]), rate(results[name], "seconds")
        print(f"{name:<12} {by_cpu:>12,.0f} rows/s of CPU  {by_clock:>12,.0f} by the clock")
    together = [
        p.cpu / (b.cpu + m.cpu) for p, b, m in zip(results[PREDICT], results[BARE], results[MODEL], strict=True)
    ]
    share = [b.cpu / p.cpu for p, b in zip(results[PREDICT], results[BARE], strict=True)]
    print(f"the bare read and write is {statistics.median(share):.1%} of predict's CPU time")
    passed = statistics.median(together) <= MOST
    print(
        f"{'PASS' if passed else 'FAIL'}  predict over model and bare read and write together, CPU time: "
        f"{statistics.median(together):.2f} ({min(together):.2f} to {max(together):.2f}); claimed at most {MOST}"
    )
    return 0 if passed else 1


def bare(found: Any, folder: Path, rows: int) -> Callable[[], int]:
    """Reads what predict reads, and writes what it writes."""
    from pipeline.predict.output import GROUP_ROWS, ROW, output_schema
    from pipeline.predict.stream import Chunks

    schema = output_schema(found.job, found.kept(0))
    columns = Chunks(found, [])._source.columns
    numbers = np.random.default_rng(0).random((len(schema), rows))

    def run() -> int:
        kept = []
        for file in found.files:
            with pq.ParquetFile(file.path, page_checksum_verification=True) as source:
                kept += [b.select(KEEP) for b in source.iter_batches(65_536, columns=columns, use_threads=False)]
        arrays = dict(zip(KEEP, pa.Table.from_batches(kept).columns, strict=True)) | {ROW: pa.array(np.arange(rows))}
        arrays |= {name: pa.array(numbers[n]) for n, name in enumerate(schema.names) if name not in arrays}
        table = pa.table([arrays[name] for name in schema.names], schema=schema)
        with pq.ParquetWriter(folder / "bare.parquet", schema, compression="zstd", write_page_checksum=True) as writer:
            writer.write_table(table, row_group_size=GROUP_ROWS)
        return rows

    return run


def model(found: Any, ranks: Any, rows: int) -> Callable[[], int]:
    """Scores batches that are ready."""
    import torch

    from pipeline.data.collate import Collator
    from pipeline.data.rows import Part
    from pipeline.embedding.sharding import shard
    from pipeline.model import RankingModel
    from pipeline.predict.run import ROWS
    from pipeline.predict.schedule import BATCH_ROWS
    from pipeline.predict.stream import Chunks
    from pipeline.train.restore import load_model

    sharded = shard(RankingModel(found.job), found.job, ranks.device)
    load_model(found.commit, sharded)
    sharded.eval()
    collator, batches = Collator(found.job), []
    with Chunks(found, list(range(len(found.units)))) as chunks:
        for chunk in chunks:
            for begin in range(0, chunk.rows.num_rows, BATCH_ROWS):
                part = Part(chunk.rows, begin, min(begin + BATCH_ROWS, chunk.rows.num_rows))
                batches.append(collator([part], part.num_rows, 0, 0))

    @torch.no_grad()
    def run() -> int:
        for batch in batches:
            x = sharded.module.inputs(batch)
            for begin in range(0, len(x), ROWS):
                sharded.module.dense.logits(x[begin : begin + ROWS].clone())
        return rows

    return run


if __name__ == "__main__":
    sys.exit(main())
