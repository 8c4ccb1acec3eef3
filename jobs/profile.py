"""Say what is in a job's logs before any training: rates, funnels, ids, missing values, drift, leak suspects.

    ./launch.sh profile CONFIG.yaml [key=value ...]                         the training days, as tables
    ./launch.sh profile CONFIG.yaml --days 2026-01-01 2026-01-31            other days
    ./launch.sh profile CONFIG.yaml --html profile.html --json profile.json as a page, and for a program

Reads each row once. What training would refuse is counted and named, and ends nothing; a missing column or a broken
file ends it as it ends training. What each table means: docs/profile.md.
"""

import argparse
import datetime
import json
import os
import sys
from pathlib import Path
from typing import Any

from jobs.failure import reported
from jobs.vocabulary import Printer
from pipeline.data.files import plan
from pipeline.profile.drift import Rules
from pipeline.profile.page import page
from pipeline.profile.result import result
from pipeline.profile.scan import Scan
from pipeline.profile.tables import sections, text
from schemas.errors import InputError
from schemas.events import DayRange
from schemas.load import load_job

LEAST_MEMORY_MIB = 64


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(
        "./launch.sh profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = out.add_argument
    add("config", help="the job's YAML")
    add("overrides", nargs="*", metavar="key=value", help="settings that replace the YAML's")
    add("--days", nargs=2, metavar=("FROM", "TO"), help="days to read, both included; default: data.train")
    add("--html", metavar="FILE", help="write a page that stands alone")
    add("--json", metavar="FILE", help="write everything for a program")
    add("--unused", action="store_true", help="look at the files' other columns too")
    rules = Rules()
    leak = "AUC from which a column alone is a leak suspect (%(default)s)"
    add("--leak-auc", type=float, default=rules.leak_auc, metavar="X", help=leak)
    drift = "relative change of a label's rate from which a day is named (%(default)s)"
    add("--drift", type=float, default=rules.label_change, metavar="X", help=drift)
    memory = "for counts and tallies; beyond it distinct values are estimated (%(default)s MiB)"
    add("--memory", type=int, default=2048, metavar="MIB", help=memory)
    return out


def check(arguments: argparse.Namespace) -> None:
    """Raises InputError for options that make no sense."""
    if not 0.5 < arguments.leak_auc <= 1:
        raise InputError(f"--leak-auc: {arguments.leak_auc} is no AUC above 0.5; write 0.95")
    if not arguments.drift > 0:
        raise InputError(f"--drift: {arguments.drift} is no change; write 0.25 for a quarter")
    if arguments.memory < LEAST_MEMORY_MIB:
        raise InputError(f"--memory: {arguments.memory} MiB hold no counts; give {LEAST_MEMORY_MIB} or more")
    for option, path in (("--html", arguments.html), ("--json", arguments.json)):
        folder = Path(path).resolve().parent if path else Path()
        if not folder.is_dir() or (path and Path(path).is_dir()):
            raise InputError(f"{option}: '{path}' is no file in a folder that is there; name one")


def days_of(given: list[str] | None, default: DayRange) -> DayRange:
    """The days to read. Raises InputError."""
    if given is None:
        return default
    try:
        first, last = (datetime.date.fromisoformat(day) for day in given)
    except ValueError:
        raise InputError(f"--days: '{given[0]}' and '{given[1]}' must be dates; write 2026-01-31") from None
    if last < first:
        raise InputError(f"--days: {last} lies before {first}; swap them")
    return DayRange.model_validate({"from": first, "to": last})


def main(argv: list[str] | None = None) -> None:
    """Runs the command; raises InputError."""
    arguments = parser().parse_intermixed_args(sys.argv[1:] if argv is None else argv)
    check(arguments)
    job = load_job(arguments.config, arguments.overrides)
    days = days_of(arguments.days, job.data.train)
    scan = Scan(job, arguments.memory << 20)
    manifest = plan(job, days)
    scan.run(manifest, Printer(), arguments.unused)
    rules = Rules(leak_auc=arguments.leak_auc, label_change=arguments.drift)
    found = result(scan, job, days, manifest, rules)
    print(f"{found.rows:,} rows of {found.first} to {found.last}\n")
    print(text(sections(found)))
    if arguments.html:
        page(found).write(Path(arguments.html))
        print(f"\npage  {arguments.html}")
    if arguments.json:
        _write(Path(arguments.json), found.to_json())
        print(f"json  {arguments.json}")


def _write(path: Path, tree: dict[str, Any]) -> None:
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(draft, path)


if __name__ == "__main__":
    with reported():
        main()
