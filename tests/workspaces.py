"""A server of wandb's GraphQL that knows saved views, for the real client to talk to."""

import contextlib
import json
import re
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pipeline.keys import logged_keys, sometimes
from schemas.job import JobConfig


def untold_keys(job: JobConfig, shown: Sequence[str], told: set[str]) -> list[str]:
    """Keys of panels that a run did not tell.

    Of keys that are there only sometimes, one of a family is enough, as of another pair of tasks: a tiny network may
    leave a task without a gradient, whose cosines are undefined. Tables are wandb's alone.
    """
    declared, tasks = logged_keys(job), re.compile("|".join(task.name for task in job.tasks))
    families = {tasks.sub("*", key) for key in told} | {"memory/cuda_gb", "data/funnel_broken/*"}
    kept = [key for key in shown if key not in told and "wandb alone" not in declared[key]]
    return [key for key in kept if not sometimes(declared[key]) or tasks.sub("*", key) not in families]


class Views:
    """What was saved: (entity, project, name) -> the view."""

    def __init__(self) -> None:
        self.saved: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.mutations: list[dict[str, Any]] = []
        self.refuses = ""
        """Answered to a save instead of the view."""
        self.projects = {("team", "ranking")}

    def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """A GraphQL answer."""
        if "upsertView" in query:
            return self._save(given)
        if "allViews" in query:
            return self._find(given)
        assert "viewer" in query, query
        return {"data": {"viewer": {"id": "1", "entity": "team", "username": "someone", "name": "", "email": ""}}}

    def _save(self, given: dict[str, Any]) -> dict[str, Any]:
        if self.refuses:
            return {"data": {"upsertView": None}, "errors": [{"message": self.refuses, "path": ["upsertView"]}]}
        self.mutations.append(given)
        key = (given["entityName"], given["projectName"], given["name"])
        known = given.get("id")
        assert known is None or self.saved[key]["id"] == known
        view = {
            "id": known or f"view-{len(self.saved) + 1}",
            "displayName": given["displayName"],
            "spec": given["spec"],
        }
        self.saved[key] = view
        told = {"view": {"id": view["id"], "name": given["name"]}, "inserted": known is None}
        return {"data": {"upsertView": told}}

    def _find(self, given: dict[str, Any]) -> dict[str, Any]:
        entity, project = given["entityName"], given["name"]
        if (entity, project) not in self.projects:
            return {"data": {"project": None}}
        view = self.saved.get((entity, project, given["viewName"]))
        return {"data": {"project": {"allViews": {"edges": [{"node": view}] if view else []}}}}


@contextlib.contextmanager
def wandb_server(patch: pytest.MonkeyPatch) -> Iterator[Views]:
    """The server, at WANDB_BASE_URL, with a key for it."""
    views = Views()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            sent, body = self.rfile.read(int(self.headers["Content-Length"])), b""
            if self.path == "/graphql":  # and not the client's own statistics
                asked = json.loads(sent)
                body = json.dumps(views.answer(asked["query"], asked.get("variables") or {})).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    patch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    patch.setenv("WANDB_API_KEY", "0123456789abcdef" * 2 + "01234567")
    try:
        yield views
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
