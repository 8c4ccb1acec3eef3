"""Fulcrum's daily retraining as Dagster definitions (1.13): dagster dev -f fulcrum_daily.py

A partition a day, each behind the one before: the asset `ranker` is `./launch.sh daily`, its check `gate` the day's
verdict. A refused day is materialised and fails the check, which blocks what is downstream; the next day goes on.
"""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import fsspec
import yaml

HOME = Path(os.environ.get("FULCRUM_HOME", "/srv/fulcrum"))
CONFIG = os.environ.get("FULCRUM_CONFIG", "ranker.yaml")
FIRST_DAY = os.environ.get("FULCRUM_FIRST_DAY", "2026-01-08")
RETRY_SECONDS = float(os.environ.get("FULCRUM_RETRY_SECONDS", "900"))

DONE = {0, 3}
"""Promoted or done before, and refused by the gate: which of them, `gate` says."""
FINAL = {2, 4}
"""An input to mend, and a day that failed validation: another try would only repeat it."""

days = dg.DailyPartitionsDefinition(start_date=FIRST_DAY, timezone="UTC")
day_before = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)


def run(context: dg.AssetExecutionContext, day: str) -> int:
    """`launch.sh daily`, its lines in the log; a run that is terminated stops it with SIGTERM, and so with a commit."""
    command = ["./launch.sh", "daily", CONFIG, "--date", day]
    with subprocess.Popen(command, cwd=HOME, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            for line in process.stdout or ():
                context.log.info(line.rstrip())
            return process.wait()
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise


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


@dg.asset(
    partitions_def=days,
    deps=[dg.AssetDep("ranker", partition_mapping=day_before)],
    check_specs=[dg.AssetCheckSpec("gate", asset="ranker", blocking=True)],
    pool="fulcrum_daily",
)
def ranker(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult]:
    """The champion after the day: trained from the day before, promoted or refused."""
    day = context.partition_key
    code = run(context, day)
    if code in FINAL:
        raise dg.Failure(f"exit code {code}: see the last lines of the log", allow_retries=False)
    if code not in DONE:
        raise dg.RetryRequested(max_retries=24, seconds_to_wait=RETRY_SECONDS)
    said = verdict(day)
    told = {"day": day, "reasons": said["reasons"]}
    gate = dg.AssetCheckResult(check_name="gate", passed=said["blessed"], metadata=told)
    yield dg.MaterializeResult(metadata={"blessed": said["blessed"]}, check_results=[gate])


# each day's partition at 03:00 UTC of the day after
every_day = dg.build_schedule_from_partitioned_job(
    dg.define_asset_job("fulcrum_daily", selection=[ranker]), hour_of_day=3, minute_of_hour=0
)

defs = dg.Definitions(assets=[ranker], schedules=[every_day], executor=dg.in_process_executor)
