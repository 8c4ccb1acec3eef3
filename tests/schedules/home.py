"""A checkout as a schedule sees it: launch.sh, a configuration, an output; and a clock that a test sets."""

import json
import os
import shutil
import stat
import sys
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path

ROOT = Path(__file__).parents[2]
STAND_IN = f'#!/bin/sh\nexec "{sys.executable}" "{ROOT}/tests/schedules/standin.py" "$@"\n'
"""launch.sh of the tests of an engine's own behaviour."""
REAL = f"""#!/bin/sh
unset LD_PRELOAD FAKETIME FAKETIME_SHARED FAKETIME_DONT_RESET
job=$1; shift
warm=$(dirname "$0")/warm
[ ! -d "$warm" ] || export PYTHONPATH="$warm"
FULCRUM_VENV="{sys.prefix}" exec "{ROOT}/launch.sh" "$job" --nproc-per-node 1 "$@"
"""
"""launch.sh itself, in the environment of the tests, one rank, on the true clock: Home(folder, REAL, config) trains."""
SITE = """
import subprocess
import types

import torch.distributed.run
import torchrec
from pipeline.daily import process
from tests.distributed import warm

process.subprocess = types.SimpleNamespace(Popen=warm.Nested, DEVNULL=subprocess.DEVNULL)
"""
"""Imported by the daily job of a warm home as it starts: launchers and ranks are forked from the job."""
DATE = '#!/bin/sh\n[ "$1$2" = -u-d ] || exit 9\nexec /usr/bin/date -u -d "$NOW $3" "$4"\n'
"""GNU date at the moment NOW, as the schedules call it: in UTC, so long ago."""
CONFIG = "ranker.yaml"
FIRST = date(2026, 1, 8)


class Home:
    """A folder whose name has a space, as FULCRUM_HOME."""

    def __init__(self, folder: Path, launch: str = STAND_IN, config: Path | None = None) -> None:
        self.path = folder / "my clone"
        self.output = self.path / "runs" / "ranker"
        self.output.mkdir(parents=True)
        if config is None:
            (self.path / CONFIG).write_text("name: ranker\noutput: runs/ranker\n")
        else:
            shutil.copy(config, self.path / CONFIG)
        self.bin = folder / "bin"
        self.bin.mkdir()
        _program(self.path / "launch.sh", launch)
        _program(self.bin / "date", DATE)

    def plan(self, **tries: list[int | str]) -> None:
        """What the tries at a day of January come to: d09=[75, 3]."""
        self.plan_days({f"2026-01-{day[1:]}": codes for day, codes in tries.items()})

    def plan_days(self, tries: Mapping[str, list[int | str]]) -> None:
        """The same, by date."""
        (self.output / "plan.json").write_text(json.dumps(tries))

    def program(self, name: str, text: str) -> None:
        """A stand-in of a program, first on the PATH."""
        _program(self.bin / name, text)

    def environment(self, now: str = "", path: str = "/usr/bin:/bin") -> dict[str, str]:
        """Of a bare shell in which it is NOW."""
        own = {"HOME": str(self.path.parent), "PATH": f"{self.bin}:{path}", "NOW": now}
        return own | {"FULCRUM_HOME": str(self.path), "FULCRUM_CONFIG": CONFIG}

    def engine(self, **more: str) -> dict[str, str]:
        """Of an engine: this process's, without what belongs to it alone."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "AIRFLOW", "DAGSTER", "FULCRUM"))}
        own = {"FULCRUM_HOME": str(self.path), "FULCRUM_CONFIG": CONFIG, "FULCRUM_FIRST_DAY": str(FIRST)}
        return kept | own | {"FULCRUM_RETRY_SECONDS": "0"} | more

    def warm(self) -> "Home":
        """Makes REAL import the libraries once a day: its torchrun steps are forked. Returns itself."""
        (folder := self.path / "warm").mkdir()
        (folder / "sitecustomize.py").write_text(SITE)
        return self

    def starts(self) -> list[tuple[str, int, str]]:
        """Every start of the stand-in: day, exit code, what it was."""
        log = self.output / "starts.log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [(day, int(code), what) for day, code, what in (line.split(" ", 2) for line in lines)]

    def verdicts(self) -> dict[str, bool]:
        """Day -> whether it was promoted."""
        files = sorted(self.output.glob("days/*/verdict.json"))
        return {file.parent.name: json.loads(file.read_text())["blessed"] for file in files}


def _program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def days(count: int, first: date = FIRST) -> list[str]:
    """COUNT days from the first one."""
    return [str(first + timedelta(days=n)) for n in range(count)]


def after(day: str, clock: str = "03:00") -> str:
    """The moment of the day after, as date reads it."""
    return f"{date.fromisoformat(day) + timedelta(days=1)} {clock} UTC"
