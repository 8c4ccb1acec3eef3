"""Score models on the rows of an event log: each task's metrics, and each row's predictions.

    ./launch.sh score [TORCHRUN FLAGS] CONFIG.yaml score.out=DIR score.models.NAME=CHECKPOINT ... [key=value ...]

Every model is built as its own checkpoint was saved, and evaluated on `data.eval` of CONFIG.yaml. A checkpoint is one
commit, or a run's output, of which the newest commit is taken. A model whose scores are there already is passed
over.
"""

import argparse
import os
import sys

from jobs.train import attainable_aucs, check_ranks, die_with_launcher, handed_over, load
from pipeline.train.scoring import Scoring, plan_scoring, scoring_from_bytes
from pipeline.train.stop import Stop, Stopped
from schemas.job import JobConfig


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="./launch.sh score", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("config", help="a job's YAML: its data, train and tracking settings")
    out.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the YAML's")
    return out


def prepare(argv: list[str]) -> tuple[JobConfig, Scoring | None]:
    """The checked job and what there is to do, None for nothing. No torch; raises InputError."""
    job = load(argv, parser())
    scoring = plan_scoring(job)
    for name in scoring.passed_over:
        print(f"{name}: scored already, passed over", flush=True)
    return job, scoring if scoring.todo else None


def score(job: JobConfig, scoring: Scoring | None, stop: Stop) -> None:
    """Scores on the ranks torchrun started; the first rank's plan is every rank's."""
    # here and not above: a mistake in the configuration must not cost the seconds these take
    from pipeline.train.dist import process_group, quiet_libraries

    quiet_libraries()  # before TorchRec is imported: it warns as it loads
    from pipeline.train.agreement import first_ranks
    from pipeline.train.score import run_scoring

    with process_group(job.train.timeout_seconds, stop) as ranks:
        scoring = scoring_from_bytes(first_ranks(None if scoring is None else scoring.to_bytes()), job)
        run_scoring(job, scoring, ranks, {each.name: attainable_aucs(each.job) for each in scoring.todo})


def main(argv: list[str] | None = None) -> None:
    """One rank of the job."""
    stop = Stop()
    stop.install()
    die_with_launcher()
    job = load(sys.argv[1:] if argv is None else argv, parser())
    check_ranks(job)
    scoring = None
    if int(os.environ.get("RANK", 0)) == 0:
        planned = handed_over()
        scoring = plan_scoring(job) if planned is None else scoring_from_bytes(planned, job)
    try:
        score(job, scoring, stop)
    except Stopped as stopped:
        sys.exit(stop.farewell(stopped))


if __name__ == "__main__":
    from jobs.failure import leave

    leave(main)
