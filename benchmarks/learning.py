"""What is learnt on the generated log: by each space, by each architecture under conflict, in each precision.

    python benchmarks/learning.py                        # all three studies, 5 seeds, a temporary folder
    python benchmarks/learning.py seesaw --seeds 5 --out runs/learning --conflict 0.9

    spaces      PLE trained in the spaces conditional, naive and entire: AUC and calibration of each child on clicked
                rows, and of its joint probability (CTCVR) on all exposures
    seesaw      single_task with tables of its own for each task (a model a task), the same over shared tables,
                shared_bottom, mmoe and ple, networks of one size, on a log in which click and order disagree about
                items: each task's gain in AUC over single_task
    precision   PLE in fp32 and in bf16: the same AUC within the noise of seeds?

Every run is the real command on one rank, its metrics read from the record it leaves. A seed fixes
weights, dropout and the order of rows; the log is one for all. Differences are paired by seed, with the mean and its
95 % interval by Student's t. --out keeps the runs: what is finished there is not run again.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.interleaved import machine  # noqa: E402
from pipeline.compare.statistics import estimate  # noqa: E402

CHILDREN = ("cart", "fav", "order")
TASKS = ("click", *CHILDREN)
SIZE = 120_000
"""Parameters of each dense network of `seesaw`."""
Values = dict[str, list[float]]
"""A metric's value a seed, by its key."""


@dataclasses.dataclass(frozen=True)
class Study:
    """Sides that differ in some settings."""

    sides: dict[str, list[str]]
    keys: list[str]
    """What is compared, as task/metric."""
    against: tuple[str, ...]
    """The sides that those behind them are held against."""
    conflict: bool = False
    """Whether it is run on the log of --conflict, not on that of ./launch.sh."""


def arch(words: str) -> list[str]:
    """Networks of one size; twice the steps, so that the deepest of them is past its slow start."""
    return [f"model={{{words}, tower_layers: [32], match_parameters: {SIZE}}}", "train.batch_size=1024"]


STUDIES = {
    "spaces": Study(
        {space: [f"space={space}"] for space in ("conditional", "naive", "entire")},
        [f"{t}/{metric}" for metric in ("auc", "calibration", "joint_auc", "joint_calibration") for t in CHILDREN],
        ("conditional",),
    ),
    "seesaw": Study(
        {
            "single_task": arch("arch: single_task, bottom_layers: [128, 64], separate_embeddings: true"),
            "shared tables": arch("arch: single_task, bottom_layers: [128, 64]"),
            "shared_bottom": arch("arch: shared_bottom, bottom_layers: [128, 64]"),
            "mmoe": arch("arch: mmoe, experts: 5, expert_layers: [128, 64]"),
            "ple": arch("arch: ple, task_experts: 1, shared_experts: 1, expert_layers: [128, 64]"),
        },
        [f"{task}/auc" for task in TASKS],
        ("single_task", "shared tables"),
        conflict=True,
    ),
    "precision": Study(
        {"fp32": ["train.precision=fp32"], "bf16": ["train.precision=bf16"]},
        [*(f"{task}/auc" for task in TASKS), *(f"{task}/log_loss" for task in TASKS)],
        ("fp32",),
    ),
}


def parser() -> argparse.ArgumentParser:
    summary, _, details = (__doc__ or "").partition("\n\n")
    out = argparse.ArgumentParser(
        "python benchmarks/learning.py",
        description=summary,
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    out.add_argument("studies", nargs="*", metavar="STUDY", help=f"of {', '.join(STUDIES)} (all)")
    out.add_argument("--seeds", type=int, default=5, metavar="N", help="runs of each side, 2 or more (%(default)s)")
    out.add_argument("--rows-per-day", type=int, default=140_000, metavar="N", help="4 days trained, 1 evaluated")
    out.add_argument("--conflict", type=float, default=0.9, metavar="C", help="of the log of `seesaw` (%(default)s)")
    out.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="runs at a time (%(default)s)")
    out.add_argument("--out", type=Path, metavar="DIR", help="folder of logs and runs (a temporary one)")
    out.add_argument("--set", action="append", default=[], metavar="key=value", help="a setting of every run")
    return out


def run(folder: Path, log: Path, overrides: list[str]) -> dict[str, float]:
    """Trains and evaluates in the folder, unless that is done; the evaluation's metrics by key."""
    record, bound = folder / "result.json", folder / "settings.json"
    # half of the rows of ./launch.sh in steps of half the size: as many steps
    quiet = [
        "train.batch_size=2048",
        "train.log_every=100000",
        "train.checkpoint_every=100000",
        "tracking.mode=disabled",
    ]
    settings = [f"data.path={log}", *quiet, *overrides]
    if folder.exists() and (not bound.exists() or json.loads(bound.read_text()) != settings):
        raise SystemExit(f"{folder}: was run with other settings or rows; name another --out, or remove it")
    if not record.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / ".settings.draft"
        draft.write_text(json.dumps(settings))
        os.replace(draft, bound)
        command = [
            sys.executable,
            "-m",
            "jobs.launch",
            "--nproc-per-node",
            "1",
            str(ROOT / "jobs/configs/generated.yaml"),
        ]
        command += [f"output={folder}", *settings]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    tasks = json.loads(record.read_text())["tasks"]
    return {
        f"{task}/{prefix}{metric}": value
        for task, told in tasks.items()
        for part, prefix in (("own", ""), ("joint", "joint_"))
        for metric, value in told.get(part, {}).items()
    }


def gather(name: str, study: Study, arguments: argparse.Namespace, out: Path) -> dict[str, Values]:
    """Each side's values, seed by seed; several runs at a time."""
    from pipeline.data.declared_truth import TruthSpec
    from pipeline.data.generated_log import LogSpec, generate_log

    world = TruthSpec(conflict=arguments.conflict) if study.conflict else TruthSpec()
    log = out / f"log-{world.conflict}-{arguments.rows_per_day}"
    generate_log(str(log), LogSpec(world, rows_per_day=arguments.rows_per_day))
    todo = [(side, seed) for seed in range(arguments.seeds) for side in study.sides]
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        found = {
            (side, seed): pool.submit(
                run, out / name / side / str(seed), log, [f"seed={seed}", *arguments.set, *study.sides[side]]
            )
            for side, seed in todo
        }
        for number, (side, seed) in enumerate(todo, start=1):
            found[side, seed].result()
            print(
                f"  {name}: {number} of {len(todo)} ({side}, seed {seed}), {time.monotonic() - began:.0f} s", flush=True
            )
    return {
        side: {key: [found[side, seed].result()[key] for seed in range(arguments.seeds)] for key in study.keys}
        for side in study.sides
    }


def interval(values: list[float]) -> tuple[float, float]:
    """The mean and half the width of its 95 % interval."""
    told = estimate(values)
    assert told.half is not None
    return told.mean, told.half


def report(name: str, study: Study, found: dict[str, Values]) -> None:
    """Means with their intervals, a line a metric; then the paired differences from each side of `against`."""
    print(f"\n{name}: mean +- half of the 95 % interval\n")
    print("".join([f"{'':<24}", *(f"{side:>20}" for side in found)]))
    for key in study.keys:
        told = [interval(values[key]) for values in found.values()]
        print("".join([f"{key:<24}", *(f"{f'{mean:.4f} +- {half:.4f}':>20}" for mean, half in told)]))
    sides = list(found)
    for first in study.against:
        others = sides[sides.index(first) + 1 :]
        print(f"\nless {first}, paired by seed; * where the interval leaves out 0\n")
        print("".join([f"{'':<24}", *(f"{side:>22}" for side in others)]))
        for key in study.keys:
            line = f"{key:<24}"
            for other in others:
                pairs = zip(found[first][key], found[other][key], strict=True)
                mean, half = interval([b - a for a, b in pairs])
                line += f"{f'{mean:+.4f} +- {half:.4f}' + (' *' if abs(mean) > half else '  '):>22}"
            print(line, flush=True)


def main() -> int:
    """Runs the studies that are named."""
    arguments = parser().parse_args()
    unknown = set(arguments.studies) - STUDIES.keys()
    if unknown or arguments.seeds < 2:
        print(f"no such study, or fewer than 2 seeds: {', '.join(unknown) or arguments.seeds}")
        return 2
    import torch

    with tempfile.TemporaryDirectory(prefix="learning-") as temporary:
        out = (arguments.out or Path(temporary)).resolve()
        print(
            f"machine  {machine()}; torch {torch.__version__}; {arguments.rows_per_day:,} rows a day, "
            f"{arguments.seeds} seeds"
        )
        for name in arguments.studies or STUDIES:
            report(name, STUDIES[name], gather(name, STUDIES[name], arguments, out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
