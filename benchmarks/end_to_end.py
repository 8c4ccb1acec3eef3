"""Does the input path hold training back? Rows/s of training from disk beside its two halves, in one run.

    python benchmarks/end_to_end.py                  # generates a log in a temporary folder and starts torchrun itself
    python benchmarks/end_to_end.py --data PATH --ranks 4 train.batch_size=16384

Five sides are timed in turn on the same ranks, in an order that rotates from round to round:

    end to end     the log on disk -> Loader (reader thread, shuffle) -> TrainStep
    step alone     the same model and TrainStep, fed Batches that the same loader made beforehand and that lie in memory
    loader alone   the log -> Batches in the calling thread, nothing done with them: what the input path costs by itself
    bare Parquet   ParquetFile.iter_batches over the job's columns of a rank's share of the row groups, nothing done
                   with them: threads off, page checksums not verified, as many rows a call as the loader reads
    bare, checked  the same with page checksums verified, as the loader does

Both training sides drive the one model, sharded, with the job's loss and optimizers; metrics, progress lines and
checkpoints are left out. Each of their rounds is a few untimed steps and then --steps timed ones. `end to end` goes on
in the log where its last round stopped, epoch after epoch, so that refilling the shuffle and opening the next epoch
take their due share; the untimed steps use up what the reader made ready while other sides ran. The decoding sides
make a whole pass a round.

A side's rows/s is the sum over the ranks of rows over seconds. Ratios are taken within a round; `CPU us a row` is of
all rounds together, and says what a side costs where the machine is shared. The claim under test: end to end reaches
.95 of the slower of `step alone` and `loader alone`, so that reading hides behind the step, or the step behind it.
"""

import argparse
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

DAYS = 4
"""Training days of the default configuration."""
TEMPORARY = "end-to-end-benchmark-"
END_TO_END, STEP, LOADER, BARE, CHECKED = "end to end", "step alone", "loader alone", "bare Parquet", "bare, checked"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    out = argparse.ArgumentParser(
        "python benchmarks/end_to_end.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = out.add_argument
    add("--data", metavar="PATH", help="a log with the configuration's training days (default: generated, temporary)")
    add(
        "--rows-per-day",
        type=int,
        default=280_000,
        metavar="N",
        help=f"of the generated log, {DAYS} days (%(default)s)",
    )
    add("--config", default=str(ROOT / "jobs/configs/generated.yaml"), metavar="YAML", help="the job (generated.yaml)")
    add("--ranks", type=int, metavar="N", help="processes torchrun starts (default: one a GPU, 2 without)")
    add("--rounds", type=int, default=10, metavar="N", help="times each side is measured (%(default)s)")
    # 16 steps of the default job refill one lane's shuffle block on each of two ranks
    add("--steps", type=int, default=32, metavar="N", help="timed steps of a training side in a round (%(default)s)")
    add("--in-memory", type=int, default=64, metavar="N", help="distinct batches of `step alone` (%(default)s)")
    add("overrides", nargs="*", metavar="key=value", help="settings that replace the YAML's")
    return out


def launch(arguments: argparse.Namespace, argv: list[str]) -> int:
    """Generates the log where none is named and runs this file again on every rank, under torchrun."""
    import torch

    from pipeline.data.generated_log import LogSpec, generate_log

    ranks = arguments.ranks or torch.cuda.device_count() or 2
    # as launch.sh does for the real job: the cores shared out among the ranks
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
    reader: float
    """CPU seconds of the reader thread."""


class Bench:
    """The sides, on one rank."""

    def __init__(
        self, job: "JobConfig", manifest: "Manifest", ranks: "Ranks", step: "TrainStep", arguments: argparse.Namespace
    ) -> None:
        self.job, self.manifest, self.ranks, self.step, self.steps = job, manifest, ranks, step, arguments.steps
        # what the reader and the pipeline have made ready, and as much again for the two to fall into step
        self.warm_steps = 2 * (job.data.prefetch_batches + 2)
        self._readers: list[Any] = []
        self._endless = self._epochs()
        batches = itertools.islice(self._loader(0).batches(), arguments.in_memory)
        # pinned as the training loop has the loader pin them
        self.memory = [b.pin_memory() if ranks.device.type == "cuda" else b for b in batches]
        self._before = [[tensor.clone() for tensor in _tensors(batch)] for batch in self.memory]

    def sides(self) -> dict[str, Callable[[], Timing]]:
        """The sides by name, in the order of the table."""
        return {
            END_TO_END: lambda: self._train(self._endless),
            STEP: lambda: self._train(itertools.cycle(self.memory)),
            LOADER: lambda: self._decode(lambda: sum(batch.rows for batch in self._loader(0).batches())),
            BARE: lambda: self._decode(lambda: self._bare(checked=False)),
            CHECKED: lambda: self._decode(lambda: self._bare(checked=True)),
        }

    def _epochs(self) -> "Iterator[Batch]":
        """As `training_batches` of the training loop, without an end."""
        for epoch in itertools.count():
            with self._loader(epoch) as loader:
                self._readers.append(loader)
                yield from loader

    def _loader(self, epoch: int) -> Any:
        from pipeline.data.source import epoch_source

        source = epoch_source(self.job, self.manifest, epoch, shuffle=True)
        pin = self.ranks.device.type == "cuda"
        return _timed_loader()(self.job, source, self.ranks.rank, self.ranks.world, pin=pin)

    def _train(self, batches: "Iterator[Batch]") -> Timing:
        # TorchRec's pipeline runs ahead of the step and gives out what it holds once its batches end: as many steps
        # as batches, and none is left in it for the next side
        some = itertools.islice(batches, self.warm_steps + self.steps)
        for number in range(self.warm_steps):
            self.step(some, number)
        began = self._now()
        return self._since(began, sum(self.step(some, number).batch.rows for number in range(self.steps)))

    def _decode(self, work: Callable[[], int]) -> Timing:
        began = self._now()
        return self._since(began, work())

    def _bare(self, checked: bool) -> int:
        import pyarrow.parquet as pq

        from pipeline.data.reader import READ_ROWS

        rows = 0
        mine = sorted(self.manifest.groups[self.ranks.rank :: self.ranks.world], key=lambda g: (g.path, g.index))
        for path, groups in itertools.groupby(mine, key=lambda group: group.path):
            with pq.ParquetFile(path, page_checksum_verification=checked) as file:
                indices = [group.index for group in groups]
                for batch in file.iter_batches(READ_ROWS, indices, self.job.columns, use_threads=False):
                    rows += batch.num_rows
        return rows

    def _now(self) -> tuple[float, float, float]:
        """Wall clock, CPU seconds of the process, CPU seconds of the reader threads so far."""
        import torch

        if self.ranks.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time(), sum(reader.cpu for reader in self._readers)

    def _since(self, began: tuple[float, float, float], rows: int) -> Timing:
        return Timing(rows, *(after - before for after, before in zip(self._now(), began, strict=True)))

    def check_memory(self) -> None:
        """Raises RuntimeError where training changed the batches in memory, so that a second pass was not the first."""
        import torch

        for batch, before in zip(self.memory, self._before, strict=True):
            same = all(torch.equal(a, b) for a, b in zip(_tensors(batch), before, strict=True))
            # TorchRec keeps offsets and lengths on the KJT it works on: a second pass must not find them there
            if not same or batch.sparse.offsets_or_none() is not None or batch.sparse.length_per_key_or_none():
                raise RuntimeError(f"the training step changed the batches it was fed: '{STEP}' means nothing")

    def close(self) -> None:
        """Ends the reader thread."""
        self._endless.close()  # type: ignore[attr-defined] # a generator


def _timed_loader() -> Any:
    """A Loader that notes its thread's CPU seconds at every batch; made here, since the launcher needs no TorchRec."""
    from pipeline.data.loader import Loader

    class TimedLoader(Loader):
        cpu = 0.0

        def batches(self) -> "Iterator[Batch]":
            began = time.thread_time()
            for batch in super().batches():
                self.cpu = time.thread_time() - began
                yield batch

    return TimedLoader


def _tensors(batch: "Batch") -> list[Any]:
    kjt = batch.sparse
    dense = [batch.dense_BF, batch.labels_BT, batch.space_BT, batch.row_ids_B, batch.unknown_K, batch.ids_K]
    return [*dense, kjt.values(), kjt.lengths(), *([] if kjt.weights_or_none() is None else [kjt.weights()])]


def measure(arguments: argparse.Namespace) -> None:
    """One rank of the measurement; rank 0 prints."""
    from pipeline.train.dist import process_group, quiet_libraries

    quiet_libraries()
    import torch.distributed as dist

    from pipeline.data.files import plan
    from pipeline.embedding.sharding import shard
    from pipeline.model import RankingModel
    from pipeline.train.optim import Optimizers
    from pipeline.train.precision import local
    from pipeline.train.step import TrainStep
    from schemas.load import load_job

    job = load_job(arguments.config, [f"data.path={arguments.data}", "data.eval=null", *arguments.overrides])
    manifest = plan(job, job.data.train)
    with process_group(job.train.timeout_seconds) as ranks:
        job = local(job, ranks.device)
        model = shard(RankingModel(job), job, ranks.device)
        model.train()
        if job.train.compile:
            model.module.dense.compile(dynamic=True)
        step = TrainStep(model, Optimizers(model, job), job, ranks, steps=10**6)
        bench = Bench(job, manifest, ranks, step, arguments)
        sides = bench.sides()
        for side in (STEP, BARE):  # once unseen: allocators and kernels warm, the files in the page cache for all sides
            sides[side]()
        results: dict[str, list[list[Timing]]] = {name: [] for name in sides}
        for number in range(arguments.rounds):
            names = list(sides)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                dist.barrier()
                gathered: list[Any] = [None] * ranks.world
                dist.all_gather_object(gathered, sides[name]())
                results[name].append(gathered)
        bench.close()
        bench.check_memory()
        step.detach()
        if ranks.first:
            print("\n".join([*setting(bench, arguments), *table(results)]), flush=True)


def setting(bench: Bench, arguments: argparse.Namespace) -> list[str]:
    """What was measured, on what."""
    import torch

    job, ranks, groups = bench.job, bench.ranks, len(bench.manifest.groups)
    try:
        named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    except OSError:
        named = []
    cpu = named[0].partition(":")[2].strip() if named else platform.machine()
    gpu = f", {torch.cuda.device_count()} x {torch.cuda.get_device_name()}" if ranks.device.type == "cuda" else ""
    argv = sys.argv[1:]
    typed = argv[2:] if TEMPORARY in arguments.data else argv  # the launcher put the temporary log first
    return [
        f"machine  {cpu}, {os.cpu_count()} cores{gpu}; torch {torch.__version__}",
        f"load     {os.getloadavg()[0]:.1f} over the last minute, with {ranks.world} ranks of its own",
        f"command  {shlex.join(['python', 'benchmarks/end_to_end.py', *typed])}",
        f"ranks    {ranks.world} ({ranks.device.type}), {torch.get_num_threads()} torch threads each",
        f"job      {job.model.arch}, {len(job.columns)} columns, {job.train.batch_size:,} rows a step over all ranks; "
        f"{bench.manifest.rows:,} rows in {groups} row groups, {job.data.lanes} lanes",
        f"rounds   {arguments.rounds}, {arguments.steps} timed steps each after {bench.warm_steps} untimed ones",
    ]


def table(results: dict[str, list[list[Timing]]]) -> list[str]:
    """Rates and ratios, and what the reader took; `results` by side, round and rank."""
    rates = {
        name: [sum(timing.rows / timing.seconds for timing in ranks) for ranks in rounds]
        for name, rounds in results.items()
    }
    slower = [min(pair) for pair in zip(rates[STEP], rates[LOADER], strict=True)]
    ratios = {f"{END_TO_END} / {side}": (rates[END_TO_END], rates[side]) for side in (STEP, LOADER)}
    ratios[f"{END_TO_END} / the slower of these two"] = (rates[END_TO_END], slower)
    ratios |= {f"{LOADER} / {side}": (rates[LOADER], rates[side]) for side in (BARE, CHECKED, STEP)}
    lines = ["", f"{'rows/s, all ranks':<38} {'median':>11} {'least':>11} {'most':>11} {'CPU us a row':>13}"]
    for name, of_rounds in rates.items():
        timings = [timing for ranks in results[name] for timing in ranks]
        cpu = sum(t.cpu for t in timings) / sum(t.rows for t in timings)
        lines.append(f"{name:<38} {_spread(of_rounds, '11,.0f')} {cpu * 1e6:>13.2f}")
    lines += ["", f"{'ratio':<38} {'median':>11} {'least':>11} {'most':>11}"]
    for name, (above, below) in ratios.items():
        lines.append(f"{name:<38} {_spread([a / b for a, b in zip(above, below, strict=True)], '11.3f')}")
    timings = [timing for ranks in results[END_TO_END] for timing in ranks]
    share = sum(t.reader for t in timings) / sum(t.cpu for t in timings)
    core = sum(t.reader for t in timings) / sum(t.seconds for t in timings)
    row = sum(t.reader for t in timings) / sum(t.rows for t in timings)
    lines += ["", f"reader thread: {share:.1%} of its rank's CPU time, {core:.1%} of a core, {row * 1e6:.2f} us a row"]
    return lines


def _spread(values: list[float], form: str) -> str:
    return " ".join(format(value, form) for value in (statistics.median(values), min(values), max(values)))


if __name__ == "__main__":
    known = parser().parse_args()
    if "RANK" in os.environ:
        measure(known)
    else:
        sys.exit(launch(known, sys.argv[1:]))
