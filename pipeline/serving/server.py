"""uvicorn around the service: one process, and a stop that loses nothing.

At SIGTERM or SIGINT /health turns to 503, so that a balancer sends no more, and every answer closes its connection, so
that who keeps one open sends the next request elsewhere. After `drain_seconds` no connection is accepted any more, and
every request that was is answered. A second signal, or a client that takes its time, ends the waiting.
"""

import asyncio
import socket
import threading
from typing import Any

import uvicorn

from schemas.errors import InputError

BACKLOG = 2048
LAST_SECONDS = 0.3
"""What was sent before the end of accepting is read within."""


class Closing:
    """The application, whose answers close their connections while it drains. ASGI."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.cut_off = 0
        """Requests on their way that the stop did not wait for."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request, or the lifespan."""
        begun = False

        async def closing(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                if self._app.state.draining:
                    message = message | {"headers": [*message.get("headers", []), (b"connection", b"close")]}
            await send(message)

        try:
            await self._app(scope, receive, closing)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            self.cut_off += 1
            if not begun:
                headers = [(b"content-type", b"application/json")]
                await closing({"type": "http.response.start", "status": 503, "headers": headers})
                await closing({"type": "http.response.body", "body": b'{"error":"the service has stopped"}'})


class DrainingServer(uvicorn.Server):
    """A server that tells of its stop before it stops, and whose process then ends by itself."""

    should_exit: bool

    def __init__(self, app: Any, drain_seconds: float, answer_seconds: int) -> None:
        self.closing = Closing(app)
        super().__init__(
            uvicorn.Config(self.closing, log_level="error", access_log=False, timeout_graceful_shutdown=answer_seconds)
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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Reads what was sent before, then takes nothing more on."""
        await asyncio.sleep(LAST_SECONDS / 3)  # connections that wait to be accepted
        for server in self.servers:
            server.close()
        await asyncio.sleep(LAST_SECONDS)  # an idle connection is closed below, whatever lies in it unread
        await super().shutdown(sockets)


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


def serve(app: Any, on: socket.socket, drain_seconds: float, answer_seconds: int) -> int:
    """Serves until a signal, then answers what was accepted, for `answer_seconds` at most; the requests it cut off."""
    server = DrainingServer(app, drain_seconds, answer_seconds)
    asyncio.run(server.serve([on]))
    return server.closing.cut_off
