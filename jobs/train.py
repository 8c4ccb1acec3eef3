"""Train a model on an event log, resume it, evaluate it.

    ./launch.sh train [TORCHRUN FLAGS] CONFIG.yaml [key=value ...]

TORCHRUN FLAGS are torchrun's own, such as --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:PORT --nproc-per-node 8.
Overrides take dotted keys: train.batch_size=4096, tasks.cart.weight=2. The same command again goes on from the newest
committed checkpoint.
"""

import argparse
import ctypes
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from pipeline.data.files import Manifest, filesystem, plan
from schemas.errors import InputError
from schemas.events import TRUTH_FILE
from schemas.job import JobConfig
from schemas.load import load_job


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="./launch.sh train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("config", help="the job's YAML")
    out.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the YAML's")
    return out


def prepare(argv: list[str]) -> tuple[JobConfig, Manifest, Manifest | None]:
    """The checked job and the manifests of its training and evaluation days. No torch; raises InputError."""
    arguments = parser().parse_args(argv)
    job = load_job(arguments.config, arguments.overrides)
    training = plan(job, job.data.train)
    check_steps(job, training)
    check_output(job)
    return job, training, plan(job, job.data.eval) if job.data.eval else None


def attainable_aucs(job: JobConfig) -> dict[str, float]:
    """Best attainable AUC by row of the closing table, where the log declares its truth and one day is evaluated.

    Only for a task that asks what the truth answers: the label of its own name, given a click where it is no click.
    """
    if job.data.eval is None or job.data.eval.first != job.data.eval.last:
        return {}
    fs, root = filesystem(job.data.path)
    if not fs.exists(f"{root}/{TRUTH_FILE}"):
        return {}
    day = json.loads(fs.cat_file(f"{root}/{TRUTH_FILE}"))["days"].get(str(job.data.eval.first), {})
    labels = {task.name: task.source for task in job.tasks}
    found = {}
    for task in job.tasks:
        given = None if task.given is None else labels[task.given]
        if task.source in day and given == (None if task.source == "click" else "click"):
            found[task.name] = day[task.source]["auc"]
            if task.source in day["joint"]:
                found[f"{task.name} (joint)"] = day["joint"][task.source]["auc"]
    return found


def train(job: JobConfig, training: Manifest, evaluation: Manifest | None) -> None:
    """Trains and evaluates the job on the ranks torchrun started."""
    # here and not above: a mistake in the configuration must not cost the seconds these take
    from pipeline.train.dist import process_group, quiet_libraries

    quiet_libraries()  # before TorchRec is imported: it warns as it loads
    from pipeline.train.run import run_job

    with process_group(job.train.timeout_seconds) as ranks:
        run_job(job, training, evaluation, ranks, attainable_aucs(job))


def check_output(job: JobConfig) -> None:
    """Raises InputError where the output is no folder that can be written, rather than at the first checkpoint."""
    try:
        folder = Path(job.output)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"output: '{job.output}' cannot be written ({error.strerror}); name another folder") from error


def check_steps(job: JobConfig, training: Manifest) -> None:
    """Raises InputError where batch normalisation would meet a step of one row."""
    size = job.train.batch_size
    if job.model.norm == "batch" and (size == 1 or training.rows % size == 1):
        raise InputError(
            f"train.batch_size: {training.rows:,} rows in steps of {size:,} leave a step of one row, which batch "
            "normalisation cannot train; use another batch_size, or model.norm=layer"
        )


def check_ranks(job: JobConfig) -> None:
    """Raises InputError where the job cannot run on the ranks that torchrun started, before they meet."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > job.data.lanes:
        raise InputError(f"data.lanes: {world} ranks share {job.data.lanes} lanes; set it to {world} or more")


def die_with_launcher() -> None:
    """Asks Linux to end this rank when the launcher is gone: killed alone, it would leave its ranks training."""
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def main(argv: list[str] | None = None) -> None:
    """One rank of the job."""
    die_with_launcher()
    job, training, evaluation = prepare(sys.argv[1:] if argv is None else argv)
    check_ranks(job)
    train(job, training, evaluation)


if __name__ == "__main__":
    from jobs.failure import reported

    with reported():
        main()
