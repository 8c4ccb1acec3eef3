"""Kills the daily job at every boundary of its steps and inside each; the same command must end in the same champion.

    python -m tests.faults.daily_kills --inside 3 --seed 0

Day 3 is run from one and the same state: once undisturbed, then once for every point, killed there with kill -9 and run
again. What must hold: the second run exits with 0, one promotion was added, the champion's tensors are bit for bit
those of the undisturbed run, every ledger step is there once with the same facts, and no process is left behind.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pipeline.daily.ledger import STEPS
from tests.distributed.command import assert_bitwise, descendants
from tests.distributed.daily import DAYS, Daily

DAY = DAYS[2]
VARY = ("at", "term", "seconds", "waited_seconds", "checkpoint", "sha256", "holder", "statistics_seconds")


def points(inside: int, seed: int, usual: dict[str, float]) -> list[str]:
    """Every boundary of every step, and `inside` moments within each, of its usual seconds."""
    draw = random.Random(seed)
    out = []
    for step in STEPS:
        out += [f"{step}:before", f"{step}:done", f"{step}:committed"]
        out += [f"{step}:inside:{draw.uniform(0, usual[step]):.3f}" for _ in range(inside)]
    return out


def unlike(a: Any, b: Any, path: str = "") -> list[str]:
    """Where two ledgers differ, but for what names a moment or a directory of its own."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [at for key in a if key not in VARY for at in unlike(a[key], b[key], f"{path}/{key}")]
    return [] if a == b else [path]


def check_point(template: Daily, reference: Daily, folder: Path, point: str) -> None:
    """Kills at the point, runs again, compares. Raises AssertionError."""
    job = template.copy(folder)
    process = job.start("--date", DAY, kill_at=point)
    children: set[int] = set()
    while process.poll() is None:
        children |= set(descendants(process.pid))
        time.sleep(0.05)
    assert process.returncode == -9, (point, process.communicate()[0])
    process.communicate(timeout=30)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < deadline, f"{point}: processes are left behind"
        time.sleep(0.05)
    before = job.champion()
    assert before in (DAYS[1], DAY), point
    code, printed = job.run("--date", DAY)
    assert code == 0, (point, printed)
    assert job.champion() == DAY, point
    assert [p.model for p in job.registry.promotions()] == [p.model for p in reference.registry.promotions()], point
    differ = unlike(job.done(DAY), reference.done(DAY))
    assert differ == [], f"{point}: {differ}"
    assert list(job.done(DAY)) == list(STEPS), point
    assert_bitwise(job.checkpoint(DAY), reference.checkpoint(DAY))


def prepared(folder: Path) -> tuple[Daily, Daily]:
    """A job with two days done, and a copy of it with the third done undisturbed."""
    template = Daily.made(folder / "template")
    for day in DAYS[:2]:
        template.day(day)
    reference = template.copy(folder / "reference")
    reference.day(DAY)
    return template, reference


def main() -> None:
    """The whole campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inside", type=int, default=3, help="moments within each step (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        template, reference = prepared(Path(scratch))
        usual = {step: facts["seconds"] for step, facts in reference.done(DAY).items()}
        todo = points(arguments.inside, arguments.seed, usual)
        for number, point in enumerate(todo):
            check_point(template, reference, Path(scratch) / str(number), point)
            print(f"{number + 1:>3} of {len(todo)}  {point:<28} same champion, bit for bit", flush=True)
    print(f"{len(todo)} points, each the same champion bit for bit, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
