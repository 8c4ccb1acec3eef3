"""Alerts against a real server on this machine, and in a real offline run; whatever fails, the day goes on."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.daily import alerts
from pipeline.daily.alerts import Alerts
from pipeline.tracking import Tracking
from schemas.daily import AlertsConfig
from tests.logs import small_job

WEBHOOK = AlertsConfig(wandb=False, webhook="DAILY_WEBHOOK")
SECRET = "T0PSECRETPATH"


class Server(ThreadingHTTPServer):
    """Remembers what it was sent, and answers as it is told to."""

    daemon_threads = True

    def __init__(self, status: int, hang: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.hang, self.got = status, hang, []
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{SECRET}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, self.headers["Content-Type"], json.loads(body)))
        if self.server.hang:
            self.server.ended.wait(self.server.hang)
            return
        self.send_response(self.server.status)
        if self.server.status == 302:
            self.send_header("Location", self.server.url)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.server.got.append("GET")

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server(*getattr(request, "param", (200,))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("DAILY_WEBHOOK", server.url)
        try:
            yield server
        finally:
            server.ended.set()
            server.shutdown()
            thread.join()


def send(config: AlertsConfig = WEBHOOK, tracking: Tracking | None = None, **facts: Any) -> list[str]:
    what = Alerts(config, "ranker", tracking)
    return what.send("failed_validation", "2026-01-08", "1 finding", "rows: half of them", facts)


def test_an_alert_is_posted_with_what_slack_shows(server: Server) -> None:
    assert send(rule="volume", path=Path("/log")) == ["webhook: posted, HTTP 200"]
    body = {
        "kind": "failed_validation",
        "job": "ranker",
        "day": "2026-01-08",
        "title": "1 finding",
        "text": "ranker 2026-01-08: 1 finding\nrows: half of them",
        "facts": {"rule": "volume", "path": "/log"},
    }
    assert server.got == [(f"/{SECRET}", "application/json", body)]


@pytest.mark.parametrize(
    ("server", "said"),
    [((500,), "HTTP 500"), ((404,), "HTTP 404"), ((302,), "HTTP 302"), ((200, 30.0), "no answer in 1 s")],
    indirect=["server"],
)
def test_a_server_that_fails_sends_elsewhere_or_hangs_is_told(
    server: Server, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alerts, "SECONDS", 1)
    assert send() == [f"webhook: not sent: {said}"]
    assert len(server.got) == 1  # and a redirect is not followed: it would be a GET without its body


def test_no_server_no_variable_no_url(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.shutdown()
    server.server_close()
    assert send() == ["webhook: not sent: Connection refused"]
    for url in (f"file:///{SECRET}", f"http://127.0.0.1:port/{SECRET}", f"http://[{SECRET}", f"http://h/{SECRET} \n x"):
        monkeypatch.setenv("DAILY_WEBHOOK", url)
        (said,) = send()
        assert said.startswith("webhook: not sent: ")
        assert SECRET not in said
    monkeypatch.setenv("DAILY_WEBHOOK", Path(__file__).as_uri())  # a file that is there is not opened either
    assert send() == ["webhook: not sent: the environment variable DAILY_WEBHOOK holds no URL of http or https"]
    monkeypatch.delenv("DAILY_WEBHOOK")
    assert send() == ["webhook: not sent: the environment variable DAILY_WEBHOOK is not set"]


def test_facts_that_are_no_json_end_nothing(server: Server) -> None:
    loop: dict[str, Any] = {}
    loop["itself"] = loop
    assert send(loop=loop) == ["webhook: not sent: ValueError"]
    assert server.got == []


def test_without_a_run_wandb_is_not_told(tmp_path: Path) -> None:
    assert send(AlertsConfig()) == ["wandb: not sent: the day has no run"]
    disabled = Tracking(small_job(tmp_path, tmp_path / "out"), "daily", {})
    assert send(AlertsConfig(), disabled) == ["wandb: not sent: there is no run"]
    assert send(AlertsConfig(wandb=False)) == []


class Run:
    """A wandb run that remembers its alerts, or fails."""

    url = "https://wandb.invalid/run"

    def __init__(self, fails: bool) -> None:
        self.fails, self.alerts = fails, []

    def alert(self, title: str, text: str, level: str, wait_duration: float) -> None:
        if self.fails:
            raise OSError("no space left on device")
        self.alerts.append((title, text, level))


def test_a_run_is_told_in_time_and_by_the_kinds_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracking = Tracking(small_job(tmp_path, tmp_path / "out"), "daily", {})
    run = Run(fails=False)
    monkeypatch.setattr(tracking, "_run", run)
    tracking.mode = "online"
    told = Alerts(AlertsConfig(), "ranker", tracking)
    for kind in ("late_data", "failed_validation", "refused_gate", "failed_run", "late_files"):
        assert told.send(kind, "2026-01-08", "t" * 80, "why", {}) == ["wandb: online run, https://wandb.invalid/run"]
    assert [level for *_, level in run.alerts] == ["ERROR", "ERROR", "WARN", "ERROR", "WARN"]
    assert all(len(title) < 64 for title, *_ in run.alerts)  # wandb's own limit
    monkeypatch.setattr(tracking, "_run", Run(fails=True))
    assert send(AlertsConfig(), tracking) == ["wandb: not sent: wandb failed"]
    assert send(AlertsConfig(), tracking) == ["wandb: not sent: there is no run"]


def test_an_offline_runs_record_holds_the_alert(tmp_path: Path) -> None:
    job = small_job(tmp_path, tmp_path / "out", {"tracking": {"mode": "offline"}})
    tracking = Tracking(job, "daily", {})
    assert send(AlertsConfig(), tracking) == [f"wandb: offline run, {tracking.folder}"]
    tracking.finish()
    wandb = shutil.which("wandb", path=str(Path(sys.executable).parent))
    assert wandb is not None
    read = subprocess.run(
        [wandb, "leet", "inspect", "--json"],
        env=os.environ | {"WANDB_DIR": str(tmp_path / "out")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    records = [json.loads(line) for line in read.stdout.splitlines()]
    found = [r for r in records if "alert" in json.dumps(r).lower() and "half of them" in json.dumps(r)]
    assert len(found) == 1
    assert "ranker 2026-01-08: 1 finding" in json.dumps(found[0])
