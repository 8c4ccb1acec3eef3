"""How long training stands still for a checkpoint, written at once or in the background.

    python benchmarks/async_save.py [--rounds 7] [--rows 2000000] [--ranks 2]

Tables of --rows rows x 32 in all (256 MB of weights by default, and row-wise Adagrad's state). Each round saves once at
once and once in the background, in turn, every step of the same training between them. Printed: the pause of either,
the ratio by round, and how long the write took. The aim: in the background at most 0.7 of at once.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.distributed.ranks import run_ranks  # noqa: E402
from tests.logs import DAYS, set_key, small_config, write_log  # noqa: E402

AIM = 0.7


def rank_main(rank: int, config: dict[str, Any], folder: str, rounds: int) -> list[dict[str, float]]:
    """One line of numbers a round, on this rank."""
    import torch.distributed as dist

    from pipeline.data.files import plan
    from pipeline.train.checkpoint import Checkpoints, Progress
    from pipeline.train.loop import total_steps, training_batches
    from pipeline.train.run import START
    from pipeline.train.step import TrainStep
    from tests.distributed.training import build

    job, model, optimizers, ranks = build(config, rank, dist.get_world_size())
    manifest = plan(job, job.data.train)
    steps = total_steps(job, manifest.rows)
    step = TrainStep(model, optimizers, job, ranks, steps)
    batches = training_batches(job, manifest, ranks, START)
    kinds = {kind: Checkpoints(f"{folder}/{kind}", 1, 600, kind == "background") for kind in ("at once", "background")}
    model.train()
    out, done = [], 0
    for number in range(rounds + 1):
        line: dict[str, float] = {}
        order = list(kinds) if number % 2 else list(kinds)[::-1]  # neither is always the first
        for kind in order:
            for _ in range(3):
                step(batches, done)
                done += 1
            dist.barrier()
            cpu, began = time.process_time(), time.perf_counter()
            progress = Progress(number + 1, 0, 0, 0)
            kinds[kind].save(model, optimizers.all, progress, config, "data")
            line[kind] = time.perf_counter() - began
            line[f"{kind} cpu"] = time.process_time() - cpu
            for _ in range(3):
                step(batches, done)
                done += 1
            kinds[kind].wait()
            (saved,) = kinds[kind].told()
            line[f"{kind} written"], line["bytes"] = saved.written_seconds, saved.bytes
            dist.barrier()
        if number:  # the first allocates the buffers and the files' blocks
            out.append(line)
    batches.close()
    step.detach()
    return out


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--rows", type=int, default=2_000_000)
    arguments.add_argument("--ranks", type=int, default=2)
    arguments.add_argument("--folder", help="where the checkpoints go; default: a folder of the system's for scratch")
    options = arguments.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        steps = 12 * (options.rounds + 1)
        write_log(f"{folder}/log", DAYS, steps * 8)
        config = small_config(f"{folder}/log", f"{folder}/out")
        set_key(config, "tables.session", {"rows": options.rows, "dim": 32, "sharding": "row_wise"})
        set_key(config, "train.batch_size", 16)
        ranks = run_ranks(options.ranks, rank_main, config, folder, options.rounds, timeout=550)
    print(f"{options.ranks} ranks, {ranks[0][0]['bytes'] / 1e6:,.0f} MB a checkpoint, {options.rounds} rounds")
    rounds = [{key: max(rank[n][key] for rank in ranks) for key in ranks[0][0]} for n in range(options.rounds)]
    for kind in ("at once", "background"):
        pause, written, cpu = (
            statistics.median(line[kind + more] for line in rounds) for more in ("", " written", " cpu")
        )
        print(f"{kind:<11} pause {pause:6.3f} s   committed after {written:6.3f} s   CPU in the pause {cpu:6.3f} s")
    ratios = sorted(line["background"] / line["at once"] for line in rounds)
    cpu_ratio = statistics.median(line["background cpu"] / line["at once cpu"] for line in rounds)
    median = statistics.median(ratios)
    print(
        f"pause in the background / at once: {median:.3f} (rounds: {ratios[0]:.3f} to {ratios[-1]:.3f}; "
        f"CPU {cpu_ratio:.3f}; aim: at most {AIM})"
    )
    sys.exit(median > AIM)


if __name__ == "__main__":
    main()
