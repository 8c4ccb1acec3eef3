"""Score the rows of Parquet files: probabilities, values and the fused score, an output file for each input file.

    ./launch.sh predict [TORCHRUN FLAGS] CONFIG.yaml predict.input=PATH predict.out=DIR [key=value ...]

Every row of the input is in the output once, in the order of its file; `predict.keep=[user_id,item_id]` keeps columns
of the input. Labels need not be there. The same command goes on where it was killed, on any number of ranks.
"""

import argparse
import os
import sys

from jobs.checkpoints import named_checkpoint
from jobs.train import die_with_launcher, handed_over, load
from pipeline.predict.plan import KEY, Prediction, plan_prediction, prediction_from_bytes
from pipeline.train.stop import Stop, Stopped
from schemas.job import JobConfig


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="./launch.sh predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("config", help="the job's YAML: its data, train and fusion settings")
    out.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the YAML's")
    return out


def plan(job: JobConfig) -> Prediction:
    """What there is to do. No torch; raises InputError."""
    if job.predict is not None:
        checkpoint = named_checkpoint(job, job.predict.checkpoint, KEY)
        job = job.model_copy(update={"predict": job.predict.model_copy(update={"checkpoint": checkpoint})})
    return plan_prediction(job)


def prepare(argv: list[str]) -> tuple[JobConfig, Prediction | None]:
    """The checked job and what there is to do, None for nothing."""
    job = load(argv, parser())
    found = plan(job)
    if found.complete:
        print(f"predicted already: {found.config.out}", flush=True)
        return job, None
    return job, found


def predict(job: JobConfig, found: Prediction | None, stop: Stop) -> None:
    """Predicts on the ranks torchrun started; the first rank's plan is every rank's."""
    # here and not above: a mistake in the configuration must not cost the seconds these take
    from pipeline.train.dist import process_group, quiet_libraries

    quiet_libraries()  # before TorchRec is imported: it warns as it loads
    from pipeline.predict.run import run_prediction
    from pipeline.train.agreement import first_ranks

    with process_group(job.train.timeout_seconds, stop) as ranks:
        found = prediction_from_bytes(first_ranks(None if found is None else found.to_bytes()))
        run_prediction(found, ranks)


def main(argv: list[str] | None = None) -> None:
    """One rank of the job."""
    stop = Stop()
    stop.install()
    die_with_launcher()
    job = load(sys.argv[1:] if argv is None else argv, parser())
    found = None
    if int(os.environ.get("RANK", 0)) == 0:
        planned = handed_over()
        found = plan(job) if planned is None else prediction_from_bytes(planned)
    try:
        predict(job, found, stop)
    except Stopped as stopped:
        sys.exit(stop.farewell(stopped))


if __name__ == "__main__":
    from jobs.failure import leave

    leave(main)
