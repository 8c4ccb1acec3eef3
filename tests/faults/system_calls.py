"""Ends a process with SIGKILL just before one of its calls into the operating system.

    for point, status in deaths(act, prepare): ...     a fork a point, until one comes to its end

To be used in a process of its own without threads. What a call wrote is there or not; a call cut in half is what the
file system makes of it, and shows only in files that have no name yet.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

CHANGES = {
    "open", "link", "unlink", "remove", "rename", "replace", "mkdir", "rmdir", "fsync", "write", "flush", "truncate",
    "close", "utime", "__exit__",
}  # fmt: skip
"""Names of the calls that may change what is on disk, and of those that write out a buffer."""


def deaths(act: Callable[[], Any], prepare: Callable[[], None]) -> Iterator[int]:
    """After `prepare`, kills `act` before its first such call, then before its second, and so on; the point each time.

    The caller looks at what is left between two points. Ends when `act` came to its end, with no point told for it.
    """
    point = 0
    while True:
        point += 1
        prepare()
        child = os.fork()
        if child == 0:
            _doomed(act, point)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0, "the act failed of itself"
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield point


def _doomed(act: Callable[[], Any], point: int) -> None:
    left = point

    def watch(_frame: Any, event: str, call: Any) -> None:
        nonlocal left
        if event == "c_call" and call.__name__ in CHANGES and _of_the_system(call):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        sys.setprofile(watch)
        act()
        sys.setprofile(None)
        code = 0
    except BaseException:
        sys.setprofile(None)
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _of_the_system(call: Any) -> bool:
    owner = getattr(call, "__self__", None)
    return call.__module__ in ("posix", "_io") or type(owner).__module__ in ("posix", "_io")
