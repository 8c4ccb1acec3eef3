"""Runs days of the definitions by Dagster's own engine, in its environment.

    python dagster_days.py days DEFINITIONS DAY ...             each materialised in this process
    python dagster_days.py backfill DEFINITIONS FIRST LAST      by the daemon's iterations, in the order that they pick

The last line of JSON: {"runs": [{"day", "state", "gate": passed or null, "reasons", "tries"}], "scheduled", "parents"},
or {"backfill": what became of it}.
"""

import importlib.util
import json
import logging
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, PartitionBackfill
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.backfill import execute_backfill_iteration

ITERATIONS = 60
SETTINGS = """
telemetry: {enabled: false}
run_coordinator: {module: dagster.core.run_coordinator, class: DefaultRunCoordinator}
run_launcher: {module: dagster._core.launcher.sync_in_memory_run_launcher, class: SyncInMemoryRunLauncher}
"""


def load(file: str) -> Any:
    """The definitions as a module."""
    spec = importlib.util.spec_from_file_location("fulcrum_daily", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dg.Definitions.validate_loadable(module.defs)
    return module


def scheduled(module: Any) -> list[str]:
    """The partition that the schedule asks for at 03:00 of 2026-01-09."""
    moment = datetime(2026, 1, 9, 3, tzinfo=UTC)
    repository = module.defs.get_repository_def()
    context = dg.build_schedule_context(scheduled_execution_time=moment, repository_def=repository)
    schedule = repository.get_schedule_def("fulcrum_daily_schedule")
    tick = schedule.evaluate_tick(context)
    return [str(schedule.cron_schedule), *(str(request.partition_key) for request in tick.run_requests or [])]


def parents(module: Any, day: str) -> list[str]:
    """The partitions that must be there before the day's."""
    found = module.defs.resolve_asset_graph().get_parents_partitions(module.ranker.key, day).parent_partitions
    return sorted(str(parent.partition_key) for parent in found)


def run_days(module: Any, days: list[str]) -> list[dict[str, Any]]:
    """Each day materialised, one after the other."""
    told = []
    with dg.DagsterInstance.local_temp() as instance:
        for day in days:
            run = dg.materialize([module.ranker], partition_key=day, instance=instance, raise_on_error=False)
            tries = 1 + sum(event.is_step_up_for_retry for event in run.all_events)
            told.append(said(day, run.success, tries, run.get_asset_check_evaluations()))
    return told


def said(day: str, success: bool, tries: int, checks: Any) -> dict[str, Any]:
    """A run in words."""
    gate = checks[-1] if checks else None
    reasons = gate.metadata["reasons"].value if gate else []
    state = "success" if success else "failed"
    return {"day": day, "state": state, "gate": gate and gate.passed, "reasons": reasons, "tries": tries}


def asked(module: Any, settings: str, first: str, last: str) -> dg.DagsterInstance:
    """An instance in DAGSTER_HOME with `backfill`, as the web page's form asks for it."""
    home = Path(os.environ["DAGSTER_HOME"])
    home.mkdir(parents=True)
    (home / "dagster.yaml").write_text(settings)
    instance = dg.DagsterInstance.get()
    keys = module.days.get_partition_keys_in_range(dg.PartitionKeyRange(first, last))
    backfill = PartitionBackfill.from_asset_partitions(
        backfill_id="backfill",
        asset_graph=module.defs.resolve_asset_graph(),
        partition_names=list(keys),
        asset_selection=[dg.AssetKey("ranker")],
        backfill_timestamp=time.time(),
        tags={},
        dynamic_partitions_store=instance,
        all_partitions=False,
        title=None,
        description=None,
        run_config=None,
    )
    instance.add_backfill(backfill)
    return instance


def backfilled(module: Any, file: str, first: str, last: str) -> str:
    """What became of a backfill, iterated as the daemon does it, but its runs in this process and without pauses."""
    instance = asked(module, SETTINGS, first, last)
    target = PythonFileTarget(file, attribute=None, working_directory=None, location_name="fulcrum")
    with WorkspaceProcessContext(instance, target) as workspace:
        for _ in range(ITERATIONS):
            errors = [error for error in execute_backfill_iteration(workspace, logging.getLogger("backfill")) if error]
            assert not errors, errors
            now = instance.get_backfill("backfill")
            if now is not None and now.status in BULK_ACTION_TERMINAL_STATUSES:
                return now.status.value
    raise AssertionError("the backfill has not ended")


if __name__ == "__main__":
    how, file, *days = sys.argv[1:]
    module = load(file)
    if how == "days":
        answer: dict[str, Any] = {"scheduled": scheduled(module), "parents": parents(module, days[-1])}
        answer["runs"] = run_days(module, days)
    else:
        answer = {"backfill": backfilled(module, file, *days)}
    print(json.dumps(answer))
