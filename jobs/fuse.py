"""Tune the weights of the fused score on held-out days, under floors, and write them as YAML.

    ./launch.sh fuse [TORCHRUN FLAGS] CONFIG.yaml fuse.out=DIR fuse.objective.task=TASK \\
        [fuse.days={from: DAY, to: DAY}] [fuse.check={from: DAY, to: DAY}] [fuse.floors.TASK.at_most_below=0.01]

DIR/fusion.yaml holds the section `fusion`: copy it into the job's YAML, or give `fusion=@DIR/fusion.yaml` to predict.
DIR/fuse.html shows the Pareto front. A second call tunes anew on the predictions that are there.
"""

import argparse
import os
import pickle
import sys
import time
from collections.abc import Sequence

from jobs.checkpoints import named_checkpoint
from jobs.train import check_ranks, die_with_launcher, handed_over, load
from pipeline.fuse.plan import KEY, check_model, config_of, fusion_of, scoring_jobs
from pipeline.train.scoring import Scoring, ToScore, plan_scoring, scoring_from_bytes
from pipeline.train.stop import Stop, Stopped
from schemas.job import JobConfig

SECONDS_BETWEEN_LINES = 10.0


class Scorings(list[Scoring]):
    """What there is to score, days by days."""

    def to_bytes(self) -> bytes:
        """For the ranks."""
        return pickle.dumps([each.to_bytes() for each in self])


def scorings_from_bytes(data: bytes, jobs: Sequence[JobConfig]) -> Scorings:
    """What `to_bytes` wrote."""
    return Scorings(scoring_from_bytes(each, job) for each, job in zip(pickle.loads(data), jobs, strict=True))


class Progress:
    """A line every few seconds."""

    def __init__(self) -> None:
        self._told = time.perf_counter()

    def __call__(self, looked_at: int) -> None:
        """Prints it, unless the last one is fresh."""
        if time.perf_counter() - self._told > SECONDS_BETWEEN_LINES:
            self._told = time.perf_counter()
            print(f"{looked_at:,} weights looked at", flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="./launch.sh fuse", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("config", help="a job's YAML: its data, fusion and fuse settings")
    out.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the YAML's")
    return out


def jobs_of(job: JobConfig) -> list[JobConfig]:
    """The jobs by which the rows are scored. No torch; raises InputError."""
    return scoring_jobs(job, named_checkpoint(job, config_of(job).checkpoint, KEY))


def plan(job: JobConfig) -> Scorings:
    """What there is to score. No torch; raises InputError."""
    found = Scorings(plan_scoring(each, lambda name: KEY) for each in jobs_of(job))
    check_model(job, [each.models[0] for each in found])
    return found


def prepare(argv: list[str]) -> tuple[JobConfig, Scorings | None]:
    """The checked job and what there is to score, None for nothing: then all is tuned here. Raises InputError."""
    job = load(argv, parser())
    found = plan(job)
    if any(each.todo for each in found):
        return job, found
    print("scored already, tuned anew", flush=True)
    report(job, [each.models[0] for each in found])
    return job, None


def report(job: JobConfig, models: Sequence[ToScore]) -> None:
    """Tunes on what was scored, prints what came of it and writes it. Raises InputError."""
    from pipeline.fuse.day import Day
    from pipeline.fuse.report import text, write
    from pipeline.fuse.tune import tune

    config, fusion = config_of(job), fusion_of(models[0].job)
    days = [Day(model, fusion, config, config.out.rstrip("/")) for model in models]
    tuned = tune(fusion, config, job.seed, days[0], days[1] if len(days) > 1 else None, Progress())
    print(f"\n{text(tuned)}\n")
    for address in write(tuned, config.out):
        print(f"written     {address}", flush=True)


def main(argv: list[str] | None = None) -> None:
    """One rank of the job."""
    stop = Stop()
    stop.install()
    die_with_launcher()
    job = load(sys.argv[1:] if argv is None else argv, parser())
    check_ranks(job)
    jobs, found = jobs_of(job), None
    first = int(os.environ.get("RANK", 0)) == 0
    if first:
        planned = handed_over()
        found = plan(job) if planned is None else scorings_from_bytes(planned, jobs)
    try:
        found = score(jobs, found, stop)
    except Stopped as stopped:
        sys.exit(stop.farewell(stopped))
    stop.undefer()
    if first:
        report(job, [each.models[0] for each in found])


def score(jobs: Sequence[JobConfig], found: Scorings | None, stop: Stop) -> Scorings:
    """Scores on the ranks torchrun started; the first rank's plan, which is every rank's."""
    # here and not above: a mistake in the configuration must not cost the seconds these take
    from pipeline.train.dist import process_group, quiet_libraries

    quiet_libraries()  # before TorchRec is imported: it warns as it loads
    from pipeline.train.agreement import first_ranks
    from pipeline.train.score import run_scoring

    with process_group(jobs[0].train.timeout_seconds, stop) as ranks:
        found = scorings_from_bytes(first_ranks(None if found is None else found.to_bytes()), jobs)
        for job, each in zip(jobs, found, strict=True):
            run_scoring(job, each, ranks, {}, table=False)
    return found


if __name__ == "__main__":
    from jobs.failure import leave

    leave(main)
