"""A small daily job in a folder, run day by day by its real command, its torchrun steps forked warm."""

import dataclasses
import datetime
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.daily.ledger import Ledger
from pipeline.daily.place import latest
from pipeline.registry import Registry
from tests.distributed import warm
from tests.distributed.command import SECONDS, environment
from tests.logs import set_key, small_config, write_config, write_log

DAYS = [str(datetime.date(2026, 1, 1) + datetime.timedelta(n)) for n in range(6)]
ROWS = 600
SITE = """
import subprocess
import types

from pipeline.daily import process
from tests.distributed import warm

process.subprocess = types.SimpleNamespace(Popen=warm.Nested, DEVNULL=subprocess.DEVNULL)
from tests.faults import daily_points
daily_points.install()
"""
"""Imported by each process of the job as it starts: what it starts is forked, and dies where KILL_AT says."""


@dataclasses.dataclass
class Daily:
    """Its folder: log/, job.yaml, root/."""

    folder: Path
    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def made(cls, folder: Path, days: list[str] = DAYS[:3], **settings: Any) -> "Daily":
        """With a log of these days; settings are dotted keys, with __ for dots."""
        folder.mkdir(parents=True, exist_ok=True)
        write_log(folder / "log", days, ROWS)
        config: dict[str, Any] = small_config("log", "root", days[:1])
        config["data"].pop("eval", None)
        config["data"] |= {"holdout": {"share": 0.6}}
        config["train"] |= {"batch_size": 64, "log_every": 1000, "checkpoint_every": 5}
        config["daily"] = {"checks": {"min_days": 3}, "gate": {"resamples": 100}}
        for key, value in settings.items():
            set_key(config, key.replace("__", "."), value)
        write_config(folder / "job.yaml", config)
        (folder / "warm").mkdir()
        (folder / "warm" / "sitecustomize.py").write_text(SITE)
        return cls(folder)

    def copy(self, folder: Path) -> "Daily":
        """As it stands: all paths in it are relative."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Daily(folder, dict(self.environment))

    def start(self, *words: str, kill_at: str = "", flags: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
        """The command, started."""
        env = environment() | self.environment | {"KILL_AT": kill_at}
        env["PYTHONPATH"] += f":{self.folder / 'warm'}"
        command = [sys.executable, "-u", "-m", "jobs.daily", "--nproc-per-node", "1", *flags, "job.yaml", *words]
        return warm.Popen(
            command,
            env=env,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, kill_at: str = "", flags: tuple[str, ...] = ()) -> tuple[int, str]:
        """Its exit code and what it printed."""
        process = self.start(*words, kill_at=kill_at, flags=flags)
        printed, _ = process.communicate(timeout=SECONDS)
        return process.returncode, printed

    def day(self, day: str, *words: str) -> str:
        """A day that must be promoted."""
        code, printed = self.run("--date", day, *words)
        assert code == 0, printed
        return printed

    @property
    def root(self) -> str:
        return str(self.folder / "root")

    @property
    def registry(self) -> Registry:
        return Registry(self.root)

    def done(self, day: str) -> dict[str, dict[str, Any]]:
        """The ledger of the day's latest attempt."""
        date = datetime.date.fromisoformat(day)
        return Ledger(self.root, date, latest(self.root, date).attempt).done()

    def checkpoint(self, name: str) -> Path:
        """The weights of a model."""
        return self.folder / self.registry.model(name).checkpoint

    def champion(self) -> str | None:
        """Its name."""
        model = self.registry.champion()
        return None if model is None else model.name

    def files(self) -> list[str]:
        """Every file below the root."""
        return sorted(os.path.relpath(path, self.root) for path in Path(self.root).rglob("*") if path.is_file())

    def verdict(self, day: str) -> dict[str, Any]:
        return json.loads((Path(self.root) / "days" / day / "verdict.json").read_text())
