"""uvicorn around the service: one process, and a stop that loses nothing.

At SIGTERM or SIGINT /health turns to 503, so that a balancer sends no more; after `drain_seconds` no connection is
accepted any more, and every request that was is answered. A second signal ends the waiting.
"""

import asyncio
import socket
import threading
from typing import Any

import uvicorn

from schemas.errors import InputError

ANSWER_SECONDS = 30
"""The longest that a stop waits for requests on their way."""
BACKLOG = 2048


class DrainingServer(uvicorn.Server):
    """A server that tells of its stop before it stops, and whose process then ends by itself."""

    should_exit: bool

    def __init__(self, app: Any, drain_seconds: float) -> None:
        super().__init__(
            uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=ANSWER_SECONDS)
        )
        self._app, self._drain_seconds = app, drain_seconds
        self.should_exit: bool = False

    def handle_exit(self, sig: int, frame: Any) -> None:
        """The first signal begins the stop, the second ends its waiting. uvicorn's own would raise it again."""
        if self._app.state.draining:
            self.force_exit = self.should_exit
            self.should_exit = True
            return
        self._app.state.draining = True
        timer = threading.Timer(self._drain_seconds, self._stop)
        timer.daemon = True
        timer.start()

    def _stop(self) -> None:
        self.should_exit = True


def listening(host: str, port: int) -> socket.socket:
    """A socket on which connections wait from now on. Raises InputError where the address is not to be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # with its protocol: asyncio sets TCP_NODELAY on none that does not name it, and every answer would wait 40 ms
        out = socket.socket(found[0], found[1], socket.IPPROTO_TCP)
        out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            out.bind(found[4])
            out.listen(BACKLOG)
        except OSError:
            out.close()
            raise
    except OSError as error:
        raise InputError(f"--host {host} --port {port}: cannot be listened on ({error.strerror or error})") from error
    return out


def serve(app: Any, on: socket.socket, drain_seconds: float) -> None:
    """Serves until a signal, and returns once every request that was accepted is answered."""
    asyncio.run(DrainingServer(app, drain_seconds).serve([on]))
