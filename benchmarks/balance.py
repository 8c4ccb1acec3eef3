"""What each method of balancing costs: a training step beside that of `fixed`.

    python benchmarks/balance.py [--rounds N] [--steps N] [key=value ...]

All methods take turns in one run, on 2 ranks and the job of `./launch.sh`, fed from memory, each with a model of its
own that begins from the same weights. `gradnorm` is measured at every step and at every 10th. Ratios are of the two
sides of one round, medians over rounds; those of CPU time hold on a busy machine too.
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

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
SIDES: dict[str, list[str]] = {
    "fixed": ["balance.method=fixed"],
    "uncertainty": ["balance.method=uncertainty"],
    "gradnorm": ["balance.method=gradnorm"],
    "gradnorm/10": ["balance.method=gradnorm", "balance.every=10"],
    "pcgrad": ["balance.method=pcgrad"],
    "mgda": ["balance.method=mgda"],
}


def parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n\n")
    out = argparse.ArgumentParser(
        "python benchmarks/balance.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--rounds", type=int, default=10, metavar="N", help="times each side is measured (%(default)s)")
    out.add_argument("--steps", type=int, default=10, metavar="N", help="timed steps of a side in a round")
    out.add_argument("--ranks", type=int, default=2, metavar="N")
    out.add_argument("--data", metavar="PATH", help="the log (default: generated, temporary)")
    out.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the YAML's")
    return out


def measure(arguments: argparse.Namespace) -> None:
    """One rank; rank 0 prints."""
    from pipeline.train.dist import process_group, quiet_libraries

    quiet_libraries()
    import torch
    import torch.distributed as dist

    from benchmarks.interleaved import machine
    from pipeline.data.files import plan
    from pipeline.data.loader import Loader
    from pipeline.data.source import epoch_source
    from pipeline.embedding.sharding import shard
    from pipeline.model import RankingModel
    from pipeline.train.optim import Optimizers
    from pipeline.train.precision import local
    from pipeline.train.step import TrainStep
    from schemas.load import load_job

    config = str(ROOT / "jobs/configs/generated.yaml")
    settings = [f"data.path={arguments.data}", "data.eval=null", *arguments.overrides]
    jobs = {name: load_job(config, [*settings, *told]) for name, told in SIDES.items()}
    job = jobs["fixed"]
    with process_group(job.train.timeout_seconds) as ranks:
        steps = {}
        for name, own in jobs.items():
            own = local(own, ranks.device)
            plain = RankingModel(own)
            model = shard(plain, own, ranks.device)
            if own.train.compile:
                plain.dense.compile(dynamic=True)
            model.train()
            steps[name] = TrainStep(model, Optimizers(model, own), own, ranks, steps=10**6)
        loader = Loader(job, epoch_source(job, plan(job, job.data.train), 0, shuffle=True), ranks.rank, ranks.world)
        memory = list(itertools.islice(loader.batches(), 16))
        done = dict.fromkeys(SIDES, 0)

        def side(name: str) -> tuple[float, float]:
            """Wall-clock and CPU seconds a step."""
            some = itertools.islice(itertools.cycle(memory), arguments.steps)
            dist.barrier()
            began, cpu = time.perf_counter(), time.process_time()
            for _ in range(arguments.steps):
                steps[name](some, done[name])
                done[name] += 1
            if ranks.device.type == "cuda":
                torch.cuda.synchronize()
            return (time.perf_counter() - began) / arguments.steps, (time.process_time() - cpu) / arguments.steps

        for name in SIDES:
            side(name)
        results: dict[str, list[tuple[float, float]]] = {name: [] for name in SIDES}
        names = list(SIDES)
        for number in range(arguments.rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                results[name].append(side(name))
        if ranks.first:
            print(f"machine  {machine()}; torch {torch.__version__}")
            print("\n".join(table(results, job.train.batch_size, ranks.world, len(job.tasks))), flush=True)


def table(results: dict[str, list[tuple[float, float]]], rows: int, world: int, tasks: int) -> list[str]:
    """Medians over rounds; ratios are to `fixed` in the same round."""
    lines = [f"{rows:,} rows a step over {world} ranks, {tasks} tasks, {len(results['fixed'])} rounds", ""]
    lines.append(f"{'':<12} {'ms a step':>10} {'CPU ms':>8} {'of fixed':>9} {'by CPU':>7}  {'rounds, by CPU':<14}")
    for name, timings in results.items():
        wall, cpu = (statistics.median(values) * 1e3 for values in zip(*timings, strict=True))
        pairs = list(zip(timings, results["fixed"], strict=True))
        by_wall, by_cpu = ([own[i] / fixed[i] for own, fixed in pairs] for i in (0, 1))
        lines.append(
            f"{name:<12} {wall:>10.1f} {cpu:>8.1f} {statistics.median(by_wall):>9.2f} {statistics.median(by_cpu):>7.2f}"
            f"  {min(by_cpu):.2f} to {max(by_cpu):.2f}"
        )
    return lines


def main() -> int:
    """Starts the ranks, or is one."""
    arguments = parser().parse_args()
    if "RANK" in os.environ:
        measure(arguments)
        return 0
    from pipeline.data.generated_log import LogSpec, generate_log

    with tempfile.TemporaryDirectory(prefix="balance-") as folder:
        argv = sys.argv[1:]
        if arguments.data is None:
            generate_log(folder, LogSpec(days=4, rows_per_day=20_000))
            argv = ["--data", folder, *argv]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        command += [str(arguments.ranks), str(Path(__file__).resolve()), *argv]
        return subprocess.run(command, env={"OMP_NUM_THREADS": "1", **os.environ}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
