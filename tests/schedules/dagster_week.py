"""A backfill by `dagster-daemon run`, in the environment of Dagster: python dagster_week.py DEFINITIONS FIRST LAST."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES
from dagster_days import asked, load

SECONDS = 1500
SETTINGS = "telemetry: {enabled: false}\nconcurrency: {pools: {default_limit: 1}}\n"


def main(file: str, first: str, last: str) -> dict[str, object]:
    """What became of it, and of its runs."""
    instance = asked(load(file), SETTINGS, first, last)
    home = Path(os.environ["DAGSTER_HOME"])
    with (home / "daemon.log").open("w") as log:
        program = Path(sys.executable).with_name("dagster-daemon")
        daemon = subprocess.Popen([str(program), "run", "-f", file], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + SECONDS
        while (now := instance.get_backfill("backfill")) and now.status not in BULK_ACTION_TERMINAL_STATUSES:
            assert time.monotonic() < deadline, (home / "daemon.log").read_text()[-4000:]
            assert daemon.poll() is None, (home / "daemon.log").read_text()[-4000:]
            time.sleep(2)
        runs = [run.dagster_run for run in instance.get_run_records()]
        states = sorted((run.tags.get("dagster/partition", ""), run.status.value) for run in runs)
        return {"backfill": now and now.status.value, "runs": states}
    finally:
        daemon.terminate()
        daemon.wait()


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
