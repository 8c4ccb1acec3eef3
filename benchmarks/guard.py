"""What the guard of the loss and the signals cost: at most 2 % of a training step.

    python benchmarks/guard.py [--rounds N] [--steps N] [key=value ...]

Two sides take turns in one run, on 2 ranks and the job of `./launch.sh`, fed from memory: the step as it is, and the
same step whose loss neither sends signals along nor is read by the host to see whether it is finite. The all-reduce
itself is in both: the loss needs its sums. On CPU the read waits for nothing; on a GPU it waits for the forward pass
once a step, which this benchmark measures only where it is run on one.

The difference is far below the noise of a step, so the two losses alone are timed as well, forward and all-reduce, on
the logits of one batch: what the one takes more of CPU time than the other, as a share of a step's.
"""

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SIDES = ("guarded", "bare")
LOSSES = 100
"""Losses alone, a side and round."""


def parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n\n")
    out = argparse.ArgumentParser(
        "python benchmarks/guard.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--rounds", type=int, default=20, metavar="N", help="times each side is measured (%(default)s)")
    out.add_argument("--steps", type=int, default=10, metavar="N", help="timed steps of a side in a round")
    out.add_argument("--ranks", type=int, default=2, metavar="N")
    out.add_argument("--data", metavar="PATH", help="the log (default: generated, temporary)")
    out.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the YAML's")
    return out


def bare_losses(
    objective: Any, logits_BT: "Tensor", labels_BT: "Tensor", share_BT: "Tensor", *_: Any
) -> tuple["Tensor", Any]:
    """pipeline.loss.task_losses without guard and signals."""
    import torch
    import torch.distributed as dist

    from pipeline.loss import LossSums

    outside_BT = share_BT == 0
    local_T = torch.where(outside_BT, 0.0, share_BT * objective.row_losses(logits_BT, labels_BT, outside_BT)).sum(0)
    sums_2T = torch.stack([local_T.detach().double(), share_BT.sum(0, dtype=torch.float64)])
    dist.all_reduce(sums_2T)
    sums = LossSums(sums_2T[0], sums_2T[1], [0.0, 0.0, 0.0, 0.0])
    return local_T / sums.rows_T.clamp(min=1).to(local_T.dtype), sums


def measure(arguments: argparse.Namespace) -> None:
    """One rank; rank 0 prints."""
    from pipeline.train.dist import process_group, quiet_libraries

    quiet_libraries()
    import torch
    import torch.distributed as dist

    import pipeline.train.step
    from pipeline.data.files import plan
    from pipeline.data.loader import Loader
    from pipeline.data.source import epoch_source
    from pipeline.embedding.sharding import shard
    from pipeline.loss import Objective
    from pipeline.model import RankingModel
    from pipeline.train.optim import Optimizers
    from pipeline.train.precision import local
    from pipeline.train.step import TrainStep
    from schemas.load import load_job

    config = str(ROOT / "jobs/configs/generated.yaml")
    job = load_job(config, [f"data.path={arguments.data}", "data.eval=null", *arguments.overrides])
    manifest = plan(job, job.data.train)
    losses = {"guarded": pipeline.train.step.task_losses, "bare": bare_losses}
    with process_group(job.train.timeout_seconds) as ranks:
        job = local(job, ranks.device)
        model = shard(RankingModel(job), job, ranks.device)
        model.train()
        step = TrainStep(model, Optimizers(model, job), job, ranks, steps=10**6)
        loader = Loader(job, epoch_source(job, manifest, 0, shuffle=True), ranks.rank, ranks.world)
        memory = list(itertools.islice(loader.batches(), 16))

        def side(name: str) -> tuple[float, float]:
            """Wall-clock and CPU seconds a step."""
            setattr(pipeline.train.step, "task_losses", losses[name])  # noqa: B010
            some = itertools.islice(itertools.cycle(memory), arguments.steps)
            dist.barrier()
            began, cpu = time.perf_counter(), time.process_time()
            for number in range(arguments.steps):
                step(some, number)
            if ranks.device.type == "cuda":
                torch.cuda.synchronize()
            return (time.perf_counter() - began) / arguments.steps, (time.process_time() - cpu) / arguments.steps

        batch = memory[0].to(ranks.device)
        logits_BT = torch.randn(batch.labels_BT.shape, device=ranks.device)
        objective, signals = Objective(job), [*ranks.stop.signals(), 0.0]

        def alone(name: str) -> float:
            """CPU seconds of one loss."""
            dist.barrier()
            began = time.process_time()
            for _ in range(LOSSES):
                losses[name](objective, logits_BT, batch.labels_BT, batch.trained_BT, signals)
            return (time.process_time() - began) / LOSSES

        for name in SIDES:
            side(name)
            alone(name)
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in SIDES}
        single: dict[str, list[float]] = {name: [] for name in SIDES}
        for number in range(arguments.rounds):
            for name in SIDES if number % 2 else SIDES[::-1]:
                results[name].append(side(name))
                single[name].append(alone(name))
        if ranks.first:
            print("\n".join(table(results, single, job.train.batch_size, ranks.world)), flush=True)


def table(
    results: dict[str, list[tuple[float, float]]], single: dict[str, list[float]], rows: int, world: int
) -> list[str]:
    """Medians over rounds; ratios are of the two sides of one round."""
    lines = [f"{rows:,} rows a step over {world} ranks, {len(results['bare'])} rounds", ""]
    lines.append(f"{'':<12} {'ms a step':>10} {'CPU ms a step':>14}")
    for name, timings in results.items():
        wall, cpu = (statistics.median(values) * 1e3 for values in zip(*timings, strict=True))
        lines.append(f"{name:<12} {wall:>10.2f} {cpu:>14.2f}")
    pairs = list(zip(results["guarded"], results["bare"], strict=True))
    for index, what in enumerate(("wall clock", "CPU time")):
        ratios = [guarded[index] / bare[index] for guarded, bare in pairs]
        low, high = statistics.quantiles(ratios, n=4)[::2]
        middle = statistics.median(ratios)
        lines.append(f"guarded / bare, {what}: {middle:.4f} (middle half of the rounds: {low:.4f} to {high:.4f})")
    more = statistics.median(a - b for a, b in zip(single["guarded"], single["bare"], strict=True))
    share = more / statistics.median(cpu for _, cpu in results["bare"])
    lines.append(f"the loss alone takes {more * 1e6:.0f} us of CPU more with the guard: {share:.3%} of a step's")
    return lines


def main() -> int:
    """Starts the ranks, or is one."""
    arguments = parser().parse_args()
    if "RANK" in os.environ:
        measure(arguments)
        return 0
    from pipeline.data.generated_log import LogSpec, generate_log

    with tempfile.TemporaryDirectory(prefix="guard-") as folder:
        argv = sys.argv[1:]
        if arguments.data is None:
            generate_log(folder, LogSpec(days=4, rows_per_day=20_000))
            argv = ["--data", folder, *argv]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        command += [str(arguments.ranks), str(Path(__file__).resolve()), *argv]
        return subprocess.run(command, env={"OMP_NUM_THREADS": "1", **os.environ}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
