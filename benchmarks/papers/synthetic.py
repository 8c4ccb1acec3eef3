"""MMoE's and PLE's synthetic experiment: what architectures gain over a shared bottom as two tasks grow apart.

    python benchmarks/papers/synthetic.py                       # 5 correlations, 5 seeds
    python benchmarks/papers/synthetic.py --seeds 20 --rows 1400000 --out runs/synthetic

single_task, shared_bottom, mmoe and ple of one size learn the process of process.py for cosines of .2, .4, .5, .75 and
1 between the tasks' weights. A seed draws the process, the rows, the initial weights. All four see the same rows in
the same steps, none of them twice, and are scored on the same other rows. The error is the test MSE as a share of the
labels' variance, which differs from draw to draw, the mean of both tasks; a gain is the shared bottom's less the
side's, of one seed.

--out keeps every (correlation, seed) as it is done; the same command goes on from there. It gets synthetic.html,
synthetic.svg and synthetic.csv.
"""

import argparse
import concurrent.futures
import csv
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

CORRELATIONS = (0.2, 0.4, 0.5, 0.75, 1.0)
SIDES: dict[str, dict[str, Any]] = {
    "single_task": {"arch": "single_task", "bottom_layers": [16]},
    "shared_bottom": {"arch": "shared_bottom", "bottom_layers": [16]},
    "mmoe": {"arch": "mmoe", "experts": 8, "expert_layers": [16]},
    "ple": {"arch": "ple", "levels": 2, "task_experts": 2, "shared_experts": 2, "expert_layers": [16]},
}
BASELINE = "shared_bottom"
TEST_STREAM = 1 << 30
"""Of the rows that are scored; training steps count up from 0."""


def parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n\n")
    out = argparse.ArgumentParser(
        "python benchmarks/papers/synthetic.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("--seeds", type=int, default=5, metavar="N", help="draws of the process (%(default)s)")
    out.add_argument(
        "--rows", type=int, default=307_200, metavar="N", help="training rows (%(default)s; papers: 1.4 M)"
    )
    out.add_argument("--inputs", type=int, default=100, metavar="N", help="d: MMoE's 100 (%(default)s), PLE's 512")
    out.add_argument("--batch-size", type=int, default=512, metavar="N", help="rows a step (%(default)s)")
    out.add_argument("--size", type=int, default=14_800, metavar="N", help="parameters of each network (%(default)s)")
    out.add_argument("--lr", type=float, default=0.005, metavar="LR", help="AdamW's, cosine to 0 (%(default)s)")
    out.add_argument("--correlations", type=float, nargs="+", default=list(CORRELATIONS), metavar="P")
    out.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (%(default)s)")
    out.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (a temporary one)")
    out.add_argument("--quick", action="store_true", help="a smoke run: 2 seeds, 2 correlations, few rows")
    return out


def job_of(side: str, size: int, lr: float, steps: int, seed: int) -> Any:
    """The side as a checked job: its network, optimizer and tasks. The table is not used: inputs are numbers."""
    from schemas.job import JobConfig

    return JobConfig.model_validate(
        {
            "name": side,
            "output": "none",
            "seed": seed,
            "data": {"path": "none", "train": {"from": "2026-01-01", "to": "2026-01-01"}},
            "tables": {"none": {"rows": 1, "dim": 4}},
            "features": [{"name": "none", "kind": "id"}],
            "tasks": [{"name": name, "kind": "regression"} for name in ("first", "second")],
            "model": SIDES[side] | {"tower_layers": [8], "match_parameters": size},
            "dense_optimizer": {"lr": lr, "schedule": "cosine", "warmup_steps": min(20, steps // 10)},
            "train": {"precision": "fp32"},
        }
    )


def network(job: Any, inputs: int) -> Any:
    """The job's architecture and towers, scaled to its size, over `inputs` numbers."""
    import torch
    from torch import nn

    from pipeline.archs import ARCHS
    from pipeline.heads import Towers
    from pipeline.sizes import matched_widths, parameters
    from schemas.model import SCALED

    names = [task.name for task in job.tasks]

    def of(widths: Any) -> nn.Sequential:
        arch = ARCHS[job.model.arch](in_dim=inputs, tasks=2, **(job.model.arguments(names) | widths))
        return nn.Sequential(arch, Towers(arch.out_dims, 2, job.model.tower_layers))

    def count(widths: Any) -> int:
        with torch.device("meta"):
            return parameters(of(widths))

    declared = {key: list(value) for key, value in job.model if key in SCALED}
    widths = matched_widths(declared, count, job.model.match_parameters)
    torch.manual_seed(job.seed)
    return of(widths)


def unit(correlation: float, seed: int, inputs: int, rows: int, batch: int, size: int, lr: float) -> dict[str, Any]:
    """Trains every side on one draw: each task's test MSE by side, and what the labels are like."""
    import torch
    import torch.distributed as dist

    from benchmarks.papers.process import draw
    from pipeline.loss import Objective, task_losses, total_loss
    from pipeline.sizes import parameters
    from pipeline.train.optim import learning_rate

    torch.set_num_threads(1)
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    process = draw(seed, correlation, inputs)
    steps = max(1, rows // batch)
    jobs = {side: job_of(side, size, lr, steps, seed) for side in SIDES}
    networks = {side: network(job, inputs) for side, job in jobs.items()}
    optimizers = {side: torch.optim.AdamW(n.parameters(), lr=lr, weight_decay=0.0) for side, n in networks.items()}
    objective = Objective(jobs[BASELINE])
    share_B2 = torch.ones(batch, 2)
    for step in range(steps):
        x_BD, y_B2 = process.rows(batch, step)
        for side, net in networks.items():
            part_T, _ = task_losses(objective, net(x_BD), y_B2, share_B2)
            total_loss(part_T, [1.0, 1.0]).backward()
            for group in optimizers[side].param_groups:
                group["lr"] = learning_rate(jobs[side].dense_optimizer, step, steps)
            optimizers[side].step()
            optimizers[side].zero_grad(set_to_none=True)
    x_BD, y_B2 = process.rows(16_384, TEST_STREAM)
    with torch.no_grad():
        mse = {side: (net(x_BD) - y_B2).square().mean(0).tolist() for side, net in networks.items()}
    return {
        "mse": mse,
        "variance": y_B2.var(0).tolist(),
        "label_correlation": float(torch.corrcoef(y_B2.T)[0, 1]),
        "parameters": {side: parameters(net) for side, net in networks.items()},
    }


def kept(out: Path, correlation: float, seed: int, settings: dict[str, Any]) -> Path:
    """Where a unit's result lies: another setting has another file."""
    digest = hashlib.sha256(json.dumps([settings, SIDES], sort_keys=True).encode()).hexdigest()[:8]
    return out / "units" / f"{digest}-{correlation}-{seed}.json"


def gather(arguments: argparse.Namespace, out: Path) -> dict[tuple[float, int], dict[str, Any]]:
    """Every unit's result by (correlation, seed)."""
    settings = {
        "inputs": arguments.inputs,
        "rows": arguments.rows,
        "batch": arguments.batch_size,
        "size": arguments.size,
        "lr": arguments.lr,
    }
    places = {
        (correlation, seed): kept(out, correlation, seed, settings)
        for seed in range(arguments.seeds)
        for correlation in arguments.correlations
    }
    todo = [key for key, place in places.items() if not place.exists()]
    (out / "units").mkdir(parents=True, exist_ok=True)
    if len(todo) < len(places):
        print(f"  {len(places) - len(todo)} of {len(places)} units were done before", flush=True)
    began = time.monotonic()
    if todo:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(arguments.jobs, mp_context=context) as pool:
            running = {pool.submit(unit, *key, *settings.values()): key for key in todo}
            for number, done in enumerate(concurrent.futures.as_completed(running), start=1):
                place = places[running[done]]
                draft = place.with_suffix(".draft")
                draft.write_text(json.dumps(done.result()))
                os.replace(draft, place)
                print(f"  {number} of {len(todo)} units, {time.monotonic() - began:.0f} s", flush=True)
    return {key: json.loads(place.read_text()) for key, place in places.items()}


def errors(found: dict[tuple[float, int], dict[str, Any]], side: str, correlation: float, seeds: int) -> list[float]:
    """By seed: the side's MSE as a share of the labels' variance, the mean of both tasks."""
    units = [found[correlation, seed] for seed in range(seeds)]
    return [sum(mse / all_ for mse, all_ in zip(u["mse"][side], u["variance"], strict=True)) / 2 for u in units]


def gains(found: dict[tuple[float, int], dict[str, Any]], side: str, correlation: float, seeds: int) -> list[float]:
    """By seed: the baseline's error less the side's."""
    pairs = zip(errors(found, BASELINE, correlation, seeds), errors(found, side, correlation, seeds), strict=True)
    return [first - second for first, second in pairs]


def main() -> int:
    """Runs what has not been run, and reports."""
    arguments = parser().parse_args()
    if arguments.quick:
        arguments.seeds, arguments.correlations, arguments.rows, arguments.jobs = 2, [0.2, 1.0], 1024, 1
    if arguments.seeds < 2:
        print("--seeds: an interval takes 2 or more")
        return 2
    from benchmarks.papers.synthetic_report import report

    with tempfile.TemporaryDirectory(prefix="synthetic-") as temporary:
        out = (arguments.out or Path(temporary)).resolve()
        out.mkdir(parents=True, exist_ok=True)
        found = gather(arguments, out)
        report(found, arguments, out)
        write_csv(found, out / "synthetic.csv")
    return 0


def write_csv(found: dict[tuple[float, int], dict[str, Any]], path: Path) -> None:
    """A line a correlation, seed, side and task."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["correlation", "seed", "side", "task", "mse", "label_correlation"])
        for (correlation, seed), told in found.items():
            for side, values in told["mse"].items():
                for task, value in enumerate(values):
                    writer.writerow([correlation, seed, side, task, value, told["label_correlation"]])


if __name__ == "__main__":
    sys.exit(main())
