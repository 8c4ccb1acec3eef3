"""Evaluate a checkpoint on any days: each task's metrics, and the same on slices of the rows.

    ./launch.sh evaluate [TORCHRUN FLAGS] CONFIG.yaml evaluate.out=DIR [evaluate.checkpoint=CHECKPOINT] \\
        [evaluate.days={from: DAY, to: DAY}] [evaluate.slices=[COLUMN, ...]] [key=value ...]

The model is built as its checkpoint was saved, and its metrics are those that training's own evaluation would tell.
The rows' predictions stay in DIR: a second call, with other slices, measures them without the model.
"""

import argparse
import os
import sys

from jobs.checkpoints import named_checkpoint
from jobs.train import attainable_aucs, check_ranks, die_with_launcher, handed_over, load
from pipeline.evaluate.plan import KEY, check_columns, config_of
from pipeline.evaluate.plan import scoring_job as evaluation_job
from pipeline.train.scoring import Scoring, ToScore, plan_scoring, scoring_from_bytes
from pipeline.train.stop import Stop, Stopped
from schemas.job import JobConfig


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="./launch.sh evaluate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("config", help="a job's YAML: its data, train and evaluate settings")
    out.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the YAML's")
    return out


def scoring_job(job: JobConfig) -> JobConfig:
    """The job by which the rows are scored. No torch; raises InputError."""
    config = config_of(job)
    return evaluation_job(job, named_checkpoint(job, config.checkpoint, KEY))


def plan(job: JobConfig) -> Scoring:
    """What there is to score. No torch; raises InputError."""
    scoring = plan_scoring(scoring_job(job), lambda name: KEY)
    check_columns(job, scoring.models[0])
    return scoring


def prepare(argv: list[str]) -> tuple[JobConfig, Scoring | None]:
    """The checked job and what there is to score, None for nothing: then all is measured here. Raises InputError."""
    job = load(argv, parser())
    scoring = plan(job)
    if scoring.todo:
        return job, scoring
    print("scored already, measured anew", flush=True)
    report(job, scoring.models[0])
    return job, None


def report(job: JobConfig, model: ToScore) -> None:
    """Measures what was scored, prints it and writes it."""
    from pipeline.evaluate import evaluation

    content, text = evaluation.evaluation(job, model, attainable_aucs(model.job))
    print(f"\n{text}\n")
    print(f"evaluated   {evaluation.write(job, content)}", flush=True)


def main(argv: list[str] | None = None) -> None:
    """One rank of the job."""
    stop = Stop()
    stop.install()
    die_with_launcher()
    job = load(sys.argv[1:] if argv is None else argv, parser())
    check_ranks(job)
    first, scoring = int(os.environ.get("RANK", 0)) == 0, None
    if first:
        planned = handed_over()
        scoring = plan(job) if planned is None else scoring_from_bytes(planned, scoring_job(job))
    try:
        scoring = score(scoring_job(job), scoring, stop)
    except Stopped as stopped:
        sys.exit(stop.farewell(stopped))
    stop.undefer()
    if first:
        report(job, scoring.models[0])


def score(job: JobConfig, scoring: Scoring | None, stop: Stop) -> Scoring:
    """Scores on the ranks torchrun started; the first rank's plan, which is every rank's."""
    # here and not above: a mistake in the configuration must not cost the seconds these take
    from pipeline.train.dist import process_group, quiet_libraries

    quiet_libraries()  # before TorchRec is imported: it warns as it loads
    from pipeline.train.agreement import first_ranks
    from pipeline.train.score import run_scoring

    with process_group(job.train.timeout_seconds, stop) as ranks:
        scoring = scoring_from_bytes(first_ranks(None if scoring is None else scoring.to_bytes()), job)
        run_scoring(job, scoring, ranks, {}, table=False)
    return scoring


if __name__ == "__main__":
    from jobs.failure import leave

    leave(main)
