"""What telling costs: steps around a line that a job tells, beside steps around a line that it keeps to itself.

    python benchmarks/telemetry.py [--lines 200] [--events FOLDER] [key=value ...]

One job, the real loop over the generated log at its default settings, on one rank, with wandb offline, its own record
and telemetry. Every other progress line is told, and every tenth of those has a look of telemetry, as by default; the
rest are printed and no more. So both sides are one model in one process, whose memory lies alike: of two models in one
process one is often some percent slower from its beginning to its end. A line's steps are timed from the middle of one
window to the middle of the next, so that what wandb's own process does with a line is paid by the line. Printed: the
ratio of the seconds of a step with its 95 % interval over pairs of lines, and where the cost lies.
The aim: 1 % at most, by both.
"""

import argparse
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.interleaved import machine  # noqa: E402
from schemas.job import TelemetryConfig  # noqa: E402
from schemas.load import load_tree, parse_job  # noqa: E402
from tests.distributed.ranks import run_ranks  # noqa: E402

AIM = 1.01
WINDOW = 20
"""Steps of a line."""
UNSEEN = 10
"""Lines before the first that counts."""
Measured = dict[str, Any]


class Clocked:
    """Calls through, and adds up the seconds."""

    def __init__(self, act: Callable[..., Any]) -> None:
        self._act, self.seconds = act, 0.0

    def __call__(self, *given: Any) -> Any:
        """The call."""
        began = time.perf_counter()
        try:
            return self._act(*given)
        finally:
            self.seconds += time.perf_counter() - began


def measured(rank: int, tree: dict[str, Any], control: bool) -> Measured:
    """Seconds a step around each line, and those of the parts. As a `control` no line is told."""
    import contextlib
    import io

    import torch

    from pipeline.data.files import plan
    from pipeline.embedding.sharding import shard
    from pipeline.model import RankingModel
    from pipeline.tracking import Tracking
    from pipeline.train import telemetry
    from pipeline.train.checkpoint import Checkpoints
    from pipeline.train.dist import Ranks
    from pipeline.train.loop import Training
    from pipeline.train.optim import Optimizers
    from pipeline.train.precision import local
    from pipeline.train.run import START, tell_report

    job = local(parse_job(tree, "benchmark"), torch.device("cpu"))
    ranks = Ranks(0, 1, torch.device("cpu"))
    model = shard(RankingModel(job), job, ranks.device)
    training = Training(
        job, plan(job, job.data.train), model, Optimizers(model, job), ranks, Checkpoints(f"{job.output}/c", 1), tree
    )
    tracking = Tracking(job, "train", tree)
    before = cpu_of_children()  # wandb's process starts once a run, however long that is
    telling = [Clocked(lambda report: tell_report(report, tracking)), Clocked(lambda report: tell_report(report, None))]
    looks = {method: Clocked(getattr(telemetry.Telemetry, method)) for method in ("sample", "__call__")}
    for method, clocked in looks.items():
        setattr(telemetry.Telemetry, method, lambda *given, clocked=clocked: clocked(*given))
    seconds: list[float] = []
    since, steps = time.perf_counter(), 0

    def mark(*_: object) -> None:
        nonlocal since, steps
        if steps % WINDOW == WINDOW // 2:
            seconds.append((time.perf_counter() - since) / WINDOW)
            since = time.perf_counter()
        steps += 1

    model.register_forward_pre_hook(mark)
    with contextlib.redirect_stdout(io.StringIO()):
        training.run(START, lambda report: telling[control or report.progress.step // WINDOW % 2 == 0](report))
    of_wandb = cpu_of_children() - before
    tracking.finish()
    return {
        "lines": seconds[1:],  # the first is half a window
        "looks of telemetry": sum(clocked.seconds for clocked in looks.values()),
        "telling, in the loop": telling[0].seconds - telling[1].seconds,
        "wandb's process (CPU)": of_wandb,
    }


def cpu_of_children() -> float:
    """CPU seconds of the processes that this one started."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == os.getpid():
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def job_tree(arguments: argparse.Namespace, scratch: str) -> dict[str, Any]:
    """The generated job's configuration, over a log that it goes through again and again."""
    events = arguments.events or f"{scratch}/events"
    if not arguments.events:
        from jobs.generate import main as generate

        generate(["--out", events, "--days", "2", "--rows-per-day", "300000"])
    tree = load_tree(str(ROOT / "jobs/configs/generated.yaml"), arguments.overrides)
    every = 0 if arguments.control else 2 * TelemetryConfig().every  # of every other line: as often as by default
    tree["output"], tree["tracking"] = f"{scratch}/run", {"mode": "offline", "telemetry": {"every": every}}
    tree["data"] |= {"path": events, "train": {"from": "2026-01-01", "to": "2026-01-02"}}
    tree["data"].pop("eval", None)
    steps = WINDOW * (UNSEEN + arguments.lines) + WINDOW // 2 + 1
    tree["train"] |= {"log_every": WINDOW, "max_steps": steps, "epochs": 1000, "checkpoint_every": 10 * steps}
    return tree


def ratio_of_means(told: list[float], kept: list[float]) -> tuple[float, float]:
    """Told seconds for one second kept, and half of its 95 % interval (delta method over pairs)."""
    ratio = sum(told) / sum(kept)
    rest = [a - ratio * b for a, b in zip(told, kept, strict=True)]
    return ratio, 1.96 * statistics.stdev(rest) / math.sqrt(len(rest)) / statistics.mean(kept)


def main() -> int:
    """Prints both sides and the ratio; 1 where the aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=200, help=f"of {WINDOW} steps, half of them told (%(default)s)")
    parser.add_argument("--events", metavar="FOLDER", help="a generated log; default: made anew")
    parser.add_argument("--control", action="store_true", help="tell no line at all: what the measure itself gives")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the job")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        (out,) = run_ranks(1, measured, job_tree(arguments, scratch), arguments.control, timeout=7200)
    lines = out.pop("lines")
    told, kept = lines[UNSEEN::2], lines[UNSEEN + 1 :: 2]
    print(f"machine  {machine()}; {len(told)} lines told, {len(kept)} kept, batch and rest as generated.yaml")
    for name, values in (("told", told), ("kept", kept)):
        low, middle, high = (1e3 * of(values) for of in (min, statistics.median, max))
        print(f"{name:7}  {1e3 * statistics.mean(values):.2f} ms a step (median {middle:.2f}, {low:.2f} to {high:.2f})")
    line = WINDOW * statistics.mean(kept)
    each = {what: seconds / (len(lines) / 2) for what, seconds in out.items()}
    for what, seconds in each.items():
        print(f"{what:22} {1e3 * seconds:6.2f} ms a line, {seconds / line:.2%} of its steps")
    print(f"{'together':22} {1e3 * sum(each.values()):6.2f} ms a line, {sum(each.values()) / line:.2%} of its steps")
    ratio, error = ratio_of_means(told, kept)
    passed = max(ratio, 1 + sum(each.values()) / line) <= AIM
    print(
        f"{'PASS' if passed else 'FAIL'}  told / kept: {ratio:.4f} ({ratio - error:.4f} to {ratio + error:.4f}, 95 % "
        f"over pairs of lines); aim at most {AIM}"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
