"""The launcher's SIGTERM and SIGINT: the first asks for an orderly stop, the second ends everything at once."""

import os
import signal
from collections.abc import Callable
from typing import Any


class Interrupted(BaseException):
    """A signal came while no rank was running, so that nothing is to be committed."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Interrupts:
    """What the launcher has been told, and how far it has come."""

    def __init__(self) -> None:
        self.number = 0
        """The signal that came, 0 for none."""
        self.at_once = True
        """Whether the first signal ends the launcher: no rank runs."""
        self.started = False
        """Whether ranks were ever started."""
        self.stopping = ""
        """Why the ranks are being stopped, empty while they are not."""
        self.late = False
        """Whether ranks were killed because they took longer than train.stop_seconds."""
        self.ranks: Callable[[], list[int]] = list
        """Process ids of the running ranks."""

    def install(self) -> None:
        """Takes over both signals."""
        signal.signal(signal.SIGTERM, self._received)
        signal.signal(signal.SIGINT, self._received)

    def _received(self, number: int, frame: Any) -> None:
        if self.number:
            for pid in self.ranks():
                os.kill(pid, signal.SIGKILL)
            os.write(
                2, b"ended by a second signal, not committed; the same command goes on from the newest checkpoint\n"
            )
            os._exit(128 + number)
        self.number = number
        if self.at_once:
            raise Interrupted(signal.Signals(number).name)
