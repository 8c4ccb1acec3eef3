"""Train a model on an event log, resume it, evaluate it.

    ./launch.sh train [TORCHRUN FLAGS] CONFIG.yaml [key=value ...]

TORCHRUN FLAGS are torchrun's own, such as --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:PORT --nproc-per-node 8.
Overrides take dotted keys: train.batch_size=4096, tasks.cart.weight=2. The same command again goes on from the newest
committed checkpoint.
"""

import argparse
import atexit
import contextlib
import ctypes
import json
import os
import secrets
import signal
import sys
import tempfile
from pathlib import Path

from pipeline.data.freeze import STORED, Plan, plan_from_bytes, plan_job
from pipeline.data.holdout import evaluation_part
from pipeline.data.manifest import Manifest
from pipeline.data.vocabulary_lookup import fingerprints
from pipeline.storage import filesystem, reason
from pipeline.train.checkpoint_store import CheckpointStore
from pipeline.train.stop import LAUNCHER, Stop, Stopped
from pipeline.train.warm_start import check_warm_start
from schemas.errors import InputError
from schemas.events import TRUTH_FILE
from schemas.job import JobConfig
from schemas.load import load_job

PLAN = "FULCRUM_PLAN"
"""Names the file in which the launcher hands its plan to the ranks it starts."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        prog="./launch.sh train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out.add_argument("config", help="the job's YAML")
    out.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the YAML's")
    return out


def load(argv: list[str], parser: argparse.ArgumentParser) -> JobConfig:
    """The checked job of a command line. No torch; raises InputError."""
    arguments = parser.parse_args(argv)
    return load_job(arguments.config, arguments.overrides)


def prepare(argv: list[str]) -> tuple[JobConfig, Plan]:
    """The checked job and what it reads. No torch; raises InputError."""
    job = load(argv, parser())
    check_warm_start(job, fingerprints(job))  # reads and checks the vocabularies too

    def check(training: Manifest) -> None:
        check_steps(job, training)
        check_output(job)

    return job, plan_job(job, stored_manifest(job), check)


def stored_manifest(job: JobConfig) -> bytes | None:
    """The training manifest that the newest committed checkpoint holds; None where there is none."""
    commit = CheckpointStore(f"{job.output}/checkpoints").newest()
    return commit.read(STORED) if commit is not None and STORED in commit.files else None


def hand_over(plan: bytes) -> None:
    """Leaves a plan to the ranks that this process will start, for as long as it lives."""
    file, name = tempfile.mkstemp(prefix="fulcrum-plan-")
    with open(file, "wb") as out:
        out.write(plan)
    os.environ[PLAN] = name
    atexit.register(_remove, name)


def handed_over() -> bytes | None:
    """The launcher's plan; None where no launcher planned, or it runs on another machine."""
    name = os.environ.get(PLAN)
    if name is None or not os.path.exists(name):
        return None
    with open(name, "rb") as file:
        return file.read()


def _remove(name: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(name)


def first_ranks_plan(job: JobConfig) -> Plan:
    """The launcher's plan, unless the newest checkpoint holds another manifest; a new one where no launcher planned.

    After an elastic restart the first rank may run where the launcher planned at another time.
    """
    stored, planned = stored_manifest(job), handed_over()
    if planned is not None:
        plan = plan_from_bytes(planned, job)
        if stored is None or stored == plan.training.manifest.to_bytes():
            return plan
    return plan_job(job, stored)


def attainable_aucs(job: JobConfig) -> dict[str, float]:
    """Best attainable AUC by row of the closing table, where the log declares its truth and one day is evaluated.

    Only for a task that asks what the truth answers: the 0/1 label of its own name, given a click where it is no click,
    on all such rows.
    """
    if job.data.eval is None or job.data.eval.first != job.data.eval.last or evaluation_part(job.data) == "held":
        return {}
    fs, root = filesystem(job.data.path, job.data.storage)
    if not fs.exists(f"{root}/{TRUTH_FILE}"):
        return {}
    day = json.loads(fs.cat_file(f"{root}/{TRUTH_FILE}"))["days"].get(str(job.data.eval.first), {})
    labels = {task.name: task.source for task in job.tasks}
    found = {}
    for task in job.tasks:
        given = None if task.given is None else labels[task.given]
        narrowed = any(other.indicator for other in (task, *(t for t in job.tasks if t.name == task.given)))
        if task.kind == "regression" or narrowed:
            continue
        if task.source in day and given == (None if task.source == "click" else "click"):
            found[task.name] = day[task.source]["auc"]
            if task.source in day["joint"]:
                found[f"{task.name} (joint)"] = day["joint"][task.source]["auc"]
    return found


def train(job: JobConfig, plan: Plan | None, stop: Stop) -> None:
    """Trains and evaluates the job on the ranks torchrun started; the first rank's plan is every rank's."""
    # here and not above: a mistake in the configuration must not cost the seconds these take
    from pipeline.train.dist import process_group, quiet_libraries

    quiet_libraries()  # before TorchRec is imported: it warns as it loads
    from pipeline.train.agreement import first_ranks
    from pipeline.train.run import run_job

    with process_group(job.train.timeout_seconds, stop) as ranks:
        plan = plan_from_bytes(first_ranks(None if plan is None else plan.to_bytes()), job)
        run_job(job, plan.training, plan.evaluation, ranks, attainable_aucs(job))


def check_output(job: JobConfig) -> None:
    """Raises InputError where the output cannot be written, rather than at the first checkpoint."""
    _check_folder("tracking.folder" if job.local_folder != job.output else "output", job.local_folder)
    if "://" not in job.output:
        return _check_folder("output", job.output)
    fs, root = filesystem(job.output)
    probe = f"{root}/.probe-{secrets.token_hex(8)}"
    try:
        fs.pipe_file(probe, b"")
        fs.rm_file(probe)
    except Exception as error:  # each driver has exceptions of its own
        raise InputError(f"output: '{job.output}' cannot be written ({reason(error)}); name another one") from error


def _check_folder(key: str, name: str) -> None:
    try:
        Path(name).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=name):
            pass
    except OSError as error:
        raise InputError(f"{key}: '{name}' cannot be written ({error.strerror}); name another folder") from error


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
        lanes = job.data.lanes
        raise InputError(
            f"data.lanes: {world} ranks share {lanes} lanes; start at most {lanes}, or set it to {world} or more in a "
            "new output"
        )


def die_with_launcher() -> None:
    """Asks Linux to end this rank when the launcher is gone: killed alone, it would leave its ranks training."""
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        # PR_SET_PDEATHSIG; not SIGTERM, by which all ranks would commit and stop: the other nodes are to go on
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.environ.get(LAUNCHER, str(os.getppid())) != str(os.getppid()):
            os._exit(128 + signal.SIGKILL)  # it was gone before we asked


def main(argv: list[str] | None = None) -> None:
    """One rank of the job."""
    stop = Stop()
    stop.install()
    die_with_launcher()
    job = load(sys.argv[1:] if argv is None else argv, parser())
    check_ranks(job)
    plan = None
    if int(os.environ.get("RANK", 0)) == 0:
        plan = first_ranks_plan(job)
        check_steps(job, plan.training.manifest)
        check_output(job)
    try:
        train(job, plan, stop)
    except Stopped as stopped:
        sys.exit(stop.farewell(stopped))


if __name__ == "__main__":
    from jobs.failure import leave

    leave(main)
