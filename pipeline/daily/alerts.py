"""Telling people what became of a day: an alert of its wandb run, a webhook. Nothing here can stop the day.

The webhook's URL comes from the environment and is often a secret: it is never shown, nor what an error says of it.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, Literal

from pipeline.storage import Promise
from pipeline.tracking import Tracking
from schemas.daily import AlertsConfig
from schemas.events import StorageConfig

Kind = Literal["late_data", "failed_validation", "refused_gate", "failed_run", "late_files"]
LEVELS = {"late_files": "WARN", "refused_gate": "WARN"}
"""Of a wandb alert; ERROR for every other kind."""
SECONDS = 10
"""The longest that one way of telling may take."""


class Alerts:
    """The ways of telling that a job declares."""

    def __init__(self, config: AlertsConfig, job_name: str, tracking: Tracking | None) -> None:
        self._config, self._job, self._tracking = config, job_name, tracking

    def send(self, kind: Kind, day: str, title: str, text: str, facts: dict[str, Any]) -> list[str]:
        """Tells it every declared way; returns where it went, or why not. Never raises; at most SECONDS a way."""
        out = []
        if self._config.wandb:
            out.append(f"wandb: {_bounded(lambda: self._alert(kind, day, title, text))}")
        if self._config.webhook:
            out.append(f"webhook: {_bounded(lambda: self._post(kind, day, title, text, facts))}")
        return out

    def _alert(self, kind: Kind, day: str, title: str, text: str) -> str:
        if self._tracking is None:
            return "not sent: the day has no run"
        level = LEVELS.get(kind, "ERROR")
        return self._tracking.alert(f"{self._job} {day}: {title}", text, level)

    def _post(self, kind: Kind, day: str, title: str, text: str, facts: dict[str, Any]) -> str:
        variable = self._config.webhook or ""
        url = os.environ.get(variable, "").strip()
        if not url:
            return f"not sent: the environment variable {variable} is not set"
        if not url.startswith(("http://", "https://")):
            return f"not sent: the environment variable {variable} holds no URL of http or https"
        shown = f"{self._job} {day}: {title}\n{text}"  # what Slack and its like show
        body = {"kind": kind, "job": self._job, "day": str(day), "title": title, "text": shown, "facts": facts}
        request = urllib.request.Request(
            url, json.dumps(body, default=str).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.build_opener(_NoRedirects).open(request, timeout=SECONDS) as answer:
                return f"posted, HTTP {answer.status}"
        except urllib.error.HTTPError as error:
            error.close()
            return f"not sent: HTTP {error.code}"
        except urllib.error.URLError as error:
            return f"not sent: {_reason(error.reason)}"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A POST that is redirected would arrive as a GET, without its body."""

    def redirect_request(self, *_: Any) -> None:
        """Leaves the answer as it is: an error that tells its code."""


def _bounded(act: Callable[[], str]) -> str:
    try:
        return str(Promise(act).result(StorageConfig(timeout_seconds=SECONDS)))
    except Exception as error:  # whatever a way of telling may raise: the day goes on
        return f"not sent: {_reason(error)}"


def _reason(error: object) -> str:
    """What went wrong, in words that cannot hold the URL."""
    if isinstance(error, TimeoutError):
        return f"no answer in {SECONDS} s"
    if isinstance(error, OSError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return type(error).__name__
