"""How a job fails: one message, what to do next, and a stack trace only for faults of the program."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import InputError

TRACE = "FULCRUM_TRACE"
"""Set it to 1 to see the stack trace of an InputError as well."""


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
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(error)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def message(error: BaseException) -> str:
    """What a person reads of the error."""
    if isinstance(error, InputError) and os.environ.get(TRACE) != "1":
        return f"error: {error}"
    return "".join(traceback.format_exception(error))
