"""Run a training job under torchrun: the job's arguments are checked first, and one failure is one message."""

import logging
import os
import sys
from typing import Any, NoReturn

from jobs.failure import TRACE, reported
from jobs.train import parser as train_parser
from jobs.train import prepare
from schemas.errors import InputError

INPUT = "InputError: "
"""How a rank's record names a mistake of the user's."""


def main(argv: list[str] | None = None) -> None:
    """`[TORCHRUN FLAGS] CONFIG [key=value ...]`."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[-1] in ("-h", "--help"):
        train_parser().parse_args(["--help"])
    config = next((i for i, word in enumerate(argv) if word.endswith((".yaml", ".yml"))), None)
    if config is not None:
        prepare(argv[config:])  # before torch is loaded: a mistake should be told at once
    from torch.distributed.run import get_args_parser

    parser = get_args_parser()
    setattr(parser, "error", _refuse)  # noqa: B010 - its usage is torchrun's, not this job's
    flags = parser.parse_args(argv)
    if config is None:
        prepare([flags.training_script, *flags.training_script_args])
    flags.training_script_args = [flags.training_script, *flags.training_script_args]
    flags.training_script, flags.module = "jobs.train", True
    _torchrun(flags)


def _refuse(said: str) -> NoReturn:
    raise InputError(f"no CONFIG.yaml, or a torchrun flag that it does not know ({said}); see ./launch.sh train --help")


def _torchrun(flags: Any) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous.api import RendezvousError
    from torch.distributed.run import run

    if os.environ.get(TRACE) != "1":
        logging.disable(logging.CRITICAL)  # torchrun's words on a failure repeat ours
    try:
        run(flags)
    except (ValueError, RendezvousError) as error:  # a flag's value, or a meeting point nobody can reach
        raise InputError(f"torchrun refuses its flags: {error}") from error
    except SignalException as error:
        print("stopped by a signal; the same command goes on from the newest checkpoint", file=sys.stderr)
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        # the cause, not what it brought down: a rank that lost its peer records a failure too
        failures = sorted(error.failures.values(), key=lambda f: (not _message(f).startswith(INPUT), f.timestamp))
        code, text = failures[0].exitcode, _message(failures[0])
        print(f"error: {text.removeprefix(INPUT)}", file=sys.stderr)
        if not text.startswith(INPUT) or os.environ.get(TRACE) == "1":
            print(_callstack(failures[0]), file=sys.stderr)
        sys.exit(code if code > 0 else 128 - code)


def _recorded(failure: Any) -> dict[str, Any]:
    """What the rank recorded before it died; empty for a rank that was killed."""
    message = failure.error_file_data.get("message") if failure.error_file_data else None
    return message if isinstance(message, dict) else {}


def _message(failure: Any) -> str:
    died = f"local rank {failure.local_rank} (pid {failure.pid}) ended with exit code {failure.exitcode}"
    return str(_recorded(failure).get("message") or died)


def _callstack(failure: Any) -> str:
    return str(_recorded(failure).get("extraInfo", {}).get("py_callstack", ""))


if __name__ == "__main__":
    with reported():
        main()
