"""What telling costs: a job with its own record, wandb offline and telemetry, beside the same job that tells nothing.

    python benchmarks/telemetry.py [--rounds 12] [--events FOLDER] [key=value ...]

Both sides are the real loop over the generated log at its default settings, on one rank. They train in turn, 100 steps
a round, which is one look of telemetry and five progress lines, each handing over to the other at a line; what a side
does for a line is its own time. Printed: the ratio of the seconds of a step, round by round. The aim: 1 % at most.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.interleaved import machine  # noqa: E402
from schemas.load import load_tree, parse_job  # noqa: E402
from tests.distributed.ranks import run_ranks  # noqa: E402

AIM = 1.01
STEPS = 100
SIDES: dict[str, dict[str, Any]] = {
    "told": {"mode": "offline"},
    "silent": {"mode": "disabled", "telemetry": {"every": 0}},
}


class Turns:
    """Whose turn it is; a side that waits is not timed."""

    def __init__(self, names: list[str]) -> None:
        self._names, self._now, self._changed = names, names[0], threading.Condition()
        self._gone: set[str] = set()

    def wait(self, name: str) -> None:
        """Until it is the side's turn."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._now == name, timeout=600), f"{name} waited for its turn"

    def next(self, name: str, gone: bool = False) -> None:
        """Hands over."""
        with self._changed:
            if gone:
                self._gone.add(name)
            left = [other for other in self._names if other != name and other not in self._gone]
            self._now = left[0] if left else name
            self._changed.notify_all()


def side(name: str, tree: dict[str, Any], turns: Turns, out: dict[str, list[float]]) -> None:
    """Trains one side to its end; the seconds of each round."""
    import torch

    from pipeline.data.files import plan
    from pipeline.embedding.sharding import shard
    from pipeline.model import RankingModel
    from pipeline.tracking import Tracking
    from pipeline.train.checkpoint import Checkpoints
    from pipeline.train.dist import Ranks
    from pipeline.train.loop import Training
    from pipeline.train.optim import Optimizers
    from pipeline.train.precision import local
    from pipeline.train.run import START, tell_report

    turns.wait(name)
    job = local(parse_job(tree, "benchmark"), torch.device("cpu"))
    ranks = Ranks(0, 1, torch.device("cpu"))
    model = shard(RankingModel(job), job, ranks.device)
    training = Training(
        job, plan(job, job.data.train), model, Optimizers(model, job), ranks, Checkpoints(f"{job.output}/c", 1), tree
    )
    tracking = Tracking(job, "train", tree) if name == "told" else None
    since, lines = time.perf_counter(), 0

    def tell(report: Any) -> None:
        nonlocal since, lines
        tell_report(report, tracking)
        lines += 1
        if lines % (STEPS // job.train.log_every) == 0:
            out[name].append((time.perf_counter() - since) / STEPS)
            turns.next(name)
            turns.wait(name)
            since = time.perf_counter()

    training.run(START, tell)
    turns.next(name, gone=True)


def measured(rank: int, trees: dict[str, dict[str, Any]]) -> dict[str, list[float]]:
    """Both sides, in turn."""
    import contextlib
    import io

    turns, out = Turns(list(trees)), {name: [] for name in trees}
    failed: list[BaseException] = []

    def guarded(name: str, tree: dict[str, Any]) -> None:
        try:
            side(name, tree, turns, out)
        except BaseException as error:  # the other side must not wait for this one
            failed.append(error)
            turns.next(name, gone=True)

    threads = [threading.Thread(target=guarded, args=(name, tree)) for name, tree in trees.items()]
    with contextlib.redirect_stdout(io.StringIO()):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failed:
        raise failed[0]
    return out


def main() -> int:
    """Prints both sides and the ratio; 1 where the aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="of 100 steps a side, after one unseen (%(default)s)")
    parser.add_argument("--events", metavar="FOLDER", help="a generated log; default: made anew")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of both jobs")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        events = arguments.events or f"{scratch}/events"
        if not arguments.events:
            from jobs.generate import main as generate

            generate(["--out", events, "--days", "2", "--rows-per-day", "300000"])
        trees = {}
        for name, tracking in SIDES.items():
            tree = load_tree(str(ROOT / "jobs/configs/generated.yaml"), arguments.overrides)
            tree["output"], tree["tracking"] = f"{scratch}/{name}", tracking
            tree["data"] |= {"path": events, "train": {"from": "2026-01-01", "to": "2026-01-02"}}
            tree["data"].pop("eval", None)
            steps = STEPS * (arguments.rounds + 1)
            tree["train"] |= {"max_steps": steps, "epochs": 1000, "checkpoint_every": 10 * steps}
            trees[name] = tree
        (seconds,) = run_ranks(1, measured, trees, timeout=3600)
    told, silent = (seconds[name][1:] for name in SIDES)
    ratios = [a / b for a, b in zip(told, silent, strict=True)]
    print(f"machine  {machine()}; {arguments.rounds} rounds of {STEPS} steps a side, batch and rest as generated.yaml")
    for name, values in (("told", told), ("silent", silent)):
        low, middle, high = (1e3 * of(values) for of in (min, statistics.median, max))
        print(f"{name:7}  {middle:.2f} ms a step ({low:.2f} to {high:.2f})")
    median, both = statistics.median(ratios), sum(told) / sum(silent)
    passed = median <= AIM
    print(
        f"{'PASS' if passed else 'FAIL'}  told / silent: {median:.4f} by the median round ({min(ratios):.3f} to "
        f"{max(ratios):.3f}), {both:.4f} over all rounds; aim at most {AIM}"
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
