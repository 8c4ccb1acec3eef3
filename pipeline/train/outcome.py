"""How a tracked run ends, told whatever ends it."""

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.journal import Outcome
from pipeline.tracking import Tracking
from pipeline.train.stop import Stopped


@contextmanager
def told_end(tracking: Tracking | None) -> Iterator[None]:
    """Around all that is tracked: the run ends as it did."""
    outcome: Outcome = "failed"
    why = ""
    try:
        yield
        outcome = "finished"
    except Stopped as stopped:
        outcome, why = "stopped", str(stopped)
        raise
    except BaseException as error:
        why = f"{type(error).__name__}: {error}"
        raise
    finally:
        if tracking is not None:
            tracking.finish(outcome, why)
