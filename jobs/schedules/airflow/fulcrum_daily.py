"""Fulcrum's daily retraining as an Airflow DAG (3.3): copy into the DAGs' folder.

A run a day, one at a time and in order: `retrain` is `./launch.sh daily` on the worker's machine, `gate` reads the
day's verdict. A refused day fails in `gate` alone, where it shows, and the next day goes on; a day that failed
validation or was not trained stops the days behind it, until it is cleared or marked as done by hand.
"""

import json
import os
from datetime import datetime, timedelta
from pathlib import Path

import fsspec
import yaml
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Context, CronDataIntervalTimetable, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException

HOME = Path(os.environ.get("FULCRUM_HOME", "/srv/fulcrum"))
CONFIG = os.environ.get("FULCRUM_CONFIG", "ranker.yaml")
FIRST_DAY = datetime.fromisoformat(os.environ.get("FULCRUM_FIRST_DAY", "2026-01-08") + "T00:00:00+00:00")
RETRY_SECONDS = float(os.environ.get("FULCRUM_RETRY_SECONDS", "900"))

DONE = {0, 3}
"""Promoted or done before, and refused by the gate: which of them, `gate` says."""
FINAL = {2, 4}
"""An input to mend, and a day that failed validation: another try would only repeat it."""


class Daily(BashOperator):
    """`launch.sh daily`, whose exit codes say whether another try helps; SIGTERM reaches it when the task is killed."""

    def execute(self, context: Context) -> int:
        """Runs it to its end; its exit code."""
        command, env = ["bash", "-c", self.bash_command], self.get_env(context)
        code = self.subprocess_hook.run_command(command=command, env=env, cwd=self.cwd).exit_code
        if code in FINAL:
            raise AirflowFailException(f"exit code {code}: see the last lines above")
        if code not in DONE:
            raise AirflowException(f"exit code {code}: the same command goes on")
        return code


def verdict(day: str) -> dict:
    """What the gate said of the day, of its last attempt where it was begun anew (days/DAY.2)."""
    output = str(yaml.safe_load((HOME / CONFIG).read_text())["output"])
    # s3:// with s3fs
    fs, root = fsspec.url_to_fs(f"{output if '://' in output else HOME / output}/days")
    names = [name.rstrip("/").rsplit("/", 1)[-1] for name in fs.ls(root, detail=False)]
    judged = [name for name in names if name.split(".")[0] == day and fs.exists(f"{root}/{name}/verdict.json")]
    last = max(judged, key=lambda name: int(name.partition(".")[2] or 1))
    with fs.open(f"{root}/{last}/verdict.json", "r") as file:
        return json.load(file)


with DAG(
    "fulcrum_daily",
    description="Train a day from yesterday's champion, promote or refuse",
    # the run of 2026-01-08 (its logical date) starts at 03:00 UTC of the 9th
    schedule=CronDataIntervalTimetable("0 3 * * *", timezone="UTC"),
    start_date=FIRST_DAY,
    catchup=True,  # days missed while Airflow was off are trained, in order
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=20),
    tags=["fulcrum"],
):
    retrain = Daily(
        task_id="retrain",
        bash_command=f"exec ./launch.sh daily {CONFIG} --date {{{{ ds }}}}",
        cwd=str(HOME),
        depends_on_past=True,  # a day is trained from the day before
        retries=24,
        retry_delay=timedelta(seconds=RETRY_SECONDS),
        execution_timeout=timedelta(hours=20),
    )

    @task(retries=2, retry_delay=timedelta(seconds=RETRY_SECONDS))
    def gate(day: str) -> None:
        """Fails where the day's challenger was refused, with the reasons."""
        said = verdict(day)
        if not said["blessed"]:
            raise AirflowFailException(f"{day} was refused: " + "; ".join(said["reasons"]))

    retrain >> gate("{{ ds }}")
