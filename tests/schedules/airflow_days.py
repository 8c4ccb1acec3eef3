"""Runs days of the DAG by Airflow's own engine, in its environment: python airflow_days.py [--kill FILE] DAY ...

The last line of JSON: {"errors", "scheduled", "runs": [{"day", "state", "tasks": {id: state}, "tries": {id: tries}}]}.
With --kill one day's task alone is run, and killed as soon as FILE is there: {"killed": its error}.
"""

import json
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def scheduled(dag: Any) -> list[list[str]]:
    """(logical date, start) of the first two runs that the scheduler makes."""
    from airflow.serialization.serialized_objects import DagSerialization

    dag = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    first, last = datetime(2026, 1, 8, tzinfo=UTC), datetime(2026, 1, 9, 12, tzinfo=UTC)
    infos = dag.iter_dagrun_infos_between(first, last)
    return [[info.logical_date.isoformat(), info.run_after.isoformat()] for info in infos]


def main(days: list[str]) -> dict[str, Any]:
    """The DAG as the engine's own bag loads it, run for each day."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.db import initdb

    initdb()
    bag = DagBag()
    dag = bag.dags["fulcrum_daily"]
    runs = []
    for day in days:
        run = dag.test(logical_date=datetime.fromisoformat(day).replace(tzinfo=UTC))
        tasks = {task.task_id: task for task in run.get_task_instances()}
        states = {name: str(task.state) for name, task in tasks.items()}
        tries = {name: task.try_number for name, task in tasks.items()}
        runs.append({"day": day, "state": str(run.state), "tasks": states, "tries": tries})
    settings = {"serial": dag.max_active_runs, "catchup": dag.catchup}
    settings["depends_on_past"] = {task.task_id: task.depends_on_past for task in dag.tasks}
    return {"errors": bag.import_errors, "settings": settings, "scheduled": scheduled(dag), "runs": runs}


def killed(file: Path, day: str) -> dict[str, Any]:
    """What the task says that a worker kills once the file is there."""
    from airflow.dag_processing.dagbag import DagBag

    task = DagBag().dags["fulcrum_daily"].get_task("retrain")
    task.bash_command = task.bash_command.replace("{{ ds }}", day)

    def kill() -> None:
        while not file.exists():
            time.sleep(0.05)
        task.on_kill()

    threading.Thread(target=kill, daemon=True).start()
    try:
        # without the guard that lets a task runner alone call it
        return {"killed": f"it returned {type(task).execute.__wrapped__(task, {})}"}
    except Exception as error:
        return {"killed": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    said = killed(Path(sys.argv[2]), sys.argv[3]) if sys.argv[1] == "--kill" else main(sys.argv[1:])
    print("\n" + json.dumps(said))
