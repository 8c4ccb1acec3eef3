"""Does the input path hold training back? Rows/s of training from disk beside its two halves, in one run.

    python benchmarks/end_to_end.py                      # generates a log in a temporary folder, starts torchrun, measures
    python benchmarks/end_to_end.py --data PATH --ranks 4 train.batch_size=16384

Five things are timed in turn on the same ranks, in an order that rotates from round to round:

    end to end    the log on disk -> Loader (reader thread, shuffle) -> TrainStep, a whole pass of the log
    step alone    the same model and TrainStep, fed Batches that the same loader made beforehand and that lie in memory
    loader alone  the log -> Batches, in the calling thread, nothing done with them: what the input path costs by itself
    bare Parquet  ParquetFile.iter_batches over the job's columns of a rank's share of the row groups, threads off,
                  checksums not verified, as many rows a call as the loader reads, nothing done with them
    bare, checked the same with page checksums verified, as the loader does

Both training sides go through the one model, sharded as the job shards it: embeddings, loss and optimizers are the
job's; metrics, progress lines and checkpoints are left out. A side's rows/s is the sum of the ranks' rows over each
one's own seconds, all ranks having begun together. The table shows medians over the rounds with the least and the
most; ratios are taken within a round, then their median.

The claim under test: end to end reaches .9 of the slower of `step alone` and `bare Parquet`.
"""

import argparse
import contextlib
import dataclasses
import itertools
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # torchrun starts this file with benchmarks/ on the path, not the repository

if TYPE_CHECKING:
    from pipeline.batch import Batch
    from pipeline.data.files import Manifest
    from pipeline.train.dist import Ranks
    from pipeline.train.step import TrainStep
    from schemas.job import JobConfig

DAYS = 4  # the training days of the default configuration
WARM_STEPS = 12
TEMPORARY = "end-to-end-benchmark-"
END_TO_END, STEP, LOADER, BARE, CHECKED = "end to end", "step alone", "loader alone", "bare Parquet", "bare, checked"


def parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n\n")
    out = argparse.ArgumentParser(
        "python benchmarks/end_to_end.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = out.add_argument
    add("--data", metavar="PATH", help="a log with the configuration's training days (default: generated, temporary)")
    add("--rows-per-day", type=int, default=280_000, metavar="N", help="of the generated log, 4 days (%(default)s)")
    add("--config", default=str(ROOT / "jobs/configs/generated.yaml"), metavar="YAML", help="job (%(default)s)")
    add("--ranks", type=int, metavar="N", help="processes torchrun starts (default: one a GPU, 2 without)")
    add("--rounds", type=int, default=5, metavar="N", help="times each side is measured (%(default)s)")
    add("--steps", type=int, metavar="N", help="steps a training side runs in a round (default: a pass of the log)")
    add("--in-memory", type=int, default=64, metavar="N", help="distinct batches of `step alone` (%(default)s)")
    add("overrides", nargs="*", metavar="key=value", help="settings that replace the YAML's")
    return out


def launch(arguments: argparse.Namespace, argv: list[str]) -> int:
    """Generates the log where none is named and runs this file again on every rank, under torchrun."""
    import torch

    from pipeline.data.generated_log import LogSpec, generate_log

    ranks = arguments.ranks or torch.cuda.device_count() or 2
    # as launch.sh sets it for the real job: the cores shared out among the ranks
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // ranks)), **os.environ}
    with tempfile.TemporaryDirectory(prefix=TEMPORARY) as temporary:
        if arguments.data is None:
            summary = generate_log(temporary, LogSpec(days=DAYS, rows_per_day=arguments.rows_per_day))
            print(f"generated {summary.rows:,} rows in {summary.seconds:.0f} s", flush=True)
            argv = ["--data", temporary, *argv]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        return subprocess.run([*command, str(Path(__file__).resolve()), *argv], env=environment, check=False).returncode


@dataclasses.dataclass(frozen=True)
class Timing:
    """One side in one round on one rank."""

    rows: int
    seconds: float
    cpu: float
    """CPU seconds of this process, all its threads."""
    reader: float = 0.0
    """CPU seconds of the reader thread."""


class Bench:
    """The sides of one rank: each a method that returns the rows it worked through."""

    def __init__(
        self, job: "JobConfig", manifest: "Manifest", ranks: "Ranks", step: "TrainStep", arguments: argparse.Namespace
    ) -> None:
        from pipeline.data.source import epoch_source

        self.job, self.manifest, self.ranks, self.step = job, manifest, ranks, step
        self.source = epoch_source(job, manifest, 0, shuffle=True)
        self.steps = min(arguments.steps or self.source.order.steps(), self.source.order.steps())
        self._readers: list[Any] = []
        self._afterwards = contextlib.ExitStack()
        self.memory = list(itertools.islice(self._loader().batches(), min(arguments.in_memory, self.steps)))
        if len(self.memory) > 1 and self.memory[-1].end_row == manifest.rows:
            self.memory.pop()  # the last step of a pass may be a partial one
        self._before = [_copies(batch) for batch in self.memory]

    def sides(self) -> dict[str, Callable[[], int]]:
        """The sides by name, in the order of the table."""
        return {
            END_TO_END: self.end_to_end,
            STEP: lambda: self.step_alone(self.steps),
            LOADER: lambda: sum(batch.rows for batch in self._loader().batches()),
            BARE: lambda: self.bare(checked=False),
            CHECKED: lambda: self.bare(checked=True),
        }

    def end_to_end(self) -> int:
        """As the training loop does it, from the opening of the files on."""
        loader = self._afterwards.enter_context(self._loader())
        self._readers.append(loader)
        return self._train(iter(loader), self.steps)

    def step_alone(self, steps: int) -> int:
        """The same steps on the batches in memory, again and again."""
        return self._train(itertools.cycle(self.memory), steps)

    def _train(self, batches: "Iterator[Batch]", steps: int) -> int:
        import torch

        # TorchRec's pipeline runs ahead of the step; it gives out what it holds once its batches have ended
        some = itertools.islice(batches, steps)
        rows = sum(self.step(some, number).batch.rows for number in range(steps))
        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize()
        return rows

    def bare(self, checked: bool) -> int:
        """Decodes this rank's share of the row groups; the files' system is Arrow's own, as for the loader."""
        import pyarrow.parquet as pq

        from pipeline.data.lanes import READ_ROWS

        rows = 0
        mine = sorted(self.manifest.groups[self.ranks.rank :: self.ranks.world], key=lambda g: (g.path, g.index))
        for path, groups in itertools.groupby(mine, key=lambda group: group.path):
            with pq.ParquetFile(path, page_checksum_verification=checked) as file:
                indices = [group.index for group in groups]
                for batch in file.iter_batches(READ_ROWS, indices, self.job.columns, use_threads=False):
                    rows += batch.num_rows
        return rows

    def timed(self, side: Callable[[], int]) -> Timing:
        """One measurement; all ranks begin together."""
        import torch.distributed as dist

        self._readers.clear()
        dist.barrier()
        began, cpu = time.perf_counter(), time.process_time()
        rows = side()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        self._afterwards.close()  # a reader that is cut short may take half a second to notice
        return Timing(rows, seconds, cpu, sum(loader.cpu for loader in self._readers))

    def check_memory(self) -> None:
        """Raises RuntimeError where training wrote into the batches in memory, so that they were not the same again."""
        import torch

        for batch, before in zip(self.memory, self._before, strict=True):
            same = all(torch.equal(a, b) for a, b in zip(_tensors(batch), before, strict=True))
            # TorchRec caches offsets and lengths on the KJT it works on: a second pass must not find them done
            if not same or batch.sparse.offsets_or_none() is not None or batch.sparse.length_per_key_or_none():
                raise RuntimeError("the training step changed the batches it was fed; 'step alone' means nothing")

    def _loader(self) -> Any:
        return _loader_type()(self.job, self.source, self.ranks.rank, self.ranks.world)


def _loader_type() -> Any:
    """Loader that notes its thread's CPU seconds; a function, since the launcher must not import torch's world."""
    from pipeline.data.loader import Loader

    class TimedLoader(Loader):
        cpu = 0.0

        def batches(self) -> "Iterator[Batch]":
            began = time.thread_time()
            try:
                yield from super().batches()
            finally:
                self.cpu = time.thread_time() - began

    return TimedLoader


def _tensors(batch: "Batch") -> list[Any]:
    kjt = batch.sparse
    weights = [] if kjt.weights_or_none() is None else [kjt.weights()]
    dense = [batch.dense_BF, batch.labels_BT, batch.space_BT, batch.row_ids_B, batch.unknown_K, batch.ids_K]
    return [*dense, kjt.values(), kjt.lengths(), *weights]


def _copies(batch: "Batch") -> list[Any]:
    return [tensor.clone() for tensor in _tensors(batch)]


def measure(arguments: argparse.Namespace) -> None:
    """One rank of the measurement; rank 0 prints."""
    from pipeline.train.dist import process_group, quiet_libraries

    quiet_libraries()
    import torch.distributed as dist

    from pipeline.data.files import plan
    from pipeline.embedding.sharding import shard
    from pipeline.model import RankingModel
    from pipeline.train.optim import Optimizers
    from pipeline.train.step import TrainStep
    from schemas.load import load_job

    job = load_job(arguments.config, [f"data.path={arguments.data}", "data.eval=null", *arguments.overrides])
    manifest = plan(job, job.data.train)
    with process_group(job.train.timeout_seconds) as ranks:
        model = shard(RankingModel(job), job, ranks.device)
        model.train()
        step = TrainStep(model, Optimizers(model, job), job, ranks, steps=10**6)
        bench = Bench(job, manifest, ranks, step, arguments)
        sides = bench.sides()
        bench.step_alone(WARM_STEPS)
        bench.bare(checked=False)  # brings the files into the page cache, for all sides alike
        results: dict[str, list[list[Timing]]] = {name: [] for name in sides}
        for number in range(arguments.rounds):
            names = list(sides)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                gathered: list[Any] = [None] * ranks.world
                dist.all_gather_object(gathered, bench.timed(sides[name]))
                results[name].append(gathered)
        bench.check_memory()
        step.detach()
        if ranks.first:
            print(report(job, bench, results, arguments), flush=True)


def rate(ranks: list[Timing]) -> float:
    """Rows/s of all ranks together."""
    return sum(timing.rows / timing.seconds for timing in ranks)


def report(
    job: "JobConfig", bench: Bench, results: dict[str, list[list[Timing]]], arguments: argparse.Namespace
) -> str:
    """The machine, the sides and the ratios."""
    rates = {name: [rate(ranks) for ranks in rounds] for name, rounds in results.items()}
    lines = [
        *machine(bench.ranks),
        f"command  {shlex.join(['python', 'benchmarks/end_to_end.py', *_given(sys.argv[1:])])}",
        f"job      {job.model.arch}, {len(job.columns)} columns, {job.train.batch_size:,} rows a step over all ranks, "
        f"{bench.steps} steps of {bench.source.order.steps()} a pass, {bench.manifest.rows:,} rows in "
        f"{len(bench.manifest.groups)} row groups; {arguments.rounds} rounds",
        "",
        f"{'rows/s, all ranks':<20} {'median':>12} {'least':>12} {'most':>12}",
    ]
    lines += [f"{n:<20} {statistics.median(r):>12,.0f} {min(r):>12,.0f} {max(r):>12,.0f}" for n, r in rates.items()]
    lines += ["", f"{'ratio':<44} {'median':>7} {'least':>7} {'most':>7}"]
    slower = [min(pair) for pair in zip(rates[STEP], rates[BARE], strict=True)]
    ratios = {f"{END_TO_END} / {side}": (rates[END_TO_END], rates[side]) for side in (STEP, BARE)}
    ratios[f"{END_TO_END} / the slower of these two"] = (rates[END_TO_END], slower)
    ratios |= {f"{LOADER} / {side}": (rates[LOADER], rates[side]) for side in (BARE, CHECKED, STEP)}
    for name, (above, below) in ratios.items():
        values = [a / b for a, b in zip(above, below, strict=True)]
        lines.append(f"{name:<44} {statistics.median(values):>7.3f} {min(values):>7.3f} {max(values):>7.3f}")
    timings = [timing for ranks in results[END_TO_END] for timing in ranks]
    of_cpu = statistics.median(t.reader / t.cpu for t in timings)
    of_core = statistics.median(t.reader / t.seconds for t in timings)
    lines += ["", f"reader thread, end to end: {of_cpu:.1%} of its rank's CPU time, {of_core:.1%} of a core"]
    return "\n".join(lines)


def machine(ranks: "Ranks") -> list[str]:
    """What the numbers were taken on."""
    import torch

    try:
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    except OSError:
        names = []
    cpu = names[0].partition(":")[2].strip() if names else platform.machine()
    gpu = f", {torch.cuda.device_count()} x {torch.cuda.get_device_name()}" if ranks.device.type == "cuda" else ""
    return [
        f"machine  {cpu}, {os.cpu_count()} cores{gpu}, load {os.getloadavg()[0]:.1f} at the end; torch {torch.__version__}",
        f"ranks    {ranks.world} ({ranks.device.type}), {torch.get_num_threads()} threads each, OMP_NUM_THREADS="
        f"{os.environ.get('OMP_NUM_THREADS')}",
    ]


def _given(argv: list[str]) -> list[str]:
    """The arguments a person typed: without the temporary log that the launcher put first."""
    return argv[2:] if len(argv) > 1 and argv[0] == "--data" and TEMPORARY in argv[1] else argv


if __name__ == "__main__":
    known = parser().parse_args()
    sys.exit(measure(known) if "RANK" in os.environ else launch(known, sys.argv[1:]))
