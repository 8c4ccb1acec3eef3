"""Runs days of the DAG by Airflow's own engine, in its environment: python airflow_days.py DAY ...

Prints what came of each as JSON: {"errors": import errors, "runs": [{"day", "state", "tasks": {id: state}, "tries"}]}.
"""

import json
import sys
from datetime import UTC, datetime


def main(days: list[str]) -> dict:
    """The DAG as the engine's own bag loads it, run for each day."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.db import initdb

    initdb()
    bag = DagBag()
    runs = []
    for day in days:
        run = bag.dags["fulcrum_daily"].test(logical_date=datetime.fromisoformat(day).replace(tzinfo=UTC))
        tasks = {task.task_id: task for task in run.get_task_instances()}
        states = {name: str(task.state) for name, task in tasks.items()}
        tries = {name: task.try_number for name, task in tasks.items()}
        runs.append({"day": day, "state": str(run.state), "tasks": states, "tries": tries})
    dag = bag.dags["fulcrum_daily"]
    return {"errors": bag.import_errors, "serial": dag.max_active_runs, "catchup": dag.catchup, "runs": runs}


if __name__ == "__main__":
    said = main(sys.argv[1:])
    print("\n" + json.dumps(said))
