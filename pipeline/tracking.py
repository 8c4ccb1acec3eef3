"""What a run tells: to its own record first (pipeline/journal.py), then to Weights & Biases, known to this file alone.

One run an attempt, all attempts of a job in one group. Keys: `train/<task>/<metric>` and `eval/<task>/<metric>`
against `samples`, the rows trained so far. Rank 0 alone tells; nothing here can stop the training.
"""

import hashlib
import netrc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlparse

from pipeline import keys
from pipeline.journal import Journal, Outcome
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

RECORD_ERRORS = (OSError, ValueError, TypeError)
"""A full disk, or a value that is not plain: training goes on without a record."""


class Tracking:
    """One attempt's record and its wandb run. After its first error either is silent, and the other goes on."""

    def __init__(self, job: JobConfig, job_type: str, config: dict[str, Any], samples: int = 0) -> None:
        """`samples` rows were trained before this attempt."""
        self._run: Any = None
        self._journal: Journal | None = None
        self._name = job.name
        config = config | {"git": git_revision()}
        try:
            self._journal = Journal(Path(job.local_folder), job.name, job_type, samples, config)
        except RECORD_ERRORS as error:
            _say_unrecorded(error)
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
        self.values(samples, {f"{split}/{key}": value for key, value in flatten(metrics).items()} | more)

    def values(self, samples: int, values: dict[str, float]) -> None:
        """Logs numbers under their own keys."""
        self._recorded(lambda journal: journal.values(samples, values))
        self._guarded(lambda: self._run.log(values | {"samples": samples}))

    def curves(self, split: str, samples: int, curves: dict[str, Any]) -> None:
        """Logs calibration curves and score histograms, of `Metrics.curves`."""
        self._recorded(lambda journal: journal.curves(samples, split, curves))
        self._guarded(lambda: self._run.log(_tables(split, curves) | {"samples": samples}))

    def artifacts(self, model: dict[str, Any], address: str, files: dict[str, Any]) -> None:
        """Logs where the model lies and what it was trained on, by reference; nothing is ever found by them."""
        self._guarded(lambda: self._log_artifacts(model, address, files))

    def alert(self, title: str, text: str, level: str) -> str:
        """An alert of the run; `level` is INFO, WARN or ERROR. Returns where it went, or why not.

        Offline it lies in wandb's files until they are uploaded.
        """
        self._recorded(lambda journal: journal.alert(title, text, level))
        if self.mode == "disabled":
            return "not sent: there is no run"
        mode = self.mode
        self._guarded(lambda: self._run.alert(title[:TITLE_LENGTH], text, level=level, wait_duration=1))
        return "not sent: wandb failed" if self.mode != mode else f"{mode} run, {self.url or self.folder}"

    def finish(self, outcome: Outcome = "finished", why: str = "") -> None:
        """Ends the run; its record is whole on disk afterwards. `why` is what a person needs to know of a bad end."""
        self._recorded(lambda journal: journal.end(outcome, why))
        # wandb's own state knows no refusal and no reason: these stand in the table of runs
        self._guarded(lambda: self._run.summary.update({"outcome": outcome, "why": redacted(why).strip()}))
        self._guarded(lambda: self._run.finish(exit_code=int(outcome in ("failed", "stopped"))))

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
            "config": config,
            "tags": [job.model.arch],
        }
        if self.mode == "online" and (launch := os.environ.get("TORCHELASTIC_RUN_ID", "none")) != "none":
            # the ranks that torchrun starts again within one attempt go on with its run; offline a second run of one
            # id would replace the first when it is uploaded
            told = f"{job.output} {job_type} {launch}"
            arguments |= {"id": hashlib.sha256(told.encode()).hexdigest()[:16], "resume": "allow"}
        settings = wandb.Settings(
            console="off",
            x_disable_stats=not job.tracking.system,
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

    def _log_artifacts(self, model: dict[str, Any], address: str, files: dict[str, Any]) -> None:
        import wandb

        for kind, told in (("dataset", files), ("model", model)):
            artifact = wandb.Artifact(f"{self._name}-{kind}", kind, metadata=told)
            if kind == "model":
                remote = address if "://" in address else Path(address).resolve().as_uri()
                artifact.add_reference(remote, "checkpoint", checksum=False)
            self._run.log_artifact(artifact)

    def _recorded(self, act: Callable[[Journal], None]) -> None:
        if self._journal is None:
            return
        try:
            act(self._journal)
        except RECORD_ERRORS as error:
            self._journal = None
            _say_unrecorded(error)

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


def _tables(split: str, curves: dict[str, Any]) -> dict[str, Any]:
    """wandb's tables of curves, and a line plot of each calibration."""
    import wandb

    out: dict[str, Any] = {}
    for name, of in curves.items():
        key, line = keys.curve(split, name, "calibration"), of["calibration"]
        rows = [list(row) for row in zip(line["predicted"], line["observed"], line["rows"], strict=True)]
        out[key] = wandb.Table(columns=["predicted", "observed", "rows"], data=rows)
        table = wandb.Table(columns=["predicted", "observed", "rows"], data=rows)
        out[f"{key}_plot"] = wandb.plot.line(table, "predicted", "observed", title=f"calibration of {name}")
        if "scores" in of:
            scores = of["scores"]
            parts = (scores["edges"][:-1], scores["positives"], scores["negatives"])
            bins = [list(row) for row in zip(*parts, strict=True)]
            columns = ["score from", "positives", "negatives"]
            out[keys.curve(split, name, "scores")] = wandb.Table(columns=columns, data=bins)
    return out


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


def _say_unrecorded(error: Exception) -> None:
    _say(f"the run's own record cannot be written and is left out from here on: {error}")


def _say(text: str) -> None:
    print(redacted(text), file=sys.stderr, flush=True)
