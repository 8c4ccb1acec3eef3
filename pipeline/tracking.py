"""Weights & Biases, and the only file that knows it. Rank 0 alone logs; nothing here can stop the training.

One run an attempt, all attempts of a job in one group. Keys: `train/<task>/<metric>` and `eval/<task>/<metric>`
against `samples`, the rows trained so far.
"""

import netrc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlparse

from pipeline.metrics import Metrics, flatten
from schemas.errors import redacted
from schemas.job import JobConfig

Mode = Literal["online", "offline", "disabled"]
HOST = "https://api.wandb.ai"
START_SECONDS = 30
"""The longest the job waits for a server that does not answer, before it logs offline."""
TITLE_LENGTH = 63
"""Of an alert, at most."""
FINISH_SECONDS = 120
"""The longest it waits for the last uploads; what is missing lies on disk for `wandb sync`."""


class Tracking:
    """One wandb run, or the memory of one that failed: after its first error it is silent."""

    def __init__(self, job: JobConfig, job_type: str, config: dict[str, Any]) -> None:
        self._run: Any = None
        self.mode: Mode = _mode(job.tracking.mode)
        if self.mode != "disabled":
            self._guarded(lambda: self._start(job, job_type, config))

    @property
    def folder(self) -> Path | None:
        """Where the run's own record lies, for `wandb sync` or `wandb leet`; None without a run."""
        return Path(self._run.settings.sync_dir) if self._run is not None else None

    @property
    def url(self) -> str | None:
        """The run's page, for an online run."""
        return self._run.url if self._run is not None and self.mode == "online" else None

    def metrics(self, split: str, samples: int, metrics: Metrics, more: dict[str, float]) -> None:
        """Logs each task's metrics under `split` (train or eval), and `more` under its own keys."""
        values = {f"{split}/{key}": value for key, value in flatten(metrics).items()}
        self._guarded(lambda: self._run.log(values | more | {"samples": samples}))

    def values(self, samples: int, values: dict[str, float]) -> None:
        """Logs numbers that are no task's, under their own keys."""
        self._guarded(lambda: self._run.log(values | {"samples": samples}))

    def alert(self, title: str, text: str, level: str) -> str:
        """An alert of the run; `level` is INFO, WARN or ERROR. Returns where it went, or why not.

        Offline it lies in the run's record until that is uploaded.
        """
        if self.mode == "disabled":
            return "not sent: there is no run"
        mode = self.mode
        self._guarded(lambda: self._run.alert(title[:TITLE_LENGTH], text, level=level, wait_duration=1))
        return "not sent: wandb failed" if self.mode != mode else f"{mode} run, {self.url or self.folder}"

    def finish(self, failed: bool = False) -> None:
        """Ends the run; its record is whole on disk afterwards."""
        self._guarded(lambda: self._run.finish(exit_code=1 if failed else 0))

    def _start(self, job: JobConfig, job_type: str, config: dict[str, Any]) -> None:
        import wandb  # here: half a second of start-up that only the rank that logs pays

        folder = Path(job.local_folder)
        folder.mkdir(parents=True, exist_ok=True)
        arguments: dict[str, Any] = {
            "project": job.tracking.project,
            "entity": job.tracking.entity,
            "group": job.tracking.group or job.name,
            "job_type": job_type,
            "name": f"{job.name}-{job_type}",
            "dir": str(folder),
            "config": config | {"git": git_revision()},
        }
        settings = wandb.Settings(
            console="off",
            silent=True,
            login_timeout=START_SECONDS,  # a terminal would be asked for a key, and the other ranks would wait
            init_timeout=START_SECONDS,
            finish_timeout=FINISH_SECONDS,
        )
        try:
            self._run = wandb.init(**arguments, mode=self.mode, settings=settings)
        except wandb.errors.CommError:
            _say("wandb cannot be reached; logging offline")
            self.mode = "offline"
            self._run = wandb.init(**arguments, mode=self.mode, settings=settings)
        self._run.define_metric("samples")
        self._run.define_metric("*", step_metric="samples")

    def _guarded(self, act: Callable[[], Any]) -> None:
        if self.mode == "disabled":
            return
        try:
            act()
        except Exception as error:  # anything wandb may raise: training goes on without it
            self.mode = "disabled"
            _say(f"wandb failed and is left out from here on: {error}")


def git_revision() -> str | None:
    """The code's git commit, with `-dirty` where it has local changes; None outside a checkout."""
    here = Path(__file__).parent
    try:
        git = ["git", "-C", str(here)]
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("-dirty" if status.stdout.strip() else "")


def _mode(asked: Literal["auto", "online", "offline", "disabled"]) -> Mode:
    """auto: what WANDB_MODE says, else online where a key is configured, else offline."""
    if asked != "auto":
        return asked
    for mode in get_args(Mode):
        if os.environ.get("WANDB_MODE") == mode:
            return mode
    return "online" if os.environ.get("WANDB_API_KEY") or _netrc_key() else "offline"


def _netrc_key() -> bool:
    try:
        host = urlparse(os.environ.get("WANDB_BASE_URL", HOST)).hostname or ""
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _say(text: str) -> None:
    print(redacted(text), file=sys.stderr, flush=True)
