"""The last week under a whole Airflow: `airflow standalone`, the DAG switched on, its days caught up with in order."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.schedules.commands import SCHEDULES
from tests.schedules.environments import python_of
from tests.schedules.home import Home

SECONDS = 1500
PORT = "18793"


def run(home: Home, days: list[str], missed: Sequence[str] = ()) -> list[str]:
    """Standalone until it has made and ended a run of each day, all of them missed; the states of its tasks."""
    folder = home.path / "airflow"
    env = home.engine(
        PATH=f"{python_of('airflow').parent}:{os.environ['PATH']}",
        AIRFLOW_HOME=str(folder),
        AIRFLOW__CORE__DAGS_FOLDER=str(SCHEDULES / "airflow"),
        AIRFLOW__CORE__LOAD_EXAMPLES="False",
        AIRFLOW__CORE__PARALLELISM="2",
        AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION="False",
        AIRFLOW__CORE__EXECUTION_API_SERVER_URL=f"http://localhost:{PORT}/execution/",
        AIRFLOW__API__PORT=PORT,
        AIRFLOW__API__WORKERS="1",
        FULCRUM_FIRST_DAY=days[0],
        FULCRUM_RETRY_SECONDS="5",
    )
    folder.mkdir()
    with (folder / "standalone.log").open("w") as log:
        whole = subprocess.Popen(["airflow", "standalone"], env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + SECONDS
        while len([run for run in runs(env, home.path) if run["state"] in ("success", "failed")]) < len(days):
            assert whole.poll() is None, (folder / "standalone.log").read_text()[-4000:]
            if time.monotonic() > deadline:
                print((folder / "standalone.log").read_text()[-4000:])
                break
            time.sleep(10)
        ended = runs(env, home.path)
        return [line for each in sorted(ended, key=lambda run: run["logical_date"]) for line in told(env, home, each)]
    finally:
        os.killpg(whole.pid, signal.SIGINT)
        try:
            whole.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(whole.pid, signal.SIGKILL)


def runs(env: dict[str, str], cwd: Path) -> list[dict[str, Any]]:
    """The DAG's runs, once it is there."""
    command = ["airflow", "dags", "list-runs", "fulcrum_daily", "--output", "json"]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    return json.loads(lines[-1]) if lines else []


def told(env: dict[str, str], home: Home, each: dict[str, Any]) -> list[str]:
    """A run and the states of its tasks."""
    command = ["airflow", "tasks", "states-for-dag-run", "fulcrum_daily", each["run_id"], "--output", "json"]
    done = subprocess.run(command, env=env, cwd=home.path, capture_output=True, text=True, timeout=120)
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    tasks = {task["task_id"]: task["state"] for task in json.loads(lines[-1])} if lines else {}
    return [f"{each['logical_date'][:10]}  {each['state']:8}  {tasks}"]
