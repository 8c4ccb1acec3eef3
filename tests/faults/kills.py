"""Kills a job at random points, resumes it on changing numbers of ranks, and audits every row that was trained.

    python -m tests.faults.kills --points 50 --seed 0                  kill -9 of the launcher and all ranks
    python -m tests.faults.kills --points 50 --seed 0 --signal TERM    SIGTERM to the launcher

One job is killed again and again until its end, then the next begins, until there were so many points. Saves come every
few steps and are made slow, so that many points fall inside one. What must hold: each resume goes on from the newest
committed step, each state that is loaded is bit for bit one that was saved, and every row id is trained exactly once an
epoch. After SIGTERM besides: exit code 75, and no step is lost.
"""

import argparse
import dataclasses
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from pipeline.train.stop import STOPPED
from tests.distributed import warm
from tests.distributed.audit_job import FOLDER, SAVE_SECONDS, STEP_SECONDS, Audit, audited
from tests.distributed.command import environment, kill_all
from tests.logs import DAYS, set_key, small_config, write_config, write_log

ROWS, BATCH, EPOCHS, EVERY = 2000, 16, 2, 7
STEPS = EPOCHS * ROWS // BATCH
WORLDS = (2, 2, 1, 1, 3, 3)
"""Ranks of one start after another: every second resume is on another number."""
SECONDS = 240
"""The longest a start, or a stop, may take."""
EARLY = 0.15
"""Share of the points that fall before the first step."""


@dataclasses.dataclass
class Tally:
    """What the campaign has met."""

    points: int = 0
    jobs: int = 0
    resumes: int = 0
    resized: int = 0
    before_first_step: int = 0
    inside_a_save: int = 0
    torn: int = 0
    """Directories without a manifest that a kill left behind."""
    steps_again: int = 0
    """Steps trained and lost with a kill, then trained again."""
    ended: Counter[int] = dataclasses.field(default_factory=Counter)
    """Exit codes."""


class Campaign:
    """One job after another under one folder."""

    def __init__(self, home: Path, seed: int, number: signal.Signals) -> None:
        self.home, self.number, self.random = home, number, random.Random(seed)
        self.tally = Tally()
        self.starts = 0
        write_log(home / "log", DAYS[:1], ROWS, seed=seed, row_group_rows=300, files_per_day=2)
        config = small_config(home / "log", "unused", DAYS[:1])
        changes = {
            "data.shuffle_rows": 200,
            "train.batch_size": BATCH,
            "train.epochs": EPOCHS,
            "train.checkpoint_every": EVERY,
            "train.log_every": 1000,
            "tables.city.sharding": "data_parallel",
            "dense_optimizer": {"lr": 0.002, "warmup_steps": 10, "schedule": "cosine"},
        }
        for key, value in changes.items():
            set_key(config, key, value)
        self.config = write_config(home / "job.yaml", config)

    def job(self, points: int) -> None:
        """One job to its end, killed at up to `points` points."""
        self.tally.jobs += 1
        output = self.home / f"out-{self.tally.jobs}"
        audit = self.home / f"audit-{self.tally.jobs}"
        audit.mkdir()
        world = 0
        while True:
            before, world = world, WORLDS[self.starts % len(WORLDS)]
            self.starts += 1
            newest = committed(output)
            self.tally.resumes += before > 0
            self.tally.resized += before not in (0, world)
            process = self.start(output, audit, world)
            try:
                if points == 0:
                    said, _ = process.communicate(timeout=SECONDS + STEPS)
                    assert process.returncode == 0, said
                    break
                ended = self.hit(process, audit)
            finally:
                kill_all(process)
            if ended:
                break
            points -= 1
            self.examine(output, audit, newest)
            print(
                f"point {self.tally.points}: {world} ranks, now at step {committed(output)}",
                file=sys.stderr,
                flush=True,
            )
        Audit(audit).check(ROWS, EPOCHS, STEPS)
        assert committed(output) == STEPS

    def start(self, output: Path, audit: Path, world: int) -> subprocess.Popen[str]:
        env = environment() | {FOLDER: str(audit), STEP_SECONDS: "0.02", SAVE_SECONDS: "0.1"}
        flags = ["--nproc-per-node", str(world), "--standalone"]
        return warm.Popen(
            audited([*flags, str(self.config), f"output={output}"]),
            env=env,
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def hit(self, process: subprocess.Popen[str], audit: Path) -> bool:
        """Waits for a random point and strikes there; True where the job ended before."""
        there = set(audit.iterdir())
        began = time.monotonic()
        if self.random.random() < EARLY:
            time.sleep(self.random.uniform(0, 2))
        else:
            while process.poll() is None and not trains(set(audit.iterdir()) - there):
                assert time.monotonic() - began < SECONDS, "no first step"
                time.sleep(0.02)
            time.sleep(self.random.uniform(0, 3))
        if process.poll() is not None:
            said = process.communicate()[0]
            assert process.returncode == 0, said
            return True
        self.tally.points += 1
        if self.number == signal.SIGKILL:
            kill_all(process)
        else:
            os.kill(process.pid, self.number)
            said, _ = process.communicate(timeout=SECONDS)
            self.tally.ended[process.returncode] += 1
            if process.returncode == 0:
                return True  # it came in the job's last moments
            if process.returncode == -self.number and not said:
                return False  # the interpreter had not come to the launcher's first line: the system ended it
            assert process.returncode == STOPPED, (process.returncode, said)
            assert "Traceback" not in said, said
            assert f"stopped by {self.number.name}" in said, said
        return False

    def examine(self, output: Path, audit: Path, newest: int) -> None:
        """What the attempt that was struck just now left behind."""
        record = Audit(audit)
        last = record.attempts[-1] if record.attempts else None
        self.tally.torn += sum(not (p / "manifest.json").exists() for p in output.glob("checkpoints/step-*"))
        if last is None or last.id in self.seen(audit):
            self.tally.before_first_step += 1
            assert committed(output) == newest
            return
        self.seen(audit).add(last.id)
        assert last.loaded == newest, f"step {newest} was the newest committed, {last.loaded} was restored"
        self.tally.inside_a_save += last.saving[-1:] != last.saved[-1:]
        lost = max(last.rows, default=last.loaded - 1) + 1 - committed(output)
        self.tally.steps_again += lost
        if self.number != signal.SIGKILL:
            assert lost == 0, f"{lost} steps were trained and not committed"

    def seen(self, audit: Path) -> set[int]:
        """Attempts of the job that were looked at already."""
        self._seen: dict[Path, set[int]] = getattr(self, "_seen", {})
        return self._seen.setdefault(audit, set())


def trains(files: set[Path]) -> bool:
    """Whether a rank has written down its first step."""
    for path in files:
        with path.open() as file:
            if any('"step"' in file.readline() for _ in range(3)):
                return True
    return False


def committed(output: Path) -> int:
    """The newest committed step, by the manifests alone."""
    steps = [int(path.parent.name.split("-")[1]) for path in output.glob("checkpoints/step-*/manifest.json")]
    return max(steps, default=0)


def campaign(home: Path, points: int, seed: int, number: signal.Signals) -> Tally:
    """Strikes `points` times; AssertionError at the first thing that does not hold."""
    run = Campaign(home, seed, number)
    while run.tally.points < points:
        run.job(points - run.tally.points)
    return run.tally


def main() -> None:
    """Prints what was met."""
    parser = argparse.ArgumentParser("python -m tests.faults.kills", description=__doc__.split("\n")[0])
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    known = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as home:
        tally = campaign(Path(home), known.points, known.seed, signal.Signals[f"SIG{known.signal}"])
    print(f"SIG{known.signal} at {tally.points} random points of {tally.jobs} jobs, seed {known.seed}")
    print(f"  {ROWS} rows, {EPOCHS} epochs, {STEPS} steps, a save every {EVERY} steps")
    print(f"  resumed {tally.resumes} times, {tally.resized} of them on another number of ranks (2 -> 1 -> 3 -> 2)")
    print(f"  {tally.before_first_step} points before the first step, {tally.inside_a_save} inside a save")
    print(f"  directories without a manifest seen after a kill: {tally.torn}")
    print(f"  steps trained again: {tally.steps_again}")
    if tally.ended:
        print(f"  exit codes: {dict(tally.ended)}")
    print("  every resume from the newest committed step, every loaded state one that was saved, bit for bit,")
    print("  every row id trained exactly once an epoch")
    print(f"  {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
