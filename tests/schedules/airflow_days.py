"""Runs days of the DAG by Airflow's own engine, in its environment: python airflow_days.py DAY ...

The last line of JSON: {"errors", "scheduled", "runs": [{"day", "state", "tasks": {id: state}, "tries": {id: tries}}]}.
"""

import json
import sys
from datetime import UTC, datetime
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


if __name__ == "__main__":
    said = main(sys.argv[1:])
    print("\n" + json.dumps(said))
