"""How a job fails: one message, what to do next, and a stack trace only for faults of the program."""

import atexit
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from schemas.errors import InputError, redacted

TRACE = "FULCRUM_TRACE"
"""Set it to 1 to see the stack trace of an InputError as well."""
INPUT = "InputError: "
"""How a rank's record names a mistake of the user's."""


@contextmanager
def reported() -> Iterator[None]:
    """Prints an InputError as one message and exits with 2; under torchrun, leaves the word to the launcher.

    Of several ranks that fail together, only one failure is the cause; the launcher picks it from what each rank
    recorded. A failed rank leaves at once: its peers notice only after its record is written.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit:
        raise
    except BaseException as error:  # torch's CheckpointException is no Exception
        code = 2 if isinstance(error, InputError) else 1
        if "TORCHELASTIC_ERROR_FILE" not in os.environ:
            print(message(error), file=sys.stderr)
            sys.exit(code)
        if isinstance(error, InputError):  # its kinds are told alike: the record names the class
            error = InputError(str(error)).with_traceback(error.__traceback__)
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)
        _redact_record(os.environ["TORCHELASTIC_ERROR_FILE"])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def leave(job: Callable[[], None]) -> NoReturn:
    """Runs a rank's `job` as `reported` does and ends the process, with no interpreter torn down behind it.

    A thread of gloo's may hold the last tensors of a collective. Where it lets go of them while the interpreter is torn
    down, it asks for a lock that it is not given any more and takes the process with it: SIGABRT after a finished job.
    """
    code: Any = 0
    try:
        with reported():
            job()
    except SystemExit as left:
        code = left.code
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _redact_record(path: str) -> None:
    """The record stays on disk after the job, with the trace of every error behind the last."""
    record = Path(path)
    draft = record.with_name(f".{record.name}")
    with contextlib.suppress(OSError):  # a full disk: the launcher needs the record all the same
        draft.write_text(json.dumps(_redacted(json.loads(record.read_text()))))
        draft.rename(record)


def _redacted(record: Any) -> Any:
    if isinstance(record, dict):
        return {key: _redacted(value) for key, value in record.items()}
    return redacted(record) if isinstance(record, str) else record


def message(error: BaseException) -> str:
    """What a person reads of the error."""
    if isinstance(error, InputError) and os.environ.get(TRACE) != "1":
        return f"error: {error}"
    return redacted("".join(traceback.format_exception(error)))


def recorded_message(failure: Any) -> str:
    """What torchrun's ProcessFailure says: the rank's own record, or how it died where it left none."""
    died = f"local rank {failure.local_rank} (pid {failure.pid}) ended with exit code {failure.exitcode}"
    return _message(failure).removeprefix(INPUT) or died


def is_input_error(failure: Any) -> bool:
    """Whether a rank's failure is one that the user can mend."""
    return _message(failure).startswith(INPUT)


def callstack(failure: Any) -> str:
    """The stack trace that the rank recorded; empty for a rank that was killed."""
    return str(_recorded(failure).get("extraInfo", {}).get("py_callstack", ""))


def _message(failure: Any) -> str:
    return str(_recorded(failure).get("message") or "")


def _recorded(failure: Any) -> dict[str, Any]:
    message = failure.error_file_data.get("message") if failure.error_file_data else None
    return message if isinstance(message, dict) else {}
