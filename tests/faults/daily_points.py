"""Kills a daily job at a point of its steps: KILL_AT=STEP:before | STEP:inside:SECONDS | STEP:done | STEP:committed.

before     as the step begins        inside     so many seconds after that (or as it ends, if that is earlier)
done       its work done, not committed         committed  behind its commit
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any


def die() -> None:
    """kill -9 to this process."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def install() -> None:
    """Arms the point of this process's environment; nothing without one."""
    at = os.environ.get("KILL_AT", "")
    if not at:
        return
    from pipeline.daily import day
    from pipeline.daily.ledger import Ledger

    step, where, *seconds = at.split(":")
    act, commit = day.STEPS[step], Ledger.commit

    def stepped(work: Any) -> Any:
        if where == "before":
            die()
        if where == "inside":
            timer = threading.Timer(float(seconds[0]), die)
            timer.daemon = True
            timer.start()
        facts = act(work)
        if where in ("inside", "done"):
            die()
        return facts

    def committed(self: Ledger, name: str, facts: dict[str, Any], *more: Any, **named: Any) -> Any:
        out = commit(self, name, facts, *more, **named)
        if name == step and where == "committed":
            die()
        return out

    day.STEPS[step] = stepped
    if where == "committed":
        patched: Callable[..., Any] = committed
        Ledger.commit = patched  # type: ignore[method-assign]
