"""Train a model on an event log, resume it, evaluate it.

    ./launch.sh train [TORCHRUN FLAGS] CONFIG.yaml [key=value ...]

TORCHRUN FLAGS are torchrun's own, such as --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:PORT --nproc-per-node 8.
Overrides take dotted keys: train.batch_size=4096, tasks.cart.weight=2. The same command again goes on from the newest
committed checkpoint.
"""

import argparse
import json
from pathlib import Path
from typing import Any

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
    return job, plan(job, job.data.train), plan(job, job.data.eval) if job.data.eval else None


def attainable_aucs(job: JobConfig) -> dict[str, float]:
    """Best attainable AUC by row of the closing table, where the log declares its truth and one day is evaluated."""
    if job.data.eval is None or job.data.eval.first != job.data.eval.last:
        return {}
    fs, root = filesystem(job.data.path)
    if not fs.exists(f"{root}/{TRUTH_FILE}"):
        return {}
    day = json.loads(fs.cat_file(f"{root}/{TRUTH_FILE}"))["days"].get(str(job.data.eval.first), {})
    joint = {f"{task} (joint)": values["auc"] for task, values in day.get("joint", {}).items()}
    return {task: values["auc"] for task, values in day.items() if task != "joint"} | joint


def train(job: JobConfig, training: Manifest, evaluation: Manifest | None) -> None:
    """Trains and evaluates the job on the ranks torchrun started."""
    # here and not above: a mistake in the configuration must not cost the seconds these take
    from pipeline.train.dist import process_group, quiet_libraries

    quiet_libraries()  # before TorchRec is imported: it warns as it loads
    from pipeline.train.run import run_job

    with process_group(job.train.timeout_seconds) as ranks:
        run_job(job, training, evaluation, ranks, attainable_aucs(job))


def check_output(job: JobConfig) -> None:
    """Raises InputError where the output cannot be a folder of ours."""
    output: Any = Path(job.output)
    if output.exists() and not output.is_dir():
        raise InputError(f"output: '{job.output}' is a file; name a folder")


def main(argv: list[str] | None = None) -> None:
    """One rank of the job."""
    import sys

    job, training, evaluation = prepare(sys.argv[1:] if argv is None else argv)
    check_output(job)
    train(job, training, evaluation)


if __name__ == "__main__":
    from jobs.failure import reported

    with reported():
        main()
