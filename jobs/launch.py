"""Run a job on ranks under torchrun: arguments checked first, one message a failure, a commit on a signal."""

import argparse
import contextlib
import dataclasses
import functools
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, Protocol

from jobs import evaluate, fuse, predict, score, train
from jobs.failure import TRACE, callstack, is_input_error, recorded_message, reported
from jobs.interrupts import Interrupted, Interrupts
from jobs.train import hand_over
from pipeline.journal import newest
from pipeline.train.stop import HANDOVER, LAUNCHER, STOPPED, marks
from schemas.errors import InputError, redacted
from schemas.job import JobConfig


class Prepared(Protocol):
    """What the launcher has found out for its ranks."""

    def to_bytes(self) -> bytes:
        """As it is handed over."""


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A job that runs on ranks."""

    module: str
    """What every rank runs."""
    parser: Callable[[], argparse.ArgumentParser]
    prepare: Callable[[list[str]], tuple[JobConfig, Prepared | None]]
    """The checked job of CONFIG [key=value ...], and what its ranks are handed; None where there is nothing to do."""


RANKED = {
    "train": Ranked("jobs.train", train.parser, train.prepare),
    "score": Ranked("jobs.score", score.parser, score.prepare),
    "evaluate": Ranked("jobs.evaluate", evaluate.parser, evaluate.prepare),
    "fuse": Ranked("jobs.fuse", fuse.parser, fuse.prepare),
    "predict": Ranked("jobs.predict", predict.parser, predict.prepare),
}


def main(argv: list[str] | None = None) -> None:
    """`[JOB] [TORCHRUN FLAGS] CONFIG [key=value ...]`, a job of RANKED; train where none is said."""
    words = sys.argv[1:] if argv is None else argv
    name, words = (words[0], words[1:]) if words and words[0] in RANKED else ("train", words)
    interrupts = Interrupts()
    interrupts.install()
    try:
        _launch(RANKED[name], words, interrupts)
    except Interrupted as interrupted:
        when = "while no rank was running" if interrupts.started else "before the ranks started"
        _stopped(f"stopped by {interrupted.name} {when}, nothing to commit; the same command goes on")


def _launch(job: Ranked, argv: list[str], interrupts: Interrupts) -> None:
    if not argv or argv[-1] in ("-h", "--help"):
        job.parser().parse_args(["--help"])
    config = next((i for i, word in enumerate(argv) if word.endswith((".yaml", ".yml"))), None)
    prepared = None
    if config is not None:
        prepared = job.prepare(argv[config:])  # before torch is loaded: a mistake should be told at once
    from torch.distributed.run import get_args_parser

    parser = get_args_parser()
    refuse = functools.partial(_refuse, job.parser().prog)
    setattr(parser, "error", refuse)  # noqa: B010 - its usage is torchrun's, not this job's
    flags = parser.parse_args(argv)
    if prepared is None:
        prepared = job.prepare([flags.training_script, *flags.training_script_args])
    if prepared[1] is None:
        return
    hand_over(prepared[1].to_bytes())
    flags.training_script_args = [flags.training_script, *flags.training_script_args]
    flags.training_script, flags.module = job.module, True
    if flags.max_restarts and flags.rdzv_backend == "static" and (flags.rdzv_endpoint or flags.master_port):
        raise InputError(
            "--max-restarts: the static rendezvous hands restarted ranks the addresses of those that are gone; "
            "use --rdzv-backend c10d --rdzv-endpoint HOST:PORT"
        )
    # a store for each start of the ranks: torch 2.13 keeps the first, with the addresses of ranks that are gone
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    # the others stay torchrun's: they end the ranks without a commit
    flags.signals_to_handle = ",".join({"SIGHUP", "SIGQUIT"} & set(flags.signals_to_handle.split(",")))
    with tempfile.TemporaryDirectory(prefix="fulcrum-") as folder:
        os.environ[HANDOVER], os.environ[LAUNCHER] = folder, str(os.getpid())
        with _reported_run(prepared[0], interrupts):
            _torchrun(flags, interrupts, Path(folder), prepared[0].train.stop_seconds)


@contextlib.contextmanager
def _reported_run(job: JobConfig, interrupts: Interrupts) -> Iterator[None]:
    """Around the ranks of a job: whatever becomes of them, a run that was recorded meanwhile is reported."""
    before = newest(Path(job.local_folder))
    try:
        yield
    finally:
        if job.tracking.report and newest(Path(job.local_folder)) != before:
            interrupts.at_once = False  # the ranks are gone, and how they ended is told
            from pipeline.run_report.written import report_run

            report_run(job)


def _refuse(command: str, said: str) -> NoReturn:
    raise InputError(f"no CONFIG.yaml, or a torchrun flag that it does not know ({said}); see {command} --help")


def _torchrun(flags: Any, interrupts: Interrupts, folder: Path, stop_seconds: int) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import api as rendezvous
    from torch.distributed.launcher import api
    from torch.distributed.run import run

    from jobs.agent import Agent
    from jobs.ports import store_port

    if os.environ.get(TRACE) != "1":
        logging.disable(logging.CRITICAL)  # torchrun's words on a failure repeat ours
    # the one agent that torchrun makes, by the name it makes it under: it has no other door
    made = functools.partial(Agent, interrupts=interrupts, folder=folder, stop_seconds=stop_seconds)
    setattr(api, "LocalElasticAgent", made)  # noqa: B010
    # where torchrun asks the system for a port, which that may give to others before the ranks are there
    setattr(rendezvous, "get_free_port", store_port)  # noqa: B010
    try:
        run(flags)
    except rendezvous.RendezvousClosedError:
        _failed("another node has ended this job while this one was to join it; that node's own message says why", 1)
    except (ValueError, rendezvous.RendezvousError) as error:  # a flag's value, or a meeting point nobody can reach
        if interrupts.stopping:  # a node that had ended took it along
            if not marks(folder):
                lost = "not committed: the nodes lost each other"
                _stopped(f"stopped by {interrupts.stopping}, {lost}; the same command goes on")
        elif interrupts.started:
            _failed(f"the meeting point of the nodes is lost ({error}); the same command goes on", 1)
        else:
            raise InputError(f"torchrun refuses its flags: {error}") from error
    except SignalException as error:
        print("stopped by a signal; the same command goes on from the newest checkpoint", file=sys.stderr)
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        _report(error.failures.values(), interrupts, folder)
    if left := marks(folder):
        _stopped(left[0]["line"], any(mark["said"] for mark in left))


def _report(failures: Any, interrupts: Interrupts, folder: Path) -> NoReturn:
    """Ends the launcher with the cause of the failures."""
    # the cause, not what it brought down: a rank that lost its peer records a failure too
    ordered = sorted(failures, key=lambda f: (not is_input_error(f), f.timestamp))
    first = ordered[0]
    if interrupts.stopping and not is_input_error(first):
        left = marks(folder)
        if left:  # ranks have left a step that others were in
            _stopped(left[0]["line"], any(mark["said"] for mark in left))
        if interrupts.late or all(f.exitcode < 0 for f in ordered):
            late = (
                "they took longer than train.stop_seconds and were killed" if interrupts.late else "they ended at once"
            )
            _stopped(f"stopped by {interrupts.stopping}, not committed: {late}; the same command goes on")
    print(f"error: {redacted(recorded_message(first))}", file=sys.stderr)
    if not is_input_error(first) or os.environ.get(TRACE) == "1":
        print(redacted(callstack(first)), file=sys.stderr)
    sys.exit(first.exitcode if first.exitcode > 0 else 128 - first.exitcode)


def _stopped(line: str, said: bool = False) -> NoReturn:
    """Ends the launcher as one whose job goes on with the same command."""
    if not said:
        print(line, file=sys.stderr)
    sys.exit(STOPPED)


def _failed(line: str, code: int) -> NoReturn:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    with reported():
        main()
